"""What Kubernetes says of Ray's pods -> findings and drains of their Ray nodes, each once in all lives of the daemon.

None of it acts: it names the cause of an end that Ray itself tells, and warns. A pod that will be taken is remembered as
a drain, so that the end of its node has a cause. A pod that somebody deleted ended as planned.
"""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Literal, NamedTuple

from raywatch.core.newest import newest_node
from raywatch.core.view import rfc3339
from raywatch.memory import Document, Remembered
from raywatch.model import Entity, Evidence, Fact, Finding, Subject, Trust
from raywatch.observations import KubeRaySeen, NodeSeen, PodSeen, PodWord

KIND: Literal["pod"] = "pod"
KEEP = 4096  # keys of what was told
MAX_WAITING = 4096
MAX_NODES = 20_000
PATIENCE_S = 60.0  # that the dashboard gets to say which node has the address
SLACK_S = 5.0  # between the clocks of the kubelet and of Ray
FRESH_S = 1.0  # a container that was started again is another Ray node seconds later
DEAD_WITHIN_S = 120.0  # Ray declares a vanished node dead after 64 s


class _Means(NamedTuple):
    """What a word means: its class, how far it may name a root, and whether it says anything without a Ray node."""

    class_id: str
    trust: Trust
    nodeless: bool = False


# A bare exit code or SIGKILL only echoes an end: Ray's own words say more. That somebody deleted the pod is worth no
# more than what Ray says: a node that had failed may be cleared away so.
_MEANS: Mapping[PodWord, _Means] = {
    "disruption": _Means("preemption_notice", Trust.SILENCE, nodeless=True),
    "evicted": _Means("pod_evicted", Trust.KUBERNETES, nodeless=True),
    "node_gone": _Means("node_lost", Trust.KUBERNETES),
    "oom_killed": _Means("kernel_oom_kill", Trust.KUBERNETES, nodeless=True),
    "crashed": _Means("raylet_crash", Trust.SILENCE),
    "killed": _Means("node_lost", Trust.SILENCE),
    "deleted": _Means("node_terminated_expected", Trust.RAY),
    "unhealthy": _Means("node_unhealthy", Trust.SILENCE),
    "crash_loop": _Means("node_start_failed", Trust.KUBERNETES, nodeless=True),
    "cannot_start": _Means("node_launch_failed", Trust.KUBERNETES, nodeless=True),
    "unschedulable": _Means("resources_pending", Trust.SILENCE, nodeless=True),
    "no_machine": _Means("capacity_unavailable", Trust.SILENCE, nodeless=True),
}
_NEVER_HAD_A_NODE = frozenset(["crash_loop", "cannot_start", "unschedulable", "no_machine"])
_SPOT: Mapping[str, str] = {"pod_evicted": "spot_preemption"}
_PLANNED = ("DeadlineExceeded", "PreRunningDeadlineExceeded")  # somebody set that deadline


class Told(NamedTuple):
    """What is told now."""

    findings: list[Finding]
    facts: list[Fact]


class Pods:
    """Which Ray nodes have which address, what waits for one, and what was told. Owned by the first thread."""

    def __init__(self, docs: Mapping[str, Mapping[str, str]], cluster: str = "") -> None:
        """Go on from stored documents. `cluster`: the RayCluster that is watched, '' where it is not known."""
        stored = {key: str(json.loads(text)["at"]) for key, text in docs.get(KIND, {}).items()}
        self._horizon = stored.pop("", "")  # what is older and not known was told and forgotten
        self._is_moved = False  # since it was written
        order = sorted(stored, key=stored.__getitem__)
        known = {key: stored[key] for key in order}
        self._known = Remembered(KIND, known, KEEP, lambda at: json.dumps({"at": at}))
        self._cluster = cluster
        self._nodes: dict[str, NodeSeen] = {}
        self._by_ip: dict[str, dict[str, NodeSeen]] = {}
        self._waiting: dict[str, tuple[PodSeen, float]] = {}  # since when
        self._ready: list[Finding] = []

    def node(self, seen: NodeSeen, now: float = float("inf")) -> None:
        """Remember who has which address; ended ones too."""
        before = self._nodes.pop(seen.node_id, None)
        if before is not None:
            self._by_ip[before.ip].pop(before.node_id, None)
            seen = newest_node(before, seen, now)
        self._nodes[seen.node_id] = seen
        self._by_ip.setdefault(seen.ip, {})[seen.node_id] = seen
        if len(self._nodes) > MAX_NODES:
            oldest = self._nodes.pop(next(iter(self._nodes)))
            self._by_ip[oldest.ip].pop(oldest.node_id)
            if not self._by_ip[oldest.ip]:
                del self._by_ip[oldest.ip]

    def pod(self, seen: PodSeen, now: float) -> None:
        """Let it wait for its node, unless it was told."""
        if not self._is_known(seen.key, seen.at) and len(self._waiting) < MAX_WAITING:
            self._waiting.setdefault(seen.key, (seen, now))

    def resource(self, seen: KubeRaySeen, now: float) -> None:
        """Take in a resource of KubeRay; one of the own cluster that failed is told once."""
        if seen.failed_at is None or not seen.cluster or seen.cluster != self._cluster:
            return
        when = "failed" if seen.kind == "RayJob" else rfc3339(seen.failed_at)
        key = f"{seen.uid} {seen.submission_id or when}"
        if not self._is_known(key, seen.failed_at):
            self._remember(key, seen.failed_at, now)
            self._ready.append(_failed(seen))

    def tell(self, now: float) -> Told:
        """Return what can be told now: whose node is known, or after PATIENCE_S without one."""
        told = Told(self._ready, [])
        self._ready = []
        for key, (seen, since) in list(self._waiting.items()):
            node = "" if seen.word in _NEVER_HAD_A_NODE else self._node_of(seen)
            is_ours = node or (seen.cluster and seen.cluster == self._cluster)
            instant = is_ours and seen.word in _NEVER_HAD_A_NODE
            if not node and not instant and 0 <= now - since < PATIENCE_S:
                continue
            del self._waiting[key]
            means = _MEANS[seen.word]
            if not is_ours or not (node or means.nodeless):
                continue  # of another cluster, or of a pod that Ray never knew
            self._remember(key, seen.at, now)
            told.findings.append(_finding(seen, means, node))
            if seen.word == "disruption" and node:
                told.facts.append(_drain(seen, told.findings[-1]))
        return told

    def _node_of(self, seen: PodSeen) -> str:
        """Return the one Ray node that had the pod's address when it happened, '' where that is not certain.

        A container that is started again is another Ray node at the same address.
        """
        if not seen.ip:
            return ""
        # What was dead already was cleared away, not stopped.
        slack_s = 0.0 if seen.word == "deleted" else SLACK_S
        found = [n for n in self._by_ip.get(seen.ip, {}).values() if _lived(n, seen.at, slack_s)]
        if len(found) > 1:  # of pods that share their machine's address
            found = [n for n in found if n.is_head == seen.is_head]
        dead = [n for n in found if n.state == "DEAD"]
        found = dead if len(dead) == 1 and seen.word != "disruption" else found
        return found[0].node_id if len(found) == 1 else ""

    def _is_known(self, key: str, at: float) -> bool:
        return key in self._known or (rfc3339(at) or "") <= self._horizon

    def _remember(self, key: str, at: float, now: float) -> None:
        for old in self._known.put(key, rfc3339(at) or ""):
            # No later than now: a clock that ran ahead must not silence what comes.
            self._horizon = max(self._horizon, min(old, rfc3339(now) or ""))
            self._is_moved = True

    def documents(self) -> Iterator[Document]:
        """Yield what changed since the last call."""
        yield from self._known.documents()
        if self._is_moved:
            yield Document(KIND, "", json.dumps({"at": self._horizon}))
            self._is_moved = False


