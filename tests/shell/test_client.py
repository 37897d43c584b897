"""The verbs that ask a daemon: what people see, what scripts read, whom the token is shown to."""

import asyncio
import json
import os
import subprocess
import sys
import threading
from contextlib import contextmanager
from datetime import datetime, timedelta, timezone
from http.server import BaseHTTPRequestHandler, HTTPServer
from pathlib import Path
from typing import ClassVar, cast

import pytest

from raywatch.client import ClientError, chosen, make_client, run_names
from raywatch.core.lineage import Runs
from raywatch.core.runview import CheckpointJson, RunJson, run_json
from raywatch.model import Rank, Run
from raywatch.tables import run_story
from raywatch.web import Api, make_app, port_of, serve

RAYWATCH = Path(sys.executable).with_name("raywatch")
AT = "2026-11-24T00:00:00.000Z"
HOSTILE = "x\x1b[2J\x1b]0;owned\x07\u202ey\nz"


def line(text="boom", number=3):
    return {"file": "/l/gcs.out", "line": number, "text": text, "at": AT, "signature": "s"}


def incident(number, **more):
    row = {
        "id": number,
        "class": "worker_crash",
        "group": "worker",
        "title": "A worker died",
        "role": "symptom",
        "subject": {"kind": "worker", "id": "ab" * 28, "node": "cd" * 28, "rank": 1},
        "scope": "worker",
        "first_at": AT,
        "last_at": AT,
        "state": "open",
        "confidence": 0.9,
        "root": line(),
        "fields": {},
        "evidence": [line(), line("more", 4)],
        "merged": [],
        "explains": [{"class": "ring_break", "count": 2}],
        "runs": ["exp@/s"],
        "resume": "counted",
        "culprit": None,
        "world_sizes": [4, 3],
    }
    return row | more


CHECKPOINT: CheckpointJson = {
    "path": "/s/exp/c9",
    "step": 9,
    "whole": True,
    "checked": "snapshot",
    "at": AT,
}
RUN: RunJson = {
    **run_json(
        Run(
            id="exp@/s",
            name="exp",
            status="failed",
            storage_path="/s",
            submissions=("raysubmit_1",),
            jobs=("02000000",),
            ranks=(Rank(0, "cd" * 28, 1),),
            world_sizes=(2,),
            level=1,
            level_reason="no restarts",
            step=12,
            resumes=1,
        ),
        Runs(),
        (),
    ),
    "checkpoint": CHECKPOINT,
    "started_at": AT,
    "ended_at": AT,
}
ACTION = {
    "key": "raywatch-exp-1-00ff",
    "run": "exp@/s",
    "run_name": "exp",
    "incident": "iaa1",
    "class": "worker_crash",
    "attempt": 1,
    "mode": "auto",
    "hook": "job",
    "hook_name": "job",
    "by_hand": False,
    "state": "succeeded",
    "detail": "submitted",
    "created_at": AT,
    "due_at": AT,
    "started_at": AT,
    "ended_at": AT,
    "submission_id": "raywatch-exp-1-00ff",
    "avoid_nodes": [],
    "checkpoint": CHECKPOINT,
    "first_step": 10,
    "first_step_at": AT,
    "output": "a\nb\n",
}
NODE: dict[str, object] = {
    "id": "cd" * 28,
    "ip": "10.0.0.7",
    "name": "worker-7",
    "is_head": False,
    "session": "session_2026-11-24_00-00-00_000001_1",
    "state": "alive",
    "words": "alive",
    "reason": "",
    "deadline_at": None,
    "started_at": AT,
    "ended_at": None,
    "resources": {"CPU": 8.0, "GPU": 4.0, "memory": 64 * 2.0**30, "blue": 1.0},
    "accelerator": "H100",
    "instance_type": "p5.48xlarge",
    "market": "spot",
    "group": "gpus",
    "labels": {"ray.io/market-type": "spot"},
    "runs": [{"id": "exp@/s", "name": "exp", "ranks": [0, 1, 2, 5], "driver": True}],
    "incident": "",
    "incidents": ["iaa1"],
    "reads_logs": False,
}
BLIND = {
    "sources": ["nodes"],
    "state": "timeout",
    "since": AT,
    "answered_at": AT,
    "detail": "",
    "words": "dashboard's nodes not answering for 4 min: it hangs",
    "spoils": ["nodes", "runs"],
}


