"""What Kubernetes says of pods is told once in all lives of the daemon, of the right node, and never acts."""

from __future__ import annotations

import json
import time
from collections.abc import Mapping
from dataclasses import replace

import pytest
from aiohttp import web

from raywatch import pods
from raywatch.cluster import Cluster
from raywatch.collect.hints import Hints
from raywatch.collect.kubernetes import Access
from raywatch.core.drains import drains_with
from raywatch.model import Drain, Entity, Evidence, Fact, Trust
from raywatch.notice import Machine, Notice, Notices
from raywatch.observations import (
    JobSeen,
    KubeRayListed,
    KubeRaySeen,
    NodeSeen,
    PodSeen,
)
from raywatch.pods import DEAD_WITHIN_S, PATIENCE_S, Pods
from tests.daemons import DaemonProcess, make_session, until
from tests.fakeray import NODE, FakeRay, _state
from tests.kubernetes import CLUSTER, NAMESPACE, KubeApi, a
from tests.shell.test_counting import NOW, daemon_on, exposition
from tests.shell.test_kubernetes import read, resource
from tests.shell.test_metrics import samples

IP = "10.0.3.7"
AT = NOW + 20
OTHER = "b" * 56
BEGUN = NOW - 3600
WORKER = NodeSeen(NOW, NODE, IP, "w", "ALIVE", "", is_head=False, started_at=BEGUN)
KILLED = next(iter(read(a("oom_killed"))))


def pod(word, **more):
    """What Kubernetes says of the worker's pod."""
    return replace(KILLED, word=word, key=f"u {word}", container="", exit_code=None, **more)


def told(*seen, nodes=(WORKER,), at=AT + 1, kept=None, cluster=CLUSTER):
    """What is told of these by a daemon that knows these nodes."""
    mine = Pods(kept or {}, cluster)
    for node in nodes:
        mine.node(node)
    for item in seen:
        mine.pod(item, AT + 1) if isinstance(item, PodSeen) else mine.resource(item, AT + 1)
    return mine.tell(at)


def test_a_container_that_was_killed_for_memory_is_the_cause_of_its_node_s_end():
    """With Kubernetes' own words as the line that proves it; it never acts."""
    (finding,) = told(KILLED).findings

    assert (finding.class_id, finding.subject.node) == ("kernel_oom_kill", NODE)
    assert (finding.trust, finding.acts, finding.at) == (Trust.KUBERNETES, False, AT)
    assert finding.entities == frozenset([Entity("node", NODE)])
    assert finding.evidence.text == (
        f"pod dev-namespace/{KILLED.pod} on gke-gpu-pool-1a2b: "
        "container ray-worker OOMKilled, exit code 137"
    )
    assert finding.fields["exit_code"] == "137"


@pytest.mark.parametrize(
    ("word", "more", "class_id", "drain"),
    [
        ("disruption", {}, "preemption_notice", "pod_evicted"),
        ("disruption", {"is_spot": True}, "preemption_notice", "spot_preemption"),
        ("evicted", {}, "pod_evicted", None),
        ("evicted", {"is_spot": True}, "spot_preemption", None),
        ("node_gone", {}, "node_lost", None),
        ("crashed", {}, "raylet_crash", None),
        ("killed", {}, "node_lost", None),
        ("deleted", {}, "node_terminated_expected", None),
        ("unhealthy", {}, "node_unhealthy", None),
        ("crash_loop", {}, "node_start_failed", None),
        ("cannot_start", {}, "node_launch_failed", None),
        ("unschedulable", {}, "resources_pending", None),
        ("no_machine", {}, "capacity_unavailable", None),
    ],
)
def test_each_word_has_its_class_and_none_acts(word, more, class_id, drain):
    """Only what says that the pod will be taken is a drain."""
    said = told(pod(word, **more))

    assert [(f.class_id, f.acts) for f in said.findings] == [(class_id, False)]
    assert [f.fields["class_id"] for f in said.facts] == ([drain] if drain else [])


def test_the_words_are_all_of_them():
    """A word without a meaning would end the daemon's turn."""
    from typing import get_args

    from raywatch.observations import PodWord

    assert set(pods._MEANS) == set(get_args(PodWord))


def node_of(*nodes, seen=KILLED, at=AT + 1):
    """The node that is named, None where it is not told yet."""
    said = told(seen, nodes=nodes, at=at).findings
    return said[0].subject.node if said else None


