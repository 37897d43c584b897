"""What a cloud announces is told once in all lives of the daemon, of the right node, and never acts."""

from __future__ import annotations

import json
import time
from dataclasses import replace

import pytest
from aiohttp import web

from raywatch.collect.hints import Hints
from raywatch.core.drains import OVER_S
from raywatch.model import Trust
from raywatch.notice import Machine, Notice, Notices
from raywatch.noticing import KEEP, Noticing, node_of
from raywatch.observations import NodeSeen
from tests.clouds import Clouds
from tests.daemons import DaemonProcess, make_session, until
from tests.fakeray import NODE, FakeRay, _state
from tests.shell.test_counting import NOW, daemon_on, exposition
from tests.shell.test_metrics import samples

SPOT = Notice("aws i-1 spot terminate 1800000120", "aws", "preemption", "terminate", NOW + 120)
MACHINE = Machine("i-1", "10.0.3.7")
LIST = Notices(NOW, "aws", "spot", MACHINE, (SPOT,))
SEEN = NodeSeen(NOW, NODE, "10.0.3.7", "w", "ALIVE", "", is_head=False)
CONFIG = """
[ray]
dashboard = "{ray}"
[cloud]
provider = "aws"
url = "{cloud}"
"""


def told(*lists, nodes=(SEEN,), at=NOW, kept=None):
    """What is told of these lists, by a daemon that knows these nodes."""
    noticing = Noticing(kept or {})
    noticing.hear(lists)
    return noticing.tell({n.node_id: n for n in nodes}, at)


def test_a_preemption_is_a_warning_and_a_drain_of_its_node():
    """With the cloud's own word, its deadline and whom it is about; it never acts and never names a root."""
    (one,) = told(LIST)

    assert (one.finding.class_id, one.finding.subject.node) == ("preemption_notice", NODE)
    assert (one.finding.acts, one.finding.trust) == (False, Trust.SILENCE)
    assert one.finding.evidence.text == (
        "aws announces preemption of i-1: terminate not before 2027-01-15T08:02:00.000Z"
    )
    assert one.drain is not None
    assert one.drain.fields["deadline_ms"] == str(int((NOW + 120) * 1000))


@pytest.mark.parametrize(
    ("notice", "class_id"),
    [
        (replace(SPOT, kind="maintenance", what="system-reboot"), "preemption_notice"),
        (replace(SPOT, kind="rebalance", ends=False), "rebalance_recommendation"),
        (replace(SPOT, ends=False), "preemption_notice"),
    ],
)
def test_what_does_not_take_the_machine_now_is_no_drain(notice, class_id):
    """A node that crashes a day before its maintenance was not preempted."""
    (one,) = told(replace(LIST, told=(notice,)))

    assert (one.finding.class_id, one.drain) == (class_id, None)


def test_a_machine_that_outlived_its_deadline_was_not_taken():
    """AWS goes on telling of an interruption that was over when the machine hibernated."""
    assert told(LIST, at=NOW + 120 + OVER_S) == []
    assert len(told(LIST, at=NOW + 119 + OVER_S)) == 1


def test_only_one_living_node_with_the_address_is_the_machine():
    """Two clusters on one machine, a dead node, another address, none at all: better no node than a wrong one."""
    other = replace(SEEN, node_id="b" * 56)

    assert node_of(MACHINE, {"a": SEEN, "b": replace(other, state="DEAD")}) == NODE
    assert node_of(MACHINE, {"a": SEEN, "b": other}) == ""
    assert node_of(MACHINE, {"a": replace(SEEN, ip="10.0.3.8")}) == ""
    assert node_of(Machine("i-1"), {"a": replace(SEEN, ip="")}) == ""


def test_a_notice_waits_for_its_node_and_is_told_without_it_in_the_end():
    """Ray may be asked later than the cloud; what is withdrawn meanwhile is not told."""
    noticing = Noticing({})
    noticing.hear([LIST])
    assert noticing.tell({}, NOW + 1) == []
    assert noticing.tell({NODE: SEEN}, NOW + 2)[0].drain is not None

    assert (
        told(LIST, nodes=(), at=NOW + 29) == []
    )  # a quarter of two minutes: something may have to be done
    (late,) = told(LIST, nodes=(), at=NOW + 30)
    assert (late.drain, late.finding.entities) == (None, frozenset())

    noticing = Noticing({})
    noticing.hear([LIST, replace(LIST, topic="maintenance", told=())])
    noticing.hear([replace(LIST, told=())])
    assert noticing.tell({NODE: SEEN}, NOW + 2) == []


def test_what_was_told_is_known_in_the_next_life_and_bounded():
    """By documents: a row for each, the oldest dropped."""
    noticing, rows = Noticing({}), {}
    for number in range(KEEP + 5):
        notice = replace(SPOT, key=f"aws i-1 spot {number}")
        noticing.hear([replace(LIST, told=(notice,))])
        assert len(noticing.tell({NODE: SEEN}, NOW + number / 1000)) == 1
        for row in noticing.documents():
            rows[row.id] = row.json
    kept = {k: v for k, v in rows.items() if v}

    assert len(kept) == KEEP
    assert told(replace(LIST, told=(notice,)), kept={"notice": kept}) == []
    assert len(told(LIST, kept={"notice": kept})) == 1


