"""A real daemon that must not act: what was decided is old, or is about another cluster. And what a crash left behind."""

from __future__ import annotations

import json
import resource
import time
from dataclasses import replace
from datetime import datetime, timezone

import pytest

from raywatch.collect.hints import Hints
from raywatch.core.incidents import State, correlate_all
from raywatch.model import Chunk, FileId, Hook, Outcome, Source, Trust
from raywatch.pipeline import examine, load_engine
from raywatch.resuming import Resuming
from tests.core.desk import BY_COMMAND, CLASSES, JOB, RULE, caused, failed
from tests.core.runkit import job
from tests.daemons import make_session, until
from tests.shell.test_asking import fired, sweeps, watched
from tests.shell.test_counting import daemon_on


def acts(daemon):
    """How the actions stand."""
    return [a["state"] for a in daemon.actions()]


def test_what_waited_for_a_full_disk_is_decided_anew(tmp_path):
    """Meanwhile a person started the job again, and it is over."""
    with watched(tmp_path, "auto") as (ray, logs, daemon):
        limits = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE)
        wal = (tmp_path / "state" / "raywatch.db-wal").stat().st_size
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (wal, limits[1]))
        ray.fail(logs)
        until(lambda: acts(daemon), 20, "it was decided")
        until(lambda: daemon.get("/healthz")[0] == 503, 10, "it says that it cannot write")
        now = int(time.time() * 1000)
        again = {"submission_id": "again", "job_id": "06000000", "status": "SUCCEEDED"}
        ray.others.append({**ray.job, **again, "start_time": now, "end_time": now + 1})
        time.sleep(6)  # the jobs are asked for every five seconds at the latest
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, limits)
        until(lambda: daemon.get("/healthz")[0] == 200, 15, "it writes again")
        until(lambda: acts(daemon) == ["abandoned"], 15, "it is decided anew")

        assert fired(tmp_path) == []


def test_what_waited_for_a_full_disk_is_started_once_there_is_room(tmp_path):
    with watched(tmp_path, "auto") as (ray, logs, daemon):
        limits = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE)
        wal = (tmp_path / "state" / "raywatch.db-wal").stat().st_size
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (wal, limits[1]))
        ray.fail(logs)
        until(lambda: acts(daemon), 20, "it was decided")
        until(lambda: daemon.get("/healthz")[0] == 503, 10, "it says that it cannot write")
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, limits)
        until(lambda: acts(daemon) == ["succeeded"], 40, "it is started")

        assert len(fired(tmp_path)) == 1


def test_a_dashboard_of_another_session_than_the_logs_is_no_reason_to_act(tmp_path):
    """Two clusters share the folder for temporary files; ids of jobs are the same in both."""
    with watched(tmp_path, "auto") as (ray, logs, daemon):
        ray.session = "session_2026-11-23_00-00-00_000001_9"
        time.sleep(11)  # the session is asked for every ten seconds
        ray.fail(logs)
        until(daemon.incidents, 10, "the failure is seen")
        sweeps(daemon, 5)

        assert acts(daemon) == []


@pytest.mark.parametrize("hook", [JOB, replace(BY_COMMAND.hook, retry_interrupted=True)])
def test_what_a_crash_left_behind_is_not_started_hours_later(hook: Hook):
    """The job may have been submitted, have finished and have been removed from Ray since."""
    resuming = Resuming([replace(RULE, hook=hook)], CLASSES, {}, started_at=0.0)
    resuming.runs = failed()
    (action,) = resuming.decide([caused()], 101.0)
    docs = {"action": {d.id: d.json or "" for d in resuming.documents(resuming.runs)}}

    for now, keys, state in ((111.0, [action.key], "started"), (8000.0, [], "interrupted")):
        later = Resuming([replace(RULE, hook=hook)], CLASSES, docs, started_at=0.0)
        assert [a.key for a in later.unfinished(now)] == keys
        assert later.ledger[action.key].state == state


def test_what_was_submitted_before_a_crash_is_known_though_ray_could_not_be_asked():
    """The answer was lost with the daemon; then the dashboard was away, and later it shows the job."""
    resuming = Resuming([RULE], CLASSES, {}, started_at=0.0)
    resuming.runs = failed()
    (action,) = resuming.decide([caused()], 101.0)
    docs = {"action": {d.id: d.json or "" for d in resuming.documents(resuming.runs)}}
    later = Resuming([RULE], CLASSES, docs, started_at=0.0)
    later.runs = failed()
    assert later.unfinished(103.0) == [action]
    later.outcome(Outcome(action.key, "deferred", 104.0, "jobs unreadable: refused"), 104.0)
    marks = {"raywatch_run": action.run, "raywatch_action": action.key, "raywatch_attempt": "1"}
    ours = replace(
        job(at=105, status="RUNNING", submission=action.key, job_id="03000000"),
        metadata=marks,
        started_at=102.0,
    )
    later.learn((), [ours], 105.0)

    assert later.decide([caused()], 106.0) == []
    known = later.ledger[action.key]
    assert (known.state, known.submission_id) == ("succeeded", action.key)
    assert later.decide([caused()], 107.0) == []
    assert later.ledger[action.key] is known


