"""What no signature explains, grouped by template: a line without what varies, and how often it came.

After Drain (He et al., ICWS 2017): words that hold a digit, quoted texts, paths and addresses are variables from the start;
of lines with as many words and the same first one, those that mostly agree share a template, whose other words become
variables. Same findings in the same order, same templates; counts are exact, also of what found no place any more.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace

from raywatch.model import UNEXPLAINED, Evidence, Finding

MAX_TEMPLATES = 200  # what comes later is counted under REST
REST = "(others)"
VARIABLE = "<*>"
ALIKE = 0.7  # of the words must be the same
_MAX_WORDS = 40
_MAX_LINE = 2_000  # characters that are looked at
_ANSI = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]")
_MASKS = re.compile(
    r"'[^']{0,200}'|\"[^\"]{0,200}\"|[\w+.-]{1,20}://[^\s\"']+|(?:[\w.~-]*/){2,40}[\w.~-]*"
)
_DIGIT = re.compile(r"\d")


@dataclass(frozen=True, slots=True)
class Template:
    """Lines of one shape: `text` with `<*>` for what varies, how many, the first and the last of them."""

    text: str
    count: int
    first: Evidence
    last: Evidence

    @property
    def words(self) -> tuple[str, ...]:
        """The words of its text."""
        return tuple(self.text.split())


def apart(findings: Iterable[Finding]) -> tuple[list[Finding], list[Finding]]:
    """Return the findings that a signature explains, and those that none does."""
    known: list[Finding] = []
    unknown: list[Finding] = []
    for finding in findings:
        (unknown if finding.class_id == UNEXPLAINED else known).append(finding)
    return known, unknown


def masked(line: str) -> tuple[str, ...]:
    """Return the words of a line, those that surely vary as `<*>`."""
    text = _MASKS.sub(VARIABLE, _ANSI.sub("", line[:_MAX_LINE]))
    return tuple(
        VARIABLE if VARIABLE in word or _DIGIT.search(word) else word
        for word in text.split()[:_MAX_WORDS]
    )


def grouped(templates: Iterable[Template], findings: Iterable[Finding]) -> tuple[Template, ...]:
    """Return the templates with more findings in them, each counted as often as it stands for."""
    after = list(templates)
    for finding in findings:
        evidence = finding.evidence
        words = masked(evidence.text)
        at = _like(after, words)
        if at is None and len(after) < MAX_TEMPLATES:
            after.append(Template(" ".join(words), finding.count, evidence, evidence))
            continue
        if at is None:
            words = (REST,)
            at = len(after) - 1
            if after[at].text != REST:
                after.append(Template(REST, 0, evidence, evidence))
                at += 1
        old = after[at]
        text = " ".join(map(_common, old.words, words))
        after[at] = replace(old, text=text, count=old.count + finding.count, last=evidence)
    return tuple(after)


def _like(templates: Sequence[Template], words: tuple[str, ...]) -> int | None:
    """Return where the template is that agrees best, the first of equals."""
    best, most = None, 0.0
    for at, template in enumerate(templates):
        own = template.words
        if len(own) != len(words) or own[:1] != words[:1]:
            continue
        same = sum(a == b for a, b in zip(own, words, strict=True)) / max(1, len(words))
        if same >= ALIKE and same > most:
            best, most = at, same
    return best


def _common(one: str, other: str) -> str:
    return one if one == other else VARIABLE
