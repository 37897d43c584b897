"""Ray Train on a real cluster: its run with ranks and budget from the API, and who is left after its driver died."""

import asyncio
import os
import signal
import sys
import tempfile
import time
from pathlib import Path

import aiohttp
import pytest

from raywatch.collect.dashboard import DashboardPoller
from raywatch.core.runs import Runs, observe
from raywatch.model import Action, Hook
from raywatch.observations import EndpointHealth, Observation, TrainRunSeen
from raywatch.resume.jobs import JobsClient
from raywatch.resume.preflight import preflight
from tests.ray.cluster import start_head

pytestmark = pytest.mark.ray
TRAIN = """
import sys, time
from ray.train import FailureConfig, RunConfig, ScalingConfig
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

def loop():
    time.sleep(300)

config = RunConfig(name="tiny", storage_path=sys.argv[1], failure_config=FailureConfig(max_failures=2))
DataParallelTrainer(loop, scaling_config=ScalingConfig(num_workers=2), run_config=config).fit()
"""


@pytest.fixture(scope="module")
def cluster():
    """A head with room for two ranks."""
    with start_head(Path(tempfile.mkdtemp(prefix="rw", dir="/tmp")), num_cpus=3) as running:
        yield running


async def polled(poller, done, seconds):
    """Poll until `done(all that was seen)`; return what was seen."""
    seen: list[Observation] = []
    async with aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=20)) as session:
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and not done(seen):
            seen += await poller.poll(session)
            await asyncio.sleep(0.5)
    return seen


def runs_in(seen):
    """Rows of the Train API."""
    return [o for o in seen if isinstance(o, TrainRunSeen)]


def test_a_run_is_seen_with_its_ranks_and_is_gone_after_its_driver(cluster, tmp_path):
    """Before it nobody asks Ray Train; while it runs nothing may start; once it is gone nothing blocks."""
    script = tmp_path / "train.py"
    script.write_text(TRAIN)
    poller = DashboardPoller(cluster.dashboard, lambda: None, lambda _: None, clock=time.time)
    before = asyncio.run(polled(poller, lambda seen: len(seen) >= 6, 15))
    assert "train" not in {o.name for o in before if isinstance(o, EndpointHealth)}
    cluster.ask(
        "/api/jobs/",
        {
            "submission_id": "old",
            "entrypoint": f"{sys.executable} {script} {tmp_path}",
            "runtime_env": {"env_vars": {"RAY_TRAIN_ENABLE_STATE_TRACKING": "1"}},
        },
    )

    def trains(seen):
        return [
            r
            for r in runs_in(seen)
            if r.status == "RUNNING" and r.attempts and r.attempts[-1].workers
        ]

    seen = asyncio.run(polled(poller, trains, 120))
    assert {(o.state, o.detail) for o in seen if isinstance(o, EndpointHealth)} == {("up", "")}
    run = trains(seen)[-1]
    workers = run.attempts[-1].workers
    assert (run.name, run.submission_id, run.max_failures) == ("tiny", "old", 2)
    assert run.storage_path == str(tmp_path)
    assert [w.world_rank for w in workers] == [0, 1]
    assert {w.node_id for w in workers} == set(cluster.node_ids().values())
    assert all(b"RayTrainWorker" in Path(f"/proc/{w.pid}/cmdline").read_bytes() for w in workers)

    state = Runs()
    for item in seen:
        state = observe(state, item, time.time())
    (found,) = [r for r in state.runs.values() if r.name == "tiny"]
    assert (found.level, found.max_failures, len(found.ranks)) == (2, 2, 2)

    action = Action(
        *("key", found.id, "tiny", "i1", "worker_crash", 1, "auto", Hook("job"), "started"),
        created_at=time.time(),
        due_at=time.time(),
        old_submission="old",
        old_job=run.job_id,
    )

    async def left():
        async with JobsClient(cluster.dashboard, lambda: None) as jobs:
            living, nodes = await jobs.living_workers(), await jobs.living_nodes()
            return living, nodes, await preflight(jobs, action, found)

    living, nodes, blocked = asyncio.run(left())
    assert {r.worker_id for r in found.ranks} <= {w.worker_id for w in living}
    assert run.job_id + "f" * 48 in {w.worker_id for w in living}
    assert nodes == frozenset(cluster.node_ids().values())
    assert "RUNNING" in blocked.detail

    row = cluster.job("old")
    os.kill(int(row["driver_info"]["pid"]), signal.SIGKILL)
    reasons: list[str] = []
    for _ in range(120):
        _, _, blocked = asyncio.run(left())
        if blocked is None:
            break
        assert blocked.state == "deferred", blocked
        reasons.append(blocked.detail)
        time.sleep(0.5)
    assert blocked is None, reasons
    ended = asyncio.run(
        polled(poller, lambda s: any(r.status == "ABORTED" for r in runs_in(s)), 60)
    )
    assert runs_in(ended)[-1].status == "ABORTED"
