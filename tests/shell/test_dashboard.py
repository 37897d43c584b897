"""Ray's APIs: what changed is told once, every way to fail has its name, and it is asked gently."""

import asyncio
import json
import logging
from collections.abc import Container
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from raywatch.collect import rayjson
from raywatch.collect.dashboard import DashboardPoller
from raywatch.collect.endpoints import ENDPOINTS, TRAIN
from raywatch.collect.rayauth import Token, TokenError, find_token
from raywatch.observations import EndpointHealth, JobSeen, NodeSeen, TrainRunSeen

JOB = {
    "type": "SUBMISSION",
    "job_id": "05000000",
    "submission_id": "raysubmit_1",
    "status": "RUNNING",
    "entrypoint": "python train.py",
    "start_time": 1795419701000,
    "end_time": None,
    "metadata": {"a": "b"},
    "runtime_env": {"env_vars": {}},
    "driver_exit_code": None,
}
NODE = {
    "node_id": "ab",
    "node_ip": "10.0.0.1",
    "node_name": "n",
    "state": "ALIVE",
    "is_head_node": True,
}

OFF = (  # dashboard/modules/train/train_head.py of Ray 2.60
    "Train state data is not available. Please make sure Ray Train is running and that the Train "
    'state actor is enabled by setting the RAY_TRAIN_ENABLE_STATE_TRACKING environment variable to "1".'
)
RUNS = (Path(__file__).parent.parent / "api" / "2.60.0" / "train.json").read_text()


def controller(number, how="ALIVE"):
    """The actor that says that Ray Train runs."""
    return {"actor_id": f"c{number}", "class_name": "TrainController", "state": how}


# Without them nobody asks Serve or Ray Train v1.
OPTIONAL: list[dict[str, object]] = [
    {"actor_id": "s", "name": "SERVE_CONTROLLER_ACTOR", "state": "ALIVE"},
    {"actor_id": "t", "name": "train_state_actor", "state": "ALIVE"},
]


def state(*rows):
    """The State API's envelope."""
    return {"result": True, "data": {"result": {"result": list(rows)}}}


class Dashboard:
    """A dashboard that answers as it is told."""

    def __init__(self) -> None:
        self.now = 1000.0
        self.status = 200
        self.jobs = [dict(JOB)]
        self.asked: list[tuple[str, str]] = []
        self.hang = False
        self.actors: list[dict[str, object]] = []
        self.total = 0
        self.session = "s"
        self.train: tuple[int, str] = (500, OFF)
        self.raw: dict[str, bytes] = {}
        self.codes: dict[str, tuple[int, str]] = {}  # what is answered instead, by path

    async def answer(self, request):
        """Any path."""
        self.asked.append((request.path, request.headers.get("Authorization", "")))
        if self.hang:
            await asyncio.sleep(5)
        if self.status != 200:
            return web.Response(status=self.status)
        if request.path in self.codes:
            status, text = self.codes[request.path]
            return web.Response(status=status, text=text)
        if request.path in self.raw:
            return web.Response(body=self.raw[request.path])
        if request.path == TRAIN.path:
            return web.Response(status=self.train[0], text=self.train[1])
        actors = state(*self.actors)
        actors["data"]["result"]["total"] = self.total or len(self.actors)
        known = {
            "/api/jobs/": self.jobs,
            "/api/version": {"ray_version": "2.60.0", "session_name": self.session},
            "/api/v0/actors": actors,
            "/api/v0/nodes": state(NODE),
        }
        return web.json_response(known.get(request.path, state()))


class Late(Dashboard):
    """Its list of actors takes 1 s where it is slow."""

    def __init__(self, slow: Container[int]) -> None:
        super().__init__()
        self.slow, self.lists = slow, 0

    async def answer(self, request):
        """Any path."""
        if request.path == "/api/v0/actors":
            self.now += 1.0 if self.lists in self.slow else 0.0
            self.lists += 1
        return await super().answer(request)


