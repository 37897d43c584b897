"""Hooks: one submission a key, nothing while the old work may live, every end an outcome."""

import asyncio
import json
import os
import sys
import time
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import pytest
from aiohttp import web

from raywatch.model import Action, Checkpoint, Hook, Rank, Run
from raywatch.resume.hooks import HookRunner
from raywatch.resume.jobs import JobsClient
from raywatch.resume.packages import PutBack
from raywatch.resume.program import OUTPUT_LIMIT

OLD = {
    "submission_id": "old",
    "job_id": "02000000",
    "status": "FAILED",
    "entrypoint": "python train.py",
    "runtime_env": {"working_dir": "gcs://_ray_pkg_1.zip", "env_vars": {"A": "b"}},
    "metadata": {"team": "x"},
}
DRIVER = {
    "type": "DRIVER",
    "submission_id": None,
    "job_id": "02000000",
    "status": "SUCCEEDED",  # so it says of a driver that was killed
    "entrypoint": "python by_hand.py",
    "start_time": 0,
}
NODES = [{"node_id": "n1", "state": "ALIVE"}, {"node_id": "n2", "state": "DEAD"}]
RUN = Run("lineage-1", name="llm", submissions=("old",))
ACTION = Action(
    key="raywatch-llm-1-abcd1234",
    run="lineage-1",
    run_name="llm",
    incident="i1",
    class_id="worker_crash",
    attempt=1,
    mode="auto",
    hook=Hook("job"),
    state="started",
    created_at=0.0,
    due_at=0.0,
    old_submission="old",
    old_job="02000000",
    checkpoint=Checkpoint("/s/llm/checkpoint_1", 9, whole=True, checked="x", at=0.0),
    avoid_nodes=("n1", "n2"),
)


class Ray:
    """Plays the Jobs API of Ray 2.60 (dashboard/modules/job/job_head.py)."""

    def __init__(self, *jobs, actors=(), workers=(), nodes=(), token=None) -> None:
        self.jobs = {j["submission_id"] or j["job_id"]: dict(j) for j in jobs}
        self.state = {"actors": list(actors), "workers": list(workers), "nodes": list(nodes)}
        self.told: dict[str, dict[str, object]] = {}
        self.token = token
        self.posts: list[dict[str, object]] = []
        self.cut = self.hang = False

    def app(self) -> web.Application:
        """The application."""
        app = web.Application()
        app.add_routes(
            [
                web.get("/api/jobs/", self.list_jobs),
                web.get("/api/jobs/{id}", self.one),
                web.post("/api/jobs/", self.post),
                web.get("/api/v0/{what}", self.list_state),
            ]
        )
        return app

    def refused(self, request):
        """401 without a token, 403 with a wrong one."""
        given = request.headers.get("Authorization")
        if self.token and given != f"Bearer {self.token}":
            return web.Response(status=403 if given else 401, text="no")
        return None

    async def list_jobs(self, request):
        """All jobs."""
        return self.refused(request) or web.json_response(list(self.jobs.values()))

    async def one(self, request):
        """One job, 404 where there is none."""
        if self.hang:
            await asyncio.sleep(30)
        found = self.jobs.get(request.match_info["id"])
        return self.refused(request) or (
            web.json_response(found) if found else web.Response(status=404)
        )

    async def post(self, request):
        """Submit; the same id twice is an error with Ray's text."""
        body = await request.json()
        self.posts.append(body)
        if body["submission_id"] in self.jobs:
            text = f"ValueError: Job with submission_id {body['submission_id']} already exists. "
            return web.Response(status=500, text=text)
        self.jobs[body["submission_id"]] = {**body, "status": "PENDING", "job_id": None}
        if self.cut:
            request.transport.close()
        return web.json_response({"submission_id": body["submission_id"]})

    async def list_state(self, request):
        """The State API's envelope (dashboard/state_aggregator.py); a filter is asked for by name."""
        what, query = request.match_info["what"], request.query
        rows = self.state[what]
        if query.get("filter_keys") == "is_alive":
            rows = [r for r in rows if str(r["is_alive"]) == query["filter_values"]]
        elif query.get("filter_keys"):
            rows = [r for r in rows if r[query["filter_keys"]] == query["filter_values"]]
        counts = {"num_after_truncation": len(self.state[what]), "num_filtered": len(rows)}
        told = {"result": rows, "total": len(self.state[what]), **counts, **self.told.get(what, {})}
        return self.refused(request) or web.json_response(
            {"result": True, "data": {"result": told}}
        )