@contextmanager
def shown(*incidents, runs=(RUN,), actions=(ACTION,), nodes=(NODE,), **more):
    """The real web server over a snapshot; yields its URL."""
    body = {"seq": 1, "incidents": incidents, "runs": runs, "actions": actions, "nodes": nodes}
    body |= more
    loop, ended, ready, at = asyncio.new_event_loop(), asyncio.Event(), threading.Event(), []

    async def wait(_after, _seconds):
        return

    async def answer(*asked):
        return 409, {"error": f"no: {asked}"}

    async def main():
        api = Api(
            snapshot=lambda _: json.dumps(body).encode(),
            changes=lambda _: None,
            wait=wait,
            metrics=lambda _: (b"", ""),
            health=lambda: (True, b"{}"),
            approve=answer,
            resume=answer,
            events=answer,
            token="secret",
            events_key="",
            hosts=frozenset({"127.0.0.1"}),
            open_reading=True,
        )
        runner = await serve(make_app(api), "127.0.0.1", 0)
        at.append(f"http://127.0.0.1:{port_of(runner)}")
        ready.set()
        await ended.wait()
        await runner.cleanup()

    thread = threading.Thread(target=lambda: loop.run_until_complete(main()))
    thread.start()
    assert ready.wait(10)
    try:
        yield at[0]
    finally:
        loop.call_soon_threadsafe(ended.set)
        thread.join(10)
        loop.close()


def raywatch(url, *argv, **environ):
    """Run a verb; return (exit code, standard output, standard error)."""
    env = {**os.environ, "RAYWATCH_URL": url, "RAYWATCH_TOKEN": "secret", **environ}
    done = subprocess.run([RAYWATCH, *argv], capture_output=True, check=False, env=env, timeout=60)
    return done.returncode, done.stdout.decode(), done.stderr.decode()


def test_incidents_are_a_table_and_their_exit_code_says_whether_something_failed():
    """The newest first; a warning and what is over are no failure."""
    old = incident("iaa2", first_at="2026-11-23T00:00:00.000Z", state="resolved")
    mild = incident("ibb1", role="warning", **{"class": "slow_storage"}, runs=[], explains=[])
    with shown(old, incident("iaa1"), mild) as url:
        code, out, _ = raywatch(url, "incidents")
        over = raywatch(url, "incidents", "--state", "resolved")
        warned = raywatch(url, "incidents", "--class", "slow_storage")
        everything = raywatch(url, "incidents", "--state", "all")
        none = raywatch(url, "incidents", "--since", "2036-01-01")

    rows = [x.split() for x in out.splitlines()]
    assert [" ".join(r[:1] + r[2:]) for r in rows] == [  # all but how long ago
        "ID CLASS SUBJECT RUNS STATE EXPLAINS RESUME",
        "iaa1 worker_crash worker abababababab exp open ring_break x2 counted",
        "ibb1 slow_storage worker abababababab - open - counted",
    ]
    assert (code, over[0], warned[0], everything[0]) == (1, 0, 0, 1)
    assert [x.split()[0] for x in everything[1].splitlines()] == ["ID", "iaa1", "ibb1", "iaa2"]
    assert none == (0, "nothing is open; --state all lists what was\n", "")


def test_one_incident_is_told_whole():
    """The line that proves it, what it explains, who was hurt, what was done and what came of it."""
    with shown(incident("iaa1"), incident("ibb1")) as url:
        code, out, _ = raywatch(url, "incidents", "ia")

    ages = [w for w in out.split() if w.startswith("(") and w[1].isdigit()]
    hurt = "checkpoint step 9, /s/exp/c9 (whole: snapshot)"
    assert code == 1
    assert (
        out.replace(ages[0], "(1d")
        == f"""\
iaa1  worker_crash  open  (confidence 0.9)
  A worker died
  first      {AT} (1d ago)
  last       {AT} (1d ago)
  subject    worker rank 1 {"ab" * 28}
  node       {"cd" * 28}
  workers    4 -> 3
  resume     counted (from the newest whole checkpoint, within the run's budget of attempts)

root
  /l/gcs.out:3
    boom

evidence
  /l/gcs.out:4
    more

explains
  ring_break x2

runs hurt
  exp  failed  {hurt}

actions
  raywatch-exp-1-00ff  {ages[0][1:]}  job  succeeded
    {hurt}
    submitted, went on to step 10
    | a
    | b

runbook: raywatch runbook worker_crash
"""
    )


