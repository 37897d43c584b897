"""Short words for what APIs and logs tell about runs, to write tests as timetables."""

from __future__ import annotations

from dataclasses import replace

from raywatch.core.runs import Runs, note, observe
from raywatch.model import Entity, Evidence, Fact, Incident, Subject, Trust
from raywatch.observations import (
    ActorSeen,
    JobSeen,
    NodeSeen,
    TrainAttemptSeen,
    TrainRunSeen,
    TrainWorkerSeen,
)

S1, S2 = "raysubmit_one", "raysubmit_two"
GROUP = "Started training worker group of size 2: \\n- (ip=10.0.0.2, pid=900) world_rank=0, local_rank=0\\n- (ip=10.0.0.3, pid=899) world_rank=1, local_rank=0"


def job(
    submission=S1, status="RUNNING", *, job_id="02000000", at=0.0, ended=None, metadata=None, **more
):
    seen = JobSeen(
        at=at,
        kind="SUBMISSION" if submission else "DRIVER",
        job_id=job_id,
        submission_id=submission,
        status=status,
        entrypoint="python train.py",
        message="",
        error_type="",
        started_at=at,
        ended_at=ended,
        metadata=metadata or {},
        runtime_env="{}",
        driver_node_id="head",
        driver_exit_code=None,
    )
    return replace(seen, **more)


def driver(status="RUNNING", **more):
    return job("", status, **more)


def fact(kind, at, *, by="controller", name="exp", job_id="02000000", text="", **fields):
    known = {"run_name": name, "job_id": job_id, "component": by, "actor_id": f"{by}-{job_id}"}
    return Fact(
        kind=kind,
        at=at,
        evidence=Evidence("ray-train-app.log", 1, text, at, "train"),
        fields={k: str(v) for k, v in {**known, **fields}.items()},
    )


def group(at, size=2, **more):
    return fact("group_started", at, size=size, text=GROUP, **more)


def rank_set_up(at, rank, worker, **more):
    ids = {"worker_id": worker, "actor_id": f"a-{worker}", "node_id": f"n-{worker}"}
    return fact("process_group", at, by="worker", world_rank=rank, **{**ids, **more})


def step(at, number, rank=0, worker="w0", **more):
    ids = {"worker_id": worker, "actor_id": f"a-{worker}"}
    return fact("training_result", at, by="worker", step=number, rank=rank, **{**ids, **more})


def policy(at, decision, most="0", source="worker group", **more):
    return fact("failure_policy", at, decision=decision, max=most, source=source, count="1", **more)


def state(at, to, **more):
    return fact("state_transition", at, **{"from": "X", "to": to}, **more)


def saved(at, storage="/s", name="exp", **more):
    path = f"{storage}/{name}/checkpoint_1"
    return fact("checkpoint_created", at, by="worker", name=name, checkpoint=path, **more)


def history(*events, runs=None):
    runs = Runs() if runs is None else runs
    for event in events:
        runs = (
            note(runs, event, event.at)
            if isinstance(event, Fact)
            else observe(runs, event, event.at)
        )
    return runs


def only(runs):
    assert len(runs.runs) == 1, list(runs.runs)
    return next(iter(runs.runs.values()))


def train_run(at, status="RUNNING", **more):
    seen = TrainRunSeen(
        at=at,
        run_id="r1",
        name="exp",
        status=status,
        detail="",
        job_id="02000000",
        submission_id="",
        controller_actor_id="c1",
        storage_path="/s",
        storage_filesystem="",
        max_failures=0,
        started_at=1.0,
        ended_at=None,
        attempts=(),
    )
    return replace(seen, **more)


def attempt(status="RUNNING", started=2.0, actors=("x0", "x1")):
    ranks = tuple(TrainWorkerSeen(i, f"n{i}", a, 100 + i, "RUNNING") for i, a in enumerate(actors))
    return TrainAttemptSeen("t", status, "", started, None, ranks)


def actor(actor_id, state="ALIVE", *, class_name="RayTrainWorker", pid=0, node="n", at=0.0):
    return ActorSeen(at, actor_id, class_name, state, "02000000", node, pid)


def node(node_id, state="DEAD", ip="10.0.0.9"):
    return NodeSeen(0.0, node_id, ip, ip, state, "", is_head=False)


def incident(*entities, kind="worker", subject="", at=100.0, node_id=""):
    return Incident(
        id="i1",
        class_id="worker_crash",
        subject=Subject(kind, subject, node_id),
        trust=Trust.RAY,
        confidence=0.9,
        state="open",
        first_at=at,
        last_at=at,
        root=Evidence("f", 1, "", at, "raylet"),
        entities=frozenset(Entity(k, i) for k, i in entities),
    )
