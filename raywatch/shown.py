"""Incidents as the snapshot shows them, written out once a change."""

from __future__ import annotations

import json
from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from raywatch.core.runs import Runs, runs_hurt
from raywatch.core.view import incident_json, rfc3339
from raywatch.model import Drain, FailureClass, Incident


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


def drain_rows(drains: Iterable[Drain]) -> list[dict[str, str | None]]:
    """Show who was told to go."""
    return [
        {
            "node_id": d.node_id,
            "reason": d.reason,
            "message": d.message,
            "at": rfc3339(d.at),
            "deadline_at": rfc3339(d.deadline_at),
        }
        for d in drains
    ]
