"""A daemon that is killed before, and while, its hooks run: each runs once or is shown as interrupted."""

from __future__ import annotations

import pytest

from tests.crash.lives import Forge
from tests.crash.story import Story, begun


def killed_at(story: Story, moment: str) -> None:
    """Let jobs fail, end a life at that moment, and look what is left after two more."""
    story.settle(real=False)
    story.jobs_move(begin=1, fail=1)
    story.live(moment)
    story.settle(real=False)


@pytest.mark.parametrize("moment", ["before a hook", "at a hook"])
def test_a_hook_runs_once_or_is_interrupted(tmp_path, moment):
    """Two commands and a job; what was cut off is shown, and not run again."""
    with Forge() as forge, begun(tmp_path, 1, forge, "0.7") as story:
        killed_at(story, moment)

        assert story.figures.jobs == 3
        assert bool(story.figures.interrupted) == (moment == "at a hook")


@pytest.mark.parametrize(
    ("mutant", "moment", "said"),
    [
        ("hook before its mark", "before a hook", "a hook ran twice"),
        ("interrupted is run again", "at a hook", "a hook ran twice"),
        ("interrupted is not shown", "at a hook", "'state': 'started'"),
    ],
)
def test_a_hook_that_runs_twice_or_vanishes_is_seen(tmp_path, mutant, moment, said):
    """The test above can fail."""
    with (
        Forge(mutant) as forge,
        begun(tmp_path, 1, forge, "0.7") as story,
        pytest.raises(AssertionError, match=said),
    ):
        killed_at(story, moment)
