"""Logs as a busy Ray cluster leaves them, for figures: any size, any share of failures, and what must be found in them.

The quiet lines (quiet/*.txt) are real ones, one of each shape that is frequent in healthy sessions of Ray 2.60; those of
programs and kernels are partly written after real ones. No shipped signature knows any. With them come tqdm bars, near
misses of the signatures, invalid UTF-8 and lines of a megabyte. The failures are the signatures' own samples, in a file
of a component that their `where` admits. Times always differ; ids, pids and ranks are a few hundred. Same arguments,
same bytes.
"""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from datetime import timezone
from functools import cache
from itertools import accumulate, chain
from pathlib import Path
from typing import NamedTuple

from raywatch.collect.raylogs import describe
from raywatch.core.prefixes import starts_record
from raywatch.model import HIT_BITS, Chunk, Component, FileId, LogFormat, Source
from raywatch.pipeline import Engine, checked_engine, examine

QUIET = 1e-5  # the share of failures in logs that are called quiet
NEAR = 0.05  # how many near misses there are for each other line of a program's output
UNIQUE = 4 << 20  # bytes of a file after which it repeats itself
LONG = 1 << 20
BLOCK_LINES = 1_500
START_S = 1_795_417_200  # 2026-11-23 07:00 UTC
STEP_MS = 2
SECOND_MS = 1_000


class Family(NamedTuple):
    """Files of one kind: `{n}` is a number of the file, `{id}` 56 digits. `share` of 200 files are of it."""

    quiet: str
    component: Component
    format: LogFormat
    name: str
    share: int


FAMILIES = (
    Family("worker", "worker", "text", "worker-{id}-02000000-{n}.out", 40),
    Family("worker", "worker", "text", "worker-{id}-02000000-{n}.err", 34),
    Family("core", "core", "cpp", "python-core-worker-{id}_{n}.log", 40),
    Family("raylet", "raylet", "cpp", "raylet.{n}.out", 12),
    Family("dashboard", "dashboard", "python", "dashboard_JobHead.{n}.log", 10),
    Family("gcs_server", "gcs", "cpp", "gcs_server.{n}.out", 10),
    Family("train", "train", "json", "train/ray-train-sys-worker-{id}.log", 12),
    Family("monitor", "monitor", "python", "monitor.{n}.log", 8),
    Family("job", "job", "text", "job-driver-raysubmit_{n}.log", 8),
    Family("dashboard", "agent", "python", "dashboard_agent.{n}.log", 6),
    Family("job", "driver", "text", "driver-{n}.log", 5),
    Family("runtime_env", "runtime_env", "python", "runtime_env_agent.{n}.log", 4),
    Family("log_monitor", "log_monitor", "python", "log_monitor.{n}.log", 4),
    Family("supervisor", "job", "python", "supervisor-raysubmit_{n}.log", 2),
    Family("data", "data", "python", "ray-data-{n}.log", 2),
    Family("client_server", "client_server", "python", "ray_client_server_{n}.err", 1),
    Family("event", "event", "event", "event_RAYLET_{n}.log", 1),
    Family("kernel", "kernel", "text", "kern.log.{n}", 1),
)
# All in one file of unknown origin, which matches every `where`.
MIXED = Family("", "unknown", "text", "session-{n}.log", 0)

_MARKS: tuple[tuple[re.Pattern[bytes], bytes], ...] = (
    (re.compile(rb"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d,\d{3}"), b"\x01"),
    (re.compile(rb"\b[0-9a-f]{56}\b"), b"\x02"),
    (re.compile(rb"(?<=pid[ =:])\d{3,5}\b|(?<=pid: )\d{3,5}\b"), b"\x03"),
    (re.compile(rb"(?<=rank[ =])\d\b|(?<=rank: )\d\b"), b"\x04"),
)
_IDS = tuple(b"%056x" % random.Random(n).getrandbits(224) for n in range(256))
_PIDS = tuple(b"%d" % (12_000 + 37 * n) for n in range(256))
_RANKS = tuple(b"%d" % n for n in range(8))


class Line(NamedTuple):
    """A failure as it can be written, or a quiet line: with marks for what varies.

    `matched` of its lines hit `hits` (signature, line) pairs, which become `findings`.
    """

    text: bytes
    lines: int = 1
    matched: int = 0
    hits: int = 0
    findings: int = 0
    weight: float = 1.0  # how often it is chosen, beside others


@dataclass(slots=True)
class Truth:
    """What was written. `matched` lines are failures, of which a scan must tell `findings` findings."""

    size: int = 0
    lines: int = 0
    matched: int = 0
    hits: int = 0
    findings: int = 0

    def add(self, other: Truth, times: int = 1) -> None:
        """Count what was written so many times."""
        self.size += times * other.size
        self.lines += times * other.lines
        self.matched += times * other.matched
        self.hits += times * other.hits
        self.findings += times * other.findings


@cache
def engine() -> Engine:
    """The shipped signatures."""
    return checked_engine()


