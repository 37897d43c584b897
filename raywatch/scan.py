"""`raywatch scan`: a post-mortem of log folders and archives, with the same core as the daemon."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from datetime import timezone, tzinfo
from itertools import chain
from typing import TypedDict
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from raywatch.archive import Blocks, Member, members
from raywatch.collect.raylogs import describe, node_id_in
from raywatch.core.incidents import State, correlate_all
from raywatch.core.view import IncidentJson, incident_json, resume_words
from raywatch.model import Fact, Finding, Source
from raywatch.pipeline import Engine, load_engine
from raywatch.reading import examine_stream
from raywatch.terminal import safe, told

# Of another raylet's session, or of one that was rotated: both name their node in their first lines.
_RAYLET = re.compile(r"raylet(?:\.\d+)?\.out(?:\.\d+)?$")
_SUBFOLDERS = frozenset(["train", "events", "serve", "ray-data", "jobs", "old", "export_events"])
# The corpus' and people's own notes beside logs.
_SKIP = frozenset(["commands.log"])


class ScanJson(TypedDict):
    """What `scan --json` prints."""

    incidents: list[IncidentJson]
    stats: dict[str, int | float]


@dataclass(slots=True)
class ScanResult:
    """What a scan found."""

    incidents: list[IncidentJson]
    stats: dict[str, int | float] = field(default_factory=dict)


def parse_zone(name: str) -> tzinfo:
    """Return the zone of a name; raises ValueError with what would be right."""
    try:
        return timezone.utc if name.upper() == "UTC" else ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError) as error:
        raise ValueError(
            f"--tz {name}: no such zone; give one like UTC or Europe/Berlin"
        ) from error


def scan_paths(
    paths: Sequence[str],
    *,
    since: float | None = None,
    until: float | None = None,
    tz: str = "UTC",
    rules: Sequence[str] = (),
    progress: Callable[[str, int], None] | None = None,
) -> ScanResult:
    """Read everything under `paths` and say what failed. Raises ArchiveError, SignatureError, ValueError."""
    engine = load_engine(rules)
    zone = parse_zone(tz)
    nodes = _nodes(paths)
    findings: list[Finding] = []
    facts: list[Fact] = []
    files = size = 0
    for member in chain.from_iterable(map(members, paths)):
        source = _source(member.path, nodes)
        if source is None:
            continue
        counter = _Counter()
        seen = examine_stream(engine, source, Blocks(counter.of(member.blocks)), zone)
        findings += seen.findings
        facts += seen.facts
        files, size = files + 1, size + counter.size
        if progress:
            progress(member.path, size)
    incidents = _correlated(engine, facts, findings, since, until)
    stats: dict[str, int | float] = {
        "files": files,
        "bytes": size,
        "findings": sum(f.count for f in findings),
    }
    return ScanResult(incidents, stats)


@dataclass(slots=True)
class _Counter:
    size: int = 0

    def of(self, blocks: Iterator[bytes]) -> Iterator[bytes]:
        for block in blocks:
            self.size += len(block)
            yield block


def _nodes(paths: Sequence[str]) -> dict[str, set[str]]:
    """Find which node wrote which folder: its raylet says so in its first lines."""
    found: dict[str, set[str]] = {}
    for member in chain.from_iterable(map(members, paths)):
        folder, _, name = member.path.rpartition("/")
        if _RAYLET.match(name):
            node = node_id_in(_head(member))
            if node:
                found.setdefault(folder, set()).add(node)
                found[member.path] = {node}
    return found


def _head(member: Member) -> bytes:
    return next(member.blocks, b"")[: 1 << 16]


def _source(path: str, nodes: dict[str, set[str]]) -> Source | None:
    folder, _, name = path.rpartition("/")
    if folder.rpartition("/")[2] in _SUBFOLDERS:
        folder = folder.rpartition("/")[0]
    source = describe(path) if name not in _SKIP else None
    known = nodes.get(path) or nodes.get(folder) or set()
    if source is None:
        return None
    # Several raylets of one host share a folder: then only a record's own words name its node.
    return replace(source, node=next(iter(known)) if len(known) == 1 else "")


def _correlated(
    engine: Engine,
    facts: list[Fact],
    findings: list[Finding],
    since: float | None,
    until: float | None,
) -> list[IncidentJson]:
    def inside(at: float) -> bool:
        return (since is None or at >= since) and (until is None or at <= until)

    kept = [f for f in findings if not f.dated or inside(f.at)]
    bounded = since is not None or until is not None
    state, _ = correlate_all(
        State(), facts, kept, engine.ruleset.classes, undated_may_open=not bounded
    )
    return [incident_json(i, engine.ruleset.classes) for i in state.incidents]


def scan_exit_code(result: ScanResult) -> int:
    """Return 0 where nothing failed (warnings included), else 1."""
    return int(any(i["role"] in ("root", "symptom") for i in result.incidents))


def render_scan(result: ScanResult, *, as_json: bool) -> str:
    """Write the result for people or for programs."""
    if as_json:
        body: ScanJson = {"incidents": result.incidents, "stats": result.stats}
        return json.dumps(body, indent=2)
    shown = [_render_incident(i) for i in result.incidents]
    size = result.stats.get("bytes", 0) / 1e6
    foot = f"{len(shown)} incident{'s' * (len(shown) != 1)} in {result.stats.get('files', 0)} files, {size:.1f} MB"
    return "\n\n".join([*shown, foot if shown else f"nothing failed: {foot}"])


def _render_incident(incident: IncidentJson) -> str:
    subject, root = incident["subject"], incident["root"]
    name = f"rank {subject['rank']}" if subject["rank"] is not None else subject["id"][:16]
    rows = [
        f"{incident['first_at'] or 'no time'}  {incident['class']}  {subject['kind']} {safe(name)}",
        f"  {incident['title']}",
        f"  {safe(root['file'])}:{root['line']}",
        f"    {safe(told(root['text']), 300)}",
    ]
    if incident["culprit"]:
        rows.append(f"  culprit: {safe(incident['culprit']['id'])}")
    if incident["explains"]:
        symptoms = ", ".join(f"{e['class']} x{e['count']}" for e in incident["explains"])
        rows.append(f"  explains: {symptoms}")
    if incident["runs"]:
        rows.append(f"  hurts: {', '.join(safe(r) for r in incident['runs'])}")
    rows.append(f"  resume: {resume_words(incident['resume'])}")
    return "\n".join(rows)


def show_progress(path: str, size: int) -> None:
    """Write one line of progress over the last one, on a terminal's standard error."""
    sys.stderr.write(f"\r\x1b[K{size / 1e6:9.1f} MB  {safe(path[-60:])}")
    sys.stderr.flush()
