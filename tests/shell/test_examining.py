"""Live: a storm is counted exactly, and with the cursors; what came while the daemon was away is no history."""

import os
from datetime import timezone
from pathlib import Path

from raywatch.collect.hints import Hints
from raywatch.config import Config
from raywatch.daemon import Daemon
from raywatch.pipeline import load_engine
from raywatch.reloading import Reloading
from raywatch.store import Store
from tests.crash.writer import broken_ring
from tests.daemons import make_session

ENGINE = load_engine()
NOW = 1_800_000_000.0
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {n}.00 GiB.\n"


class Life:
    """A daemon for some turns, at times that the test says; `die` leaves what is not on the disk."""

    def __init__(self, folder: Path) -> None:
        self._store = Store(folder / "state" / "r.db")
        config = Config(temp_dir=folder, store=folder / "state" / "r.db")
        self.daemon = Daemon(config, [folder], timezone.utc, Reloading((), ENGINE), self._store)

    def turns(self, *times: float, wrote: Path | None = None) -> None:
        """Be awake at these times."""
        for now in times:
            self.daemon.tick(now, Hints(moved={str(wrote)} if wrote else set()))

    def die(self) -> None:
        """End as a kill ends it."""
        self.daemon._logs.close()
        self._store.close()

    def counted(self) -> dict[str, int]:
        """Return the metric's counts by class."""
        return {c: n for (c, _), n in self.daemon._counting.findings.items()}


def worker(logs: Path, letter: str = "a") -> Path:
    """The error stream of a worker."""
    return logs / f"worker-{letter * 56}-0{ord(letter) - 95}000000-500.err"


def test_what_a_worker_says_while_the_daemon_is_away_opens_an_incident(tmp_path):
    """Its output has no times; it was written after the last look, so it is no history."""
    logs = make_session(tmp_path)
    worker(logs).write_text("step 1\n")
    first = Life(tmp_path)
    first.turns(NOW, NOW + 2.5, NOW + 5)
    first.daemon._commit(NOW + 60, force=True)
    first.die()
    with worker(logs).open("a") as out:
        out.write(broken_ring("x").text)
    worker(logs, "b").write_text(broken_ring("y").text)
    for path in logs.glob("worker-*"):
        os.utime(path, (NOW + 8, NOW + 8))
    second = Life(tmp_path)
    second.turns(NOW + 10, NOW + 12.5, NOW + 15)

    assert sum(second.counted().values()) == 2
    (incident,) = second.daemon.state.incidents
    assert (incident.class_id, incident.first_at) == ("ring_break", NOW + 8)
    assert {e.file for e in incident.evidence} == {str(p) for p in logs.glob("worker-*")}
    second.die()


def test_what_was_there_at_the_first_start_stays_history(tmp_path):
    """Text without times may be days old; so may what a session holds that nobody had read yet."""
    logs = make_session(tmp_path)
    worker(logs).write_text(broken_ring("x").text)
    os.utime(worker(logs), (NOW - 5, NOW - 5))
    first = Life(tmp_path)
    first.turns(NOW)
    first.die()
    second = Life(tmp_path)
    second.turns(NOW + 1, NOW + 3.5)
    assert second.daemon.state.incidents == ()
    second.die()
    other = make_session(tmp_path, "session_2027-01-02_00-00-00_000000_1")
    worker(other).write_text(broken_ring("y").text)
    os.utime(worker(other), (NOW + 9, NOW + 9))
    third = Life(tmp_path)
    third.turns(NOW + 10, NOW + 12.5)

    assert third.daemon.state.incidents == ()
    third.die()


def test_a_storm_is_counted_exactly(tmp_path):
    """Five thousand lines in one turn: few findings, one incident, every line in the metric within a second."""
    logs = make_session(tmp_path)
    worker(logs).write_text("step 1\n")
    life = Life(tmp_path)
    life.turns(NOW, NOW + 2.5, NOW + 5)
    with worker(logs).open("a") as out:
        out.writelines(OOM.format(n=n) for n in range(5000))
    life.turns(NOW + 5.1, NOW + 5.2, NOW + 6.5, NOW + 9, wrote=worker(logs))

    assert life.counted() == {"cuda_oom": 5000}
    (incident,) = life.daemon.state.incidents
    assert len(incident.evidence) < 70
    life.die()


def test_a_storm_is_counted_once_whenever_the_daemon_dies(tmp_path):
    """What is only counted goes to the disk with the cursors behind it, or not at all."""
    logs = make_session(tmp_path)
    worker(logs).write_text("step 1\n")
    life = Life(tmp_path)
    life.turns(NOW, NOW + 2.5, NOW + 5)
    written, now = 0, NOW + 5
    for turn in range(40):
        now += 0.05 if turn % 7 else 1.1
        with worker(logs).open("a") as out:
            out.writelines(OOM.format(n=n) for n in range(written, written + 300))
        written += 300
        os.utime(worker(logs), (now, now))
        life.turns(now, wrote=worker(logs))
        if turn % 3 == 0:
            life.die()
            life = Life(tmp_path)
    life.turns(now + 3, now + 6, now + 9, now + 12)

    assert life.counted() == {"cuda_oom": written}
    life.die()