def _marked(text: bytes) -> bytes:
    for pattern, mark in _MARKS:
        text = pattern.sub(mark, text)
    return text


def _bars(rng: random.Random) -> bytes:
    """A line of tqdm: it goes on over itself."""
    steps = sorted(rng.sample(range(1251), 5))
    bars = [
        f"train:  {n / 12.51:2.0f}%|{'#' * (n // 125):<10}| {n}/1251 [{n // 143:02}:12<08:44,  2.38it/s]"
        for n in steps
    ]
    return "\r".join(bars).encode()


@cache
def quiet_lines(family: Family) -> tuple[Line, ...]:
    """The lines of a family that mean nothing. Raises ValueError where a shipped signature knows one."""
    if family == MIXED:
        return tuple(chain.from_iterable(_as_often_as_files(f) for f in FAMILIES))
    folder = Path(__file__).parent / "quiet"
    found = folder.joinpath(f"{family.quiet}.txt").read_bytes().splitlines()
    misses: list[bytes] = []
    if family.format == "text":
        rng = random.Random(3)
        found += [_bars(rng) for _ in range(3)]
        found += [b"tokens: \xff\xfe\x80 and \xc3\x28, decoded with replacement"]
        found += [b"Gr\xf6\xdfe: 12 GiB"]
        misses = near_misses()
    refuse_known(found, family.quiet)
    weight = NEAR * len(found) / len(misses) if misses else 0.0
    return (
        *(Line(_marked(line)) for line in found),
        *(Line(_marked(line), weight=weight) for line in misses),
    )


def _as_often_as_files(family: Family) -> Iterator[Line]:
    lines = quiet_lines(family)
    for line in lines:
        yield line._replace(weight=line.weight * family.share / len(lines))


def refuse_known(lines: Sequence[bytes], name: str) -> None:
    """Raise ValueError where a shipped signature knows a line that shall be quiet."""
    known = [line for line in lines if engine().matcher.scan(line)]
    if known:
        raise ValueError(f"{name}.txt: a signature knows {known[0]!r}")


# What reads as a failure's own further line, and what excuses the one below it.
_BESIDE = re.compile(rb"\s|Exception ignored in")


def near_misses() -> list[bytes]:
    """What the signatures must not know, as far as no other one does; nothing that would be part of a failure beside it."""
    texts = [m.text.encode() for s in engine().ruleset.signatures for m in s.misses]
    alone = [t for t in texts if b"\n" not in t and not _BESIDE.match(t)]
    return [t for t in alone if not engine().matcher.scan(t)]


@cache
def failure_lines(family: Family, *, single: bool) -> tuple[Line, ...]:
    """The failures that a file of a family may hold; `single`: those of one line only, whatever stands beside them."""
    texts = [
        sample.text
        for s in engine().ruleset.signatures
        for sample in s.hits
        if s.class_id and s.applies_to(family.component) and _fits(sample.text, family.format)
    ]
    found = [_failure(family, t) for t in texts if not single or _stands_alone(family, t)]
    return tuple(f for f in found if f.findings)


def _stands_alone(family: Family, sample: str) -> bool:
    """Say whether a failure is one line, and twice as much where it is written twice: no part of a record above it."""
    text = sample.rstrip("\n")
    if text.startswith("{"):
        return True
    twice = _failure(family, f"{text}\n{text}")
    return "\n" not in text and twice.findings == 2 * _failure(family, text).findings


def _fits(text: str, form: LogFormat) -> bool:
    """Say whether a file of a format holds such a line as a record of its own, so that findings can be counted."""
    if text.startswith("{"):
        return form in ("json", "event")
    return form in (("cpp", "python") if starts_record(text.encode()) else ("text",))


def _failure(family: Family, sample: str) -> Line:
    text = sample.rstrip("\n")
    data = (text.replace("\n", "\\n") if text.startswith("{") else text).encode()
    packed = engine().matcher.packed(data)
    source = describe(file_name(family, 7)) or Source("-", "unknown")
    chunk = Chunk(source, FileId(0, 0), 0, 1, data + b"\n", 0.0, final=True)
    seen = examine(engine(), chunk, timezone.utc)
    lines = len({p >> HIT_BITS for p in packed})
    return Line(_marked(data), data.count(b"\n") + 1, lines, len(packed), len(seen.findings))


def file_name(family: Family, number: int) -> str:
    """The name of a family's file."""
    return family.name.format(n=1000 + number, id=f"{(1 << 200) + number:056x}")


