"""What is counted of runs and actions: restarts, broken rings, lost work, how long a recovery took.

Exactly once: a count follows a change of a stored value (an action, a run's decision, an incident's finding) and is
written in the transaction that writes this value. What a crash takes back, it takes back from both.

What needs a class is *booked* SETTLE_S after it was seen: a ring that broke is seen seconds after a node vanished, the
node's death a minute later, and a counter cannot be moved to another class. Until then its series stands at its old
value (0 at first), so that rate() sees the first one too. Whatever the incident is called later, it is not booked again.
"""

from __future__ import annotations

from bisect import bisect_left
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from itertools import pairwise
from statistics import median
from typing import TypeVar

from raywatch.core.lineage import canonical, owners_of
from raywatch.core.runs import Runs, runs_hurt
from raywatch.model import UNEXPLAINED, Action, Entity, Fact, FailureClass, Finding, Incident, Run

SETTLE_S = 90.0  # in which an incident may still get a better root
PHASES = ("detect", "decide", "launch", "first_step")
BOUNDS_S = (0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 120.0, 300.0, 600.0, 1800.0, 3600.0)
OUTCOMES = (
    "observed",
    "suggested",
    "succeeded",
    "failed",
    "timed_out",
    "interrupted",
    "refused",
    "abandoned",
)
# What ends a ring that was whole. Not: rendezvous_failed (none was formed), horovod_stall (it may go on).
RING = frozenset(
    ["ring_break", "store_lost", "collective_timeout", "collective_desync", "nccl_network_error"]
)
MAX_WAITING = 1000
MAX_SAVES = 8  # checkpoints of a run whose distances tell its usual one
MAX_NAMED = 256  # of a ring of thousands of ranks any few say whose it is
_NAMES_RUN = ("submission", "job", "worker", "actor")
_Number = TypeVar("_Number", int, float)
Counts = Mapping[str, Mapping[str, int]]


@dataclass(frozen=True, slots=True)
class Phase:
    """How long one part of recoveries took: counts by bucket of BOUNDS_S, and their sum."""

    counts: tuple[int, ...] = (0,) * (len(BOUNDS_S) + 1)
    sum_s: float = 0.0

    def with_one(self, seconds: float) -> Phase:
        """Return it with one more; clocks may disagree, no time is below 0."""
        place = bisect_left(BOUNDS_S, seconds)
        counts = tuple(n + (i == place) for i, n in enumerate(self.counts))
        return Phase(counts, self.sum_s + max(0.0, seconds))


@dataclass(frozen=True, slots=True)
class Restart:
    """A run was started again; not booked yet. `class_id` empty: the incidents will say why."""

    run: str
    owner: str  # ray_train | raywatch
    at: float
    due_at: float
    class_id: str = ""
    worked_from: float | None = None  # where the work that is lost began; None: not known
    failed_at: float | None = None


@dataclass(frozen=True, slots=True)
class Break:
    """Whom an incident's broken ring names, and the runs for which it is booked ('' where none was known).

    What is booked is closed and names nobody; a later finding of the incident opens it again, for other runs only.
    """

    due_at: float
    entities: frozenset[Entity]
    booked: tuple[str, ...] = ()
    is_open: bool = True


@dataclass(frozen=True, slots=True)
class Tally:
    """The books. By lineage id, so that a run's name may change; labels are the view's affair."""

    actions: Mapping[str, int] = field(default_factory=dict)  # "hook class outcome"
    told: Mapping[str, tuple[str, ...]] = field(default_factory=dict)  # key -> counted outcomes
    restarts: Counts = field(default_factory=dict)  # run -> "owner class"
    breaks: Counts = field(default_factory=dict)  # run -> cause
    lost_s: Mapping[str, Mapping[str, float]] = field(default_factory=dict)  # run -> class
    phases: Mapping[str, Phase] = field(default_factory=dict)
    waiting: tuple[Restart, ...] = ()
    rings: Mapping[str, Break] = field(default_factory=dict)  # incident -> its broken ring
    begun: Mapping[str, tuple[float, float]] = field(default_factory=dict)  # key -> work, failure
    labels: Mapping[str, str] = field(default_factory=dict)  # run -> its label
    saves: Mapping[str, tuple[float, ...]] = field(default_factory=dict)  # run -> whole checkpoints

    def with_labels(self, labels: Mapping[str, str]) -> Tally:
        """Return it with these labels; itself where they are the same object."""
        return self if labels is self.labels else replace(self, labels=labels)


