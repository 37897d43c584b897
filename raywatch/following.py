"""The session that is followed: where it lies, what its files are, and what may have changed in it."""

from __future__ import annotations

import logging
import os
import re
import resource
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from raywatch.collect.batch import Match
from raywatch.collect.hints import Hints
from raywatch.collect.raylogs import (
    current_session,
    describe,
    holds_text,
    node_of_session,
    nodes_of_session,
)
from raywatch.collect.resting import Cursor
from raywatch.collect.tail import Tailer
from raywatch.collect.wake import Waker
from raywatch.core.blindness import LOGS, Standing
from raywatch.core.view import rfc3339
from raywatch.model import Chunk, Source

log = logging.getLogger("raywatch.daemon")
# A dated record is whole when its file did not grow for so long. Lines that one writer gives one after the other are 2 us
# apart; of 30,000 pairs on a machine with four times the work that it can do none was 0.5 to 1 ms apart.
QUIET_S = 0.0005
OPEN_FILES, FOLLOWED = 16384, 8192  # descriptors that are asked for; files that are held open
IDLE_S = 1.0  # a wait without events
POLL_S = 0.2  # the same where events do not tell all
ACTIVE_S = 60.0  # a file that grew so lately is looked into at each of those
# Files that a sweep looks at in a second. Each costs some 6 us: 0.4 % of a core where events tell what is written, a
# tenth of one where they do not, and all that is left over where much may have changed at once.
CALM, WARY, HURRIED = 300, 25_000, 2_000_000
LOOK_S = 0.05  # a sweep looks at some files at once, not at two in each of the turns of a flood
NEWEST = 1_000  # files that are read first in a hurry
SLICE = 2_000  # at most in one turn, so that what is written meanwhile need not wait
UNTOLD_S = 1.0  # growth that was seen so long before its event was not told
DISTRUST_S = 300.0  # after growth that was not told
SESSION = re.compile(r"session_\d{4}-")  # as Ray names one; a mounted folder may be named otherwise
RETRY_S = (2.0, 60.0)  # to watch again what could not be watched