def play(dashboard, deeds, token=None, timeout_s=3.0, **how):
    """Run deeds (callables that may return observations) against a poller."""

    async def main():
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", dashboard.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        poller = DashboardPoller(
            url,
            lambda: token,
            lambda _: None,
            clock=lambda: dashboard.now,
            timeout_s=timeout_s,
            **how,
        )
        timeout = aiohttp.ClientTimeout(total=timeout_s)
        try:
            async with aiohttp.ClientSession(timeout=timeout) as session:
                return [await deed(poller, session) for deed in deeds]
        finally:
            await runner.cleanup()

    return asyncio.run(main())


async def poll(poller, session):
    """One turn."""
    return await poller.poll(session)


def test_only_what_changed_is_told():
    """The second look tells nothing; a job that ends is told with all it has."""
    dashboard = Dashboard()

    async def later(poller, session):
        dashboard.now += 20
        return await poller.poll(session)

    async def ended(poller, session):
        dashboard.now += 20
        dashboard.jobs[0] |= {"status": "FAILED", "driver_exit_code": 1, "end_time": 1795419781000}
        return await poller.poll(session)

    first, second, third = play(dashboard, [poll, later, ended])

    assert {type(o).__name__ for o in first} == {
        "AutoscalerSeen",
        "GroupsSeen",
        "SessionSeen",
        "JobSeen",
        "NodeSeen",
        "EndpointHealth",
    }
    assert [o for o in second if not isinstance(o, EndpointHealth)] == []
    (job,) = [o for o in third if isinstance(o, JobSeen)]
    assert (job.status, job.driver_exit_code, job.ended_at, job.metadata) == (
        "FAILED",
        1,
        1795419781.0,
        {"a": "b"},
    )


def test_a_new_session_is_told_from_its_first_row():
    """Also what was told a moment before its name was known: nobody can say to which it belonged."""
    dashboard = Dashboard()

    async def changed(poller, session):
        dashboard.session, dashboard.now = "t", dashboard.now + 20
        first = await poller.poll(session)
        return first + await poller.poll(session)

    _, seen, later = play(dashboard, [poll, changed, poll])
    kinds = [type(o).__name__ for o in seen if not isinstance(o, EndpointHealth)]

    assert kinds == ["SessionSeen", "JobSeen", "NodeSeen", "AutoscalerSeen", "GroupsSeen"]
    assert later == []


def test_a_try_that_fails_says_when_it_last_answered():
    """So that an age is of what was seen."""
    dashboard = Dashboard()

    async def fails(poller, session):
        dashboard.status, dashboard.now = 500, dashboard.now + 20
        return await poller.poll(session)

    before, after = play(dashboard, [poll, fails])
    assert {o.answered_at for o in before if isinstance(o, EndpointHealth)} == {1000.0}
    assert {(o.at, o.answered_at) for o in after} == {(1020.0, 1000.0)}


@pytest.mark.parametrize(
    ("status", "name"), [(401, "unauthorized"), (403, "forbidden"), (429, "busy"), (500, "error")]
)
def test_every_way_to_fail_has_its_name(status, name, caplog):
    """And the log says which token was tried, never the token."""
    dashboard = Dashboard()
    dashboard.status = status
    with caplog.at_level(logging.WARNING):
        (seen,) = play(dashboard, [poll], Token("secret-value", "RAY_AUTH_TOKEN"))

    assert {o.state for o in seen if isinstance(o, EndpointHealth)} == {name}
    assert {o.name for o in seen} >= {e.name for e in ENDPOINTS}
    assert "RAY_AUTH_TOKEN" in caplog.text
    if name in ("unauthorized", "forbidden"):  # what holds for all of them is asked and said once
        assert len(dashboard.asked) == len(caplog.records) == 1
    assert "secret-value" not in caplog.text
    assert dashboard.asked[0][1] == "Bearer secret-value"


def test_a_dashboard_that_hangs_is_not_one_that_refuses():
    """The GCS is gone: it accepts and never answers."""
    dashboard = Dashboard()
    dashboard.hang = True
    (seen,) = play(dashboard, [poll], timeout_s=0.2)
    assert {o.state for o in seen if isinstance(o, EndpointHealth)} == {"timeout"}

    async def refused():
        poller = DashboardPoller(
            "http://127.0.0.1:9", lambda: None, lambda _: None, clock=lambda: 1000.0
        )
        async with aiohttp.ClientSession() as session:
            return await poller.poll(session), await poller.poll(session)

    first, second = asyncio.run(refused())
    assert {(o.name, o.state) for o in first} == {(e.name, "refused") for e in ENDPOINTS}
    assert second == []  # it backs off


