"""Who writes and rotates logs and is never killed: `python -m tests.crash.writer FOLDER SEED`, a command a line.

Every failure carries an id of its own and is written in pieces, also within a line, while those of other files come
between. What was written whole is in the ledger. Nothing is deleted before somebody says that it was read.
"""

from __future__ import annotations

import json
import random
import select
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timezone
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

NODE = "5192188689939d714f03f25b506336457eb397612cf02e85b009ae7f"
PIECE_S = 0.012  # the mean between two pieces, whatever file they are of


@dataclass
class Record:
    """A failure: its lines, who finds it, and what of its evidence no other failure has."""

    text: str
    counts: tuple[str, str]  # class, component
    mark: str = ""  # empty: it has no time, and may be evidence only


def stamp(now: float | None = None) -> str:
    """The time as Ray writes it."""
    at = datetime.fromtimestamp(time.time() if now is None else now, timezone.utc).astimezone()
    return at.strftime("%Y-%m-%d %H:%M:%S,%f")[:-3]


def exit_line(worker: str) -> str:
    """The GCS' line about a dead worker."""
    return (
        f"[{stamp()} W 10 10] (gcs_server) gcs_worker_manager.cc:70: Reporting worker exit, worker id = {worker}, "
        f"node id = {NODE}, address = 127.0.0.1, exit_type = SYSTEM_ERROR, exit_detail = Worker unexpectedly exits.\n"
    )


def gcs(name: str) -> Record:
    """A worker is gone: one line."""
    return Record(exit_line(name), ("worker_crash", "gcs"), name)


def raylet(name: str) -> Record:
    """The memory monitor's report: a dated line and what hangs from it."""
    head = (
        f"[{stamp()} I 21 21] (raylet) node_manager.cc:3199: Killing 1 worker(s), kill details: Memory on the node "
        f"(IP: 10.77.0.1, ID: {name}) was 9.15GB used / 23.54GB limit (0.388622)\n"
    )
    rows = "".join(f"{n}\t1.00\tray::train\n" for n in range(12))
    return Record(head + rows, ("ray_oom_kill", "raylet"), name)


def broken_ring(name: str) -> Record:
    """A traceback of a worker; its output has no times."""
    frames = "".join(
        f'  File "train.py", line {n}, in step\n    all_reduce(grads)\n' for n in range(4)
    )
    last = (
        "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer "
        f"[127.0.0.1]:59792. {name}\n"
    )
    text = f"Traceback (most recent call last):\n{frames}{last}step 1 loss 0.5\n"
    return Record(text, ("ring_break", "worker"))


def segfault(name: str) -> Record:
    """A stack trace of the C++ handler; its first line says when."""
    frames = "".join(f"    @     0x7f{n:010x}  (unknown)\n" for n in range(5))
    text = (
        f"*** SIGSEGV received at time={int(time.time())} on cpu 0 ***\n{frames}step 1 loss 0.5\n"
    )
    return Record(text, ("worker_segfault", "worker"), name)


def train(name: str) -> Record:
    """The training function raised: one line of JSON."""
    message = f'Error in training function:\nTraceback (most recent call last):\n  File "t.py", line 1, in f\nValueError: bad {name}'
    row = {
        "asctime": stamp(),
        "levelname": "ERROR",
        "message": message,
        "run_name": f"run-{name[:12]}",
        "job_id": name[:8],
        "component": "worker",
    }
    return Record(json.dumps(row) + "\n", ("user_exception", "train"), name)


@dataclass
class Pen:
    """One file at a time, and what is being written into it."""

    path: Path
    makes: Callable[[str], Record]
    rotates: bool
    pieces: list[bytes] = field(default_factory=list)
    record: Record | None = None
    left: int = 0  # records until another file is begun

    def write(self) -> Record | None:
        """Write the next piece; return the record that is whole now."""
        self.path.parent.mkdir(exist_ok=True)
        with self.path.open("ab", buffering=0) as out:
            out.write(self.pieces.pop(0))
        if self.pieces:
            return None
        done, self.record = self.record, None
        return done


