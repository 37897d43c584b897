"""A daemon on a session of 200,000 logs: python -m tests.bench.scale [--files N]. Wants a machine that does nothing else.

None is empty; a failure stands at the end of one of them, chosen at random, and one at the end of the newest. From the
start of the process to their findings in the API, then what it costs while nothing happens, then how late the finding
of one more failure is.
"""

from __future__ import annotations

import random
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

from tests.bench.crowd import lay_out
from tests.bench.latency import Client, core_signal, percentile
from tests.bench.live import READ, metric, on_disk
from tests.bench.measure import Report, arguments, at_most, machine, resident_mb, used_s
from tests.daemons import DaemonProcess, make_session, until

CORE = "python-core-worker-"
LINES = 3
FIRST_S, IDLE_SHARE, IDLE_MB = 5, 1, 150
LATEST_S = 300.0
SETTLE_S = 10.0
PROBES, PAUSE_S = 20, 0.5


def worker_of(path: Path) -> str:
    """The worker that writes a core log."""
    return path.name.removeprefix(CORE)[:56]


def fail(path: Path) -> None:
    """Append a failure to a worker's core log."""
    with path.open("ab", buffering=0) as out:
        out.write(core_signal(worker_of(path)).encode())


def first_finding(report: Report, client: Client, where: str, worker: str, started: float) -> None:
    """Add how long after its start the daemon told of a failure."""
    what, goal = f"start -> finding, {where}", at_most(FIRST_S, "s")
    try:
        until(lambda: worker in client.seen, LATEST_S, what)
    except AssertionError as error:
        report.missing(what, "daemon", goal, str(error))
        return
    report.add(what, "daemon", client.seen[worker] - started, goal)


def idle(report: Report, daemon: DaemonProcess, logs: Path, seconds: float) -> None:
    """Add what it costs while nothing happens, once all is read."""
    size = on_disk(logs)
    began = time.monotonic()
    try:
        until(lambda: metric(daemon, READ) >= size, LATEST_S, "all is read", pause_s=0.5)
        report.add("then all is read after", "daemon", time.monotonic() - began, None, "s")
    except AssertionError as error:
        report.missing("all is read", "daemon", at_most(LATEST_S, "s"), str(error))
    time.sleep(SETTLE_S)
    pid = daemon.process.pid
    used, began = used_s(pid), time.monotonic()
    time.sleep(seconds)
    share = (used_s(pid) - used) / (time.monotonic() - began)
    what = f"idle for {seconds:.0f} s"
    report.add(f"{what}: processor", "daemon", 100 * share, at_most(IDLE_SHARE, "% of a core"))
    report.add(f"{what}: resident memory", "daemon", resident_mb(pid), at_most(IDLE_MB, "MB"))


def one_more(report: Report, client: Client, free: list[Path]) -> None:
    """Add how late the finding of a failure is that comes now."""
    late = []
    for path in free[:PROBES]:
        worker = worker_of(path)
        client.pending.add(worker)
        fail(path)
        written = time.monotonic()
        until(partial(client.seen.__contains__, worker), 60, "the finding")
        late.append(1e3 * (client.seen[worker] - written))
        time.sleep(PAUSE_S)
    report.add("one more failure -> finding, p50", "daemon", percentile(late, 0.5), None, "ms")
    report.add("one more failure -> finding, max", "daemon", max(late), None, "ms")


def measure(report: Report, files: int, seconds: float, temp_dir: Path) -> None:
    """Run the whole experiment."""
    logs = make_session(temp_dir)
    paths = lay_out(logs, files, LINES)
    cores = [p for p in paths if p.name.startswith(CORE)]
    random.Random(11).shuffle(cores)
    newest, random_one, *free = cores
    where = {random_one: f"in a random one of {files} files", newest: "in the newest"}
    for path in where:
        fail(path)
    started = time.monotonic()
    daemon = DaemonProcess(temp_dir, temp_dir / "state")
    client = Client(daemon.url)
    client.pending |= set(map(worker_of, where))
    try:
        client.start()
        for path, words in reversed(where.items()):
            first_finding(report, client, words, worker_of(path), started)
        idle(report, daemon, logs, seconds)
        one_more(report, client, free)
    except AssertionError as error:
        report.missing("one more failure -> finding", "daemon", at_most(60, "s"), str(error))
    finally:
        client.ended.set()
        daemon.kill()


def main() -> int:
    """Print the figures; return 1 where a goal is missed."""
    asked = arguments(__doc__)
    asked.add_argument("--files", type=int, default=200_000)
    asked.add_argument("--seconds", type=float, default=60.0, help="of being idle")
    given = asked.parse_args()
    print(f"scale: {given.files} files; {machine()}\n")
    report = Report(given.harder)
    with tempfile.TemporaryDirectory(prefix="rws") as folder:
        measure(report, given.files, given.seconds, Path(folder))
    return report.end()


if __name__ == "__main__":
    sys.exit(main())
