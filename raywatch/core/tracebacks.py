"""Where a traceback begins and ends in undated text, which several processes may share."""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from raywatch.core.prefixes import (
    ANSI,
    CHAIN,
    HEADER,
    MARKS,
    STREAM,
    STREAM_BYTES,
    is_indented,
    starts_record,
)

MAX_RECORD = 65_536  # bytes of one record that are kept
MAX_LINES = 400
_MARKED = (b"\n(", b"\n[", b"\n\x1b")  # before a line that another process may have written
# First characters, which spare most lines the regular expressions.
_OPENING, _CHAINING = " |+TErA", "DT["
_HEADS = "[{0123456789IWEF"  # what a dated line or an object begins with
_RAISED = re.compile(r"[A-Za-z_][\w.]{0,200}(?:Error|Exception)(?:\(\w+\))?: ")
_GROUP_END = re.compile(r" *\+-{20,}\s*\Z")


class Line(NamedTuple):
    """A line of undated text."""

    start: int
    end: int
    text: str  # without ANSI, carriage return and stream prefix
    stream: str  # who wrote it, in a file that several share

    @property
    def dated(self) -> bool:
        """Whether it opens a record of its own, behind the prefix of its process or without one."""
        return self.text[:1] in _HEADS and starts_record(self.text[:64].encode())

    @property
    def opens(self) -> bool:
        """Whether a traceback begins with it."""
        return self.text[:1] in _OPENING and HEADER.match(self.text) is not None

    @property
    def chains(self) -> bool:
        """Whether it leads from one traceback to the next."""
        return self.text[:1] in _CHAINING and CHAIN.match(self.text) is not None


def eol(data: bytes, start: int) -> int:
    """Return where the line that begins there ends."""
    end = data.find(b"\n", start)
    return len(data) if end < 0 else end


def line_of(data: bytes, start: int, end: int) -> Line:
    """Read one line of undated text, its first 4 KB."""
    raw = ANSI.sub(b"", data[start : min(end, start + 4096)]).rstrip(b"\r").decode(errors="replace")
    match = STREAM.match(raw) if raw[:1] in MARKS else None
    return Line(start, end, raw[match.end() :] if match else raw, match[0].strip() if match else "")


class Above:
    """The lines of its own process above a line, nearest first, bounded; each is looked at once, when it is asked for."""

    def __init__(self, data: bytes, own: Line, floor: int) -> None:
        self._data, self._own = data, own
        self._floor = max(floor, own.start - MAX_RECORD)
        self._lines: list[Line] = []
        # It knows nothing of this object: a ring of references would keep megabytes until garbage is looked for.
        self._more = _of_same_process(data, own, self._floor)

    def dated(self) -> int | None:
        """Return where the nearest record above begins, of whatever process."""
        data, end = self._data, self._own.start - 1
        for _ in range(MAX_LINES):
            if end <= self._floor:
                break
            start = data.rfind(b"\n", 0, end) + 1
            if starts_record(data[start : start + 64]):
                return start
            end = start - 1
        return None

    def __iter__(self) -> Iterator[Line]:
        yield from tuple(self._lines)
        for line in self._more:
            self._lines.append(line)
            yield line

    def down_to(self, line: Line) -> Sequence[Line]:
        """Return the lines between a line and the place, nearest to the place first."""
        return self._lines[: self._lines.index(line)]


def _of_same_process(data: bytes, own: Line, floor: int) -> Iterator[Line]:
    """Yield the lines of a line's process above it, nearest first, MAX_LINES of them at most."""
    left, end = MAX_LINES, own.start - 1
    before = newline_before(data, own)
    while left and end > floor:
        found = data.rfind(before, floor, end)
        if found < 0 and not data.startswith(before[1:], floor):
            return
        start = found + 1 if found >= 0 else floor
        line = line_of(data, start, eol(data, start))
        if line.stream == own.stream:
            left -= 1
            yield line
        end = start - 1


def newline_before(data: bytes, line: Line) -> bytes:
    """Return what stands before the text of every line of the same process: a newline and its prefix, colours and all.

    Thousands of lines of others may lie between two of one process: they need not be looked at.
    """
    if not line.stream:
        return b"\n"
    raw = data[line.start : min(line.end, line.start + 4096)]
    match = STREAM_BYTES.match(raw)
    return b"\n" + (match[0] if match else b"")


def traceback_start(own: Line, above: Above) -> int:
    """Find where the (chained) traceback begins that `own` belongs to; its own start if it is in none.

    What a logger wrote right above a traceback dates it and says how bad it is.
    """
    first, seen_body = own, own.opens
    if own.stream and own.dated:
        return own.start
    for line in above:
        if line.opens:
            first, seen_body = line, True
        elif is_indented(line.text) or line.chains or (seen_body and _leads_on(line, above)):
            continue
        elif first is own and own.text.startswith("\t") and _RAISED.match(line.text):
            first, seen_body = line, True  # Ray tells below its exceptions whom they are about
        else:
            if line.end + 1 == first.start and line.dated and first.opens:
                return line.start
            break
    return first.start


def _leads_on(line: Line, above: Above) -> bool:
    """Say whether an exception line is followed by a chain marker, so that the record goes on above it."""
    below = [b for b in above.down_to(line) if b.text.strip()]
    return bool(below) and below[-1].chains


def traceback_end(data: bytes, own: Line, start: int) -> int:
    """Find where it ends: indented lines, then the exception's own line, then chained ones."""
    is_frame = is_indented(own.text) and not own.text.startswith("\t")
    in_body = own.opens or (is_frame and start < own.start)
    raised = (
        not in_body and start < own.start
    )  # what begins behind an exception is another traceback
    end, at = own.end, own.end
    before = newline_before(data, own)
    for _ in range(MAX_LINES):
        at = data.find(before, at, own.end + MAX_RECORD)
        if at < 0 or at + 1 >= len(data):
            break
        line = line_of(data, at + 1, eol(data, at + 1))
        at = line.end
        if line.stream != own.stream:
            continue
        if line.dated:
            break
        if line.chains:
            raised, end = False, at
        elif line.opens and not raised:
            in_body, end = True, at
        elif line.text.strip() and is_indented(line.text):
            in_body, end = in_body and not _GROUP_END.match(line.text), at
        elif not line.text.strip():
            continue
        elif in_body:
            in_body, raised, end = False, True, at
        else:
            break
    return end


def own_lines(data: bytes, own: Line, start: int, end: int) -> list[int]:
    """Return where the lines of a part of a text begin that are of one process; empty where all are."""
    text = data[start:end]
    if own.stream:
        others = text.count(b"\n") > text.count(newline_before(data, own))
    else:
        others = any(mark in text for mark in _MARKED)
    if not others:
        return []
    kept: list[int] = []
    at, count = start, 0
    while at < end:
        stop = min(eol(data, at), end)
        count += 1
        if line_of(data, at, stop).stream == own.stream:
            kept.append(at)
        at = stop + 1
    return kept if len(kept) < count else []
