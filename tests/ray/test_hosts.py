"""Several hosts, and raywatch on the head alone: it sees no log of the others, as in most clusters."""

import json
import re
import shlex
import shutil
import sys
import tempfile
import time
from functools import partial
from pathlib import Path

import pytest

import raywatch
from tests import daemons
from tests.ray.hosts import Hosts

until = partial(daemons.until, pause_s=1.0)  # each question is a process on the head
pytestmark = [pytest.mark.ray, pytest.mark.timeout(500)]
CONFIG = """\
[[resume]]
run = "llm"
mode = "auto"
hook = {kind = "job"}
"""


# Ray's own for a node that is silent: five questions, but each of 2.5 s and not of 10 (64 s are 17 s).
SOON_DEAD = {
    "RAY_health_check_initial_delay_ms": "1250",
    "RAY_health_check_period_ms": "750",
    "RAY_health_check_timeout_ms": "2500",
}


@pytest.fixture
def hosts():
    folder = Path(tempfile.mkdtemp(prefix="rw", dir="/tmp"))
    environ = {"GLOO_SOCKET_IFNAME": "eth0", "RAY_DEDUP_LOGS": "0", **SOON_DEAD}
    try:
        with Hosts(folder, environ) as running:
            running.add(num_cpus=0)
            for _ in range(3):
                running.add(num_cpus=1)
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def start_daemon(hosts, host=None, config=CONFIG):
    """The daemon, on the head or another host; it finds its session by itself. Return its URL."""
    host = host or hosts.head
    folder = hosts.folder / f"daemon-{host.name}"
    folder.mkdir()
    (folder / "raywatch.toml").write_text(config)
    flags = ["--config", str(folder / "raywatch.toml"), "--store", str(folder / "raywatch.db")]
    argv = [sys.executable, "-m", "raywatch", "daemon", *flags]
    hosts.start(host, argv, f"{folder.name}.out")
    log = hosts.folder / f"{folder.name}.out"
    until(lambda: "raywatch listens on " in log.read_text(), 60, "the daemon listens")
    return "http://127.0.0.1:9265"


def submit_training(hosts):
    """Two ranks on two of three hosts, as job j1."""
    script = hosts.folder / "train.py"
    shutil.copyfile(Path(raywatch.__file__).with_name("demo_train.py"), script)
    argv = [sys.executable, str(script), "--name", "llm", "--storage", str(hosts.folder / "s")]
    job = {"entrypoint": shlex.join(argv), "submission_id": "j1"}
    hosts.ask(f"{hosts.dashboard}/api/jobs/", job)


def output_of(hosts, job):
    """What a job printed."""
    return json.loads(hosts.ask(f"{hosts.dashboard}/api/jobs/{job}/logs"))["logs"]


def test_a_host_that_vanishes_without_a_word(hosts):
    """Survivors print nothing and no log of the lost host can be read; the run goes on, elsewhere, once."""
    url = start_daemon(hosts)
    submit_training(hosts)

    def snapshot():
        return json.loads(hosts.ask(f"{url}/api/v1/snapshot"))

    def run():
        return next((r for r in snapshot()["runs"] if r["name"] == "llm"), {})

    def knows_its_ranks():
        ranks = run().get("ranks", [])
        return len(ranks) == 2 and all(r["node"] for r in ranks)

    until(knows_its_ranks, 150, "the daemon knows where the ranks are")
    until(lambda: ((run()["checkpoint"] or {}).get("step") or 0) >= 20, 60, "a whole checkpoint")
    nodes = hosts.alive()
    by_id = {node: ip for ip, node in nodes.items()}
    lost = by_id[next(r["node"] for r in run()["ranks"] if r["rank"] == 1)]
    hosts.vanish(next(h for h in hosts.hosts if h.ip == lost))

    def went_on():
        return next((a for a in snapshot()["actions"] if a["state"] == "succeeded"), None)

    until(went_on, 200, f"the job is submitted again; {snapshot()['actions']}")
    told = snapshot()
    (action,) = told["actions"]
    (incident,) = [i for i in told["incidents"] if i["role"] in ("root", "symptom")]
    assert (incident["class"], incident["subject"]["id"]) == ("node_lost", nodes[lost])
    assert (action["class"], action["incident"]) == ("node_lost", incident["id"])
    jobs = {
        j["submission_id"]: j["status"]
        for j in json.loads(hosts.ask(f"{hosts.dashboard}/api/jobs/"))
    }
    assert set(jobs) == {"j1", action["submission_id"]}
    assert jobs["j1"] == "FAILED"

    def output():
        return output_of(hosts, action["submission_id"])

    until(lambda: " of 2 starts at step" in output(), 120, "it trains again")
    assert " of 2 starts at step 1 " not in output()


