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
from functools import cached_property
from itertools import chain, islice
from typing import NamedTuple

from raywatch.core.prefixes import STREAM_BYTES, continues, starts_record
from raywatch.core.records import LineNumbers
from raywatch.core.signatures import Ruleset, Signature
from raywatch.model import HIT_BITS, Chunk, Record

STORM = 64  # hits at once, from which repeats are looked for
MAX_SHAPES = 4096  # that are remembered; then all are forgotten and learned again
MAX_IDENTITIES = 1024  # of one shape; whoever comes later is counted with the others
MAX_KEPT = 65_536  # of all shapes together, with the numbers that they are known by: some 20 MB
MAX_NEW = 128  # lines of one chunk that are expanded because they say something new, and
FEW = 2  # of one group of signatures at the least
SURE = 4096  # lines of one shape that are asked whom they name; from then on each SAMPLEth is
SAMPLE = 64
MANY = 1000
MAX_FACTS = 128  # of one shape and chunk that are expanded at each end, and
MAX_STEPS = 16  # where each says how far a run is: the newest is what counts
_MASK = (1 << HIT_BITS) - 1
_HEAD = 512  # bytes of a line that make its shape
_LONG = 8 * _HEAD  # bytes of it that say whom it names
_NEAR = 16  # lines of others that are passed over
_WINDOW = 65_536  # as far as a record's lines are looked for
_DIGITS = b"0123456789"
_NO_DIGITS = bytes(set(range(256)) - set(_DIGITS))
_DATE = 17  # digits of `2026-11-24 12:00:00,123`
# Captured names that say who: subjects and entities of core/classify.py.
_NAMING = re.compile(r"rank|pid|_id$|_ip$|^(?:ip|node|actor|worker|job|run_name|device|session)$")
_STREAM_BELOW = re.compile(rb"\n" + STREAM_BYTES.pattern)
_PAIR = re.compile(rb" (?:job_id|worker_id|node_id|actor_id)=[0-9a-f]+")
_JSON = re.compile(
    rb'"(?:job_id|worker_id|node_id|actor_id|run_name|world_rank|component|label)": ?"?[^",}]*'
)
# What a line is: dated, an object, plain, a part of what stands above, such a part of one of several processes; else
# the prefix of its process.
_DATED, _OBJECT, _PLAIN, _PART, _OTHERS_PART = b"D", b"J", b"P", b"-", b"+"
_OWN = (_DATED, _OBJECT, _PLAIN)


def kind_of(head: bytes) -> bytes:
    """Say what a line that begins so is to the lines around it."""
    if head.startswith(b'{"'):
        return _OBJECT
    if starts_record(head):
        return _DATED
    stream = STREAM_BYTES.match(head)
    if stream:
        return _OTHERS_PART if continues(head, stream.end()) else stream[0]
    return _PART if continues(head) else _PLAIN


class _Rule:
    """What of a signature matters to repeats."""

    def __init__(self, signature: Signature) -> None:
        self.fact = bool(signature.fact)
        self.is_progress = signature.fact == "run_step"
        self.unless = tuple(re.compile(p.encode(), re.MULTILINE) for p in signature.unless)
        captures = (re.compile(p.encode(), re.MULTILINE) for p in signature.capture)
        self.naming = tuple(
            (p, names)
            for p in captures
            if (names := tuple(n for n in p.groupindex if _NAMING.search(n)))
        )


class Line(NamedTuple):
    """A line alone, out of a chunk of its file."""

    chunk: Chunk  # that it stood in, without its data
    offset: int
    number: int
    data: bytes
    last_at: float | None
    signatures: tuple[int, ...]  # that hit it

    def alone(self) -> Chunk:
        """Return it as a chunk."""
        end = len(self.data) - 1 << HIT_BITS
        return replace(
            self.chunk,
            offset=self.offset,
            line=self.number,
            data=self.data,
            final=True,
            hits=[end | s for s in self.signatures],
        )


