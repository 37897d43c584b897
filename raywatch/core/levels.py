"""Which of the four levels of fault tolerance a run really has, in a number and in words."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise


def fault_tolerance(max_failures: int | None, sizes: Sequence[int]) -> tuple[int | None, str]:
    """Return the level (1 to 4) and why. `sizes` are the worker groups of one controller, oldest first.

    Only an elastic run changes its size under one controller. Unknown is None, never a guess.
    """
    if max_failures == 0:
        return 1, "max_failures=0: a lost worker ends the run"
    shown = " -> ".join(str(s) for s in sizes[-4:])
    if any(b > a for a, b in pairwise(sizes)):
        return 4, f"elastic: goes on with fewer workers and takes new ones in ({shown})"
    if any(b < a for a, b in pairwise(sizes)):
        return 3, f"elastic: goes on with fewer workers ({shown})"
    if max_failures is None:
        return None, "not known: neither the Train state API nor a failure has told max_failures"
    allowed = "any number of" if max_failures < 0 else f"{max_failures}"
    return 2, f"max_failures={max_failures}: Ray Train restarts the group {allowed} times"
