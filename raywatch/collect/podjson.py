"""Objects of the Kubernetes API -> what became of Ray's pods, and of KubeRay's resources. Pure; all texts are hostile.

Formats: "Pod Lifecycle", "Pod disruption conditions" and `core/v1` of Kubernetes 1.22 to 1.34, KubeRay's `ray.io/v1`.
An object that is odd says nothing. Of a pod only Ray's own container counts, the first one of its specification
(KubeRay's RayContainerIndex): sidecars and init containers come and go without it.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import NamedTuple

from raywatch.collect.metadata import unix_time
from raywatch.collect.rayrows import rows_of, within
from raywatch.observations import KubeRaySeen, PodSeen, PodWord

CLUSTER = "ray.io/cluster"
TEXT_LIMIT = 1000
NAME_LIMIT = 253
SIGKILL, SIGTERM = 137, 143  # as exit codes
_GATE = "wait-gcs-ready"  # KubeRay's own init container, of Ray's image
# status.reason of a pod that its machine's kubelet ended.
_TAKEN = frozenset(["Evicted", "NodeShutdown", "Terminated", "Shutdown", "Preempting", "NodeLost"])
_SHUTDOWN = frozenset(["NodeShutdown", "Terminated", "Shutdown"])
_NO_MACHINE = frozenset(["DeletionByPodGC", "NodeLost"])
_UNKNOWN = ("Unknown", "ContainerStatusUnknown")  # the kubelet found it gone, after a reboot say
_CANNOT_START = frozenset(
    [
        "ErrImagePull",
        "ImagePullBackOff",
        "ErrImageNeverPull",
        "InvalidImageName",
        "RegistryUnavailable",
        "CreateContainerConfigError",
        "CreateContainerError",
        "RunContainerError",
    ]
)
_SHORT_OF = re.compile(r"low on resource: ([\w.-]{1,60}?)\.(?: |$)|condition: \[(\w{1,40})\]")
# Labels of machines that the cloud may take: GKE, EKS, AKS, Karpenter.
_SPOT: Mapping[str, str] = {
    "cloud.google.com/gke-spot": "true",
    "cloud.google.com/gke-preemptible": "true",
    "eks.amazonaws.com/capacityType": "SPOT",
    "kubernetes.azure.com/scalesetpriority": "spot",
    "karpenter.sh/capacity-type": "spot",
}
# Reasons of events of a pod, with how their message begins or what it must hold.
_EVENTS: Mapping[str, tuple[PodWord, str]] = {
    "Preempted": ("disruption", ""),
    "Evicted": ("disruption", ""),  # by Karpenter's drain, too
    "TaintManagerEviction": ("disruption", "Marking for deletion"),  # else: it was cancelled
    "ScaleDown": ("disruption", "deleting pod for node scale down"),
    "Killing": ("unhealthy", "failed liveness probe"),
    "FailedScaleUp": ("no_machine", ""),
}
_NEVER_AGAIN = frozenset(["Failed", "Complete", "ValidationFailed"])
_KINDS = frozenset(["RayCluster", "RayJob", "RayService"])
Row = Mapping[str, object]


@dataclass(frozen=True, slots=True)
class Pod:
    """Who a pod of Ray is."""

    uid: str
    namespace: str
    name: str
    cluster: str
    ip: str
    is_head: bool
    machine: str
    container: str  # Ray's own
    is_spot: bool  # it can only be on a machine that the cloud may take
    ended: bool


class PodEvent(NamedTuple):
    """What an event says of a pod."""

    uid: str
    word: PodWord
    at: float
    reason: str
    message: str


class _State(NamedTuple):
    """How a pod stands."""

    taken_at: float | None
    reason: str
    message: str
    deleted_at: float | None


def line(value: object, limit: int = TEXT_LIMIT) -> str:
    """Return a text of others as one line of printable characters, cut at `limit`; '' for what is none."""
    text = value[: 4 * limit] if isinstance(value, str) else ""
    return " ".join("".join(c if c.isprintable() else " " for c in text).split())[:limit]


def pod_of(row: Row, known: Pod | None = None) -> Pod | None:
    """Return who a pod is, None where it is none of Ray's. `known`: as it was before, for what ended pods lose."""
    labels, uid = within(row, "metadata", "labels"), line(within(row, "metadata", "uid"), 64)
    cluster = line(within(labels, CLUSTER), NAME_LIMIT)
    kind = within(labels, "ray.io/node-type")
    own = next(rows_of(within(row, "spec", "containers")), {})
    if not uid or not cluster or kind == "redis-cleanup":
        return None
    pod = Pod(
        uid=uid,
        namespace=line(within(row, "metadata", "namespace"), NAME_LIMIT),
        name=line(within(row, "metadata", "name"), NAME_LIMIT),
        cluster=cluster,
        ip=line(within(row, "status", "podIP"), 45) or (known.ip if known else ""),
        is_head=kind == "head",
        machine=line(within(row, "spec", "nodeName"), NAME_LIMIT),
        container=line(own.get("name"), NAME_LIMIT),
        is_spot=_on_spot(row),
        ended=within(row, "status", "phase") in ("Failed", "Succeeded"),
    )
    return replace(pod, ended=pod.ended or bool(_ended_with(row, pod, "state")))


