"""Repeats of a storm are counted, not expanded: what a line says is known once a line of its shape was read.

A *shape* is a line without its digits, with the signatures that hit it. Of each shape and each *identity* (whom it
names: ids, ranks, addresses, processes) the first line is expanded into a record as ever; what follows is counted, and
the last of it stands for all of them when `drain` is asked. The counts are those that expanding each line would give:
a hit is counted only where its record is its own line and nothing else, which the lines around it tell (the rules are
those of core/records.py, for one line).
"""

from __future__ import annotations

import re
from bisect import bisect_left
from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import NamedTuple

from raywatch.core.records import LineNumbers, starts_record
from raywatch.core.signatures import Ruleset, Signature
from raywatch.model import HIT_BITS, Chunk, Record

STORM = 64  # hits at once, from which repeats are looked for
MAX_SHAPES = 4096  # that are remembered; then all are forgotten and learned again
MAX_IDENTITIES = 1024  # of one shape; whoever comes later is counted with the others
SURE = 4096  # lines of one shape that are asked whom they name; from then on each SAMPLEth is
SAMPLE = 64
_MASK = (1 << HIT_BITS) - 1
_HEAD = 512  # bytes of a line that make its shape
_WINDOW = 65_536  # as far as a record's lines are looked for
_DIGITS = b"0123456789"
# Captured names that say who: subjects and entities of core/classify.py.
_NAMING = re.compile(r"rank|pid|_id$|_ip$|^(?:ip|node|actor|worker|job|run_name|device|session)$")
_ANSI = rb"(?:\x1b\[[0-9;?]*[A-Za-z])*"
# The stream prefix of core/records.py on raw bytes, colours included.
_STREAM = re.compile(
    rb"(?:"
    + _ANSI
    + rb"(?:\([A-Za-z_][\w.:<>]*(?: \+\S+)?(?: pid=\d+)?(?:, ip=[\d.]+)?\)|\[(?:rank|default)\d+\]:"
    rb"|\[\d+\]<std(?:err|out)>:)" + _ANSI + rb" ?)+"
)
_CONTINUES = re.compile(rb"[\s|^\x1b]|\Z|Traceback \(most|During handling of|The above exception")
_PAIR = re.compile(rb" (?:job_id|worker_id|node_id|actor_id)=[0-9a-f]+")
_JSON = re.compile(
    rb'"(?:job_id|worker_id|node_id|actor_id|run_name|world_rank|component|label)": ?"?[^",}]*'
)
_DATED, _OBJECT, _PLAIN, _PART = b"D", b"J", b"P", b""  # what a line is; else its stream prefix
_OWN = (_DATED, _OBJECT, _PLAIN)


def kind_of(head: bytes) -> bytes:
    """Say what a line that begins so is to the lines around it; empty for what may belong to them."""
    if head.startswith(b'{"'):
        return _OBJECT
    if starts_record(head):
        return _DATED
    stream = _STREAM.match(head)
    if stream:
        return _PART if _CONTINUES.match(head, stream.end()) else stream[0]
    return _PART if _CONTINUES.match(head) else _PLAIN


class _Rule:
    """What of a signature matters to repeats."""

    def __init__(self, signature: Signature) -> None:
        self.fact = bool(signature.fact)
        self.unless = tuple(re.compile(p.pattern.encode(), re.MULTILINE) for p in signature.unless)
        self.naming = tuple(
            (re.compile(p.pattern.encode(), re.MULTILINE), names)
            for p in signature.capture
            if (names := tuple(n for n in p.groupindex if _NAMING.search(n)))
        )


class Line(NamedTuple):
    """A line alone, out of a chunk of its file."""

    chunk: Chunk  # that it stood in, without its data
    offset: int
    number: int
    data: bytes
    last_at: float | None

    def alone(self) -> Chunk:
        """Return it as a chunk."""
        return replace(self.chunk, offset=self.offset, line=self.number, data=self.data, final=True)


