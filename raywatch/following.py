"""The session that is followed: where it lies, what its files are, and what may have changed in it."""

from __future__ import annotations

import logging
import resource
from collections.abc import Iterable, Sequence
from dataclasses import replace
from pathlib import Path

from raywatch.collect.raylogs import current_session, describe, holds_text, node_of_session
from raywatch.collect.tail import Cursor, Tailer
from raywatch.collect.wake import Waker
from raywatch.model import Source

log = logging.getLogger("raywatch.daemon")
OPEN_FILES = 4096


class Following:
    """A tailer and a waker on the logs of the newest session below some folders, or of one that is named."""

    def __init__(
        self, temp_dirs: Sequence[Path], named: Path | None, cursors: Iterable[Cursor]
    ) -> None:
        self._temp_dirs, self._named = temp_dirs, named
        self._node: str | None = None
        self._waits = False
        self.session: Path | None = None
        limit, _ = resource.getrlimit(resource.RLIMIT_NOFILE)
        most = min(OPEN_FILES, limit) // 2 if limit > 0 else OPEN_FILES
        self.tailer = Tailer([], self._describe, cursors, max_open=most)
        self.waker = Waker()

    @property
    def name(self) -> str | None:
        """The session's name, None while there is none."""
        return self.session.name if self.session else None

    def close(self) -> None:
        """Let go of the files."""
        self.waker.close()
        self.tailer.close()

    def sweep(self, now: float) -> None:
        """Look for a newer session, and at every file."""
        self._node = None
        self._look()
        self.tailer.begin_sweep(now)

    def _look(self) -> None:
        found = self._named or next(filter(None, map(current_session, self._temp_dirs)), None)
        session = found.resolve() if found else None
        if session is None and self.session is None and not self._waits:
            where = ", ".join(map(str, self._temp_dirs))
            log.warning("no Ray session yet in %s; waiting for one", where)
            self._waits = True
        if session is None or session == self.session:
            return
        log.info("following session path=%s", session)
        self.session = session
        self.tailer.set_roots([session / "logs"])
        self.waker.watch([session / "logs"])
        if self.waker.mode != "inotify":
            log.warning("inotify does not work here, polling instead: %s", self.waker.reason)

    def _describe(self, path: str) -> Source | None:
        if self.session is None:
            return None
        source = describe(label(path), session=self.session.name)
        if source is None or (source.component == "unknown" and not holds_text(Path(path))):
            return None
        logs = self.session / "logs"
        if source.component == "raylet":
            return replace(source, node=node_of_session(Path(path), logs))
        if self._node is None:  # once a sweep: it reads the head of every raylet's log
            self._node = node_of_session(logs / "-", logs)
        return replace(source, node=self._node)  # '' where several raylets share it


def label(path: str) -> str:
    """Return a path as text that can be stored and shown: a name may be any bytes."""
    return path.encode(errors="replace").decode()


def hold_many_files() -> None:
    """Raise this process' limit: a log that is held open is read to its end also when it is deleted."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    wanted = OPEN_FILES if hard == resource.RLIM_INFINITY else min(OPEN_FILES, hard)
    if soft != resource.RLIM_INFINITY and soft < wanted:
        resource.setrlimit(resource.RLIMIT_NOFILE, (wanted, hard))
