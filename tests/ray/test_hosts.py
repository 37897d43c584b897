"""Several hosts, and raywatch on the head alone: it sees no log of the others, as in most clusters."""

import json
import shlex
import shutil
import sys
import tempfile
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


def start_daemon(hosts):
    """The daemon with no more than a rule; it finds session and dashboard by itself. Return its URL."""
    config = hosts.folder / "raywatch.toml"
    config.write_text(CONFIG)
    flags = ["--config", str(config), "--store", str(hosts.folder / "state" / "raywatch.db")]
    hosts.start(hosts.head, [sys.executable, "-m", "raywatch", "daemon", *flags], "daemon.out")
    log = hosts.folder / "daemon.out"
    until(lambda: "raywatch listens on " in log.read_text(), 60, "the daemon listens")
    return "http://127.0.0.1:9265"


def test_a_host_that_vanishes_without_a_word(hosts):
    """Survivors print nothing and no log of the lost host can be read; the run goes on, elsewhere, once."""
    url = start_daemon(hosts)
    script = hosts.folder / "train.py"
    shutil.copyfile(Path(raywatch.__file__).with_name("demo_train.py"), script)
    argv = [sys.executable, str(script), "--name", "llm", "--storage", str(hosts.folder / "s")]
    hosts.ask(
        f"{hosts.dashboard}/api/jobs/", {"entrypoint": shlex.join(argv), "submission_id": "j1"}
    )

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
        return hosts.ask(f"{hosts.dashboard}/api/jobs/{action['submission_id']}/logs").decode()

    until(lambda: " of 2 starts at step" in output(), 120, "it trains again")
    assert " of 2 starts at step 1 " not in output()
