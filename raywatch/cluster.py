"""What APIs and events say about the cluster: who answers, which session it is of, its nodes, what is a finding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict
from typing import NamedTuple

from raywatch.collect.endpoints import ENDPOINTS, SERVE, TRAIN, TRAIN_V1
from raywatch.collect.kubernetes import NAME as KUBERNETES
from raywatch.collect.kubernetes import Access
from raywatch.core import capacity
from raywatch.core.blindness import Standing, aged, heard, unasked
from raywatch.core.capacity_view import capacity_json
from raywatch.core.nodeview import Known, forgotten, learned, session_over
from raywatch.core.view import rfc3339
from raywatch.core.waiting import pending
from raywatch.memory import Document
from raywatch.model import Fact, Finding
from raywatch.observations import (
    EndpointHealth,
    EventSeen,
    KubeRayListed,
    KubeRaySeen,
    NodeSeen,
    Observation,
    PodSeen,
    ServeAppSeen,
    ServeSeen,
    SessionSeen,
)
from raywatch.pods import Pods
from raywatch.pushing import Told

TIDY_S = 60.0  # between two looks for nodes that ended long ago
DASHBOARD = tuple(e.name for e in (*ENDPOINTS, TRAIN, TRAIN_V1, SERVE))


class Said(NamedTuple):
    """What observations mean beside what they say about runs."""

    findings: list[Finding]
    facts: list[Fact]


class Cluster:
    """What is known from outside the logs. Owned by the first thread; it is asked anew, and only what was told is stored."""

    def __init__(
        self,
        docs: Mapping[str, Mapping[str, str]],
        clouds: Iterable[str],
        now: float,
        kubernetes: Access | None = None,
    ) -> None:
        """Go on from stored documents.

        `clouds`: the metadata services that are asked; `kubernetes`: what of it is, None for nothing. All that is asked
        is a source from the start.
        """
        self._told = Told(docs)
        asked = (*(e.name for e in ENDPOINTS), *clouds, *([KUBERNETES] if kubernetes else []))
        self._sources: dict[str, Standing] = {name: unasked(name, now) for name in asked}
        self._asked = frozenset(asked)
        self._kube_cluster = kubernetes.cluster if kubernetes else ""
        self._pods = Pods(docs, self._kube_cluster)
        self._kuberay: Mapping[str, KubeRaySeen] = {}
        # Where somebody configured it, it is not known without its answer which jobs KubeRay runs again.
        self._kube_must = kubernetes is not None and kubernetes.is_asked_for
        self._is_kuberay_known = kubernetes is None
        self.session = ""  # the one that the dashboard says it is of
        self.ray_version = ""
        self.nodes: Mapping[str, Known] = {}
        self._tidied_at = 0.0
        self._capacity = capacity.Capacity()
        self._serve: tuple[ServeAppSeen, ...] = ()

    def learn(self, seen: Iterable[Observation], now: float) -> Said:
        """Take in observations, in their order."""
        said, items = Said([], []), list(seen)
        self._capacity = capacity.learned(self._capacity, items, now)
        nodes: list[NodeSeen] = []
        for item in items:
            match item:
                case EndpointHealth():
                    self._answered(item)
                case SessionSeen():
                    self._enter(item, nodes, now)
                case NodeSeen():
                    nodes.append(item)
                    self._pods.node(item, now)
                case EventSeen():
                    self._meant(item, said, now)
                case PodSeen():
                    self._pods.pod(item, now)
                case KubeRaySeen() | KubeRayListed():
                    self._resource(item, now)
                case ServeSeen():
                    self._serve = item.apps
                case _:
                    pass
        before = self.nodes
        self._list(nodes, now)
        if self.nodes is not before or not 0 <= now - self._tidied_at < TIDY_S:
            self.nodes, self._tidied_at = forgotten(self.nodes, now), now
        told = self._pods.tell(now)
        said.findings.extend(told.findings)
        said.facts.extend(told.facts)
        return said

    def hear(self, findings: Iterable[Finding], now: float) -> None:
        """Take in findings: what the autoscaler's own log says of machines that do not come."""
        self._capacity = capacity.heard(self._capacity, findings, now)

    def _answered(self, seen: EndpointHealth) -> None:
        self._sources[seen.name] = heard(self._sources.get(seen.name), seen)
        if seen.name == KUBERNETES and seen.state != "up" and not self._kube_must:
            self._is_kuberay_known = True  # nobody said that there is a KubeRay

    def unknown_owner(self) -> str:
        """Say why it is not known who restarts what failed, '' where it is."""
        if self._is_kuberay_known:
            return ""
        return "Kubernetes has not said yet which jobs KubeRay itself runs again"

    def _resource(self, seen: KubeRaySeen | KubeRayListed, now: float) -> None:
        if isinstance(seen, KubeRayListed):
            self._is_kuberay_known = True
            return
        self._pods.resource(seen, now)
        rest = {k: r for k, r in self._kuberay.items() if k != seen.uid}
        is_other = seen.cluster not in ("", self._kube_cluster or seen.cluster)
        self._kuberay = rest if seen.is_gone or is_other else {**rest, seen.uid: seen}

    def _meant(self, seen: EventSeen, said: Said, now: float) -> None:
        meant = self._told.hear(seen, now)
        if isinstance(meant, Fact):
            said.facts.append(meant)
        elif meant is not None:
            said.findings.append(meant)

    def _enter(self, seen: SessionSeen, nodes: list[NodeSeen], now: float) -> None:
        """The poller tells all rows anew after a session's first: what it told before is of the one before."""
        self._list(nodes, now)
        self.ray_version = seen.ray_version or self.ray_version
        if seen.session not in ("", self.session):  # '' is an answer that names none
            self.nodes = session_over(self.nodes, seen.session, seen.at)
            self.session = seen.session

    def documents(self) -> Iterator[Document]:
        """Yield what changed since the last call."""
        yield from self._told.documents()
        yield from self._pods.documents()

    def _list(self, nodes: list[NodeSeen], now: float) -> None:
        if nodes:
            self.nodes = learned(self.nodes, nodes, self.session, now)
            nodes.clear()

    def standings(self, logs: Standing, now: float) -> list[Standing]:
        """Return how each source stands now, the logs first."""
        known = (aged(s, now) if s.name in self._asked else s for s in self._sources.values())
        return [logs, *known]

    def pending(self) -> Mapping[str, tuple[int, float | None]]:
        """Return what waits for machines: see core.waiting."""
        return pending(self._capacity)

    def made_of(self) -> tuple[object, ...]:
        """Return the values, never changed in place, of which `shown` is made."""
        return self._kuberay, self._capacity, self._serve

    def shown(self) -> dict[str, object]:
        """Show what is known of the cluster as the API does."""
        kuberay = {"kuberay": [_shown(r) for r in self._kuberay.values()]} if self._kuberay else {}
        serve = [asdict(app) for app in self._serve]
        return {**kuberay, "autoscaling": capacity_json(self._capacity), "serve": serve}


def source_row(standing: Standing) -> dict[str, str | int | None]:
    """Show how a source stands: `last_at` is when it was asked, `answered_at` when it last answered well."""
    return {
        "source": standing.name,
        "up": int(standing.works),
        "state": standing.state,
        "detail": standing.detail,
        "last_at": rfc3339(standing.at),
        "answered_at": rfc3339(standing.answered_at),
        "since": rfc3339(standing.since),
    }


def _shown(seen: KubeRaySeen) -> dict[str, str | None]:
    return {
        "kind": seen.kind,
        "namespace": seen.namespace,
        "name": seen.name,
        "state": seen.state,
        "reason": seen.reason,
        "message": seen.message,
        "submission_id": seen.submission_id,
        "seen_at": rfc3339(seen.at),
    }