def test_the_node_is_the_one_that_had_the_address_then():
    """A container that is started again is another Ray node at the same address; pods' addresses are used again."""
    again = replace(WORKER, node_id=OTHER, started_at=AT + 3)
    dead = replace(WORKER, state="DEAD", ended_at=AT + 14)
    earlier = replace(dead, node_id="c" * 56, started_at=BEGUN - 99, ended_at=BEGUN)
    assert node_of(WORKER, again) == NODE
    assert node_of(again, dead) == NODE
    assert node_of(dead, earlier, again) == NODE
    assert node_of(earlier) is None
    assert node_of(replace(dead, ended_at=AT + DEAD_WITHIN_S + 1)) is None
    assert node_of(replace(WORKER, ip="10.0.3.8")) is None
    assert node_of(WORKER, seen=replace(KILLED, ip="")) is None
    # Ray that does not say since when: only where there is no other.
    assert node_of(replace(WORKER, started_at=None), replace(again, started_at=None)) is None
    assert node_of(replace(dead, started_at=None), replace(again, started_at=None)) == NODE


def test_of_pods_that_share_their_machine_s_address_the_label_tells_the_head():
    """Two workers there are nobody: better no node than a wrong one."""
    head = replace(WORKER, node_id=OTHER, is_head=True)
    assert node_of(WORKER, head) == NODE
    assert node_of(WORKER, head, seen=replace(KILLED, is_head=True)) == OTHER
    assert node_of(WORKER, replace(head, is_head=False)) is None


def test_what_is_said_waits_for_its_node_and_is_told_without_it_in_the_end():
    """Where it means something without one, and of the own cluster only."""
    assert told(KILLED, nodes=()).findings == []
    late = AT + 1 + PATIENCE_S
    (finding,) = told(KILLED, nodes=(), at=late).findings
    assert (finding.subject.id, finding.entities) == (KILLED.pod, frozenset())
    assert told(KILLED, nodes=(), at=late, cluster="").findings == []
    assert told(pod("deleted"), pod("crashed"), pod("killed"), nodes=(), at=late).findings == []
    assert told(pod("disruption"), nodes=(), at=late).facts == []
    assert told(KILLED, cluster="").findings[0].subject.node == NODE

    mine = Pods({}, CLUSTER)
    mine.pod(KILLED, AT + 1)
    assert mine.tell(AT + 2).findings == []
    mine.node(WORKER)
    assert mine.tell(AT + 3).findings[0].subject.node == NODE


def test_a_pod_that_never_was_a_node_is_told_at_once():
    """It has nobody to wait for."""
    (finding,) = told(pod("cannot_start", ip="")).findings
    assert finding.subject.id == KILLED.pod


def kept(mine, rows):
    """The rows that stand in the store after this life."""
    for row in mine.documents():
        rows[row.id] = row.json
    return {"pod": {k: v for k, v in rows.items() if v}}


def test_what_was_told_is_known_in_the_next_life_and_bounded(monkeypatch):
    """The oldest are forgotten by name and known by their age."""
    monkeypatch.setattr(pods, "KEEP", 8)
    mine = Pods({}, CLUSTER)
    rows: dict[str, str | None] = {}
    mine.node(WORKER)
    for number in range(20):
        mine.pod(replace(KILLED, key=f"u{number}", at=AT + number / 100), AT + 1)
        assert len(mine.tell(AT + 2).findings) == 1
        docs = kept(mine, rows)

    assert len(docs["pod"]) == 8 + 1
    for number in range(20):
        again = replace(KILLED, key=f"u{number}", at=AT + number / 100)
        assert told(again, kept=docs).findings == []
    assert len(told(replace(KILLED, key="new", at=AT + 1), kept=docs).findings) == 1


