"""What chunks say while they are written: storms are counted, and what has no time is dated by when it was read."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from datetime import tzinfo
from itertools import chain

from raywatch.core.crowds import Crowds
from raywatch.core.repeats import STORM, Repeats
from raywatch.model import Chunk, Fact, Finding
from raywatch.pipeline import Engine, counted, examine

WINDOW_S = 10.0  # in which a repeat is one; then its next line is read in full again
Committed = Callable[
    [Chunk, int, int], None
]  # a chunk, up to where it is done, what was told behind
Said = tuple[list[Finding], list[Fact]]


class Examining:
    """Chunks in, findings and facts out. What is only counted waits for `counted`, before the next commit."""

    def __init__(self, engine: Engine, zone: tzinfo) -> None:
        self._engine, self._zone = engine, zone
        self._repeats, self._crowds = Repeats(engine.ruleset), Crowds()
        self._forgot_at = 0.0

    @property
    def pending(self) -> bool:
        """Whether something was counted that is in no finding yet."""
        return self._repeats.pending

    def use(self, engine: Engine) -> None:
        """Take other rules. Nothing may be pending: what was counted is counted by the numbers of the old ones."""
        self._engine, self._repeats = engine, Repeats(engine.ruleset)

    def of(
        self,
        chunks: Sequence[Chunk],
        now: float,
        date: Callable[[Chunk], float | None],
        commit: Committed,
        *,
        early: bool,
    ) -> Said:
        """Say what chunks say. `date` gives the time of what has none; `early`: see pipeline.examine."""
        if not 0 <= now - self._forgot_at < WINDOW_S:  # below 0: the clock was set back
            self._forgot_at = now
            self._repeats.forget()
        storm = sum(len(c.hits or ()) for c in chunks) >= STORM
        findings: list[Finding] = []
        facts: list[Fact] = []
        for chunk in chunks:
            repeats = self._repeats if storm else None
            seen = examine(
                self._engine, chunk, self._zone, date(chunk), early=early, repeats=repeats
            )
            commit(chunk, seen.upto, seen.told)
            findings += seen.findings
            facts += seen.facts
        return self._told_apart(findings), facts

    def counted(self) -> Said:
        """Return the findings that stand for what was counted since the last call, and the newest facts of it."""
        findings, facts = counted(self._engine, self._repeats, self._zone)
        return self._told_apart(findings), list(facts)

    def _told_apart(self, findings: Sequence[Finding]) -> list[Finding]:
        if not findings:
            return []
        return [*self._crowds.take(findings), *self._crowds.rest()]


class History:
    """What had been read before this start: it must not look as if it happened now.

    Text without times that is read while the daemon catches up may be days old. Where an earlier life had read all of
    the session, what is unread was written after that, at the latest when its file was last changed.
    """

    KIND = "start"

    def __init__(self, stored: Mapping[str, str]) -> None:
        """`stored`: the documents of KIND."""
        self._read_at = {k[5:]: float(v) for k, v in stored.items() if k.startswith("read ")}

    def date(self, chunk: Chunk, session: str) -> float | None:
        """Return when text without a time was written, as far as that is known; unix seconds."""
        since = self._read_at.get(session)
        if since is None:
            return None
        try:
            changed = os.stat(chunk.source.path).st_mtime  # noqa: PTH116 - strings all the way
        except OSError:  # renamed or gone meanwhile
            return None
        return changed if since < changed <= chunk.read_at else None

    def documents(self, session: str, now: float) -> Mapping[str, str | None]:
        """Return what is to be stored once all of a session was read: other sessions are over."""
        others = {f"read {s}": None for s in self._read_at if s != session}
        self._read_at = {session: self._read_at.get(session, now)}
        return dict(chain(others.items(), [(f"read {session}", repr(self._read_at[session]))]))
