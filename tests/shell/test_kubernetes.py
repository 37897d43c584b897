"""The Kubernetes API: what it says is told once, whatever happens to lists and watches, and only as it is."""

import asyncio
import json
import ssl
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from ipaddress import ip_address

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from raywatch.collect.kubernetes import Access, KubernetesPoller, Lines
from raywatch.collect.podjson import event_of, kuberay_seen, pod_of, pod_seen, told_by
from raywatch.observations import EndpointHealth, KubeRayListed, KubeRaySeen, PodSeen
from tests.kubernetes import CLUSTER, NAMESPACE, KubeApi, a
from tests.shell.test_cloud import until

NOW = 1800000060.0
AT = 1800000020.0  # 08:00:20
UID = "0a0c2f3e-5a86-4d0c-9d0d-6a4c1a7f2b11"
SPOT = {"spec": {"nodeSelector": {"cloud.google.com/gke-spot": "true"}}}


# --- what an object says ---------------------------------------------------------------------------


def read(row, *, is_gone=False):
    """What a pod says."""
    pod = pod_of(row)
    assert pod is not None
    return pod_seen(row, pod, NOW, is_gone=is_gone)


def resource(name, *more, base):
    """How a resource of KubeRay stands."""
    seen = kuberay_seen(a(name, *more, base=base), NOW)
    assert seen is not None
    return seen


def said(name, *more, is_gone=False):
    """What a pod of the collection says, as (word, reason, seconds after 08:00)."""
    seen = read(a(name, *more), is_gone=is_gone)
    return [(s.word, s.reason, s.at - 1800000000.0) for s in seen]


@pytest.mark.parametrize(
    ("name", "is_gone", "told"),
    [
        ("pod", False, []),
        ("oom_killed", False, [("oom_killed", "OOMKilled", 20.0)]),
        ("evicted", False, [("evicted", "Evicted", 20.0)]),
        ("preempted", False, [("disruption", "PreemptionByScheduler", 20.0)]),
        ("preempted", True, [("evicted", "PreemptionByScheduler", 20.0)]),
        ("tainted", False, [("disruption", "DeletionByTaintManager", 20.0)]),
        ("drained", False, [("disruption", "EvictionByEvictionAPI", 20.0)]),
        ("drained", True, [("evicted", "EvictionByEvictionAPI", 20.0)]),
        ("shutdown", False, [("disruption", "Terminated", 20.0)]),
        ("gone", False, [("node_gone", "DeletionByPodGC", 20.0)]),
        ("scaled_down", False, [("deleted", "Deleted", 20.0)]),
        ("pod", True, [("deleted", "Deleted", 60.0)]),
        ("scaled_down_over", False, []),
        ("scaled_down_over", True, []),
        ("crashed", False, [("crashed", "Error", 20.0)]),
        ("crashed", True, [("crashed", "Error", 20.0)]),
        ("sidecar_oom", False, []),
        ("gate_oom", False, []),
        ("no_image", False, [("cannot_start", "ImagePullBackOff", 60.0)]),
        (
            "crash_loop",
            False,
            [("crashed", "Error", 20.0), ("crash_loop", "CrashLoopBackOff", 20.0)],
        ),
        ("unschedulable", False, [("unschedulable", "Unschedulable", 20.0)]),
    ],
)
def test_a_pod_says_what_became_of_it(name, is_gone, told):
    """Of Ray's own container only; what is ended on purpose is a deletion, how its processes end then is nothing."""
    assert said(name, is_gone=is_gone) == told


def test_what_ran_short_and_who_is_meant_are_told():
    """From the kubelet's words; the time of a deletion is when it was asked for, not when it must be over."""
    row = a("evicted")
    (seen,) = read(row)
    assert (seen.resource, seen.ip, seen.machine) == (
        "ephemeral-storage",
        "10.0.3.7",
        "gke-gpu-pool-1a2b",
    )
    assert (seen.pod, seen.cluster) == (row["metadata"]["name"], CLUSTER)
    assert (seen.is_head, seen.key) == (False, f"{UID} end")