class Writer:
    """Pens, and the ledger of what they wrote."""

    def __init__(self, folder: Path, seed: int) -> None:
        self._folder, self._rng, self._number, self._seed = folder, random.Random(seed), 0, seed
        self._pens = [
            Pen(folder / "gcs_server.out", gcs, rotates=True),
            Pen(folder / "raylet.out", raylet, rotates=True),
            Pen(folder / "worker", broken_ring, rotates=False),
            Pen(folder / "worker", segfault, rotates=False),
            Pen(folder / "train", train, rotates=False),
        ]
        self._orders: list[str] = []  # jobs that are to fail
        self._old: list[Path] = []
        self.counts: Counter[str] = Counter()
        self.marks: list[str] = []
        self.longest_s = 0.0

    def name(self) -> str:
        """An id that nothing else has."""
        self._number += 1
        return sha256(f"{self._seed} {self._number}".encode()).hexdigest()[:56]

    def fail(self, submission: str) -> None:
        """Let a worker of a job die: in its driver's output, and as the GCS says it."""
        worker = self.name()
        path = self._folder / f"job-driver-{submission}.log"
        path.write_text(
            "(raylet) A worker died or was killed while executing a task by an unexpected system error. "
            f"Lease ID: 01 Worker ID: {worker} Node ID: {NODE} Worker PID: {2000 + self._number}\n"
        )
        self.counts["worker_crash job"] += 1
        self._orders.append(worker)

    def turn(self, *, begins: bool) -> bool:
        """Write a piece; return whether anything is left to be written."""
        ready = (
            self._pens
            if begins
            else [p for p in self._pens if p.record or (self._orders and p.makes is gcs)]
        )
        if not ready:
            return False
        pen = self._rng.choice(ready)
        if pen.record is None:
            self._begin(pen)
        done = pen.write()
        if done is not None:
            self.counts[" ".join(done.counts)] += 1
            if done.mark:
                self.marks.append(done.mark)
        return True

    def _begin(self, pen: Pen) -> None:
        name = self._orders.pop() if self._orders and pen.makes is gcs else self.name()
        if pen.rotates:
            if self._rng.random() < 0.15 and pen.path.exists():
                self._rotate(pen.path)
        elif pen.left == 0 or pen.makes is segfault:  # a crash is the last that a worker says
            self._other_file(pen, name)
        pen.left -= 1
        pen.record = pen.makes(name)
        pen.pieces = list(self._torn(pen.record.text.encode()))

    def _other_file(self, pen: Pen, name: str) -> None:
        if pen.path.is_file():
            self._old.append(pen.path)
        folder, pid, job = self._folder, 1000 + self._number, sha256(name.encode()).hexdigest()[:7]
        pen.path = folder / f"worker-{name}-a{job}-{pid}.err"
        if pen.makes is train:
            pen.path = folder / "train" / f"ray-train-app-worker-{name}.log"
        pen.left = self._rng.randrange(1, 4)

    def _rotate(self, path: Path) -> None:
        """Rename as Ray does: the newest is .1."""
        kept = len(list(path.parent.glob(f"{path.name}.*")))
        for n in range(kept, 0, -1):
            path.with_name(f"{path.name}.{n}").rename(path.with_name(f"{path.name}.{n + 1}"))
        path.rename(path.with_name(f"{path.name}.1"))

    def _torn(self, text: bytes) -> Iterator[bytes]:
        """Cut a record at lines and within them."""
        cuts = self._rng.sample(range(1, len(text)), self._rng.choice([0, 1, 1, 2, 3]))
        lines = [n + 1 for n, c in enumerate(text[:-1]) if c == ord("\n")]
        cuts += [n for n in lines if self._rng.random() < 0.3]
        edges = [0, *sorted(set(cuts)), len(text)]
        yield from (text[a:b] for a, b in pairwise(edges))

    def prune(self) -> None:
        """Delete what was read: rotated files, and those of processes that are gone."""
        for path in (*self._folder.glob("*.out.*"), *self._old):
            path.unlink()
        self._old.clear()


def main(folder: Path, seed: int) -> None:
    """Write while told to, answer with the ledger."""
    writer, goes, rng = Writer(folder, seed), False, random.Random(-seed)
    at = time.monotonic()
    while True:
        pause = rng.expovariate(1 / PIECE_S) if goes else None
        if select.select([sys.stdin], [], [], pause)[0]:
            word, _, rest = sys.stdin.readline().strip().partition(" ")
            match word:
                case "fail":
                    writer.fail(rest)
                case "prune":
                    writer.prune()
                case "go":
                    goes, at = True, time.monotonic()
                case "rest":
                    goes = False
                    while writer.turn(begins=False):
                        time.sleep(0.001)
                case _:
                    return
            ledger = {"counts": writer.counts, "marks": writer.marks, "longest_s": writer.longest_s}
            print(json.dumps(ledger), flush=True)
        if goes:
            writer.turn(begins=True)
            writer.longest_s = max(writer.longest_s, time.monotonic() - at)
            at = time.monotonic()


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
