"""How long the first thread rests between two turns, and when garbage goes."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator

import pytest

from raywatch.pace import OLD_S, TURN_S, YOUNG, Pace, hold_garbage


class Node:
    """Half of a cycle."""

    def __init__(self) -> None:
        self.other = self


@pytest.fixture
def held() -> Iterator[None]:
    """Garbage is left to the pace."""
    hold_garbage()
    yield
    gc.enable()
    gc.unfreeze()


def test_after_a_long_turn_the_next_comes_when_the_turn_of_a_flood_is_over():
    """However long it took, a rest is at most what is left of TURN_S since it began."""
    pace = Pace()
    pace.took(10.0, 10.004, heard=True)
    assert pace.pause_s(10.004) == pytest.approx(TURN_S - 0.004)
    pace.took(20.0, 20.5, heard=True)
    assert pace.pause_s(20.5) == 0


def test_after_a_small_turn_the_next_comes_soon():
    """A second line need not wait for the turn of a flood."""
    pace = Pace()
    pace.took(10.0, 10.0005, heard=True)
    assert 0.001 < pace.pause_s(10.0005) < TURN_S / 2


def test_a_turn_that_nothing_asked_for_is_followed_by_no_rest():
    """A timer rang: what is written next is looked at at once."""
    pace = Pace()
    pace.took(10.0, 10.004, heard=False)
    assert pace.pause_s(10.004) == 0
    assert (sum(pace.ticks), round(pace.tick_seconds, 3)) == (1, 0.004)


def test_garbage_is_dropped_once_there_is_much_of_it(held):
    """And not before: looking for it holds up what is being found."""
    pace = Pace()
    pace.collect(OLD_S + 1)  # all of the start
    few = weakref.ref(Node())
    pace.collect(OLD_S + 2)
    assert few() is not None
    kept = [Node() for _ in range(YOUNG + 1)]
    many = weakref.ref(kept[0])
    kept.clear()
    pace.collect(OLD_S + 3)
    assert (many(), few()) == (None, None)


def test_garbage_that_grew_old_is_dropped_after_a_while(held):
    """It lived through a look at the young."""
    pace = Pace()
    pace.collect(OLD_S + 1)
    old = Node()
    gone = weakref.ref(old)
    gc.collect(1)
    gc.collect(1)
    del old
    pace.collect(OLD_S + 2)
    assert gone() is not None
    pace.collect(3 * OLD_S)
    assert gone() is None
