"""A daemon that is killed before, and while, its hooks run: each runs once or is shown as interrupted."""

from __future__ import annotations

import json
import time

import pytest

from tests.crash.story import Story, begun, found_by
from tests.daemons import DaemonProcess, until


def killed_at(story: Story, moment: str) -> None:
    """Let jobs fail, end a life at that moment, and look what is left after two more."""
    story.settle(real=False)
    story.jobs_move(begin=1, fail=1)
    story.live(moment)
    story.settle(real=False)


@pytest.mark.parametrize("moment", ["before a hook", "at a hook"])
def test_a_hook_runs_once_or_is_interrupted(tmp_path, forge, moment):
    """Two commands and a job; what was cut off is shown, and not run again."""
    with begun(tmp_path, 1, forge, "0.7") as story:
        killed_at(story, moment)

        assert story.figures.jobs == 3
        assert bool(story.figures.interrupted) == (moment == "at a hook")


@pytest.mark.parametrize(
    "wrong",
    [
        ("hook before its mark", "before a hook", "a hook ran twice"),
        ("interrupted is run again", "at a hook", "a hook ran twice"),
        ("interrupted is not shown", "at a hook", "'state': 'started'"),
    ],
    ids=lambda wrong: wrong[0],
)
def test_a_hook_that_runs_twice_or_vanishes_is_seen(tmp_path, monkeypatch, forge, wrong):
    """The test above can fail."""
    mutant, moment, said = wrong
    monkeypatch.setattr(forge, "mutant", mutant)
    monkeypatch.setattr("tests.crash.story.STILL_S", 4)
    with begun(tmp_path, 1, forge, "0.7") as story, pytest.raises(AssertionError, match=said):
        killed_at(story, moment)


@pytest.mark.parametrize("page", [0, 3])
def test_a_store_that_was_lost_acts_on_nothing_that_failed_before(tmp_path, forge, page):
    """What was done and what was never decided: both are history to a store that is begun anew."""
    with begun(tmp_path, 1, forge) as story:
        killed_at(story, "at a hook")
        ran, taken = story.marks.read_text(), dict(story.ray.taken)
        story.jobs_move(begin=1, fail=1)
        with (tmp_path / "state" / "raywatch.db").open("r+b") as out:
            out.seek(page * 4096)
            out.write(b"\xa5" * 4096)
        time.sleep(0.01)  # times of jobs are in milliseconds
        ledger = story.scribe.told("rest")
        daemon = DaemonProcess(*story.where, start=forge.life)
        try:
            until(
                lambda: sum(found_by(daemon).values()) == sum(ledger["counts"].values()), 20, "all"
            )
            until(lambda: sees(daemon) == 5, 20, "the jobs are seen")
            time.sleep(3)  # more than a sweep: it would decide now
            health = json.loads(daemon.get("/healthz")[1])
            states = {a["state"] for a in daemon.actions()}
        finally:
            daemon.kill()

    assert health["store_rebuilt"]
    assert states <= {"abandoned"}
    assert (story.marks.read_text(), dict(story.ray.taken)) == (ran, taken)
    assert (tmp_path / "state" / "raywatch.db.corrupt-1").exists()


def sees(daemon: DaemonProcess) -> int:
    """How many jobs it knows to have failed and not to have been submitted again."""
    runs = json.loads(daemon.get("/api/v1/runs")[1])["runs"]
    return sum(r["status"] == "failed" for r in runs)