@asynccontextmanager
async def running(ray: Ray, *, token=None, timeout_s=5.0, put_back=None):
    """A hook runner on a real server."""
    runner = web.AppRunner(ray.app(), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    url = f"http://127.0.0.1:{runner.addresses[0][1]}"
    try:
        async with JobsClient(url, lambda: token, timeout_s=timeout_s) as jobs:
            yield HookRunner(jobs, lambda: 5.0, os.environ, put_back)
    finally:
        await runner.cleanup()


def play(ray: Ray, action=ACTION, run=RUN, incident="{}", **how):
    """Run one action; return its outcome."""

    async def main():
        async with running(ray, **how) as hooks:
            return await hooks.run(action, run, incident)

    return asyncio.run(main())


def test_a_job_is_submitted_again_as_it_was():
    """Same entrypoint and runtime_env, its own metadata and our marks, the key as its id."""
    ray = Ray(OLD)
    outcome = play(ray)

    assert (outcome.state, outcome.submission_id) == ("succeeded", ACTION.key)
    assert ray.posts == [
        {
            "entrypoint": "python train.py",
            "submission_id": ACTION.key,
            "runtime_env": OLD["runtime_env"],
            "metadata": {
                "team": "x",
                "raywatch_run": "lineage-1",
                "raywatch_action": ACTION.key,
                "raywatch_attempt": "1",
                "raywatch_checkpoint": "/s/llm/checkpoint_1",
            },
        }
    ]


def test_a_detached_actor_holds_no_rank():
    """Ray Train's coordinator outlives the job that made it."""
    row = {"state": "ALIVE", "job_id": "02000000", "is_detached": True}

    assert play(Ray(OLD, actors=[row])).state == "succeeded"


def test_firing_twice_gives_one_job():
    """Ray refuses the second; it is success once the job was read back as ours."""
    ray = Ray(OLD)

    async def main():
        async with running(ray) as hooks:
            return await asyncio.gather(*(hooks.run(ACTION, RUN, "{}") for _ in range(5)))

    outcomes = asyncio.run(main())

    assert {o.state for o in outcomes} == {"succeeded"}
    assert sorted(ray.jobs) == ["old", ACTION.key]


def test_an_existing_job_that_is_not_ours_is_no_success():
    """The name alone proves nothing."""
    assert play(Ray(OLD, {**OLD, "submission_id": ACTION.key, "metadata": {}})).state == "refused"


def test_a_submission_that_was_cut_is_read_back():
    """The server took it and the answer was lost: one job, and success."""
    ray = Ray(OLD)
    ray.cut = True

    assert play(ray).state == "succeeded"
    assert sorted(ray.jobs) == ["old", ACTION.key]


class SlowRay(Ray):
    """The GCS is busy with a dead node: it takes a submission after the client gave up."""

    def __init__(self, *jobs) -> None:
        super().__init__(*jobs)
        self.taken = asyncio.Event()

    async def post(self, request: web.Request) -> web.Response:
        """Take it later, whoever hangs up meanwhile."""
        body = await request.json()
        asyncio.get_running_loop().call_later(0.8, self._take, body)
        await asyncio.Event().wait()
        raise AssertionError

    def _take(self, body: dict[str, object]) -> None:
        self.taken.set()
        self.jobs.setdefault(str(body["submission_id"]), {**body, "status": "PENDING"})


def test_a_submission_that_is_taken_late_is_one_job():
    """Nobody knows yet: the same key is tried again, and Ray makes one job of it."""
    ray = SlowRay(OLD)

    async def main():
        async with running(ray, timeout_s=0.3) as hooks:
            first = await hooks.run(ACTION, RUN, "{}")
            await ray.taken.wait()
            return first, await hooks.run(ACTION, RUN, "{}")

    first, second = asyncio.run(main())

    assert (first.state, second.state) == ("deferred", "succeeded")
    assert sorted(ray.jobs) == ["old", ACTION.key]


@pytest.mark.parametrize("garbage", [{}, {"status": None}, {"status": "LOST"}])
def test_an_answer_that_says_nothing_does_not_end_it(garbage):
    """Neither is an old job of no known status over, nor another one no rival."""
    assert play(Ray({"submission_id": "old", **garbage})).state == "deferred"
    other = {**OLD, "submission_id": "other", "status": "LOST"}
    assert play(Ray(OLD, other)).state == "deferred"


@pytest.mark.parametrize(
    ("ray", "state", "word"),
    [
        (Ray({**OLD, "status": "RUNNING"}), "deferred", "RUNNING"),
        (Ray({**OLD, "status": "PENDING"}), "deferred", "PENDING"),
        (Ray({**OLD, "status": "SUCCEEDED"}), "refused", "SUCCEEDED"),
        (Ray({**OLD, "status": "STOPPED"}), "refused", "STOPPED"),
        (Ray(), "deferred", "missing"),
        (Ray(OLD, token="t"), "deferred", "unauthorized"),
        (Ray(OLD, {**OLD, "submission_id": "by-hand", "status": "RUNNING"}), "deferred", "by-hand"),
        (
            Ray(
                OLD,
                {
                    "submission_id": "x",
                    "status": "PENDING",
                    "metadata": {"raywatch_run": "lineage-1"},
                },
            ),
            "deferred",
            "same work",
        ),
        (Ray(OLD, actors=[{"state": "ALIVE", "job_id": "02000000"}]), "deferred", "1 actors"),
    ],
)
@pytest.mark.parametrize("kind", ["job", "command"])
def test_nothing_starts_while_the_old_work_may_live(ray, state, word, kind, tmp_path):
    """Read afresh before the submission; what cannot be read counts as not gone."""
    mark = tmp_path / "started"
    action = replace(ACTION, hook=Hook(kind, argv=("touch", str(mark))))
    outcome = play(ray, action)

    assert (outcome.state, word in outcome.detail) == (state, True)
    assert ray.posts == []
    assert not mark.exists()


def test_a_dashboard_that_hangs_or_is_gone_defers():
    """The GCS is gone: it accepts and never answers."""
    ray = Ray(OLD)
    ray.hang = True
    assert play(ray, timeout_s=0.3).state == "deferred"

    async def main():
        async with JobsClient("http://127.0.0.1:9", lambda: None) as jobs:
            return await HookRunner(jobs, lambda: 5.0, {}).run(ACTION, RUN, "{}")

    assert "refused" in asyncio.run(main()).detail


def test_the_right_token_is_sent():
    """And a wrong one defers."""
    assert play(Ray(OLD, token="t"), token="t").state == "succeeded"
    assert "forbidden" in play(Ray(OLD, token="t"), token="u").detail


# --- who is left ---


def alive(worker_id="w9", node_id="n1", pid=9, **more):
    """A row of /api/v0/workers."""
    row = {"worker_id": worker_id, "node_id": node_id, "pid": pid, "worker_type": "WORKER"}
    return {**row, "is_alive": True, "start_time_ms": 1000, **more}


DEAD_RANK = {"state": "DEAD", "job_id": "02000000", "node_id": "n1", "pid": 7}
BY_HAND = replace(ACTION, old_submission="")
RANKS = replace(RUN, ranks=(Rank(0, "n1", 5, "a0", "w0"), Rank(1, "n1", 6, "a1"), Rank(2, "n2", 5)))
ENDED = {**OLD, "end_time": 60_000}


@pytest.mark.parametrize(
    ("worker", "word"),
    [
        (alive("w0"), "processes of the old job live: worker 9 on n1"),  # its actor is DEAD
        (alive(pid=6), "worker 6"),  # whose worker id nobody knows
        (alive(pid=7), "worker 7"),  # an actor of the job that is no rank
        (alive("02000000" + "f" * 48, worker_type="DRIVER"), "driver 9"),
        (alive("w0", node_id="n2"), ""),  # the rows of a node that died stay alive for ever
        (alive("w0", node_id="n3"), ""),  # one that Ray has forgotten
        (alive(), ""),  # an idle one, or another job's
        (alive("03000000" + "f" * 48, worker_type="DRIVER"), ""),
        (alive(pid=5), ""),  # rank 0 is known to be another process
        (alive(pid=6, start_time_ms=61_000), ""),  # the same pid, given to another process since
        (alive("w0", is_alive=False), ""),
    ],
)
@pytest.mark.parametrize("kind", ["job", "command"])
def test_nothing_starts_while_a_process_of_the_old_job_lives(worker, word, kind):
    """A rank may train on though its actor's row is DEAD; what holds no rank must not block."""
    ray = Ray(ENDED, actors=[DEAD_RANK], workers=[worker], nodes=NODES)
    outcome = play(ray, replace(ACTION, hook=Hook(kind, argv=("true",))), RANKS)

    assert (outcome.state, word in outcome.detail) == ("deferred" if word else "succeeded", True)
    assert bool(ray.posts) == (not word and kind == "job")


@pytest.mark.parametrize("what", ["actors", "workers", "nodes"])
@pytest.mark.parametrize(
    "told",
    [
        {"result": None},
        {"result": [1]},
        {"result": [{"x": 1}], "num_filtered": 1},
        {"num_after_truncation": 10_000, "total": 23_000},
        {"num_filtered": 23_000},
        {"partial_failure_warning": "a source did not answer"},
    ],
)
def test_a_list_that_is_not_whole_defers(what, told):
    """Unknown counts as not gone."""
    ray = Ray(OLD, actors=[DEAD_RANK], nodes=NODES)
    ray.told[what] = told

    assert play(ray).state == "deferred"
    assert ray.posts == []


def test_a_long_cluster_life_does_not_block():
    """Thousands of dead workers are filtered away before Ray counts; the list of jobs is long too."""
    old_jobs = [{**OLD, "submission_id": f"s{n}", "message": "x" * 200} for n in range(20_000)]
    ray = Ray(OLD, *old_jobs, nodes=NODES)
    ray.told["workers"] = {"num_after_truncation": 3, "total": 50_000}
    ray.told["actors"] = {"num_after_truncation": 50_000, "total": 50_000}

    assert play(ray).state == "succeeded"


@pytest.mark.parametrize(
    ("ray", "state", "word"),
    [
        (Ray(DRIVER), "succeeded", ""),
        (Ray(), "succeeded", ""),  # Ray forgot it: its actors and processes were looked for
        (Ray({**DRIVER, "status": "RUNNING"}), "deferred", "driver 02000000 is RUNNING"),
        (
            Ray({**DRIVER, "status": "RUNNING", "start_time": 9000}),
            "succeeded",
            "",
        ),  # a later session's
        (
            Ray(DRIVER, {**DRIVER, "job_id": "03000000", "status": "RUNNING"}),
            "deferred",
            "03000000",
        ),
        (
            Ray(DRIVER, {**OLD, "status": "RUNNING", "metadata": {"raywatch_run": "lineage-1"}}),
            "deferred",
            "job old does the same work",
        ),
        (Ray(DRIVER, {**OLD, "status": "RUNNING"}), "succeeded", ""),  # somebody else's work
        (Ray({"submission_id": "x", "job_id": "5", "status": "RUNNING"}), "succeeded", ""),
        (Ray(DRIVER, actors=[{**DEAD_RANK, "state": "ALIVE"}]), "deferred", "1 actors"),
        (Ray(DRIVER, workers=[alive("w0")], nodes=NODES), "deferred", "worker 9"),
        (
            Ray(DRIVER, workers=[alive("02000000" + "f" * 48)], nodes=NODES),
            "deferred",
            "processes",
        ),
        (Ray(DRIVER, token="t"), "deferred", "unauthorized"),
    ],
)
def test_a_hand_run_driver_is_started_again_only_when_it_is_gone(ray, state, word, tmp_path):
    """What Ray says of how such a driver ended is no truth; that it lives is."""
    mark = tmp_path / "started"
    action = replace(BY_HAND, hook=Hook("command", argv=("touch", str(mark))))
    outcome = play(ray, action, RANKS)

    assert (outcome.state, word in outcome.detail) == (state, True)
    assert mark.exists() == (state == "succeeded")


def test_a_command_without_a_dashboard_waits():
    """Nobody can say whether the old driver is gone."""
    action = replace(BY_HAND, hook=Hook("command", argv=("true",)))
    outcome = asyncio.run(HookRunner(None, lambda: 5.0, os.environ).run(action, RUN, "{}"))

    assert (outcome.state, "no dashboard" in outcome.detail) == ("deferred", True)


# --- the job's code ---


@pytest.mark.parametrize(
    ("back", "state", "word"),
    [
        (PutBack("present"), "succeeded", "submitted"),
        (PutBack("restored", "1 packages"), "succeeded", "submitted"),
        (PutBack("missing", "no copy of it was kept"), "refused", "not resumable: no copy"),
        (PutBack("unknown", "HTTP 500"), "deferred", "HTTP 500"),
    ],
)
def test_code_that_is_gone_makes_a_job_not_resumable(back, state, word):
    """And what is not known may be known later."""
    ray, asked = Ray(OLD), []

    async def put_back(env):
        asked.append(json.loads(env))
        return back

    outcome = play(ray, put_back=put_back)

    assert (outcome.state, word in outcome.detail) == (state, True)
    assert asked == [OLD["runtime_env"]]
    assert len(ray.posts) == (state == "succeeded")


def test_what_came_up_while_the_code_was_put_back_is_seen():
    """A large upload takes its time; somebody may start the job by hand meanwhile."""
    ray = Ray(OLD)

    async def put_back(_env):
        ray.jobs["by-hand"] = {**OLD, "submission_id": "by-hand", "status": "RUNNING"}
        return PutBack("restored")

    assert "by-hand" in play(ray, put_back=put_back).detail
    assert ray.posts == []


def test_a_job_that_was_submitted_before_a_crash_needs_no_code_any_more():
    """The daemon was killed between submission and outcome; the job ran, and Ray dropped its code."""
    ours = {**OLD, "submission_id": ACTION.key, "status": "SUCCEEDED"}
    ray = Ray(OLD, {**ours, "metadata": {"raywatch_action": ACTION.key}})

    async def put_back(_env):
        return PutBack("missing")

    outcome = play(ray, put_back=put_back)
    assert (outcome.state, outcome.submission_id) == ("succeeded", ACTION.key)


def command(*argv, **how):
    """Run a command hook of a driver that was started by hand."""
    hook = Hook("command", argv=argv, **how)
    action = replace(ACTION, hook=hook, old_submission="")
    return play(Ray(DRIVER), action, incident='{"class": "x"}')


def test_a_command_gets_environment_and_document(tmp_path):
    """Both say the same; nothing goes through a shell."""
    out = tmp_path / "out.json"
    code = "import json,os,sys; json.dump([dict(os.environ), json.load(sys.stdin), sys.argv[1:]], open(sys.argv[1],'w'))"
    outcome = command(sys.executable, "-c", code, str(out), "$(touch pwned); `id`", name="again")
    environ, document, argv = json.loads(out.read_text())

    assert outcome.state == "succeeded"
    assert {k: v for k, v in environ.items() if k.startswith("RAYWATCH_")} == {
        "RAYWATCH_RUN": "llm",
        "RAYWATCH_INCIDENT": "i1",
        "RAYWATCH_CLASS": "worker_crash",
        "RAYWATCH_CHECKPOINT": "/s/llm/checkpoint_1",
        "RAYWATCH_STEP": "9",
        "RAYWATCH_ATTEMPT": "1",
        "RAYWATCH_ACTION_KEY": ACTION.key,
        "RAYWATCH_AVOID_NODES": "n1,n2",
    }
    assert document == {
        "action": ACTION.key,
        "hook": "again",
        "run": "llm",
        "class": "worker_crash",
        "attempt": 1,
        "checkpoint": "/s/llm/checkpoint_1",
        "step": 9,
        "avoid_nodes": ["n1", "n2"],
        "incident": {"class": "x"},
    }
    assert argv[1] == "$(touch pwned); `id`"


@pytest.mark.parametrize(
    ("argv", "state", "detail"),
    [
        (("false",), "failed", "exit code 1"),
        (("/does/not/exist",), "failed", "cannot start"),
        (("sh", "-c", "exec 0<&-; echo ok"), "succeeded", "exit code 0"),
    ],
)
def test_a_command_that_fails_is_said(argv, state, detail):
    """Also one that does not exist, and one that reads nothing."""
    outcome = command(*argv)

    assert (outcome.state, detail in outcome.detail) == (state, True)


def test_a_hook_that_prints_megabytes_leaves_its_last_words():
    """Bounded memory, and it does not block."""
    outcome = command(sys.executable, "-c", "print('x' * 20_000_000); print('the end')")

    assert outcome.state == "succeeded"
    assert len(outcome.output) <= OUTPUT_LIMIT
    assert outcome.output.endswith("the end\n")


def test_a_hook_that_hangs_is_ended_with_what_it_started(tmp_path):
    """Its process group: a grandchild that ignores SIGTERM too."""
    pids = tmp_path / "pids"
    script = f"(trap '' TERM; echo $$ > {pids}; sleep 60) & sleep 60"
    began = time.monotonic()
    outcome = command("sh", "-c", script, timeout_s=0.5)

    assert outcome.state == "timed_out"
    assert time.monotonic() - began < 20
    group = [p for p in Path("/proc").glob("[0-9]*/cmdline") if str(pids).encode() in _read(p)]
    assert group == []


def _read(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError:
        return b""


def test_cancelling_ends_the_hook(tmp_path):
    """The daemon stops: nothing of the hook is left."""
    started = tmp_path / "started"

    async def main():
        hook = Hook("command", argv=("sh", "-c", f"touch {started}; exec sleep 77"))
        action = replace(ACTION, hook=hook, old_submission="")
        async with running(Ray(DRIVER)) as hooks:
            task = asyncio.create_task(hooks.run(action, RUN, "{}"))
            while not started.exists():  # noqa: ASYNC110 - another process makes it
                await asyncio.sleep(0.02)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    left = [p for p in Path("/proc").glob("[0-9]*/cmdline") if _read(p) == b"sleep\x0077\x00"]
    assert left == []
