"""Hits -> records: the log record around a hit, whole, dated, without its prefixes."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Sequence
from datetime import datetime, tzinfo
from typing import NamedTuple

from raywatch.core.exported import exported
from raywatch.core.prefixes import ANSI, CPP, PYTHON, STREAM, bare, starts_record
from raywatch.core.tracebacks import (
    MAX_LINES,
    MAX_RECORD,
    Above,
    Line,
    eol,
    line_of,
    own_lines,
    traceback_end,
    traceback_start,
)
from raywatch.linecount import newlines_in
from raywatch.model import Chunk, Hit, Record

_PAIR = re.compile(
    r" (cluster_id|job_id|worker_id|node_id|actor_id|task_id|lease_id)=([0-9a-f]+)\b"
)
_JSON_KEYS = frozenset(
    [
        "job_id",
        "worker_id",
        "node_id",
        "actor_id",
        "task_id",
        "run_name",
        "component",
        "world_rank",
        "label",
        "source_type",
    ]
)
_REPEATED = re.compile(r" ?\[repeated (\d+)x across cluster\].*$", re.MULTILINE)


def join(
    chunk: Chunk,
    hits: Sequence[Hit],
    tz: tzinfo,
    last_at: float | None = None,
    *,
    floor: int = 0,
    numbers: LineNumbers | None = None,
) -> list[Record]:
    """Return the records of a chunk around its hits, each hit in one record. Same input, same output.

    `tz` is that of times without a zone; `last_at` dates what carries no time (unix seconds).
    `floor`: a place in the chunk that no record may begin before. `numbers`: those of the chunk, counted by others too.
    """
    records: list[Record] = []
    numbers = numbers or LineNumbers(chunk.data, chunk.line)
    knot: _Knot | None = None
    for hit in hits:
        if knot is not None and hit.start < knot.end:
            knot.add(hit)
            continue
        if knot is not None:
            records += [_record(chunk, p, knot, tz, last_at, numbers=numbers) for p in knot.parts]
            floor = knot.end
        knot = _Knot(chunk, _span(chunk, hit, floor), floor)
    if knot is not None:
        records += [_record(chunk, p, knot, tz, last_at, numbers=numbers) for p in knot.parts]
    return records


class _Part(NamedTuple):
    """One record of a knot: its bounds and hits. `own` is the line of its first one, where its text is undated."""

    start: int
    end: int
    hits: list[Hit]
    own: Line | None


class _Knot:
    """A record, and where its text is undated those of other processes that lie between its lines.

    All of a knot have its bounds, so that none is read twice or waits for another one.
    """

    __slots__ = ("_chunk", "_floor", "end", "parts", "start")

    def __init__(self, chunk: Chunk, part: _Part, floor: int) -> None:
        self._chunk, self._floor = chunk, floor
        self.start, self.end, _, _ = part
        self.parts = [part]  # its records, in the order in which they begin

    def add(self, hit: Hit) -> None:
        """Take in a hit that lies in it."""
        floor = self._floor
        if self.parts[0].own is None:
            self.parts[0].hits.append(hit)
            return
        stream = line_of(self._chunk.data, hit.start, hit.end).stream
        for part in self.parts:
            if part.own is not None and part.own.stream == stream:
                if hit.start < part.end:
                    part.hits.append(hit)
                    return
                floor = max(floor, part.end)
        part = _span(self._chunk, hit, floor)
        self.start = min(self.start, part.start)
        if part.end - self.start <= MAX_RECORD:
            self.end = max(self.end, part.end)
        # What lies behind the knot belongs to others.
        self.parts.append(part._replace(end=min(part.end, self.end)))
        self.parts.sort(key=lambda p: p.start)


class LineNumbers:
    """Line numbers of places in a text: what lies between two places that were asked for is counted once."""

    _STEP = 2048

    def __init__(self, data: bytes, line: int) -> None:
        """`line` is the number of the first one."""
        self._data, self._places, self._lines = data, [0], [line]

    def of(self, place: int) -> int:
        """Return the number of the line that holds a place."""
        before = bisect_right(self._places, place)
        mark = self._places[before - 1]
        line = self._lines[before - 1] + newlines_in(self._data, mark, place)
        if place - mark >= self._STEP:
            self._places.insert(before, place)
            self._lines.insert(before, line)
        return line


def _span(chunk: Chunk, hit: Hit, floor: int) -> _Part:
    data, found = chunk.data, [hit]
    if data.startswith(b'{"', hit.start):
        return _Part(hit.start, hit.end, found, None)
    if starts_record(data[hit.start : hit.start + 64]):
        return _Part(hit.start, _end_of_dated(data, hit.end), found, None)
    own = line_of(data, hit.start, hit.end)
    above = Above(data, own, floor)
    if not _is_free(chunk):
        start = above.dated()
        if start is not None:  # a dated record that this line continues
            return _Part(start, _end_of_dated(data, hit.end), found, None)
    start = traceback_start(own, above)
    return _Part(start, traceback_end(data, own, start), found, own)


def _is_free(chunk: Chunk) -> bool:
    return chunk.source.format == "text"


def _end_of_dated(data: bytes, at: int) -> int:
    for _ in range(MAX_LINES):
        start = at + 1
        if start >= len(data) or starts_record(data[start : start + 64]):
            return min(at, len(data))
        at = eol(data, start)
    return at


def _record(
    chunk: Chunk,
    part: _Part,
    knot: _Knot,
    tz: tzinfo,
    last_at: float | None,
    *,
    numbers: LineNumbers,
) -> Record:
    start, hits = part.start, part.hits
    end = min(part.end, start + MAX_RECORD)
    places = own_lines(chunk.data, part.own, start, end) if part.own else []
    raw = chunk.data[start:end]
    if places:
        raw = b"\n".join(chunk.data[at : min(eol(chunk.data, at), end)] for at in places)
    text, at, level, fields, copied = _read(raw, chunk, tz)
    return Record(
        source=chunk.source,
        file=chunk.file,
        offset=chunk.offset + knot.start,
        line=numbers.of(start),
        text=text,
        at=at if at is not None else last_at,
        level=level,
        fields=fields,
        signatures=tuple(h.signature for h in hits),
        hit_lines=tuple(_shown(chunk.data[h.start : h.end]) for h in hits),
        hit_numbers=tuple(numbers.of(h.start) for h in hits),
        end=chunk.offset + knot.end,
        copied=copied,
        rows=tuple(map(numbers.of, places)),
    )


def _shown(line: bytes) -> str:
    return ANSI.sub(b"", line[:4096]).decode(errors="replace").strip("\r\n")


def _read(
    raw: bytes, chunk: Chunk, tz: tzinfo
) -> tuple[str, float | None, str, dict[str, str], bool]:
    if raw.startswith(b"{"):
        parsed = _read_json(raw, tz)
        if parsed:
            return (*parsed, False)
    plain = ANSI.sub(b"", raw)
    match = CPP.match(plain) or PYTHON.match(plain)
    told = plain.decode(errors="replace")
    stream = None if match else STREAM.match(told)
    if stream:
        head = told[stream.end() : stream.end() + 64].encode()
        match = CPP.match(head) or PYTHON.match(head)
    joined = "\n".join(map(bare, told.split("\n"))).replace("\r", "")
    repeated = _REPEATED.search(joined) if "[repeated " in joined else None
    text = _REPEATED.sub("", joined) if repeated else joined
    fields = dict(_PAIR.findall(text)) if "_id=" in text else {}
    if repeated:
        fields["repeated"] = repeated[1]
    if stream:
        fields |= {f"stream_{k}": v for k, v in stream.groupdict().items() if v}
    at = _unix(match["time"], tz) if match else _signal_time(text)
    level = match["level"].decode() if match else ""
    return text, at, level, fields, bool(stream) and chunk.source.component in ("dashboard", "job")


def _read_json(raw: bytes, tz: tzinfo) -> tuple[str, float | None, str, dict[str, str]] | None:
    try:
        row = json.loads(raw)
        if b"\\ud" in raw.lower():  # half a surrogate pair is no text: nothing could store it
            row = json.loads(json.dumps(row, ensure_ascii=False).encode(errors="replace"))
    except (ValueError, RecursionError):  # RecursionError: a hostile depth of brackets
        return None
    if not isinstance(row, dict):
        return None
    told = exported(row)
    if told is not None:
        return told.text, told.at, "", told.fields
    text = str(row.get("message", "")).replace("\\n", "\n").replace("\\t", "\t")
    if row.get("exc_text"):
        text += "\n" + str(row["exc_text"])
    fields = {k: str(v) for k, v in row.items() if k in _JSON_KEYS or k.endswith("_id")}
    custom = row.get("custom_fields")
    if isinstance(custom, dict):
        fields |= {str(k): str(v) for k, v in custom.items() if isinstance(v, (str, int))}
    level = str(row.get("levelname") or row.get("severity") or "")
    return text, _json_time(row, tz), level, fields


def _json_time(row: dict[str, object], tz: tzinfo) -> float | None:
    try:
        if "timestamp_ns" in row:
            return int(str(row["timestamp_ns"])) / 1e9
        if "timestamp" in row:
            return float(str(row["timestamp"]))
        return _unix(str(row["asctime"]).encode(), tz) if "asctime" in row else None
    except ValueError:
        return None


def _unix(stamp: bytes, tz: tzinfo) -> float | None:
    """Read `2026-11-24 12:00:00,123`; strptime takes longer than all the rest of a record."""
    whole, _, part = stamp.decode(errors="replace").partition(",")
    try:
        parsed = datetime.fromisoformat(whole)
        return parsed.replace(tzinfo=tz).timestamp() + float(f"0.{part}")
    except ValueError:
        return None


def _signal_time(text: str) -> float | None:
    match = re.search(r"\*\*\* SIG\w+ received at time=(\d{10})\b", text)
    return float(match[1]) if match else None