# --- what is seen --------------------------------------------------------------------------------


def acted(tally: Tally, before: Action | None, action: Action, runs: Runs, now: float) -> Tally:
    """Take in that an action changed. An outcome counts once an action, however often it comes back."""
    was = before.state if before is not None else ""
    if action.state == "started" != was:
        tally = _begun(tally, action, runs)
    told = tally.told.get(action.key, ())
    if action.state in OUTCOMES and action.state not in told:
        what = f"{action.hook.kind} {action.class_id} {action.state}"
        actions = {**tally.actions, what: tally.actions.get(what, 0) + 1}
        told_now = {**tally.told, action.key: (*told, action.state)}
        tally = replace(tally, actions=actions, told=told_now)
        if action.state == "succeeded":
            tally = _succeeded(tally, action, now)
        tally = replace(tally, begun={k: v for k, v in tally.begun.items() if k != action.key})
    if _is_recovered(action) and not (before is not None and _is_recovered(before)):
        launched = min(action.ended_at or 0.0, action.first_step_at or 0.0)
        tally = _timed(tally, "first_step", (action.first_step_at or 0.0) - launched)
    return tally


def _begun(tally: Tally, action: Action, runs: Runs) -> Tally:
    """Note what the start gives up, while the run still is as it ended."""
    run = runs.get(action.run)
    since = _worked_from(run, runs) if run is not None else None
    failed = action.detected_at or 0.0
    if run is not None and since is not None and failed <= since:
        failed = run.ended_at or 0.0  # told before this life began, or saved after the warning
    if since is None or failed <= since:
        return tally
    return replace(tally, begun={**tally.begun, action.key: (since, failed)})


def _worked_from(run: Run, runs: Runs) -> float | None:
    """Return since when the run worked without saving; None where no checkpoint is known."""
    saved = run.checkpoint.at if run.checkpoint is not None else None
    if saved is None:
        return None
    return max(saved, runs.life(run.id).group_at, run.started_at or 0.0)


def _succeeded(tally: Tally, action: Action, now: float) -> Tally:
    started, ended = action.started_at or action.created_at, action.ended_at or now
    launched = min(ended, action.first_step_at) if action.first_step_at is not None else ended
    if (
        action.detected_at is not None and not action.by_hand
    ):  # a person takes the time that it takes
        tally = _timed(tally, "detect", action.created_at - action.detected_at)
    tally = _timed(tally, "decide", started - action.created_at)
    tally = _timed(tally, "launch", launched - started)
    since, failed = tally.begun.get(action.key, (None, None))
    again = Restart(action.run, "raywatch", ended, now + SETTLE_S, action.class_id, since, failed)
    return replace(tally, waiting=(*tally.waiting, again)[-MAX_WAITING:])


def _is_recovered(action: Action) -> bool:
    return action.state == "succeeded" and action.first_step_at is not None


def _timed(tally: Tally, phase: str, seconds: float) -> Tally:
    known = tally.phases.get(phase, Phase())
    return replace(tally, phases={**tally.phases, phase: known.with_one(seconds)})


def restarts_between(before: Runs, after: Runs, fact: Fact, now: float) -> tuple[Restart, ...]:
    """Return the restarts that one line of Ray Train made known. A copy of a line makes none."""
    if after is before or fact.kind != "failure_policy":
        return ()
    known = {(r.name, r.last_policy_at) for r in before.runs.values()}
    found = []
    for run in after.runs.values():
        told = (run.name, run.last_policy_at)
        if run.last_policy != "RETRY" or run.last_policy_at != fact.at or told in known:
            continue
        old = before.get(run.id)
        since = _worked_from(old, before) if old is not None else None
        if since is not None and since > fact.at:
            since = None  # what is on the disk now says nothing about the past
        found.append(Restart(run.id, "ray_train", fact.at, now + SETTLE_S, worked_from=since))
    return tuple(found)


def restarted(tally: Tally, restarts: Iterable[Restart]) -> Tally:
    """Let restarts wait for their class."""
    more = (*tally.waiting, *restarts)
    return replace(tally, waiting=more[-MAX_WAITING:]) if len(more) > len(tally.waiting) else tally