NOTICED = """\
[ray]
dashboard = "http://{head}:8265"
[cloud]
provider = "aws"
url = "http://127.0.0.1:8111"
[[notice]]
hook = {{kind = "drain"}}
"""
LEFT_S = 25  # what the cloud leaves: AWS gives 120 s, nothing here needs them


def test_a_host_that_its_cloud_takes_is_drained_and_training_goes_on(hosts, record_property):
    """Nobody told Ray; raywatch on that host does, so Ray Train moves at the deadline though it has no failures to spend."""
    url = start_daemon(hosts)
    submit_training(hosts)

    def snapshot():
        return json.loads(hosts.ask(f"{url}/api/v1/snapshot"))

    until(lambda: output_of(hosts, "j1").count("checkpoint written") >= 3, 150, "it trains")
    starts = re.findall(r"starts at step 1 on node (\w+)", output_of(hosts, "j1"))
    by_id = {node: ip for ip, node in hosts.alive().items()}
    host = next(h for h in hosts.hosts if h.ip == by_id[starts[0]])
    values, told = hosts.folder / "values.json", {"instance-id": "i-1", "local-ipv4": host.ip}
    values.write_text(json.dumps(told))
    argv = [sys.executable, "-m", "tests.clouds", "8111", str(values)]
    hosts.start(host, argv, "clouds.out")
    its_url = start_daemon(hosts, host, NOTICED.format(head=hosts.head.ip))

    def asks_its_cloud():
        return b'source_up{source="aws"} 1.0' in hosts.ask(f"{its_url}/metrics", on=host)

    until(asks_its_cloud, 60, "the daemon on the host asks its cloud")
    began = time.time()
    stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(began + LEFT_S))
    action = json.dumps({"action": "terminate", "time": stamp})
    part = values.with_suffix(".part")
    part.write_text(json.dumps({**told, "spot/instance-action": action}))
    part.replace(values)

    def drained():
        return next((d for d in snapshot()["drains"] if d["node_id"] == starts[0]), None)

    until(drained, 20, "the GCS drains the node")
    record_property(
        "figures", f"notice -> drain in the GCS' log: {time.time() - began:.1f} s at most"
    )
    assert drained()["message"] == "raywatch: aws announces preemption: terminate"

    def answered():
        (notice,) = json.loads(hosts.ask(f"{its_url}/api/v1/notices", on=host))["notices"]
        return [(a["hook"], a["state"]) for a in notice["actions"]]

    until(lambda: answered() == [("drain", "succeeded")], 20, "the hook is known to have worked")
    pause = max(0.0, began + LEFT_S - time.time())
    time.sleep(pause)
    hosts.vanish(host)

    def moved():
        found = re.findall(r"starts at step (\d+) on node (\w+)", output_of(hosts, "j1"))
        return {node for step, node in found if int(step) > 1}

    until(lambda: len(moved()) == 2, 150, "Ray Train goes on elsewhere")
    assert starts[0] not in moved()
    until(lambda: snapshot()["incidents"], 60, "the loss is known")
    found = snapshot()
    assert [i["class"] for i in found["incidents"] if i["role"] == "root"] == ["spot_preemption"]
    assert found["actions"] == []  # nothing was to be resumed
    (job,) = json.loads(hosts.ask(f"{hosts.dashboard}/api/jobs/"))
    assert job["status"] == "RUNNING"
