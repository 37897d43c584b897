"""When to ask Ray Train's state API, which is off by default and makes noise in the very logs that are followed.

Without a state actor it answers HTTP 500, each question adds a WARNING to a log of Ray's, and the first one makes the
dashboard a driver of the cluster. So it is asked only while Ray Train is known to run, and ever more rarely while off.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass, replace

from raywatch.observations import ActorSeen, EndpointHealth, Observation, SessionSeen, TrainRunSeen

CONTROLLER = "TrainController"  # the class of Ray Train v2's controller actor
OFF_FIRST_S = 10.0  # the state actor comes up with the first run
OFF_MAX_S = 600.0
UP_S = 10.0
UP_ALERT_S = 2.0
NO_API = "this Ray has no Train state API"
_ENDED = frozenset(["FINISHED", "ERRORED", "ABORTED"])
_OFF = ("Train state data is not available", "Train is not installed")


@dataclass(frozen=True, slots=True)
class TrainGate:
    """What is known about Ray Train here, and when to ask next. A value: every news makes a new one."""

    controllers: frozenset[str] = frozenset()  # those that live
    known: frozenset[str] = frozenset()  # all that were seen in this session
    active: frozenset[str] = frozenset()  # runs that have not ended
    session: str = ""
    absent: bool = False  # this Ray has no such API
    wait_s: float = 0.0  # that it answered "off" for
    next_at: float = 0.0

    def is_due(self, now: float, *, alert: bool) -> bool:
        """Say whether to ask now. `alert`: something failed a moment ago."""
        if self.absent or not (self.controllers or self.active):
            return False
        early = UP_S - UP_ALERT_S if alert and not self.wait_s else 0.0
        return now >= self.next_at - early

    def heard(self, rows: Iterable[Observation], name: str) -> TrainGate:
        """Take in all rows that an endpoint shows now."""
        seen = tuple(rows)
        if name == "actors":
            return self._actors([a for a in seen if isinstance(a, ActorSeen)])
        if name == "train":
            runs = [r for r in seen if isinstance(r, TrainRunSeen)]
            return replace(self, active=frozenset(r.run_id for r in runs if r.status not in _ENDED))
        session = next((s.session for s in seen if isinstance(s, SessionSeen)), "")
        if session in ("", self.session):
            return self
        return TrainGate(session=session) if self.session else replace(self, session=session)

    def _actors(self, rows: list[ActorSeen]) -> TrainGate:
        mine = [a for a in rows if a.class_name == CONTROLLER]
        ids = frozenset(a.actor_id for a in mine)
        living = frozenset(a.actor_id for a in mine if a.state != "DEAD")
        fresh = bool(living - self.known)  # its driver may have switched the API on
        return replace(
            self,
            controllers=living,
            known=ids,
            wait_s=0.0 if fresh else self.wait_s,
            next_at=0.0 if fresh else self.next_at,
        )

    def answered(self, health: EndpointHealth, now: float) -> TrainGate:
        """Note how it answered."""
        if health.state == "up":
            return replace(self, wait_s=0.0, next_at=now + UP_S)
        wait_s = min(OFF_MAX_S, 2 * self.wait_s or OFF_FIRST_S)
        return replace(
            self,
            active=frozenset() if health.state == "off" else self.active,
            absent=health.detail == NO_API,
            wait_s=wait_s,
            next_at=now + wait_s,
        )


def off_reason(status: int, body: bytes) -> str:
    """Return why the API is off, empty where the answer is another one."""
    if status == 404:  # noqa: PLR2004 - HTTP; Ray before 2.43
        return NO_API
    text = body[:4096].decode(errors="replace")
    if status == 500 and text.startswith(_OFF):  # noqa: PLR2004 - HTTP
        return "RAY_TRAIN_ENABLE_STATE_TRACKING=1 is not set in the driver, or no run began yet"
    return ""