def _on_spot(row: Row) -> bool:
    """Say whether the pod asks for such a machine; that it only tolerates one proves nothing."""
    asked = within(row, "spec", "nodeSelector")
    if any(within(asked, k) == v for k, v in _SPOT.items()):
        return True
    where = ("affinity", "nodeAffinity", "requiredDuringSchedulingIgnoredDuringExecution")
    terms = list(rows_of(within(row, "spec", *where, "nodeSelectorTerms")))
    return bool(terms) and all(map(_is_spot_term, terms))  # of terms one is enough


def _is_spot_term(term: Row) -> bool:
    asked = rows_of(term.get("matchExpressions"))
    return any(
        e.get("operator") == "In" and e.get("values") == [_SPOT.get(str(e.get("key")), "")]
        for e in asked
    )


def pod_seen(row: Row, pod: Pod, now: float, *, is_gone: bool = False) -> list[PodSeen]:
    """Return all that an object says became of its pod. `is_gone`: it was deleted, and this is how it was at last."""
    state = _state(row, now)
    seen = [*_containers(row, pod, state, now), *_waiting(row, pod, now)]
    if state.taken_at is not None:
        seen.append(_taken(pod, state, ended=pod.ended or is_gone))
    elif (state.deleted_at is not None or is_gone) and _runs(row, pod):
        at = now if state.deleted_at is None else min(state.deleted_at, now)
        said = "the pod was deleted; Kubernetes names no disruption"
        seen.append(_seen(pod, "deleted", "deleted", at, why="Deleted", said=said))
    return seen


def _state(row: Row, now: float) -> _State:
    status = within(row, "status")
    status = status if isinstance(status, dict) else {}
    target = _condition(status, "DisruptionTarget")
    reason, message = line(status.get("reason"), 80), line(status.get("message"))
    deleted = unix_time(within(row, "metadata", "deletionTimestamp"))
    grace = within(row, "metadata", "deletionGracePeriodSeconds")
    if deleted is not None and isinstance(grace, int) and 0 <= grace <= deleted:
        deleted -= grace  # the time stamp is when it must be gone
    at = None
    if target.get("status") == "True":
        at = unix_time(target.get("lastTransitionTime")) or deleted or now
        if reason not in _TAKEN:
            reason, message = line(target.get("reason"), 80), line(target.get("message"))
    elif reason in _TAKEN:
        at = _ended_at(status) or deleted or now
    return _State(at, reason, message, deleted)


def _ended_at(status: Row) -> float | None:
    """Return when the last container ended, else when the pod ceased to be ready."""
    ends = (within(c, "state", "terminated") for c in rows_of(status.get("containerStatuses")))
    times = [t for e in ends if (t := unix_time(within(e, "finishedAt")))]
    ready = unix_time(_condition(status, "Ready").get("lastTransitionTime"))
    return max(times) if times else ready or unix_time(status.get("startTime"))


