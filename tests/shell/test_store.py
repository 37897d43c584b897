"""The store: whole commits or none, one owner, a way out of corruption."""

import fcntl
import shutil
import signal
import sqlite3
import subprocess
import sys
from contextlib import closing, suppress
from pathlib import Path
from zlib import crc32

import pytest

from raywatch.store import Commit, CursorRow, Store, StoreBusyError, StoreError, StoreWriteError
from tests.crash.mortal import Mortal


def change(n: int, size: int = 10) -> Commit:
    """A commit of one cursor and one document."""
    commit = Commit()
    commit.put_cursors([CursorRow(1, n, f"f{n}", n, n, 1, n, skipping=False)])
    commit.docs["incident", str(n)] = "x" * size
    return commit


def test_what_was_committed_is_there_again(tmp_path):
    """Cursors and documents, changed and dropped ones too."""
    with Store(tmp_path / "s.db") as store:
        store.commit(change(1))
        second = change(2)
        second.forget([(1, 1)])
        second.docs["incident", "1"] = None
        store.commit(second, durable=True)
    with Store(tmp_path / "s.db") as store:
        cursors, docs = list(store.cursors()), store.docs()

    assert cursors == [CursorRow(1, 2, "f2", 2, 2, 1, 2, skipping=False)]
    assert docs == {"incident": {"2": "x" * 10}}


def test_a_full_disk_writes_nothing_and_the_same_commit_works_later(tmp_path):
    """The connection stays usable; what failed is not half there."""
    with Store(tmp_path / "s.db") as store:
        store.commit(change(1))
        (pages,) = store._db.execute("PRAGMA page_count").fetchone()
        store._db.execute(f"PRAGMA max_page_count={pages}")
        big = change(2, 500_000)
        with pytest.raises(StoreWriteError, match="full"):
            store.commit(big)
        assert [c.ino for c in store.cursors()] == [1]
        store._db.execute("PRAGMA max_page_count=100000")
        store.commit(big)

        assert [c.ino for c in store.cursors()] == [1, 2]


def test_a_store_has_one_owner(tmp_path):
    """The second is told who has it."""
    with Store(tmp_path / "s.db"), pytest.raises(StoreBusyError, match=r"pid \d+"):
        Store(tmp_path / "s.db")
    Store(tmp_path / "s.db").close()


def test_a_child_of_a_killed_owner_is_no_owner(tmp_path):
    """Between fork and exec a child holds what its parent held: the next daemon waits for it."""
    dying = (
        "import os, pathlib, sys, time\n"
        "from raywatch.store import Store\n"
        "store = Store(pathlib.Path(sys.argv[1]))\n"
        "if os.fork():\n"
        "    os.kill(os.getpid(), 9)\n"
        "os.close(1)\n"
        "time.sleep(1)\n"
    )
    path = tmp_path / "s.db"
    killed = subprocess.run(
        [sys.executable, "-c", dying, str(path)], stdout=subprocess.PIPE, check=False
    )
    assert killed.returncode == -signal.SIGKILL
    with path.with_name("s.db.lock").open() as held, pytest.raises(BlockingIOError):
        fcntl.flock(held, fcntl.LOCK_EX | fcntl.LOCK_NB)

    Store(path).close()


def test_a_corrupt_store_is_set_aside_and_rebuilt(tmp_path):
    """Nothing is thrown away."""
    (tmp_path / "s.db").write_bytes(b"no database at all" * 100)
    with Store(tmp_path / "s.db") as store:
        assert store.rebuilt
        store.commit(change(1))

    assert (tmp_path / "s.db.corrupt-1").read_bytes().startswith(b"no database")


@pytest.mark.parametrize("page", [0.5, 1.0])
def test_damage_behind_the_first_page_is_seen_at_the_start(tmp_path, page):
    """Not in the middle of the work, and not at every start again."""
    with Store(tmp_path / "s.db") as store:
        for n in range(400):
            store.commit(change(n, 500))
    size = (tmp_path / "s.db").stat().st_size
    with (tmp_path / "s.db").open("r+b") as out:
        out.seek(int(size / 4096 * page - 1) * 4096)
        out.write(b"\xa5" * 4096)
    with Store(tmp_path / "s.db") as store:
        assert (store.rebuilt, store.docs()) == (True, {})
        store.commit(change(1))

    assert (tmp_path / "s.db.corrupt-1").stat().st_size == size