def test_what_failed_of_kuberay_is_told_once():
    """A job by its submission, a cluster by when its pods could not be made; a deadline was somebody's will."""
    failed = replace(resource("rayjob_failed", base="rayjob"), cluster=CLUSTER)
    quota = resource("raycluster_quota", base="raycluster")
    mine = Pods({}, CLUSTER)
    rows: dict[str, str | None] = {}
    for item in (failed, quota, replace(failed, at=AT + 99, failed_at=AT + 99)):
        mine.resource(item, AT)
    said = [(f.class_id, f.subject.kind, f.subject.id, f.acts) for f in mine.tell(AT).findings]

    assert said == [
        ("job_driver_failed", "job", "raysubmit_1", False),
        ("capacity_unavailable", "node", CLUSTER, False),
    ]
    assert told(failed, quota, kept=kept(mine, rows)).findings == []
    late = replace(failed, reason="DeadlineExceeded")
    assert [f.class_id for f in told(late).findings] == ["job_stopped"]
    assert told(resource("rayjob", base="rayjob")).findings == []
    assert told(failed, quota, cluster="").findings == []
    assert (
        told(replace(failed, cluster="another"), replace(quota, cluster="another")).findings == []
    )


# --- in the daemon ---------------------------------------------------------------------------------------


STAMP = "[2027-01-15 08:00:{at:02},000 I 10 10] (gcs_server) gcs_node_manager.cc:734: "
HEARTBEATS = "health check failed due to missing too many heartbeats"


def died(at, reason="UNEXPECTED_TERMINATION", message=HEARTBEATS):
    """What the GCS writes of the end of the worker's node."""
    what = f", death reason = {reason}, death message = {message} node_id={NODE} node_name=w\n"
    return STAMP.format(at=at) + what


def incidents(tmp_path, *steps):
    """Play (seconds, what) into a daemon: observations, or text for the GCS' log; return what came of it."""
    logs = make_session(tmp_path)
    with daemon_on(tmp_path) as daemon:
        daemon.tick(NOW, Hints())
        daemon.inbox.put(WORKER)
        for at, what in steps:
            if isinstance(what, str):
                with (logs / "gcs_server.out").open("a") as out:
                    out.write(what)
            else:
                daemon.inbox.put(what)
            for more in (0.0, 0.1, 2.5):
                daemon.tick(NOW + at + more, Hints())
        return [(i.class_id, i.root.component, i.root.file, i.acts) for i in daemon.state.incidents]


FILE = f"kubernetes pod dev-namespace/{KILLED.pod}"
(EVICTED,) = read(a("evicted"))
(NOTICE,) = read(a("drained"))
(DELETED,) = read(a("scaled_down"))
SIGTERM = died(21, "EXPECTED_TERMINATION", "received SIGTERM")


@pytest.mark.parametrize(
    ("seen", "end", "class_id"),
    [
        (KILLED, died(34), "kernel_oom_kill"),
        (EVICTED, died(34), "pod_evicted"),
        (NOTICE, died(34), "pod_evicted"),
        (NOTICE, SIGTERM, "pod_evicted"),
        (replace(NOTICE, is_spot=True), SIGTERM, "spot_preemption"),
    ],
)
def test_kubernetes_names_the_cause_of_a_node_s_end(tmp_path, seen, end, class_id):
    """Ray says only that heartbeats are missing, or that SIGTERM came. One incident; it acts by Ray's word."""
    (found,) = incidents(tmp_path, (22, seen), (35, end))

    assert found == (class_id, "event", FILE, True)


@pytest.mark.parametrize(
    ("seen", "end", "class_id"),
    [
        (KILLED, died(21), "kernel_oom_kill"),
        (EVICTED, died(21), "pod_evicted"),
        (EVICTED, SIGTERM, "pod_evicted"),
    ],
)
def test_it_does_so_too_where_ray_speaks_first(tmp_path, seen, end, class_id):
    """The API server may be slower than a log."""
    (found,) = incidents(tmp_path, (22, end), (30, seen))

    assert found[:3] == (class_id, "event", FILE)


def test_what_only_echoes_an_end_names_nothing_that_ray_names(tmp_path):
    """An exit code says less than a reason that Ray recorded, and alone it acts on nothing."""
    crashed = replace(KILLED, word="crashed", reason="Error", exit_code=1)
    agent = "dashboard_agent failed and raylet fate-shares with it."
    (found,) = incidents(tmp_path / "a", (22, crashed), (35, died(34)))
    assert found[:2] == ("node_lost", "gcs")
    (found,) = incidents(
        tmp_path / "b", (22, crashed), (35, died(34, "UNEXPECTED_TERMINATION", agent))
    )
    assert found[:2] == ("raylet_crash", "gcs")
    (found,) = incidents(tmp_path / "c", (22, crashed))
    assert (found[0], found[3]) == ("raylet_crash", False)


