"""The demo's own Ray cluster: a head and two worker nodes as separate raylets on one host, ended by pid.

Every process of it inherits two variables: whose it is and on which node. That is how a whole node is killed and how
nothing is left behind; no process is ever looked up by its name.
"""

from __future__ import annotations

import contextlib
import http.client
import json
import os
import re
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

from pydantic import BaseModel, TypeAdapter, ValidationError

from raywatch.model import RaywatchError

T = TypeVar("T")
HOST = "127.0.0.2"  # Ray replaces 127.0.0.1 by the address of a network card; this one it keeps
HEAD, WORKERS = "head", ("worker-1", "worker-2")
OWNER, ON_NODE = "RAYWATCH_DEMO", "RAYWATCH_DEMO_NODE"
RUN = "demo"
STORE_BYTES = 80_000_000  # the least that Ray takes is 75 MB
MAX_FOLDER = 40  # the session's sockets must stay below the 107 bytes of a socket's path
START_S, POLL_S = 90.0, 0.2
DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))  # loopback needs no proxy
_RANK = re.compile(r"rank (\d+) of \d+ starts at step (\d+) on node ([0-9a-f]{56})")
_STEP = re.compile(r"step (\d+) loss ([\d.]+), checkpoint written")


class DemoError(RaywatchError):
    """The demo could not show what it is for; the text is one line for its user."""


class Deadline:
    """When the demo must be over."""

    def __init__(self, seconds: float) -> None:
        self._at = time.monotonic() + seconds
        self._seconds = seconds

    def left(self) -> float:
        """Return the seconds that are left, at least 0."""
        return max(0.0, self._at - time.monotonic())

    def until(self, ask: Callable[[], T | None], limit_s: float, what: str) -> T:
        """Ask again and again until there is an answer; raise DemoError with `what` was waited for."""
        end = time.monotonic() + min(limit_s, self.left())
        while True:
            answer = ask()
            if answer is not None:
                return answer
            if time.monotonic() >= end:
                raise DemoError(self.missed(limit_s, what))
            time.sleep(POLL_S)

    def missed(self, limit_s: float, what: str) -> str:
        """Say what did not happen in time."""
        if self.left():
            return f"not within {limit_s:.0f} s: {what}"
        return f"the {self._seconds:.0f} s of the demo are over before this: {what}"


class Job(BaseModel):
    """A job as Ray's Jobs API tells it."""

    type: str = ""
    submission_id: str | None = None
    status: str = ""
    message: str | None = None
    metadata: dict[str, str] | None = None


class _NodeRow(BaseModel):
    node_id: str
    state: str
    state_message: str | None = None
    is_head_node: bool = False
    resources_total: dict[str, float] | None = None


class _Saved(BaseModel):
    metrics: dict[str, float | str | None] = {}
    checkpoint_dir_name: str


class _RunFile(BaseModel):
    latest_checkpoint_result: _Saved | None = None


@dataclass(frozen=True, slots=True)
class RayNode:
    """A node as Ray tells it."""

    node_id: str
    name: str
    alive: bool
    message: str


@dataclass(frozen=True, slots=True)
class JobLog:
    """What the job itself printed: where its ranks started, at which step, and how far it came."""

    nodes: Mapping[int, str]  # rank -> node id, of the newest group
    starts: tuple[int, ...]  # the first steps of rank 0, a number for each group
    steps: tuple[tuple[int, str], ...]  # step and loss

    @property
    def step(self) -> int:
        """The last step that was told, else 0."""
        return self.steps[-1][0] if self.steps else 0


_JOBS = TypeAdapter(list[Job])
_NODES = TypeAdapter(list[_NodeRow])


def read_log(text: str) -> JobLog:
    """Parse a job's output. Same input, same output."""
    ranks = [(int(r), int(step), node) for r, step, node in _RANK.findall(text)]
    starts = dict.fromkeys(step for rank, step, _ in ranks if rank == 0)  # print() is logged twice
    steps = dict.fromkeys((int(step), loss) for step, loss in _STEP.findall(text))
    return JobLog({rank: node for rank, _, node in ranks}, tuple(starts), tuple(steps))


def free_ports(count: int) -> list[int]:
    """Return ports that nobody has now."""
    with contextlib.ExitStack() as held:
        probes = [held.enter_context(socket.socket()) for _ in range(count)]
        for probe in probes:
            probe.bind(("", 0))
        return [int(probe.getsockname()[1]) for probe in probes]


# --- processes ---------------------------------------------------------------------------------------


