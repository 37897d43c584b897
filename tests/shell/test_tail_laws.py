"""The daemon's way of reading, under random programs: several files, events, matching in one buffer, crashes, rest.

What stands in the files is numbered; what was reported is compared with it. The parts are real: files, inotify, renames.
All lines have one length, and more than their last 64 bytes are the same: where one ends says nothing.
"""

from __future__ import annotations

import inspect
import os
import re
import shutil
import tempfile
import textwrap
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from raywatch.collect import followed, identity, roster, tail
from raywatch.collect.batch import Batch
from raywatch.collect.followed import Followed
from raywatch.collect.hints import Hints
from raywatch.collect.inotify import Watches
from raywatch.collect.resting import Cursor, Resting
from raywatch.collect.roster import Roster
from raywatch.collect.tail import Tailer
from raywatch.model import HIT_BITS, Chunk, FileId, Source

ALIKE = "exit_type = SYSTEM_ERROR, exit_detail = Worker unexpectedly exits and is gone."
MAX_LINE = 110  # more than any line has, and less than some files
NAMES = ("raylet.out", "gcs_server.out", "worker.err")
HIT = re.compile(rb"^.*FAIL.*$", re.MULTILINE)


@pytest.fixture(autouse=True)
def short_stretches(monkeypatch):
    """Some lines are a long stretch, as files are short here."""
    monkeypatch.setattr(identity, "STRETCH", 300)
    monkeypatch.setattr(followed, "STRETCH", 300)
    monkeypatch.setattr(roster, "LONG", 600)
    monkeypatch.setattr(tail, "STRETCH", 300)
    monkeypatch.setattr(tail, "LONG", 600)


def match(data: bytes | bytearray | memoryview) -> list[int]:
    """What the compiled signatures do: the end of each line that hits."""
    return [m.end() << HIT_BITS for m in HIT.finditer(data)]


def describe(path: str) -> Source | None:
    """All are logs."""
    return Source(path, "worker")