def broke(tally: Tally, incident: Incident, finding: Finding | None, now: float) -> Tally:
    """Take in that a finding joined an incident, and with it perhaps others and their rings."""
    tally = _carried(tally, incident)
    if finding is None or finding.class_id not in RING:
        return tally
    known = tally.rings.get(incident.id, Break(now + SETTLE_S, frozenset()))
    named = frozenset(e for e in finding.entities if e.kind in (*_NAMES_RUN, "run"))
    full = len(known.entities) >= MAX_NAMED
    if incident.id in tally.rings and (full or named <= known.entities):
        return tally
    grown = replace(known, entities=known.entities | named, is_open=True)
    return replace(tally, rings={**tally.rings, incident.id: grown})


def _carried(tally: Tally, incident: Incident) -> Tally:
    """Give an incident the rings of those that it has absorbed; what they have booked stays booked."""
    theirs = [tally.rings[i] for i in incident.merged if i in tally.rings]
    if not theirs:
        return tally
    mine = tally.rings.get(incident.id)
    all_rings = [*([mine] if mine else []), *theirs]
    whole = Break(
        due_at=min(r.due_at for r in all_rings),
        entities=frozenset().union(*(r.entities for r in all_rings)),
        booked=tuple(dict.fromkeys(b for r in all_rings for b in r.booked)),
        is_open=any(r.is_open for r in all_rings),
    )
    rings = {k: r for k, r in tally.rings.items() if k not in incident.merged}
    return replace(tally, rings={**rings, incident.id: whole})


def saved(tally: Tally, runs: Runs) -> Tally:
    """Note when the runs that are shown made their whole checkpoints, as far as the newest two tell."""
    saves = {k: _saves(tally.saves.get(k, ()), runs, k) for k in tally.labels}
    saves = {k: times for k, times in saves.items() if times}
    return tally if saves == tally.saves else replace(tally, saves=saves)


def _saves(known: tuple[float, ...], runs: Runs, run_id: str) -> tuple[float, ...]:
    run = runs.runs.get(run_id)
    newest = run.checkpoint if run is not None else None
    times = list(known)
    for found in (runs.older.get(run_id), newest):
        at = found.at if found is not None and found.whole else None
        if at is not None and (not times or at > times[-1]):
            times.append(at)
    return tuple(times[-MAX_SAVES:])


def interval_s(saves: Sequence[float]) -> float | None:
    """Return the median time between two of these checkpoints, None for fewer than two."""
    gaps = [after - before for before, after in pairwise(saves)]
    return median(gaps) if gaps else None


# --- what is booked ------------------------------------------------------------------------------


def booked(
    tally: Tally,
    runs: Runs,
    incidents: Iterable[Incident],
    classes: Mapping[str, FailureClass],
    now: float,
) -> Tally:
    """Book what has settled. A second call books nothing."""
    due = [r for r in tally.waiting if r.due_at <= now]
    told = {n: r for n, r in tally.rings.items() if r.is_open and r.due_at <= now}
    if not due and not told:
        return tally
    known = {i.id: i for i in incidents}
    tally = replace(tally, waiting=tuple(r for r in tally.waiting if r.due_at > now))
    for restart in due:
        tally = _book_restart(tally, restart, runs, known.values(), classes)
    for number, ring in told.items():
        if number in known:
            tally = _book_break(tally, known[number], ring, runs)
    return tally


def _book_restart(
    tally: Tally,
    restart: Restart,
    runs: Runs,
    incidents: Iterable[Incident],
    classes: Mapping[str, FailureClass],
) -> Tally:
    run, class_id, failed = canonical(runs, restart.run), restart.class_id, restart.failed_at
    if not class_id:
        cause = cause_of(run, restart.at, runs, incidents, classes)
        class_id = cause.class_id if cause is not None else UNEXPLAINED
        since = restart.worked_from or 0.0
        seen = cause is not None and since < cause.first_at < restart.at
        failed = cause.first_at if cause is not None and seen else restart.at
    counts = _plus(tally.restarts, run, f"{restart.owner} {class_id}", 1)
    tally = replace(tally, restarts=counts)
    if restart.worked_from is None or failed is None:
        return tally
    lost_s = max(0.0, failed - restart.worked_from)
    return replace(tally, lost_s=_plus(tally.lost_s, run, class_id, lost_s))