class Following:
    """A tailer and a waker on the logs of the newest session below some folders, or of one that is named."""

    def __init__(
        self, temp_dirs: Sequence[Path], named: Path | None, cursors: Iterable[Cursor]
    ) -> None:
        self._temp_dirs, self._named = temp_dirs, named
        self._node: str | None = None
        self._waits = False
        self.read_at = 0.0  # when something was read last
        self._looked_at: float | None = None  # when the logs could last be looked into
        self._dark: tuple[str, float] | None = (
            None  # why they cannot be, and since when; '' where they can
        )
        self._raylets: frozenset[str] = frozenset()
        self._named_all = False  # each raylet said which node it is
        self.session: Path | None = None
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = min(FOLLOWED, limit // 2) if limit > 0 else FOLLOWED
        self.tailer = Tailer([], self._describe, cursors, quiet_s=QUIET_S, max_open=most)
        self.waker = Waker()
        self._hurried = True  # much may have changed
        self._swept_at = self._checked_at = 0.0
        self._distrusted_at: float | None = None
        self._watch_at, self._retry_s = 0.0, RETRY_S[0]

    @property
    def name(self) -> str | None:
        """The session's name, None while there is none."""
        return self.session.name if self.session else None

    def standing(self, now: float) -> Standing:
        """Return how the logs stand as a source of facts: quiet ones are seen too."""
        reason, since = self._dark or ("not looked for yet", now)
        return Standing(LOGS, "error" if reason else "up", reason, now, since, self._looked_at)

    def row(self) -> dict[str, str | int | None]:
        """Return what is told of the logs beside how they stand as a source."""
        read_at = rfc3339(self.read_at)
        return {"files": self.tailer.files(), "mode": self.waker.mode, "read_at": read_at}

    def nodes(self) -> frozenset[str]:
        """Return the nodes whose logs lie here: several raylets may share a folder."""
        if not self._named_all and self.session is not None:
            found = nodes_of_session(self.session / "logs")
            self._named_all = bool(found) and "" not in found
            if found != self._raylets:  # who shows them looks for another object
                self._raylets = found
        return self._raylets

    def _see(self, now: float) -> None:
        """Note whether the logs can be looked into."""
        reason = self._unseen()
        same = self._dark is not None and bool(self._dark[0]) == bool(reason)
        self._dark = reason, self._dark[1] if same and self._dark else now
        self._looked_at = self._looked_at if reason else now

    def _unseen(self) -> str:
        if self.session is None:
            return f"no Ray session in {', '.join(map(str, self._temp_dirs))}"
        logs = self.session / "logs"
        if os.access(logs, os.R_OK | os.X_OK):
            return ""
        return f"{logs}: {'may not be read' if logs.exists() else 'is gone'}"

    def health(self) -> dict[str, str | None]:
        """Say how files are watched, and why not by events alone."""
        return {
            "session": self.name,
            "watch": self.waker.mode,
            "watch_reason": self.waker.reason,
        }

    def is_polling(self) -> bool:
        """Say whether events do not tell all."""
        return self.session is not None and self.waker.mode != "inotify"

    def close(self) -> None:
        """Let go of the files."""
        self.waker.close()
        self.tailer.close()

    def sweep(self, now: float) -> None:
        """Look for a newer session, and go on to look at every file."""
        self._node = self._node or None  # a raylet writes it a moment after its log is there
        self._look(now)
        self._see(now)
        self.tailer.begin_sweep(doubting=self._is_calm() and not self._hurried)

    def read(self, now: float, hints: Hints, match: Match) -> list[Chunk]:
        """Return what is new in the files; see Tailer.poll."""
        if hints.lost:
            log.warning("inotify dropped events: looking at every file")
            self._hurry()
        if not self._is_calm() and not 0 <= now - self._checked_at < POLL_S:
            self._checked_at = now
            self.tailer.recheck(now - ACTIVE_S)
        chunks = self.tailer.poll(
            now, dirty=hints.moved, written=hints.written, match=match, look=self._due(now)
        )
        self._hurried = self._hurried and self.tailer.is_sweeping()
        self.read_at = now if chunks else self.read_at
        self._judge(now)
        return chunks

    def _due(self, now: float) -> int:
        """Return at how many files a sweep may look now."""
        elapsed = now - self._swept_at
        if 0 <= elapsed < LOOK_S and not self._hurried:
            return 0
        self._swept_at = now
        return SLICE if elapsed < 0 else min(SLICE, int(elapsed * self._rate()) + 1)

    def is_history_read(self) -> bool:
        """Say whether all that was there was looked at and read."""
        return not self._hurried and self.tailer.caught_up()

    def idle_s(self, now: float) -> float:
        """Return how long nothing needs to be done unless an event comes."""
        if self.tailer.busy() or (self._hurried and self.tailer.is_sweeping()):
            return 0.0
        at = self.tailer.next_at()
        rest = IDLE_S if self._is_calm() or self.session is None else POLL_S
        return rest if at is None else max(0.0, min(rest, at - now))

    def _is_calm(self) -> bool:
        return self.waker.mode == "inotify"

    def _rate(self) -> float:
        return HURRIED if self._hurried else CALM if self._is_calm() else WARY

    def _hurry(self) -> None:
        """Begin anew to look at every file, and do not rest until that is done."""
        self._hurried = True
        self.tailer.end_sweep()
        self.tailer.begin_sweep(newest=NEWEST)

    def _look(self, now: float) -> None:
        found = self._named or next(filter(None, map(current_session, self._temp_dirs)), None)
        session = found.resolve() if found else None
        if session is None and self.session is None and not self._waits:
            where = ", ".join(map(str, self._temp_dirs))
            log.warning("no Ray session yet in %s; waiting for one", where)
            self._waits = True
        if session is not None and session != self.session:
            log.info("following session path=%s", session)
            self.session, self._node, self._named_all = session, None, False
            self.tailer.set_roots([session / "logs"])
            self._retry_s = RETRY_S[0]
            self._watch(now)
        elif self.session is not None and not self.waker.watches and now >= self._watch_at:
            self._watch(now)

    def _watch(self, now: float) -> None:
        """Watch the session; what came before it was watched, no event tells."""
        if self.session is None:
            return
        before = self.waker.reason
        self.waker.watch([self.session / "logs"])
        if self.waker.mode != "inotify" and self.waker.reason != before:
            log.warning("inotify does not suffice here, polling too: %s", self.waker.reason)
        self._watch_at = now + self._retry_s
        self._retry_s = min(2 * self._retry_s, RETRY_S[1])
        self._distrusted_at = None
        self._hurry()

    def _judge(self, now: float) -> None:
        """Take note of growth that no event told, and trust again after a while.

        All events up to now were heard: however long the last turn took, none is under way for so long.
        """
        untold = self.tailer.untold or {}
        path = next((p for p, at in untold.items() if now - at > UNTOLD_S), None)
        if path is not None and self._is_calm():
            self._distrusted_at = now
            self.waker.distrust("a file grew and no event told")
            log.warning("a file grew and inotify did not tell, polling too: %s", ascii(path))
        elif self._distrusted_at is not None and now - self._distrusted_at > DISTRUST_S:
            self._watch(now)

    def _describe(self, path: str) -> Source | None:
        if self.session is None:
            return None
        logs = self.session / "logs"
        if self._node is None:  # it reads the heads of raylets' logs
            self._node = node_of_session(logs / "-", logs)
        source = describe(label(path), node=self._node, session=self.session.name)
        if source is None or (source.component == "unknown" and not holds_text(Path(path))):
            return None
        if source.component == "raylet":
            self._node, self._named_all = None, False  # there may be one more now
            return replace(source, node=node_of_session(Path(path), logs))
        return source  # its node is '' where several raylets share the folder


def two_sessions(followed: str, asked: str) -> str:
    """Say that the logs and the dashboard are not of one session; nothing where they are, or that is not known."""
    names = {followed, asked}
    if len({n for n in names if SESSION.match(n)}) > 1:  # their job ids are the same
        return f"the logs and the dashboard are of two sessions: {', '.join(sorted(names))}"
    return ""


def label(path: str) -> str:
    """Return a path as text that can be stored and shown: a name may be any bytes."""
    return path.encode(errors="replace").decode()


def hold_many_files() -> None:
    """Raise this process' limit: a log that is held open is read to its end also when it is deleted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