@pytest.mark.parametrize("code", [0, 143])
def test_an_orderly_exit_is_nothing(code):
    """The container that was told to end, or was done."""
    ended = {"exitCode": code, "reason": "Completed", "finishedAt": "2027-01-15T08:00:20Z"}
    row = {"name": "ray-worker", "lastState": {}, "state": {"terminated": ended}}
    assert said("pod", {"status": {"containerStatuses": [row]}}) == []


def test_only_a_machine_that_must_be_spot_and_shuts_down_was_taken_by_the_cloud():
    """A toleration says that it may be one; a drain of a spot machine may be an upgrade."""
    terms = {
        "nodeSelectorTerms": [
            {
                "matchExpressions": [
                    {"key": "karpenter.sh/capacity-type", "operator": "In", "values": ["spot"]}
                ]
            }
        ]
    }
    named = {"requiredDuringSchedulingIgnoredDuringExecution": terms}
    must = {"spec": {"affinity": {"nodeAffinity": named}}}
    may = {"spec": {"tolerations": [{"key": "kubernetes.azure.com/scalesetpriority"}]}}
    either = {
        "spec": {
            "affinity": {
                "nodeAffinity": {
                    "requiredDuringSchedulingIgnoredDuringExecution": {
                        "nodeSelectorTerms": [*terms["nodeSelectorTerms"], {"matchExpressions": []}]
                    }
                }
            }
        }
    }
    found = []
    for name, more in [
        ("shutdown", SPOT),
        ("shutdown", must),
        ("shutdown", may),
        ("shutdown", either),
        ("drained", SPOT),
    ]:
        row = a(name, more)
        found.append(read(row)[0].is_spot)
    assert found == [True, True, False, False, False]


def test_pods_that_are_not_rays_are_left_alone():
    """No label of a cluster, no uid, or KubeRay's own clean-up of Redis."""
    other = a("pod", {"metadata": {"labels": {"ray.io/cluster": None}}})
    nobody = a("pod", {"metadata": {"uid": 7}})
    redis = a("pod", {"metadata": {"labels": {"ray.io/node-type": "redis-cleanup"}}})
    odd: list[dict[str, object]] = [other, nobody, redis, {}, {"metadata": []}]
    assert [pod_of(r) for r in odd] == [None] * 5


def test_an_event_of_ray_s_container_counts_and_one_of_a_sidecar_does_not():
    """Of a pod that ended already a notice says nothing either."""
    pod = pod_of(a("pod"))
    assert pod is not None
    killing = {
        "reason": "Killing",
        "message": "Container ray-worker failed liveness probe, will be restarted",
    }
    sidecar = {**killing, "message": "Container fluentbit failed liveness probe, will be restarted"}
    cancel = {"reason": "TaintManagerEviction", "message": "Cancelling deletion of Pod a/b"}
    words = []
    for change in ({}, killing, sidecar, cancel, {"reason": ["x"]}, {"reason": "Pulled"}):
        event = event_of(a("event", change, base="event"), NOW)
        seen = told_by(event, pod) if event else None
        words.append((seen.word, seen.key) if seen else None)
    assert words == [
        ("disruption", f"{UID} disruption"),
        ("unhealthy", f"{UID} Killing 1800000021"),
        None, None, None, None,
    ]  # fmt: skip
    event = event_of(a("event", base="event"), NOW)
    assert event is not None
    assert told_by(event, replace(pod, ended=True)) is None


@pytest.mark.parametrize(
    ("change", "retried"),
    [
        ({}, True),
        ({"status": {"failed": 1}}, False),
        ({"status": {"failed": 1, "jobDeploymentStatus": "Retrying"}}, True),
        ({"status": {"jobDeploymentStatus": "Failed"}}, False),
        ({"status": {"jobDeploymentStatus": "Complete"}}, False),
        ({"spec": {"backoffLimit": 0}}, False),
        ({"spec": {"backoffLimit": None}}, False),
        ({"status": {"jobDeploymentStatus": None}}, True),
    ],
)
def test_kuberay_runs_a_job_again_while_its_limit_is_not_reached(change, retried):
    """A deadline or a failure for good ends that."""
    seen = resource("rayjob", change, base="rayjob")
    assert (seen.submission_id, seen.retried) == ("raysubmit_1", retried)