def demo_env(folder: Path, node: str = "") -> dict[str, str]:
    """Return an environment without the user's Ray settings and with the demo's mark."""
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "RAYWATCH_"))}
    return kept | {
        OWNER: str(folder),
        ON_NODE: node,
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "RAY_DEDUP_LOGS": "0",  # the driver's log names every rank
        "GLOO_SOCKET_IFNAME": "lo",  # a host name that resolves to nothing stops gloo
        "SPT_NOENV": "1",  # Ray's process titles would overwrite the mark in /proc
    }


def processes(folder: Path, node: str | None = None) -> list[int]:
    """Return the pids of this demo, or of one node of it: those that bear its mark, and their children."""
    mark = f"{OWNER}={folder}".encode()
    place = None if node is None else f"{ON_NODE}={node}".encode()
    found, parents = set(), {}
    for entry in os.scandir("/proc"):
        if not entry.name.isdigit() or int(entry.name) == os.getpid():
            continue
        with contextlib.suppress(OSError, ValueError, IndexError):  # it ended, or is not ours
            stat = Path(entry.path, "stat").read_text(errors="replace").rpartition(") ")[2].split()
            if stat[0] in "ZX":
                continue
            parents[int(entry.name)] = int(stat[1])
            words = Path(entry.path, "environ").read_bytes().split(b"\0")
            if mark in words and (place is None or place in words):
                found.add(int(entry.name))
    grown = True
    while grown:
        more = {pid for pid, parent in parents.items() if parent in found} - found
        found |= more
        grown = bool(more)
    return sorted(found)


def kill_all(folder: Path, node: str | None = None, limit_s: float = 15.0) -> int:
    """SIGKILL all processes of the demo, or of one node, until none is left; return how many there were."""
    end = time.monotonic() + limit_s
    killed: set[int] = set()
    while True:
        pids = processes(folder, node)
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)
        killed |= set(pids)
        if not pids or time.monotonic() > end:
            return len(killed)
        time.sleep(POLL_S)


# --- the cluster -------------------------------------------------------------------------------------


