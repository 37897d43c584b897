"""The waker on a real file system: it names what changed, and says when it cannot."""

import threading
import time
from importlib.metadata import version
from pathlib import Path

import pytest

from raywatch.collect.wake import Observed, Waker, best


@pytest.fixture(params=sorted({best(), Observed}, key=repr))
def waker(request):
    """A waker that lets go at the end: on watchdog's descriptor, and on its stock observer."""
    waker = Waker(request.param)
    yield waker
    waker.close()


@pytest.fixture
def light_waker():
    """The one that is used where watchdog's inside is as it was."""
    waker = Waker()
    yield waker
    waker.close()


def test_the_installed_watchdog_has_what_the_light_watches_use():
    """The canary: red means that another version runs on its stock observer, four times dearer.

    7.1 is the first to have it, and wants Python 3.11.
    """
    major, minor = map(int, version("watchdog").split(".")[:2])

    assert (best() is not Observed) == ((major, minor) >= (7, 1))


def named(waker: Waker, path, limit_s: float = 3.0) -> set[str]:
    """Collect what is named until `path` is, at most for `limit_s`."""
    found: set[str] = set()
    deadline = time.monotonic() + limit_s
    while str(path) not in found and time.monotonic() < deadline:
        found |= waker.wait(0.1).paths()
    return found


def test_a_file_in_a_new_folder_below_a_link_is_named_by_its_real_path(tmp_path, waker):
    """A watched link gives no events of its own, and folders made later are watched too."""
    real, link = tmp_path / "real", tmp_path / "link"
    real.mkdir()
    link.symlink_to(real)
    waker.watch([link])
    (real / "new").mkdir()
    assert str(real / "new") in named(waker, real / "new")

    (real / "new" / "a.out").write_text("one\n")

    assert waker.mode == "inotify"
    assert str(real / "new" / "a.out") in named(waker, real / "new" / "a.out")


def test_a_rename_names_both_ends(tmp_path, waker):
    """Rotation is told under the old name and the new one."""
    (tmp_path / "a.out").write_text("one\n")
    waker.watch([tmp_path])

    (tmp_path / "a.out").rename(tmp_path / "a.out.1")

    ends = {str(tmp_path / "a.out"), str(tmp_path / "a.out.1")}
    assert ends <= named(waker, tmp_path / "a.out.1")


def test_a_switch_of_session_leaves_the_old_folder(tmp_path, waker):
    """Only what is watched now is named."""
    old, new = tmp_path / "old", tmp_path / "new"
    old.mkdir()
    new.mkdir()
    waker.watch([old])
    waker.watch([new])

    (old / "a.out").write_text("one\n")
    (new / "a.out").write_text("one\n")
    found = named(waker, new / "a.out")

    assert str(new / "a.out") in found
    assert str(old / "a.out") not in found


def test_a_folder_that_is_not_there_means_polling_until_it_is(tmp_path, waker):
    """The reason is told; a later watch of the same folder works."""
    logs = tmp_path / "logs"
    waker.watch([logs])
    assert waker.mode == "poll"
    assert "No such file" in waker.reason

    logs.mkdir()
    waker.watch([logs])
    (logs / "a.out").write_text("one\n")

    assert (waker.mode, waker.reason) == ("inotify", "")
    assert str(logs / "a.out") in named(waker, logs / "a.out")


def test_reading_a_file_wakes_nobody(tmp_path, waker):
    """Else the daemon's own reads would keep it awake."""
    (tmp_path / "a.out").write_text("one\n")
    waker.watch([tmp_path])
    named(waker, tmp_path / "never", 0.3)

    (tmp_path / "a.out").read_text()

    assert named(waker, tmp_path / "never", 0.3) == set()


def test_a_wait_ends_when_it_is_woken(tmp_path, waker):
    """From any thread, long before its time."""
    waker.watch([tmp_path])
    timer = threading.Timer(0.05, waker.wake)
    began = time.monotonic()
    timer.start()
    waker.wait(30)
    timer.join()

    assert time.monotonic() - began < 10


def test_a_folder_that_was_renamed_is_known_by_its_new_name(tmp_path, light_waker):
    """Its watch goes with it, and so do those below."""
    (tmp_path / "old" / "deep").mkdir(parents=True)
    light_waker.watch([tmp_path])
    (tmp_path / "old").rename(tmp_path / "new")
    named(light_waker, tmp_path / "new")

    (tmp_path / "new" / "deep" / "a.out").write_text("one\n")

    path = tmp_path / "new" / "deep" / "a.out"
    assert str(path) in named(light_waker, path)


def until_lost(waker: Waker) -> bool:
    """Read on until it is said that events were dropped, at most for three seconds."""
    deadline = time.monotonic() + 3
    while time.monotonic() < deadline:
        if waker.wait(0.1).lost:
            return True
    return False


def test_folders_that_came_while_events_were_dropped_are_watched(tmp_path, light_waker):
    """The kernel keeps so many events and says that it dropped the others."""
    if best() is Observed:  # the stock observer does not say it on: the sweep alone finds them
        return
    limit = int(Path("/proc/sys/fs/inotify/max_queued_events").read_text())
    light_waker.watch([tmp_path])
    with (
        (tmp_path / "a").open("ab", buffering=0) as a,
        (tmp_path / "b").open("ab", buffering=0) as b,
    ):
        for _ in range(limit // 2 + 10):  # equal events in a row are one: two files in turn
            a.write(b".")
            b.write(b".")
    (tmp_path / "late").mkdir()  # no event tells that it came
    assert until_lost(light_waker)

    (tmp_path / "late" / "a.out").write_text("one\n")

    assert str(tmp_path / "late" / "a.out") in named(light_waker, tmp_path / "late" / "a.out")