@dataclass(slots=True, eq=False)
class _Repeat:
    """Lines of one shape that name the same."""

    signatures: tuple[int, ...]
    count: int = 0  # since it was drained
    fresh: int = 0  # of the chunk that is being sifted
    last: tuple[int, int] = (0, 0)
    line: Line | None = None  # the last that was counted


@dataclass(slots=True, eq=False)
class _Group:
    """What signatures hit together in one file."""

    signatures: tuple[int, ...]
    rules: tuple[_Rule, ...]
    shapes: dict[bytes, _Shape] = field(default_factory=dict)
    crowds: dict[bytes, _Shape] = field(
        default_factory=dict
    )  # by kind: for who comes too late to be told apart
    latest: dict[tuple[bool, ...], _Repeat] = field(default_factory=dict)  # by what is excused
    sifted: int = 0  # number of the chunk that `new` is of
    new: int = 0


@dataclass(slots=True, eq=False)
class _Shape:
    group: _Group
    kind: bytes
    own: bool  # a line of one process, which ends the record above
    opens: bool  # dated, or an object
    fact: bool  # and nothing but facts
    unless: bool
    known: dict[object, _Repeat] = field(default_factory=dict)
    numbers: dict[object, _Repeat] = field(
        default_factory=dict
    )  # the same, by its digits and what is excused alone
    asked: int = 0


_Row = tuple[int, int, _Shape]
_Table = dict[int | tuple[int, ...], _Group]