def test_a_planned_deletion_is_no_failure(tmp_path):
    """kubectl delete, a scale-down, a suspended cluster: SIGTERM opens nothing, and without it the end is a planned one."""
    assert incidents(tmp_path / "a", (22, DELETED), (23, SIGTERM)) == []
    assert incidents(tmp_path / "b", (22, DELETED)) == []
    assert incidents(tmp_path / "c", (22, SIGTERM), (23, DELETED)) == []
    (found,) = incidents(tmp_path / "d", (22, DELETED), (90, died(84)))
    assert found[:2] == ("node_terminated_expected", "event")


def test_a_node_that_had_failed_is_not_excused_by_the_deletion_of_its_pod(tmp_path):
    """KubeRay and the autoscaler clear away what is dead."""
    dead = replace(WORKER, state="DEAD", ended_at=NOW + 19)
    (found,) = incidents(tmp_path, (19, died(19)), (20, dead), (22, DELETED))

    assert found[:2] == ("node_lost", "gcs")


PLANNED = (
    "[2027-01-15 08:00:22,000 I 10 10] (raylet) node_manager.cc:500: Drain raylet RPC has received. "
    "Deadline is 1800000052000. Drain reason: DRAIN_NODE_REASON_PREEMPTION. Drain reason message: "
    "Node received SIGTERM; draining before shutdown.\n"
)


def test_the_drain_of_a_node_that_got_sigterm_does_not_hide_why_it_came(tmp_path):
    """Ray 2.60 drains itself on SIGTERM and does not know who sent it; alone that is a planned stop."""
    found = {}
    for name, steps in {"kubernetes": [NOTICE], "late": [], "nobody": []}.items():
        logs = make_session(tmp_path / name)
        with daemon_on(tmp_path / name) as daemon:
            daemon.tick(NOW, Hints())
            for item in (WORKER, *steps):
                daemon.inbox.put(item)
            daemon.tick(NOW + 21, Hints())
            (logs / "raylet.out").write_text(PLANNED.replace("\n", f" node_id={NODE}\n"))
            for at in (23.0, 24.5, 26.0):
                daemon.tick(NOW + at, Hints())
            if name == "late":
                daemon.inbox.put(NOTICE)
                daemon.tick(NOW + 27, Hints())
            found[name] = [(d.by, d.class_id) for d in daemon.state.drains.values()]
    assert found["kubernetes"] == found["late"] == [("kubernetes", "pod_evicted")]
    assert found["nobody"] == [("ray", "spot_preemption")]


def test_a_cloud_knows_better_than_kubernetes_why_a_pod_is_evicted(tmp_path):
    """A termination handler drains the machine that the cloud will take."""
    spot = Notice("aws i-1 spot", "aws", "preemption", "terminate", NOW + 120)
    cloud = Notices(NOW, "aws", "spot", Machine("i-1", IP), (spot,))
    (found,) = incidents(tmp_path / "a", (1, cloud), (22, NOTICE), (35, SIGTERM))
    assert (found[0], found[2]) == ("spot_preemption", "metadata of aws")
    (found,) = incidents(tmp_path / "b", (22, NOTICE), (23, cloud), (35, SIGTERM))
    assert (found[0], found[2]) == ("spot_preemption", "metadata of aws")


@pytest.mark.parametrize("by", ["aws", "kubernetes"])
@pytest.mark.parametrize("order", [1, -1])
def test_who_announced_it_is_believed_before_the_node_that_only_got_sigterm(by, order):
    """Two minutes later, or told late: whichever came first."""
    announced = {"node_id": NODE, "reason": "PREEMPTION", "message": "terminate", "by": by}
    own = {**announced, "message": "Node received SIGTERM; draining before shutdown."}
    line = Evidence("raylet.out", 1, "", NOW, "raylet", signature="raylet-drain")
    facts = [
        Fact("drain", NOW, replace(line, signature=""), announced),
        Fact("drain", NOW + 110, line, own),
    ]
    drains: Mapping[str, Drain] = {}
    for fact in facts[::order]:
        drains = drains_with(drains, fact)
    assert (drains[NODE].by, drains[NODE].message, drains[NODE].at) == (by, "terminate", NOW)