class Author:
    """Writes one file's lines, block by block. `density`: the share of lines that are failures; `utf8`: no other bytes."""

    def __init__(
        self,
        family: Family,
        density: float,
        seed: int,
        *,
        start_s: float = START_S,
        utf8: bool = False,
    ) -> None:
        self._rng = random.Random(f"{family.name} {seed}")
        self._quiet = [q for q in quiet_lines(family) if not utf8 or _is_utf8(q.text)]
        self._failures = failure_lines(family, single=density >= 1)
        self._density = density if self._failures else 0.0
        self._owed = self._rng.random()
        self._at_ms = int(start_s * SECOND_MS)
        self._weights = list(accumulate(line.weight for line in self._quiet))
        size = sum((len(line.text) + 24) * line.weight for line in self._quiet)
        self._average = size / self._weights[-1]

    def block(self, lines: int = BLOCK_LINES) -> tuple[bytes, Truth]:
        """Write so many lines (or a few more: some failures are of several)."""
        rng = self._rng
        chosen = rng.choices(self._quiet, cum_weights=self._weights, k=lines)
        self._owed += lines * self._density
        due = min(int(self._owed), lines)
        self._owed -= due
        for at, failure in zip(
            rng.sample(range(lines), due),
            rng.choices(self._failures or self._quiet, k=due),
            strict=True,
        ):
            chosen[at] = failure
        text = b"\n".join([line.text for line in chosen]) + b"\n"
        truth = Truth(
            lines=sum(line.lines for line in chosen),
            matched=sum(line.matched for line in chosen),
            hits=sum(line.hits for line in chosen),
            findings=sum(line.findings for line in chosen),
        )
        for mark, values in self._values():
            text = _filled(text, mark, values)
        truth.size = len(text)
        return text, truth

    def _values(self) -> Iterator[tuple[bytes, Callable[[int], Sequence[bytes]]]]:
        yield b"\x01", self._stamps
        for mark, values in ((b"\x02", _IDS), (b"\x03", _PIDS), (b"\x04", _RANKS)):
            yield mark, lambda count, values=values: self._rng.choices(values, k=count)  # type: ignore[misc]

    def _stamps(self, count: int) -> list[bytes]:
        stamps, second, prefix = [], -1, b""
        for at_ms in range(self._at_ms, self._at_ms + count * STEP_MS, STEP_MS):
            at_s, rest = divmod(at_ms, SECOND_MS)
            if at_s != second:
                second = at_s
                prefix = time.strftime("%Y-%m-%d %H:%M:%S", time.gmtime(at_s)).encode()
            stamps.append(b"%b,%03d" % (prefix, rest))
        self._at_ms += count * STEP_MS
        return stamps

    def exactly(self, size: int) -> tuple[bytes, Truth]:
        """Write so many bytes; the last line is filled up."""
        parts: list[bytes] = []
        truth = Truth()
        lines = BLOCK_LINES
        while truth.size < size:
            rest = size - truth.size
            lines = min(lines, int(rest / self._average))
            text, said = self.block(lines) if lines else (b"." * (rest - 1) + b"\n", Truth(rest, 1))
            if said.size > rest:
                lines //= 2
                continue
            parts.append(text)
            truth.add(said)
        return b"".join(parts), truth


def _is_utf8(text: bytes) -> bool:
    return text.decode(errors="replace").encode() == text


def _filled(text: bytes, mark: bytes, values: Callable[[int], Sequence[bytes]]) -> bytes:
    """Put a value into the place of each mark."""
    parts = text.split(mark)
    if len(parts) == 1:
        return text
    return b"".join(chain.from_iterable(zip(parts, (*values(len(parts) - 1), b""), strict=True)))


def write_file(
    path: Path, author: Author, size: int, *, long: bool = False, unique_bytes: int = UNIQUE
) -> Truth:
    """Write a log of exactly `size` bytes, the first of which are unique.

    `long`: with a line of a megabyte, where there is room for it.
    """
    truth = Truth()
    with path.open("wb") as out:
        if long and size > 2 * LONG:
            out.write(b"weights: " + b"0.12345, " * (LONG // 9) + b"\n")
            truth.add(Truth(out.tell(), 1))
        unique, said = author.exactly(min(unique_bytes, size - truth.size))
        times = (size - truth.size) // len(unique)
        for _ in range(times):
            out.write(unique)
        truth.add(said, times)
        rest, said = author.exactly(size - truth.size)
        out.write(rest)
        truth.add(said)
    return truth


def spread(files: int, *, failing: bool) -> list[Family]:
    """So many files as families, mixed; `failing`: only such as can hold failures."""
    chosen = [f for f in FAMILIES if not failing or failure_lines(f, single=True)]
    all_of_it = [f for f in chosen for _ in range(f.share)]
    random.Random(5).shuffle(all_of_it)
    return [all_of_it[i % len(all_of_it)] for i in range(files)]


def write_folder(
    folder: Path, size: int, *, density: float, files: int = 200, utf8: bool = False
) -> Truth:
    """Write a session's logs of exactly `size` bytes into a new folder."""
    (folder / "train").mkdir(parents=True)
    families = spread(files, failing=density >= 1)
    able = sum(bool(failure_lines(f, single=False)) for f in families) / files
    truth = Truth()
    for number, family in enumerate(families):
        author = Author(family, min(1.0, density / able), number, utf8=utf8)
        mine = size * (number + 1) // files - size * number // files
        long = family.name.endswith(".out") and family.quiet == "worker" and number % 5 == 0
        path = folder / file_name(family, number)
        truth.add(write_file(path, author, mine, long=long and density < 1))
    return truth
