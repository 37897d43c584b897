"""What APIs and events say about the cluster: who answers, which session it is of, and what of it is a finding."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from typing import NamedTuple

from raywatch.core.view import rfc3339
from raywatch.memory import Document
from raywatch.model import Fact, Finding
from raywatch.observations import (
    EndpointHealth,
    KubeRaySeen,
    NodeSeen,
    Observation,
    PodSeen,
    SessionSeen,
)
from raywatch.pods import Pods
from raywatch.shown import source_row, ups


class Said(NamedTuple):
    """What observations mean beside what they say about runs."""

    findings: list[Finding]
    facts: list[Fact]


class Cluster:
    """What is known from outside the logs. Owned by the first thread; only what was told is stored: the rest is asked anew."""

    def __init__(self, docs: Mapping[str, Mapping[str, str]], kube_cluster: str = "") -> None:
        """Go on from stored documents. `kube_cluster`: the RayCluster that Kubernetes is asked about."""
        self._endpoints: dict[str, EndpointHealth] = {}
        self._pods, self._kube_cluster = Pods(docs, kube_cluster), kube_cluster
        self._kuberay: Mapping[str, KubeRaySeen] = {}
        self.session = ""  # the one that the dashboard says it is of

    def learn(self, seen: Iterable[Observation], now: float) -> Said:
        """Take in observations, in their order."""
        for item in seen:
            match item:
                case EndpointHealth():
                    self._endpoints[item.name] = item
                case SessionSeen():
                    self.session = item.session
                case NodeSeen():
                    self._pods.node(item)
                case PodSeen():
                    self._pods.pod(item, now)
                case KubeRaySeen():
                    self._pods.resource(item, now)
                    rest = {k: r for k, r in self._kuberay.items() if k != item.uid}
                    is_other = item.cluster not in ("", self._kube_cluster or item.cluster)
                    self._kuberay = rest if item.is_gone or is_other else {**rest, item.uid: item}
                case _:
                    pass
        told = self._pods.tell(now)
        return Said(told.findings, told.facts)

    def documents(self) -> Iterator[Document]:
        """Yield what changed since the last call."""
        return self._pods.documents()

    def sources(self) -> list[dict[str, str | int | None]]:
        """Show how each API answered last."""
        return [source_row(e) for e in self._endpoints.values()]

    def ups(self) -> Mapping[str, tuple[bool, float]]:
        """Return which APIs answer, and when they last did."""
        return ups(self._endpoints.values())

    def made_of(self) -> tuple[object, ...]:
        """Return the values, never changed in place, of which `shown` is made."""
        return (self._kuberay,)

    def shown(self) -> dict[str, object]:
        """Show what is known of the cluster as the API does."""
        return {"kuberay": [_shown(r) for r in self._kuberay.values()]} if self._kuberay else {}


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
