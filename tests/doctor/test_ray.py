"""What the doctor says of a dashboard: healthy, dead, hanging, another program's, behind a token, half broken."""

import socket
import time
from email.utils import formatdate

import pytest
from aiohttp import web

from raywatch.config import Config
from raywatch.doctor import asking
from raywatch.doctor.ray import dashboard_checks
from tests.fakeray import FakeRay

SESSION = "session_2026-11-24_00-00-00_000001_1"
SECRET = "s3cret-token"


class Guarded(FakeRay):
    """Ray as it is configured: a token, a clock, broken APIs, Ray Train with or without its state API."""

    def __init__(self, token="", *, ahead_s=0.0, broken=(), controller="", train=200, posts=True):
        super().__init__()
        self.token, self.ahead_s, self.broken, self.posts = token, ahead_s, broken, posts
        self.controller, self.train, self.asked = controller, train, []

    def routes(self):
        """Every request goes through one door."""
        return [web.route("*", "/{path:.*}", self._door)]

    async def _door(self, request):
        self.asked.append(f"{request.method} {request.path}")
        answer = await self._answer(request)
        answer.headers["Date"] = formatdate(time.time() + self.ahead_s, usegmt=True)
        return answer

    async def _answer(self, request):
        path = request.path
        if path == "/api/authentication_mode":
            mode = "token" if self.token else "disabled"
            return web.json_response({"authentication_mode": mode})
        if self.token and request.headers.get("Authorization") != f"Bearer {self.token}":
            return web.Response(status=403 if "Authorization" in request.headers else 401)
        if path in self.broken:
            return web.Response(status=500, text="boom")
        if request.method == "POST":
            body = await request.json()
            return web.Response(
                status=(400 if "entrypoint" not in body else 200) if self.posts else 403
            )
        if path == "/api/train/v2/runs/v1":
            off = "Train state data is not available"
            return web.Response(status=self.train, text=off if self.train == 500 else "{}")
        if path == "/api/v0/actors" and self.controller:
            row = {"actor_id": "a", "class_name": "TrainController", "state": self.controller}
            return web.json_response({"data": {"result": {"result": [row]}}})
        made = {"/api/version": self._version, "/api/jobs/": self._jobs}
        return await made.get(path, self._nothing)(request)


def examined(url, *, environ=None, session=SESSION, submits=False, home="/nonexistent"):
    """Verdict and fact of each check by its name; nobody's token is at home."""
    env = {"RAY_AUTH_TOKEN_PATH": "", **(environ or {})}
    found = dashboard_checks(Config(dashboard=f"{url}/"), env, session, submits=submits)
    assert not any(SECRET in c.fact + c.do for c in found)
    return {c.name: (c.verdict, c.fact, c.do) for c in found}


@pytest.fixture(autouse=True)
def _nobody_at_home(monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))


def test_a_healthy_dashboard_is_all_well_and_each_api_is_asked_once():
    """The Train state API not at all where Ray Train does not run; nothing is submitted."""
    with Guarded() as ray:
        ray.session = SESSION
        found = examined(ray.url, submits=True)

    assert {k: v[0] for k, v in found.items()} == dict.fromkeys(
        ("dashboard", "token", "clock", "Jobs API", "State API", "Train state API", "submission"),
        "ok",
    )
    assert found["dashboard"][1] == f"{ray.url} answers: Ray 2.60.0, {SESSION}"
    assert found["token"][1] == "authentication mode disabled: none is needed"
    assert "RAY_TRAIN_ENABLE_STATE_TRACKING=1" in found["Train state API"][1]
    assert sorted(ray.asked) == [
        "GET /api/authentication_mode",
        "GET /api/jobs/",
        "GET /api/v0/actors",
        "GET /api/v0/nodes",
        "GET /api/v0/workers",
        "GET /api/version",
        "POST /api/jobs/",
    ]


def test_a_dashboard_that_is_not_there_is_one_failure(monkeypatch):
    """Refused, hanging, and another program: within the wait."""
    monkeypatch.setattr(asking, "WAIT_S", 0.5)
    refused = examined("http://127.0.0.1:9")
    with socket.create_server(("127.0.0.1", 0)) as mute:
        began = time.monotonic()
        hangs = examined(f"http://127.0.0.1:{mute.getsockname()[1]}")
        took = time.monotonic() - began

    with Guarded() as ray:
        secure = examined(ray.url.replace("http:", "https:"))["dashboard"]

    assert (secure[0], "SSL" in secure[1]) == ("fail", True)
    assert refused["dashboard"][:2] == ("fail", "http://127.0.0.1:9: Connection refused")
    assert list(hangs) == ["dashboard"]
    assert hangs["dashboard"][1].endswith("it accepts and does not answer within 0.5 s")
    assert "RAY_API_SERVER_ADDRESS" in hangs["dashboard"][2]
    assert took < 5


