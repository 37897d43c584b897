"""For who writes signatures: what they do to a log, and drafts for what none of them explains."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from datetime import timezone
from itertools import islice

import yaml

from raywatch.archive import ArchiveError, Member, members
from raywatch.collect.raylogs import describe
from raywatch.core.compiling import compile_ruleset
from raywatch.core.records import join
from raywatch.core.samples import fired
from raywatch.core.signature_files import parse_signatures
from raywatch.core.signatures import Ruleset, Signature, SignatureError
from raywatch.core.templates import REST, VARIABLE, Template, apart, grouped
from raywatch.model import UNEXPLAINED, Chunk, FileId, Finding, Record, Source
from raywatch.pipeline import Engine, load_engine
from raywatch.reading import examine_stream
from raywatch.terminal import safe

MAX_FILE = 256 << 20  # bytes of a file that is tried
_LEAST = 12  # characters that a draft's expression has at least
_TEXT = 2_000  # characters of a draft's sample
_LEVELS = frozenset(["ERROR", "FATAL", "CRITICAL"])
_LETTERS = re.compile(r"[A-Za-z]")


@dataclass(frozen=True, slots=True)
class Tried:
    """What one signature did: lines that it hit, records that count, and those that `where` or `unless` kept out."""

    signature: Signature
    lines: int = 0
    counts: int = 0
    elsewhere: int = 0
    excluded: int = 0
    first: str = ""  # file:line of the first that counts, else of the first hit
    text: str = ""
    gives: tuple[tuple[str, str], ...] = ()


def tried(logs: Sequence[str], *, rules: Sequence[str] = ()) -> list[Tried]:
    """Return what each signature did that hit anything. Raises ArchiveError, SignatureError, OSError."""
    engine = load_engine(rules)
    found: dict[int, Tried] = {}
    for member in _every(logs):
        source = _source(member)
        data = _read(member)
        chunk = Chunk(source, FileId(0, 0), 0, 1, data, 0.0, final=True)
        for record in join(chunk, engine.matcher.scan(data), timezone.utc):
            for number, line, at in zip(
                record.signatures, record.hit_lines, record.hit_numbers, strict=True
            ):
                signature = engine.ruleset.signatures[number]
                before = found.get(number) or Tried(signature)
                found[number] = _after(before, record, line, f"{source.path}:{at}")
    return [found[n] for n in sorted(found)]


def _after(before: Tried, record: Record, line: str, where: str) -> Tried:
    signature = before.signature
    applies = signature.applies_to(record.source.component)
    excluded = applies and signature.excluded_by(record)
    counts = applies and not excluded
    after = replace(
        before,
        lines=before.lines + 1,
        counts=before.counts + counts,
        elsewhere=before.elsewhere + (not applies),
        excluded=before.excluded + excluded,
    )
    if before.first and (before.counts or not counts):
        return after
    gives = tuple(signature.captured(record.text).items())
    return replace(after, first=where, text=line, gives=gives)


def render_tried(found: Sequence[Tried], *, as_json: bool) -> str:
    """Write it for people, or as JSON."""
    if as_json:
        rows = [
            {
                "id": t.signature.id,
                "class": t.signature.class_id,
                "fact": t.signature.fact,
                "lines": t.lines,
                "counts": t.counts,
                "elsewhere": t.elsewhere,
                "excluded": t.excluded,
                "first": t.first,
                "text": t.text,
                "gives": dict(t.gives),
            }
            for t in found
        ]
        return json.dumps(rows, indent=2)
    return "\n".join(_rendered(t) for t in found) or "no signature hits anything"


def _rendered(tried_one: Tried) -> str:
    signature = tried_one.signature
    told = [f"{tried_one.lines} line{'s' * (tried_one.lines != 1)}"]
    if tried_one.elsewhere:
        told.append(f"{tried_one.elsewhere} not counted: `where` does not name that component")
    if tried_one.excluded:
        told.append(f"{tried_one.excluded} not counted: `unless`")
    rows = [
        f"{signature.id} ({signature.class_id or 'fact ' + signature.fact}): {'; '.join(told)}",
        f"  {safe(tried_one.first)}",
        f"    {safe(tried_one.text, 200)}",
    ]
    if tried_one.gives:
        rows.append("    " + "  ".join(f"{k}={safe(v, 60)}" for k, v in tried_one.gives))
    return "\n".join(rows)


def drafts(logs: Sequence[str], *, count: int, rules: Sequence[str] = ()) -> str:
    """Return YAML: a signature for each of the most frequent templates that none explains.

    Raises ArchiveError, SignatureError, OSError.
    """
    engine = load_engine(rules)
    unknown: list[Finding] = []
    for member in _every(logs):
        seen = examine_stream(engine, _source(member), member.stream, timezone.utc)
        unknown += apart(seen.findings)[1]
    templates = sorted(grouped((), unknown), key=lambda t: -t.count)
    if not templates:
        return "# nothing here looks like an error that no signature explains\n[]\n"
    taken = {s.id for s in engine.ruleset.signatures}
    written = [text for t in templates if (text := _draft(engine, t, taken))]
    head = (
        "# Drafts: give each its class (`raywatch runbook` lists them), its component, and lines that look like it and are\n"
        "# something else under misses; then `raywatch rules check THIS`.\n"
    )
    return head + "".join(islice(written, count))


def _draft(engine: Engine, template: Template, taken: set[str]) -> str:
    """Return a signature that hits what it was made from; nothing where the template says too little."""
    words = _telling(template)
    name = "-".join(re.findall(r"[a-z0-9]+", " ".join(words).lower())[:5])
    if template.text == REST or len(" ".join(words)) < _LEAST or not name:
        return ""
    while name in taken:
        name += "-too"
    lines = dict.fromkeys((template.first.text[:_TEXT], template.last.text[:_TEXT]))
    row = {
        "id": name,
        "class": UNEXPLAINED,
        "title": " ".join(words),
        "maturity": "trial",
        "where": {"component": [_component(template)]},
        "any": [r"\s+".join(re.escape(w).replace(r"\-", "-") for w in words)],
        "hits": list(lines),
        "misses": [],
    }
    text = yaml.safe_dump([row], sort_keys=False, allow_unicode=True, width=10_000)
    try:
        parsed = parse_signatures(text, "draft", engine.ruleset.classes)
        ruleset = Ruleset(parsed, engine.ruleset.classes)
        matcher = compile_ruleset(ruleset)
    except SignatureError:  # an expression that the engine must not have
        return ""
    (signature,) = parsed
    if not all(signature.id in fired(ruleset, matcher, signature, s) for s in signature.hits):
        return ""
    taken.add(name)
    return f"# {template.count} x  {safe(template.text, 160)}\n{text}"


def _telling(template: Template) -> list[str]:
    """Return the longest run of words that do not vary, without a level and without what has no letters at its ends."""
    runs: list[list[str]] = [[]]
    for word in template.words:
        if VARIABLE in word:
            runs.append([])
        else:
            runs[-1].append(word)
    run = max(runs, key=lambda run: len(" ".join(run)))
    while run and (run[0].strip("[]():|") in _LEVELS or not _LETTERS.search(run[0])):
        run = run[1:]
    while run and not _LETTERS.search(run[-1]):
        run = run[:-1]
    return run


def _component(template: Template) -> str:
    component = template.first.component
    return "any" if component == "unknown" else component


def _every(logs: Sequence[str]) -> Iterator[Member]:
    for log in logs:
        yield from members(log)


def _source(member: Member) -> Source:
    return describe(member.path) or Source(path=member.path, component="unknown")


def _read(member: Member) -> bytes:
    data = bytearray()
    buffer = memoryview(bytearray(1 << 20))
    while got := member.stream.readinto(buffer):
        data += buffer[:got]
        if len(data) > MAX_FILE:
            raise ArchiveError(f"{member.path}: larger than {MAX_FILE >> 20} MB; try a part of it")
    if member.stream.why:
        raise ArchiveError(f"{member.path}: {member.stream.why}")
    return bytes(data)
