"""What is remembered grows with every node and worker there ever was; this says what of it may go."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import NamedTuple, TypeVar

from raywatch.model import Drain, Entity, Finding

DRAIN_KEEP_S = 30 * 86_400.0  # a drained node may live on for days; its end still is the drain's
END_KEEP_S = 86_400.0  # it explains what dies within seconds; a day, for logs that are read late
KEEP = 500  # of each, however old
KEEP_LINKS = 20_000  # they have no times
_K = TypeVar("_K")
_V = TypeVar("_V")


def aged(
    known: Mapping[_K, _V],
    time_of: Callable[[_V], float],
    now: float,
    *,
    keep_s: float,
    keep: int,
) -> Mapping[_K, _V]:
    """Return what is younger than `keep_s`, and the newest `keep` however old; at most four times `keep`.

    The newest stay because logs of long ago may be read just now: their facts are old when they become known.
    Itself where nothing goes, at the price of a look at its first entry: it is asked every tick.
    """
    if len(known) <= keep:
        return known
    if len(known) <= 4 * keep and now - time_of(next(iter(known.values()))) <= keep_s:
        return known
    rows = sorted(known.items(), key=lambda row: time_of(row[1]))
    old = [row for row in rows[:-keep] if now - time_of(row[1]) > keep_s]
    # Half of what is too much goes at once, so that the next sorting is far away.
    start = max(len(old), len(rows) - 2 * keep if len(rows) > 4 * keep else 0)
    return dict(rows[start:])


def latest(known: Mapping[_K, _V], used: Iterable[_K], keep: int) -> Mapping[_K, _V]:
    """Return the `keep` that became known last, and all that are used; itself until a quarter more is there."""
    if len(known) <= keep + keep // 4:
        return known
    wanted = set(list(known)[-keep:]) | set(used)
    return {k: v for k, v in known.items() if k in wanted}


class Memory(NamedTuple):
    """What correlation remembers beyond incidents."""

    drains: Mapping[str, Drain]
    ends: Mapping[str, Finding]
    links: Mapping[Entity, frozenset[Entity]]
    sizes: Mapping[str, tuple[int, ...]]


def bounded_memory(known: Memory, used: Iterable[Entity], now: float) -> Memory:
    """Let go of what is long over; `used` are entities whose links stay. Fields where nothing goes are themselves."""
    return Memory(
        aged(known.drains, _over_at, now, keep_s=DRAIN_KEEP_S, keep=KEEP),
        aged(known.ends, lambda end: end.at, now, keep_s=END_KEEP_S, keep=KEEP),
        latest(known.links, used, KEEP_LINKS),
        latest(known.sizes, (), KEEP),
    )


def _over_at(drain: Drain) -> float:
    return max(drain.at, drain.deadline_at or 0.0)
