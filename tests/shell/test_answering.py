"""What is done about a notice is done once in all lives of the daemon, and only where it is safe."""

from __future__ import annotations

import asyncio
import json
import stat
import time
from dataclasses import replace
from pathlib import Path

import pytest

from raywatch.answering import FRESH_S, KIND, PAUSE_S, Answering, Asked
from raywatch.collect.raylogs import gcs_address
from raywatch.model import Outcome
from raywatch.notice import NoticeAction, NoticeHook
from raywatch.resume.notices import TRIES, NoticeRunner, drain_argv
from tests.clouds import Clouds
from tests.daemons import DaemonProcess, make_session, until
from tests.fakeray import NODE
from tests.shell.test_counting import NOW
from tests.shell.test_metrics import samples
from tests.shell.test_noticing import MACHINE, SPOT, OnSpot

DRAIN = NoticeHook("drain", "drain", ("ray",))
COMMAND = NoticeHook("command", "save", ("save-now",))
ASKED = Asked(SPOT, MACHINE, NOW, NODE)
STARTED_AT = NOW - 86_400
CONFIG = """
[ray]
dashboard = "{ray}"
[cloud]
provider = "aws"
url = "{ray}"
[[notice]]
name = "save"
hook = {{kind = "command", argv = ["{program}"]}}
"""


def answering(*hooks: NoticeHook, docs=None, started_at: float = STARTED_AT) -> Answering:
    """With these hooks, beside a store that is a day old."""
    return Answering(hooks or (DRAIN,), docs or {}, started_at=started_at)


def states(answers: Answering) -> list[str]:
    """How its actions stand."""
    return [a.state for a in answers.actions.values()]


def stored(answers: Answering):
    """What a next life reads."""
    rows = {d.id: d.json for d in answers.documents()}
    return {KIND: {k: v for k, v in rows.items() if v is not None}}


def test_a_notice_starts_its_hook_once():
    """Also where the cloud's list is heard again, or what came of it is known."""
    answers = answering()
    for _ in range(2):
        answers.decide(ASKED, "", NOW)
    (action,) = answers.take(NOW)

    assert (action.node, action.deadline_at) == (NODE, NOW + 120)
    assert (answers.due(), answers.take(NOW)) == (False, [])
    assert answers.outcome(Outcome(action.key, "succeeded", NOW + 2, "exit code 0"), NOW + 2)
    answers.decide(ASKED, "", NOW + 3)
    assert (states(answers), answers.due()) == (["succeeded"], False)
    assert not answers.outcome(Outcome("of a run", "succeeded", NOW, ""), NOW)


@pytest.mark.parametrize(
    ("change", "closed", "why"),
    [
        ({"is_head": True}, "", "head"),
        ({"node": ""}, "", "no living Ray node"),
        ({"node": "--help"}, "", "no living Ray node"),
        ({"notice": replace(SPOT, ends=False)}, "", "does not end"),
        ({}, "the dashboard is of another session", "another session"),
    ],
)
def test_a_drain_that_may_hit_the_wrong_one_is_refused(change, closed, why):
    """Whatever is refused is shown with its reason, and never started later."""
    answers = answering()
    answers.decide(replace(ASKED, **change), closed, NOW)
    (action,) = answers.actions.values()

    assert (action.state, why in action.detail, answers.due()) == ("refused", True, False)


def test_what_a_hook_does_not_name_starts_nothing():
    """A rebalance recommendation takes nothing away by itself."""
    answers = answering(DRAIN, COMMAND)
    answers.decide(replace(ASKED, notice=replace(SPOT, kind="rebalance")), "", NOW)

    assert answers.actions == {}


def test_one_machine_is_answered_once_in_a_while():
    """A cloud that tells the same in other words, or moves the time, must not run a program again."""
    answers = answering(COMMAND)
    for number, after in enumerate((0.0, 60.0, PAUSE_S - 1, PAUSE_S + 1)):
        notice = replace(SPOT, key=f"aws i-1 spot {number}", deadline_at=NOW + after + 120)
        answers.decide(replace(ASKED, notice=notice), "", NOW + after)

    assert states(answers) == ["started", "refused", "refused", "started"]


