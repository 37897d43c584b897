"""The job hook on real Ray: one submission a key, from a package that Ray had dropped."""

import asyncio
import io
import json
import os
import tempfile
import threading
import time
import urllib.error
import urllib.request
import zipfile
from pathlib import Path

import pytest

from raywatch.model import Action, Hook, Run
from raywatch.resume.hooks import HookRunner
from raywatch.resume.jobs import JobsClient
from raywatch.resume.keeper import Keeper
from raywatch.resume.packages import PackageStore, PutBack, put_back
from tests.daemons import until
from tests.ray.cluster import CLUSTER_MARK, NODE_MARK, family, start_head, still

pytestmark = pytest.mark.ray
NAME = "_ray_pkg_00112233445566aa.zip"
PIN_S = 6
# Fails the first time and when it is told to; says what it is made of.
TRAIN = """
import os, pathlib, sys, time
import helper
print("made of", helper.WORD, "in", os.environ["COLOUR"], flush=True)
pathlib.Path("written_by_the_job").write_text("x")
gate = pathlib.Path(sys.argv[1])
while not gate.exists():
    time.sleep(0.1)
sys.exit(int(gate.read_text()))
"""


@pytest.fixture(scope="module")
def cluster():
    """A head whose packages are pinned for seconds, not ten minutes, and not cached: as on a new node."""
    folder = Path(tempfile.mkdtemp(prefix="rw", dir="/tmp"))
    environ = {
        "RAY_RUNTIME_ENV_TEMPORARY_REFERENCE_EXPIRATION_S": str(PIN_S),
        "RAY_RUNTIME_ENV_WORKING_DIR_CACHE_SIZE_GB": "0",
    }
    with start_head(folder, environ=environ) as running:
        yield running


def upload(cluster):
    """Put a working_dir into the GCS as Ray's own client does."""
    data = io.BytesIO()
    with zipfile.ZipFile(data, "w") as archive:
        archive.writestr("train.py", TRAIN)
        archive.writestr("helper.py", "WORD = 'bricks'")
    url = f"{cluster.dashboard}/api/packages/gcs/{NAME}"
    request = urllib.request.Request(url, data.getvalue(), method="PUT")
    with urllib.request.urlopen(request, timeout=30) as answer:
        assert answer.status == 200


def is_there(cluster):
    """Whether Ray has the package."""
    try:
        cluster.ask(f"/api/packages/gcs/{NAME}")
    except urllib.error.HTTPError as error:
        with error:
            return error.code != 404
    return True


def until_dropped(cluster):
    """Ask seldom: each question pins the package anew."""
    for _ in range(6):
        threading.Event().wait(PIN_S + 1)
        if not is_there(cluster):
            return
    raise AssertionError("Ray still has the package")


def ended(cluster, submission_id, status):
    """Wait for the end of a job."""
    until(lambda: cluster.job(submission_id)["status"] not in ("PENDING", "RUNNING"), 60, "its end")
    assert cluster.job(submission_id)["status"] == status


def test_a_failed_job_goes_on_once_though_ray_dropped_its_code(cluster, tmp_path):
    """Kept while it ran, dropped by Ray after it failed, put back, and submitted once by five firings."""
    gate = tmp_path / "gate"
    store = PackageStore(tmp_path / "kept")
    keeper = Keeper(store, time.time)
    upload(cluster)
    env = {"working_dir": f"gcs://{NAME}", "env_vars": {"COLOUR": "red"}}
    cluster.ask(
        "/api/jobs/",
        {
            "submission_id": "old",
            "entrypoint": f"python train.py {gate}",
            "runtime_env": env,
            "metadata": {"team": "x"},
        },
    )
    until(lambda: "made of bricks" in cluster.job_log("old"), 60, "it runs")
    shown = json.dumps(cluster.job("old")["runtime_env"])
    asyncio.run(keeper.keep((shown,), cluster.session))
    action = Action(
        key="raywatch-hook-1-00ff",
        run="old",
        run_name="",
        incident="i1",
        class_id="worker_crash",
        attempt=1,
        mode="auto",
        hook=Hook("job"),
        state="started",
        created_at=time.time(),
        due_at=time.time(),
        old_submission="old",
    )

    backs: list[PutBack] = []

    async def back(runtime_env):
        backs.append(await put_back(store, runtime_env, cluster.dashboard, lambda: None))
        return backs[-1]

    async def fire(times):
        async with JobsClient(cluster.dashboard, lambda: None) as jobs:
            hooks = HookRunner(jobs, time.time, os.environ, back)
            run = Run("old", submissions=("old",))
            return await asyncio.gather(*(hooks.run(action, run, "{}") for _ in range(times)))

    (early,) = asyncio.run(fire(1))
    assert (early.state, "RUNNING" in early.detail) == ("deferred", True)

    gate.write_text("3")
    ended(cluster, "old", "FAILED")
    until_dropped(cluster)
    gate.unlink()
    assert backs == []  # only a job that may start is asked for
    outcomes = asyncio.run(fire(5)) + asyncio.run(fire(1))

    assert {b.state for b in backs} <= {"restored", "present"}
    assert "restored" in {b.state for b in backs}
    assert [o.state for o in outcomes[:5]] == ["succeeded"] * 5
    submitted = {j["submission_id"] for j in cluster.ask("/api/jobs/")}
    assert submitted - {None} == {"old", action.key}
    until(lambda: "made of bricks in red" in cluster.job_log(action.key), 60, "it runs again")
    gate.write_text("0")
    ended(cluster, action.key, "SUCCEEDED")
    again = cluster.job(action.key)
    assert again["metadata"] == {
        "team": "x",
        "raywatch_run": "old",
        "raywatch_action": action.key,
        "raywatch_attempt": "1",
        **{k: v for k, v in again["metadata"].items() if k.startswith("job_")},
    }
    assert outcomes[5].state == "succeeded"


def test_a_killed_node_leaves_the_rest_at_work_and_a_stopped_cluster_leaves_nothing():
    """The helper itself: a second node comes, works, and goes with all that belonged to it."""
    with start_head(Path(tempfile.mkdtemp(prefix="rw", dir="/tmp"))) as cluster:
        everyone = family(CLUSTER_MARK, str(cluster.temp_dir), cluster.temp_dir)
        node = cluster.add_node(resources={"spot": 1})
        mark = f"{cluster.temp_dir}/{node.name}"
        workers = family(NODE_MARK, mark)
        assert set(cluster.node_ids()) == {"node0", "node1"}
        assert len(workers) >= 4  # starter, raylet and its two agents
        assert not workers & everyone
        cluster.kill_node(node)

        assert not family(NODE_MARK, mark) | still(workers)
        assert everyone <= still(everyone)
        everyone |= workers
    assert not still(everyone)
    assert not cluster.temp_dir.exists()
