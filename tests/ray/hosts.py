"""Several hosts on this machine: a network namespace and a /tmp/ray each, one link between them. Needs root.

A raylet here sees its own logs only, as on real machines; a host can vanish without a word: its link goes down first.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType

from tests.daemons import until
from tests.ray.cluster import kill_family

MARK = "RAYWATCH_TEST_HOST"
HOST_MARK = "RAYWATCH_TEST_HOST_NAME"
GCS, DASHBOARD = 6379, 8265
_PYTHON = sys.executable
_RAY = str(Path(_PYTHON).with_name("ray"))
_ASK = """
import sys, urllib.error, urllib.request
data = sys.stdin.buffer.read() or None
request = urllib.request.Request(sys.argv[1], data, {"Content-Type": "application/json"})
opener = urllib.request.build_opener(urllib.request.ProxyHandler({}))
try:
    sys.stdout.buffer.write(opener.open(request, timeout=30).read())
except urllib.error.HTTPError as error:
    sys.exit(f"HTTP {error.code}: {error.read(2000)}")
"""


def _run(*argv: str) -> None:
    done = subprocess.run(argv, capture_output=True, text=True, check=False)
    if done.returncode:
        raise AssertionError(
            f"{' '.join(argv)}: {done.stderr.strip()} (this test needs root and iproute2)"
        )


@dataclass(slots=True)
class Host:
    """One host: the process that holds its namespaces, its address and the processes on it."""

    name: str
    ip: str
    holder: subprocess.Popen[bytes]
    temp_dir: Path
    started: list[subprocess.Popen[bytes]] = field(default_factory=list)

    def inside(self, *argv: str) -> list[str]:
        """The command line that runs another one on this host."""
        return ["nsenter", f"--target={self.holder.pid}", "--net", "--mount", "--", *argv]


@dataclass(slots=True)
class Hosts:
    """Hosts around the first one, which has the GCS and the dashboard; a context manager that leaves nothing."""

    folder: Path
    environ: Mapping[str, str] = field(default_factory=dict)
    hosts: list[Host] = field(default_factory=list)

    @property
    def head(self) -> Host:
        """The host with the GCS and the dashboard."""
        return self.hosts[0]

    @property
    def dashboard(self) -> str:
        """As it is reached on the head itself."""
        return f"http://127.0.0.1:{DASHBOARD}"

    def add(self, *, num_cpus: int) -> Host:
        """Bring up a host with a raylet; return when Ray knows it."""
        number = len(self.hosts)
        temp_dir = self.folder / f"h{number}"
        temp_dir.mkdir(parents=True)
        host = Host(f"h{number}", f"10.77.0.{number + 1}", self._holder(temp_dir), temp_dir)
        self.hosts.append(host)
        self._link(host, number)
        flags = ["--head", f"--port={GCS}", "--dashboard-host=0.0.0.0"]
        if number:
            flags = [f"--address={self.head.ip}:{GCS}"]
        flags += [f"--num-cpus={num_cpus}", f"--node-ip-address={host.ip}"]
        flags += ["--object-store-memory=80000000", "--disable-usage-stats", "--block"]
        self.start(host, [_RAY, "start", *flags], f"{host.name}.out")
        until(lambda: host.ip in self.alive(), 120, f"{host.name} is up", pause_s=0.5)
        return host

    def start(self, host: Host, argv: list[str], log: str) -> subprocess.Popen[bytes]:
        """Start a process on a host; its output goes to a file of the folder."""
        marks = {MARK: str(self.folder), HOST_MARK: f"{self.folder}/{host.name}"}
        environ = {**os.environ, "RAY_AUTH_MODE": "disabled", **self.environ, **marks}
        with (self.folder / log).open("ab") as out:
            process = subprocess.Popen(
                host.inside(*argv), env=environ, stdin=subprocess.DEVNULL, stdout=out, stderr=out
            )
        host.started.append(process)
        return process

    def ask(self, url: str, body: object = None, *, on: Host | None = None) -> bytes:
        """Call a URL on the head, or on another host. Raises OSError where nothing answers or it says no."""
        data = b"" if body is None else json.dumps(body).encode()
        argv = (on or self.head).inside(_PYTHON, "-c", _ASK, url)
        done = subprocess.run(argv, input=data, capture_output=True, check=False)
        if done.returncode:
            raise OSError(done.stderr.decode()[-500:])
        return done.stdout

    def alive(self) -> dict[str, str]:
        """Address -> id of the nodes that Ray takes for alive."""
        try:
            body = json.loads(self.ask(f"{self.dashboard}/api/v0/nodes"))
        except OSError:
            return {}
        rows = body["data"]["result"]["result"]
        return {r["node_ip"]: r["node_id"] for r in rows if r["state"] == "ALIVE"}

    def vanish(self, host: Host) -> None:
        """Take a host away as if its power had gone: nobody gets a word from it."""
        _run(
            "nsenter",
            f"--target={self.head.holder.pid}",
            "--net",
            "--",
            "ip",
            "link",
            "set",
            host.name,
            "down",
        )
        kill_family(HOST_MARK, f"{self.folder}/{host.name}")
        for process in host.started:
            process.wait(20)

    def close(self) -> None:
        """End every process of every host; namespaces go with their last process."""
        kill_family(MARK, str(self.folder), self.folder)
        for host in self.hosts:
            for process in (*host.started, host.holder):
                process.send_signal(signal.SIGKILL)
                process.wait(20)

    def __enter__(self) -> Hosts:  # noqa: PYI034 - typing.Self is 3.11
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def _holder(self, temp_dir: Path) -> subprocess.Popen[bytes]:
        """Hold the namespaces of a host: its network, and its own folder as /tmp/ray."""
        Path("/tmp/ray").mkdir(exist_ok=True)
        script = f"mount --bind {temp_dir} /tmp/ray && ip link set lo up && echo up && exec sleep infinity"
        holder = subprocess.Popen(
            ["unshare", "--net", "--mount", "--propagation=private", "sh", "-c", script],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
        )
        assert holder.stdout is not None
        with holder.stdout:
            assert holder.stdout.readline() == b"up\n", "no namespaces: this test needs root"
        return holder

    def _link(self, host: Host, number: int) -> None:
        """A bridge on the head is the switch; each other host has a link to it."""
        head = ("nsenter", f"--target={self.head.holder.pid}", "--net", "--", "ip")
        if not number:
            _run(*head, "link", "add", "br0", "type", "bridge")
            _run(*head, "addr", "add", f"{host.ip}/24", "dev", "br0")
            _run(*head, "link", "set", "br0", "up")
            return
        here = ("nsenter", f"--target={host.holder.pid}", "--net", "--", "ip")
        peer = ("peer", "name", "eth0", "netns", str(host.holder.pid))
        _run(*head, "link", "add", host.name, "type", "veth", *peer)
        _run(*head, "link", "set", host.name, "master", "br0", "up")
        _run(*here, "addr", "add", f"{host.ip}/24", "dev", "eth0")
        _run(*here, "link", "set", "eth0", "up")