def test_a_kill_in_the_middle_of_taking_a_store_over_costs_nothing(tmp_path, monkeypatch):
    """Before each statement of it: the next start takes it over."""
    for statement in range(1, 16):
        path = first_schema(tmp_path / str(statement))
        with monkeypatch.context() as patch, suppress(KeyboardInterrupt):
            patch.setattr(sqlite3, "connect", Mortal)
            patch.setattr(Mortal, "end", staticmethod(interrupted))
            patch.setattr(Mortal, "left", statement)
            Store(path).close()
        with Store(path) as store:
            assert list(store.cursors()) == [
                CursorRow(1, 2, "f", 3, 4, 1, crc32(b"x"), skipping=False, told_crc=-1)
            ]


def interrupted() -> None:
    """End like a kill: nothing is committed any more."""
    raise KeyboardInterrupt


def first_schema(folder: Path) -> Path:
    """A store as the first version made it."""
    folder.mkdir(exist_ok=True)
    with closing(sqlite3.connect(folder / "s.db")) as db, db:
        db.execute(
            "CREATE TABLE cursors (dev INTEGER, ino INTEGER, path TEXT, offset INTEGER, line INTEGER, anchor BLOB,"
            " skipping INTEGER, PRIMARY KEY (dev, ino))"
        )
        db.execute("INSERT INTO cursors VALUES (1, 2, 'f', 3, 4, x'78', 0)")
        db.execute("PRAGMA user_version=1")
    return folder / "s.db"


def test_a_store_of_a_newer_version_is_left_alone(tmp_path):
    """It is not read as if it were ours."""
    with Store(tmp_path / "s.db") as store:
        store._db.execute("PRAGMA user_version=99")
    with pytest.raises(StoreError, match="newer raywatch"):
        Store(tmp_path / "s.db")


def test_a_store_that_cannot_be_written_is_not_called_corrupt(tmp_path):
    """A full disk or a read-only mount at the start throws nothing away."""
    with Store(tmp_path / "s.db") as store:
        store.commit(change(1))
    (tmp_path / "s.db").unlink()
    (tmp_path / "s.db").mkdir()
    with pytest.raises((StoreError, OSError)):
        Store(tmp_path / "s.db")

    assert list(tmp_path.glob("*.corrupt-*")) == []


def test_a_store_of_the_first_schema_is_taken_over(tmp_path):
    """Its cursors are kept; none was told early."""
    first_schema(tmp_path)
    for _ in range(2):
        with Store(tmp_path / "s.db") as store:
            assert list(store.cursors()) == [
                CursorRow(1, 2, "f", 3, 4, 1, crc32(b"x"), skipping=False, told_crc=-1)
            ]


def test_what_was_told_early_is_taken_over_from_the_second_schema(tmp_path):
    """Of which lines, it did not keep."""
    path = first_schema(tmp_path)
    with closing(sqlite3.connect(path)) as db, db:
        db.execute("ALTER TABLE cursors ADD COLUMN told INTEGER NOT NULL DEFAULT 0")
        db.execute("UPDATE cursors SET told = 7")
        db.execute("PRAGMA user_version=2")
    with Store(path) as store:
        (cursor,) = store.cursors()

    assert cursor == CursorRow(1, 2, "f", 3, 4, 1, crc32(b"x"), False, 7, -1)


def test_a_place_that_cannot_be_written_is_said():
    """With the path, in one line."""
    with pytest.raises(StoreError, match=r"/proc/nope/raywatch\.db: cannot be opened: No such"):
        Store(Path("/proc/nope/raywatch.db"))


def test_the_log_is_emptied_between_commits_and_not_within_one(tmp_path):
    """It waits for the disk. Nothing is lost by it, and a log that nobody empties is bounded still."""
    wal = tmp_path / "r.db-wal"
    with Store(tmp_path / "r.db") as store:
        for n in range(400):
            store.commit(change(n, 100))
        grown = wal.stat().st_size
        assert grown > 1500 * 4096  # SQLite by itself empties it at 1000 pages
        store.tidy()
        for n in range(29):
            store.commit(change(n, 100))
        assert wal.stat().st_size == grown  # it is written from its start again
        store.tidy()
        for n in range(2000):
            store.commit(change(n, 100))
        assert wal.stat().st_size < 4500 * 4096
    with Store(tmp_path / "r.db") as store:
        assert len(store.docs()) == 1


def test_the_store_says_how_much_room_it_takes_and_has(tmp_path):
    """With what is not in the database yet; nothing where it cannot be looked at."""
    with Store(tmp_path / "s.db") as store:
        before, free = store.room()
        store.commit(change(1, size=100_000))
        after, _ = store.room()
        files = [tmp_path / "s.db", tmp_path / "s.db-wal"]
        assert after == sum(f.stat().st_size for f in files) > (before or 0) + 100_000
        assert abs((free or 0) - shutil.disk_usage(tmp_path).free) < 1 << 30
        for file in files:
            file.rename(f"{file}.away")
        assert store.room() == (0, None)
