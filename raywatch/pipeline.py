"""Files -> findings: what daemon, scan and explain share."""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import tzinfo
from pathlib import Path
from typing import NamedTuple

from raywatch.compiled import Narrow, cache_folder, load_rules
from raywatch.core.classify import classify
from raywatch.core.matcher import Matcher, unpacked
from raywatch.core.records import LineNumbers, join
from raywatch.core.repeats import Repeats
from raywatch.core.signatures import Ruleset
from raywatch.core.tracebacks import MAX_RECORD
from raywatch.model import Chunk, Component, Fact, Finding, Record
from raywatch.resources import resource_dir

MAX_BLANK = 1024  # bytes of blank lines inside a record
AHEAD_S = 60.0  # a line may be dated so much after it was read: clocks are set


@dataclass(frozen=True, slots=True)
class Engine:
    """A ruleset and its compiled databases: of all signatures, and of those of one component."""

    ruleset: Ruleset
    matcher: Matcher
    narrow: Narrow | None = None

    def matcher_of(self, component: Component) -> Matcher:
        """Return what finds all that lines of a component can mean, and less of what they cannot."""
        if self.narrow is None or component == "unknown":
            return self.matcher
        return self.narrow.of(component)


@dataclass(frozen=True, slots=True)
class Examined:
    """What a chunk said. `upto` is the offset behind the last record that was whole.

    `told` is the last line behind it that was reported early; `ended` is where the last whole record ends.
    """

    findings: tuple[Finding, ...]
    facts: tuple[Fact, ...]
    upto: int
    told: int = 0
    ended: int = 0


class Around(NamedTuple):
    """What is known of a chunk besides its data: its line numbers, and where a record may begin at the earliest."""

    numbers: LineNumbers
    floor: int = 0


def rule_texts(paths: Sequence[str] = ()) -> list[tuple[str, str]]:
    """Return path and text of the taxonomy, the shipped signatures and those of `paths`. Raises OSError."""
    rules = resource_dir("rules")
    files = [rules / "taxonomy.yaml", *sorted((rules / "signatures").glob("*.yaml"))]
    return [(str(f), f.read_text()) for f in (*files, *user_files(paths))]


def user_files(paths: Iterable[str]) -> list[Path]:
    """Return the signature files that `paths` name: files, and those of folders that are not hidden. Raises OSError."""
    found: list[Path] = []
    for path in map(Path, paths):
        shown = (f for f in path.glob("*.y*ml") if not f.name.startswith("."))  # editors' locks
        found += sorted(shown) if path.is_dir() else [path]
    return found


def load_engine(paths: Sequence[str] = (), texts: Sequence[tuple[str, str]] = ()) -> Engine:
    """Load and compile the signatures, or take what was compiled before. Raises SignatureError, OSError.

    `texts` are more signature files: name and text. Its signatures have no samples; those of `load_ruleset` do.
    """
    return Engine(*load_rules([*rule_texts(paths), *texts], cache_folder(os.environ)))


def load_ruleset(paths: Sequence[str] = ()) -> Ruleset:
    """Read the taxonomy, the shipped signatures and those of `paths`. Raises SignatureError, OSError."""
    from raywatch.core.signature_files import parse_rules  # noqa: PLC0415 - see compiled

    return parse_rules(rule_texts(paths))


def checked_engine(paths: Sequence[str] = ()) -> Engine:
    """Read and compile the signatures with their samples. Raises SignatureError, OSError."""
    from raywatch.core.compiling import compile_ruleset  # noqa: PLC0415 - see compiled

    ruleset = load_ruleset(paths)
    return Engine(ruleset, compile_ruleset(ruleset))


def examine(
    engine: Engine,
    chunk: Chunk,
    tz: tzinfo,
    last_at: float | None = None,
    *,
    early: bool = False,
    around: Around | None = None,
    repeats: Repeats | None = None,
) -> Examined:
    """Say what a chunk says. A record that touches the end of a chunk that is not final waits for more.

    `early`: what such a record says already is reported at once where more cannot change it, and once.
    `repeats`: takes what is only to be counted; `counted` gives the findings that stand for it.
    """
    packed = (
        engine.matcher_of(chunk.source.component).packed(chunk.data)
        if chunk.hits is None
        else chunk.hits
    )
    if not packed:
        return Examined((), (), chunk.end)
    around = around or Around(LineNumbers(chunk.data, chunk.line))
    if repeats is not None and not chunk.told:
        few = repeats.sift(chunk, packed)
        records = join(chunk, unpacked(chunk.data, few), tz, last_at, **around._asdict())
        seen = _examined(engine, chunk, records, last_at, early=early)
        if repeats.fits(records, seen.upto, chunk):
            repeats.take(chunk, around.numbers, last_at)
            return seen
        repeats.give_up()
    records = join(chunk, unpacked(chunk.data, packed), tz, last_at, **around._asdict())
    return _examined(engine, chunk, records, last_at, early=early)


def counted(
    engine: Engine, repeats: Repeats, tz: tzinfo
) -> tuple[tuple[Finding, ...], tuple[Fact, ...]]:
    """Return the findings that stand for what was counted since the last call, and the newest facts of it."""
    findings: list[Finding] = []
    facts: list[Fact] = []
    for line, count in repeats.drain():
        seen = examine(engine, line.alone(), tz, line.last_at)
        findings += (replace(finding, count=count) for finding in seen.findings)
        facts += seen.facts
    return tuple(findings), tuple(facts)


def _examined(
    engine: Engine, chunk: Chunk, records: Sequence[Record], last_at: float | None, *, early: bool
) -> Examined:
    findings: list[Finding] = []
    facts: list[Fact] = []
    upto, told, ended = chunk.end, 0, chunk.offset
    for record in records:
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
        ended = record.end
    return Examined(tuple(findings), tuple(facts), upto, told, ended)


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
    """Say whether a record may go on behind the chunk: nothing but blank lines follows, and it is no JSON line."""
    rest = chunk.end - record.end
    if rest > MAX_BLANK or record.end - record.offset >= MAX_RECORD:
        return False
    begin, end = record.offset - chunk.offset, len(chunk.data) - rest
    is_json = chunk.data.startswith(b'{"', begin) and chunk.data.find(b"\n", begin, end) < 0
    return not is_json and not chunk.data[end:].strip()
