"""A daemon ends before each statement that it gives to SQLite, one after the other: cursors and effects stay together.

In this process and without chance: an exception stands for the kill, and what was not committed is rolled back as it is
after one. tests/crash/test_kills.py does the same with real kills, at random.
"""

from __future__ import annotations

import itertools
import json
import sqlite3
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from datetime import timezone
from pathlib import Path

import pytest

from raywatch.collect.hints import Hints
from raywatch.config import Config
from raywatch.daemon import Daemon
from raywatch.pipeline import load_engine
from raywatch.reloading import Reloading
from raywatch.store import Store
from tests.crash import mutants
from tests.crash.mortal import Mortal
from tests.crash.writer import broken_ring, gcs
from tests.daemons import make_session

ENGINE = load_engine()
NOW = 1_800_000_000.0
TIMES = (0, 2.5, 2.6, 2.61, 2.62, 2.7, 5, 9)
LINES = 6
TORN_AT = 2  # in the tick after it the file is still, and its record open
RIGHT = {
    "worker_crash gcs": LINES,
    "ring_break worker": 1,
    "incidents": LINES,
}


class Killed(BaseException):
    """The process is gone."""


def gone() -> None:
    """End the life."""
    raise Killed


@contextmanager
def mortality(monkeypatch: pytest.MonkeyPatch, statement: int) -> Iterator[None]:
    """Within it, a daemon dies before that statement."""
    with monkeypatch.context() as patch:
        patch.setattr(sqlite3, "connect", Mortal)
        patch.setattr(Mortal, "end", staticmethod(gone))
        patch.setattr(Mortal, "left", statement)
        yield


def live(folder: Path, now: float, write: Callable[[int], set[str]]) -> Daemon:
    """Be a daemon for some ticks, while somebody writes before each; nothing is tidied up at the end."""
    config = Config(temp_dir=folder, store=folder / "state" / "r.db")
    with ExitStack() as kept:
        store = kept.enter_context(Store(config.store))
        daemon = Daemon(config, [folder], timezone.utc, Reloading((), ENGINE), store)
        kept.callback(daemon._logs.close)
        for tick, after in enumerate(TIMES):
            daemon.tick(now + after, Hints(moved=write(tick)))
        return daemon


def story(folder: Path) -> Callable[[int], set[str]]:
    """Return who writes: a worker's traceback, reported before it is whole, beside lines of the GCS; each once."""
    logs = make_session(folder)
    out, err = logs / "gcs_server.out", logs / f"worker-{'a' * 56}-02000000-500.err"
    lines = broken_ring("x").text.splitlines(keepends=True)
    parts = {TORN_AT: "".join(lines[:-1]), TORN_AT + 3: lines[-1]}
    left = set(range(LINES))

    def write(tick: int) -> set[str]:
        if tick not in left:
            return set()
        left.remove(tick)
        with out.open("a") as stream:
            stream.write(gcs(f"{tick + 1:056x}").text)
        with err.open("a") as stream:
            stream.write(parts.get(tick, ""))
        return {str(out), str(err)}

    return write


def counts_after(
    folder: Path, statement: int, monkeypatch: pytest.MonkeyPatch
) -> tuple[bool, dict[str, int]]:
    """Die before a statement, then live to the end; return whether it died, and what was found."""
    write, died = story(folder), False
    with mortality(monkeypatch, statement):
        try:
            live(folder, NOW, write)
        except Killed:
            died = True
    last = live(folder, NOW + 20, write)
    found = {" ".join(what): n for what, n in last._counting.findings.items()}
    crashes = sum(i.class_id == "worker_crash" for i in last.state.incidents)
    return died, {**found, "incidents": crashes}


def wrong_statements(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[int]:
    """Yield the statements before which a daemon must not die."""
    for statement in itertools.count(1):
        died, found = counts_after(folder / str(statement), statement, monkeypatch)
        if found != RIGHT:
            yield statement
        if not died:
            assert statement > 40, "it was to die many times"
            return


def test_a_daemon_may_die_before_any_statement(tmp_path, monkeypatch):
    """Also while the store is made, and while a record is reported that is not whole."""
    assert list(wrong_statements(tmp_path, monkeypatch)) == []


@pytest.mark.parametrize("mutant", [mutants.cursors_first, mutants.effects_first, mutants.untold])
def test_it_is_seen_where_cursors_and_effects_part(tmp_path, monkeypatch, mutant):
    """The test above can fail."""
    monkeypatch.setattr(Store, "commit", mutant)

    assert next(wrong_statements(tmp_path, monkeypatch), 0)


def test_a_log_of_the_store_that_is_torn_at_any_byte_holds_whole_commits(tmp_path):
    """The power went: of what was written last some is missing. What is left is a state that once was."""
    write, state = story(tmp_path), tmp_path / "state"
    with Store(state / "r.db") as store:
        config = Config(temp_dir=tmp_path, store=state / "r.db")
        daemon = Daemon(config, [tmp_path], timezone.utc, Reloading((), ENGINE), store)
        for tick, after in enumerate(TIMES):
            daemon.tick(NOW + after, Hints(moved=write(tick)))
        daemon._logs.close()
        main, wal = ((state / name).read_bytes() for name in ("r.db", "r.db-wal"))
    counts = []
    for cut in sorted(
        {*range(0, len(wal), 4120 // 3), len(wal)}
    ):  # a frame has 24 bytes and a page
        torn = tmp_path / f"torn-{cut}" / "r.db"
        torn.parent.mkdir()
        torn.write_bytes(main)
        torn.with_name("r.db-wal").write_bytes(wal[:cut])
        counts.append(counted(torn))

    assert counts == sorted(counts)
    assert len(set(counts)) > 4
    assert counts[-1] == LINES


def counted(path: Path) -> int:
    """Return how many lines of the GCS were counted: by the counter, by incidents and by the cursor."""
    with Store(path) as store:
        assert not store.rebuilt
        docs, cursors = store.docs(), list(store.cursors())
    crashes = json.loads(docs.get("counters", {}).get("-", "{}")).get("f worker_crash gcs", 0)
    incidents = [i for i in docs.get("incident", {}).values() if "worker_crash" in i]
    lines = [c.line for c in cursors if c.path.endswith("gcs_server.out")]
    assert [crashes] == [len(incidents)] == (lines or [0])
    return int(crashes)