def _lived(node: NodeSeen, at: float, slack_s: float) -> bool:
    """Say whether a node lived then. One that Ray still calls alive may have ended a minute ago."""
    begun = node.started_at is None or node.started_at <= at + FRESH_S
    if node.state != "DEAD":
        return begun
    return begun and (node.ended_at is None or -slack_s <= node.ended_at - at <= DEAD_WITHIN_S)


def _text(seen: PodSeen) -> str:
    where = f" on {seen.machine}" if seen.machine else ""
    what = f"container {seen.container} " if seen.container else ""
    code = f", exit code {seen.exit_code}" if seen.exit_code is not None else ""
    said = f": {seen.message}" if seen.message else ""
    return f"pod {seen.namespace}/{seen.pod}{where}: {what}{seen.reason}{code}{said}"


def _finding(seen: PodSeen, means: _Means, node: str) -> Finding:
    class_id = _SPOT.get(means.class_id, means.class_id) if seen.is_spot else means.class_id
    evidence = Evidence(
        file=f"kubernetes pod {seen.namespace}/{seen.pod}",
        line=0,
        text=_text(seen),
        at=seen.at,
        component="event",
        class_id=class_id,
        signature="",
        node=node,
    )
    fields = {
        "pod": seen.pod,
        "namespace": seen.namespace,
        "machine": seen.machine,
        "reason": seen.reason,
        "container": seen.container,
        "resource": seen.resource,
        "exit_code": "" if seen.exit_code is None else str(seen.exit_code),
    }
    return Finding(
        class_id=class_id,
        subject=Subject("node", node or seen.pod, node),
        at=seen.at,
        dated=True,
        evidence=evidence,
        signature="",
        trust=means.trust,
        fields={k: v for k, v in fields.items() if v},
        entities=frozenset([Entity("node", node)] if node else []),
        acts=False,
    )


def _drain(seen: PodSeen, notice: Finding) -> Fact:
    fields = {
        "node_id": notice.subject.node,
        "reason": "PREEMPTION",
        "message": f"{seen.reason}: {seen.message}" if seen.message else seen.reason,
        "by": "kubernetes",
        "class_id": "spot_preemption" if seen.is_spot else "pod_evicted",
    }
    return Fact("drain", seen.at, notice.evidence, fields, notice.entities)


def _failed(seen: KubeRaySeen) -> Finding:
    """Of a job its driver failed, as far as KubeRay knows; a cluster's pods could not be made."""
    is_job = seen.kind == "RayJob"
    planned = "job_stopped" if seen.reason in _PLANNED else "job_driver_failed"
    quota = "capacity_unavailable" if "exceeded quota" in seen.message else "node_launch_failed"
    class_id = planned if is_job else quota
    text = f"{seen.kind} {seen.namespace}/{seen.name}: {seen.state} {seen.reason}: {seen.message}"
    evidence = Evidence(
        file=f"kubernetes {seen.kind} {seen.namespace}/{seen.name}",
        line=0,
        text=text,
        at=seen.failed_at,
        component="event",
        class_id=class_id,
    )
    job = [Entity("submission", seen.submission_id)] if is_job and seen.submission_id else []
    return Finding(
        class_id=class_id,
        subject=Subject("job", seen.submission_id or seen.name)
        if is_job
        else Subject("node", seen.name),
        at=seen.failed_at or seen.at,
        dated=True,
        evidence=evidence,
        signature="",
        trust=Trust.NOISE if is_job else Trust.KUBERNETES,
        fields={"reason": seen.reason, "namespace": seen.namespace},
        entities=frozenset(job),
        acts=False,
    )