class Repeats:
    """What is known of the lines of some files. Not for two threads at once."""

    def __init__(self, ruleset: Ruleset) -> None:
        self._signatures = ruleset.signatures
        self._rules: dict[int, _Rule] = {}  # of those that were hit
        self._tables: dict[tuple[str, str], _Table] = {}  # of each file
        self._size = 0  # shapes in all
        self._kept = 0  # identities and numbers in all
        self._number = 0  # of the chunk
        self._new = 0  # lines in it that are expanded because they say something new
        self._waiting: list[_Repeat] = []
        self._starts: list[int] = []
        self._fresh: list[_Repeat] = []

    @property
    def pending(self) -> bool:
        """Whether `drain` has something to give."""
        return bool(self._waiting)

    def forget(self) -> None:
        """Begin anew, for another file or time: the next line of every shape is expanded. Counts are kept."""
        self._tables.clear()
        self._size = self._kept = 0

    def drain(self) -> list[tuple[Line, int]]:
        """Return the last line of what was counted, and how many it stands for."""
        drained = [(r.line, r.count) for r in self._waiting if r.line is not None]
        for repeat in self._waiting:
            repeat.count, repeat.line = 0, None
        self._waiting = []
        return drained

    def sift(self, chunk: Chunk, packed: Sequence[int]) -> list[int]:
        """Return the hits to expand; `take` or `give_up` says what becomes of the others."""
        self._starts, self._fresh = starts, fresh = [], []
        self._number, self._new = self._number + 1, 0
        if self._size > MAX_SHAPES:
            self.forget()
        rows = self._rows(chunk, packed)
        expand: list[int] = []
        said: dict[int, list[_Row]] = {}
        log_format, streams = chunk.source.format, _Streams(chunk.data, len(rows))
        over, after = -1, rows[1:]
        after.append((-1, -1, rows[0][2]))
        above = rows[0][2]
        for row, below in zip(rows, after, strict=True):
            start, end, shape = row
            next_to = below[0] == end + 1  # the line below is a hit too; above: over + 1 == start
            if shape.opens:
                alone = next_to and below[2].opens
            else:
                alone = next_to and over + 1 == start and shape.own and below[2].own and above.own
                alone = alone and log_format == "text"
            over, above = end, shape
            if shape.fact:
                said.setdefault(id(shape), []).append(row)
            elif (not alone and not _stands_alone(chunk.data, row, log_format, streams)) or (
                repeat := self._repeat(chunk.data, row)
            ) is None:
                expand += [end << HIT_BITS | s for s in shape.group.signatures]
            else:
                if not repeat.fresh:
                    fresh.append(repeat)
                repeat.fresh += 1
                repeat.last = (start, end)
                starts.append(start)
        # What facts say may differ each time: the oldest and the newest count.
        for found in said.values():
            steps = all(r.is_progress for r in found[0][2].group.rules)
            most = MAX_STEPS if steps else MAX_FACTS
            kept = found if len(found) <= 2 * most else found[:most] + found[-most:]
            expand += [e << HIT_BITS | s for _, e, shape in kept for s in shape.group.signatures]
        return sorted(expand) if said else expand

    def _rows(self, chunk: Chunk, packed: Sequence[int]) -> list[_Row]:
        """One row a line: its bounds and its shape."""
        data = chunk.data
        table = self._tables.setdefault((chunk.source.path, chunk.source.node), {})
        rows: list[_Row] = []
        several: tuple[int, ...] = ()
        for hit, following in zip(packed, chain(islice(packed, 1, None), (-1,)), strict=True):
            end = hit >> HIT_BITS
            if following >> HIT_BITS == end:
                several = (*several, hit & _MASK)
                continue
            name: int | tuple[int, ...] = hit & _MASK
            if several:
                name, several = (*several, hit & _MASK), ()
            start = data.rfind(b"\n", 0, end) + 1
            head = data[start:end] if end - start < _HEAD else data[start : start + _HEAD]
            residue = head.translate(None, _DIGITS)
            group = table.get(name)
            if group is None:
                group = table[name] = self._group(name)
            shape = group.shapes.get(residue)
            if shape is None:
                shape = self._shape(group, residue, head)
            rows.append((start, end, shape))
        return rows

    def _group(self, name: int | tuple[int, ...]) -> _Group:
        names = name if isinstance(name, tuple) else (name,)
        for n in names:
            if n not in self._rules:
                self._rules[n] = _Rule(self._signatures[n])
        return _Group(names, tuple(self._rules[n] for n in names))

    def _shape(self, group: _Group, residue: bytes, head: bytes) -> _Shape:
        kind = kind_of(head)
        crowd = self._is_crowded(group)
        sort = kind if kind in _OWN or kind in (_PART, _OTHERS_PART) else b""
        if crowd and sort in group.crowds:
            return group.crowds[sort]
        shape = _Shape(
            group,
            kind,
            own=kind in _OWN,
            opens=kind in (_DATED, _OBJECT),
            fact=all(r.fact for r in group.rules),
            unless=any(r.unless for r in group.rules),
        )
        (group.crowds if crowd else group.shapes)[sort if crowd else residue] = shape
        self._size += 1
        return shape

    def _is_crowded(self, group: _Group) -> bool:
        """Say whether nobody new of a group is told apart in this chunk any more."""
        if group.sifted != self._number:
            group.sifted, group.new = self._number, 0
        return self._new >= MAX_NEW and group.new >= FEW

    def _repeat(self, data: bytes, row: _Row) -> _Repeat | None:
        """Return whom a line repeats; None where it says something new."""
        start, end, shape = row
        group = shape.group
        shape.asked += 1
        if shape.asked > SURE and shape.asked % SAMPLE and not shape.unless:
            return group.latest.get(())
        line = data[start:end] if end - start < _LONG else data[start : start + _LONG]
        digits = line.translate(None, _NO_DIGITS)
        if shape.kind is _DATED:
            digits = digits[_DATE:]
        excused = _excused(group, line) if shape.unless else ()
        number = (digits, excused) if excused else digits
        repeat = shape.numbers.get(number)
        if repeat is None:
            latest = group.latest.get(excused)
            if latest and self._is_crowded(group):
                return latest
            who = (excused, *_identity(shape, line))
            repeat = shape.known.get(who)
            if repeat is None:
                full = len(shape.known) >= MAX_IDENTITIES or self._kept >= MAX_KEPT
                if latest is None or not (full or self._is_crowded(group)):
                    repeat = shape.known[who] = shape.numbers[number] = _Repeat(group.signatures)
                    group.latest[excused] = repeat
                    self._is_crowded(group)
                    group.new += 1
                    self._new += 1
                    self._kept += 2
                    return None
                repeat = latest
            if len(shape.numbers) < SURE and self._kept < MAX_KEPT:
                shape.numbers[number] = repeat
                self._kept += 1
        group.latest[excused] = repeat
        return repeat

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
            line, number = data[start:end] + b"\n", numbers.of(start)
            repeat.line = Line(bare, chunk.offset + start, number, line, last_at, repeat.signatures)

    def give_up(self) -> None:
        """Count nothing: everything will be expanded."""
        for repeat in self._fresh:
            repeat.fresh = 0