def test_it_asks_gently_and_often_only_when_something_happens():
    """One request a second in peace, fewer than five in trouble, with Ray Train and Serve."""
    dashboard = Dashboard()
    dashboard.actors = [controller(1), *OPTIONAL]
    dashboard.train = (200, RUNS)

    async def minute(poller, session):
        for _ in range(120):
            dashboard.now += 0.5
            await poller.poll(session)
        return len(dashboard.asked)

    async def nudged(poller, session):
        poller.nudge()
        before = len(dashboard.asked)
        await poller.poll(session)
        at_once = len(dashboard.asked) - before
        for _ in range(40):
            dashboard.now += 0.5
            await poller.poll(session)
        return at_once, (len(dashboard.asked) - before) / 20

    peace, (at_once, rate) = play(dashboard, [minute, nudged])

    assert peace <= 90
    assert at_once >= len(ENDPOINTS)
    assert rate < 4


@pytest.mark.parametrize(("slow", "asked"), [((), 10), ((3,), 10), (range(99), 3)])
def test_a_list_that_costs_the_head_much_is_asked_seldom(slow, asked):
    """In 30 s of trouble: every 3 s; also after one late answer, since any machine is busy at times."""
    dashboard = Late(slow)

    async def troubled(poller, session):
        poller.nudge()
        end = dashboard.now + 30
        while dashboard.now < end:
            await poller.poll(session)
            dashboard.now += 0.5

    play(dashboard, [troubled])

    assert abs(dashboard.lists - asked) <= 1


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda x: (
            st.lists(x, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    [
                        *("data", "result", "job_id", "pid", "is_alive", "death_cause", "total"),
                        *("train_runs", "id", "name", "attempts", "workers", "world_rank"),
                        *("run_settings", "run_config", "failure_config", "max_failures"),
                    ]
                ),
                x,
            )
        ),
        max_leaves=20,
    )
)
def test_no_answer_whatever_raises(found):
    """A row that is odd is left out."""
    for wrapped in (found, [found], state(found), {"data": found}):
        for parse in (
            rayjson.parse_jobs,
            rayjson.parse_nodes,
            rayjson.parse_actors,
            rayjson.parse_workers,
            rayjson.parse_version,
            rayjson.parse_train,
        ):
            assert isinstance(parse(wrapped, 1.0), list)
        assert isinstance(rayjson.shortfall(wrapped), str)
    assert rayjson.load(b"[" * 200_000) is None
    assert rayjson.load(b"500 Internal Server Error") is None


def test_nodes_are_read():
    """Every field of a row."""
    row = NODE | {
        "state": "DEAD",
        "state_message": "Terminated due to preemption: x",
        "end_time_ms": 5000,
        "start_time_ms": 2000,
        "resources_total": {"CPU": 4.0, "node:10.0.0.1": 1.0, "accelerator_type:H100": 1.0},
        "labels": {"ray.io/node-id": "ab", "ray.io/node_id": "ab", "ray.io/market-type": "spot"},
    }
    assert rayjson.parse_nodes(state(row), 1.0) == [
        NodeSeen(
            1.0,
            "ab",
            "10.0.0.1",
            "n",
            "DEAD",
            "Terminated due to preemption: x",
            is_head=True,
            ended_at=5.0,
            started_at=2.0,
            resources={"CPU": 4.0, "accelerator_type:H100": 1.0},
            labels={"ray.io/market-type": "spot"},
        )
    ]


