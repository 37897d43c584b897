"""A stream of a whole file -> what it says, in bounded memory: what scan and explain share."""

from __future__ import annotations

import io
import os
import sys
from dataclasses import dataclass
from datetime import tzinfo
from typing import Protocol

from raywatch.core.crowds import Crowds
from raywatch.core.records import LineNumbers
from raywatch.core.repeats import STORM, Repeats
from raywatch.linecount import newlines
from raywatch.model import HIT_BITS, Chunk, Fact, FileId, Finding, Source
from raywatch.pipeline import Around, Engine, counted, examine

BLOCK = 1 << 20  # bytes read at a time; a longer line is cut
CONTEXT = 1 << 16  # bytes of what was examined that a record may reach back to
WINDOW = 1 << 26  # bytes in which a repeat is one; then its next line is read in full again
BUFFER = BLOCK + 2 * CONTEXT
_PART = 1 << 16  # bytes whose lines are counted at a time


class Stream(Protocol):
    """Where bytes come from, in order."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill a part of the buffer; 0 or None at the end."""


@dataclass(frozen=True, slots=True)
class Read:
    """What a stream said, and how many bytes it had. `lines` of a span that said anything: how many it has."""

    findings: tuple[Finding, ...]
    facts: tuple[Fact, ...]
    size: int
    lines: int | None = None


def examine_stream(
    engine: Engine,
    source: Source,
    stream: Stream,
    tz: tzinfo,
    *,
    span: tuple[int, int] | None = None,
    buffer: bytearray | None = None,
) -> Read:
    """Read a stream to its end and say what it says.

    `span`: only the records that begin in bytes span[0] to span[1] (not included) of a file that can be sought, both at
    the start of a line; lines are numbered from the first. `buffer`: of BUFFER bytes, for who reads many files; whatever
    it holds. Raises what the stream raises.
    """
    return _Reader(engine, source, stream, tz, span=span, buffer=buffer).read()


