"""Record -> findings and facts: which class, about whom, how far to be trusted."""

from __future__ import annotations

import re
from collections.abc import Mapping
from functools import lru_cache

from raywatch.core.causes import Cause, innermost
from raywatch.core.prefixes import STREAM
from raywatch.core.signatures import Ruleset, Signature
from raywatch.model import (
    UNEXPLAINED,
    Component,
    Entity,
    Evidence,
    Fact,
    FailureClass,
    Finding,
    Record,
    Role,
    Subject,
    Trust,
)

# They explain a record only where no other signature does.
GENERIC = frozenset(["python-exception", "exception-line"])
# What a class proves when its signature does not say: DESIGN.md, "Root before symptom".
_TRUST_OF_GROUP: Mapping[str, Trust] = {
    "preemption": Trust.NOTICE,
    "collective": Trust.COLLECTIVE,
    "job": Trust.NOISE,
    "train": Trust.NOISE,
    "network": Trust.NOISE,
    "unknown": Trust.SILENCE,
}
_TRUST_OF_COMPONENT: Mapping[Component, Trust] = {
    "raylet": Trust.RAY,
    "gcs": Trust.RAY,
    "event": Trust.RAY,
    "export": Trust.RAY,
    "kernel": Trust.KERNEL,
}
_ENTITY_KEYS: Mapping[str, str] = {
    "node_id": "node",
    "worker_id": "worker",
    "actor_id": "actor",
    "job_id": "job",
    "submission_id": "submission",
    "run_name": "run",
    "pid": "pid",
    "stream_pid": "pid",
}
_SUBJECT_KEYS: Mapping[str, tuple[str, ...]] = {
    "cluster": ("session",),
    "node": ("node_id", "node_ip", "node"),
    "worker": ("worker_id", "pid", "world_rank", "stream_pid"),
    "actor": ("actor_id", "actor", "worker_id", "pid", "stream_pid"),
    "job": ("submission_id", "job_id", "client_id"),
    "run": ("run_name", "submission_id", "job_id"),
    "device": ("device", "pid"),
}
_PROGRESS = "run_"  # facts of training outside Ray Train
_SURVIVED = re.compile(r"(?i)\bretry|\bignor|\brecover|fall(?:ing)? back|\bskip|try again")
_RAISING = ("Error", "Exception", "Traceback")  # no exception is told without one of them
_DECISIONS = frozenset(["train_failed", "train_restarted"])  # the controller's alone
_SNIPPET_END = " Error Snippet]"
_SNIPPET = re.compile(r"^\[Rank ([\d,]+) Error Snippet\]", re.MULTILINE)
_STANDING: Mapping[Role, int] = {"root": 3, "symptom": 2, "warning": 1, "benign": 0}
# What says no more than that a program raised: beside what says why they are left out.
_GIVING_WAY = GENERIC | {"task-error", "worker-task-error"}
_NOBODY = re.compile(r"(?:0+|f+)\Z")  # Ray's nil ids; 0f000000 is a job, the 15th


def standing(role: Role, trust: Trust) -> int:
    """Return how much what a finding says explains: roots most. What only echoes a root's end ranks as a symptom.

    A launcher's "exited with code 1", the SIGABRT behind an error that the process has told: where nothing else is
    known they name the failure, beside anything better they do not.
    """
    if role == "root" and trust == Trust.SILENCE:
        return _STANDING["symptom"]
    return _STANDING[role]


def classify(record: Record, ruleset: Ruleset) -> tuple[tuple[Finding, ...], tuple[Fact, ...]]:
    """Return what a record means: a finding for each class in it, and facts. Same input, same output."""
    findings: dict[str, Finding] = {}
    facts: list[Fact] = []
    judged = False  # whether an exception was looked at
    found = zip(record.signatures, record.hit_lines, record.hit_numbers, strict=True)
    cause = innermost(record.text) if any(map(record.text.__contains__, _RAISING)) else None
    for number, line, at_line in found:
        signature = ruleset.signatures[number]
        if not signature.applies_to(record.source.component) or signature.excluded_by(record):
            continue
        fields = _fields(record, signature, line)
        if signature.fact:
            facts.append(_fact(record, signature, fields, line, at_line))
            continue
        failure = ruleset.classes[signature.class_id]
        if cause is not None:
            fields |= _raised(cause, fields, of_user=failure.group == "user_code")
        if signature.id in GENERIC:
            # A traceback that is cut off or only echoes: its level still says that something failed.
            judged = judged or cause is not None
            if cause is None or _is_no_failure(record, cause):
                continue
            line, at_line = _line_of(record, cause)  # noqa: PLW2901 - the header says nothing
        candidate = _finding(record, signature, failure, fields=fields, line=line, at_line=at_line)
        best = findings.get(candidate.class_id)
        if best is None or (candidate.trust, candidate.confidence) > (best.trust, best.confidence):
            findings[candidate.class_id] = candidate
    if len(findings) > 1 or facts or judged:
        findings.pop(UNEXPLAINED, None)
    if len(findings) > 1:
        findings = _without_generic(findings, record, ruleset)
    return tuple(findings.values()), tuple(facts)


def _raised(cause: Cause, fields: Mapping[str, str], *, of_user: bool) -> dict[str, str]:
    """Return what a cause adds to a finding's fields; the rank only where the exception is what failed."""
    said = {"exception": cause.type}
    if cause.message and "message" not in fields:
        said["message"] = cause.message
    if cause.rank and of_user:
        said["rank"] = cause.rank
    return said


