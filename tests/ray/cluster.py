"""A real Ray cluster on this machine, for tests: own folder, own ports, several raylets, ended by pid.

Every process inherits two marks in its environment, and only what carries them or descends from it is ever touched.
"""

from __future__ import annotations

import contextlib
import json
import os
import shutil
import signal
import socket
import subprocess
import sys
import urllib.request
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NamedTuple

from tests.daemons import until

CLUSTER_MARK, NODE_MARK = "RAYWATCH_TEST_CLUSTER", "RAYWATCH_TEST_NODE"
START_S = 90.0
_RAY = str(Path(sys.executable).with_name("ray"))
_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback, never a proxy


def free_ports(count: int) -> list[int]:
    """Ports that nobody has, all different."""
    with contextlib.ExitStack() as open_ones:
        probes = [open_ones.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("127.0.0.1", 0))
        return [int(p.getsockname()[1]) for p in probes]


def metric_ports() -> dict[str, str]:
    """Ports that every head has alike unless it is told; taken by another's, they are a failure in its logs."""
    names = ("AUTOSCALER_METRIC_PORT", "DASHBOARD_METRIC_PORT")
    return dict(zip(names, map(str, free_ports(len(names))), strict=True))


class Process(NamedTuple):
    """A process that cannot be mistaken for a later one with its pid."""

    pid: int
    born: int
    parent: int


