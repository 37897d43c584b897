"""The nouns of raywatch: frozen values that every room shares. Imports nothing of ours."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Literal, NamedTuple, TypeAlias

Component: TypeAlias = Literal[
    "raylet",
    "gcs",
    "worker",  # worker-*.out/.err, io_worker-*: what the program itself printed
    "core",  # python-core-worker-*, python-core-driver-*: Ray's C++ core inside a worker or driver
    "driver",  # a driver's or launcher's own output (driver*.log, torchrun, horovodrun)
    "job",  # job-driver-*.log, jobs/supervisor-*.log
    "client_server",
    "monitor",  # the autoscaler
    "dashboard",
    "agent",  # dashboard_agent.*
    "runtime_env",
    "log_monitor",
    "train",
    "serve",
    "data",
    "event",
    "export",  # export_events/event_EXPORT_*.log: Ray's tables, row by row
    "process_exit",
    "kernel",  # dmesg, kern.log, syslog, journal
    "unknown",  # text of unknown origin: matches every `where` and never acts
]
LogFormat: TypeAlias = Literal["cpp", "python", "json", "event", "text"]
Role: TypeAlias = Literal["root", "symptom", "warning", "benign"]
Scope: TypeAlias = Literal["cluster", "node", "run", "job", "actor", "worker", "device"]
ResumeAdvice: TypeAlias = Literal[
    "now", "counted", "elsewhere", "older", "changed", "never", "none"
]
Mode: TypeAlias = Literal["observe", "suggest", "approve", "auto"]


class RaywatchError(Exception):
    """An error of ours: one line for the user, exit code 2.

    SignatureError (core.signatures) · ArchiveError (archive) · StoreError: StoreBusyError, StoreWriteError (store) ·
    WebError (web)
    """


class Trust(IntEnum):
    """How far a finding may name the root cause; higher beats lower (DESIGN.md, root cause)."""

    SILENCE = 0
    NOISE = 1  # teardown
    COLLECTIVE = 2
    PROCESS = 3  # the dying process's own last words
    KERNEL = 4
    RAY = 5  # a reason that Ray recorded: death reason, exit type, event
    KUBERNETES = 6
    NOTICE = 7  # drain or cloud notice


UNEXPLAINED = "unknown_failure"  # the class of what looks like an error and no signature explains


@dataclass(frozen=True, slots=True)
class FailureClass:
    """One entry of rules/taxonomy.yaml."""

    id: str
    group: str
    role: Role
    scope: Scope
    resume: ResumeAdvice
    title: str


class FileId(NamedTuple):
    """What a file is while it is held open; its path is only a label."""

    dev: int
    ino: int


@dataclass(frozen=True, slots=True)
class Source:
    """One log file: who writes it and what its name tells. `node` is a node id, or in archives a folder's name."""

    path: str
    component: Component
    format: LogFormat = "text"
    node: str = ""
    session: str = ""
    job_id: str = ""
    worker_id: str = ""
    submission_id: str = ""
    pid: int = 0


@dataclass(frozen=True, slots=True)
class Chunk:
    """Whole lines of one source. `offset` in bytes and `line` (from 1) are those of the first byte.

    `final` says that the last line may lack its newline and that no more will follow soon.
    `cut` says that the chunk holds (part of) a line that was longer than the limit and was cut.
    `still` says that its file did not grow for a moment; `told` is the last line (from 1) that was reported although
    its record was open. `hits` are its packed hits (`end << HIT_BITS | signature`, in that order) where whoever read it
    has matched it already.
    """

    source: Source
    file: FileId
    offset: int
    line: int
    data: bytes
    read_at: float
    final: bool = False
    cut: bool = False
    rewritten: bool = False
    still: bool = False
    told: int = 0
    hits: Sequence[int] | None = None

    @property
    def end(self) -> int:
        """Offset in the file just behind the chunk."""
        return self.offset + len(self.data)


HIT_BITS = (
    16  # a packed hit is `end of its line << HIT_BITS | signature`: an int costs no object of ours
)


class Hit(NamedTuple):
    """Signature number `signature` matched on the line data[start:end] of a chunk (no newline)."""

    signature: int
    start: int
    end: int


class Entity(NamedTuple):
    """Something that a record names: ("node", "<hex>"), ("worker", ...), ("pid", "<node>/<pid>") ..."""

    kind: str
    id: str


@dataclass(frozen=True, slots=True)
class Record:
    """One log record around its hits: continuation lines and traceback joined, prefixes taken off, bounded.

    `text` is the message; `at` is unix time in seconds or None where it cannot be dated;
    `fields` are what the prefix, a JSON line or trailing key=value pairs say.
    """

    source: Source
    file: FileId
    offset: int
    line: int
    text: str
    at: float | None
    level: str
    fields: Mapping[str, str]
    signatures: tuple[int, ...]
    hit_lines: tuple[str, ...]  # the lines that were hit, in the order of `signatures`
    hit_numbers: tuple[int, ...]  # their line numbers in the file, from 1
    end: int = 0  # offset in the file just behind its last line
    copied: bool = False  # a copy of another process's words (driver prefix, TrainHead)
    rows: Sequence[int] = ()  # the numbers of its lines, where lines of others lie between them