class Cluster:
    """Owns the cluster's processes. `close` ends all that bear the demo's mark."""

    def __init__(self, folder: Path, deadline: Deadline) -> None:
        if len(str(folder)) > MAX_FOLDER:
            raise DemoError(f"{folder}: too long for Ray's sockets, at most {MAX_FOLDER} bytes")
        self.folder, self._deadline = folder, deadline
        gcs, dashboard, self._client = free_ports(3)
        self.address, self.dashboard = f"{HOST}:{gcs}", f"http://127.0.0.1:{dashboard}"
        self.storage = folder / "storage"
        self._started: dict[str, subprocess.Popen[bytes]] = {}

    def close(self) -> int:
        """Kill what is left and reap it; return how many processes there were."""
        count = kill_all(self.folder)
        for process in self._started.values():
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(5)
        return count

    def start(self, *, meanwhile: Callable[[], None]) -> None:
        """Start head and workers; `meanwhile` runs once there is a session.

        One after another: two raylets that start at once on one host take the same socket, and one of them dies.
        """
        gcs, dashboard = self.address.rpartition(":")[2], self.dashboard.rpartition(":")[2]
        self._ray_start(
            HEAD,
            "--head",
            f"--port={gcs}",
            f"--dashboard-port={dashboard}",
            f"--ray-client-server-port={self._client}",
            "--num-cpus=0",
        )
        self._wait(HEAD, lambda: self._alive(1), "the head node is up")
        meanwhile()
        for number, name in enumerate(WORKERS, 1):
            # All logs of the host are in one folder, and the head's log monitor reads them all.
            self._ray_start(
                name, f"--address={self.address}", "--num-cpus=2", "--include-log-monitor=false"
            )
            self._wait(name, lambda count=number + 1: self._alive(count), f"{name} is up")  # type: ignore[misc]

    def _ray_start(self, name: str, *flags: str) -> None:
        argv = [sys.executable, "-m", "ray.scripts.scripts", "start", *flags]
        argv += [f"--temp-dir={self.folder}", f"--node-ip-address={HOST}", "--block"]
        argv += [f"--object-store-memory={STORE_BYTES}", "--dashboard-agent-listen-port=0"]
        argv += [f"--resources={json.dumps({name: 1})}", "--disable-usage-stats"]
        with (self.folder / f"{name}.out").open("wb") as out:
            self._started[name] = subprocess.Popen(
                argv,
                env=demo_env(self.folder, name),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,  # a Ctrl-C is for the demo, which then ends its cluster
            )

    def _wait(self, name: str, ask: Callable[[], T | None], what: str) -> T:
        def asked() -> T | None:
            if self._started[name].poll() is not None:
                words = (self.folder / f"{name}.out").read_text(errors="replace").splitlines()
                raise DemoError(f"`ray start` of {name} ended: {(words or ['no output'])[-1]}")
            return ask()

        return self._deadline.until(asked, START_S, what)

    def _alive(self, count: int) -> bool | None:
        return sum(node.alive for node in self.nodes()) >= count or None

    # --- what Ray's APIs say ---

    def _ask(self, path: str, body: Mapping[str, object] | None = None) -> bytes:
        """GET, or POST a body; raise OSError if the dashboard does not answer."""
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"} if data else {}
        request = urllib.request.Request(self.dashboard + path, data, headers)  # noqa: S310 - our own http URL
        try:
            with DIRECT.open(request, timeout=10) as answer:
                return bytes(answer.read())
        except http.client.HTTPException as error:  # it went away in the middle of a word
            raise OSError(str(error)) from error

    def nodes(self) -> list[RayNode]:
        """Return the nodes; none while the dashboard does not answer."""
        try:
            body = json.loads(self._ask("/api/v0/nodes?detail=1"))
            rows = _NODES.validate_python(body["data"]["result"]["result"])
        except (OSError, ValueError, KeyError, TypeError):
            return []
        return [
            RayNode(
                row.node_id,
                next((n for n in (HEAD, *WORKERS) if n in (row.resources_total or {})), ""),
                row.state == "ALIVE",
                row.state_message or "",
            )
            for row in rows
        ]

    def submit(self, submission_id: str, *, budget: int) -> None:
        """Submit the training; `budget` is how often Ray Train itself restarts after a preemption."""
        script = self.folder / "train.py"
        shutil.copyfile(Path(__file__).with_name("demo_train.py"), script)
        argv = [sys.executable, str(script), "--name", RUN, "--storage", str(self.storage)]
        argv += ["--preemption-budget", str(budget)]
        body = {"entrypoint": shlex.join(argv), "submission_id": submission_id}
        self._deadline.until(lambda: self._submitted(body), 30, "the job is submitted")

    def _submitted(self, body: Mapping[str, object]) -> bool | None:
        try:
            self._ask("/api/jobs/", body)
        except urllib.error.HTTPError as error:
            with error:
                text = error.read().decode(errors="replace").strip().splitlines()
            raise DemoError(f"Ray refused the job: {(text or [str(error)])[-1]}") from error
        except OSError:
            return None
        return True

    def jobs(self) -> dict[str, Job]:
        """Return the submitted jobs by their id; none while the dashboard does not answer."""
        try:
            rows = _JOBS.validate_json(self._ask("/api/jobs/"))
        except (OSError, ValidationError):
            return {}
        return {row.submission_id: row for row in rows if row.submission_id}

    def log(self, submission_id: str) -> JobLog:
        """Return what a job printed so far."""
        return read_log(self.log_text(submission_id))

    def log_text(self, submission_id: str) -> str:
        """Return a job's output as it is; empty while there is none."""
        try:
            return str(json.loads(self._ask(f"/api/jobs/{submission_id}/logs"))["logs"])
        except (OSError, ValueError, KeyError, TypeError):
            return ""

    def saved_step(self) -> int | None:
        """Return the step of the newest registered checkpoint in the run's storage, if its files are there."""
        home = self.storage / RUN
        try:
            latest = _RunFile.model_validate_json(
                (home / "checkpoint_manager_snapshot.json").read_bytes()
            ).latest_checkpoint_result
        except (OSError, ValidationError):  # not there yet, or Ray Train is just writing it
            return None
        if latest is None or not (home / latest.checkpoint_dir_name / "state.pt").is_file():
            return None
        step = latest.metrics.get("step")
        return int(step) if step is not None else None

    # --- what is done to it ---

    def drain(self, node_id: str, *, message: str, seconds: int) -> None:
        """Announce a spot preemption, as a cloud's notice does."""
        argv = [sys.executable, "-m", "ray.scripts.scripts", "drain-node"]
        argv += ["--address", self.address, "--node-id", node_id, "--reason-message", message]
        argv += ["--reason", "DRAIN_NODE_REASON_PREEMPTION"]
        argv += ["--deadline-remaining-seconds", str(seconds)]
        try:
            done = subprocess.run(
                argv,
                env=demo_env(self.folder),
                cwd=self.folder,
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                timeout=max(1.0, min(30.0, self._deadline.left())),
                check=False,
                start_new_session=True,
            )
        except subprocess.TimeoutExpired as error:
            raise DemoError("`ray drain-node` does not come to an end") from error
        if done.returncode:
            words = (done.stderr or done.stdout).strip().splitlines()
            raise DemoError(f"`ray drain-node` failed: {(words or ['no output'])[-1]}")

    def kill_node(self, name: str) -> int:
        """SIGKILL the raylet and every process of a node; return how many."""
        return kill_all(self.folder, name)