def test_resources_of_kuberay_say_how_they_stand():
    """A failure with its time; a suspended cluster is no failure."""
    failed = resource("rayjob_failed", base="rayjob")
    assert (failed.state, failed.reason, failed.failed_at) == (
        "Failed",
        "SubmissionFailed",
        AT + 20,
    )
    fine = resource("raycluster", base="raycluster")
    assert (fine.state, fine.failed_at) == ("ready", None)
    quota = resource("raycluster_quota", base="raycluster")
    assert (quota.state, quota.reason, quota.failed_at) == ("failed", "FailedCreateWorkerPod", AT)
    rest = {"status": {"conditions": [{"type": "RayClusterSuspended", "status": "True"}]}}
    assert resource("raycluster_quota", rest, base="raycluster").state == "suspended"
    head = {"type": "HeadPodReady", "status": "False", "reason": "ContainersNotReady"}
    down = resource("raycluster", {"status": {"conditions": [head]}}, base="raycluster")
    assert down.reason == "ContainersNotReady"


HOSTILE = "\x1b[2Jgone\r\n\x00[FailurePolicy] RETRY \u202e" + "x" * 5000


def test_hostile_text_is_one_bounded_line_of_printable_characters():
    """Messages, names and reasons are what somebody in the cluster chose to write."""
    row = a(
        "evicted",
        {"status": {"message": HOSTILE, "reason": "Evicted"}, "spec": {"nodeName": HOSTILE}},
    )
    (seen,) = read(row)
    for text in (seen.message, seen.machine, seen.reason):
        assert text.isprintable()
        assert len(text) <= 1000
    assert seen.message.startswith("[2Jgone [FailurePolicy] RETRY")


@pytest.mark.parametrize("odd", [None, 7, [], {}, "x", [7], [[]], True, {"x": 1}])
def test_odd_objects_say_nothing_and_raise_nothing(odd):
    """Whatever stands where something else belongs."""
    for key in ("metadata", "spec", "status"):
        for inner in (None, *a("evicted")[key]):
            row = a("evicted")
            row[key] = odd if inner is None else {**row[key], inner: odd}
            pod = pod_of(row)
            if pod is not None:
                pod_seen(row, pod, NOW, is_gone=True)
            kuberay_seen({**row, "kind": "RayJob"}, NOW)
            kuberay_seen({**row, "kind": "RayCluster"}, NOW)
            event_of(row, NOW)


# --- lines ---------------------------------------------------------------------------------------------


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100])
def test_lines_come_whole_out_of_pieces_of_any_size(size):
    """Also where a character is cut in two; one that is too long is left out and those around it are not."""
    text = b'{"a": "\xc3\xbc"}\n' + b"y" * 30 + b"\n\n" + b'{"b": 1}\n{"c": '
    lines = Lines(20)
    found: list[bytes] = []
    for begin in range(0, len(text), size):
        found += lines.feed(text[begin : begin + size])
    assert found == [b'{"a": "\xc3\xbc"}', b'{"b": 1}']
    assert lines.skipped == 1
    assert list(lines.feed(b"2}\n")) == [b'{"c": 2}']


# --- lists and watches -----------------------------------------------------------------------------------


def play(story, tls=None, **more):
    """Run a poller beside a story; return what it emitted and the server."""
    seen: list[object] = []

    async def main():
        api = KubeApi()
        async with api.served(tls) as url:
            asked_for = more.pop("asked_for", True)
            access = Access(url, NAMESPACE, CLUSTER, more.pop("account", None), asked_for)
            poller = KubernetesPoller(
                access,
                seen.extend,
                clock=lambda: NOW,
                back_off_s=(0.02, 0.1),
                turn_s=0.01,
                limits=more.get("limits", (1 << 20, 30, 30)),
            )
            task = asyncio.create_task(poller.run())
            try:
                await story(api, seen)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        return api

    return seen, asyncio.run(main())


def words(seen):
    """What was told of pods."""
    return [s.word for s in seen if isinstance(s, PodSeen)]


def states(seen):
    """How the source stood."""
    return [s.state for s in seen if isinstance(s, EndpointHealth)]


