"""Hundreds of lives that end by SIGKILL: nothing lost, nothing twice, no hook twice. `make chaos` plays thousands."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.crash.story import Figures, tell

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
STORIES, LIVES = 6, 40


@pytest.fixture
def seed(request):
    """The first story's; --seed tells a story again."""
    return int(request.config.getoption("--seed"))


def test_what_is_killed_hundreds_of_times_does_everything_once(
    tmp_path, forge, seed, record_property
):
    """Two stories at a time, each with a store, a session, a Ray and a writer of its own."""
    folders = [tmp_path / str(n) for n in range(STORIES)]
    for folder in folders:
        folder.mkdir()
    with ThreadPoolExecutor(2) as pool:
        told = pool.map(lambda n: tell(folders[n], seed + n, LIVES, forge), range(STORIES))
        figures = sum(told, Figures())
    record_property("figures", str(figures))

    assert figures.kills > STORIES * LIVES * 0.95  # a full disk may forbid to start
    assert figures.interrupted > 10
