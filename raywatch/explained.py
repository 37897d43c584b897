"""An explanation as a person reads it, in 80 columns: what failed, why, what it is not, what to do now."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from textwrap import wrap

from raywatch.core.view import resume_words
from raywatch.model import FailureClass, Finding
from raywatch.runbooks import pointer, points
from raywatch.terminal import safe, told

_WIDTH = 79
_AROUND = 2  # lines that are shown before and behind the one that proves it
_NEAR = 3  # classes that are told apart
_STEPS = 4  # of what to do now
_ALSO = 6  # other classes in the text
_LONG = 3  # rows of one point
_HIDDEN = frozenset(["path", "session", "node", "message", "snippet_ranks"])
_ROLE = {
    "root": "root cause",
    "symptom": "a symptom: something else caused it",
    "warning": "a warning",
}
# Ray writes the same list of possible causes for each worker or raylet that is gone.
_POSSIBILITIES = re.compile(
    rb"Some common causes include: |There are some potential root causes|Possible reasons include: "
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What is to be shown of one text. `known`: records that a signature knew; `beginning`: how the text begins."""

    file: str
    best: Finding | None
    classes: Mapping[str, FailureClass]
    others: tuple[Finding, ...]
    title: str
    lines: int
    known: int
    beginning: bytes


def render(answer: Answer) -> str:
    """Write an answer; text from logs is made safe for a terminal."""
    best = answer.best
    if best is None:
        return _nothing(answer)
    failure = answer.classes[best.class_id]
    sure = f"{_ROLE.get(failure.role, failure.role)}, confidence {best.confidence:.1f}"
    rows = [f"{safe(answer.file)}: {best.class_id} ({sure})"]
    rows += _told(failure.title, "  ")
    if answer.title and answer.title != failure.title:
        rows += _told(f"signature {best.signature}: {answer.title}", "  ")
    rows += ["", *_lines(answer, best)]
    rows += _fields(best)
    rows += _others(answer)
    rows += _section("it is not", _differences(answer, failure))
    rows += _section("what to do now", points(failure.id, "Mend now")[:_STEPS])
    rows += ["", *_told(f"resume: {resume_words(failure.resume)}", "  ")]
    page = pointer(failure.id)
    return "\n".join([*rows, f"  {page}"] if page else rows)


def _nothing(answer: Answer) -> str:
    known = f"; {answer.known} records in them are known and are no failure" if answer.known else ""
    said = f"{safe(answer.file)}: none. No signature says that anything failed here ({answer.lines} lines{known})."
    return "\n".join(wrap(said, _WIDTH, subsequent_indent="  ", break_on_hyphens=False))


def _told(text: str, indent: str, rows: int = 0) -> list[str]:
    """Wrap our own words."""
    lines = wrap(
        text, _WIDTH, initial_indent=indent, subsequent_indent=indent + "  ", break_on_hyphens=False
    )
    return [*lines[: rows - 1], lines[rows - 1] + " ..."] if rows and len(lines) > rows else lines


def _lines(answer: Answer, best: Finding) -> Iterator[str]:
    """Show the line that proves it among its neighbours; alone where the text is too long to be kept."""
    number, kept = best.evidence.line, answer.beginning.split(b"\n")
    first = max(1, number - _AROUND)
    near = kept[first - 1 : number + _AROUND] if number < len(kept) else []
    width = len(str(number + _AROUND))
    for at, raw in enumerate(near, first):
        text = raw.decode(errors="replace").rstrip()
        if at != number and text:
            yield f"    {at:>{width}} | {safe(text, _WIDTH - width - 7)}"
        elif at == number:
            yield from _proof(best, width)
    if not near:
        yield from _proof(best, width)


def _proof(best: Finding, width: int) -> list[str]:
    said = safe(told(best.evidence.text), 300)
    head, indent = f"  > {best.evidence.line:>{width}} | ", " " * (width + 4) + " | "
    return wrap(
        said, _WIDTH, initial_indent=head, subsequent_indent=indent, break_on_hyphens=False
    ) or [head]


def _fields(best: Finding) -> list[str]:
    """Show what was captured and does not stand in the line itself."""
    shown = told(best.evidence.text)
    known = {k: v for k, v in best.fields.items() if v not in shown}
    rows: list[str] = []
    if "message" in known and "exception" in best.fields:
        raised = f"raised: {best.fields['exception']}: {known['message']}"
        rows += _told(safe(raised, 300), "  ")
        known.pop("exception", None)
    said = "  ".join(f"{k}={safe(v, 60)}" for k, v in known.items() if k not in _HIDDEN)
    rows += _told(said, "  ")
    return ["", *rows] if rows else []


def _others(answer: Answer) -> list[str]:
    rows: list[str] = []
    for f in answer.others[:_ALSO]:
        head = f"    {f.class_id}, line {f.evidence.line}: "
        rows.append(head + safe(told(f.evidence.text), max(20, _WIDTH - len(head))))
    more = len(answer.others) - _ALSO
    rows += [f"    and {more} more classes"] * (more > 0)
    return ["", "  also in this text", *rows] if rows else []


def _differences(answer: Answer, failure: FailureClass) -> list[str]:
    """Say what it looks like and is not: its page's near classes, and lists that prove nothing."""
    found = points(failure.id, "Not to be confused with")[:_NEAR]
    if _POSSIBILITIES.search(answer.beginning):
        found.append(
            "what the list of possible causes says (OOM killer, ray stop, SIGSEGV): Ray always writes it."
        )
    return found


def _section(title: str, said: Sequence[str]) -> list[str]:
    rows = [row for point in said for row in _told(f"- {point}", "    ", _LONG)]
    return ["", f"  {title}", *rows] if rows else []