def _is_no_failure(record: Record, cause: Cause) -> bool:
    """Say whether a traceback was logged and got over, is Ray's to explain, or a copy of what a worker printed."""
    copied = "stream_pid" in record.fields and record.source.component != "unknown"
    # Any line may stand right above the last words of a program: its level alone says nothing.
    survived = record.level[:1] in ("W", "I", "D") and _SURVIVED.search(record.text, 0, 1000)
    return copied or bool(survived) or cause.type.startswith("ray.exceptions.")


def _line_of(record: Record, cause: Cause) -> tuple[str, int]:
    """Return the line that names a cause, and its number."""
    rows = record.rows or range(record.line, record.line + cause.line + 1)
    return record.text.split("\n", cause.line + 1)[cause.line].strip()[:4096], rows[cause.line]


def _without_generic(
    findings: dict[str, Finding], record: Record, ruleset: Ruleset
) -> dict[str, Finding]:
    """Leave the generic finding out where another one names a root, or explains the very line of the cause."""
    generic = next((f for f in findings.values() if f.signature in _GIVING_WAY), None)
    if generic is None:
        return findings
    others = {name: f for name, f in findings.items() if f is not generic}
    used = {f.signature for f in others.values()}
    hits = zip(record.signatures, record.hit_numbers, strict=True)
    explained = {n for s, n in hits if ruleset.signatures[s].id in used}
    rooted = any(ruleset.classes[name].role == "root" for name in others)
    return others if rooted or generic.evidence.line in explained else findings


def _fields(record: Record, signature: Signature, line: str) -> dict[str, str]:
    source = record.source
    # A record may hold many lines of progress, and each says another step and rank.
    is_progress = signature.fact.startswith(_PROGRESS)
    stream = STREAM.match(line) if is_progress else None
    fields = {
        "node": source.node,
        "session": source.session,
        "path": source.path,
        "job_id": source.job_id,
        "worker_id": source.worker_id,
        "submission_id": source.submission_id,
        "pid": str(source.pid or ""),
        **record.fields,
        **({f"stream_{k}": v for k, v in stream.groupdict().items() if v} if stream else {}),
        **signature.captured(line if is_progress else record.text),
    }
    ranks = _SNIPPET.findall(record.text) if _SNIPPET_END in record.text else None
    if ranks:
        fields["snippet_ranks"] = ",".join(ranks)
    return {k: v for k, v in fields.items() if v}


def entities_of(fields: Mapping[str, str]) -> frozenset[Entity]:
    """Return everything that fields name; ids of all zeros or f mean nobody."""
    return _entities(tuple(map(fields.get, _ENTITY_KEYS)))


@lru_cache(maxsize=4096)
def _entities(ids: tuple[str | None, ...]) -> frozenset[Entity]:
    """Return those of ids in the order of _ENTITY_KEYS. A storm names the same again and again."""
    named = zip(_ENTITY_KEYS.values(), ids, strict=True)
    return frozenset(Entity(kind, i) for kind, i in named if i and not _NOBODY.match(i))


def _evidence(
    record: Record, signature: Signature, fields: Mapping[str, str], line: str, at_line: int
) -> Evidence:
    return Evidence(
        file=record.source.path,
        line=at_line,
        text=line,
        at=record.at,
        component=record.source.component,
        class_id=signature.class_id,
        signature=signature.id,
        node=fields.get("node_id") or record.source.node,
        offset=record.offset,
    )


def _fact(
    record: Record, signature: Signature, fields: Mapping[str, str], line: str, at_line: int
) -> Fact:
    return Fact(
        kind=signature.fact,
        at=record.at or 0.0,
        evidence=_evidence(record, signature, fields, line, at_line),
        fields=fields,
        entities=entities_of(fields),
    )


def _finding(
    record: Record,
    signature: Signature,
    failure: FailureClass,
    *,
    fields: Mapping[str, str],
    line: str,
    at_line: int,
) -> Finding:
    rank = fields.get("rank") or fields.get("world_rank") or fields.get("stream_rank") or ""
    subject = Subject(
        kind=failure.scope,
        id=next((fields[k] for k in _SUBJECT_KEYS[failure.scope] if fields.get(k)), ""),
        node=fields.get("node_id") or record.source.node,
        rank=int(rank) if rank.isdigit() else None,
    )
    return Finding(
        class_id=failure.id,
        subject=subject,
        at=record.at or 0.0,
        dated=record.at is not None,
        evidence=_evidence(record, signature, fields, line, at_line),
        signature=signature.id,
        trust=_trust(record, signature, failure),
        confidence=signature.confidence,
        fields=fields,
        entities=entities_of(fields),
        aside=signature.aside,
        acts=signature.maturity == "stable"
        and not signature.aside
        and record.source.component != "unknown"
        and not (failure.id in _DECISIONS and _by_program(fields)),
    )


def _by_program(fields: Mapping[str, str]) -> bool:
    """Say whether a rank wrote it: what a program prints lands in Ray Train's logs and in the driver's too."""
    return fields.get("component") == "worker" or fields.get("stream_name") == "RayTrainWorker"


def _trust(record: Record, signature: Signature, failure: FailureClass) -> Trust:
    if signature.trust is not None:
        return signature.trust
    if failure.group in _TRUST_OF_GROUP:
        return _TRUST_OF_GROUP[failure.group]
    return _TRUST_OF_COMPONENT.get(record.source.component, Trust.PROCESS)
