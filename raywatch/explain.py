"""`raywatch explain`: what does this log say? For pasted text of unknown origin, which never acts."""

from __future__ import annotations

import io
import json
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from datetime import timezone
from typing import TypedDict

from raywatch.archive import ArchiveError, Guarded, Member, members
from raywatch.core.classify import standing
from raywatch.core.templates import apart
from raywatch.explained import Answer, render
from raywatch.model import FailureClass, Finding, Scope, Source
from raywatch.pipeline import Engine, load_engine
from raywatch.unwrapped import Unwrapped, examine_unwrapped

# What is wider explains more; an actor dies with its worker, a run or job with either.
_BREADTH: Mapping[Scope, int] = {"cluster": 4, "node": 3, "device": 2, "worker": 2, "actor": 1}
# How a node ends that was told to go: whatever its last line says, it was taken.
_TAKEN = frozenset(
    ["node_lost", "node_partitioned", "raylet_crash", "node_terminated_expected", "node_unhealthy"]
)
_NOTICE, _TAKEN_BY_CLOUD, _PLANNED = (
    "preemption_notice",
    "spot_preemption",
    "node_terminated_expected",
)

AlsoJson = TypedDict("AlsoJson", {"class": str, "signature": str, "line": int, "text": str})
ExplanationJson = TypedDict(
    "ExplanationJson",
    {
        "file": str,
        "class": str,
        "confidence": float,
        "signature": str,
        "subject": dict[str, str | int | None],
        "fields": dict[str, str],
        "line": int,
        "text": str,
        "also": list[AlsoJson],
    },
)


@dataclass(frozen=True, slots=True)
class Explanation:
    """What one text says: its best finding, the others, and the class of the best (None: nothing failed).

    `answer` is what is shown to a person besides.
    """

    file: str
    best: Finding | None
    failure: FailureClass | None
    others: tuple[Finding, ...]
    answer: Answer


def explain_files(files: Sequence[str], *, rules: Sequence[str] = ()) -> list[Explanation]:
    """Explain each file, `-` for standard input. Raises ArchiveError, SignatureError."""
    engine = load_engine(rules)
    return [_explain(engine, text) for text in _texts(files)]


def _texts(files: Sequence[str]) -> Iterator[Member]:
    for name in files:
        if name == "-":
            yield Member("-", Guarded(io.FileIO(0, closefd=False)))
        else:
            yield from members(name)


def _explain(engine: Engine, text: Member) -> Explanation:
    label = text.path
    stream = Unwrapped(text.stream)
    source = Source(path=label, component="unknown")
    seen = examine_unwrapped(engine, source, stream, timezone.utc)
    if text.stream.why:
        raise ArchiveError(f"{label}: {text.stream.why}")
    classes = engine.ruleset.classes

    def rank(finding: Finding) -> tuple[int, int, int, int, float, int]:
        failure = classes[finding.class_id]
        explains = (
            int(not finding.aside),
            standing(failure.role, finding.trust),
            int(finding.trust),
            _BREADTH.get(failure.scope, 0),
        )
        return *explains, finding.confidence, -finding.evidence.line

    telling = sorted(_telling(seen.findings, classes), key=rank, reverse=True)
    best = telling[0] if telling else None
    others = {f.class_id: f for f in reversed(telling[1:]) if best and f.class_id != best.class_id}
    titles = {s.id: s.title for s in engine.ruleset.signatures}
    answer = Answer(
        file=label,
        best=best,
        classes=classes,
        others=tuple(reversed(others.values())),
        title=titles.get(best.signature, "") if best else "",
        lines=stream.lines,
        known=sum(f.count for f in seen.findings) + len(seen.facts),
        beginning=stream.head,
    )
    return Explanation(label, best, classes[best.class_id] if best else None, answer.others, answer)


def _telling(findings: Iterable[Finding], classes: Mapping[str, FailureClass]) -> Sequence[Finding]:
    """Leave out what is no failure; a node that was told to go and then ends was taken."""
    known, unknown = apart(findings)
    found = [f for f in known if classes[f.class_id].role != "benign"] or ([] if known else unknown)
    notice = next((f for f in found if f.class_id == _NOTICE), None)
    if notice is not None and any(f.class_id in _TAKEN for f in found):
        found.append(replace(notice, class_id=_TAKEN_BY_CLOUD))
    hurt = any(classes[f.class_id].role == "symptom" for f in found)
    # A planned end is a failure only of what it took with it.
    return [f for f in found if hurt or f.class_id != _PLANNED]


def explain_exit_code(explanations: Sequence[Explanation]) -> int:
    """Return 1 where something failed, 0 where nothing did (warnings included)."""
    return int(any(e.failure and e.failure.role in ("root", "symptom") for e in explanations))


def explanation_json(explanation: Explanation) -> ExplanationJson:
    """Show an explanation as DESIGN's command line contract says."""
    best = explanation.best
    return {
        "file": explanation.file,
        "class": best.class_id if best else "none",
        "confidence": best.confidence if best else 1.0,
        "signature": best.signature if best else "",
        "subject": {
            "kind": best.subject.kind,
            "id": best.subject.id,
            "node": best.subject.node,
            "rank": best.subject.rank,
        }
        if best
        else {},
        "fields": dict(best.fields) if best else {},
        "line": best.evidence.line if best else 0,
        "text": best.evidence.text if best else "",
        "also": [
            {
                "class": f.class_id,
                "signature": f.signature,
                "line": f.evidence.line,
                "text": f.evidence.text,
            }
            for f in explanation.others
        ],
    }


def render_explanations(explanations: Sequence[Explanation], *, as_json: bool) -> str:
    """Write explanations for people, or one JSON object a file and line."""
    if as_json:
        return "\n".join(json.dumps(explanation_json(e)) for e in explanations)
    return "\n\n".join(render(e.answer) for e in explanations)
