"""State -> what others may see: plain JSON values with times in RFC 3339."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from datetime import datetime, timezone
from typing import TypedDict

from raywatch.core.templates import Template
from raywatch.model import Drain, Evidence, FailureClass, Incident, Subject


class LineJson(TypedDict):
    """A line that proves something."""

    file: str
    line: int
    text: str
    at: str | None
    signature: str


class SubjectJson(TypedDict):
    """Whom an incident is about."""

    kind: str
    id: str
    node: str
    rank: int | None


class UnknownJson(TypedDict):
    """Lines that look like errors and that no signature explains: `template` has `<*>` for what varies."""

    template: str
    count: int
    first: LineJson
    last: LineJson


# `class` is a keyword, so the functional form.
CountJson = TypedDict("CountJson", {"class": str, "count": int})
IncidentJson = TypedDict(
    "IncidentJson",
    {
        "id": str,
        "class": str,
        "group": str,
        "title": str,
        "role": str,
        "subject": SubjectJson,
        "scope": str,
        "first_at": str | None,
        "last_at": str | None,
        "state": str,
        "confidence": float,
        "root": LineJson,
        "fields": dict[str, str],
        "evidence": list[LineJson],
        "explains": list[CountJson],
        "merged": list[str],
        "runs": list[str],
        "resume": str,
        "culprit": SubjectJson | None,
        "world_sizes": list[int],
    },
)


# What `resume` of the taxonomy says to a person.
RESUME_WORDS: Mapping[str, str] = {
    "now": "from the newest whole checkpoint, at once; no fault of the run",
    "counted": "from the newest whole checkpoint, within the run's budget of attempts",
    "elsewhere": "from the newest whole checkpoint, on other nodes",
    "older": "from the checkpoint before the newest",
    "changed": "only after somebody changed something",
    "never": "no, the same would happen again",
    "none": "nothing to resume",
}


def resume_words(advice: str) -> str:
    """Say in words what a class or an incident advises."""
    words = RESUME_WORDS.get(advice, "")
    return f"{advice} ({words})" if words else advice


def rfc3339(at: float | None) -> str | None:
    """Write unix seconds in RFC 3339, UTC; None for what has no time."""
    if not at:
        return None
    try:
        stamp = datetime.fromtimestamp(at, timezone.utc)
    except (ValueError, OverflowError, OSError):  # what others say may be no time
        return None
    return stamp.isoformat(timespec="milliseconds").replace("+00:00", "Z")


def resume_of(incident: Incident, failure: FailureClass) -> str:
    """Return the effective decision: the class's, or `none` once Ray itself restarted what was hurt."""
    return "none" if incident.restarted else failure.resume


def incident_json(incident: Incident, classes: Mapping[str, FailureClass]) -> IncidentJson:
    """Show an incident as the command line and the API do."""
    failure = classes[incident.class_id]
    runs = sorted(e.id for e in incident.entities if e.kind == "run")
    return {
        "id": incident.id,
        "class": incident.class_id,
        "group": failure.group,
        "title": failure.title,
        "role": failure.role,
        "subject": _subject(incident.subject),
        "scope": failure.scope,
        "first_at": rfc3339(incident.first_at),
        "last_at": rfc3339(incident.last_at),
        "state": "resolved" if incident.restarted else incident.state,
        "confidence": incident.confidence,
        "root": _line(incident.root),
        "fields": dict(incident.fields),
        "evidence": [_line(e) for e in incident.evidence],
        "explains": [{"class": c, "count": n} for c, n in incident.explains],
        "merged": list(incident.merged),
        "runs": list(incident.runs) or runs,
        "resume": resume_of(incident, failure),
        "culprit": _subject(incident.culprit) if incident.culprit else None,
        "world_sizes": list(incident.world_sizes),
    }


def unknown_json(templates: Iterable[Template]) -> list[UnknownJson]:
    """Show templates, the most frequent first, of equals the one that came first."""
    return [
        {"template": t.text, "count": t.count, "first": _line(t.first), "last": _line(t.last)}
        for t in sorted(templates, key=lambda t: -t.count)
    ]


def drain_json(drain: Drain) -> dict[str, str | None]:
    """Show a drain as the API does."""
    return {
        "node_id": drain.node_id,
        "reason": drain.reason,
        "message": drain.message,
        "at": rfc3339(drain.at),
        "deadline_at": rfc3339(drain.deadline_at),
    }


def _subject(subject: Subject) -> SubjectJson:
    return {"kind": subject.kind, "id": subject.id, "node": subject.node, "rank": subject.rank}


def _line(evidence: Evidence) -> LineJson:
    return {
        "file": evidence.file,
        "line": evidence.line,
        "text": evidence.text,
        "at": rfc3339(evidence.at),
        "signature": evidence.signature,
    }
