"""What one line of Ray Train says about its run: groups, ranks, decisions, states, progress."""

from __future__ import annotations

import re
from collections.abc import Callable, Mapping
from dataclasses import replace

from raywatch.core.attempts import begun, ended
from raywatch.core.lineage import Life
from raywatch.model import AttemptStatus, Fact, Rank, Run, RunStatus
from raywatch.observations import TrainRunSeen

MAX_SIZES = 32
_MEMBER = re.compile(r"(?:ip=([\w.:]+), )?pid=(\d+)\) world_rank=(\d+)")
_WORKER_LOG = re.compile(r"ray-train-app-worker-([0-9a-f]{56})\.log$")
_STATE: Mapping[str, RunStatus] = {
    "RUNNING": "running",
    "PREEMPTING": "running",  # it trains on until the deadline
    "RESTARTING": "restarting",
    "RESIZING": "restarting",
    "RESCHEDULING": "restarting",
    "ERRORED": "failed",
    "FINISHED": "finished",
    "ABORTED": "stopped",  # a controller that can still say so was interrupted by its user
}
_ENDS: Mapping[str, AttemptStatus] = {
    "RESIZING": "resized",
    "ERRORED": "failed",
    "FINISHED": "finished",
    "ABORTED": "stopped",
}


def apply_fact(run: Run, life: Life, fact: Fact) -> tuple[Run, Life]:
    """Return the run and its life after a line. Same input, same output; a copy changes nothing.

    Decisions and states count from the controller only: a worker's log holds what the program printed.
    """
    told_by = fact.fields.get("component", "")
    if fact.kind in _BY_WORKER and told_by != "controller":
        run, life = _with_rank(run, life, fact)
        return _BY_WORKER[fact.kind](run, fact), life
    if told_by == "worker":
        return run, life
    if fact.kind == "run_storage":
        return _with_storage(run, _path(fact)), life
    if fact.kind not in _BY_CONTROLLER or fact.at <= life.state_at:
        return run, life
    return _BY_CONTROLLER[fact.kind](run, replace(life, state_at=fact.at), fact)


# --- what the controller says ------------------------------------------------------------------------


def _group_started(run: Run, life: Life, fact: Fact) -> tuple[Run, Life]:
    size = _number(fact.fields.get("size"))
    if size is None:
        return run, life
    controller = fact.fields.get("actor_id", "")
    sizes = life.sizes if controller == life.controller else ()
    life = replace(
        life, controller=controller, sizes=_sized(sizes, size), ending="", group_at=fact.at
    )
    run = replace(
        run,
        status="running",
        owner="nobody",
        ranks=_members(run, life, fact, size),
        world_sizes=_sized(run.world_sizes, size),
        controllers=run.controllers
        if not controller or controller in run.controllers
        else (*run.controllers, controller),
    )
    return begun(run, fact.at, size, fact.fields.get("job_id", "")), life


def _members(run: Run, life: Life, fact: Fact, size: int) -> tuple[Rank, ...]:
    known = {r.world_rank: r for r in run.ranks}
    text = fact.fields.get("text", "") + fact.evidence.text
    for ip, pid, number in _MEMBER.findall(text):
        rank = int(number)
        old = known.get(rank)
        if old is not None and life.rank_at.get(rank, 0.0) > fact.at:
            continue  # its worker's own log was read first and knows a later group
        if old is None or old.pid not in (0, int(pid)):
            known[rank] = Rank(rank, pid=int(pid), ip=ip)
        else:
            known[rank] = replace(old, pid=int(pid), ip=ip)
    return tuple(known[r] for r in sorted(known) if r < size)


def _sized(sizes: tuple[int, ...], size: int) -> tuple[int, ...]:
    return sizes if sizes[-1:] == (size,) else (*sizes, size)[-MAX_SIZES:]


def _failure_policy(run: Run, life: Life, fact: Fact) -> tuple[Run, Life]:
    decision = fact.fields.get("decision", "").rsplit(".", 1)[-1].upper()
    if decision not in ("RETRY", "RAISE"):
        return run, life
    run = _with_budget(replace(run, last_policy=decision, last_policy_at=fact.at), fact)
    status: AttemptStatus = "preempted" if _source(fact) == "preemption" else "failed"
    run = ended(run, fact.at, status, fact.fields.get("error", ""))
    if decision == "RAISE":
        return replace(run, status="failed", owner="nobody"), replace(life, ending="RAISE")
    run = replace(
        run, status="restarting", owner="ray_train", train_restarts=run.train_restarts + 1
    )
    return run, replace(life, ending="")


def _source(fact: Fact) -> str:
    return fact.fields.get("source", "worker group").strip()


def _with_budget(run: Run, fact: Fact) -> Run:
    """Worker groups, preemptions and the controller have a budget each; `inf` is any number (-1)."""
    allowed, used = fact.fields.get("max", "").lower(), _number(fact.fields.get("count"))
    most = -1 if allowed in ("inf", "-1") else _number(allowed)
    match _source(fact):
        case "worker group":
            most = run.max_failures if most is None else most
            return replace(run, max_failures=most, failures=used)
        case "preemption":
            most = run.max_preemptions if most is None else most
            return replace(run, max_preemptions=most, preemptions=used)
    return run