def _processes() -> list[Process]:
    """All processes that run; zombies do not."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit():
            with contextlib.suppress(OSError):
                state, parent, *rest = (entry / "stat").read_text().rpartition(")")[2].split()
                if state != "Z":
                    found.append(Process(int(entry.name), int(rest[17]), int(parent)))
    return found


def family(mark: str, value: str, folder: Path | None = None) -> set[Process]:
    """Processes with a mark in their environment, all that descend from them, all with an open file in `folder`.

    Workers and agents overwrite their environment with a title ("ray::IDLE"): there only descent or files tell.
    """
    running = _processes()
    word = f"{mark}={value}\0".encode()
    me = os.getpid()
    ours = {
        p
        for p in running
        # What a test itself started may read the folder, as a daemon does: it is the test's to end.
        if p.pid != me and _belongs(p.pid, word, None if p.parent == me else folder)
    }
    while True:
        pids = {p.pid for p in ours}
        more = {p for p in running if p.parent in pids} - ours
        if not more:
            return ours
        ours |= more


def _belongs(pid: int, word: bytes, folder: Path | None) -> bool:
    entry = Path(f"/proc/{pid}")
    with contextlib.suppress(OSError):
        if word in (entry / "environ").read_bytes() + b"\0":
            return True
        if folder is not None:
            links = [entry / "cwd", *(entry / "fd").iterdir()]
            return any(_target(x).startswith(f"{folder}/") for x in links)
    return False


def _target(link: Path) -> str:
    with contextlib.suppress(OSError):
        return str(link.readlink())
    return ""


def kill_family(mark: str, value: str, folder: Path | None = None) -> None:
    """SIGKILL a family until none is left: first stopped, so that nobody starts another meanwhile."""
    known: set[Process] = set()

    def none_left() -> bool:
        for number in (signal.SIGSTOP, signal.SIGKILL):
            known.update(family(mark, value, folder))
            for process in still(known):
                with contextlib.suppress(ProcessLookupError):
                    os.kill(process.pid, number)
        return not still(known)

    until(none_left, 20, f"the processes of {value} are gone")


def still(known: set[Process]) -> set[Process]:
    """Those of `known` that still run, also where their parent is another by now."""
    running = {(p.pid, p.born) for p in _processes()}
    return {p for p in known if (p.pid, p.born) in running}


@dataclass(frozen=True, slots=True)
class Node:
    """A raylet with what belongs to it."""

    name: str
    node_id: str
    starter: subprocess.Popen[bytes]


@dataclass(slots=True)
class Cluster:
    """A running cluster; a context manager that leaves nothing behind."""

    temp_dir: Path
    address: str
    dashboard: str
    environ: Mapping[str, str]
    nodes: list[Node] = field(default_factory=list)
    ray: str = _RAY
    client: str = ""  # the address of Ray's client server

    @property
    def head(self) -> Node:
        """The node with the GCS and the dashboard."""
        return self.nodes[0]

    @property
    def session(self) -> Path:
        """The session's folder; all nodes of this machine share it."""
        return (self.temp_dir / "session_latest").resolve()

    def add_node(
        self,
        *,
        num_cpus: int = 1,
        resources: Mapping[str, float] | None = None,
        inside: Sequence[str] = (),
    ) -> Node:
        """Start one more raylet, `inside` of what another command line makes, and wait until the cluster sees it."""
        argv = [f"--address={self.address}", f"--resources={json.dumps(dict(resources or {}))}"]
        return self._start(argv, num_cpus, inside)

    def kill_node(self, node: Node) -> None:
        """SIGKILL the raylet and every process of a node at once, as if the machine had gone."""
        kill_family(NODE_MARK, self._mark(node.name))
        node.starter.wait(20)
        self.nodes.remove(node)

    def ask(self, path: str, body: object = None, *, method: str = "") -> object:
        """Call the dashboard; return the JSON. Raises OSError where it is not there or says no."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        if token := self.environ.get("RAY_AUTH_TOKEN"):
            headers["Authorization"] = f"Bearer {token}"
        request = urllib.request.Request(
            self.dashboard + path, data, headers, method=method or ("POST" if data else "GET")
        )
        with _DIRECT.open(request, timeout=30) as answer:
            text = answer.read()
        return json.loads(text) if text else None

    def job(self, submission_id: str) -> dict[str, object]:
        """A job as the API shows it."""
        found = self.ask(f"/api/jobs/{submission_id}")
        assert isinstance(found, dict)
        return found

    def job_log(self, submission_id: str) -> str:
        """What a job printed."""
        found = self.ask(f"/api/jobs/{submission_id}/logs")
        assert isinstance(found, dict)
        return str(found["logs"])

    def node_ids(self) -> dict[str, str]:
        """Name -> id of the nodes that live."""
        try:
            body = self.ask("/api/v0/nodes")
        except OSError:
            return {}
        assert isinstance(body, dict)
        rows = body["data"]["result"]["result"]
        return {r["node_name"]: r["node_id"] for r in rows if r["state"] == "ALIVE"}

    def stop(self) -> None:
        """End every process of the cluster by pid and remove its folder."""
        kill_family(CLUSTER_MARK, str(self.temp_dir), self.temp_dir)
        for node in self.nodes:
            node.starter.wait(20)
        shutil.rmtree(self.temp_dir, ignore_errors=True)

    def __enter__(self) -> Cluster:  # noqa: PYI034 - typing.Self is 3.11
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.stop()

    def _mark(self, name: str) -> str:
        return f"{self.temp_dir}/{name}"

    def _start(self, argv: list[str], num_cpus: int, inside: Sequence[str] = ()) -> Node:
        name = f"node{len(list(self.temp_dir.glob('*.out')))}"
        agent, grpc, metrics = free_ports(3)
        argv = [
            *(
                *inside,
                self.ray,
                "start",
                "--block",
                "--disable-usage-stats",
                "--node-ip-address=127.0.0.1",
            ),
            *(f"--node-name={name}", f"--num-cpus={num_cpus}", "--object-store-memory=80000000"),
            *(f"--dashboard-agent-listen-port={agent}", f"--dashboard-agent-grpc-port={grpc}"),
            *(f"--metrics-export-port={metrics}", *argv),
        ]
        log = self.temp_dir / f"{name}.out"
        with log.open("wb") as out:
            starter = subprocess.Popen(
                argv,
                env={**self.environ, NODE_MARK: self._mark(name)},
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
            )

        def seen() -> str:
            assert starter.poll() is None, f"{name} ended: {log.read_text()}"
            return self.node_ids().get(name, "")

        node = Node(name, str(until(seen, START_S, f"{name} is up")), starter)
        self.nodes.append(node)
        return node


def start_head(
    temp_dir: Path,
    *,
    num_cpus: int = 2,
    environ: Mapping[str, str] | None = None,
    ray: str = _RAY,
    autoscaling: Mapping[str, object] | None = None,
) -> Cluster:
    """Start a head with a dashboard and return when jobs can be submitted; with `autoscaling`, an autoscaler too.

    `temp_dir` is short (sockets live in it: 107 characters) and belongs to the cluster: `stop` removes it.
    """
    temp_dir.mkdir(parents=True, exist_ok=True)
    port, dashboard, client = free_ports(3)
    marks = {CLUSTER_MARK: str(temp_dir), "RAY_TMPDIR": str(temp_dir), "RAY_AUTH_MODE": "disabled"}
    inherited = {k: v for k, v in os.environ.items() if k not in ("RAY_ADDRESS", "RAY_JOB_CONFIG")}
    cluster = Cluster(
        temp_dir,
        f"127.0.0.1:{port}",
        f"http://127.0.0.1:{dashboard}",
        {
            **inherited,
            "RAY_ENABLE_UV_RUN_RUNTIME_ENV": "0",
            **metric_ports(),
            **marks,
            **(environ or {}),
        },
        ray=ray,
        client=f"ray://127.0.0.1:{client}",
    )
    argv = [
        *("--head", f"--port={port}", f"--temp-dir={temp_dir}"),
        *(f"--dashboard-port={dashboard}", f"--ray-client-server-port={client}"),
    ]
    if autoscaling:
        provider = autoscaling["provider"]
        assert isinstance(provider, dict)
        provider = {**provider, "gcs_address": cluster.address}
        (temp_dir / "autoscaling.json").write_text(
            json.dumps({**autoscaling, "provider": provider})
        )
        argv.append(f"--autoscaling-config={temp_dir / 'autoscaling.json'}")
    try:
        cluster._start(argv, num_cpus)
        until(lambda: _answers(cluster), START_S, "the Jobs API answers")
    except BaseException:
        cluster.stop()
        raise
    return cluster


def _answers(cluster: Cluster) -> bool:
    try:
        return isinstance(cluster.ask("/api/jobs/"), list)
    except OSError:
        return False
