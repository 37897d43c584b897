"""`raywatch scan`: a post-mortem of log folders and archives, with the same core as the daemon."""

from __future__ import annotations

import json
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from datetime import timezone, tzinfo
from typing import TypedDict
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from raywatch.archive import Tick, no_tick
from raywatch.core.crowds import Crowds
from raywatch.core.incidents import correlated
from raywatch.core.view import (
    IncidentJson,
    UnknownJson,
    incident_json,
    resume_words,
    unknown_json,
)
from raywatch.model import Finding
from raywatch.nodes import Nodes, with_node
from raywatch.pieces import Done, Lines, Report, ScanError
from raywatch.pipeline import Engine, load_engine
from raywatch.spread import examine_here
from raywatch.terminal import safe, told

_UNKNOWN_SHOWN = 5  # kinds of lines


class ScanJson(TypedDict):
    """What `scan --json` prints."""

    incidents: list[IncidentJson]
    unknown: list[UnknownJson]
    stats: dict[str, int | float]


@dataclass(slots=True)
class ScanResult:
    """What a scan found. `damaged`: (path, why) of what could not be read, or not to its end.

    `unknown`: lines that look like errors and that no signature explains, by template, the most frequent first.
    """

    incidents: list[IncidentJson]
    unknown: list[UnknownJson] = field(default_factory=list)
    stats: dict[str, int | float] = field(default_factory=dict)
    damaged: list[tuple[str, str]] = field(default_factory=list)


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
    jobs: int = 1,
    on_ray: str | None = None,
    tick: Tick = no_tick,
) -> ScanResult:
    """Read everything under `paths` and say what failed. Raises ArchiveError, ScanError, SignatureError, ValueError.

    The same result for any `jobs`, the number of processes that read, and on a Ray cluster, whose address `on_ray` is.
    `tick` is called with what was read.
    """
    zone = parse_zone(tz)
    engine = load_engine(rules)
    if on_ray is None:
        examined = examine_here(engine, paths, zone, tick, jobs=jobs)
    else:
        examined = _on_ray()(on_ray, engine, paths, zone, tick)
    with closing(examined) as done:
        seen = _together(done)
    state = correlated(
        seen.facts,
        _between(seen.findings, since, until),
        engine.ruleset.classes,
        undated_may_open=since is None and until is None,
    )
    incidents = [incident_json(i, engine.ruleset.classes) for i in state.incidents]
    stats: dict[str, int | float] = {
        "files": seen.files,
        "bytes": seen.size,
        "findings": sum(f.count for f in seen.findings),
        "damaged": len(seen.damaged),
    }
    return ScanResult(incidents, unknown_json(state.unknown), stats, seen.damaged)


def _on_ray() -> Callable[[str, Engine, Sequence[str], tzinfo, Tick], Generator[Done]]:
    try:
        from raywatch.onray import examine_on_ray  # noqa: PLC0415 - it imports ray, which nothing else needs
    except ImportError as error:
        raise ScanError(f"--on-ray needs Ray on this machine too: {error}") from error
    return examine_on_ray


def _together(done: Iterable[Done]) -> Report:
    """Put what tasks said together in the tasks' order, whichever was done first."""
    every = Report()
    lines, nodes = Lines(), Nodes()
    for _, task, report in sorted(done, key=lambda d: d[0]):
        whole = lines.of(task, report)
        every.files += whole.files
        every.size += whole.size
        every.findings += whole.findings
        every.facts += whole.facts
        every.damaged += whole.damaged
        nodes.learn(whole.nodes)
    crowds = Crowds()
    told_apart = crowds.take(every.findings)
    every.findings = [
        with_node(f, nodes.of(f.evidence.file)) for f in (*told_apart, *crowds.rest())
    ]
    every.facts = [with_node(f, nodes.of(f.evidence.file)) for f in every.facts]
    return every


def _between(
    findings: Iterable[Finding], since: float | None, until: float | None
) -> Iterator[Finding]:
    """Yield what has no time, or one between."""
    for finding in findings:
        early = since is not None and finding.at < since
        late = until is not None and finding.at > until
        if not finding.dated or not (early or late):
            yield finding


def scan_exit_code(result: ScanResult) -> int:
    """Return 2 where something could not be read, else 1 where something failed (warnings are none), else 0."""
    failed = any(i["role"] in ("root", "symptom") for i in result.incidents)
    return 2 if result.damaged else int(failed)


def damage_of(result: ScanResult) -> list[str]:
    """Say what could not be read, a line a file."""
    return [
        f"{safe(path)}: {safe(why)}; what came before it counts" for path, why in result.damaged
    ]


def render_scan(result: ScanResult, *, as_json: bool) -> str:
    """Write the result for people or for programs."""
    if as_json:
        body: ScanJson = {
            "incidents": result.incidents,
            "unknown": result.unknown,
            "stats": result.stats,
        }
        return json.dumps(body, indent=2)
    shown = [_render_incident(i) for i in result.incidents]
    size = result.stats.get("bytes", 0) / 1e6
    foot = f"{len(shown)} incident{'s' * (len(shown) != 1)} in {result.stats.get('files', 0)} files, {size:.1f} MB"
    last = foot if shown else f"nothing failed: {foot}"
    return "\n\n".join([*shown, *_render_unknown(result.unknown), last])


def _render_unknown(unknown: Sequence[UnknownJson]) -> list[str]:
    """Write the most frequent lines that no signature explains, one paragraph or none."""
    if not unknown:
        return []
    rows = [
        f"no signature explains {sum(u['count'] for u in unknown)} lines that look like errors:"
    ]
    rows += [
        f"  {u['count']:>6} x  {safe(told(u['first']['text']), 160)}"
        for u in unknown[:_UNKNOWN_SHOWN]
    ]
    if len(unknown) > _UNKNOWN_SHOWN:
        rows.append(f"  and {len(unknown) - _UNKNOWN_SHOWN} other kinds: --json shows them")
    return ["\n".join([*rows, "  raywatch rules suggest PATH... drafts signatures for them"])]


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
