"""What must survive the daemon: cursors and documents, in one SQLite transaction a tick."""

from __future__ import annotations

import contextlib
import fcntl
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from pathlib import Path
from types import TracebackType
from typing import NamedTuple
from zlib import crc32

from raywatch.model import RaywatchError

SCHEMA = 3
# A daemon that is killed while it starts a hook leaves its lock to the child, until that has begun its program.
_INHERITED_S = 5
_MANY = 30  # commits that `tidy` waits for: some hundred pages
_BACKSTOP = 4000  # pages of the log at which a commit empties it after all
_CURSORS = """
CREATE TABLE IF NOT EXISTS cursors (dev INTEGER, ino INTEGER, path TEXT, offset INTEGER, line INTEGER, stretch INTEGER,
    crc INTEGER, skipping INTEGER, told INTEGER, told_crc INTEGER, PRIMARY KEY (dev, ino))
"""
# Until schema 3 the last bytes themselves were kept; of what was told (schema 2) nothing was.
_TAKE_OVER = """
INSERT INTO cursors SELECT dev, ino, path, offset, line, length(anchor), crc32(anchor), skipping, told, -1 FROM before
"""
_DOCS = "CREATE TABLE IF NOT EXISTS docs (kind TEXT, id TEXT, json TEXT, PRIMARY KEY (kind, id))"


class StoreError(RaywatchError):
    """The store cannot be opened."""


class StoreBusyError(StoreError):
    """Another daemon owns the store."""


class StoreWriteError(StoreError):
    """A commit failed as a whole (disk full, I/O error); the same commit may be tried again."""


class CursorRow(NamedTuple):
    """A cursor as it is stored."""

    dev: int
    ino: int
    path: str
    offset: int
    line: int
    stretch: int
    crc: int
    skipping: bool
    told: int = 0
    told_crc: int = 0


@dataclass(slots=True)
class Commit:
    """What a tick changed. `docs` maps (kind, id) to JSON, or to None for what is to be dropped."""

    cursors: dict[tuple[int, int], CursorRow] = field(default_factory=dict)
    gone: set[tuple[int, int]] = field(default_factory=set)
    docs: dict[tuple[str, str], str | None] = field(default_factory=dict)

    def put_cursors(self, rows: Iterable[CursorRow]) -> None:
        """Take newer cursors in; a file that came back is not gone."""
        for row in rows:
            self.cursors[row.dev, row.ino] = row
            self.gone.discard((row.dev, row.ino))

    def forget(self, files: Iterable[tuple[int, int]]) -> None:
        """Drop the cursors of files that are gone."""
        for dev, ino in files:
            self.cursors.pop((dev, ino), None)
            self.gone.add((dev, ino))

    def __bool__(self) -> bool:
        return bool(self.cursors or self.gone or self.docs)


def _locked(fd: int) -> bool:
    try:
        fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True


def _lives(pid: str) -> bool:
    """Say whether that process can be alive; what cannot be known counts as alive."""
    try:
        os.kill(int(pid), 0)
    except ProcessLookupError:
        return False
    except (ValueError, OSError, OverflowError):
        return True
    return True


