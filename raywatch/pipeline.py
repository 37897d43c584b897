"""Files -> findings: what daemon, scan and explain share."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import tzinfo
from pathlib import Path

from raywatch.core.classify import classify
from raywatch.core.matcher import Matcher
from raywatch.core.records import MAX_RECORD, join
from raywatch.core.signatures import Ruleset, parse_signatures
from raywatch.core.taxonomy import parse_taxonomy
from raywatch.model import HIT_BITS, Chunk, Fact, FileId, Finding, Hit, Record, Source
from raywatch.resources import resource_dir

_MASK = (1 << HIT_BITS) - 1
AHEAD_S = 60.0  # a line may be dated so much after it was read: clocks are set


@dataclass(frozen=True, slots=True)
class Engine:
    """A ruleset and its compiled database."""

    ruleset: Ruleset
    matcher: Matcher


@dataclass(frozen=True, slots=True)
class Examined:
    """What a chunk said. `upto` is the offset behind the last record that was whole.

    `told` is the last line behind it that was reported early.
    """

    findings: tuple[Finding, ...]
    facts: tuple[Fact, ...]
    upto: int
    told: int = 0


def load_ruleset(paths: Sequence[str] = ()) -> Ruleset:
    """Read the taxonomy, the shipped signatures and those of `paths`. Raises SignatureError, OSError."""
    rules = resource_dir("rules")
    classes = parse_taxonomy((rules / "taxonomy.yaml").read_text())
    files = sorted((rules / "signatures").glob("*.yaml")) + _user_files(paths)
    signatures = [s for f in files for s in parse_signatures(f.read_text(), str(f), classes)]
    return Ruleset(tuple(signatures), classes)


def _user_files(paths: Iterable[str]) -> list[Path]:
    found: list[Path] = []
    for path in map(Path, paths):
        found += sorted(path.glob("*.y*ml")) if path.is_dir() else [path]
    return found


def load_engine(paths: Sequence[str] = ()) -> Engine:
    """Load and compile the signatures."""
    ruleset = load_ruleset(paths)
    return Engine(ruleset, Matcher(ruleset))


def examine(
    engine: Engine, chunk: Chunk, tz: tzinfo, last_at: float | None = None, *, early: bool = False
) -> Examined:
    """Scan a chunk. A record that touches the end of a chunk that is not final waits for more.

    `early`: what such a record says already is reported at once where more cannot change it, and once.
    """
    packed = engine.matcher.packed(chunk.data) if chunk.hits is None else chunk.hits
    if not packed:
        return Examined((), (), chunk.end)
    hits = [
        Hit(p & _MASK, chunk.data.rfind(b"\n", 0, p >> HIT_BITS) + 1, p >> HIT_BITS) for p in packed
    ]
    findings: list[Finding] = []
    facts: list[Fact] = []
    upto, told = chunk.end, 0
    for record in join(chunk, hits, tz, last_at):
        if chunk.read_at and (record.at or 0.0) > chunk.read_at + AHEAD_S:
            record = replace(record, at=last_at)  # noqa: PLW2901 - what has not come yet is no time
        new_findings, new_facts = classify(record, engine.ruleset)
        news = _untold(record, new_findings, chunk.told, engine.ruleset)
        if not chunk.final and _is_open(chunk, record):
            upto, told = record.offset, chunk.told
            if (
                early
                and news
                and not new_facts
                and _is_settled(new_findings, record, chunk, engine.ruleset)
            ):
                findings += news
                told = max(record.hit_numbers)
            break
        findings += news
        facts += new_facts
    return Examined(tuple(findings), tuple(facts), upto, told)


def _untold(
    record: Record, findings: Sequence[Finding], told: int, ruleset: Ruleset
) -> Sequence[Finding]:
    """Leave out what was reported when the record ended with line `told`."""
    hits = zip(record.signatures, record.hit_lines, record.hit_numbers, strict=True)
    known = [h for h in hits if h[2] <= told]
    if not known:
        return findings
    signatures, lines, numbers = zip(*known, strict=True)
    before = replace(record, signatures=signatures, hit_lines=lines, hit_numbers=numbers)
    classes = {f.class_id for f in classify(before, ruleset)[0]}
    return [f for f in findings if f.class_id not in classes]


def _is_settled(
    findings: Sequence[Finding], record: Record, chunk: Chunk, ruleset: Ruleset
) -> bool:
    """Say whether more lines cannot take a finding back, nor (unless the file is still) say more about it."""
    made = {f.signature for f in findings}
    used = [s for s in map(ruleset.signatures.__getitem__, record.signatures) if s.id in made]
    return all(not s.unless and (chunk.still or s.has_all_of(record.text)) for s in used)


def _is_open(chunk: Chunk, record: Record) -> bool:
    """Say whether a record may go on behind the chunk: it touches its end, and is no JSON line."""
    touches = record.end >= chunk.end - 1  # the newline behind the last line
    return (
        touches and record.source.format not in ("json", "event") and len(record.text) < MAX_RECORD
    )


BLOCK = 4 << 20


def chunks_of(source: Source, blocks: Iterator[bytes], read_at: float) -> Iterator[Chunk]:
    """Cut a stream of bytes into chunks of whole lines; a line longer than a block is cut."""
    rest, offset, line = b"", 0, 1
    for block in blocks:
        data = rest + block
        cut = data.rfind(b"\n") + 1
        if not cut and len(data) < BLOCK:
            rest = data
            continue
        cut = cut or len(data)
        whole, rest = data[:cut], data[cut:]
        yield Chunk(source, FileId(0, 0), offset, line, whole, read_at)
        offset += len(whole)
        line += whole.count(b"\n")
    if rest:
        yield Chunk(source, FileId(0, 0), offset, line, rest, read_at, final=True)


def examine_stream(
    engine: Engine, source: Source, blocks: Iterator[bytes], tz: tzinfo, last_at: float | None
) -> Examined:
    """Scan a whole file from a stream in bounded memory; an open record is carried into the next chunk."""
    findings: list[Finding] = []
    facts: list[Fact] = []
    held: Chunk | None = None
    for chunk in chunks_of(source, blocks, 0.0):
        joined = (
            chunk if held is None else replace(held, data=held.data + chunk.data, final=chunk.final)
        )
        seen = examine(engine, joined, tz, last_at)
        findings += seen.findings
        facts += seen.facts
        held = _behind(joined, seen.upto)
    if held is not None:
        seen = examine(engine, replace(held, final=True), tz, last_at)
        findings += seen.findings
        facts += seen.facts
    return Examined(tuple(findings), tuple(facts), 0)


def _behind(chunk: Chunk, upto: int) -> Chunk | None:
    at = upto - chunk.offset
    if at >= len(chunk.data):
        return None
    line = chunk.line + chunk.data.count(b"\n", 0, at)
    return replace(chunk, offset=upto, line=line, data=chunk.data[at:])