class Program:
    """Random deeds on some logs and their rotations, beside a model of what must be reported."""

    def __init__(self, base: Path, tailer_type: type[Tailer], max_open: int) -> None:
        self.base, self.tailer_type, self.max_open = base, tailer_type, max_open
        self.session, self.number, self.now = 0, 0, 1.0
        self.written: list[str] = []  # whole lines that hit
        self.forgivable: set[str] = (
            set()
        )  # truncated, deleted or left before they were reported for good
        self.read: list[str] = []
        self.stored = 0  # so many of them
        self.partial: dict[Path, str] = {}
        self.cursors: dict[FileId, Cursor] = {}
        self.folder.mkdir()
        self.begin()

    @property
    def folder(self) -> Path:
        return self.base / f"session_{self.session}"

    def begin(self) -> None:
        self.tailer = self.tailer_type(
            [self.folder],
            describe,
            self.cursors.values(),
            max_open=self.max_open,
            max_line=MAX_LINE,
        )
        self.watches: Watches | None = Watches([str(self.folder)])
        self.tailer.begin_sweep()

    def end(self) -> None:
        self.tailer.close()
        if self.watches is not None:  # there are 128 for all processes of a user
            self.watches.close()
            self.watches = None

    # --- what programs do to their logs ---

    def log(self, which: int) -> Path:
        return self.folder / NAMES[which]

    def write(self, which: int, n: int) -> None:
        """Append whole lines, of which every other hits; an open one is ended first."""
        log = self.log(which)
        with log.open("a") as out:
            for _ in range(n):
                begun = self.partial.pop(log, "")
                self.number += 1
                word = "FAIL" if self.number % 2 else "fine"
                line = f"{begun or f'line {self.number:04} {word}'} {ALIKE}"
                out.write(line[len(begun) :] + "\n")
                if "FAIL" in line:
                    self.written.append(line)

    def write_part(self, which: int) -> None:
        """Leave a line without its newline; what stands of it hits already."""
        log = self.log(which)
        if log not in self.partial:
            self.number += 1
            self.partial[log] = f"part {self.number:04} FAIL"
            with log.open("a") as out:
                out.write(self.partial[log])

    def forgive(self, *logs: Path) -> None:
        """What is not reported for good is lost to any reader."""
        for log in logs:
            if log.exists():
                self.forgivable |= set(log.read_text().splitlines()) - set(self.read[: self.stored])
            if part := self.partial.pop(log, ""):
                self.written.append(
                    part
                )  # the last words of a deleted file may be given as they are
                self.forgivable.add(part)

    def rotate(self, which: int) -> None:
        """Rename in a chain, as Ray does; the oldest is deleted."""
        log = self.log(which)
        if not log.exists():
            return
        if log in self.partial:
            self.write(which, 1)
        first, second = (log.with_name(f"{log.name}.{i}") for i in (1, 2))
        if second.exists():
            self.forgive(second)
        if first.exists():
            first.rename(second)
        log.rename(first)

    def truncate(self, which: int) -> None:
        """Cut a log to nothing in place (copytruncate)."""
        log = self.log(which)
        if log.exists():
            self.forgive(log)
            os.truncate(log, 0)

    def refill(self, which: int) -> None:
        """Cut it and write as much again: size and inode tell nothing."""
        log = self.log(which)
        if log.exists():
            size = log.stat().st_size
            self.truncate(which)
            while log.stat().st_size <= size:
                self.write(which, 1)

    def recreate(self, which: int) -> None:
        """Delete a log and make it anew: the inode is often used again."""
        log = self.log(which)
        if log.exists():
            self.forgive(log)
            log.unlink()
            self.write(which, 1)

    def swap(self, which: int) -> None:
        """Two logs change names."""
        one, other = self.log(which), self.log((which + 1) % len(NAMES))
        if one.exists() and other.exists() and not {one, other} & self.partial.keys():
            aside = self.folder / "aside.out"
            one.rename(aside)
            other.rename(one)
            aside.rename(other)

    def switch(self) -> None:
        """A new session: what was unread of the old one may be left."""
        self.forgive(*self.folder.iterdir())
        self.session += 1
        self.folder.mkdir()
        if self.watches is not None:
            self.watches.close()
        self.watches = Watches([str(self.folder)])
        self.tailer.set_roots([self.folder])
        self.tailer.begin_sweep()

    # --- what the daemon does ---

    def poll(self, share: int, budget: int, taken: str, passed: int | None) -> None:
        """One turn by events, and some looks of a sweep; its effects are stored unless `passed` is below 0."""
        self.now += 0.3
        self.take(share, budget, taken)
        if passed is None or passed >= 0:
            self.store(passed)

    def take(self, share: int, budget: int, taken: str) -> None:
        hints = self.watches.read() if self.watches is not None else Hints()
        chunks = self.tailer.poll(
            self.now,
            dirty=hints.moved,
            written=hints.written,
            share=share,
            budget=budget,
            match=match,
            look=3,
        )
        for chunk in chunks:
            self.examine(chunk, taken)
        if not self.tailer.is_sweeping():
            self.tailer.begin_sweep()

    def examine(self, chunk: Chunk, taken: str) -> None:
        """Report what hits. `taken`: all, the first line only, or the first hit early, its record left open."""
        if chunk.hits is not None:
            assert list(chunk.hits) == match(chunk.data), "hits are those of the chunk"
        lines = chunk.data.splitlines(keepends=True)
        upto, told = chunk.end, 0
        if taken == "first" and len(lines) > 1:
            lines, upto = lines[:1], chunk.offset + len(lines[0])
        at = chunk.offset
        for number, line in enumerate(lines, chunk.line):
            if b"FAIL" in line and number > chunk.told:
                self.read.append(line.decode().rstrip("\n"))
                if taken == "early" and line.endswith(b"\n"):
                    upto, told = at, number
                    break
            at += len(line)
        self.tailer.commit(chunk, upto, told=told)

    def store(self, passed: int | None) -> None:
        """What a commit keeps: cursors and effects together."""
        for file in self.tailer.gone():
            self.cursors.pop(file, None)
        self.cursors |= {c.file: c for c in self.tailer.cursors(passed)}
        self.stored = len(self.read)

    def restart(self) -> None:
        """Die, and come back with what was stored."""
        self.end()
        del self.read[self.stored :]
        self.begin()

    def reborn(self, which: int) -> None:
        """Die; a log is deleted meanwhile, and the number is given to the new one at once, as ext4 does."""
        log = self.log(which)
        if not log.exists():
            return
        self.end()
        del self.read[self.stored :]
        self.forgive(log)
        was = log.stat()
        log.unlink()
        while not log.exists() or log.stat().st_size < was.st_size:
            self.write(which, 1)
        found = log.stat()
        cursor = self.cursors.pop(FileId(was.st_dev, was.st_ino), None)
        if cursor is not None:
            cursor = replace(cursor, file=FileId(found.st_dev, found.st_ino))
            self.cursors[cursor.file] = cursor
        self.begin()

    def finish(self) -> None:
        """Read to the end; check the laws."""
        for which in range(len(NAMES)):
            self.write(which, 1)
        for _ in range(12):
            self.now += 3
            self.take(1 << 20, 1 << 20, "all")
            self.tailer.poll(self.now, dirty=(), look=1000, match=lambda _: [], budget=0)
        self.end()
        torn = [x for x in self.read if x not in self.written]
        lost = [x for x in self.written if x not in self.read and x not in self.forgivable]
        twice = sorted({x for x in self.read if self.read.count(x) > 1})
        assert (torn, lost, twice) == ([], [], [])