def _taken(pod: Pod, state: _State, *, ended: bool) -> PodSeen:
    gone = state.reason in _NO_MACHINE
    word: PodWord = "node_gone" if gone else "evicted" if ended else "disruption"
    short = _SHORT_OF.search(state.message)
    shut = state.reason in _SHUTDOWN or "node shutdown" in state.message
    key = "disruption" if word == "disruption" else "end"
    seen = _seen(pod, word, key, state.taken_at or 0.0, why=state.reason, said=state.message)
    resource = (short[1] or short[2]) if short else ""
    return replace(seen, resource=resource, is_spot=pod.is_spot and shut)


def _containers(row: Row, pod: Pod, state: _State, now: float) -> Iterator[PodSeen]:
    """Tell how Ray's container ended, now and the last time."""
    for which in ("lastState", "state"):
        end = _ended_with(row, pod, which)
        code, reason = end.get("exitCode"), line(end.get("reason"), 80)
        if not isinstance(code, int) or code in (0, SIGTERM) or reason in _UNKNOWN:
            continue
        excused = state.taken_at is not None or state.deleted_at is not None
        if reason != "OOMKilled" and which == "state" and excused:
            continue  # that is how a pod is ended
        word: PodWord = "crashed" if code != SIGKILL else "killed"
        when = line(end.get("finishedAt"), 40)
        yield replace(
            _seen(
                pod,
                "oom_killed" if reason == "OOMKilled" else word,
                f"{pod.container} {when}",
                unix_time(when) or now,
                why=reason,
                said=line(end.get("message")),
            ),
            container=pod.container,
            exit_code=code,
        )


def _waiting(row: Row, pod: Pod, now: float) -> Iterator[PodSeen]:
    """Tell why a pod does not start."""
    scheduled = _condition(within(row, "status"), "PodScheduled")
    if scheduled.get("status") == "False" and scheduled.get("reason") == "Unschedulable":
        at = unix_time(scheduled.get("lastTransitionTime")) or now
        said = line(scheduled.get("message"))
        yield _seen(pod, "unschedulable", "Unschedulable", at, why="Unschedulable", said=said)
    for kind, name in (("containerStatuses", pod.container), ("initContainerStatuses", _GATE)):
        status = _container(row, kind, name)
        reason = line(within(status, "state", "waiting", "reason"), 80)
        message = line(within(status, "state", "waiting", "message"))
        if reason in _CANNOT_START:
            seen = _seen(pod, "cannot_start", f"{name} cannot start", now, why=reason, said=message)
            yield replace(seen, container=name)
        elif reason == "CrashLoopBackOff" and name == pod.container:
            last = within(status, "lastState", "terminated")
            if within(last, "reason") != "OOMKilled":  # it says why itself
                at = unix_time(within(last, "finishedAt")) or now
                seen = _seen(pod, "crash_loop", f"{name} {reason}", at, why=reason, said=message)
                yield replace(seen, container=name)


def event_of(row: Row, now: float) -> PodEvent | None:
    """Return what an event says of a pod, None for the many that say nothing of its end."""
    reason = within(row, "reason")
    word, needs = _EVENTS.get(reason if isinstance(reason, str) else "", (None, ""))
    message = line(row.get("message"))
    uid = line(within(row, "involvedObject", "uid"), 64)
    if word is None or needs not in message or not uid:
        return None
    times = (row.get("firstTimestamp"), row.get("eventTime"), row.get("lastTimestamp"))
    at = next((t for x in times if (t := unix_time(x)) is not None), now)
    return PodEvent(uid, word, at, line(reason, 80), message)


def told_by(event: PodEvent, pod: Pod) -> PodSeen | None:
    """Return what an event says became of this pod, None where it is of a sidecar or comes after the end."""
    if event.word == "unhealthy" and f"Container {pod.container} " not in event.message:
        return None
    if event.word == "disruption" and pod.ended:
        return None
    key = "disruption" if event.word == "disruption" else f"{event.reason} {int(event.at)}"
    return _seen(pod, event.word, key, event.at, why=event.reason, said=event.message)


