"""What an incident holds of its findings and of others that it absorbs: lines, names and counts, all bounded."""

from __future__ import annotations

from dataclasses import replace

from raywatch.core.kinship import is_copy
from raywatch.model import Entity, Evidence, Finding, Incident

MAX_EVIDENCE = 24
MAX_NAMED = 512


def counts_with(
    incident: Incident, finding: Finding, *, better: bool
) -> tuple[int, tuple[tuple[str, int], ...]]:
    """Return how many findings there are with one more, and what they explain; copies change nothing."""
    if finding.aside or is_copy(incident.heard, finding):
        return incident.findings, incident.explains
    findings = incident.findings + finding.count
    if finding.class_id == incident.class_id:
        return findings, incident.explains
    if not better:
        return findings, counted(incident.explains, finding.class_id, finding.count)
    nobody = f"{incident.class_id} "
    known = [k for k in incident.heard if k.startswith(nobody)]
    # What names nobody was a copy of one that does, whichever came first.
    times = len(known) - (nobody in known and len(known) > 1)
    return findings, counted(incident.explains, incident.class_id, times)


def named(known: frozenset[Entity], new: frozenset[Entity]) -> frozenset[Entity]:
    """Join whom two name. Of processes that crash for days any few say whose they are; jobs and nodes stay."""
    if new <= known:
        return known
    full = len(known) >= MAX_NAMED
    return known | frozenset(e for e in new if not full or e.kind not in ("worker", "actor", "pid"))


def joined(keeper: Incident, other: Incident) -> Incident:
    """Return the keeper with all that another was."""
    explains = keeper.explains
    for class_id, times in ((other.class_id, 1), *other.explains):
        explains = counted(explains, class_id, times)
    evidence = keeper.evidence
    for line in other.evidence:
        evidence = kept(evidence, line)
    return replace(
        keeper,
        first_at=min(keeper.first_at, other.first_at),
        last_at=max(keeper.last_at, other.last_at),
        evidence=evidence,
        explains=tuple(e for e in explains if e[0] != keeper.class_id),
        entities=named(keeper.entities, other.entities),
        findings=keeper.findings + other.findings,
        heard={**other.heard, **keeper.heard},
        gave_up=keeper.gave_up or other.gave_up,
        restarted=keeper.restarted and not other.gave_up,
        runs=tuple(dict.fromkeys((*keeper.runs, *other.runs))),
        merged=(*keeper.merged, other.id, *other.merged),
    )


def kept(evidence: tuple[Evidence, ...], new: Evidence) -> tuple[Evidence, ...]:
    """Return evidence with one more line, each once, and no more than MAX_EVIDENCE."""
    if len(evidence) >= MAX_EVIDENCE:
        return evidence
    known = {(e.file, e.line, e.class_id) for e in evidence}
    return evidence if (new.file, new.line, new.class_id) in known else (*evidence, new)


def counted(
    explains: tuple[tuple[str, int], ...], class_id: str, times: int
) -> tuple[tuple[str, int], ...]:
    """Return what is explained with `times` more of a class."""
    counts = dict(explains)
    counts[class_id] = counts.get(class_id, 0) + times
    return tuple(counts.items())
