"""What is seen of the cluster and by which sources, as the snapshot and the metrics show it."""

from __future__ import annotations

import json
from collections.abc import Mapping

from raywatch.cluster import DASHBOARD, Cluster, source_row
from raywatch.core.blindness import BlindJson, Standing, apart, blind
from raywatch.core.incidents import State
from raywatch.core.labels import label_of
from raywatch.core.nodeview import by_state
from raywatch.core.runs import Runs
from raywatch.following import Following, two_sessions
from raywatch.metrics import ClusterView
from raywatch.model import Drain
from raywatch.shown import NodeTexts


class Sight:
    """Owned by the first thread; `blind` may be read from any."""

    def __init__(self, logs: Following, cluster: Cluster) -> None:
        self._logs, self._cluster = logs, cluster
        self._standings: list[Standing] = []
        self._texts = NodeTexts()
        self._nodes: tuple[object, object, Mapping[str, int]] = (None, None, {})
        self.blind: tuple[BlindJson, ...] = ()

    def shown(self, now: float, state: State, runs: Runs) -> str:
        """Return sources, what is not seen, and nodes, as members of a JSON object."""
        self._standings = self._cluster.standings(self._logs.standing(now), now)
        rows = [source_row(s) for s in self._standings]
        rows[0] |= self._logs.row()
        self.blind = (*apart(self.two_sessions()), *blind(self._standings, DASHBOARD, now))
        nodes = self._texts.of(
            self._cluster.nodes, state.drains, state.incidents, runs, self._logs.nodes()
        )
        told = json.dumps({"sources": rows, "blind": self.blind})
        return f'{told[1:-1]}, "nodes": {nodes}'

    def two_sessions(self) -> str:
        """Say that logs and dashboard are of two sessions, '' where they are not."""
        return two_sessions(self._logs.name or "", self._cluster.session)

    def cluster(self, drains: Mapping[str, Drain], failures: Mapping[str, int]) -> ClusterView:
        """Return what the metrics show of the cluster. `failures`: launches that failed, by reason."""
        known = self._cluster.nodes
        if self._nodes[0] is not known or self._nodes[1] is not drains:
            self._nodes = known, drains, by_state(known, drains)
        name = self._logs.name or self._cluster.session
        version = "" if self.two_sessions() else self._cluster.ray_version
        return ClusterView(
            session=(label_of(name), label_of(version) if version else "") if name else None,
            nodes=self._nodes[2],
            pending=self._cluster.pending(),
            launch_failures=failures,
        )

    def ups(self) -> dict[str, tuple[bool, float]]:
        """Return which sources answer and when they last did; one that is switched off is not down."""
        return {
            s.name: (s.works, s.answered_at or 0.0) for s in self._standings if s.state != "off"
        }
