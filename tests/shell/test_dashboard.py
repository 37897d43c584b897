"""Ray's APIs: what changed is told once, every way to fail has its name, and it is asked gently."""

import asyncio
import json
import logging
from pathlib import Path

import aiohttp
import pytest
from aiohttp import web
from hypothesis import given, settings
from hypothesis import strategies as st

from raywatch.collect import rayjson
from raywatch.collect.dashboard import ENDPOINTS, DashboardPoller
from raywatch.collect.rayauth import Token, TokenError, find_token
from raywatch.model import EndpointHealth, JobSeen, NodeSeen

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

    async def answer(self, request):
        """Any path."""
        self.asked.append((request.path, request.headers.get("Authorization", "")))
        if self.hang:
            await asyncio.sleep(5)
        if self.status != 200:
            return web.Response(status=self.status)
        known = {
            "/api/jobs/": self.jobs,
            "/api/version": {"ray_version": "2.60.0", "session_name": "s"},
            "/api/v0/nodes": state(NODE),
        }
        return web.json_response(known.get(request.path, state()))


def play(dashboard, deeds, token=None, timeout_s=3.0):
    """Run deeds (callables that may return observations) against a poller."""

    async def main():
        app = web.Application()
        app.router.add_route("*", "/{tail:.*}", dashboard.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        poller = DashboardPoller(
            url, lambda: token, lambda _: None, clock=lambda: dashboard.now, timeout_s=timeout_s
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


@pytest.mark.parametrize(
    ("status", "name"), [(401, "unauthorized"), (403, "forbidden"), (429, "error"), (500, "error")]
)
def test_every_way_to_fail_has_its_name(status, name, caplog):
    """And the log says which token was tried, never the token."""
    dashboard = Dashboard()
    dashboard.status = status
    with caplog.at_level(logging.WARNING):
        (seen,) = play(dashboard, [poll], Token("secret-value", "RAY_AUTH_TOKEN"))

    assert {o.state for o in seen if isinstance(o, EndpointHealth)} == {name}
    assert "RAY_AUTH_TOKEN" in caplog.text
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
    assert [o.state for o in first if isinstance(o, EndpointHealth)] == ["refused"]
    assert second == []  # it backs off


def test_it_asks_gently_and_often_only_when_something_happens():
    """Fewer than one request a second in peace, fewer than five and a half in trouble."""
    dashboard = Dashboard()

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

    assert peace <= 60
    assert at_once == len(ENDPOINTS)
    assert rate <= 5.5


@settings(max_examples=200, deadline=None, derandomize=True)
@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.text(max_size=5),
        lambda x: (
            st.lists(x, max_size=3)
            | st.dictionaries(
                st.sampled_from(
                    ["data", "result", "job_id", "pid", "is_alive", "death_cause", "x"]
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
        body = json.dumps(wrapped).encode()
        for parse in (
            rayjson.parse_jobs,
            rayjson.parse_nodes,
            rayjson.parse_actors,
            rayjson.parse_workers,
            rayjson.parse_version,
        ):
            assert isinstance(parse(body, 1.0), list)
    assert rayjson.parse_jobs(b"[" * 200_000, 1.0) == []
    assert rayjson.parse_jobs(b"500 Internal Server Error", 1.0) == []


def test_nodes_are_read():
    """Every field of a row."""
    row = NODE | {
        "state": "DEAD",
        "state_message": "Terminated due to preemption: x",
        "end_time_ms": 5000,
    }
    assert rayjson.parse_nodes(json.dumps(state(row)).encode(), 1.0) == [
        NodeSeen(
            1.0,
            "ab",
            "10.0.0.1",
            "n",
            "DEAD",
            "Terminated due to preemption: x",
            is_head=True,
            ended_at=5.0,
        )
    ]


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
