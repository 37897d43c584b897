"""Hits -> records: the log record around a hit, whole, dated, without its prefixes."""

from __future__ import annotations

import json
import re
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from datetime import datetime, tzinfo
from typing import NamedTuple

from raywatch.linecount import newlines_in
from raywatch.model import Chunk, Hit, Record

MAX_RECORD = 65_536  # bytes of one record that are kept
MAX_LINES = 400
_CPP = re.compile(
    rb"\[(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}) (?P<level>[TDIWECF]) \d+ \d+\] ?(?:\((?P<part>\w+)\) )?"
)
_PYTHON = re.compile(
    rb"(?P<time>\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3})[\t ]+(?P<level>[A-Z]{4,8})\b"
)
_ABSL = re.compile(rb"[IWEF]\d{4} \d\d:\d\d:\d\d\.\d+ ")
# What opens a record, by its first byte: of most lines that is all that is looked at.
_OPENERS = {
    b"[": _CPP,
    b"{": re.compile(rb'\{"'),
    **dict.fromkeys((b"%d" % n for n in range(10)), _PYTHON),
    **dict.fromkeys((b"I", b"W", b"E", b"F"), _ABSL),
}
_ANSI = re.compile(rb"\x1b\[[0-9;?]*[A-Za-z]")
# What stands before the lines of one of several processes in a file; once more on raw bytes, colours included.
_PREFIX = (
    r"(?:\((?P<name>[A-Za-z_][\w.:<>]*)(?: \+\S+)?(?: pid=(?P<pid>\d+))?(?:, ip=(?P<ip>[\d.]+))?\)"
    r"|\[(?:rank|default)(?P<rank>\d+)\]:|\[(?P<slot>\d+)\]<std(?:err|out)>:)"
)
_STREAM = re.compile(rf"(?:{_PREFIX} ?)+")
_COLOUR = r"(?:\x1b\[[0-9;?]*[A-Za-z])*"
STREAM_BYTES = re.compile(
    rf"(?:{_COLOUR}{re.sub(r'[?]P<[a-z]+>', '?:', _PREFIX)}{_COLOUR} ?)+".encode()
)
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
_REPEATED = re.compile(r" ?\[repeated \d+x across cluster\].*$", re.MULTILINE)
_HEADER = "Traceback (most recent call last):"
_CHAINS = ("During handling of the above exception", "The above exception was the direct cause")


class _Line(NamedTuple):
    start: int
    end: int
    text: str  # without ANSI, carriage return and stream prefix
    stream: str  # who wrote it, in a file that several share


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
    end = floor
    pending: list[Hit] = []
    span = (0, 0)
    for hit in hits:
        if pending and hit.start < end:
            pending.append(hit)
            continue
        if pending:
            records.append(_record(chunk, span, pending, tz, last_at, numbers=numbers))
        span = _span(chunk, hit, end)
        end = span[1]
        pending = [hit]
    if pending:
        records.append(_record(chunk, span, pending, tz, last_at, numbers=numbers))
    return records


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


def starts_record(line: bytes) -> bool:
    """Say whether a line opens a record of its own: a dated prefix or a JSON object."""
    opener = _OPENERS.get(line[:1])
    return opener is not None and opener.match(line) is not None


def _span(chunk: Chunk, hit: Hit, floor: int) -> tuple[int, int]:
    data = chunk.data
    if data.startswith(b'{"', hit.start):
        return hit.start, hit.end
    if starts_record(data[hit.start : hit.start + 64]):
        return hit.start, _end_of_dated(data, hit.end)
    own = _line(data, hit.start, hit.end)
    above = _Above(data, own, floor)
    if not _is_free(chunk):
        start = above.dated()
        if start is not None:  # a dated record that this line continues
            return start, _end_of_dated(data, hit.end)
    start = _traceback_start(own, above)
    return start, _traceback_end(data, own, start)


def _is_free(chunk: Chunk) -> bool:
    return chunk.source.format == "text"


def _end_of_dated(data: bytes, at: int) -> int:
    for _ in range(MAX_LINES):
        start = at + 1
        if start >= len(data) or starts_record(data[start : start + 64]):
            return min(at, len(data))
        at = _eol(data, start)
    return at


def _eol(data: bytes, start: int) -> int:
    end = data.find(b"\n", start)
    return len(data) if end < 0 else end


def _line(data: bytes, start: int, end: int) -> _Line:
    raw = (
        _ANSI.sub(b"", data[start : min(end, start + 4096)]).rstrip(b"\r").decode(errors="replace")
    )
    match = _STREAM.match(raw)
    return _Line(
        start, end, raw[match.end() :] if match else raw, match[0].strip() if match else ""
    )