def cause_of(
    run: str,
    at: float,
    runs: Runs,
    incidents: Iterable[Incident],
    classes: Mapping[str, FailureClass],
) -> Incident | None:
    """Return the incident that made a run be started again at that time: a root, then the best proved, then the nearest."""
    near = [
        i
        for i in incidents
        if i.first_at - SETTLE_S <= at <= i.last_at + SETTLE_S
        and run in {canonical(runs, r) for r in (*i.runs, *runs_hurt(runs, i))}
    ]

    def weight(incident: Incident) -> tuple[bool, int, float, str]:
        root = classes[incident.class_id].role == "root"
        return root, int(incident.trust), -abs(at - incident.first_at), incident.id

    return max(near, key=weight, default=None)


def _book_break(tally: Tally, incident: Incident, ring: Break, runs: Runs) -> Tally:
    before = {canonical(runs, b) for b in ring.booked}
    named = runs_named(runs, ring.entities) or (() if ring.booked else ("",))
    fresh = [r for r in named if r not in before and "" not in before]
    breaks = tally.breaks
    for run in fresh:
        breaks = _plus(breaks, run, incident.class_id, 1)
    done = replace(ring, entities=frozenset(), booked=(*ring.booked, *fresh), is_open=False)
    return replace(tally, breaks=breaks, rings={**tally.rings, incident.id: done})


def runs_named(runs: Runs, entities: Iterable[Entity]) -> tuple[str, ...]:
    """Return the lineages whose own processes or jobs are named, else those of the run's name."""
    entities = sorted(entities)
    ids = [i for e in entities if e.kind in _NAMES_RUN for i in owners_of(runs, e)]
    if not ids:
        names = {e.id for e in entities if e.kind == "run"}
        ids = [r.id for r in runs.runs.values() if r.name in names]
    return tuple(dict.fromkeys(ids))


def _plus(
    counts: Mapping[str, Mapping[str, _Number]], run: str, what: str, more: _Number
) -> Mapping[str, Mapping[str, _Number]]:
    row = counts.get(run, {})
    return {**counts, run: {**row, what: row[what] + more if what in row else more}}


# --- what is kept --------------------------------------------------------------------------------


def tidied(
    tally: Tally, runs: Runs, ledger: Mapping[str, Action], incidents: Iterable[Incident]
) -> Tally:
    """Move what was a lineage of its own to the one that it became; drop what nobody knows any more."""
    known = {i.id for i in incidents}
    return replace(
        tally,
        restarts=_moved(tally.restarts, runs),
        breaks=_moved(tally.breaks, runs),
        lost_s=_moved(tally.lost_s, runs),
        told={k: v for k, v in tally.told.items() if k in ledger},
        begun={k: v for k, v in tally.begun.items() if k in ledger},
        waiting=tuple(replace(r, run=canonical(runs, r.run)) for r in tally.waiting),
        rings={k: _with_homes(v, runs) for k, v in tally.rings.items() if k in known},
        saves={canonical(runs, k): v for k, v in tally.saves.items()},
    )


def _with_homes(ring: Break, runs: Runs) -> Break:
    return replace(ring, booked=tuple(canonical(runs, b) for b in ring.booked))


def _moved(
    counts: Mapping[str, Mapping[str, _Number]], runs: Runs
) -> Mapping[str, Mapping[str, _Number]]:
    found: Mapping[str, Mapping[str, _Number]] = {}
    for run, row in counts.items():
        home = canonical(runs, run)
        for what, count in row.items() if home in runs.runs or not home else ():
            found = _plus(found, home, what, count)
    return found


def expected(
    tally: Tally, runs: Runs, incidents: Iterable[Incident], classes: Mapping[str, FailureClass]
) -> tuple[Counts, Counts]:
    """Return, at 0, the restarts and broken rings that will be booked as things stand now."""
    incidents = tuple(incidents) if tally.waiting or tally.rings else ()
    restarts: Counts = {}
    for restart in tally.waiting:
        run = canonical(runs, restart.run)
        cause = cause_of(run, restart.at, runs, incidents, classes)
        name = restart.class_id or (cause.class_id if cause is not None else UNEXPLAINED)
        restarts = _plus(restarts, run, f"{restart.owner} {name}", 0)
    breaks: Counts = {}
    known = {i.id: i for i in incidents}
    for number, ring in tally.rings.items():
        if number in known and ring.is_open:
            for run in runs_named(runs, ring.entities) or ("",):
                breaks = _plus(breaks, run, known[number].class_id, 0)
    return restarts, breaks
