"""A session's folder as a busy cluster leaves it: many log files of each family, and lines that come all the time."""

from __future__ import annotations

import json
import random
import resource
import signal
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import ExitStack
from datetime import datetime, timezone
from pathlib import Path

NODE = "5192188689939d714f03f25b506336457eb397612cf02e85b009ae7f"
TRAINS = 2  # every third worker is one of Ray Train
RAYLETS = 40
SLOT_S = 0.01  # writes of so long come together


def stamp() -> str:
    """Now, as Ray writes it: local, without a zone."""
    now = datetime.now(timezone.utc).astimezone()
    return now.strftime("%Y-%m-%d %H:%M:%S,%f")[:-3]


def names(count: int) -> Iterator[str]:
    """Names of so many logs: one GCS, at most 40 raylets, workers with both streams, their core and Train logs."""
    yield from ("gcs_server.out", "gcs_server.err", "monitor.log", "dashboard.log", "raylet.out")
    yield from (f"raylet.{i}.out" for i in range(1, min(count // 25, RAYLETS)))
    for i in range(count):
        worker = f"{i:056x}"
        yield f"worker-{worker}-ffffffff-{1000 + i}.out"
        yield f"worker-{worker}-ffffffff-{1000 + i}.err"
        if i % 3 == TRAINS:
            yield f"train/ray-train-app-worker-{worker}.log"
        else:
            yield f"python-core-worker-{worker}_{1000 + i}.log"


def lay_out(logs: Path, count: int, lines: int = 20) -> list[Path]:
    """Make the files, each with `lines` that were there before."""
    (logs / "train").mkdir()
    paths = [logs / name for name, _ in zip(names(count), range(count), strict=False)]
    for path in paths:
        path.write_text("".join(idle_line(path.name) for _ in range(lines)))
    return paths


def idle_line(name: str) -> str:
    """A line that means nothing, of the family of a file."""
    if name.startswith("ray-train"):
        row = {"asctime": stamp(), "levelname": "INFO", "message": "step 17 loss 2.31"}
        return json.dumps(row) + "\n"
    if name.startswith("worker-"):
        return "epoch 3: step 1200, loss 2.3144, 1532.2 tokens/s, grad norm 0.871\n"
    return f"[{stamp()} I 21 21] (raylet) worker_pool.cc:501: Started worker process with pid 1234, the token is 7\n"


def hold_many_files() -> None:
    """Raise this process' limit of open files as far as it may."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))


def write(paths: list[Path], lines_per_s: int) -> None:
    """Append lines to random files at a rate until SIGTERM."""
    ended = threading.Event()
    signal.signal(signal.SIGTERM, lambda *_: ended.set())
    rng = random.Random(1)
    started, written = time.monotonic(), 0
    hold_many_files()
    with ExitStack() as held:
        files = [(p.name, held.enter_context(p.open("ab", buffering=0))) for p in paths]
        while not ended.wait(SLOT_S):
            due = int((time.monotonic() - started) * lines_per_s)
            for name, out in rng.choices(files, k=due - written):
                out.write(idle_line(name).encode())
            written = due
    print(written, time.monotonic() - started)


if __name__ == "__main__":  # LOGS LINES_PER_S
    write([p for p in Path(sys.argv[1]).rglob("*") if p.is_file()], int(sys.argv[2]))