def test_a_log_line_does_not_choose_what_its_drain_becomes():
    """Its fields are what somebody wrote, or a signature of a user captures; what Kubernetes says has no signature."""
    fields = {"node_id": NODE, "reason": "PREEMPTION", "by": "aws", "class_id": "no_such_class"}
    line = Evidence("raylet.out", 1, "", NOW, "raylet", signature="raylet-drain")
    drains = drains_with({}, Fact("drain", NOW, line, fields))
    assert (drains[NODE].by, drains[NODE].class_id) == ("ray", "spot_preemption")
    drains = drains_with({}, Fact("drain", NOW, replace(line, signature=""), fields))
    assert (drains[NODE].by, drains[NODE].class_id) == ("aws", "no_such_class")


def test_a_crash_before_the_commit_tells_it_again_and_one_after_it_does_not(tmp_path):
    """Incident, counter and what was told are one transaction."""
    make_session(tmp_path)

    def play(daemon, at):
        for item in (WORKER, KILLED, NOTICE):
            daemon.inbox.put(item)
        daemon.tick(at, Hints())

    with daemon_on(tmp_path) as daemon:
        daemon._commit = lambda *_args, **_more: None  # it dies before
        daemon.tick(NOW, Hints())
        play(daemon, NOW + 22)
    for turn in range(2):
        with daemon_on(tmp_path) as daemon:
            daemon.tick(NOW + 22 + turn, Hints())
            play(daemon, NOW + 23 + turn)
            daemon._publish(NOW + 24)
            text = exposition(daemon)
            assert samples(text, "raywatch_preemption_notices_total")[("kubernetes",)] == 1.0
            counted = samples(text, "raywatch_findings_total")
            assert counted[("kernel_oom_kill", "event")] == 1.0
            assert len(daemon.state.incidents) == 1
            daemon._commit(NOW + 29, force=True)


JOB = JobSeen(
    NOW, "SUBMISSION", "05000000", "raysubmit_1", "RUNNING", "python train.py", "", "", NOW - 60,
    None, {}, "{}", "", None,
)  # fmt: skip


def owner(tmp_path, *seen):
    """Who restarts the run's job after these."""
    with daemon_on(tmp_path) as daemon:
        daemon.tick(NOW, Hints())
        for number, item in enumerate(seen):
            daemon.inbox.put(item)
            daemon.tick(NOW + 1 + number, Hints())
        daemon._commit(NOW + 60, force=True)
        (run,) = daemon._resuming.runs.runs.values()
        return run.owner


def test_a_run_whose_rayjob_has_retries_left_is_kuberay_s(tmp_path):
    """Whoever speaks first, also when the job failed; until KubeRay gives up or the RayJob is gone."""
    make_session(tmp_path)
    job = resource("rayjob", base="rayjob")
    failed = replace(JOB, status="FAILED", ended_at=NOW + 30)
    over = resource("rayjob_failed", base="rayjob")
    assert isinstance(job, KubeRaySeen)
    assert owner(tmp_path, JOB) == "nobody"
    assert owner(tmp_path, job, JOB) == "kuberay"
    assert owner(tmp_path, JOB) == "kuberay"  # another life, in which Kubernetes did not speak yet
    assert owner(tmp_path, failed) == "kuberay"
    assert owner(tmp_path, failed, over) == "nobody"
    assert owner(tmp_path, job) == "kuberay"
    assert owner(tmp_path, KubeRayListed(NOW, frozenset())) == "nobody"
    assert owner(tmp_path, KubeRayListed(NOW, frozenset(["raysubmit_1"]))) == "kuberay"
    assert owner(tmp_path, replace(job, retried=False, is_gone=True)) == "nobody"


def test_resources_of_another_cluster_are_not_shown():
    """They are another daemon's."""
    job = resource("rayjob", base="rayjob")
    for mine, shown in (("", 1), (job.cluster, 1), ("another", 0)):
        cluster = Cluster({}, (), NOW, Access("u", "ns", mine))
        cluster.learn([job], NOW)
        assert len(json.loads(json.dumps(cluster.shown())).get("kuberay", [])) == shown


def test_resources_of_kuberay_are_shown_as_long_as_they_are_there(tmp_path):
    """As they stand."""
    make_session(tmp_path)
    job = resource("rayjob", base="rayjob")
    with daemon_on(tmp_path) as daemon:
        daemon.tick(NOW, Hints())
        assert "kuberay" not in json.loads(daemon._work())
        daemon.inbox.put(job)
        daemon.tick(NOW + 1, Hints())
        (shown,) = json.loads(daemon._work())["kuberay"]
        assert (shown["kind"], shown["state"]) == ("RayJob", "Running")
        daemon.inbox.put(replace(job, is_gone=True))
        daemon.tick(NOW + 2, Hints())
        assert "kuberay" not in json.loads(daemon._work())


