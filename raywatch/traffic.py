"""How often each source of facts was asked, what came of it, and how much it told. Owned by the second thread."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from itertools import product

from raywatch.collect.endpoints import SERVE, TRAIN, TRAIN_V1
from raywatch.metrics import TrafficView
from raywatch.notice import Notices
from raywatch.observations import (
    ActorSeen,
    AutoscalerSeen,
    EventSeen,
    GroupsSeen,
    JobSeen,
    KubeRayListed,
    KubeRaySeen,
    NodeSeen,
    PodSeen,
    ServeSeen,
    SessionSeen,
    TrainRunSeen,
    WorkerSeen,
)
from raywatch.pushing import SOURCE as RAY_EVENTS

OUTCOMES = ("ok", "refused", "timeout", "unauthorized", "throttled", "error")
# A state of EndpointHealth that is not here is an error. off: it answers that there is nothing to tell.
_OUTCOME: Mapping[str, str] = {
    "up": "ok",
    "off": "ok",
    "refused": "refused",
    "timeout": "timeout",
    "unauthorized": "unauthorized",
    "forbidden": "unauthorized",
    "busy": "throttled",
}
_SOURCE: Mapping[type, str] = {
    SessionSeen: "version",
    JobSeen: "jobs",
    NodeSeen: "nodes",
    ActorSeen: "actors",
    WorkerSeen: "workers",
    AutoscalerSeen: "autoscaler",
    GroupsSeen: "groups",
    ServeSeen: SERVE.name,
    TrainRunSeen: TRAIN.name,
    PodSeen: "kubernetes",
    KubeRaySeen: "kubernetes",
    KubeRayListed: "kubernetes",
    EventSeen: RAY_EVENTS,
}


class Traffic:
    """Counts since the start of this process."""

    def __init__(self, sources: Iterable[str]) -> None:
        """`sources` have series from the start."""
        sources = tuple(sources)
        # Both of Ray Train's APIs tell the same rows.
        self._told = Counter(dict.fromkeys((s for s in sources if s != TRAIN_V1.name), 0))
        self._asked = Counter(dict.fromkeys(product(sources, OUTCOMES), 0))

    def asked(self, source: str, state: str) -> None:
        """Count a question, by the state of EndpointHealth that came of it."""
        self._asked[source, _OUTCOME.get(state, "error")] += 1

    def told(self, seen: Iterable[object], source: str = "") -> None:
        """Count the facts among what came from `source`, else from where such a fact comes from."""
        for item in seen:
            home = item.provider if isinstance(item, Notices) else _SOURCE.get(type(item), "")
            if home:
                self._told[source or home] += 1

    def view(self) -> TrafficView:
        """Return what was counted."""
        return TrafficView(dict(self._told), dict(self._asked))
