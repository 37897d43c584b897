"""What a scrape of ten thousand series costs: python -m tests.bench.exposition.

A daemon begins with a store that holds a hundred runs and what was counted of them; then it is scraped, as Prometheus
does it (OpenMetrics, gzip), while nothing happens and while worker deaths are logged, each of which changes counts.
"""

from __future__ import annotations

import argparse
import gzip
import statistics
import sys
import tempfile
import threading
import time
import urllib.request
from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path

from pydantic import TypeAdapter

from raywatch.core.tally import Tally
from raywatch.core.taxonomy import parse_taxonomy
from raywatch.exposition import Exposition
from raywatch.metrics import MetricsView, RaywatchCollector, WorkView
from raywatch.model import Run
from raywatch.resources import resource_dir
from raywatch.store import Commit, Store
from tests.bench.measure import used_s
from tests.daemons import DaemonProcess, make_session, until
from tests.shell.test_daemon import crash

ACCEPT = "application/openmetrics-text;version=1.0.0,text/plain;version=0.0.4;q=0.5"
RUNS, CLASSES = 100, 40
SERIES = 10_000
PAUSE_S = 0.1  # between two scrapes
GOAL_S, GOAL_CPU_S = 0.1, 0.02  # of the 99th percentile, and of the processor while nothing happens


def seed(path: Path) -> None:
    """Make a store of a hundred runs that were restarted for many reasons."""
    classes = list(parse_taxonomy((resource_dir("rules") / "taxonomy.yaml").read_text()))[:CLASSES]
    runs = [
        Run(f"r{i}", f"train-{i:03}", "running", world_sizes=(8,), step=i, started_at=time.time())
        for i in range(RUNS)
    ]
    restarts = {r.id: {f"ray_train {c}": 3 for c in classes} for r in runs}
    lost_s = {r.id: dict.fromkeys(classes, 12.5) for r in runs}
    tally = Tally(restarts=restarts, lost_s=lost_s)
    commit = Commit()
    commit.docs["counters", "tally"] = TypeAdapter(Tally).dump_json(tally).decode()
    for run in runs:
        commit.docs["run", run.id] = TypeAdapter(Run).dump_json(run).decode()
    with Store(path) as store:
        store.commit(commit, durable=True)


def scrape(url: str, encoding: str) -> tuple[float, bytes]:
    """Return how long one took, in seconds, and its body as it came."""
    asked = urllib.request.Request(
        f"{url}/metrics", headers={"Accept": ACCEPT, "Accept-Encoding": encoding}
    )
    began = time.perf_counter()
    with urllib.request.urlopen(asked, timeout=30) as answer:
        body = answer.read()
    return time.perf_counter() - began, body


def scrapes(daemon: DaemonProcess, count: int, encoding: str) -> tuple[list[float], float, int]:
    """Return the seconds of each scrape, the daemon's processor seconds for all of them, and the bytes of the last."""
    before, took, size = used_s(daemon.process.pid), [], 0
    for _ in range(count):
        seconds, body = scrape(daemon.url, encoding)
        took.append(seconds)
        size = len(body)
        time.sleep(PAUSE_S)
    return took, used_s(daemon.process.pid) - before, size


def idle_s(daemon: DaemonProcess, seconds: float) -> float:
    """Return the processor seconds that the daemon takes in that time without a scrape."""
    before = used_s(daemon.process.pid)
    time.sleep(seconds)
    return used_s(daemon.process.pid) - before


def measure(daemon: DaemonProcess, count: int, name: str, encoding: str) -> tuple[float, float]:
    """Print the figures of some scrapes; return their 99th percentile and processor seconds a scrape."""
    rest = idle_s(daemon, count * PAUSE_S)
    took, used, size = scrapes(daemon, count, encoding)
    own = max(0.0, used - rest) / count
    slowest = statistics.quantiles(took, n=100)[98]
    print(
        f"{name}: median {statistics.median(took) * 1e3:.1f} ms, 99th percentile {slowest * 1e3:.1f} ms,"
        f" {size / 1e3:.0f} kB, {own * 1e3:.1f} ms of the processor a scrape"
    )
    return slowest, own


def written(logs: Path, ended: threading.Event) -> None:
    """Log ten worker deaths a second, until it is enough."""
    with (logs / "gcs_server.out").open("a") as out:
        number = 0
        while not ended.wait(0.1):
            number += 1
            out.write(crash(number))
            out.flush()


def cost_s(write: Callable[[], object], rounds: int) -> float:
    """Return the median processor seconds of a call."""
    took = []
    for _ in range(rounds):
        began = time.thread_time()
        write()
        took.append(time.thread_time() - began)
    return statistics.median(took)


def views() -> Iterator[MetricsView]:
    """Yield views that say the same and share no object, as those that a daemon publishes one after another."""
    while True:
        keys = ((f"run-{i % 100}", "ray_train", f"class_{i // 100}") for i in range(SERIES))
        yield MetricsView("1", {}, work=WorkView(restarts=dict.fromkeys(keys, 1.0)))


def kept(rounds: int) -> None:
    """Print what writing all anew costs, beside keeping what did not change."""
    published = list(islice(views(), 2 * rounds + 1))
    collector = RaywatchCollector(published.pop, time.time)
    same = Exposition(collector)
    same.text(ACCEPT)
    fresh = cost_s(lambda: Exposition(collector).text(ACCEPT), rounds)
    again = cost_s(lambda: same.text(ACCEPT), rounds)
    print(
        f"{SERIES} series in this process: {fresh * 1e3:.1f} ms anew, {again * 1e3:.1f} ms kept,"
        f" {fresh / again:.0f} times less"
    )


def main() -> int:
    """Measure, print, and say whether the goals are met."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scrapes", type=int, default=50)
    count = parser.parse_args().scrapes
    with tempfile.TemporaryDirectory() as folder:
        temp_dir = Path(folder)
        logs, ended = make_session(temp_dir), threading.Event()
        (temp_dir / "state").mkdir()
        seed(temp_dir / "state" / "raywatch.db")
        daemon = DaemonProcess(temp_dir, temp_dir / "state")
        writer = threading.Thread(target=written, args=(logs, ended))
        try:
            until(lambda: b"train-099" in scrape(daemon.url, "identity")[1], 30, "runs are shown")
            body = scrape(daemon.url, "gzip")[1]
            text = gzip.decompress(body) if body[:2] == b"\x1f\x8b" else body
            series = sum(not line.startswith(b"#") for line in text.splitlines())
            print(f"{series} series, {len(text) / 1e3:.0f} kB")
            time.sleep(5)
            slowest, own = measure(daemon, count, "nothing happens, gzip", "gzip")
            measure(daemon, count, "nothing happens, plain", "identity")
            writer.start()
            measure(daemon, count, "ten deaths a second, gzip", "gzip")
        finally:
            ended.set()
            daemon.kill()
    kept(20)
    return int(series < SERIES or slowest > GOAL_S or own > GOAL_CPU_S)


if __name__ == "__main__":
    sys.exit(main())