async def watching(api, plural="pods", times=1):
    """Wait for so many watches."""
    await until(lambda: sum(r == plural and "watch" in q for _, r, q in api.asked) >= times)


def test_what_is_there_is_listed_and_what_changes_is_watched_each_told_once():
    """With the Role of deploy/ and nothing beyond it; an event is the same disruption as the condition."""

    async def story(api, seen):
        api.put("pods", a("oom_killed"))
        await until(lambda: words(seen) == ["oom_killed"])
        await watching(api)
        api.put("pods", a("preempted"))
        api.put("events", a("event", base="event"))
        api.put("pods", a("preempted"))
        await until(lambda: "disruption" in words(seen))
        api.delete("pods", a("preempted"))
        await until(lambda: "evicted" in words(seen))
        await asyncio.sleep(0.1)

    seen, api = play(story)
    assert words(seen) == ["oom_killed", "disruption", "evicted"]
    assert states(seen) == ["up"]
    core = {("", r, v) for r in ("pods", "events") for v in ("list", "watch")}
    rays = ("rayclusters", "rayjobs", "rayservices")
    assert api.verbs() == core | {("ray.io", r, v) for r in rays for v in ("list", "watch")}
    selectors = {q.get("labelSelector") for _, r, q in api.asked if r == "pods"}
    assert selectors == {f"ray.io/cluster={CLUSTER}"}


def test_an_event_that_comes_before_its_pod_waits_for_it():
    """They are listed side by side."""

    async def story(api, seen):
        await watching(api)
        api.put("events", a("event", base="event"))
        await watching(api, "events")
        await asyncio.sleep(0.1)
        assert words(seen) == []
        api.put("pods", a("pod"))
        await until(lambda: words(seen))

    seen, _ = play(story)
    assert words(seen) == ["disruption"]


@pytest.mark.parametrize("piece", [1, 3, 64])
def test_a_watch_may_cut_its_lines_anywhere(piece):
    """Pieces of a body have nothing to do with its lines."""

    async def story(api, seen):
        api.piece = piece
        await watching(api)
        api.put("pods", a("oom_killed", {"metadata": {"annotations": {"x": "ü€😀"}}}))
        await until(lambda: words(seen))

    assert words(play(story)[0]) == ["oom_killed"]


def test_a_watch_that_ends_goes_on_where_it_was_and_lists_nothing_again():
    """Also at a bookmark's version; what happened between two watches is told."""

    async def story(api, seen):
        await watching(api)
        api.bookmark()
        await asyncio.sleep(0.1)
        at = str(api.version)
        api.end_watches()
        await watching(api, times=2)
        api.end_watches()
        api.put("pods", a("oom_killed"))
        await until(lambda: words(seen))
        versions = [q["resourceVersion"] for _, r, q in api.asked if r == "pods" and "watch" in q]
        assert versions[1] == at

    seen, api = play(story)
    assert words(seen) == ["oom_killed"]
    assert sum(r == "pods" and "watch" not in q for _, r, q in api.asked) == 1


@pytest.mark.parametrize("as_event", [False, True])
def test_a_version_that_is_too_old_means_listing_again_and_nothing_twice(as_event):
    """410, as a status or in the stream. A pod that went meanwhile says nothing: nobody saw how."""

    async def story(api, seen):
        other = {"metadata": {"uid": "b", "name": "b"}}
        api.put("pods", a("oom_killed"))
        api.put("pods", a("pod", other))
        await watching(api)
        api.gone_as_event = as_event
        del api.objects["pods"]["b"]
        api.compact()
        await until(lambda: sum(r == "pods" and "watch" not in q for _, r, q in api.asked) == 2)
        await watching(api, times=3)
        api.put("pods", a("evicted", {"metadata": {"uid": "c", "name": "c"}}))
        await until(lambda: len(words(seen)) > 1)

    seen, _ = play(story)
    assert words(seen) == ["oom_killed", "evicted"]
    assert states(seen) == ["up"]


def test_a_server_that_calls_every_version_too_old_is_not_hammered():
    """A list costs it more than a watch."""

    async def story(api, seen):
        api.compacted = 1 << 60
        await watching(api)
        before = len(api.asked)
        await asyncio.sleep(0.5)
        assert len(api.asked) - before <= 2 * 5 * 8

    play(story)


