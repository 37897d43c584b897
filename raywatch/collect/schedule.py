"""When the dashboard is asked what: seldom in peace, more often in trouble, and ever more rarely where it says no."""

from __future__ import annotations

import threading
from collections.abc import Iterable

from raywatch.collect.endpoints import (
    ENDPOINTS,
    SERVE,
    STATE_API,
    TRAIN,
    TRAIN_V1,
    VERSION,
    Endpoint,
)
from raywatch.collect.trainstate import TrainGate
from raywatch.observations import ActorSeen, EndpointHealth, Observation

ALERT_S = 30.0  # trouble lasts for so long after a nudge
BACK_OFF_S = 10.0
BUSY_FIRST_S, BUSY_MAX_S = 5.0, 60.0  # HTTP 429: too many questions at once, those of others too
OFF_FIRST_S, OFF_MAX_S = 10.0, 600.0
# Each list is asked so seldom that to make it takes the head at most this share of a core: of ten thousand actors it
# takes a second. At least it is asked every LONGEST_S, in trouble every LONGEST_ALERT_S.
SHARE = 0.01
LONGEST_S, LONGEST_ALERT_S = 60.0, 15.0
SAME_FOR_ALL = frozenset(["refused", "unauthorized", "forbidden"])
NEVER = float("-inf")
# The actor without which there is nothing to tell, by its name, in Ray 2.9 to 2.60.
NEEDS = {SERVE.name: "SERVE_CONTROLLER_ACTOR", TRAIN_V1.name: "train_state_actor"}


class Schedule:
    """Times are seconds of one clock that never goes back. Of one thread, but for `nudge`."""

    def __init__(self) -> None:
        self._asked: dict[str, float] = {}
        self._took: dict[str, tuple[float, float]] = {}  # the last two answers, seconds
        self._alert_until = NEVER
        self._train = TrainGate()
        self._living: frozenset[str] = frozenset()  # names of NEEDS whose actor lives
        self._waits: dict[str, float] = {}  # after "no"; of all of the State API under its prefix
        self._not_before: dict[str, float] = {}
        self._retry_at = NEVER
        self._lock = threading.Lock()

    def nudge(self, now: float) -> None:
        """Something failed: everything is due, and often for a while. From any thread."""
        with self._lock:
            if now > self._alert_until - ALERT_S / 2:
                self._asked = {}
            self._alert_until = now + ALERT_S

    def anew(self, now: float) -> None:
        """Another session began: all but its name, which was told just now, is due."""
        with self._lock:
            self._asked = {VERSION.name: now}

    def due(self, now: float) -> list[Endpoint]:
        """Return what to ask now."""
        if now < self._retry_at:
            return []
        with self._lock:
            alert = now < self._alert_until
            optional = [e for e in (TRAIN_V1, SERVE) if NEEDS[e.name] in self._living]
            due = [e for e in (*ENDPOINTS, *optional) if self._is_due(e, now, alert=alert)]
        return [*due, TRAIN] if self._train.is_due(now, alert=alert) else due

    def _is_due(self, endpoint: Endpoint, now: float, *, alert: bool) -> bool:
        least_s, most_s = (
            (endpoint.alert_s, LONGEST_ALERT_S) if alert else (endpoint.every_s, LONGEST_S)
        )
        # One that is late says that the machine was busy; two that the list is long.
        cost_s = min(self._took.get(endpoint.name, (0.0, 0.0)))
        every_s = max(least_s, min(most_s, cost_s / SHARE))
        is_time = now - self._asked.get(endpoint.name, NEVER) >= every_s
        return is_time and now >= self._not_before.get(_shared(endpoint), NEVER)

    def asking(self, endpoint: Endpoint, now: float) -> None:
        """Note that it is asked now."""
        with self._lock:
            self._asked[endpoint.name] = now

    def answered(
        self, endpoint: Endpoint, health: EndpointHealth, now: float, took_s: float = 0.0
    ) -> None:
        """Note how it answered, and that it took so many seconds."""
        if health.state == "up":
            self._took[endpoint.name] = (self._took.get(endpoint.name, (0.0, 0.0))[1], took_s)
        if health.state in SAME_FOR_ALL:
            self._retry_at = now + min(BACK_OFF_S, endpoint.every_s)
        if endpoint is TRAIN:
            self._train = self._train.answered(health, now)
        elif health.state == "busy":
            self._wait(endpoint, now, BUSY_FIRST_S, BUSY_MAX_S)
        elif health.state != "up" and endpoint.name in NEEDS:
            self._wait(endpoint, now, OFF_FIRST_S, OFF_MAX_S)
        elif health.state == "up":
            self._waits.pop(_shared(endpoint), None)

    def _wait(self, endpoint: Endpoint, now: float, first_s: float, max_s: float) -> None:
        key = _shared(endpoint)
        wait_s = min(max_s, 2 * self._waits.get(key, 0.0) or first_s)
        self._waits[key], self._not_before[key] = wait_s, now + wait_s

    def is_waiting(self, endpoint: Endpoint, now: float) -> bool:
        """Say whether it was put off since this turn began: another question of its API was one too many."""
        return now < self._not_before.get(_shared(endpoint), NEVER)

    def heard(self, rows: Iterable[Observation], name: str) -> None:
        """Take in all rows that an endpoint shows now."""
        seen = tuple(rows)
        self._train = self._train.heard(seen, name)
        if name == "actors":
            alive = {a.name for a in seen if isinstance(a, ActorSeen) and a.state == "ALIVE"}
            self._living = frozenset(alive.intersection(NEEDS.values()))

    def is_over(self, endpoint: Endpoint) -> bool:
        """Say whether what it told of ended with its actor."""
        return NEEDS[endpoint.name] not in self._living


def same_for(endpoint: Endpoint, health: EndpointHealth) -> list[Endpoint]:
    """Return the endpoints for which an answer stands, beside the one that gave it."""
    if health.state in SAME_FOR_ALL:
        return [e for e in ENDPOINTS if e is not endpoint]
    if health.state == "busy":
        return [e for e in ENDPOINTS if e is not endpoint and _shared(e) == _shared(endpoint)]
    return []


def _shared(endpoint: Endpoint) -> str:
    """Return under what name it waits: Ray counts all questions of the State API together."""
    return STATE_API if endpoint.path.startswith(STATE_API) else endpoint.name