def _excused(group: _Group, line: bytes) -> tuple[bool, ...]:
    """Say which `unless` a line has: what is said by a line with one is not what others say."""
    return tuple(bool(p.search(line)) for rule in group.rules for p in rule.unless)


def _identity(shape: _Shape, line: bytes) -> Sequence[object]:
    found: list[object] = []
    if b"_id=" in line:
        found += _PAIR.findall(line)
    if shape.kind is _OBJECT:
        found += _JSON.findall(line)
    elif shape.kind not in _OWN:
        stream = STREAM_BYTES.match(line)
        found.append(stream[0] if stream else b"")
    for rule in shape.group.rules:
        for pattern, names in rule.naming:
            match = pattern.search(line)
            found.append(match.group(*names) if match else None)
    return found


def _stands_alone(data: bytes, row: _Row, log_format: str, streams: _Streams) -> bool:
    """Say whether the record of a hit is its own line. False where that cannot be seen."""
    start, end, shape = row
    kind, below = shape.kind, end + 1
    if kind is _OBJECT:
        return True
    if kind in (_PART, _OTHERS_PART) or below >= len(data):
        return False
    if kind is not _DATED and log_format != "text":
        return False  # it continues a dated record
    if not shape.own:
        return not data[below : below + 1].isspace() and streams.alone(start, end)
    if kind is _DATED:
        after = kind_of(data[below : below + _HEAD])
        return after is _DATED or after is _OBJECT
    return _below(data, below) and _above(data, start)


def _below(data: bytes, at: int) -> bool:
    """Say whether the nearest line from a place on that is of no other process begins a record of its own."""
    for _ in range(_NEAR):
        if at >= len(data):
            return False
        kind = kind_of(data[at : at + _HEAD])
        if kind in _OWN or kind is _PART:
            return kind is not _PART
        at = data.find(b"\n", at) + 1 or len(data)
    return False


def _above(data: bytes, start: int) -> bool:
    """Say the same of the lines above."""
    for _ in range(_NEAR):
        if not start:
            return False
        end = start - 1
        start = data.rfind(b"\n", 0, end) + 1
        kind = kind_of(data[start : min(end, start + _HEAD)])
        if kind in _OWN or kind is _PART:
            return kind is not _PART
    return False


class _Streams:
    """Lines of several processes in one text: the nearest ones of the same process say whether a line is alone."""

    def __init__(self, data: bytes, asked: int) -> None:
        """`asked`: about so many lines will be asked about; for many of them it pays to look through the text first."""
        self._data, self._looks = data, asked > MANY

    def alone(self, start: int, end: int) -> bool:
        """Say whether the record of a line is the line itself."""
        data = self._data
        if self._looks:
            near = bisect_left(self._parts, start - _WINDOW)
            if near == len(self._parts) or self._parts[near] > end + _WINDOW:
                return True
        stream = STREAM_BYTES.match(data, start, end)
        prefix = b"\n" + stream[0] if stream else b"\n"
        below = data.find(prefix, end, end + _WINDOW)
        above = data.rfind(prefix, max(0, start - _WINDOW), start)
        places = [at + len(prefix) for at in (below, above) if at >= 0]
        if above < 0 < start <= _WINDOW and data.startswith(prefix[1:]):
            places.append(len(prefix) - 1)  # the first line has no newline before it
        return not any(continues(data, at) for at in places)

    @cached_property
    def _parts(self) -> list[int]:
        """Where a line of some process goes on with a record of its own."""
        data = self._data
        begun = ((m.start(), m.end()) for m in _STREAM_BELOW.finditer(data))
        parts = [start for start, end in begun if continues(data, end)]
        return [0, *parts] if kind_of(data[:_HEAD]) is _OTHERS_PART else parts