def test_json_is_what_the_api_says():
    """Byte for byte."""
    with shown(incident("iaa1")) as url:
        told = {
            ("incidents", "iaa"): incident("iaa1"),
            ("incidents",): {"incidents": [incident("iaa1")]},
            ("runs",): {"runs": [RUN]},
            ("runs", "raysub"): RUN,
            ("nodes",): {"nodes": [NODE]},
            ("nodes", "cdcd"): NODE,
            ("actions",): {"actions": [ACTION]},
        }
        for argv, body in told.items():
            whole = json.dumps(body | {"blind": []}) + "\n"
            assert raywatch(url, *argv, "--json")[1] == whole


def test_text_of_others_never_drives_the_terminal():
    """From every field that a log, a job's name or a hook may have filled."""
    bad = incident(
        "iaa1",
        runs=[HOSTILE],
        root=line(HOSTILE),
        evidence=[line(HOSTILE, 9)],
        title=HOSTILE,
        subject={"kind": "worker", "id": HOSTILE, "node": HOSTILE, "rank": None},
        explains=[{"class": HOSTILE, "count": 2}],
    )
    run = RUN | {"id": HOSTILE, "name": HOSTILE, "storage_path": HOSTILE, "submissions": [HOSTILE]}
    run |= {"checkpoint": {**CHECKPOINT, "path": HOSTILE}, "checkpoint_problem": HOSTILE}
    run |= {"level_reason": HOSTILE, "owner": HOSTILE}
    done = ACTION | {"run": HOSTILE, "run_name": HOSTILE, "detail": HOSTILE, "output": HOSTILE}
    hosted = {"id": HOSTILE, "name": HOSTILE, "ranks": [], "driver": True}
    texts = ("ip", "name", "words", "accelerator", "market", "group", "session")
    node = NODE | dict.fromkeys(texts, HOSTILE) | {"labels": {HOSTILE: HOSTILE}, "runs": [hosted]}
    node["resources"] = {HOSTILE: 1.0}
    blind = BLIND | {"words": HOSTILE}
    told = []
    with shown(bad, runs=[run], actions=[done], nodes=[node], blind=[blind]) as url:
        for argv in (
            ["incidents"],
            ["incidents", "i"],
            ["runs"],
            ["runs", "x"],
            ["nodes"],
            ["nodes", "cd"],
            ["actions"],
        ):
            told += raywatch(url, *argv)[1:]
            told += raywatch(url, *argv, "--json")[1:]
        told += raywatch(url, "resume", "x")[1:]
        assert raywatch(url, "runs", "x")[0] == 0

    assert "owned" in told[0]
    assert not {"\x1b", "\x07", "\u202e"} & set("".join(told))


def test_a_run_is_named_by_its_id_its_name_its_job_or_the_beginning_of_one():
    """Also where the id is a path; what may be several is asked back."""
    other = RUN | {"id": "exp-2#05-1", "name": "exp-2", "submissions": ["raysubmit_2"]}
    with shown(runs=[RUN, other]) as url:
        for text in ("exp@/s", "exp", "raysubmit_1", "exp@"):
            assert json.loads(raywatch(url, "runs", text, "--json")[1])["id"] == "exp@/s"
        assert json.loads(raywatch(url, "runs", "exp-2#05-1", "--json")[1]) == other | {"blind": []}
        several, nobody = raywatch(url, "runs", "ex"), raywatch(url, "resume", "nobody")
        asked = raywatch(url, "resume", "exp-2#", "--dry-run")[2]

    assert several[::2] == (2, "raywatch: ex may be exp@/s, exp-2#05-1: give more of it\n")
    assert nobody[::2] == (2, "raywatch: no run nobody; `raywatch runs` lists them\n")
    assert asked == "raywatch: no: ('exp-2#05-1', True)\n"


