"""From a line on the disk to its finding in the snapshot of a real daemon: python -m tests.bench.latency.

A daemon follows a session of many logs that are written all the time; a failure line is appended to one of them every
`PAUSE_S`; a client that waits with the long poll of the API, on a connection that stays open, says when the first byte
came of what shows its incident.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import re
import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from itertools import cycle
from pathlib import Path
from typing import NamedTuple

from tests.bench.crowd import NODE, TRAINS, lay_out, stamp
from tests.bench.measure import used_s
from tests.daemons import DaemonProcess, make_session, until

GOAL_MS = 50.0
PAUSE_S = 0.1
LATE_S = 20.0
CHANGES, WHOLE = "/api/v1/incidents?after={}&wait=5", "/api/v1/snapshot?after={}&wait=5"


class Sample(NamedTuple):
    """A failure that was written: whose, when its line was on the disk."""

    family: str
    worker: str
    at: float


def gcs_crash(worker: str) -> str:
    """A record whose words may still change what it means (`unless`): it waits for its end."""
    return (
        f"[{stamp()} W 10 10] (gcs_server) gcs_worker_manager.cc:70: Reporting worker exit, worker id = {worker}, "
        f"node id = {NODE}, address = 127.0.0.1, exit_type = SYSTEM_ERROR, exit_detail = Worker unexpectedly exits.\n"
    )


def core_signal(_worker: str) -> str:
    """The last words of a worker into its core log, which is dated."""
    return f"[{stamp()} E 21 21] logging.cc:126: *** SIGSEGV received at time={time.time():.0f} on cpu 1 ***\n"


def train_oom(worker: str) -> str:
    """A JSON line of Ray Train."""
    text = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
    row = {"asctime": stamp(), "levelname": "ERROR", "message": text, "worker_id": worker}
    return json.dumps(row) + "\n"


def worker_oom(_worker: str) -> str:
    """A traceback on a worker's standard error."""
    return (
        "Traceback (most recent call last):\n"
        '  File "/home/ray/train.py", line 88, in train_loop\n'
        "    loss = model(batch)\n"
        "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n"
    )


FAMILIES: dict[str, tuple[str, Callable[[str], str]]] = {
    "gcs, dated": ("gcs_server.out", gcs_crash),
    "core worker, dated": ("python-core-worker-*.log", core_signal),
    "train, JSON": ("train/ray-train-app-worker-*.log", train_oom),
    "worker, plain text": ("worker-*.err", worker_oom),
}


def failures(logs: Path, rng: random.Random) -> Iterator[tuple[str, str, Path]]:
    """Family, worker, file: each worker fails once, so each failure is an incident of its own.

    Raises ValueError where there are too few workers.
    """
    free = {name: sorted(logs.glob(glob)) for name, (glob, _) in FAMILIES.items()}
    for number, family in enumerate(cycle(FAMILIES)):
        mine = [p for p in free[family] if _fails_as(p) in ("", family)]
        if not mine:
            raise ValueError(f"no file is left for another failure of {family}: give more files")
        if "*" not in FAMILIES[family][0]:
            yield family, f"{(1 << 200) + number:056x}", mine[0]
            continue
        path = rng.choice(mine)
        free[family].remove(path)
        yield family, path.name.split("worker-")[1][:56], path


def _fails_as(path: Path) -> str:
    """The family that a worker's failure is of."""
    _, _, worker = path.name.partition("worker-")
    kinds = {0: "worker, plain text", 1: "core worker, dated", TRAINS: "train, JSON"}
    return kinds[int(worker[:56], 16) % 3] if worker else ""


class Client(threading.Thread):
    """Waits for what changes, over one connection, and notes when the first byte came of what shows each worker's incident."""

    def __init__(self, url: str, path: str = CHANGES) -> None:
        """`path`: what is asked again and again; the number of the newest snapshot goes into it."""
        super().__init__(daemon=True)
        host, _, port = url.removeprefix("http://").partition(":")
        self._path = path
        self._socket = socket.create_connection((host, int(port)))
        self._socket.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        self.seen: dict[str, float] = {}
        self.pending: set[str] = set()
        self.ended = threading.Event()
        self.size = self.count = 0

    def run(self) -> None:
        """Poll until told to end."""
        after = -1
        while not self.ended.is_set():
            with suppress(OSError):  # the daemon ends before its client
                body, at = self._ask(after)
                if not body:
                    continue
                self.size, self.count = len(body), self.count + 1
                after = int(body[: body.index(b",")].rpartition(b":")[2])
                for worker in [w for w in tuple(self.pending) if f'"id": "{w}"'.encode() in body]:
                    self.seen[worker] = at
                    self.pending.discard(worker)

    def _ask(self, after: int) -> tuple[bytes, float]:
        """Return a body and when its first byte was here."""
        request = f"GET {self._path.format(after)} HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"
        self._socket.sendall(request.encode())
        got = self._socket.recv(1 << 20)
        at = time.monotonic()
        if not got:
            raise ConnectionError
        while b"\r\n\r\n" not in got:
            got += self._socket.recv(1 << 20)
        head, _, body = got.partition(b"\r\n\r\n")
        length = re.search(rb"Content-Length: (\d+)", head, re.IGNORECASE)
        parts, left = [body], (int(length[1]) if length else 0) - len(body)
        while left > 0:
            parts.append(self._socket.recv(left))
            left -= len(parts[-1])
        return b"".join(parts), at