@dataclass(frozen=True, slots=True)
class Subject:
    """Whom a finding is about."""

    kind: Scope
    id: str
    node: str = ""
    rank: int | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """A line that proves something, and where it stands. `line` counts from 1; 0 for an API."""

    file: str
    line: int
    text: str
    at: float | None
    component: Component
    class_id: str = ""
    signature: str = ""
    node: str = ""
    offset: int = 0


@dataclass(frozen=True, slots=True)
class Finding:
    """A record or observation with a class: what, about whom, when, and the line that proves it.

    `acts` is False for what may never start an action: text of unknown origin, trial signatures,
    a component that does not own the class. `count` is how many records it stands for: repeats in a storm are counted,
    not expanded, and the last of them is the evidence. An `aside` is evidence of an incident that something else opens:
    it opens none, counts nothing and names nothing.
    """

    class_id: str
    subject: Subject
    at: float
    dated: bool
    evidence: Evidence
    signature: str
    trust: Trust
    confidence: float = 0.9
    fields: Mapping[str, str] = field(default_factory=dict)
    entities: frozenset[Entity] = frozenset()
    acts: bool = True
    count: int = 1
    aside: bool = False


@dataclass(frozen=True, slots=True)
class Fact:
    """Something a log says that is no failure but must be known: progress, a drain, who runs where.

    kind: checkpoint_created, training_result, group_started, run_storage, failure_policy,
    state_transition, drain, driver_job ... ; fields are the captures of its signature.
    """

    kind: str
    at: float
    evidence: Evidence
    fields: Mapping[str, str] = field(default_factory=dict)
    entities: frozenset[Entity] = frozenset()


# --- incidents -----------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Incident:
    """Findings with one root cause. `explains` maps a symptom's class to how many findings of it there were."""

    id: str
    class_id: str
    subject: Subject
    trust: Trust
    confidence: float
    state: Literal["open", "resolved"]
    first_at: float
    last_at: float
    root: Evidence
    fields: Mapping[str, str] = field(default_factory=dict)
    evidence: tuple[Evidence, ...] = ()
    explains: tuple[tuple[str, int], ...] = ()
    entities: frozenset[Entity] = frozenset()
    findings: int = 1
    heard: Mapping[str, float] = field(
        default_factory=dict
    )  # "class subject" -> when last; copies are not counted
    acts: bool = True
    restarted: bool = False  # Ray itself restarted what it hurt
    gave_up: bool = False  # Ray Train raised, or the job failed: nobody else restarts it
    culprit: Subject | None = None
    world_sizes: tuple[int, ...] = ()
    runs: tuple[str, ...] = ()
    merged: tuple[str, ...] = ()  # ids of incidents that turned out to be symptoms of this one
    settled_at: float | None = None  # when Ray recorded a death reason for the subject
    resolved_at: float | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """What a finding did to the incidents."""

    kind: Literal["opened", "reclassified", "extended", "merged", "resolved"]
    incident: Incident
    finding: Finding | None = None


@dataclass(frozen=True, slots=True)
class Drain:
    """A node was told to go. Remembered by node id until long after its end."""

    node_id: str
    reason: str  # PREEMPTION | IDLE_TERMINATION
    message: str
    deadline_at: float | None
    at: float
    evidence: Evidence
    by: str = "ray"  # who told it: ray, a cloud, kubernetes
    class_id: str = "spot_preemption"  # what its end is where `reason` is PREEMPTION


# --- runs, checkpoints, actions -------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint. `whole` is True only when `checked` says how that was proved."""

    path: str
    step: int | None
    whole: bool
    checked: str
    at: float | None  # when it was registered, unix seconds
    metrics: Mapping[str, float] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class CheckpointProblem:
    """Why no checkpoint can be named: missing | torn | corrupt | remote | dir_missing ..."""

    reason: str
    detail: str


@dataclass(frozen=True, slots=True)
class Rank:
    """One rank of a run, as far as known."""

    world_rank: int
    node_id: str = ""
    pid: int = 0
    actor_id: str = ""
    worker_id: str = ""
    ip: str = ""
    log_file: str = ""