def test_a_crash_before_the_commit_tells_it_again_and_one_after_it_does_not(tmp_path):
    """Counter, drain and what was told are one transaction."""
    make_session(tmp_path)

    def play(daemon, at):
        for item in (SEEN, LIST):
            daemon.inbox.put(item)
        daemon.tick(at, Hints())

    with daemon_on(tmp_path) as daemon:
        daemon._commit = lambda *_args, **_more: None  # it dies before
        daemon.tick(NOW, Hints())
        play(daemon, NOW + 1)
    for turn in range(2):
        with daemon_on(tmp_path) as daemon:
            daemon.tick(NOW + 2 + turn, Hints())
            play(daemon, NOW + 3 + turn)
            daemon._publish(NOW + 4)
            counted = samples(exposition(daemon), "raywatch_preemption_notices_total")
            assert counted == {("ray",): 0.0, ("aws",): 1.0}
            assert daemon.state.drains[NODE].message == "aws: terminate"
            daemon._commit(NOW + 9, force=True)


def test_the_end_of_a_node_that_its_cloud_announced_was_a_preemption(tmp_path):
    """Ray says of it only that heartbeats are missing; the notice is the line that proves it. Without it the node was lost."""
    stamp = "[2027-01-15 08:01:50,000 I 10 10] (gcs_server) gcs_node_manager.cc:734: "
    why = "death message = health check failed due to missing too many heartbeats"
    died = f"{stamp}, death reason = UNEXPECTED_TERMINATION, {why} node_id={NODE} node_name=w\n"
    found = {}
    for name, lists in (("told", [LIST]), ("silent", [])):
        logs = make_session(tmp_path / name)
        with daemon_on(tmp_path / name) as daemon:
            daemon.tick(NOW, Hints())
            for item in (SEEN, *lists):
                daemon.inbox.put(item)
            daemon.tick(NOW + 1, Hints())
            assert daemon.state.incidents == ()  # a warning opens none
            (logs / "gcs_server.out").write_text(died)
            for at in (111, 113, 120):
                daemon.tick(NOW + at, Hints())
            (incident,) = daemon.state.incidents
            found[name] = (incident.class_id, incident.root.component, incident.acts)

    assert found == {
        "told": ("spot_preemption", "event", True),
        "silent": ("node_lost", "gcs", True),
    }


class OnSpot(FakeRay):
    """Ray that knows this machine's node, and the machine's metadata service beside it."""

    def __init__(self, clouds):
        super().__init__()
        self._clouds = clouds

    def routes(self):
        """Its list of nodes, and AWS' paths."""
        row = {"node_id": NODE, "node_ip": "10.0.3.7", "state": "ALIVE", "is_head_node": False}

        async def nodes(_request):
            return _state(row)

        asked = web.route("*", "/latest/{any:.*}", self._clouds.answer)
        return [asked, web.get("/api/v0/nodes", nodes), *super().routes()]


def test_a_notice_is_a_drain_in_the_snapshot_and_a_source_that_is_up(tmp_path, monkeypatch):
    """A whole daemon beside a metadata service that speaks IMDSv2; again after a SIGKILL: counted once."""
    make_session(tmp_path)
    clouds = Clouds()
    clouds.values |= {"instance-id": "i-0b662ef9931388ba0", "local-ipv4": "10.0.3.7"}
    with OnSpot(clouds) as ray:
        config = tmp_path / "raywatch.toml"
        config.write_text(CONFIG.format(ray=ray.url, cloud=ray.url))
        monkeypatch.setenv("RAYWATCH_CONFIG", str(config))
        daemon = DaemonProcess(tmp_path, tmp_path / "state")

        def snapshot():
            return json.loads(daemon.get("/api/v1/snapshot")[1])

        try:
            until(lambda: b'source_up{source="aws"} 1.0' in daemon.get("/metrics")[1], 15, "asked")
            assert snapshot()["drains"] == []
            stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 120))
            clouds.put("spot/instance-action", {"action": "terminate", "time": stamp})
            until(lambda: snapshot()["drains"], 15, "the notice is shown")
            (going,) = snapshot()["nodes"]
            daemon.kill()
            daemon = DaemonProcess(tmp_path, tmp_path / "state")
            until(lambda: b'source_up{source="aws"} 1.0' in daemon.get("/metrics")[1], 15, "asked")
            time.sleep(3)
            (drain,) = snapshot()["drains"]
            metrics = daemon.get("/metrics")[1].decode()
        finally:
            daemon.kill()

    assert (drain["node_id"], drain["message"]) == (NODE, "aws: terminate")
    assert (going["state"], going["deadline_at"]) == ("draining", stamp.replace("Z", ".000Z"))
    assert going["words"] == "draining, PREEMPTION: aws: terminate"
    assert samples(metrics, "raywatch_preemption_notices_total")[("aws",)] == 1.0
    assert 'raywatch_findings_total{class="preemption_notice"' in metrics


def test_a_notice_in_the_last_turn_of_a_life_is_the_next_one_s(tmp_path):
    """Nothing could be started any more: it is neither told nor answered now."""
    make_session(tmp_path)
    with daemon_on(tmp_path) as daemon:
        daemon.tick(NOW, Hints())
        daemon.end()
        for item in (SEEN, LIST):
            daemon.inbox.put(item)
        daemon.tick(NOW + 1, Hints())
        assert daemon.state.drains == {}
    with daemon_on(tmp_path) as daemon:
        daemon.tick(NOW + 2, Hints())
        for item in (SEEN, LIST):
            daemon.inbox.put(item)
        daemon.tick(NOW + 3, Hints())
        assert daemon.state.drains[NODE].message == "aws: terminate"


def test_a_time_that_is_none_ends_nothing(tmp_path):
    """What an API says of a year three million is not shown, and the daemon goes on."""
    make_session(tmp_path)
    with daemon_on(tmp_path) as daemon:
        daemon.tick(NOW, Hints())
        daemon.inbox.put(replace(SEEN, started_at=1e14, ended_at=9e18))
        daemon.tick(NOW + 1, Hints())
        daemon._publish(NOW + 2)
        (row,) = json.loads(daemon.shown.snapshot(-1))["nodes"]

    assert row["started_at"] is None