def test_a_node_of_a_hostile_cluster_is_bounded_and_can_be_stored():
    """No number that is no JSON, no endless names; what is no number or no text is left out."""
    odd = {"nan": float("nan"), "inf": float("inf"), "neg": -1.0, "text": "x", "ok": 2}
    many = {f"r{i}": 1.0 for i in range(99)}
    (seen,) = rayjson.parse_nodes(
        state(NODE | {"resources_total": odd | many, "labels": {"x" * 999: "y" * 999, "n": 7}}), 1.0
    )
    (bare,) = rayjson.parse_nodes(state(NODE | {"resources_total": [1], "labels": "x"}), 1.0)

    assert (list(seen.resources)[:2], len(seen.resources)) == (["ok", "r0"], rayjson.MAX_NAMES)
    assert seen.labels == {"x" * rayjson.NAME_LIMIT: "y" * rayjson.NAME_LIMIT}
    assert (bare.resources, bare.labels) == ({}, {})


def test_the_token_is_found_as_ray_finds_it(tmp_path):
    """RAY_AUTH_TOKEN, then the named file, then the one at home."""
    home, named = tmp_path / "home", tmp_path / "token"
    (home / ".ray").mkdir(parents=True)
    assert find_token({}, home) is None
    (home / ".ray" / "auth_token").write_text("from-home\nmore")
    named.write_text("from-file")

    def value(env):
        token = find_token(env, home)
        assert token is not None
        assert token.value not in repr(token)
        return token.value

    assert value({}) == "from-home"
    assert value({"RAY_AUTH_TOKEN_PATH": str(named)}) == "from-file"
    assert value({"RAY_AUTH_TOKEN_PATH": str(named), "RAY_AUTH_TOKEN": " from-env "}) == "from-env"


@pytest.mark.parametrize("text", ["", " \n", "a\x00b", "tökn"])
def test_a_named_token_that_cannot_be_used_is_an_error(tmp_path, text):
    """Also one that would break a header."""
    path = Path(tmp_path / "token")
    path.write_text(text)
    with pytest.raises(TokenError, match="holds no token"):
        find_token({"RAY_AUTH_TOKEN_PATH": str(path)}, tmp_path)
    with pytest.raises(TokenError, match="RAY_AUTH_TOKEN_PATH"):
        find_token({"RAY_AUTH_TOKEN_PATH": str(path) + ".gone"}, tmp_path)


# --- Ray Train's state API ---


def spend(dashboard, seconds, step_s=0.5):
    """A deed: poll for so long; return what was told."""

    async def deed(poller, session):
        seen = []
        for _ in range(int(seconds / step_s)):
            seen += await poller.poll(session)
            dashboard.now += step_s
        return seen

    return deed


def asked_train(dashboard):
    """How often it was asked."""
    return sum(path == TRAIN.path for path, _ in dashboard.asked)


def healths(seen, name="train"):
    """How an endpoint answered."""
    return [o.state for o in seen if isinstance(o, EndpointHealth) and o.name == name]


def test_train_is_not_asked_where_ray_train_does_not_run():
    """Each question there would add a WARNING to the logs that are followed; also after it ran."""
    dashboard = Dashboard()
    dashboard.actors = [
        {"actor_id": "a", "class_name": "Other", "state": "ALIVE"},
        controller(1, "DEAD"),
    ]
    (seen,) = play(dashboard, [spend(dashboard, 120)])

    assert asked_train(dashboard) == 0
    assert healths(seen) == []


def test_train_that_is_off_is_asked_ever_more_rarely(caplog):
    """`off`, not an error, and no warning of ours; a new controller may have switched it on."""
    dashboard = Dashboard()
    dashboard.actors = [controller(1)]
    with caplog.at_level(logging.WARNING):
        (seen,) = play(dashboard, [spend(dashboard, 3600, 5.0)])
    assert set(healths(seen)) == {"off"}
    assert 6 <= asked_train(dashboard) <= 12
    assert caplog.text == ""

    async def another(poller, session):
        dashboard.actors, dashboard.train = [controller(1), controller(2)], (200, RUNS)
        before = asked_train(dashboard)
        seen = await spend(dashboard, 21)(poller, session)
        return asked_train(dashboard) - before, seen

    dashboard.asked.clear()
    _, (asked, seen) = play(dashboard, [spend(dashboard, 3600, 5.0), another])
    assert asked >= 1
    assert healths(seen)[-1] == "up"
    assert [o.name for o in seen if isinstance(o, TrainRunSeen)] == ["A16_manual_resume"] * 2


