"""When the first thread looks, how long it rests between two turns, and what waits until nobody waits for it."""

from __future__ import annotations

import gc
import sys

from raywatch.families import TICK_BUCKETS

TURN_S = 0.006  # between two looks while much is being written
REST = 4.0  # times what a turn took: the rest after a small one, so that a second line need not wait for a flood's turn
YOUNG = 5_000  # objects that may be garbage, beyond which it is looked through at a sweep
SWITCH_S = (
    1e-4  # how long the second thread may compute while the first one waits for the interpreter
)
OLD_S = 600.0  # between two looks at all objects that came since the start


class Pace:
    """Times in seconds of the steady clock. Owned by the first thread."""

    def __init__(self) -> None:
        self.ticks = [0] * (len(TICK_BUCKETS) + 1)
        self.tick_seconds = 0.0
        self._rest_until = 0.0
        self._swept_old_at = 0.0

    def took(self, began: float, ended: float, *, heard: bool) -> None:
        """Note a turn. After one that events asked for (`heard`) others gather: it costs the same for one and for a hundred."""
        seconds = ended - began
        self.ticks[sum(seconds > b for b in TICK_BUCKETS)] += 1
        self.tick_seconds += seconds
        if heard:
            self._rest_until = min(began + TURN_S, ended + REST * seconds)

    def pause_s(self, steady: float) -> float:
        """Return how long to rest still."""
        return max(0.0, self._rest_until - steady)

    def collect(self, steady: float) -> None:
        """Drop garbage, between two turns: in the middle of one it would hold up a finding for up to 20 ms."""
        if steady - self._swept_old_at > OLD_S:
            self._swept_old_at = steady
            gc.collect()
        elif gc.get_count()[0] > YOUNG:
            gc.collect(1)


def come_first() -> None:
    """Let no other thread of this process keep the first one waiting for long."""
    sys.setswitchinterval(SWITCH_S)


def hold_garbage() -> None:
    """Leave garbage to `Pace.collect` from now on; what is there already stays for ever and is not looked at again."""
    gc.collect()
    gc.freeze()
    gc.disable()