class _Reader:
    """The buffer holds, in this order: context, an open record, what is new. Only the last two are matched."""

    def __init__(
        self,
        engine: Engine,
        source: Source,
        stream: Stream,
        tz: tzinfo,
        *,
        span: tuple[int, int] | None,
        buffer: bytearray | None,
    ) -> None:
        self._engine, self._source, self._stream, self._tz = engine, source, stream, tz
        self._matcher = engine.matcher_of(source.component)
        self._buffer = bytearray(BUFFER) if buffer is None else buffer
        self._view = memoryview(self._buffer)
        self._base = 0  # offset in the file of the buffer's first byte
        self._floor = 0  # offset where the last record ended
        self._have = 0  # bytes in the buffer
        self._from = 0  # place in the buffer from which on is to be matched
        self._span = span or (0, sys.maxsize)
        self._stops = [self._span[1]] if span is None else [*span, span[1] + CONTEXT]
        self._lines = _Lines(stream, self._span[0])
        self._numbers: LineNumbers | None = None  # of the block in hand, where it was examined
        if span is not None:
            if not isinstance(stream, io.FileIO):
                raise TypeError("only of a plain file a span can be read")
            self._base = self._floor = max(0, span[0] - CONTEXT)
            stream.seek(self._base)
        self._repeats = Repeats(engine.ruleset)
        self._crowds = Crowds()
        self._forget_at = WINDOW
        self._findings: list[Finding] = []
        self._facts: list[Fact] = []
        self._size = 0

    def read(self) -> Read:
        """Take everything in."""
        while True:
            ended = not self._fill()
            cut = self._have if ended else self._cut()
            if cut > self._from:
                self._take(cut, final=ended)
            if ended:
                break
        findings, facts = counted(self._engine, self._repeats, self._tz)
        self._findings += self._crowds.take(findings)
        self._facts += facts
        self._findings += self._crowds.rest()
        begin, end = self._span
        some = begin < end < sys.maxsize and (self._findings or self._facts)
        lines = self._lines.at(end) - 1 if some else None
        return Read(tuple(self._findings), tuple(self._facts), self._size, lines)

    def _fill(self) -> bool:
        """Read up to a block, not past the next stop; return whether anything came."""
        at = self._base + self._have
        while self._stops and self._stops[0] <= at:
            del self._stops[0]
        if not self._stops:
            return False
        goal = min(len(self._buffer), self._have + BLOCK, self._have + self._stops[0] - at)
        before = self._have
        while self._have < goal:
            got = self._stream.readinto(self._view[self._have : goal])
            if not got:
                break
            self._have += got
        self._size += self._have - before
        return self._have > before

    def _cut(self) -> int:
        """Return where the last whole line ends; a line that fills the buffer is cut."""
        newline = self._buffer.rfind(b"\n", self._from, self._have)
        if newline < 0 and self._have < len(self._buffer):
            return 0
        return newline + 1 if newline >= 0 else self._have

    def _take(self, cut: int, *, final: bool) -> None:
        self._numbers = None
        packed = self._matcher.packed(self._view[self._from : cut])
        if packed:
            self._from = self._examine(cut, packed, final=final)
        else:
            self._from = cut
        self._move()

    def _examine(self, cut: int, packed: list[int], *, final: bool) -> int:
        """Say what the hits mean; return the place behind the last record that is whole."""
        shift = self._from << HIT_BITS
        hits = [p + shift for p in packed] if shift else packed
        data = bytes(self._view[:cut])
        line = self._lines.at(self._base)
        self._numbers = LineNumbers(data, line)
        chunk = Chunk(
            self._source, FileId(0, 0), self._base, line, data, 0.0, final=final, hits=hits
        )
        begin, end = self._span
        inside = begin <= self._base + self._from and chunk.end <= end
        seen = examine(
            self._engine,
            chunk,
            self._tz,
            around=Around(self._numbers, max(0, self._floor - self._base)),
            repeats=self._repeats if inside and len(hits) >= STORM else None,
        )
        mine = (f for f in seen.findings if begin <= f.evidence.offset < end)
        self._findings += self._crowds.take(mine)
        self._facts += (f for f in seen.facts if begin <= f.evidence.offset < end)
        self._floor = max(self._floor, seen.ended)
        return seen.upto - self._base

    def _move(self) -> None:
        """Keep what is not matched yet and its context, at the front."""
        keep = self._from - CONTEXT
        if keep <= 0:
            return
        keep = min(self._from, self._buffer.find(b"\n", keep) + 1 or self._from)
        if self._numbers is not None:
            self._lines.known(self._base + keep, self._numbers.of(keep))
            self._numbers = None
        else:
            self._lines.passed(self._view[:keep])
        self._base += keep
        self._view[: self._have - keep] = self._view[keep : self._have]
        self._have -= keep
        self._from -= keep
        if self._base > self._forget_at:
            self._forget_at = self._base + WINDOW
            self._repeats.forget()


class _Lines:
    """How many lines were passed. A plain file is only counted once somebody asks: it can be read again."""

    def __init__(self, stream: Stream, offset: int) -> None:
        self._file = stream if isinstance(stream, io.FileIO) else None
        self._line, self._counted = 1, offset

    def known(self, offset: int, line: int) -> None:
        """Take the number of the line at an offset from who has counted it."""
        self._counted, self._line = offset, line

    def passed(self, part: memoryview) -> None:
        """Take in that a part of the stream is given up."""
        if self._file is None:
            self._line += newlines(bytes(part))

    def at(self, offset: int) -> int:
        """Return the number of the line at an offset, which was passed or is the context of a span."""
        if self._file is None:
            return self._line
        if offset < self._counted:
            return self._line - self._between(offset, self._counted)
        self._line += self._between(self._counted, offset)
        self._counted = offset
        return self._line

    def _between(self, begin: int, end: int) -> int:
        return newlines_of(self._file.fileno(), begin, end) if self._file is not None else 0


def newlines_of(fd: int, begin: int, end: int) -> int:
    """Count the lines that end in bytes `begin` to `end` (not included) of an open file. Raises OSError."""
    found = 0
    while begin < end:
        part = os.pread(fd, min(_PART, end - begin), begin)
        if not part:
            break
        found += newlines(part)
        begin += len(part)
    return found