def _state_transition(run: Run, life: Life, fact: Fact) -> tuple[Run, Life]:
    state = fact.fields.get("to", "").strip(". ").upper()
    if state in ("INITIALIZING", "SCHEDULING"):
        fresh = run.status in ("unknown", "pending")
        return replace(run, status="pending" if fresh else "restarting"), replace(life, ending="")
    if state not in _STATE:
        return run, life
    ending = {"ERRORED": "ERRORED", "FINISHED": "FINISHED", "ABORTED": "INTERRUPTED"}.get(state, "")
    owner = run.owner if _STATE[state] == "restarting" or state == "PREEMPTING" else "nobody"
    run = replace(run, status=_STATE[state], owner=owner)
    if state in _ENDS:
        run = ended(run, fact.at, _ENDS[state])
    return run, replace(life, ending=ending)


def _elastic_resize(run: Run, life: Life, fact: Fact) -> tuple[Run, Life]:
    before, after = _number(fact.fields.get("from")), _number(fact.fields.get("to"))
    if before is None or after is None:
        return run, life
    sizes = _sized(_sized(life.sizes, before), after)
    return run, replace(life, sizes=sizes)


_BY_CONTROLLER: Mapping[str, Callable[[Run, Life, Fact], tuple[Run, Life]]] = {
    "group_started": _group_started,
    "failure_policy": _failure_policy,
    "state_transition": _state_transition,
    "elastic_resize": _elastic_resize,
}


# --- what a worker says ----------------------------------------------------------------------------------


def is_of_worker(fact: Fact) -> bool:
    """Say whether a line tells what a rank did, and nothing that only the controller may say."""
    return fact.kind in _BY_WORKER


def _training_result(run: Run, fact: Fact) -> Run:
    step = _number(fact.fields.get("step"))
    if step is None or fact.at < (run.step_at or 0.0):
        return run
    return replace(run, step=step, step_at=fact.at)


def _checkpoint_created(run: Run, fact: Fact) -> Run:
    return _with_storage(run, _path(fact).rstrip("/").rpartition("/")[0])


def _nothing(run: Run, _fact: Fact) -> Run:
    return run


_BY_WORKER: Mapping[str, Callable[[Run, Fact], Run]] = {
    "training_result": _training_result,
    "checkpoint_created": _checkpoint_created,
    "process_group": _nothing,  # it only says who the rank is
}


def _with_rank(run: Run, life: Life, fact: Fact) -> tuple[Run, Life]:
    rank = _number(fact.fields.get("world_rank") or fact.fields.get("rank"))
    worker = fact.fields.get("worker_id", "")
    if rank is None or not worker:
        return run, life
    old = next((r for r in run.ranks if r.world_rank == rank), Rank(rank))
    if old.worker_id != worker and fact.at <= life.rank_at.get(rank, 0.0):
        return run, life  # a late copy of a former worker's line
    new = old if old.worker_id in ("", worker) else Rank(rank)
    new = replace(
        new,
        worker_id=worker,
        actor_id=fact.fields.get("actor_id", "") or new.actor_id,
        node_id=fact.fields.get("node_id", "") or new.node_id,
        log_file=_named_log(fact) or new.log_file,
    )
    latest = max(fact.at, life.rank_at.get(rank, 0.0))
    ranks = [r for r in run.ranks if r.world_rank != rank] + [new]
    return (
        replace(run, ranks=tuple(sorted(ranks, key=lambda r: r.world_rank))),
        replace(life, rank_at={**life.rank_at, rank: latest}),
    )


def ranks_of(seen: TrainRunSeen, run: Run) -> tuple[Rank, ...]:
    """Return the ranks of the newest attempt; what only the logs told (worker ids) stays."""
    if not seen.attempts:
        return ()
    known = {r.actor_id: r for r in run.ranks if r.actor_id}
    newest = max(seen.attempts, key=lambda a: a.started_at or 0.0)
    return tuple(
        Rank(
            world_rank=w.world_rank,
            node_id=w.node_id,
            pid=w.pid,
            actor_id=w.actor_id,
            worker_id=(known[w.actor_id].worker_id if w.actor_id in known else "")
            or _worker_of(w.log_file),
            ip=known[w.actor_id].ip if w.actor_id in known else "",
            log_file=w.log_file or (known[w.actor_id].log_file if w.actor_id in known else ""),
        )
        for w in sorted(newest.workers, key=lambda w: w.world_rank)
    )


def _worker_of(log_file: str) -> str:
    """A rank's log is named by its worker; no row of the API names it."""
    found = _WORKER_LOG.search(log_file)
    return found[1] if found else ""


def _named_log(fact: Fact) -> str:
    """A rank's own log; what the driver's output copies names none."""
    return fact.evidence.file if fact.evidence.component == "train" else ""


def _path(fact: Fact) -> str:
    path = fact.fields.get("checkpoint") or fact.fields.get("path", "")
    return "" if path == fact.evidence.file else path.strip("'\"")


def _with_storage(run: Run, experiment: str) -> Run:
    """<storage_path>/<name>; a path that does not end so is the program's own affair."""
    ending = f"/{run.name}"
    if run.storage_path or not experiment.rstrip("/").endswith(ending):
        return run
    return replace(run, storage_path=experiment.rstrip("/")[: -len(ending)] or "/")


def _number(text: str | None) -> int | None:
    return int(text) if text is not None and re.fullmatch(r"\d{1,18}", text) else None
