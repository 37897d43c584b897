"""What the first thread shows and the second serves: snapshots and metrics, safe from any thread."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from raywatch import __version__
from raywatch.core.runs import Runs, runs_hurt
from raywatch.core.view import incident_json, rfc3339
from raywatch.metrics import MetricsView
from raywatch.model import EndpointHealth, FailureClass, Incident


class _Shown(NamedTuple):
    """A text and what it was made of."""

    incident: Incident
    runs: Runs
    text: str


class IncidentTexts:
    """Remembers texts: a thousand incidents are a megabyte of JSON, and every finding publishes."""

    def __init__(self, classes: Mapping[str, FailureClass]) -> None:
        self._classes = classes
        self._known: dict[str, _Shown] = {}

    def of(self, incidents: Iterable[Incident], runs: Runs) -> Iterator[str]:
        """Yield the JSON of each; only what is new is written."""
        known, self._known = self._known, {}
        for incident in incidents:
            shown = known.get(incident.id)
            if shown is None or shown.incident is not incident or shown.runs is not runs:
                shown = _Shown(incident, runs, self._text(incident, runs))
            self._known[incident.id] = shown
            yield shown.text

    def _text(self, incident: Incident, runs: Runs) -> str:
        row = incident_json(incident, self._classes)
        return json.dumps({**row, "runs": list(runs_hurt(runs, incident))})


class Publisher:
    """The newest snapshot as JSON, and what the metrics show."""

    def __init__(self, classes: Mapping[str, FailureClass], view: MetricsView, now: float) -> None:
        """Numbers of snapshots begin at `now` in ms: whoever waits for a newer one sees a restart's."""
        self._texts = IncidentTexts(classes)
        self._lock = threading.Lock()
        self._published = (int(now * 1000), b"")
        self._view = view

    def publish(
        self,
        now: float,
        session: str | None,
        *,
        incidents: Iterable[Incident],
        runs: Runs,
        rest: Mapping[str, object],
        view: MetricsView,
    ) -> None:
        """Show how things stand. From the first thread."""
        seq = self._published[0] + 1
        head = {"seq": seq, "now": rfc3339(now), "version": __version__, "session": session}
        rows = ", ".join(self._texts.of(incidents, runs))
        body = f'{json.dumps(head)[:-1]}, "incidents": [{rows}], {json.dumps(rest)[1:]}'.encode()
        with self._lock:
            self._published, self._view = (seq, body), view

    def snapshot(self, after: int) -> bytes | None:
        """Return the snapshot if it is newer than number `after`."""
        with self._lock:
            seq, body = self._published
        return body if seq > after else None

    def metrics_view(self) -> MetricsView:
        """Return what the metrics show."""
        with self._lock:
            return self._view


def source_row(health: EndpointHealth) -> dict[str, str | int | None]:
    """Show how an API answered last."""
    return {
        "source": health.name,
        "up": int(health.state == "up"),
        "state": health.state,
        "detail": health.detail,
        "last_at": rfc3339(health.at),
    }


def ups(endpoints: Iterable[EndpointHealth]) -> dict[str, tuple[bool, float]]:
    """Return which endpoints answer and when they last did; one that is switched off is not down."""
    return {h.name: (h.state == "up", h.at) for h in endpoints if h.state != "off"}