FILE = st.integers(0, len(NAMES) - 1)
SHARE = st.sampled_from([1, 1 << 20])
TAKEN = st.sampled_from(["all", "all", "first", "early"])
PASSED = st.sampled_from([None, 0, 1, -1])
POLL = st.tuples(st.just("poll"), SHARE, SHARE, TAKEN, PASSED)
DEEDS = st.one_of(
    *(st.tuples(st.just(name), FILE) for name in ("write_part", "rotate", "truncate", "swap")),
    *(st.tuples(st.just(name), FILE) for name in ("refill", "recreate", "reborn")),
    st.tuples(st.just("write"), FILE, st.integers(1, 4)),
    st.tuples(st.just("write"), FILE, st.integers(1, 4)),
    *(POLL, POLL, POLL, POLL),
    *(st.tuples(st.just(name)) for name in ("restart", "switch")),
)


ALL, EARLY = (("poll", 1 << 20, 1 << 20, taken, None) for taken in ("all", "early"))
FIRST = ("poll", 1 << 20, 1 << 20, "first", None)
HITS = ("poll", 1 << 20, 1 << 20, "all", 0)
LINE = ("write", 0, 1)
# Programs that chance finds too late: each breaks a mutant or two. Behind each: how many files may be open.
STORIES = (
    ([LINE, ALL, LINE, ALL, ("restart",), ALL], 2048),
    ([("write", 0, 3), ALL, ALL, ("refill", 0), ALL], 2048),
    ([("write", 0, 3), ALL, LINE, ALL, ("refill", 0), ALL], 2048),
    ([LINE, ALL, LINE, ALL, LINE, ALL, LINE, ALL, ("reborn", 0), ALL], 2048),
    ([("write", 0, 3), ALL, ALL, ("refill", 0), ALL], 0),
    ([LINE, ALL, ALL, LINE, ALL], 0),
    ([LINE, EARLY, ("restart",), ALL], 2048),
    ([LINE, EARLY, ("write", 1, 1), ("refill", 0), ALL], 2048),
    ([LINE, EARLY, ("write", 1, 1), ("reborn", 0), ALL], 2048),
    ([LINE, HITS, ("restart",), ALL], 2048),
    ([LINE, ("write", 1, 1), ("write", 2, 1), ALL], 2048),
    ([("write", 0, 3), FIRST, ALL], 2048),
    ([("write_part", 0), ALL], 2048),
)


