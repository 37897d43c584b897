"""A process that writes more than anybody reads: megabytes a second into its share of a session's files.

Its lines are made before it begins, so that it costs little more than the writes; said "go" on its standard input it
writes for some seconds and prints what it wrote.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from subprocess import PIPE, Popen
from typing import NamedTuple

from tests.bench import logs
from tests.bench.crowd import hold_many_files
from tests.bench.logs import Author, Truth

BLOCK_LINES = 600  # some 64 kB
BLOCKS = 2  # of each file, again and again
SLOT_S = 0.002


class Told(NamedTuple):
    """What a writer wrote, in how many seconds, and when it ended (monotonic)."""

    truth: Truth
    seconds: float
    ended: float


def paths_in(folder: Path, files: int) -> list[Path]:
    """The files of a session that are written to."""
    return [folder / logs.file_name(f, n) for n, f in enumerate(logs.spread(files, failing=False))]


def lay_out(folder: Path, files: int) -> None:
    """Make them, each with a line of its own."""
    (folder / "train").mkdir()
    for number, path in enumerate(paths_in(folder, files)):
        path.write_text(f"log number {number} begins\n")


def write(
    folder: Path, files: int, part: int, parts: int, *, rate: float, seconds: float, density: float
) -> Told:
    """Write `rate` bytes a second into every `parts`th file, from file `part` on."""
    hold_many_files()
    mine = list(
        enumerate(zip(paths_in(folder, files), logs.spread(files, failing=False), strict=True))
    )
    mine = mine[part::parts]
    able = sum(bool(logs.failure_lines(f, single=False)) for _, (_, f) in mine) / len(mine)
    start_s = time.time() + time.localtime().tm_gmtoff  # Ray writes local times
    blocks: list[tuple[int, bytes, Truth]] = []
    authors = []
    for number, (path, family) in mine:
        author = Author(family, density / able, number, start_s=start_s)
        authors.append((os.open(path, os.O_WRONLY | os.O_APPEND), author))
    for _ in range(BLOCKS):  # each file in its turn
        blocks += [(out, *author.block(BLOCK_LINES)) for out, author in authors]
    print("ready", flush=True)
    sys.stdin.readline()
    truth, at = Truth(), 0
    began = time.monotonic()
    while (spent := time.monotonic() - began) < seconds:
        while truth.size < rate * spent:
            out, data, said = blocks[at % len(blocks)]
            at += 1
            if os.write(out, data) != len(data):
                raise OSError("a short write")
            truth.add(said)
        time.sleep(SLOT_S)
    ended = time.monotonic()
    return Told(truth, ended - began, ended)


@contextmanager
def writers(
    folder: Path, files: int, count: int, *, rate: float, seconds: float, density: float
) -> Iterator[list[Popen[str]]]:
    """So many processes that are ready to write."""
    words = [json.dumps({"rate": rate, "seconds": seconds, "density": density})]
    argv = [sys.executable, "-m", "tests.bench.flood", str(folder), str(files)]
    started = [
        Popen([*argv, str(part), str(count), *words], stdin=PIPE, stdout=PIPE, text=True)
        for part in range(count)
    ]
    try:
        for writer in started:
            _read(writer)
        yield started
    finally:
        for writer in started:
            writer.kill()
            writer.communicate()


def _read(writer: Popen[str]) -> str:
    if writer.stdout is None:
        raise AssertionError("a writer without a pipe")
    return writer.stdout.readline()


def go(writer: Popen[str]) -> None:
    """Let it write."""
    if writer.stdin is None:
        raise AssertionError("a writer without a pipe")
    writer.stdin.write("go\n")
    writer.stdin.flush()


def told_by(writer: Popen[str]) -> Told:
    """Wait for what it wrote."""
    said = json.loads(_read(writer))
    return Told(Truth(**said["truth"]), said["seconds"], said["ended"])


if __name__ == "__main__":  # FOLDER FILES PART PARTS {"rate", "seconds", "density"}
    where, *numbers, how = sys.argv[1:]
    done = write(Path(where), *map(int, numbers), **json.loads(how))
    print(json.dumps({"truth": asdict(done.truth), "seconds": done.seconds, "ended": done.ended}))