def test_train_runs_are_told_once_and_asked_until_they_ended():
    """The controller dies first; how its run ended is told after that."""
    dashboard = Dashboard()
    dashboard.actors = [controller(1)]
    dashboard.train = (200, RUNS.replace("FINISHED", "RUNNING", 1))

    async def dies(poller, session):
        dashboard.actors = [controller(1, "DEAD")]
        await spend(dashboard, 30)(poller, session)
        dashboard.train = (200, RUNS)
        return await spend(dashboard, 30)(poller, session)

    async def later(poller, session):
        before = asked_train(dashboard)
        await spend(dashboard, 60)(poller, session)
        return asked_train(dashboard) - before

    began, ended, questions = play(dashboard, [spend(dashboard, 30), dies, later])

    assert [o.status for o in began if isinstance(o, TrainRunSeen)] == ["ERRORED", "RUNNING"]
    assert [o.status for o in ended if isinstance(o, TrainRunSeen)] == ["FINISHED"]
    assert questions == 0


def test_a_ray_without_this_api_is_asked_once_a_session():
    """Ray 2.9 to 2.42 answer 404."""
    dashboard = Dashboard()
    dashboard.actors, dashboard.train = [controller(1)], (404, "404: Not Found")

    async def restarted(poller, session):
        dashboard.session, dashboard.actors = "t", [controller(2)]
        await spend(dashboard, 600, 5.0)(poller, session)
        return asked_train(dashboard)

    seen, twice = play(dashboard, [spend(dashboard, 600, 5.0), restarted])

    assert set(healths(seen)) == {"off"}
    assert twice == 2


@pytest.mark.parametrize(
    ("answer", "name"),
    [
        ((503, "the GCS may be down"), "error"),
        ((500, "Traceback"), "error"),
        ((401, ""), "unauthorized"),
    ],
)
def test_train_that_fails_otherwise_is_not_off(answer, name):
    """Only Ray's own words say that it is off; it is asked more rarely all the same."""
    dashboard = Dashboard()
    dashboard.actors, dashboard.train = [controller(1)], answer
    (seen,) = play(dashboard, [spend(dashboard, 600, 5.0)])

    assert set(healths(seen)) == {name}
    assert asked_train(dashboard) < 12


# --- what is cut ---


@pytest.mark.parametrize("body", [b"[]" + b" " * 3000, b'[{"job_id": "01', b"<html>"])
def test_a_body_that_is_cut_is_an_error_and_leaves_the_rows_alone(body):
    """Not "no rows": when it is whole again, nothing is news."""
    dashboard = Dashboard()

    async def cut(poller, session):
        dashboard.raw["/api/jobs/"] = body
        dashboard.now += 20
        return await poller.poll(session)

    async def whole(poller, session):
        dashboard.raw.clear()
        dashboard.now += 20
        return await poller.poll(session)

    first, second, third = play(dashboard, [poll, cut, whole], max_body=2000)

    assert sum(isinstance(o, JobSeen) for o in first) == 1
    assert healths(second, "jobs") == ["error"]
    assert healths(third, "jobs") == ["up"]
    assert [o for o in second + third if isinstance(o, JobSeen)] == []


def test_a_body_of_exactly_the_limit_is_whole():
    """The limit is no cut by itself."""
    dashboard = Dashboard()
    body = json.dumps([JOB]).encode()
    dashboard.raw["/api/jobs/"] = body
    (seen,) = play(dashboard, [poll], max_body=len(body))

    assert healths(seen, "jobs") == ["up"]


def test_a_truncated_list_is_up_and_says_so():
    """As long as it is, and not only when it changes."""
    dashboard = Dashboard()
    dashboard.actors, dashboard.total = [controller(1)], 23000
    (seen,) = play(dashboard, [spend(dashboard, 60)])
    told = {
        (o.state, o.detail) for o in seen if isinstance(o, EndpointHealth) and o.name == "actors"
    }

    assert told == {("up", "truncated: 1 of 23000")}