def laws(tailer_type: type[Tailer], examples: int):
    """The interpreter for a tailer or a mutant of one."""

    @settings(
        max_examples=examples,
        deadline=None,
        derandomize=True,
        database=None,
        report_multiple_bugs=False,
    )
    @given(st.lists(DEEDS, min_size=12, max_size=40), st.sampled_from([0, 1, 2048]))
    def hold(deeds, max_open):
        base = Path(tempfile.mkdtemp())
        program = Program(base, tailer_type, max_open)
        try:
            for name, *arguments in deeds:
                getattr(program, name)(*arguments)
            program.finish()
        finally:
            program.end()
            shutil.rmtree(base)

    for deeds, max_open in STORIES:
        hold = example(deeds, max_open)(hold)
    return hold


def test_every_line_that_hits_is_reported_once():
    """Under any program of writes, rotations, truncations, inodes used again, sessions, crashes and small budgets."""
    laws(Tailer, 300)()


MUTANTS = {
    "the anchor is not looked at": (Batch, "take", " or not data.startswith(anchor, start)", ""),
    "hits in the anchor count": (Batch, "matched", "hits[at] < base", "hits[at] < 0"),
    "hits are those of the buffer": (Batch, "matched", "h - base", "h"),
    "lines are given that are being written": (
        *(Batch, "take"),
        'whole = data.rfind(b"\\n", first, end) + 1',
        "whole = end",
    ),
    "no newline between two files": (Batch, "take", "self.used = whole", "self.used = whole - 1"),
    "a file is not proved when it is opened": (
        Followed,
        "prove",
        "crc32(data) != self.crc",
        "False",
    ),
    "the last bytes are few": (Tailer, "_advance", "[-ANCHOR:])[-ANCHOR:]", "[-64:])[-64:]"),
    "the last bytes of what says nothing are few": (Tailer, "_pass", "- ANCHOR", "- 64"),
    "what proves a file is not added to": (
        *(Tailer, "_pass"),
        "file.crc = crc32(view[first:whole], file.crc)",
        "pass",
    ),
    "a long proof is cut without a look": (
        *(Followed, "prove"),
        "if crc32(data) != self.crc:",
        "if self.stretch <= STRETCH and crc32(data) != self.crc:",
    ),
    "a resting file forgets what proves it": (Resting, "put", "cursor.crc", "0"),
    "a resting file forgets what was told": (Resting, "put", "cursor.told_crc", "0"),
    "what was told is not kept": (
        Followed,
        "tell",
        "(0, 0) if crc is None else (told, crc)",
        "0, 0",
    ),
    "what was told is believed of any lines": (
        *(Followed, "told_of"),
        "if self.told and",
        "if False and",
    ),
    "effects are stored without cursors": (
        *(Roster, "cursors"),
        "keys, self._moved = self._moved, {}",
        "keys = {}",
    ),
    "cursors are stored of what was not committed": (
        *(Tailer, "commit"),
        "chunk.data[: upto - chunk.offset]",
        "chunk.data",
    ),
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_the_laws_catch_a_mutant(mutant, monkeypatch):
    """The same interpreter finds a program that breaks each wrong way to read."""
    owner, name, right, wrong = MUTANTS[mutant]
    text = textwrap.dedent(inspect.getsource(getattr(owner, name)))
    assert right in text
    names: dict[str, object] = {}
    exec(
        "from __future__ import annotations\n" + text.replace(right, wrong),
        vars(inspect.getmodule(owner)),
        names,
    )
    monkeypatch.setattr(owner, name, names[name])

    with pytest.raises(AssertionError):
        laws(Tailer, 1)()  # and the stories
