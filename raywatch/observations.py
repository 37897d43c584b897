"""What APIs, event files, clouds and Kubernetes say: one frozen noun for each kind of row."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from raywatch.bundles import Bundle

EventKind: TypeAlias = Literal["node_dead", "node_draining", "worker_dead"]


@dataclass(frozen=True, slots=True)
class NodeSeen:
    """A row of /api/v0/nodes. `resources` are totals (memory in bytes) without those that name the node itself."""

    at: float
    node_id: str
    ip: str
    name: str
    state: str  # ALIVE | DEAD
    message: str
    is_head: bool
    ended_at: float | None = None
    started_at: float | None = None
    resources: Mapping[str, float] = field(default_factory=dict)
    labels: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class WorkerSeen:
    """A dead worker of /api/v0/workers."""

    at: float
    worker_id: str
    node_id: str
    pid: int
    worker_type: str
    exit_type: str
    exit_detail: str
    ended_at: float | None = None


@dataclass(frozen=True, slots=True)
class ActorSeen:
    """A row of /api/v0/actors."""

    at: float
    actor_id: str
    class_name: str
    state: str  # ... ALIVE | RESTARTING | DEAD
    job_id: str
    node_id: str
    pid: int
    # WORKER_DIED, NODE_DIED, RAY_KILL ... or the name of the context; of an event that tells a restart: why it is one
    death_reason: str = ""
    death_message: str = ""
    name: str = ""


@dataclass(frozen=True, slots=True)
class JobSeen:
    """A row of /api/jobs/. Times are unix seconds. `runtime_env` and `metadata` are JSON texts."""

    at: float
    kind: str  # SUBMISSION | DRIVER
    job_id: str
    submission_id: str
    status: str  # PENDING RUNNING STOPPED SUCCEEDED FAILED
    entrypoint: str
    message: str
    error_type: str
    started_at: float | None
    ended_at: float | None
    metadata: Mapping[str, str]
    runtime_env: str
    driver_node_id: str
    driver_exit_code: int | None
    driver_pid: int = 0


@dataclass(frozen=True, slots=True)
class TrainWorkerSeen:
    """A rank of a Ray Train attempt."""

    world_rank: int
    node_id: str
    actor_id: str
    pid: int
    status: str
    log_file: str = ""


@dataclass(frozen=True, slots=True)
class TrainAttemptSeen:
    """One worker group of a Ray Train run."""

    attempt_id: str
    status: str  # PENDING RUNNING FINISHED ERRORED ABORTED
    detail: str
    started_at: float | None
    ended_at: float | None
    workers: tuple[TrainWorkerSeen, ...]


@dataclass(frozen=True, slots=True)
class TrainRunSeen:
    """A run of /api/train/v2/runs/v1 (RAY_TRAIN_ENABLE_STATE_TRACKING=1)."""

    at: float
    run_id: str
    name: str
    status: str  # INITIALIZING SCHEDULING RUNNING RESTARTING RESIZING FINISHED ERRORED ABORTED
    detail: str
    job_id: str
    submission_id: str
    controller_actor_id: str
    storage_path: str
    storage_filesystem: str
    max_failures: int | None
    started_at: float | None
    ended_at: float | None
    attempts: tuple[TrainAttemptSeen, ...]
    max_preemptions: int | None = None


@dataclass(frozen=True, slots=True)
class SessionSeen:
    """The answer of /api/version: which Ray, which session."""

    at: float
    ray_version: str
    session: str


@dataclass(frozen=True, slots=True)
class EventSeen:
    """What an event that Ray pushed tells of an end or a drain, beside the row of the node or worker that it is about.

    `id` is the same each time that Ray sends it; `reason` and `message` are Ray's own.
    """

    id: str
    at: float
    what: EventKind
    node_id: str = ""
    worker_id: str = ""
    job_id: str = ""
    pid: int = 0
    reason: str = ""  # of a node: EXPECTED_TERMINATION ... ; of a worker: SYSTEM_ERROR ...
    message: str = ""


@dataclass(frozen=True, slots=True)
class Demanded:
    """Work that waits for resources, as an autoscaler reports it: bundles, each so many times, all of it `count` times.

    kind: work (tasks or actors) | group (a placement group) | request (request_resources). `strategy`: a group's.
    """

    kind: str
    bundles: tuple[tuple[Bundle, int], ...]
    count: int
    strategy: str = ""


@dataclass(frozen=True, slots=True)
class AutoscalerSeen:
    """The report of Ray's autoscaler (v1 or v2) in /api/cluster_status. Without one `reports` is False.

    `pending`: node type, how far it is (launching, setting-up ...), how many. `failed`: node types whose launches
    failed lately, each with its category (LaunchFailed, or the cloud's own code). `ended`: nodes that were lost, by type.
    """

    at: float
    reports: bool
    active: tuple[tuple[str, int], ...] = ()
    idle: tuple[tuple[str, int], ...] = ()
    pending: tuple[tuple[str, str, int], ...] = ()
    failed: tuple[tuple[str, str], ...] = ()
    ended: tuple[tuple[str, int], ...] = ()
    demands: tuple[Demanded, ...] = ()
    error: str = ""  # with which it ended
    silent: bool = False  # it reports nothing new for a minute


@dataclass(frozen=True, slots=True)
class GroupSeen:
    """A placement group that waits for resources. `since`: when it was asked for, unix seconds."""

    group_id: str
    name: str
    job_id: str
    state: str  # PENDING | RESCHEDULING
    why: str  # INFEASIBLE | NO_RESOURCES | PENDING ... : its last attempt
    bundles: tuple[tuple[Bundle, int], ...]
    since: float | None


@dataclass(frozen=True, slots=True)
class GroupsSeen:
    """All placement groups that wait now."""

    at: float
    waiting: tuple[GroupSeen, ...]


@dataclass(frozen=True, slots=True)
class DeploymentSeen:
    """A deployment of a Serve application; `replicas` by state."""

    name: str
    status: str
    message: str
    replicas: tuple[tuple[str, int], ...]


@dataclass(frozen=True, slots=True)
class ServeAppSeen:
    """An application of /api/serve/applications/."""

    name: str
    status: str  # NOT_STARTED DEPLOYING DEPLOY_FAILED RUNNING UNHEALTHY DELETING
    message: str
    deployments: tuple[DeploymentSeen, ...]


@dataclass(frozen=True, slots=True)
class ServeSeen:
    """All Serve applications that there are now."""

    at: float
    apps: tuple[ServeAppSeen, ...]


@dataclass(frozen=True, slots=True)
class EndpointHealth:
    """How an API or other source answered last.

    state: up | refused | timeout | unauthorized (401) | forbidden (403) | busy (429) | error (other status) | off
    `at` is the time of this try, `answered_at` that of its last good answer as far as who asks knows.
    """

    at: float
    name: str
    state: str
    detail: str = ""
    answered_at: float | None = None


PodWord: TypeAlias = Literal[
    "disruption",  # it will be taken: a warning, while its container runs
    "evicted",  # it was taken: by the kubelet, the scheduler, a taint, a drain, a shutdown of its machine
    "node_gone",  # its machine is not there any more
    "oom_killed",
    "crashed",  # Ray's container ended by itself, with an exit code
    "killed",  # it got SIGKILL, and nobody says from whom
    "deleted",  # somebody asked for its end: a person, KubeRay, Ray's autoscaler
    "unhealthy",  # the kubelet restarts it because Ray does not answer
    "crash_loop",
    "cannot_start",  # no image, no secret, a wrong specification
    "unschedulable",
    "no_machine",  # the cluster's autoscaler got none
]


@dataclass(frozen=True, slots=True)
class PodSeen:
    """What Kubernetes says became of a pod of Ray.

    `key` is the same for it in every life of the daemon and of the watch: the pod's uid and what happened to it when.
    `at` is when Kubernetes says that it happened, unix seconds. All texts are one line of printable characters.
    """

    at: float
    key: str
    word: PodWord
    namespace: str
    pod: str
    cluster: str  # the RayCluster, '' where its labels name none
    ip: str  # '' where it never had one
    is_head: bool
    machine: str  # the Kubernetes node, '' where it was not scheduled
    reason: str
    message: str
    container: str = ""
    exit_code: int | None = None
    resource: str = ""  # that ran short on the machine
    is_spot: bool = (
        False  # the cloud may take its machine at any time, and the machine was shut down
    )


@dataclass(frozen=True, slots=True)
class KubeRaySeen:
    """The status of a RayCluster, RayJob or RayService.

    `retried`: KubeRay itself runs the job again when it fails. `failed_at`: when it failed for good, or pods could not
    be made; None where it did not. `is_gone`: it was deleted.
    """

    at: float
    kind: str  # RayCluster | RayJob | RayService
    namespace: str
    name: str
    uid: str
    state: str
    reason: str
    message: str
    cluster: str = ""  # the RayCluster that it is or runs on
    submission_id: str = ""
    retried: bool = False
    failed_at: float | None = None
    is_gone: bool = False


@dataclass(frozen=True, slots=True)
class KubeRayListed:
    """Which submissions KubeRay runs again when they fail, of all the RayJobs that there are."""

    at: float
    retried: frozenset[str]


Observation: TypeAlias = (
    NodeSeen
    | WorkerSeen
    | ActorSeen
    | JobSeen
    | TrainRunSeen
    | SessionSeen
    | AutoscalerSeen
    | GroupsSeen
    | ServeSeen
    | EventSeen
    | EndpointHealth
    | PodSeen
    | KubeRaySeen
    | KubeRayListed
)


@dataclass(frozen=True, slots=True)
class Pushed:
    """What events that Ray pushed tell, all of one session; '' where they name none."""

    session: str
    seen: tuple[Observation, ...]