def test_another_program_is_no_dashboard():
    """What it answers is said."""
    with Guarded(broken=["/api/version"]) as ray:
        found = examined(ray.url)
    assert found["dashboard"][0] == "fail"
    assert "is no dashboard of Ray: HTTP 500" in found["dashboard"][1]
    assert "Jobs API" not in found


def test_a_token_is_wanted_found_and_accepted_or_not(tmp_path):
    """From where is said, never what it is."""
    kept = tmp_path / "token"
    kept.write_text(SECRET)
    with Guarded(token=SECRET) as ray:
        ray.session = SESSION
        without = examined(ray.url)
        wrong = examined(ray.url, environ={"RAY_AUTH_TOKEN": "other"})
        missing = examined(ray.url, environ={"RAY_AUTH_TOKEN_PATH": "/nonexistent/token"})
        right = examined(ray.url, environ={"RAY_AUTH_TOKEN_PATH": str(kept)})

    assert without["token"][:2] == ("fail", "authentication mode token; token none found: HTTP 401")
    assert "ray get-auth-token" in without["token"][2]
    assert wrong["token"][1] == "authentication mode token; token from RAY_AUTH_TOKEN: HTTP 403"
    assert missing["token"][0] == "fail"
    assert "/nonexistent/token: No such file" in missing["token"][1]
    assert right["token"][:2] == ("ok", f"authentication mode token; token from {kept}: accepted")
    assert (without["dashboard"][0], "Jobs API" in without, "Jobs API" in right) == (
        "ok",
        False,
        True,
    )


def test_a_dashboard_of_another_session_fails():
    """Nothing would be resumed."""
    with Guarded() as ray:
        ray.session = "session_2026-11-25_00-00-00_000001_1"
        verdict, fact, do = examined(ray.url)["dashboard"]
    assert (verdict, "two sessions" in fact, "[ray] dashboard" in do) == ("fail", True, True)


@pytest.mark.parametrize(("ahead_s", "said"), [(90.0, "90 s behind"), (-90.0, "90 s ahead of")])
def test_a_clock_that_is_wrong_is_a_warning(ahead_s, said):
    """Whichever of the two it is."""
    with Guarded(ahead_s=ahead_s) as ray:
        verdict, fact, do = examined(ray.url)["clock"]
    assert (verdict, "chrony" in do) == ("warn", True)
    assert said in fact.replace("89 s", "90 s").replace("91 s", "90 s")


def test_apis_that_do_not_answer_are_named():
    """The others with them are well."""
    with Guarded(broken=["/api/jobs/", "/api/v0/actors"]) as ray:
        found = examined(ray.url, submits=True)
    assert found["Jobs API"][:2] == ("fail", "jobs: HTTP 500")
    assert found["State API"][:2] == ("fail", "actors: HTTP 500")
    assert "submission" not in found


def test_a_dashboard_that_takes_no_submission_fails_only_where_a_hook_submits():
    """A proxy that lets only GET through."""
    with Guarded(posts=False) as ray:
        idle = examined(ray.url)
        needed = examined(ray.url, submits=True)["submission"]
    assert "submission" not in idle
    assert (needed[0], "HTTP 403" in needed[1]) == ("fail", True)


@pytest.mark.parametrize(
    ("controller", "train", "verdict", "fact"),
    [
        ("ALIVE", 200, "ok", "on"),
        ("ALIVE", 500, "warn", "off"),
        ("ALIVE", 404, "warn", "off"),
        ("DEAD", 500, "ok", "not asked"),
    ],
)
def test_the_train_state_api_is_asked_only_while_ray_train_runs(controller, train, verdict, fact):
    """What its absence costs is said in any case but one."""
    with Guarded(controller=controller, train=train) as ray:
        found = examined(ray.url)["Train state API"]
    assert (found[0], found[1].startswith(fact)) == (verdict, True)
    assert ("GET /api/train/v2/runs/v1" in ray.asked) == (controller == "ALIVE")
    assert verdict != "warn" or "RAY_TRAIN_ENABLE_STATE_TRACKING=1" in found[2]