@contextmanager
def written_to(logs: Path, lines_per_s: int) -> Iterator[None]:
    """Lines come in the background, from a process of their own."""
    argv = [sys.executable, "-m", "tests.bench.crowd", str(logs), str(lines_per_s)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as writer:
        try:
            yield
        finally:
            writer.terminate()
            told, _ = writer.communicate()
            lines, seconds = map(float, told.split())
            print(f"background: {lines / seconds:.0f} lines/s")


class Measured(NamedTuple):
    """How late the finding of each failure was, in ms by family, and the daemon's share of a core."""

    late: dict[str, list[float]]
    share: float

    @property
    def all(self) -> list[float]:
        """Of every family."""
        return [v for values in self.late.values() for v in values]


def measure(files: int, lines_per_s: int, samples: int, temp_dir: Path) -> Measured:
    """Run the whole experiment. Raises AssertionError where a finding does not come at all."""
    logs = make_session(temp_dir)
    lay_out(logs, files)
    rng = random.Random(7)
    daemon = DaemonProcess(temp_dir, temp_dir / "state")
    client = Client(daemon.url)
    try:
        until(
            lambda: f'"files": {files}'.encode() in daemon.get("/api/v1/snapshot")[1],
            60,
            "all is read",
        )
        client.start()
        with written_to(logs, lines_per_s):
            time.sleep(3)
            began, used = time.monotonic(), used_s(daemon.process.pid)
            told = [
                _fail(client, *f) for f, _ in zip(failures(logs, rng), range(samples), strict=False)
            ]
            until(lambda: not client.pending, LATE_S, f"{len(client.pending)} findings")
            share = (used_s(daemon.process.pid) - used) / (time.monotonic() - began)
            print(
                f"daemon: {share:.0%} of a core, {client.count} snapshots, the last of {client.size / 1e3:.0f} kB"
            )
    finally:
        client.ended.set()
        daemon.kill()
    return Measured(
        {
            name: [1e3 * (client.seen[s.worker] - s.at) for s in told if s.family == name]
            for name in FAMILIES
        },
        share,
    )


def _fail(client: Client, family: str, worker: str, path: Path) -> Sample:
    time.sleep(PAUSE_S * random.uniform(0.8, 1.2))
    text = FAMILIES[family][1](worker).encode()
    client.pending.add(worker)
    with path.open("ab", buffering=0) as out:
        out.write(text)
    return Sample(family, worker, time.monotonic())


def percentile(values: list[float], share: float) -> float:
    """The value that so many are not above."""
    return sorted(values)[max(0, math.ceil(share * len(values)) - 1)]


def show(measured: Measured) -> None:
    """Print percentiles of each family."""
    print(f"{'ms from line to finding':22} {'n':>5} {'p50':>8} {'p90':>8} {'p99':>8} {'max':>8}")
    for name, values in (*measured.late.items(), ("all", measured.all)):
        figures = " ".join(f"{percentile(values, q):8.1f}" for q in (0.5, 0.9, 0.99, 1.0))
        print(f"{name:22} {len(values):5} {figures}")


def main() -> int:
    """Print a table; return 1 where the goal is missed."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--files", type=int, default=1000)
    asked.add_argument("--lines", type=int, default=1000, help="a second, over all files")
    asked.add_argument("--samples", type=int, default=400)
    given = asked.parse_args()
    print(f"latency: {given.files} files, {given.lines} lines/s")
    with tempfile.TemporaryDirectory() as folder:
        measured = measure(given.files, given.lines, given.samples, Path(folder))
    show(measured)
    p99 = percentile(measured.all, 0.99)
    print(f"goal: p99 <= {GOAL_MS:.0f} ms: {'reached' if p99 <= GOAL_MS else 'MISSED'}")
    return int(p99 > GOAL_MS)


if __name__ == "__main__":
    sys.exit(main())