def test_a_time_that_has_not_come_yet_is_no_time():
    """A program may print any year; an incident of 2099 would never be over."""
    line = b"2099-01-01 00:00:00,000 ERROR worker.py:1 -- A worker died or was killed while executing a task by an unexpected system error.\n"
    source = Source("job-driver-x.log", "job", "python", submission_id="x")
    engine, now = load_engine(), 1_800_000_000.0
    chunk = Chunk(source, FileId(1, 1), 0, 1, line, now, final=True)

    live = examine(engine, chunk, timezone.utc, now).findings
    assert [f.at for f in live] == [now]
    assert [f.dated for f in examine(engine, chunk, timezone.utc).findings] == [False]
    archive = examine(engine, replace(chunk, read_at=0.0), timezone.utc).findings
    assert [f.at > now for f in archive] == [True]


def test_a_clock_that_is_set_back_by_an_hour_blinds_nobody(tmp_path):
    """No event names the new file; only a sweep finds it."""
    logs, now = make_session(tmp_path), 1_800_000_000.0
    with daemon_on(tmp_path) as daemon:
        daemon.tick(now, Hints())
        stamp = datetime.fromtimestamp(now - 3600, timezone.utc).strftime("%Y-%m-%d %H:%M:%S,%f")
        (logs / "gcs_server.out").write_text(
            f"[{stamp[:-3]} W 10 10] (gcs_server) gcs_worker_manager.cc:70: Reporting worker exit, "
            f"worker id = {7:056x}, node id = {8:056x}, address = 127.0.0.1, "
            "exit_type = SYSTEM_ERROR, exit_detail = Worker unexpectedly exits.\n"
        )
        for later in (1.0, 2.0, 3.0):
            daemon.tick(now - 3600 + later, Hints())

        assert [i.class_id for i in daemon.state.incidents] == ["worker_crash"]


def test_a_program_that_prints_ray_trains_decision_decides_nothing():
    """print() inside the training function lands in Ray Train's own log of the worker."""
    for word, class_id in (("RAISE", "train_failed"), ("RETRY", "train_restarted")):
        row = {
            "asctime": "2026-11-23 07:42:49,356",
            "levelname": "INFO",
            "message": f"[FailurePolicy] {word}\n  Source: worker group",
            "run_name": "exp",
            "job_id": "02000000",
        }
        findings = {}
        for by in ("controller", "worker"):
            text = json.dumps({**row, "component": by}).encode() + b"\n"
            path = f"/l/train/ray-train-app-{by}-ab.log"
            chunk = Chunk(Source(path, "train", "json"), FileId(1, 1), 0, 1, text, 0.0, final=True)
            (findings[by],) = examine(load_engine(), chunk, timezone.utc).findings
        assert {f.class_id for f in findings.values()} == {class_id}
        assert (findings["controller"].acts, findings["worker"].acts) == (True, False)

        crash = replace(findings["controller"], class_id="worker_crash", trust=Trust.RAY)
        for by, told in (("controller", True), ("worker", False)):
            _, changes = correlate_all(State(), (), (crash, findings[by]), CLASSES)
            incident = changes[-1].incident
            assert (incident.gave_up or incident.restarted) is told


def test_logs_that_never_rest_are_caught_up_with_all_the_same(tmp_path):
    """A program that prints all the time must not keep the daemon from ever deciding; what it printed before is history."""
    logs, now = make_session(tmp_path), 1_800_000_000.0
    broken = "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:59792. \n"
    old, new = (logs / f"worker-{c * 56}-02000000-{n}.err" for c, n in (("a", 500), ("b", 501)))
    old.write_text(broken)
    with daemon_on(tmp_path) as daemon, new.open("a") as out:
        for turn in range(40):
            now += 0.2
            out.write("step\n")
            out.flush()
            daemon.tick(now, Hints(moved={str(new)}))
            assert not daemon.state.incidents, turn
        out.write(broken)
        for _ in range(5):
            now += 0.2
            out.write("step\n")
            out.flush()
            daemon.tick(now, Hints(moved={str(new)}))

        assert [i.root.file for i in daemon.state.incidents] == [str(new)]
