"""A stream of a whole file -> what it says: what scan and explain share.

An adapter over blocks with the interface that is to come; a part of a file costs as much as all before it.
"""

from __future__ import annotations

import io
from collections.abc import Iterator
from dataclasses import dataclass, replace
from datetime import tzinfo
from typing import Protocol, TypeVar

from raywatch.model import Fact, Finding, Source
from raywatch.pipeline import Engine
from raywatch.pipeline import examine_stream as examine_blocks

BLOCK = 1 << 20  # bytes read at a time
_Told = TypeVar("_Told", Finding, Fact)


class Stream(Protocol):
    """Where bytes come from, in order."""

    def readinto(self, buffer: memoryview, /) -> int | None:
        """Fill a part of the buffer; 0 or None at the end."""


@dataclass(frozen=True, slots=True)
class Read:
    """What a stream said, and how many bytes it had."""

    findings: tuple[Finding, ...]
    facts: tuple[Fact, ...]
    size: int


def examine_stream(
    engine: Engine,
    source: Source,
    stream: Stream,
    tz: tzinfo,
    *,
    span: tuple[int, int] | None = None,
) -> Read:
    """Read a stream to its end and say what it says.

    `span`: only the records that begin in bytes span[0] to span[1] (not included) of a file that can be sought, both at
    the start of a line; lines are numbered from the first. Raises what the stream raises.
    """
    blocks = _Blocks(stream, span[0] if span else 0)
    seen = examine_blocks(engine, source, iter(blocks), tz, None)
    if span is None:
        return Read(seen.findings, seen.facts, blocks.size)
    if not isinstance(stream, io.FileIO):
        raise TypeError("only of a plain file a span can be read")
    begin, end = span
    findings = tuple(
        _moved(f, blocks.lines) for f in seen.findings if begin <= f.evidence.offset < end
    )
    facts = tuple(_moved(f, blocks.lines) for f in seen.facts if begin <= f.evidence.offset < end)
    return Read(findings, facts, end - begin)


class _Blocks:
    """A stream as blocks, with its size and how many lines it has before `begin`."""

    def __init__(self, stream: Stream, begin: int) -> None:
        self._stream, self._begin = stream, begin
        self.size = self.lines = 0

    def __iter__(self) -> Iterator[bytes]:
        buffer = bytearray(BLOCK)
        while size := self._stream.readinto(memoryview(buffer)):
            block = bytes(buffer[:size])
            self.lines += block.count(b"\n", 0, max(0, self._begin - self.size))
            self.size += size
            yield block


def _moved(told: _Told, lines: int) -> _Told:
    return replace(told, evidence=replace(told.evidence, line=told.evidence.line - lines))