class _Above:
    """The lines of its own process above a line, nearest first, bounded; each is looked at once, when it is asked for."""

    def __init__(self, data: bytes, own: _Line, floor: int) -> None:
        self._data, self._own = data, own
        self._floor = max(floor, own.start - MAX_RECORD)
        self._lines: list[_Line] = []
        self._more = self._read()

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

    def _read(self) -> Iterator[_Line]:
        data, own, end = self._data, self._own, self._own.start - 1
        before = newline_before(data, own)
        while end > self._floor and len(self._lines) < MAX_LINES:
            found = data.rfind(before, self._floor, end)
            if found < 0 and not data.startswith(before[1:], self._floor):
                return
            start = found + 1 if found >= 0 else self._floor
            line = _line(data, start, _eol(data, start))
            if line.stream == own.stream:
                self._lines.append(line)
                yield line
            end = start - 1

    def __iter__(self) -> Iterator[_Line]:
        yield from tuple(self._lines)
        yield from self._more

    def down_to(self, line: _Line) -> Sequence[_Line]:
        """Return the lines between a line and the place, nearest to the place first."""
        return self._lines[: self._lines.index(line)]


def newline_before(data: bytes, line: _Line) -> bytes:
    """Return what stands before the text of every line of the same process: a newline and its prefix, colours and all.

    Thousands of lines of others may lie between two of one process: they need not be looked at.
    """
    if not line.stream:
        return b"\n"
    raw = data[line.start : min(line.end, line.start + 4096)]
    match = STREAM_BYTES.match(raw)
    return b"\n" + (match[0] if match else b"")


def _indented(text: str) -> bool:
    return text[:1] in (" ", "\t", "|", "^") or not text.strip()


def _traceback_start(own: _Line, above: _Above) -> int:
    """Find where the (chained) traceback begins that `own` belongs to; its own start if it is in none."""
    start, seen_body = own.start, own.text.startswith(_HEADER)
    for line in above:
        if line.text.startswith(_HEADER):
            start, seen_body = line.start, True
        elif seen_body and not _indented(line.text) and not line.text.startswith(_CHAINS):
            if not _chained(line, above):
                break
        elif not _indented(line.text) and not line.text.startswith(_CHAINS):
            break
    return start


def _chained(line: _Line, above: _Above) -> bool:
    """Say whether an exception line is followed by a chain marker, so that the record goes on above it."""
    below = [b for b in above.down_to(line) if b.text.strip()]
    return bool(below) and below[-1].text.startswith(_CHAINS)


def _traceback_end(data: bytes, own: _Line, start: int) -> int:
    """Find where it ends: indented lines, then the exception's own line, then chained ones."""
    in_body = own.text.startswith(_HEADER) or (_indented(own.text) and start < own.start)
    end, at = own.end, own.end
    before = newline_before(data, own)
    for _ in range(MAX_LINES):
        at = data.find(before, at, own.end + MAX_RECORD)
        if at < 0 or at + 1 >= len(data):
            break
        line = _line(data, at + 1, _eol(data, at + 1))
        at = line.end
        if line.stream != own.stream:
            continue
        if starts_record(data[line.start : line.start + 64]):
            break
        if line.text.startswith(_HEADER) or line.text.startswith(_CHAINS):
            in_body = line.text.startswith(_HEADER) or in_body
            end = at
        elif line.text.strip() and _indented(line.text):
            end = at
        elif not line.text.strip():
            continue
        elif in_body:
            in_body, end = False, at
        else:
            break
    return end


def _record(
    chunk: Chunk,
    span: tuple[int, int],
    hits: Sequence[Hit],
    tz: tzinfo,
    last_at: float | None,
    *,
    numbers: LineNumbers,
) -> Record:
    start, end = span
    raw = chunk.data[start : min(end, start + MAX_RECORD)]
    text, at, level, fields, copied = _read(raw, chunk, tz)
    return Record(
        source=chunk.source,
        file=chunk.file,
        offset=chunk.offset + start,
        line=numbers.of(start),
        text=text,
        at=at if at is not None else last_at,
        level=level,
        fields=fields,
        signatures=tuple(h.signature for h in hits),
        hit_lines=tuple(_shown(chunk.data[h.start : h.end]) for h in hits),
        hit_numbers=tuple(numbers.of(h.start) for h in hits),
        end=chunk.offset + end,
        copied=copied,
    )


def _bare(line: str) -> str:
    """Take the prefix of a shared stream off the start of a line."""
    match = _STREAM.match(line)
    return line[match.end() :] if match else line


def _shown(line: bytes) -> str:
    return _ANSI.sub(b"", line[:4096]).decode(errors="replace").strip("\r\n")


def _read(
    raw: bytes, chunk: Chunk, tz: tzinfo
) -> tuple[str, float | None, str, dict[str, str], bool]:
    if raw.startswith(b"{"):
        parsed = _read_json(raw, tz)
        if parsed:
            return (*parsed, False)
    plain = _ANSI.sub(b"", raw)
    match = _CPP.match(plain) or _PYTHON.match(plain)
    lines = [_bare(part) for part in plain.decode(errors="replace").split("\n")]
    text = "\n".join(lines).replace("\r", "")
    if (
        "[repeated " in text
    ):  # to look for the expressions takes longer than all the rest of a record
        text = _REPEATED.sub("", text)
    fields = dict(_PAIR.findall(text)) if "_id=" in text else {}
    stream = _STREAM.match(plain.decode(errors="replace"))
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
