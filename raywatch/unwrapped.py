"""A stream without what others put around its lines, which knows the line that each of its own was."""

from __future__ import annotations

import codecs
import re
from bisect import bisect_right
from collections.abc import Sequence
from dataclasses import replace
from datetime import tzinfo

from raywatch.core.wrappers import Wrapping
from raywatch.linecount import newlines
from raywatch.model import Fact, Finding, Source
from raywatch.pipeline import Engine
from raywatch.reading import Read, Stream, examine_stream

_BLOCK = 1 << 18  # bytes taken at a time
HEAD = 4 << 20  # bytes of a stream that are kept, to be shown
_SAMPLE = 1 << 16  # bytes of a stream that say what its layers are
_LINE = 1 << 20  # bytes of a line that are kept together
_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
# A block without any of these has nothing to be undone, where its text has no layers.
_UNUSUAL = re.compile(
    rb"\r(?!\n)|\x1b|&(?:gt|lt|quot|amp|apos|nbsp|#)|\xc2\xa0|\xe2\x80\x8b|\[\d{1,2}m|(?:it/s|s/it|B/s)[^\n\]]{0,200}\][^\n]"
    rb"|(?:ERROR|INFO|WARNING|CRITICAL) \d\d-\d\d \d\d:|File \\\"|Traceback \(most recent call last\):(?:[ \t]*[^\s]|\\n)"
    rb"|[^\s|+][^\n]{0,400} Traceback \(most|^```| - \[rank\d",
    re.MULTILINE,
)


class Unwrapped:
    """Bytes of a stream, in UTF-8, without its layers."""

    def __init__(self, raw: Stream, *, pasted: bool = True) -> None:
        """Read the first block, which says what the layers are.

        `pasted`: what people, terminals and web pages do to lines is undone too, where there are no layers.
        """
        self._pasted = pasted
        self._raw, self._buffer = raw, memoryview(bytearray(_BLOCK))
        self._left = b""  # of the stream: a line that is not whole yet
        self._ready = b""  # to be given
        self._ended = False
        self.head = b""  # what the stream began with, as it was
        head = self._take()
        bom, encoding = next((b for b in _BOMS if head.startswith(b[0])), (b"", "utf-8"))
        self._decoder = (
            None if encoding == "utf-8" else codecs.getincrementaldecoder(encoding)("replace")
        )
        self._left = self._decoded(head[len(bom) :])
        self._wrapping = Wrapping(self._left[:_SAMPLE].decode(errors="replace"))
        self._line = self._own = 1  # the next line, there and here
        self._known: list[tuple[int, int]] = [
            (1, 1)
        ]  # (line here, line there) from which on both count alike
        self._times: list[tuple[int, float]] = []  # (line here, time) from which on it is so late
        # The start of a line that goes on, and how many lines it has.
        self._begun, self._parts = b"", 0

    @property
    def layers(self) -> int:
        """How many layers were found."""
        return self._wrapping.layers

    @property
    def lines(self) -> int:
        """How many lines the stream had, once it was read."""
        return self._line - 1

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill a part of the buffer; 0 at the end."""
        while not self._ready and not (self._ended and not self._left):
            self._more()
        size = min(len(self._ready), len(buffer))
        buffer[:size] = self._ready[:size]
        self._ready = self._ready[size:]
        return size

    def line_there(self, line: int) -> int:
        """Return the number in the stream of a line here."""
        own, there = self._known[bisect_right(self._known, (line, 1 << 62)) - 1]
        return there + line - own

    def time_of(self, line: int) -> float | None:
        """Return the time that a layer gave a line here, or the nearest one above; unix seconds."""
        place = bisect_right(self._times, (line, float("inf"))) - 1
        return self._times[place][1] if place >= 0 else None

    def _take(self) -> bytes:
        size = self._raw.readinto(self._buffer) or 0
        self._ended = not size
        data = bytes(self._buffer[:size])
        if len(self.head) < HEAD:
            self.head += data
        return data

    def _decoded(self, data: bytes) -> bytes:
        if self._decoder is None:
            return data
        return self._decoder.decode(data, final=self._ended).encode(errors="replace")

    def _more(self) -> None:
        data = self._left
        cut = data.rfind(b"\n") + 1
        if not cut and not self._ended and len(data) < _LINE:
            self._left = data + self._decoded(self._take())
            if not self._ended:
                return
            data, cut = self._left, self._left.rfind(b"\n") + 1
        if self._ended or not cut:
            cut = len(data)
        whole, self._left = data[:cut], data[cut:]
        if self.layers or (self._pasted and _UNUSUAL.search(whole)):
            self._ready += self._unwrapped(whole)
        else:
            self._ready += whole
            passed = newlines(whole)
            self._line += passed
            self._own += passed
        if not self._left and not self._ended:
            self._left = self._decoded(self._take())

    def _unwrapped(self, data: bytes) -> bytes:
        told: list[bytes] = []
        ends = data.endswith(b"\n")
        for row in data.removesuffix(b"\n").split(b"\n"):
            if not self.layers and not _UNUSUAL.search(row + b"\n"):
                told += self._placed([row])
                continue
            line = self._wrapping.off(row.removesuffix(b"\r").decode(errors="replace"))
            if line.at is not None and (not self._times or int(self._times[-1][1]) != int(line.at)):
                self._times.append((self._own, line.at))
            texts = [t.encode(errors="replace") for t in line.texts]
            if line.goes_on and len(self._begun) < _LINE:
                self._begun += b"".join(texts)
                self._line, self._parts = self._line + 1, self._parts + 1
            else:
                texts[0] = self._begun + texts[0]
                told += self._placed(texts)
        if told and not ends:  # what follows is the rest of its last line
            self._line, self._own = self._line - 1, self._own - 1
        return b"\n".join(told) + (b"\n" if told and ends else b"")

    def _placed(self, texts: Sequence[bytes]) -> Sequence[bytes]:
        """Note which line of the stream some lines here were."""
        there = self._line - self._parts
        self._begun, self._parts = b"", 0
        for _ in texts:
            if self.line_there(self._own) != there:
                self._known.append((self._own, there))
            self._own += 1
        self._line += 1
        return texts


def is_wrapped(head: bytes) -> bool:
    """Say whether a text that begins so has something to be taken off: a mark of its encoding, layers around its lines."""
    if head.startswith(tuple(mark for mark, _ in _BOMS)):
        return True
    return Wrapping(head[:_SAMPLE].decode(errors="replace")).layers > 0


def examine_unwrapped(engine: Engine, source: Source, stream: Unwrapped, tz: tzinfo) -> Read:
    """Say what a text says without its layers: lines are those of the stream, layers date what has no time itself."""
    seen = examine_stream(engine, source, stream, tz)
    findings = tuple(_there(f, stream) for f in seen.findings)
    facts = tuple(_fact_there(f, stream) for f in seen.facts)
    return replace(seen, findings=findings, facts=facts)


def _there(finding: Finding, stream: Unwrapped) -> Finding:
    evidence = finding.evidence
    at = None if finding.dated else stream.time_of(evidence.line)
    evidence = replace(
        evidence, line=stream.line_there(evidence.line), at=at if at is not None else evidence.at
    )
    if at is None:
        return replace(finding, evidence=evidence)
    return replace(finding, evidence=evidence, at=at, dated=True)


def _fact_there(fact: Fact, stream: Unwrapped) -> Fact:
    at = fact.at or stream.time_of(fact.evidence.line) or 0.0
    line = stream.line_there(fact.evidence.line)
    return replace(fact, at=at, evidence=replace(fact.evidence, line=line, at=at or None))
