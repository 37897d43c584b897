"""What a person asks of a real daemon: approve, resume; never twice, never before it is on the disk."""

import json
import sqlite3
import subprocess
import sys
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from urllib.parse import quote

import pytest

from raywatch.asking import Answer, Approve, Desk, Request, Resume
from raywatch.resuming import Resuming
from tests.core.desk import BY_COMMAND, CLASSES, RULE, caused, failed
from tests.daemons import DaemonProcess, make_session, until
from tests.fakeray import FakeRay


def raywatch(daemon, tmp_path, *argv):
    """Run a verb against the daemon; return (exit code, standard output, standard error)."""
    where = ["--url", daemon.url, "--token-file", str(tmp_path / "state" / "token")]
    done = subprocess.run(
        [sys.executable, "-m", "raywatch", argv[0], *where, *argv[1:]],
        capture_output=True,
        check=False,
        timeout=60,
    )
    return done.returncode, done.stdout.decode(), done.stderr.decode()


@contextmanager
def watched(tmp_path, mode, *, run="*", script="echo $RAYWATCH_ACTION_KEY >> $0"):
    """A daemon that watches a running job; its hook appends to `fired`."""
    logs = make_session(tmp_path / "ray")
    argv = json.dumps(["sh", "-c", script, str(tmp_path / "fired")])
    config = tmp_path / "raywatch.toml"
    with FakeRay() as ray:
        config.write_text(
            f'[ray]\ndashboard = "{ray.url}"\n[[resume]]\nrun = "{run}"\nmode = "{mode}"\n'
            f'hook = {{kind = "command", argv = {argv}}}\n'
        )
        daemon = DaemonProcess(tmp_path / "ray", tmp_path / "state", "--config", str(config))
        try:
            until(lambda: status_of(daemon) == "running", 20, "the run is seen")
            yield ray, logs, daemon
        finally:
            daemon.kill()


def status_of(daemon):
    """How the only run stands."""
    return next((r["status"] for r in json.loads(daemon.get("/api/v1/runs")[1])["runs"]), "")


def fired(tmp_path):
    """The keys that the hook was started with."""
    path = tmp_path / "fired"
    return path.read_text().split() if path.exists() else []


def sweeps(daemon, number):
    """Let the daemon look again and again."""
    for _ in range(number):
        seq = json.loads(daemon.get("/api/v1/snapshot")[1])["seq"]
        daemon.get(f"/api/v1/snapshot?after={seq}&wait=10")


def test_what_was_approved_runs_exactly_once(tmp_path):
    """Nothing runs before; one yes is enough; a second one is told no."""
    with watched(tmp_path, "approve") as (ray, logs, daemon):
        ray.fail(logs)
        until(daemon.actions, 20, "a decision")
        sweeps(daemon, 1)
        (action,) = daemon.actions()
        assert (action["state"], fired(tmp_path)) == ("awaiting_approval", [])

        code, out, _ = raywatch(daemon, tmp_path, "approve", str(action["key"])[:-3])
        assert (code, "raysubmit_1  succeeded" in out) == (0, True)
        again, _, why = raywatch(daemon, tmp_path, "approve", str(action["key"]))
        by_hand, _, reason = raywatch(daemon, tmp_path, "resume", "raysubmit_1")
        sweeps(daemon, 2)

        assert (again, why.count("\n")) == (2, 1)
        assert "is succeeded (exit code 0), not awaiting approval" in why
        assert (by_hand, "started it again already" in reason) == (2, True)
        assert fired(tmp_path) == [action["key"]]


def test_many_approvals_at_once_are_one(tmp_path):
    """One is told yes, all others why not."""
    with watched(tmp_path, "approve") as (ray, logs, daemon):
        ray.fail(logs)
        until(daemon.actions, 20, "a decision")
        key = daemon.actions()[0]["key"]
        with ThreadPoolExecutor(8) as pool:
            paths = [f"/api/v1/actions/{key}/approve", "/api/v1/runs/raysubmit_1/resume"] * 4
            answers = list(pool.map(daemon.post, paths))
        until(lambda: daemon.actions()[0]["state"] == "succeeded", 20, "it worked")
        sweeps(daemon, 2)

        assert sorted(status for status, _ in answers) == [200, *[409] * 7]
        assert fired(tmp_path) == [key]


def test_a_person_resumes_what_automation_leaves_alone(tmp_path):
    """A dry run says what would happen and records nothing; many requests at once start it once."""
    with watched(tmp_path, "suggest") as (ray, logs, daemon):
        early = daemon.post("/api/v1/runs/raysubmit_1/resume", b'{"dry_run": true}')
        objections = json.loads(early[1])["objections"]
        assert "old_one_is_over" in {o["check"] for o in objections}
        assert daemon.post("/api/v1/runs/raysubmit_1/resume")[0] == 409
        ray.fail(logs)
        until(daemon.actions, 20, "a decision")
        before = daemon.actions()
        dry = raywatch(daemon, tmp_path, "resume", "--dry-run", "raysubmit_1")
        assert (dry[0], "would be started again" in dry[1]) == (0, True)
        assert daemon.actions() == before
        with ThreadPoolExecutor(8) as pool:
            answers = list(pool.map(daemon.post, ["/api/v1/runs/raysubmit_1/resume"] * 8))
        until(lambda: daemon.actions()[0]["state"] == "succeeded", 20, "it worked")
        sweeps(daemon, 2)

        assert sorted(status for status, _ in answers) == [200, *[409] * 7]
        (action,) = daemon.actions()
        assert (action["key"], action["by_hand"]) == (before[0]["key"], True)
        assert fired(tmp_path) == [action["key"]]


