"""How late and how heavy a daemon is on a busy machine: python -m tests.bench.live. Wants a machine that does nothing else.

1. Failures among 10,000 writes a second into 5,000 files, and alone on an idle machine: from the write to the finding
   in the API; beside `tail -F` and watchdog's own observer, which match nothing, on the same load, and beside a process
   that only waits for events.
2. Two processes that write 100 MB/s each into 200 files: does it keep up, and what does that take?
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

from tests.bench import crowd, flood, latency
from tests.bench.logs import QUIET, Truth
from tests.bench.measure import Report, arguments, at_most, machine, resident_mb, used_s
from tests.daemons import DaemonProcess, make_session, until

WRITERS, RATE, FILES = 2, 100e6, 200
LONE_FILES = 1_000  # each failure is another worker's
GROWTH_MB, DRAIN_S = 60, 1
LATEST_S = 60.0
SETTLE_S = 3.0
SAMPLE_S = 0.25


@dataclass(frozen=True, slots=True)
class Load:
    """How long and how much."""

    files: int
    lines: int
    samples: int
    seconds: float


FULL = Load(5_000, 10_000, 400, 10.0)
SMALL = Load(1_000, 2_000, 60, 3.0)


def busy(report: Report, load: Load) -> None:
    """Failures among many writes."""
    what = f"{load.files} files, {load.lines} writes/s"
    measured = _measured(report, what, load.files, load.lines, load.samples)
    if measured is None:
        return
    report.add(f"{what}: write -> finding, p50", "daemon", _p(measured, 0.5), at_most(8, "ms"))
    report.add(f"{what}: write -> finding, p99", "daemon", _p(measured, 0.99), at_most(15, "ms"))
    report.add(f"{what}: processor", "daemon", 100 * measured.share, at_most(10, "% of a core"))
    for name, share in beside(load).items():
        report.add(f"{what}: processor", name, 100 * share, None, "% of a core, matching nothing")


def lone(report: Report, load: Load) -> None:
    """A failure on an idle machine."""
    measured = _measured(report, "a lone write", LONE_FILES, 0, load.samples // 4)
    if measured is not None:
        report.add("a lone write -> finding, p50", "daemon", _p(measured, 0.5), None, "ms")
        report.add("a lone write -> finding, p99", "daemon", _p(measured, 0.99), at_most(2, "ms"))
    bare = _bare(load.samples // 4)
    for name, share in (("p50", 0.5), ("p99", 0.99)):
        late = latency.percentile(bare, share)
        report.add(f"a lone write -> a byte, {name}", "inotify and a socket", late, None, "ms")


def _bare(samples: int) -> list[float]:
    """How late in ms a process is that only waits for events and sends a byte: the machine's own part, at this time."""
    late: list[float] = []
    with (
        tempfile.TemporaryDirectory(prefix="rwl") as folder,
        socket.create_server(("127.0.0.1", 0)) as server,
    ):
        log = Path(folder) / "log"
        log.touch()
        port = str(server.getsockname()[1])
        argv = [sys.executable, "-m", "tests.bench.watcher", folder, port]
        with _quietly(argv), server.accept()[0] as told, log.open("ab", buffering=0) as out:
            told.recv(1)  # it watches
            for _ in range(samples):
                time.sleep(latency.PAUSE_S)
                out.write(b"x\n")
                at = time.monotonic()
                told.recv(1)
                late.append(1e3 * (time.monotonic() - at))
    return late


def _measured(
    report: Report, what: str, files: int, lines: int, samples: int
) -> latency.Measured | None:
    with tempfile.TemporaryDirectory(prefix="rwl") as folder:
        try:
            measured = latency.measure(files, lines, samples, Path(folder))
        except AssertionError as error:  # it does not keep up at all
            report.missing(f"{what}: write -> finding", "daemon", at_most(15, "ms"), str(error))
            return None
    latency.show(measured)
    return measured


def _p(measured: latency.Measured, share: float) -> float:
    return latency.percentile(measured.all, share)


def beside(load: Load) -> dict[str, float]:
    """The share of a core that others take on the same load."""
    shares = {}
    for name in ("tail -F", "watchdog's observer"):
        with tempfile.TemporaryDirectory(prefix="rwl") as folder:
            logs = make_session(Path(folder))
            paths = crowd.lay_out(logs, load.files)
            watcher = [sys.executable, "-m", "tests.bench.watcher", str(logs)]
            argv = ["tail", "-q", "-n0", "-F", *map(str, paths)] if name == "tail -F" else watcher
            with _quietly(argv) as pid, latency.written_to(logs, load.lines):
                time.sleep(SETTLE_S)
                began, used = time.monotonic(), used_s(pid)
                time.sleep(load.seconds)
                shares[name] = (used_s(pid) - used) / (time.monotonic() - began)
    return shares