def test_that_a_machine_goes_is_more_than_that_it_may_go():
    """A rebalance recommendation comes first as a rule; it must not use up what is for the end."""
    both = NoticeHook("command", "save", ("save-now",), ("preemption", "rebalance"))
    answers = answering(both)
    may = replace(SPOT, key="aws i-1 rebalance", kind="rebalance", ends=False)
    answers.decide(replace(ASKED, notice=may), "", NOW)
    answers.decide(replace(ASKED, at=NOW + 100), "", NOW + 100)
    again = replace(SPOT, key="aws i-1 spot again")
    answers.decide(replace(ASKED, notice=again), "", NOW + 110)

    assert states(answers) == ["started", "started", "refused"]


def test_a_clock_that_ran_ahead_once_refuses_nothing_for_ever():
    """What was done at a time that is not yet was not done a moment ago."""
    answers = answering(COMMAND)
    answers.decide(ASKED, "", NOW + 10 * PAUSE_S)
    answers.decide(replace(ASKED, notice=replace(SPOT, key="aws i-1 spot 2")), "", NOW)

    assert states(answers)[1] == "started"


def test_what_stood_when_the_store_was_new_runs_no_program():
    """A lost store must not run it twice; to drain a node again is harmless, and may save a step."""
    fresh = answering(DRAIN, COMMAND, started_at=NOW - FRESH_S / 2)
    fresh.decide(ASKED, "", NOW)
    assert states(fresh) == ["started", "history"]


def test_after_a_crash_a_drain_goes_on_and_a_command_is_interrupted():
    """What was on the disk before it was started; a drain only while there is time."""
    answers = answering(DRAIN, COMMAND)
    answers.decide(ASKED, "", NOW)
    docs = stored(answers)
    again, late = answering(docs=docs), answering(docs=docs)
    again.settle(NOW + 5)
    late.settle(NOW + 120)

    assert states(again) == ["started", "interrupted"]
    assert [a.hook.kind for a in again.take(NOW + 5)] == ["drain"]
    assert (states(late), late.take(NOW + 120)) == (["interrupted", "interrupted"], [])


def test_what_could_not_be_written_in_time_is_not_started():
    """A full disk for two minutes: the machine is gone."""
    answers = answering()
    answers.decide(ASKED, "", NOW)

    assert answers.take(NOW + 121) == []
    assert states(answers) == ["refused"]


# --- what is run -----------------------------------------------------------------------------------


def program(folder: Path, body: str) -> str:
    """A real program that notes each call with its arguments."""
    path = folder / "program"
    path.write_text(f'#!/bin/sh\necho "$@" >> {folder}/calls\n{body}\n')
    path.chmod(path.stat().st_mode | stat.S_IXUSR)
    return str(path)


def action_of(hook: NoticeHook, **changes) -> NoticeAction:
    """A started action for this machine."""
    until_s = time.time() + 100
    action = NoticeAction("k", hook, SPOT, MACHINE, NODE, "started", time.time(), until_s)
    return replace(action, **changes)


def ran(action: NoticeAction, gcs: str = "10.0.0.1:6379") -> Outcome:
    """What comes of it."""
    return asyncio.run(NoticeRunner(time.time, {"PATH": "/bin:/usr/bin"}).run(action, gcs))


def test_a_drain_is_asked_for_again_while_the_gcs_is_busy(tmp_path, monkeypatch):
    """With the whole request each time."""
    monkeypatch.setattr("raywatch.resume.notices.PAUSE_S", 0.05)
    path = program(tmp_path, f'test "$(wc -l < {tmp_path}/calls)" -ge {TRIES}')
    outcome = ran(action_of(replace(DRAIN, argv=(path,))))
    calls = (tmp_path / "calls").read_text().splitlines()

    assert (outcome.state, len(calls)) == ("succeeded", TRIES)
    assert calls[0] == (
        f"drain-node --address=10.0.0.1:6379 --node-id={NODE}"
        " --reason=DRAIN_NODE_REASON_PREEMPTION"
        " --reason-message=raywatch: aws announces preemption: terminate"
        " --deadline-remaining-seconds=99"
    )


@pytest.mark.parametrize(
    ("gcs", "left", "why"),
    [("", 100.0, "address of the GCS"), ("10.0.0.1:6379", 0.5, "time is over")],
)
def test_a_drain_that_cannot_be_asked_for_says_why(tmp_path, gcs, left, why):
    """No address, no time: nothing is started."""
    path = program(tmp_path, "true")
    outcome = ran(action_of(replace(DRAIN, argv=(path,)), deadline_at=time.time() + left), gcs)

    assert (outcome.state, why in outcome.detail) == ("failed", True)
    assert not (tmp_path / "calls").exists()