class Store:
    """One SQLite file with one owner. Only the thread that opened it may use it."""

    def __init__(self, path: Path) -> None:
        """Open or make the store. Raises StoreBusyError, StoreError."""
        self._path, self.rebuilt = path, False
        self._commits = 0  # since the log was emptied
        with ExitStack() as undo:
            try:
                path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
                self._lock = self._owned(path.with_name(path.name + ".lock"))
            except OSError as error:
                raise StoreError(f"{path}: cannot be opened: {error.strerror}") from error
            undo.callback(os.close, self._lock)
            try:
                self._db = self._connect()
            except sqlite3.OperationalError as error:
                # A full disk, a lock, a read-only mount: no corruption.
                raise StoreError(f"{path}: {error}") from error
            except sqlite3.DatabaseError:
                self.rebuilt = True
                self._set_aside()
                self._db = self._connect()
            undo.pop_all()

    def __enter__(self) -> Store:  # noqa: PYI034 - typing.Self is 3.11
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the store and let others have it."""
        self._db.close()
        os.close(self._lock)

    def _owned(self, lock: Path) -> int:
        fd = os.open(lock, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        until = time.monotonic() + _INHERITED_S
        with ExitStack() as undo:
            undo.callback(os.close, fd)
            while not _locked(fd):
                owner = os.pread(fd, 32, 0).decode(errors="replace").strip()
                if _lives(owner) or time.monotonic() > until:
                    raise StoreBusyError(
                        f"{self._path}: another raywatch daemon (pid {owner}) owns this store; "
                        "stop it or give another --store"
                    )
                time.sleep(0.01)
            os.ftruncate(fd, 0)
            os.write(fd, str(os.getpid()).encode())
            undo.pop_all()
        return fd

    def _connect(self) -> sqlite3.Connection:
        os.close(os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600))
        self._path.chmod(0o600)
        with ExitStack() as undo:
            db = sqlite3.connect(self._path, isolation_level=None)
            undo.callback(db.close)
            db.execute("PRAGMA journal_mode=WAL")
            db.execute(f"PRAGMA wal_autocheckpoint={_BACKSTOP}")
            # Damage behind the first page would show in the middle of the work, and at every start again.
            (found,) = db.execute("PRAGMA quick_check(1)").fetchone()
            if found != "ok":
                raise sqlite3.DatabaseError(found)
            self._prepare(db)
            undo.pop_all()
        return db

    def _prepare(self, db: sqlite3.Connection) -> None:
        """Bring the tables to this schema, whole or not at all."""
        (version,) = db.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA:
            raise StoreError(
                f"{self._path}: made by a newer raywatch (schema {version}, this one knows {SCHEMA})"
            )
        if version == SCHEMA:
            return
        db.execute("BEGIN IMMEDIATE")
        if version == 1:
            db.execute("ALTER TABLE cursors ADD COLUMN told INTEGER NOT NULL DEFAULT 0")
        if version:
            db.create_function("crc32", 1, crc32)
            db.execute("ALTER TABLE cursors RENAME TO before")
        db.execute(_CURSORS)
        if version:
            db.execute(_TAKE_OVER)
            db.execute("DROP TABLE before")
        db.execute(_DOCS)
        db.execute(f"PRAGMA user_version={SCHEMA}")
        db.execute("COMMIT")

    def _set_aside(self) -> None:
        for n in range(1, 1000):
            aside = self._path.with_name(f"{self._path.name}.corrupt-{n}")
            if not aside.exists():
                self._path.rename(aside)
                break
        for suffix in ("-wal", "-shm"):  # kept too: they may hold committed rows
            beside = self._path.with_name(self._path.name + suffix)
            if beside.exists():
                beside.rename(aside.with_name(aside.name + suffix))

    def cursors(self) -> Iterator[CursorRow]:
        """Yield every cursor, one at a time: there may be hundreds of thousands."""
        for row in self._db.execute(
            "SELECT dev, ino, path, offset, line, stretch, crc, skipping, told, told_crc FROM cursors"
        ):
            dev, ino, path, offset, line, stretch, crc, skipping, *told = row
            yield CursorRow(dev, ino, path, offset, line, stretch, crc, bool(skipping), *told)

    def docs(self) -> Mapping[str, Mapping[str, str]]:
        """Return every document: kind -> id -> JSON."""
        docs: dict[str, dict[str, str]] = {}
        for kind, name, text in self._db.execute("SELECT kind, id, json FROM docs ORDER BY rowid"):
            docs.setdefault(kind, {})[name] = text
        return docs

    def commit(self, change: Commit, *, durable: bool = False) -> None:
        """Write a change whole or not at all. `durable`: it is on the disk on return. Raises StoreWriteError."""
        try:
            self._db.execute(f"PRAGMA synchronous={'FULL' if durable else 'NORMAL'}")
            self._db.execute("BEGIN IMMEDIATE")
            self._write(change)
            self._db.execute("COMMIT")
            self._commits += 1
        except sqlite3.Error as error:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise StoreWriteError(f"{self._path}: {error}") from error

    def room(self) -> tuple[int | None, int | None]:
        """Return the bytes of the database with its log, and those that are free in its file system; None: unknown."""
        size = free = None
        with contextlib.suppress(OSError):
            whole = (self._path, self._path.with_name(self._path.name + "-wal"))
            size = sum(p.stat().st_size for p in whole if p.exists())
        with contextlib.suppress(OSError):
            found = os.statvfs(self._path)
            free = found.f_bavail * found.f_frsize
        return size, free

    def tidy(self) -> None:
        """Bring commits from the log into the database once there are many: it waits for the disk, so not in a commit."""
        if self._commits >= _MANY:
            self._commits = 0
            with contextlib.suppress(sqlite3.Error):  # the disk's trouble: the next commit tells it
                self._db.execute("PRAGMA wal_checkpoint(PASSIVE)").fetchone()

    def _write(self, change: Commit) -> None:
        self._db.executemany(
            "REPLACE INTO cursors VALUES (?,?,?,?,?,?,?,?,?,?)", change.cursors.values()
        )
        self._db.executemany("DELETE FROM cursors WHERE dev=? AND ino=?", change.gone)
        kept = [(k, i, text) for (k, i), text in change.docs.items() if text is not None]
        self._db.executemany("REPLACE INTO docs VALUES (?,?,?)", kept)
        dropped = [key for key, text in change.docs.items() if text is None]
        self._db.executemany("DELETE FROM docs WHERE kind=? AND id=?", dropped)
