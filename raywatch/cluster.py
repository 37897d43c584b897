"""What APIs and events say about the cluster: who answers, which session it is of, and what of it is a finding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from raywatch.memory import Document
from raywatch.model import Fact, Finding
from raywatch.observations import EndpointHealth, EventSeen, Observation, SessionSeen
from raywatch.pushing import Told
from raywatch.shown import source_row, ups


class Said(NamedTuple):
    """What observations mean beside what they say about runs."""

    findings: list[Finding]
    facts: list[Fact]


class Cluster:
    """What is known from outside the logs. Owned by the first thread; it is asked anew, and only what was told is stored."""

    def __init__(self, docs: Mapping[str, Mapping[str, str]]) -> None:
        """Go on from stored documents."""
        self._told = Told(docs)
        self._endpoints: dict[str, EndpointHealth] = {}
        self.session = ""  # the one that the dashboard says it is of

    def learn(self, seen: Iterable[Observation], now: float) -> Said:
        """Take in observations, in their order."""
        said = Said([], [])
        for item in seen:
            match item:
                case EndpointHealth():
                    self._endpoints[item.name] = item
                case SessionSeen():
                    self.session = item.session
                case EventSeen():
                    meant = self._told.hear(item, now)
                    if isinstance(meant, Fact):
                        said.facts.append(meant)
                    elif meant is not None:
                        said.findings.append(meant)
                case _:
                    pass
        return said

    def documents(self) -> Iterator[Document]:
        """Yield what changed since the last call."""
        yield from self._told.documents()

    def sources(self) -> list[dict[str, str | int | None]]:
        """Show how each API answered last."""
        return [source_row(e) for e in self._endpoints.values()]

    def ups(self) -> Mapping[str, tuple[bool, float]]:
        """Return which APIs answer, and when they last did."""
        return ups(self._endpoints.values())

    def made_of(self) -> tuple[object, ...]:
        """Return the values, never changed in place, of which `shown` is made."""
        return ()

    def shown(self) -> dict[str, object]:
        """Show what is known of the cluster as the API does."""
        return {}
