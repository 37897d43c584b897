"""What APIs and events say about the cluster: who answers, which session it is of, and what of it is a finding."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict
from typing import NamedTuple

from raywatch.core.capacity import Capacity, heard, learned
from raywatch.core.capacity_view import capacity_json
from raywatch.model import Fact, Finding
from raywatch.observations import (
    EndpointHealth,
    Observation,
    ServeAppSeen,
    ServeSeen,
    SessionSeen,
)
from raywatch.shown import source_row, ups


class Said(NamedTuple):
    """What observations mean beside what they say about runs."""

    findings: list[Finding]
    facts: list[Fact]


class Cluster:
    """What is known from outside the logs. Owned by the first thread; nothing of it is stored: it is asked anew."""

    def __init__(self) -> None:
        self._endpoints: dict[str, EndpointHealth] = {}
        self.session = ""  # the one that the dashboard says it is of
        self._capacity = Capacity()
        self._serve: tuple[ServeAppSeen, ...] = ()

    def learn(self, seen: Iterable[Observation], now: float) -> Said:
        """Take in observations, in their order."""
        said, items = Said([], []), list(seen)
        self._capacity = learned(self._capacity, items, now)
        for item in items:
            match item:
                case EndpointHealth():
                    self._endpoints[item.name] = item
                case SessionSeen():
                    self.session = item.session
                case ServeSeen():
                    self._serve = item.apps
                case _:
                    pass
        return said

    def hear(self, findings: Iterable[Finding], now: float) -> None:
        """Take in findings: what the autoscaler's own log says of machines that do not come."""
        self._capacity = heard(self._capacity, findings, now)

    def sources(self) -> list[dict[str, str | int | None]]:
        """Show how each API answered last."""
        return [source_row(e) for e in self._endpoints.values()]

    def ups(self) -> Mapping[str, tuple[bool, float]]:
        """Return which APIs answer, and when they last did."""
        return ups(self._endpoints.values())

    def made_of(self) -> tuple[object, ...]:
        """Return the values, never changed in place, of which `shown` is made."""
        return self._capacity, self._serve

    def shown(self) -> dict[str, object]:
        """Show what is known of the cluster as the API does."""
        return {
            "autoscaling": capacity_json(self._capacity),
            "serve": [asdict(app) for app in self._serve],
        }
