"""Who may be told apart in a storm: of one class and minute some dozens of findings, the rest are counted.

A cluster that loses a thousand workers in a minute has a thousand findings of a class. The first of them name enough; to
put each into an incident would take longer than the storm. What is not told apart is counted exactly, and the last
line of it stays evidence.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace

from raywatch.model import Finding

LIMIT = 64
LIMIT_UNDATED = 16  # of one file: what has no time tells less apart
MINUTE_S = 60.0
MAX_KEYS = 10_000  # minutes and files that are remembered


class Crowds:
    """Findings in, fewer out, with the same sum of counts."""

    def __init__(self) -> None:
        self._taken: dict[tuple[str, str, object], int] = {}
        self._rest: dict[tuple[str, str, object], Finding] = {}

    def take(self, findings: Iterable[Finding]) -> list[Finding]:
        """Return those that are told apart; the others wait for `rest`."""
        kept: list[Finding] = []
        for finding in findings:
            when = finding.at // MINUTE_S if finding.dated else finding.evidence.file
            key = (finding.class_id, finding.evidence.component, when)
            taken = self._taken.get(key, 0)
            if taken < (LIMIT if finding.dated else LIMIT_UNDATED):
                self._taken[key] = taken + 1
                kept.append(finding)
                continue
            before = self._rest.get(key)
            count = finding.count + (before.count if before is not None else 0)
            self._rest[key] = replace(finding, count=count)
        return kept

    def rest(self) -> list[Finding]:
        """Return what was not told apart since the last call: one finding for many."""
        rest, self._rest = list(self._rest.values()), {}
        if len(self._taken) > MAX_KEYS:
            self._taken.clear()
        return rest