def test_an_old_ray_that_knows_no_deadline_is_asked_once(tmp_path):
    """Its own words are the answer."""
    path = program(tmp_path, "echo 'Error: No such option: --deadline-remaining-seconds'; exit 2")
    outcome = ran(action_of(replace(DRAIN, argv=(path,))))

    assert (outcome.state, outcome.detail) == ("failed", "exit code 2")
    assert "No such option" in outcome.output
    assert len((tmp_path / "calls").read_text().splitlines()) == 1


def test_a_program_is_told_what_was_announced(tmp_path):
    """By variables and as a document."""
    path = program(tmp_path, 'echo "$RAYWATCH_NODE $RAYWATCH_WHAT $RAYWATCH_PROVIDER"; cat')
    outcome = ran(action_of(replace(COMMAND, argv=(path,))))
    variables, document = outcome.output.splitlines()

    assert variables == f"{NODE} terminate aws"
    assert json.loads(document)["instance"] == "i-1"


@pytest.mark.parametrize(
    ("written", "named", "address"),
    [
        ("10.0.0.1:6379", "", "10.0.0.1:6379"),
        ("10.0.0.1:6379\n", "auto", "10.0.0.1:6379"),
        ("10.0.0.1:6379", "http://10.0.0.2:8265", "10.0.0.1:6379"),
        ("10.0.0.1:6379", "head.svc:6380", "head.svc:6380"),
        ("--help", "", ""),
        ("a b:1", "", ""),
        (None, "", ""),
    ],
)
def test_the_gcs_is_where_ray_start_says(tmp_path, written, named, address):
    """Beside the session; RAY_ADDRESS first where it is an address."""
    session = tmp_path / "session_2026-11-25_10-00-00_000000_1"
    session.mkdir()
    if written is not None:
        (tmp_path / "ray_current_cluster").write_text(written)

    assert gcs_address(session, {"RAY_ADDRESS": named}) == address


def test_the_request_is_one_argument_each():
    """No word of a cloud becomes an option of its own."""
    hostile = action_of(DRAIN, notice=replace(SPOT, what="--address=evil:1 x"))
    argv = drain_argv("ray", hostile, "10.0.0.1:6379", 9)

    assert [a.split("=")[0] for a in argv[2:]] == [
        *("--address", "--node-id", "--reason"),
        *("--reason-message", "--deadline-remaining-seconds"),
    ]


# --- a whole daemon --------------------------------------------------------------------------------


def test_a_program_runs_once_over_a_sigkill_of_the_daemon(tmp_path, monkeypatch):
    """The daemon dies while it runs: it is interrupted, shown, counted, and not run again."""
    make_session(tmp_path)
    clouds = Clouds()
    clouds.values |= {"instance-id": "i-0b662ef9931388ba0", "local-ipv4": "10.0.3.7"}
    path = program(tmp_path, "sleep 60")
    with OnSpot(clouds) as ray:
        config = tmp_path / "raywatch.toml"
        config.write_text(CONFIG.format(ray=ray.url, program=path))
        monkeypatch.setenv("RAYWATCH_CONFIG", str(config))
        daemon = DaemonProcess(tmp_path, tmp_path / "state")

        def answers():
            rows = json.loads(daemon.get("/api/v1/notices")[1])["notices"]
            return [(a["name"], a["state"]) for row in rows for a in row["actions"]]

        try:
            until(lambda: b'source_up{source="aws"} 1.0' in daemon.get("/metrics")[1], 15, "asked")
            time.sleep(FRESH_S)  # a new store runs no program at once
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 120))
            clouds.put("spot/instance-action", {"action": "terminate", "time": stamp})
            until((tmp_path / "calls").exists, 15, "the program runs")
            daemon.kill()
            daemon = DaemonProcess(tmp_path, tmp_path / "state")
            until(lambda: answers() == [("save", "interrupted")], 15, "interrupted")
            time.sleep(2)
            metrics = daemon.get("/metrics")[1].decode()
        finally:
            daemon.kill()

    assert len((tmp_path / "calls").read_text().splitlines()) == 1
    counted = samples(metrics, "raywatch_actions_total")
    assert counted[("preemption_notice", "command", "interrupted")] == 1.0
    assert counted[("preemption_notice", "command", "succeeded")] == 0.0