def test_a_list_comes_in_pages():
    """No page is larger than what is read in a few milliseconds."""

    async def story(api, seen):
        for number in range(60):
            api.put(
                "pods", a("oom_killed", {"metadata": {"uid": f"u{number}", "name": f"n{number}"}})
            )
        await until(lambda: len(words(seen)) >= 60)

    async def first(api, seen):
        api.status = 503
        await asyncio.sleep(0.05)
        api.status = 0
        await story(api, seen)

    seen, api = play(first)
    assert len(words(seen)) == 60
    pages = [q for _, r, q in api.asked if r == "pods" and "watch" not in q and "continue" in q]
    assert len(pages) == 5
    limits = {(r, q["limit"]) for _, r, q in api.asked if "limit" in q}
    assert {("pods", "10"), ("events", "100")} <= limits


@pytest.mark.parametrize(
    ("trouble", "state"),
    [
        ({"status": 500}, "error"),
        ({"status": 429}, "error"),
        ({"tokens": {"t"}}, "unauthorized"),
        ({"allowed": set()}, "forbidden"),
        ({"raw": b"[" * 60_000}, "error"),
        ({"raw": b'{"items": [7], "metadata": {}}'}, "error"),
        ({"raw": b"x" * (5 << 20)}, "error"),
    ],
)
def test_trouble_is_a_state_of_the_source_and_passes(trouble, state):
    """Each its own; asked ever more rarely; what happened meanwhile is told when it is over."""
    fine = KubeApi()

    async def story(api, seen):
        for name, value in trouble.items():
            setattr(api, name, value)
        api.put("pods", a("oom_killed"))
        await until(lambda: state in states(seen))
        before = len(api.asked)
        await asyncio.sleep(0.3)
        assert len(api.asked) - before <= 5 * 6
        for name in trouble:
            setattr(api, name, getattr(fine, name))
        await until(lambda: states(seen)[-1] == "up" and words(seen))

    seen, _ = play(story)
    assert words(seen) == ["oom_killed"]


def test_one_kind_that_is_forbidden_is_said_and_the_others_are_read():
    """A Role that was cut short."""

    async def story(api, seen):
        api.allowed = {x for x in api.allowed if x[1] != "events"}
        api.put("pods", a("oom_killed"))
        await until(lambda: "forbidden" in states(seen) and words(seen))

    seen, _ = play(story)
    (said,) = [s.detail for s in seen if getattr(s, "state", "") == "forbidden"]
    assert said == "HTTP 403 to events"


def test_a_service_account_that_may_read_nothing_is_no_trouble_unless_somebody_asked(tmp_path):
    """Every pod has one by default. Once it could read, or where the configuration says so, it is."""

    async def never(api, seen):
        api.allowed = set()
        await until(lambda: states(seen))
        await asyncio.sleep(0.1)

    async def once(api, seen):
        await until(lambda: "up" in states(seen))
        api.allowed = set()
        api.end_watches()
        await until(lambda: "forbidden" in states(seen))

    assert states(play(never, asked_for=False)[0]) == ["off"]
    assert states(play(never)[0]) == ["forbidden"]
    assert states(play(once, asked_for=False)[0]) == ["up", "forbidden"]


def test_a_cluster_without_kuberay_is_no_trouble():
    """Pods that were labelled by hand."""

    async def story(api, seen):
        api.kuberay = False
        api.put("pods", a("oom_killed"))
        await until(lambda: words(seen))
        await asyncio.sleep(0.1)

    seen, api = play(story)
    assert states(seen) == ["up"]
    assert sum(g == "ray.io" for g, _, _ in api.asked) <= 6


def test_a_server_that_hangs_or_is_not_there_is_said():
    """The one accepts and says nothing, the other refuses."""

    async def hang(api, seen):
        await watching(api, times=2)  # it lasts a moment
        api.hang = True
        await until(lambda: "timeout" in states(seen))

    assert "timeout" in states(play(hang, limits=(1 << 20, 0.1, 0.1))[0])

    async def refused():
        seen: list[object] = []
        access = Access("http://127.0.0.1:1", NAMESPACE)
        poller = KubernetesPoller(access, seen.extend, clock=lambda: NOW)
        task = asyncio.create_task(poller.run())
        await until(lambda: states(seen))
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)
        return states(seen)

    assert asyncio.run(refused()) == ["refused"]