def test_nodes_are_a_table_what_goes_first():
    """With what is left of a deadline, the incident that an end belongs to, and what each hosts."""
    ahead = datetime.now(timezone.utc) + timedelta(seconds=100)
    goes: dict[str, object] = {
        "id": "ee" * 28,
        "state": "draining",
        "words": "draining, PREEMPTION: aws: terminate",
    }
    goes |= {"deadline_at": ahead.isoformat()}
    ended: dict[str, object] = {
        "id": "aa" * 28,
        "state": "dead",
        "words": "dead, Unexpected termination: x",
    }
    ended |= {"ended_at": AT, "incident": "iaa1", "incidents": [], "runs": [], "accelerator": ""}
    with shown(nodes=[NODE, NODE | ended, NODE | goes]) as url:
        code, out, err = raywatch(url, "nodes")

    rows = [" ".join(x.split()) for x in out.splitlines()]
    ago = rows[1].split()[2]
    left = rows[1].split()[-3]
    end = f"dead {ago} ago [iaa1], Unexpected termination: x"
    same = f"10.0.0.7 {ago} 8 4 64.0 GiB H100/p5.48xlarge/spot exp (ranks 0-2,5, driver) iaa1 -"
    assert rows == [
        "NODE IP AGE CPU GPU MEMORY TYPE RUNS OPEN LOGS STATE",
        f"eeeeeeeeeeee {same} draining, PREEMPTION: aws: terminate, {left} s left",
        f"aaaaaaaaaaaa 10.0.0.7 {ago} 8 4 64.0 GiB p5.48xlarge/spot - - - {end}",
        f"cdcdcdcdcdcd {same} alive",
    ]
    assert 0 < int(left) <= 100
    assert (code, err) == (0, "")


def test_one_node_is_named_by_its_id_its_ip_or_its_name():
    """Of several that had an address the one that lives."""
    gone = NODE | {"id": "aa" * 28, "state": "dead", "words": "dead, x", "ended_at": AT}
    other = NODE | {"id": "ce" * 28, "ip": "10.0.0.8", "name": "worker-8"}
    with shown(incident("iaa1"), nodes=[gone, NODE, other]) as url:
        for text in ("cdcd", "10.0.0.7", "worker-7"):
            code, out, _ = raywatch(url, "nodes", text)
            assert (code, out.splitlines()[0]) == (0, "cdcdcdcdcdcd  alive")
        several, nobody = raywatch(url, "nodes", "worker"), raywatch(url, "nodes", "10.9.9.9")

    assert "\n  labels     ray.io/market-type=spot\n" in out
    assert "\n  more       blue=1\n" in out
    assert "\nruns\n  exp (ranks 0-2,5, driver)\n\nincidents\n  iaa1  " in out
    assert several[2].startswith(f"raywatch: worker may be {'aa' * 28}, ")
    assert nobody[::2] == (2, "raywatch: no node 10.9.9.9; `raywatch nodes` lists them\n")


def test_a_view_says_what_it_does_not_see_and_no_other():
    """On standard error for a person, in the JSON for a script; also that the daemon itself stands still."""
    with shown(blind=[BLIND], now="2026-11-24T00:00:00.000Z") as url:
        told = {v: raywatch(url, v) for v in ("nodes", "runs", "incidents", "actions")}
        one = raywatch(url, "nodes", "cdcd")[2]
        seen = json.loads(raywatch(url, "runs", "--json")[1])["blind"]

    still = (
        "raywatch: the daemon's loop stands still: what you see is of 2026-11-24T00:00:00.000Z\n"
    )
    words = f"raywatch: {BLIND['words']}\n"
    assert {v: t[2] for v, t in told.items()} == {
        "nodes": still + words,
        "runs": still + words,
        "incidents": still,
        "actions": still,
    }
    assert one == still + words
    assert [b["sources"] for b in seen] == [["daemon"], ["nodes"]]