@dataclass(slots=True, eq=False)
class _Repeat:
    """Lines of one shape that name the same."""

    count: int = 0  # since it was drained
    fresh: int = 0  # of the chunk that is being sifted
    last: tuple[int, int] = (0, 0)
    line: Line | None = None  # the last that was counted


@dataclass(slots=True, eq=False)
class _Shape:
    signatures: tuple[int, ...]
    kind: bytes
    rules: tuple[_Rule, ...]
    known: dict[object, _Repeat] = field(default_factory=dict)
    latest: _Repeat | None = None
    asked: int = 0
    fact: bool = False
    unless: bool = False


_Row = tuple[int, int, _Shape]


class Repeats:
    """What is known of the lines of some files. Not for two threads at once."""

    def __init__(self, ruleset: Ruleset) -> None:
        self._rules = [_Rule(s) for s in ruleset.signatures]
        self._shapes: dict[object, _Shape] = {}
        self._waiting: list[_Repeat] = []
        self._starts: list[int] = []
        self._fresh: list[_Repeat] = []

    @property
    def pending(self) -> bool:
        """Whether `drain` has something to give."""
        return bool(self._waiting)

    def forget(self) -> None:
        """Begin anew, for another file or time: the next line of every shape is expanded. Counts are kept."""
        self._shapes.clear()

    def drain(self) -> list[tuple[Line, int]]:
        """Return the last line of what was counted, and how many it stands for."""
        drained = [(r.line, r.count) for r in self._waiting if r.line is not None]
        for repeat in self._waiting:
            repeat.count, repeat.line = 0, None
        self._waiting = []
        return drained

    def sift(self, chunk: Chunk, packed: Sequence[int]) -> list[int]:
        """Return the hits to expand; `take` or `give_up` says what becomes of the others."""
        self._starts, self._fresh = [], []
        if len(self._shapes) > MAX_SHAPES:
            self.forget()
        rows = self._rows(chunk, packed)
        expand: list[int] = []
        starts = self._starts
        for at, (start, end, shape) in enumerate(rows):
            if not shape.fact and _stands_alone(chunk, rows, at):
                repeat = self._repeat(chunk, shape, start, end)
                if repeat is not None:
                    if not repeat.fresh:
                        self._fresh.append(repeat)
                    repeat.fresh += 1
                    repeat.last = (start, end)
                    starts.append(start)
                    continue
            expand += [end << HIT_BITS | s for s in shape.signatures]
        return expand

    def _rows(self, chunk: Chunk, packed: Sequence[int]) -> list[_Row]:
        """One row a line: its bounds and its shape."""
        data, shapes = chunk.data, self._shapes
        source = (chunk.source.path, chunk.source.node)
        rows: list[_Row] = []
        at, n = 0, len(packed)
        while at < n:
            end = packed[at] >> HIT_BITS
            names: tuple[int, ...] = (packed[at] & _MASK,)
            at += 1
            while at < n and packed[at] >> HIT_BITS == end:
                names = (*names, packed[at] & _MASK)
                at += 1
            start = data.rfind(b"\n", 0, end) + 1
            head = data[start : min(end, start + _HEAD)]
            key = (names, head.translate(None, _DIGITS), source)
            shape = shapes.get(key)
            if shape is None:
                shape = shapes[key] = self._shape(names, head)
            rows.append((start, end, shape))
        return rows

    def _shape(self, names: tuple[int, ...], head: bytes) -> _Shape:
        rules = tuple(self._rules[n] for n in names)
        return _Shape(
            names,
            kind_of(head),
            rules,
            fact=any(r.fact for r in rules),
            unless=any(r.unless for r in rules),
        )

    def _repeat(self, chunk: Chunk, shape: _Shape, start: int, end: int) -> _Repeat | None:
        """Return whom a line repeats; None where it names somebody new."""
        shape.asked += 1
        if shape.asked > SURE and shape.asked % SAMPLE and not shape.unless:
            return shape.latest
        who = _identity(shape, chunk.data[start : min(end, start + 8 * _HEAD)])
        repeat = shape.known.get(who)
        if repeat is not None or len(shape.known) >= MAX_IDENTITIES:
            shape.latest = repeat or shape.latest
            return shape.latest
        shape.latest = shape.known[who] = _Repeat()
        return None

    def fits(self, records: Sequence[Record], upto: int, chunk: Chunk) -> bool:
        """Say whether no counted line is part of a record that was joined, nor behind the last one that was whole."""
        starts = self._starts
        if starts and starts[-1] + chunk.offset >= upto:
            return False
        for record in records:
            first = bisect_left(starts, record.offset - chunk.offset)
            if first < len(starts) and starts[first] + chunk.offset < record.end:
                return False
        return True

    def take(self, chunk: Chunk, numbers: LineNumbers, last_at: float | None) -> None:
        """Count what was not expanded."""
        data, bare = chunk.data, replace(chunk, data=b"", cut=False, rewritten=False, hits=None)
        for repeat in self._fresh:
            start, end = repeat.last
            if not repeat.count:
                self._waiting.append(repeat)
            repeat.count += repeat.fresh
            repeat.fresh = 0
            line = data[start:end] + b"\n"
            repeat.line = Line(bare, chunk.offset + start, numbers.of(start), line, last_at)

    def give_up(self) -> None:
        """Count nothing: everything will be expanded."""
        for repeat in self._fresh:
            repeat.fresh = 0


