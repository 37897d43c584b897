"""`raywatch explain`: what does this log say? For pasted text of unknown origin, which never acts."""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import timezone
from typing import TypedDict

from raywatch.archive import ArchiveError, Guarded, Member, members
from raywatch.core.view import resume_words
from raywatch.model import FailureClass, Finding, Source
from raywatch.pipeline import Engine, load_engine
from raywatch.reading import examine_stream
from raywatch.runbooks import pointer
from raywatch.terminal import safe, told

_ROLES = {"root": 3, "symptom": 2, "warning": 1, "benign": 0}

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
    """What one text says: its best finding, the others, and the class of the best (None: nothing failed)."""

    file: str
    best: Finding | None
    failure: FailureClass | None
    others: tuple[Finding, ...]


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
    source = Source(path=label, component="unknown")
    seen = examine_stream(engine, source, text.stream, timezone.utc)
    if text.stream.why:
        raise ArchiveError(f"{label}: {text.stream.why}")
    classes = engine.ruleset.classes

    def rank(finding: Finding) -> tuple[int, int, float, int]:
        role = _ROLES[classes[finding.class_id].role]
        return role, int(finding.trust), finding.confidence, -finding.evidence.line

    ordered = sorted(seen.findings, key=rank, reverse=True)
    telling = [f for f in ordered if classes[f.class_id].role != "benign"]
    if not telling:
        return Explanation(label, None, None, ())
    best = telling[0]
    others = {f.class_id: f for f in reversed(telling[1:]) if f.class_id != best.class_id}
    return Explanation(label, best, classes[best.class_id], tuple(reversed(others.values())))


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
    return "\n\n".join(_render(e) for e in explanations)


def _render(explanation: Explanation) -> str:
    best, failure = explanation.best, explanation.failure
    if best is None or failure is None:
        return f"{safe(explanation.file)}: none. No signature says that anything failed here."
    rows = [
        f"{safe(explanation.file)}: {best.class_id} ({failure.role}, confidence {best.confidence:.1f})",
        f"  {failure.title}",
        f"  line {best.evidence.line}: {safe(told(best.evidence.text), 300)}",
    ]
    shown = {k: v for k, v in best.fields.items() if k not in ("path", "session", "node")}
    if shown:
        rows.append("  " + "  ".join(f"{k}={safe(v, 60)}" for k, v in shown.items()))
    rows += [
        f"  also {f.class_id}, line {f.evidence.line}: {safe(told(f.evidence.text), 160)}"
        for f in explanation.others
    ]
    rows.append(f"  resume: {resume_words(failure.resume)}")
    page = pointer(failure.id)
    return "\n".join([*rows, f"  {page}"] if page else rows)