def test_of_several_actions_the_one_that_awaits_approval_is_meant():
    """The others cannot be approved; two that await it are asked back."""
    waits = ACTION | {"key": "raywatch-exp-2-aa", "state": "awaiting_approval"}
    more = waits | {"key": "raywatch-exp-3-bb"}
    with shown(actions=[ACTION, waits]) as url:
        assert raywatch(url, "approve", "exp")[2] == "raywatch: no: ('raywatch-exp-2-aa',)\n"
        assert "('raywatch-exp-1-00ff',)" in raywatch(url, "approve", "raywatch-exp-1-00ff")[2]
        assert "('raywatch-exp-1-00ff',)" in raywatch(url, "approve", "exp-1")[2]
    with shown(actions=[ACTION, waits, more]) as url:
        several = raywatch(url, "approve", "exp")

    assert several[::2] == (
        2,
        "raywatch: exp may be raywatch-exp-2-aa, raywatch-exp-3-bb: give more of it\n",
    )


def test_an_empty_name_names_nothing():
    """Not everything, and not the only one that awaits approval."""
    with pytest.raises(ClientError, match="no run"):
        chosen([RUN], "", run_names, "run")
    with shown(actions=[ACTION | {"state": "awaiting_approval"}]) as url:
        assert raywatch(url, "approve", "")[0::2] == (
            2,
            "raywatch: no action ; `raywatch actions` lists them\n",
        )


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("http://127.0.0.1:9", "no daemon answers at http://127.0.0.1:9; start it with `raywatch"),
        ("ftp://127.0.0.1", "is no URL of a daemon"),
        ("http://127.0.0.1:99999", "is no URL of a daemon"),
        ("127.0.0.1:9265", "is no URL of a daemon"),
    ],
)
def test_a_daemon_that_is_away_is_one_clear_line(url, said):
    """Exit code 2; also for a URL that is none, and whatever proxy is set."""
    code, out, err = raywatch(url, "incidents", http_proxy="http://127.0.0.1:1")

    assert (code, out, err.count("\n"), said in err) == (2, "", 1, True)


class _Echo(BaseHTTPRequestHandler):
    seen: ClassVar[list[str | None]] = []
    status: ClassVar[int] = 200

    def do_GET(self):
        self.seen.append(self.headers.get("Authorization"))
        self.send_response(self.status)
        self.send_header("Location", "http://127.0.0.1:9/")
        self.end_headers()
        self.wfile.write(b'{"incidents": []}')

    do_POST = do_GET  # noqa: N815 - the name that it is called by

    def log_message(self, *_args):
        """Quiet."""


@contextmanager
def echo(status=200):
    """A server that notes which token it was shown."""
    seen: list[str | None] = []
    noting = type("Noting", (_Echo,), {"seen": seen, "status": status})
    with HTTPServer(("127.0.0.1", 0), noting) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield seen, f"http://127.0.0.1:{server.server_port}"
        finally:
            server.shutdown()
            thread.join(10)


def test_whom_the_token_is_shown_to(tmp_path):
    """A named one goes where the user pointed, the daemon's own only to this machine."""
    own, named = tmp_path / "own", tmp_path / "named"
    own.write_text("own\n")
    named.write_text("named\n")
    with echo() as (seen, url):
        make_client(url, None, "", own).get("/")
        make_client(url, None, "environment", own).get("/")
        make_client(url, str(named), "environment", own).post("/")
        make_client(url, None, "", tmp_path / "none").get("/")
        assert seen == ["Bearer own", "Bearer environment", "Bearer named", None]
    with pytest.raises(ClientError, match="needs the daemon's token"):
        make_client("http://10.1.2.3:9265", None, "", own).post("/")
    for bad in ("", " \n", "a\nb", "ü"):
        named.write_text(bad)
        with pytest.raises(ClientError, match="holds no token"):
            make_client(url, str(named), "", own)


def test_no_redirect_takes_the_token_elsewhere():
    """It is an answer of something that is no daemon."""
    with echo(302) as (seen, url):
        with pytest.raises(ClientError, match="HTTP 302"):
            make_client(url, None, "t", Path("/none")).get("/")
        assert len(seen) == 1


