"""Paths -> pieces of work of bounded size, and what a piece says: the same wherever it is read, here or elsewhere."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from datetime import tzinfo
from typing import NamedTuple, TypeVar

from raywatch.archive import (
    Member,
    Plain,
    Stream,
    Tick,
    files_of,
    is_tar,
    is_url,
    members_of,
    no_tick,
    packing_of,
)
from raywatch.collect.raylogs import describe, is_binary
from raywatch.model import Fact, Finding, RaywatchError
from raywatch.nodes import node_of_raylet
from raywatch.pipeline import Engine
from raywatch.reading import BUFFER, examine_stream, newlines_of
from raywatch.unwrapped import Unwrapped, examine_unwrapped, is_wrapped

SPAN = 1 << 26  # bytes of one piece of a large file
_FEW = 8 << 20  # bytes of small files that go together
_MANY = 256  # small files that go together
_LINE = 1 << 20  # bytes in which a cut looks for the end of a line; reading cuts a longer one too
_SKIP = frozenset(["commands.log"])  # people's own notes beside logs
_Told = TypeVar("_Told", Finding, Fact)


class Piece(NamedTuple):
    """A file, or the records that begin in a part of it. `size`: bytes that are to be read, as they lie there."""

    path: str
    size: int
    span: tuple[int, int] | None = None


Task = tuple[Piece, ...]


@dataclass(slots=True)
class Report:
    """What a task's pieces said; findings of parts of a file count lines from the part's first.

    `nodes`: node ids by the files of the raylets that named them. `damaged`: (path, why).
    `lines` of a part: how many it has, where they were counted.
    """

    files: int = 0
    size: int = 0
    findings: list[Finding] = field(default_factory=list)
    facts: list[Fact] = field(default_factory=list)
    nodes: dict[str, str] = field(default_factory=dict)
    damaged: list[tuple[str, str]] = field(default_factory=list)
    lines: int | None = None


Done = tuple[int, Task, Report]  # a task's number in their order, from 0


class ScanError(RaywatchError):
    """A scan that could not go on."""


def tasks_of(paths: Iterable[str], span: int = SPAN) -> Iterator[Task]:
    """Cut what is at `paths` into tasks, the same ones each time; `span`: bytes of a part. Raises ArchiveError."""
    few: list[Piece] = []
    for piece in _pieces(paths, span):
        if piece.span is not None or piece.size >= _FEW:
            if few:
                yield tuple(few)
                few = []
            yield (piece,)
            continue
        few.append(piece)
        if len(few) == _MANY or sum(p.size for p in few) >= _FEW:
            yield tuple(few)
            few = []
    if few:
        yield tuple(few)


def size_of(paths: Iterable[str]) -> int:
    """Return how many bytes a scan of `paths` reads. Raises ArchiveError."""
    return sum(piece.size for task in tasks_of(paths) for piece in task)


def _pieces(paths: Iterable[str], span: int) -> Iterator[Piece]:
    for path in paths:
        for file, size in files_of(path):
            yield from _parts(file, size, span)


def _parts(file: str, size: int, span: int) -> Iterator[Piece]:
    if size < 2 * span or is_url(file) or packing_of(file) or is_tar(file):
        yield Piece(file, size)
        return
    try:
        with Plain(file) as stream:
            if is_binary(stream.head()) or _is_wrapped(file, stream.head()):
                yield Piece(file, size)
                return
            begin = 0
            while begin < size:
                end = _line_start(stream, begin + span, size)
                yield Piece(file, end - begin, (begin, end))
                begin = end
    except OSError:
        yield Piece(file, 0)  # who reads it will say why it cannot be read


def _is_wrapped(file: str, head: bytes) -> bool:
    """Say whether a file of an unknown kind is read without what stands before its lines, which needs its beginning."""
    source = describe(file)
    return source is not None and source.component == "unknown" and is_wrapped(head)


def _is_bare(stream: Stream) -> bool:
    """Say whether a stream is a file with nothing around its lines, which need not be counted before somebody asks."""
    return isinstance(stream, Plain) and not is_wrapped(stream.head())


def _line_start(stream: Plain, at: int, size: int) -> int:
    """Return where the first line begins behind a place in a file; what grows behind `size` is not read."""
    if at >= size:
        return size
    part = os.pread(stream.fileno(), _LINE, at - 1)
    found = part.find(b"\n")
    return min(size, at + found if found >= 0 else at - 1 + len(part))


def examine_task(engine: Engine, task: Task, zone: tzinfo, tick: Tick = no_tick) -> Report:
    """Read a task's files and say what they say. What cannot be read is in `damaged`; raises what `tick` raises."""
    report = Report()
    buffer = bytearray(BUFFER)  # one for all: the kernel need not make each anew
    for piece in task:
        for member in members_of(piece.path, tick):
            _examine(engine, member, piece, zone, report, buffer=buffer)
    return report


def _examine(
    engine: Engine, member: Member, piece: Piece, zone: tzinfo, report: Report, *, buffer: bytearray
) -> None:
    path, stream = member
    source = describe(path) if path.rpartition("/")[2] not in _SKIP else None
    if source is not None:
        unknown = replace(source, node="")  # `nodes` tell it, once all are known
        if source.component == "unknown" and piece.span is None and not _is_bare(stream):
            seen = examine_unwrapped(engine, unknown, Unwrapped(stream, pasted=False), zone)
        else:
            seen = examine_stream(engine, unknown, stream, zone, span=piece.span, buffer=buffer)
        report.lines = seen.lines
        report.findings += seen.findings
        report.facts += seen.facts
        report.size += seen.size if piece.span is None else piece.size  # less the context
        report.files += piece.span is None or piece.span[0] == 0
        node = node_of_raylet(path, stream.head())
        if node:
            report.nodes[path] = node
    if stream.why:
        report.damaged.append((path, stream.why))


def count_lines(piece: Piece) -> int:
    """Count the lines of a part of a plain file. Raises OSError."""
    with Plain(piece.path) as stream:
        return newlines_of(stream.fileno(), *(piece.span or (0, piece.size)))


class Lines:
    """Puts the reports of a file's parts, in their order, to the lines of the whole file."""

    def __init__(self) -> None:
        self._path = ""
        self._before: list[Piece] = []  # parts that nobody needed to count yet
        self._line = 0  # lines of those before them

    def of(self, task: Task, report: Report) -> Report:
        """Return the report with line numbers of the file. Raises OSError where a part must be counted and cannot be."""
        piece = task[0]
        if piece.span is None:
            return report
        if piece.span[0] == 0 or piece.path != self._path:
            self._path, self._before, self._line = piece.path, [], 0
        if report.lines is None:
            self._before.append(piece)
            return report
        self._line += sum(map(count_lines, self._before))
        self._before = []
        shift = self._line
        self._line += report.lines
        return replace(
            report,
            findings=[_shifted(f, shift) for f in report.findings],
            facts=[_shifted(f, shift) for f in report.facts],
        )


def _shifted(told: _Told, lines: int) -> _Told:
    return replace(told, evidence=replace(told.evidence, line=told.evidence.line + lines))