def kuberay_seen(row: Row, now: float, *, is_gone: bool = False) -> KubeRaySeen | None:
    """Return how a resource of KubeRay stands, None where it is none."""
    kind, uid = line(row.get("kind"), 40), line(within(row, "metadata", "uid"), 64)
    if kind not in _KINDS or not uid:
        return None
    seen = KubeRaySeen(
        at=now,
        kind=kind,
        namespace=line(within(row, "metadata", "namespace"), NAME_LIMIT),
        name=line(within(row, "metadata", "name"), NAME_LIMIT),
        uid=uid,
        state=line(within(row, "status", "state"), 80),
        reason=line(within(row, "status", "reason"), 80),
        message=line(within(row, "status", "message")),
        is_gone=is_gone,
    )
    if kind == "RayJob":
        return _job(seen, row)
    if kind == "RayCluster":
        return _cluster(replace(seen, cluster=seen.name), row)
    return _service(seen, row)


def _job(seen: KubeRaySeen, row: Row) -> KubeRaySeen:
    """KubeRay runs a job again while `failed` is below `backoffLimit`; each time is another submission."""
    status = within(row, "status")
    state = line(within(status, "jobDeploymentStatus"), 80) or "New"
    failed, limit = within(status, "failed"), within(row, "spec", "backoffLimit")
    left = (limit if isinstance(limit, int) else 0) - (failed if isinstance(failed, int) else 0)
    ended = unix_time(within(status, "endTime")) or seen.at
    return replace(
        seen,
        state=state,
        cluster=line(within(status, "rayClusterName"), NAME_LIMIT),
        submission_id=line(within(status, "jobId"), 200),
        retried=not seen.is_gone
        and state not in _NEVER_AGAIN
        and (state == "Retrying" or left > 0),
        failed_at=ended if state == "Failed" else None,
    )


def _cluster(seen: KubeRaySeen, row: Row) -> KubeRaySeen:
    status = within(row, "status")
    failure = _condition(status, "ReplicaFailure")
    for name in ("RayClusterSuspended", "RayClusterSuspending"):
        if _condition(status, name).get("status") == "True":
            return replace(seen, state=name.removeprefix("RayCluster").lower())
    if failure.get("status") == "True":
        return replace(
            seen,
            state="failed",
            reason=line(failure.get("reason"), 80),
            message=line(failure.get("message")),
            failed_at=unix_time(failure.get("lastTransitionTime")) or seen.at,
        )
    head = _condition(status, "HeadPodReady")
    if head.get("status") == "False":
        why, said = line(head.get("reason"), 80), line(head.get("message"))
        return replace(seen, reason=why, message=said)
    return seen


def _service(seen: KubeRaySeen, row: Row) -> KubeRaySeen:
    ready = _condition(within(row, "status"), "Ready")
    state = line(within(row, "status", "serviceStatus"), 80)
    cluster = within(row, "status", "activeServiceStatus", "rayClusterName")
    seen = replace(seen, cluster=line(cluster, NAME_LIMIT))
    if ready.get("status") == "True":
        return replace(seen, state=state or "ready")
    why, said = line(ready.get("reason"), 80), line(ready.get("message"))
    return replace(seen, state=state or "not ready", reason=why, message=said)


def _condition(status: object, kind: str) -> Row:
    found = rows_of(within(status, "conditions"))
    return next((c for c in found if c.get("type") == kind), {})


def _container(row: Row, kind: str, name: str) -> Row:
    found = rows_of(within(row, "status", kind))
    return next((c for c in found if c.get("name") == name), {})


def _ended_with(row: Row, pod: Pod, which: str) -> Row:
    end = within(_container(row, "containerStatuses", pod.container), which, "terminated")
    return end if isinstance(end, dict) else {}


def _runs(row: Row, pod: Pod) -> bool:
    """Say whether Ray's container runs: one that had failed before somebody cleared it away did not."""
    state = within(_container(row, "containerStatuses", pod.container), "state", "running")
    return isinstance(state, dict) and within(row, "status", "phase") == "Running"


def _seen(pod: Pod, word: PodWord, key: str, at: float, *, why: str, said: str) -> PodSeen:
    return PodSeen(
        at=at,
        key=f"{pod.uid} {key}",
        word=word,
        namespace=pod.namespace,
        pod=pod.name,
        cluster=pod.cluster,
        ip=pod.ip,
        is_head=pod.is_head,
        machine=pod.machine,
        reason=why,
        message=said,
    )
