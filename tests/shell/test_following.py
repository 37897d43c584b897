"""The followed session: events may be dropped, may not come at all, and may come late; nothing is lost of it."""

import os
from pathlib import Path

import pytest

from raywatch.collect.hints import Hints
from raywatch.collect.wake import Observed, best
from raywatch.following import ACTIVE_S, POLL_S, UNTOLD_S, Following
from tests.daemons import make_session


def nothing(_data: bytes | bytearray | memoryview) -> list[int]:
    """A matcher that finds nothing."""
    return []


class Silent:
    """Watches as on a mount that others write to: no event ever comes."""

    def __init__(self, _folders: object) -> None:
        self.fd = os.eventfd(0, os.EFD_NONBLOCK)

    def read(self) -> Hints:
        return Hints()

    def close(self) -> None:
        os.close(self.fd)


@pytest.fixture
def following(tmp_path):
    """A session that is followed from its start."""
    make_session(tmp_path)
    following = Following([tmp_path], None, ())
    yield following
    following.close()


def settle(following: Following, now: float) -> None:
    """Look for the session and read what is there."""
    following.sweep(now)
    for _ in range(20):
        following.read(now, following.waker.wait(0), nothing)
        if following.is_history_read():
            return
    raise AssertionError("the history is never read")


def read_bytes(following: Following) -> int:
    """How much was read of all files."""
    return sum(following.tailer.read_bytes.values())


def logs(tmp_path: Path) -> Path:
    """The folder of the logs."""
    return (tmp_path / "session_latest").resolve() / "logs"


def test_dropped_events_make_it_look_at_everything_at_once(tmp_path, following):
    """Also into folders that came meanwhile: not at the next sweep, in the same turn."""
    if (
        best() is Observed
    ):  # it does not say that events were dropped; the sweeps find what they hid
        return
    folder = logs(tmp_path)
    settle(following, 100.0)
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    with (folder / "a.log").open("ab", 0) as a, (folder / "b.log").open("ab", 0) as b:
        for _ in range(limit // 2 + 10):  # equal events in a row are one
            a.write(b".\n")
            b.write(b".\n")
    (folder / "late").mkdir()
    (folder / "late" / "raylet.out").write_text("one\ntwo\n")
    (folder / "quiet.log").write_text("three\n")
    now, turns = 100.01, 0
    while not following.is_history_read() or not turns:
        following.read(now, following.waker.wait(0.1), nothing)
        now, turns = now + 0.001, turns + 1
        assert turns < 20
    assert read_bytes(following) == 2 * 2 * (limit // 2 + 10) + 8 + 6
    with (folder / "late" / "raylet.out").open("a") as out:
        out.write("four\n")
    following.read(now, following.waker.wait(1.0), nothing)

    assert read_bytes(following) == 2 * 2 * (limit // 2 + 10) + 8 + 6 + 5


def test_growth_that_no_event_tells_makes_it_poll(tmp_path, following):
    """It says why, and files that grew lately are then read several times a second."""
    log = logs(tmp_path) / "raylet.out"
    log.write_text("one\n")
    following.waker._watching = Silent
    settle(following, 100.0)
    assert (following.waker.mode, following.waker.reason) == ("inotify", "")
    with log.open("a") as out:
        now = 100.0
        while following.waker.mode == "inotify":
            now += 0.5
            out.write("more\n")
            out.flush()
            following.sweep(now)
            following.read(now, Hints(), nothing)
            assert now < 100 + 2 * UNTOLD_S + 4
        assert following.waker.reason == "a file grew and no event told"
        assert following.idle_s(now) <= POLL_S
        before = read_bytes(following)
        out.write("much later\n")
        out.flush()
        following.read(now + POLL_S, Hints(), nothing)

        assert read_bytes(following) >= before + 11
        assert POLL_S < ACTIVE_S


def test_a_long_turn_is_no_reason_to_distrust(tmp_path, following):
    """Events that waited while it took are heard first."""
    log = logs(tmp_path) / "raylet.out"
    log.write_text("one\n")
    settle(following, 100.0)
    for turn in range(1, 6):
        hints = following.waker.wait(0)
        with log.open("a") as out:  # after the events were taken, before the sweep looks
            out.write("more\n")
        following.sweep(100.0 + 5 * turn)
        following.read(100.0 + 5 * turn, hints, nothing)

    assert following.waker.mode == "inotify"


def test_a_folder_that_comes_late_is_watched_once_it_is_there(tmp_path):
    """Ray makes the session before its logs."""
    session = tmp_path / "session_2026-11-24_00-00-00_000001_1"
    session.mkdir()
    following = Following([tmp_path], None, ())
    try:
        following.sweep(100.0)
        assert following.waker.mode == "poll"
        (session / "logs").mkdir()
        (session / "logs" / "raylet.out").write_text("one\n")
        settle(following, 102.5)

        assert following.waker.mode == "inotify"
        assert read_bytes(following) == 4
    finally:
        following.close()


def test_logs_that_go_are_a_source_that_does_not_answer(following, tmp_path):
    """Since then, with the time at which they were last there; quiet ones are seen."""
    assert following.standing(5.0).detail == "not looked for yet"
    settle(following, 10.0)
    following.sweep(12.0)
    quiet = following.standing(13.0)
    moved = logs(tmp_path).rename(tmp_path / "away")
    for now in (14.0, 16.0):
        following.sweep(now)
    gone = following.standing(17.0)
    moved.rename(logs(tmp_path))
    following.sweep(18.0)
    back = following.standing(19.0)

    assert (quiet.state, quiet.since, quiet.answered_at) == ("up", 10.0, 12.0)
    assert (gone.state, gone.since, gone.answered_at) == ("error", 14.0, 12.0)
    assert gone.detail == f"{logs(tmp_path)}: is gone"
    assert (back.state, back.since, back.answered_at) == ("up", 18.0, 18.0)


def test_all_raylets_that_log_into_a_folder_are_nodes_whose_logs_are_read(following, tmp_path):
    """Once each has named itself; who asks gets the same object while nothing changed."""
    first, second = "ab" * 28, "cd" * 28
    raylet, other = logs(tmp_path) / "raylet.out", logs(tmp_path) / "raylet.1.out"
    raylet.write_text(f"Setting node ID node_id={first}\n")
    settle(following, 10.0)
    one = following.nodes()
    other.write_text("it starts\n")
    settle(following, 12.0)
    unnamed = following.nodes()
    other.write_text(f"Setting node ID node_id={second}\n")
    both = following.nodes()

    assert one == {first}
    assert unnamed == {first, ""}
    assert both == {first, second}
    assert following.nodes() is both