def test_a_token_that_the_kubelet_renewed_is_read_again(tmp_path):
    """And one that is not there is a state, not an end."""
    token = tmp_path / "token"

    async def story(api, seen):
        api.tokens = {"new"}
        api.put("pods", a("oom_killed"))
        await until(lambda: "unauthorized" in states(seen))
        token.write_text("old\n")
        await asyncio.sleep(0.1)
        token.write_text("new\n")
        await until(lambda: words(seen))

    seen, _ = play(story, account=tmp_path)
    assert states(seen) == ["unauthorized", "up"]


def authority(folder):
    """A server's certificate for 127.0.0.1 that only its own authority vouches for, and that authority as ca.crt."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "kubernetes")])
    begun = datetime.now(timezone.utc) - timedelta(days=1)
    built = x509.CertificateBuilder(name, name, key.public_key(), 7, begun, begun + timedelta(9))
    address = x509.SubjectAlternativeName([x509.IPAddress(ip_address("127.0.0.1"))])
    text = built.add_extension(address, critical=False).sign(key, hashes.SHA256())
    (folder / "ca.crt").write_bytes(text.public_bytes(serialization.Encoding.PEM))
    form = serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, *form)
    (folder / "key").write_bytes(pem)
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    context.load_cert_chain(folder / "ca.crt", folder / "key")
    return context


def test_the_server_is_the_one_that_the_cluster_s_authority_vouches_for(tmp_path):
    """No other gets the token."""
    tls = authority(tmp_path)
    (tmp_path / "token").write_text("t")

    async def known(api, seen):
        api.put("pods", a("oom_killed"))
        await until(lambda: words(seen))

    async def unknown(api, seen):
        await until(lambda: states(seen))
        assert api.asked == []

    assert words(play(known, tls, account=tmp_path)[0]) == ["oom_killed"]
    (tmp_path / "ca.crt").unlink()
    assert states(play(unknown, tls, account=tmp_path)[0]) == ["error"]
    (tmp_path / "ca.crt").write_text("no certificate")
    assert states(play(unknown, tls, account=tmp_path)[0]) == ["error"]


def test_a_line_that_is_too_long_costs_itself_only():
    """An object larger than etcd holds; the watch goes on behind it."""

    async def story(api, seen):
        await watching(api)
        api.put("pods", a("evicted", {"metadata": {"annotations": {"x": "y" * 20_000}}}))
        api.put("pods", a("oom_killed", {"metadata": {"uid": "b"}}))
        await until(lambda: words(seen))

    assert words(play(story, limits=(10_000, 30, 30))[0]) == ["oom_killed"]


def test_kuberay_s_resources_are_told_when_they_change():
    """One that was deleted too, also while nobody watched."""

    async def story(api, seen):
        job = a("rayjob", base="rayjob")
        api.put("rayjobs", job)
        await watching(api, "rayjobs")
        api.put("rayjobs", a("rayjob", base="rayjob"))
        api.put("rayjobs", a("rayjob", {"status": {"failed": 1}}, base="rayjob"))
        await until(lambda: any(isinstance(s, KubeRaySeen) and not s.retried for s in seen))
        del api.objects["rayjobs"][job["metadata"]["uid"]]
        api.compact()
        await until(lambda: any(getattr(s, "is_gone", False) for s in seen))

    seen, _ = play(story)
    told = [(s.retried, s.is_gone) for s in seen if isinstance(s, KubeRaySeen)]
    assert told == [(True, False), (False, False), (False, True)]
    listed = [s.retried for s in seen if isinstance(s, KubeRayListed)]
    assert listed[-1] == frozenset()


def test_the_objects_of_the_collection_are_json():
    """They go over the wire as they are."""
    assert json.loads(json.dumps(a("evicted")))["metadata"]["uid"] == UID