def complete(url, words):
    """What bash would offer."""
    environ = {"_RAYWATCH_COMPLETE": "bash_complete", "COMP_WORDS": words, "COMP_CWORD": "2"}
    return [x.removeprefix("plain,") for x in raywatch(url, **environ)[1].split()]


def test_a_shell_completes_what_the_daemon_knows():
    """Only names that mean nothing to a shell; nothing, and at once, where no daemon answers."""
    runs = [RUN, RUN | {"name": "$(touch pwned)"}, RUN | {"name": "a;b"}, RUN | {"name": "--x"}]
    waits = ACTION | {"key": "raywatch-exp-2-aa", "state": "awaiting_approval"}
    with shown(incident("iaa1"), incident("ibb1"), runs=runs, actions=[ACTION, waits]) as url:
        assert complete(url, "raywatch incidents ia") == ["iaa1"]
        assert complete(url, "raywatch runs ") == ["exp"]
        assert complete(url, "raywatch approve ray") == ["raywatch-exp-2-aa"]
        assert complete(url, "raywatch nodes w") == ["worker-7"]
    assert complete("http://127.0.0.1:9", "raywatch runs ") == []
    assert complete("nonsense", "raywatch runs ") == []


LATER = 1764028800.0 + 600  # ten minutes after AT
TRAINING: RunJson = {
    **RUN,
    "status": "running",
    "framework": "horovod",
    "step_at": "2025-11-25T00:09:50.000Z",
    "started_at": "2025-11-24T23:00:00.000Z",
    "ended_at": None,
    "checkpoint": {**CHECKPOINT, "at": "2025-11-25T00:08:00.000Z"},
    "next_restart": {"owner": "ray_train", "reason": "1 of 3 restarts are used"},
    "failures": {"max": 3, "used": 1},
    "preemptions": {"max": -1, "used": 2},
    "driver": {"node": "ab" * 28, "pid": 7, "alive": True},
    "controller": {"node": "", "pid": 0, "alive": None},
    "attempts": [
        {
            "started_at": "2025-11-24T23:00:00.000Z",
            "ended_at": "2025-11-25T00:00:00.000Z",
            "status": "failed",
            "world_size": 4,
            "job": "02000000",
            "why": HOSTILE,
            "class": "node_lost",
            "incident": "iaa1",
        }
    ],
}


def test_a_story_says_at_a_glance_how_a_run_stands():
    """Is it training, at which step, what would be lost now, who starts it again if a node dies."""
    shown = run_story(TRAINING, [], [], LATER).splitlines()

    assert shown[0] == "exp  running"
    for row in (
        "  framework  horovod",
        "  step       12, 10s ago",
        "  at risk    2m of work, 3 steps since the checkpoint",
        "  next       ray train starts it again (1 of 3 restarts are used)",
        "  failures   1 of 3 used, 2 left",
        "  preempted  2 of any number used",
        "  driver     alive, on abababababab pid 7",
        "  controller not known whether it lives, on ?",
        "  1h  failed  4 workers  ended 10m ago  node_lost iaa1",
    ):
        assert row in shown


@pytest.mark.parametrize(
    ("more", "risk"),
    [
        ({}, "2m of work, 3 steps since the checkpoint"),
        ({"step": None}, "2m of work since the checkpoint"),
        ({"checkpoint": None}, "all of it: 1h without a known checkpoint"),
        ({"status": "finished"}, ""),
        ({"checkpoint": None, "started_at": None}, ""),
    ],
)
def test_what_would_be_lost_now(more, risk):
    """Nothing of a run that finished; of one without a checkpoint all."""
    told = run_story(cast("RunJson", {**TRAINING, **more}), [], [], LATER)
    rows = [x.removeprefix("  at risk    ") for x in told.splitlines() if x.startswith("  at risk")]

    assert rows == ([risk] if risk else [])


def test_what_ended_an_attempt_is_shown_safely():
    """Its words come from a log."""
    attempt = {**TRAINING["attempts"][0], "class": ""}
    told = run_story(cast("RunJson", {**TRAINING, "attempts": [attempt]}), [], [], LATER)

    assert not set(told) & set("\x1b\x07\u202e")