@contextmanager
def _quietly(argv: list[str]) -> Iterator[int]:
    """Run a program whose words nobody reads; the limit of open files is this process' own."""
    crowd.hold_many_files()
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL) as running:
        try:
            yield running.pid
        finally:
            running.kill()


class Watch(threading.Thread):
    """Notes a daemon's memory and backlog, again and again."""

    def __init__(self, daemon: DaemonProcess, folder: Path) -> None:
        super().__init__(daemon=True)
        self._daemon, self._folder = daemon, folder
        self.ended = threading.Event()
        self.peak_mb = 0.0
        self.backlog = 0

    def run(self) -> None:
        """Look until told to end."""
        while not self.ended.wait(SAMPLE_S):
            self.peak_mb = max(self.peak_mb, resident_mb(self._daemon.process.pid))
            self.backlog = max(self.backlog, on_disk(self._folder) - metric(self._daemon, READ))


READ, FOUND = "raywatch_tail_read_bytes_total", "raywatch_findings_total"


def metric(daemon: DaemonProcess, name: str) -> int:
    """The sum of a metric over its labels."""
    rows = daemon.get("/metrics")[1].decode().splitlines()
    return int(
        sum(float(r.rpartition(" ")[2]) for r in rows if r.startswith((name + "{", name + " ")))
    )


def on_disk(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file())


class Followed(NamedTuple):
    """A daemon and the logs that it follows."""

    what: str
    folder: Path
    daemon: DaemonProcess


def sustained(report: Report, load: Load, name: str, density: float) -> None:
    """Two writers, as fast as they were told."""
    what = f"{WRITERS} x {RATE / 1e6:.0f} MB/s, {name}"
    with tempfile.TemporaryDirectory(prefix="rwl") as temp_dir:
        folder = make_session(Path(temp_dir))
        flood.lay_out(folder, FILES)
        daemon = DaemonProcess(Path(temp_dir), Path(temp_dir) / "state")
        try:
            until(lambda: metric(daemon, READ) >= on_disk(folder), 60, "all is read")
            time.sleep(SETTLE_S)
            _flood(report, Followed(what, folder, daemon), load.seconds, density)
        finally:
            daemon.kill()


def _flood(report: Report, followed: Followed, seconds: float, density: float) -> None:
    what, folder, daemon = followed
    pid = daemon.process.pid
    watch = Watch(daemon, folder)
    how = {"rate": RATE, "seconds": seconds, "density": density}
    with flood.writers(folder, FILES, WRITERS, **how) as writers:
        idle_mb, used = resident_mb(pid), used_s(pid)
        watch.start()
        for writer in writers:
            flood.go(writer)
        told = [flood.told_by(w) for w in writers]
    truth = Truth()
    for t in told:
        truth.add(t.truth)
    speed = sum(t.truth.size / t.seconds for t in told) / 1e6
    report.add(f"{what}: written", f"{WRITERS} processes", speed, None, "MB/s")
    _drained(report, followed, max(t.ended for t in told))
    watch.ended.set()
    watch.join()
    report.add(f"{what}: backlog, at most", "daemon", watch.backlog / 1e6, None, "MB")
    report.add(f"{what}: more memory", "daemon", watch.peak_mb - idle_mb, at_most(GROWTH_MB, "MB"))
    share = (used_s(pid) - used) / max(t.seconds for t in told)
    report.add(f"{what}: processor", "daemon", share, None, "CPU s a second of writing")
    time.sleep(SETTLE_S)  # the last records are open until their files rest
    report.check(f"{what}: findings", "daemon", metric(daemon, FOUND), truth.findings)


def _drained(report: Report, followed: Followed, ended: float) -> None:
    what, folder, daemon = followed
    size, goal = on_disk(folder), at_most(DRAIN_S, "s")
    name = f"{what}: all is read after the last write"
    try:
        until(lambda: metric(daemon, READ) >= size, LATEST_S, "all is read", pause_s=0.05)
    except AssertionError:
        left = size - metric(daemon, READ)
        report.missing(name, "daemon", goal, f"{left / 1e6:.0f} MB left after {LATEST_S:.0f} s")
        return
    report.add(name, "daemon", time.monotonic() - ended, goal)


PARTS: Mapping[str, Callable[[Report, Load], None]] = {
    "busy": busy,
    "lone": lone,
    "quiet": lambda report, load: sustained(report, load, "quiet", QUIET),
    "mid": lambda report, load: sustained(report, load, "1 % failures", 0.01),
}


def main() -> int:
    """Print the figures; return 1 where a goal is missed."""
    asked = arguments(__doc__)
    asked.add_argument("--small", action="store_true", help="less of everything: a try-out")
    asked.add_argument("parts", nargs="*", choices=[[], *PARTS], help="all by default")
    given = asked.parse_args()
    print(f"live: {machine()}\n")
    report = Report(given.harder)
    for name in given.parts or PARTS:
        PARTS[name](report, SMALL if given.small else FULL)
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