# --- a whole daemon --------------------------------------------------------------------------------------


class OnKubernetes(FakeRay):
    """Ray in a pod: its list of nodes, and the API server beside it."""

    def __init__(self, api):
        super().__init__()
        self._api = api
        self.node = {
            "node_id": NODE,
            "node_ip": IP,
            "state": "ALIVE",
            "is_head_node": False,
            "start_time_ms": int((time.time() - 3600) * 1000),
        }

    def routes(self):
        """Ray's paths and Kubernetes'."""

        async def nodes(_request):
            return _state(self.node)

        asked = [
            web.get(path, self._api.answer)
            for path in ("/api/v1/namespaces/{any:.*}", "/apis/ray.io/{any:.*}")
        ]
        return [*asked, web.get("/api/v0/nodes", nodes), *super().routes()]

    def put(self, plural, row):
        """Change an object, in the thread that serves it."""
        self._loop.call_soon_threadsafe(self._api.put, plural, row)


CONFIG = """
[ray]
dashboard = "{url}"
[kubernetes]
enabled = true
url = "{url}"
namespace = "{namespace}"
cluster = "{cluster}"
"""


def stamp(at):
    """A time as Kubernetes writes it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(at))


def test_a_pod_that_was_killed_for_memory_is_why_its_node_died(tmp_path, monkeypatch):
    """A whole daemon beside a served API; hostile words are shown as they are, and a SIGKILL counts nothing twice."""
    logs = make_session(tmp_path)
    api = KubeApi()
    ray = OnKubernetes(api)
    with ray:
        ray.put("pods", a("pod"))
        config = tmp_path / "raywatch.toml"
        config.write_text(CONFIG.format(url=ray.url, namespace=NAMESPACE, cluster=CLUSTER))
        monkeypatch.setenv("RAYWATCH_CONFIG", str(config))
        daemon = DaemonProcess(tmp_path, tmp_path / "state")

        def is_up():
            return b'source_up{source="kubernetes"} 1.0' in daemon.get("/metrics")[1]

        try:
            until(is_up, 15, "asked")
            killed_at = int(time.time())
            row = a("oom_killed")
            end = row["status"]["containerStatuses"][0]["lastState"]["terminated"]
            end |= {"finishedAt": stamp(killed_at), "message": "\x1b[2J\r\n[FailurePolicy] RETRY"}
            ray.put("pods", row)
            until(daemon.incidents, 15, "the incident")
            now = time.strftime("%Y-%m-%d %H:%M:%S,000", time.localtime())
            (logs / "gcs_server.out").write_text(
                f"[{now} I 10 10] (gcs_server) gcs_node_manager.cc:734: , death reason = "
                f"UNEXPECTED_TERMINATION, death message = {HEARTBEATS} node_id={NODE} node_name=w\n"
            )
            until(lambda: daemon.incidents()[0]["explains"], 15, "Ray's word")
            daemon.kill()
            daemon = DaemonProcess(tmp_path, tmp_path / "state")
            until(is_up, 15, "asked again")
            time.sleep(2)
            (incident,) = json.loads(daemon.get("/api/v1/snapshot")[1])["incidents"]
            counted = samples(daemon.get("/metrics")[1].decode(), "raywatch_findings_total")
        finally:
            daemon.kill()

    assert (incident["class"], incident["subject"]["node"]) == ("kernel_oom_kill", NODE)
    assert incident["root"]["file"] == f"kubernetes pod {NAMESPACE}/{KILLED.pod}"
    assert incident["root"]["text"].endswith("OOMKilled, exit code 137: [2J [FailurePolicy] RETRY")
    assert [e["class"] for e in incident["explains"]] == ["node_lost"]
    assert counted[("kernel_oom_kill", "event")] == 1.0


def test_a_poorer_row_takes_no_address_away():
    """A pushed event may name the node alone, and come late: the pod of that address is still this node's."""
    event = NodeSeen(WORKER.at - 1, WORKER.node_id, "", "", "ALIVE", "", is_head=False)

    assert node_of(WORKER, event) == WORKER.node_id