def _identity(shape: _Shape, line: bytes) -> object:
    found: list[object] = []
    if b"_id=" in line:
        found += _PAIR.findall(line)
    if shape.kind is _OBJECT:
        found += _JSON.findall(line)
    elif shape.kind not in _OWN:
        stream = _STREAM.match(line)
        found.append(stream[0] if stream else b"")
    for rule in shape.rules:
        found += [bool(p.search(line)) for p in rule.unless]
        for pattern, names in rule.naming:
            match = pattern.search(line)
            found.append(match.group(*names) if match else None)
    return tuple(found)


def _stands_alone(chunk: Chunk, rows: Sequence[_Row], at: int) -> bool:
    """Say whether the record of a hit is its own line. False where that cannot be seen."""
    start, end, shape = rows[at]
    kind, data = shape.kind, chunk.data
    if kind is _OBJECT:
        return True
    below = end + 1
    if kind is _PART or below >= len(data):
        return False
    if at + 1 < len(rows) and rows[at + 1][0] == below:
        after = rows[at + 1][2].kind
    else:
        after = kind_of(data[below : below + _HEAD])
    if kind is _DATED:
        return after is _DATED or after is _OBJECT
    if chunk.source.format != "text":
        return False  # it continues a dated record
    if kind is not _PLAIN:
        return _alone_in_stream(data, start, end)
    if after not in _OWN or not start:
        return False
    if at and rows[at - 1][1] + 1 == start:
        return rows[at - 1][2].kind in _OWN
    above = data.rfind(b"\n", 0, start - 1) + 1
    return kind_of(data[above : min(start - 1, above + _HEAD)]) in _OWN


def _alone_in_stream(data: bytes, start: int, end: int) -> bool:
    """The same where several processes share a file: what counts are the nearest lines of the same one."""
    stream = _STREAM.match(data, start, end)
    prefix = b"\n" + stream[0] if stream else b"\n"
    found = [
        data.find(prefix, end, end + _WINDOW),
        data.rfind(prefix, max(0, start - _WINDOW), start),
    ]
    places = [at + len(prefix) for at in found if at >= 0]
    if found[1] < 0 < start <= _WINDOW and data.startswith(
        prefix[1:]
    ):  # the first line has none before it
        places.append(len(prefix) - 1)
    return not any(_CONTINUES.match(data, at) for at in places)