def test_a_yes_outlives_the_daemon(tmp_path):
    """Killed in the instant of the answer: the decision is on the disk, and the hook does not run twice."""
    with watched(tmp_path, "approve", script="echo $RAYWATCH_ACTION_KEY >> $0; exec sleep 60") as (
        ray,
        logs,
        daemon,
    ):
        ray.fail(logs)
        until(daemon.actions, 20, "a decision")
        key = daemon.actions()[0]["key"]
        assert daemon.post(f"/api/v1/actions/{key}/approve")[0] == 200
        daemon.kill()
        with closing(sqlite3.connect(tmp_path / "state" / "raywatch.db")) as store:
            (kept,) = store.execute("SELECT json FROM docs WHERE kind='action'").fetchone()
        again = DaemonProcess(
            tmp_path / "ray", tmp_path / "state", "--config", str(tmp_path / "raywatch.toml")
        )
        try:
            until(lambda: again.actions()[0]["state"] == "interrupted", 20, "it is settled")
            sweeps(again, 2)
            refused = again.post(f"/api/v1/actions/{key}/approve")
        finally:
            again.kill()

    assert json.loads(kept)["state"] == "started"
    assert refused[0] == 409
    assert len(fired(tmp_path)) <= 1


def test_who_may_ask_and_what(tmp_path):
    """The token; known things; bodies that are understood; a rule that gives the hook."""
    with watched(tmp_path, "auto", run="llm-*") as (ray, logs, daemon):
        run, resume = quote("raysubmit_1"), "/api/v1/runs/raysubmit_1/resume"
        for token in ("", "wrong"):
            assert daemon.post(resume, token=token)[0] == 401
            assert daemon.post("/api/v1/actions/x/approve", token=token)[0] == 401
        assert daemon.post("/api/v1/actions/x/approve")[0] == 404
        assert daemon.post("/api/v1/runs/x/resume")[0] == 404
        for body in (b"{", b"[]", b'{"dry_run": 1}', b'{"force": true}', b"[" * 60_000, b"\xff"):
            assert daemon.post(resume, body)[0] == 400
        for path in ("/api/v1/actions/x/approve", resume):
            assert daemon.get(path)[0] in (404, 405)
        assert daemon.get(f"/api/v1/runs/{run}")[0] == 200
        assert daemon.get("/api/v1/runs/x")[0] == 404
        ray.fail(logs)
        until(lambda: status_of(daemon) == "failed", 20, "it failed")
        status, answer = daemon.post(resume)

    assert (status, "no [[resume]] names this run" in answer.decode()) == (409, True)
    assert fired(tmp_path) == []


# --- the desk itself -------------------------------------------------------------------------------


def desk(rule=RULE):
    """A desk over a run that failed."""
    resuming = Resuming([rule], CLASSES, {}, started_at=0.0)
    resuming.runs = failed()
    return resuming, Desk(resuming)


def ask(at, want, now=102.0, *, closed="", write_error="", until=200.0):
    """Ask and return what was answered, and what is to be fired."""
    told: list[Answer] = []
    actions = at.take([Request(want, told.append, until)], [caused()], now, closed)
    assert told == [], "nobody is told before it stands"
    at.reply(write_error)
    assert not at
    (answer,) = told
    return answer, actions


def test_nobody_is_told_yes_while_the_store_cannot_be_written():
    resuming, at = desk()
    answer, actions = ask(at, Resume("exp"), write_error="disk full")

    assert (answer.status, "disk full" in str(answer.body["error"])) == (503, True)
    assert [a.key for a in actions] == list(resuming.ledger)


@pytest.mark.parametrize("late", [{"closed": "the daemon ends"}, {"now": 201.0}])
def test_what_nobody_waits_for_is_not_done(late):
    resuming, at = desk()
    answer, actions = ask(at, Resume("exp"), **late)

    assert (answer.status, actions, resuming.ledger) == (503, [], {})


def test_an_approval_is_decided_at_once():
    resuming, at = desk(replace(BY_COMMAND, mode="approve"))
    resuming.decide([caused()], 101.0)
    (key,) = resuming.ledger
    answer, actions = ask(at, Approve(key))

    assert (answer.status, answer.body["action"]["state"]) == (200, "started")
    assert [a.key for a in actions] == [key]
    assert ask(at, Approve(key))[0].status == 409
    assert ask(at, Approve("x"))[0].status == 404


def test_a_dry_run_changes_nothing():
    resuming, at = desk()
    answer, actions = ask(at, Resume("exp", dry_run=True))

    assert (answer.status, answer.body["starts"], actions) == (200, True, [])
    assert resuming.ledger == {}
    assert list(resuming.documents(resuming.runs)) == []
    assert answer.body["would"]["checkpoint"]["step"] == 9
