"""A connection to SQLite under which the process ends before a statement of a given number."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections.abc import Callable, Iterable
from typing import Any, ClassVar


def by_kill() -> None:
    """End this process as the kernel does: no handler runs, nothing is flushed."""
    os.kill(os.getpid(), signal.SIGKILL)


class Mortal(sqlite3.Connection):
    """Counts what is given to SQLite, also each row of a statement for many. One for the whole process."""

    left: ClassVar[int] = 0  # statements until the end; 0: it never comes
    end: ClassVar[Callable[[], None]] = staticmethod(by_kill)
    checkpoints: ClassVar[bool] = False  # at every commit, not after a thousand pages
    durable_s: ClassVar[float] = (
        0  # a commit that must be on the disk takes so long, and is never done
    )

    def __init__(self, *where: Any, **how: Any) -> None:
        super().__init__(*where, **how)
        if Mortal.checkpoints:
            super().execute("PRAGMA wal_autocheckpoint=1")

    def execute(self, *what: Any) -> sqlite3.Cursor:
        """Run one statement."""
        _count()
        if Mortal.durable_s and "synchronous=FULL" in what[0]:
            time.sleep(Mortal.durable_s)
            Mortal.end()
        return super().execute(*what)

    def executemany(self, sql: str, rows: Iterable[Any]) -> sqlite3.Cursor:
        """Run one statement for many rows."""
        cursor = self.cursor()
        for row in rows:
            _count()
            cursor.execute(sql, row)
        return cursor


def _count() -> None:
    Mortal.left -= 1
    if Mortal.left == 0:
        Mortal.end()