AttemptStatus: TypeAlias = Literal[
    "running", "failed", "preempted", "resized", "finished", "stopped", "ended"
]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a run: a worker group of Ray Train, elsewhere a job. Times are unix seconds.

    `by` says who told of it (job | api | log): what a better source tells of a job takes the place of a worse one's.
    """

    started_at: float
    job: str = ""
    by: str = "log"
    size: int | None = None  # workers
    status: AttemptStatus = "running"
    ended_at: float | None = None
    why: str = ""  # bounded words of who ended it
    class_id: str = ""  # of the incident that ended it, once that is known
    incident: str = ""


RunStatus: TypeAlias = Literal[
    "unknown", "pending", "running", "restarting", "failed", "stopped", "finished"
]
# Those in which nothing trains any more, whatever comes next.
OVER: tuple[Literal["failed"], Literal["stopped"], Literal["finished"]] = (
    "failed",
    "stopped",
    "finished",
)


@dataclass(frozen=True, slots=True)
class Run:
    """Something that trains and can be resumed, as a lineage: its resubmissions are the same run.

    `submissions` and `jobs` are oldest first; the last of each is the current one.
    `owner` is who restarts it next: ray_train | kuberay | raywatch | nobody.
    """

    id: str
    name: str = ""
    status: RunStatus = "unknown"
    storage_path: str = ""
    submissions: tuple[str, ...] = ()
    jobs: tuple[str, ...] = ()
    controllers: tuple[str, ...] = ()
    entrypoint: str = ""
    runtime_env: str = ""  # JSON text of the current submission
    metadata: Mapping[str, str] = field(default_factory=dict)
    kind: Literal["submission", "driver", "unknown"] = "unknown"
    ranks: tuple[Rank, ...] = ()
    world_sizes: tuple[int, ...] = ()
    max_failures: int | None = None
    level: int | None = None
    level_reason: str = ""
    owner: str = "nobody"
    step: int | None = None
    step_at: float | None = None
    checkpoint: Checkpoint | None = None
    checkpoint_problem: str = ""
    train_restarts: int = 0  # by Ray Train itself
    resumes: int = 0  # by raywatch
    started_at: float | None = None
    ended_at: float | None = None
    seen_at: float = 0.0
    last_policy: str = ""  # RETRY | RAISE, with its time
    last_policy_at: float | None = None
    session: str = ""  # of Ray, where the newest of `jobs` has its id from
    framework: str = ""  # of a run that [[run]] declares
    attempts: tuple[Attempt, ...] = ()  # the newest, oldest first
    failures: int | None = None  # of `max_failures`, used by the current controller
    preemptions: int | None = None  # of `max_preemptions`, likewise
    max_preemptions: int | None = None  # -1: any number


@dataclass(frozen=True, slots=True)
class RunRule:
    """One [[run]] of the configuration: a run outside Ray Train, and what its progress looks like."""

    name: str
    match: str  # glob on job submission id, entrypoint or path of a log
    framework: str = ""  # a preset, else empty
    storage: str = ""
    own: tuple[
        str, ...
    ] = ()  # kinds of facts that an expression of its own gives: the preset's do not count then


HookKind: TypeAlias = Literal["job", "command"]


@dataclass(frozen=True, slots=True)
class Hook:
    """How to start a run again. `argv` for `command`; never goes through a shell."""

    kind: HookKind
    name: str = ""
    argv: tuple[str, ...] = ()
    timeout_s: float = 300.0
    retry_interrupted: bool = False
    entrypoint_resources: Mapping[str, float] = field(default_factory=dict)


ActionState: TypeAlias = Literal[
    "observed",  # mode observe: counted, nothing else
    "suggested",
    "awaiting_approval",
    "waiting",  # decided; not due yet or a precondition does not hold yet: `detail` says which
    "started",
    "succeeded",
    "failed",
    "timed_out",
    "interrupted",
    "refused",
    "abandoned",
]


@dataclass(frozen=True, slots=True)
class Action:
    """What a policy decided, with its idempotency key, and what came of it.

    `key` is also the submission_id of a `job` hook: exactly one submission a key.
    """

    key: str
    run: str  # lineage id
    run_name: str
    incident: str
    class_id: str
    attempt: int
    mode: Mode
    hook: Hook
    state: ActionState
    created_at: float
    due_at: float
    old_submission: str = ""
    old_job: str = ""
    checkpoint: Checkpoint | None = None
    avoid_nodes: tuple[str, ...] = ()
    started_at: float | None = None
    ended_at: float | None = None
    submission_id: str = ""
    detail: str = ""
    output: str = ""  # bounded tail of what the hook printed
    first_step_at: float | None = None  # the new run passed the checkpoint's step
    first_step: int | None = None
    detected_at: float | None = None  # incident opened (wall clock)
    counted: bool = True  # uses the run's attempt budget
    by_hand: bool = False  # a person asked for it with `raywatch resume`


@dataclass(frozen=True, slots=True)
class Outcome:
    """What came of an action that was started, or `deferred`: a precondition does not hold yet, try later."""

    key: str
    state: Literal["succeeded", "failed", "timed_out", "interrupted", "refused", "deferred"]
    at: float
    detail: str
    output: str = ""
    submission_id: str = ""


@dataclass(frozen=True, slots=True)
class ResumeRule:
    """One [[resume]] of the configuration."""

    run: str  # glob on run name, submission id, metadata values or entrypoint
    mode: Mode
    hook: Hook
    classes: tuple[str, ...] = ()  # empty: by the taxonomy's `resume`
    max_attempts: int = 20
    backoff_s: float = 10.0
    backoff_max_s: float = 600.0
    max_age_s: float = 900.0
    settle_s: float = 75.0
    checkpoints: str = ""
