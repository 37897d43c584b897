"""What Ray's dashboard says: whether it answers, to whom, which of its APIs, and whose clock is wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Mapping
from pathlib import Path

import aiohttp

from raywatch.collect.rayauth import Token, TokenError, find_token
from raywatch.collect.rayjson import parse_actors, parse_version
from raywatch.collect.trainstate import CONTROLLER, off_reason
from raywatch.config import Config
from raywatch.doctor.asking import FORBIDDEN, NOT_FOUND, OK, UNAUTHORIZED, Reply, ask, asker
from raywatch.doctor.checks import Check
from raywatch.following import two_sessions

CLOCK_S = 5.0
STATE = ("nodes", "actors", "workers")
_ACTORS = (
    f"actors?limit=100&filter_keys=class_name&filter_predicates=%3D&filter_values={CONTROLLER}"
)
_PATHS: Mapping[str, str] = {
    "actors": _ACTORS,
    "nodes": "nodes?limit=1",
    "workers": "workers?limit=1",
}
_ADMISSION = (
    "give the daemon's user the cluster's token: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH or"
    " ~/.ray/auth_token (`ray get-auth-token` on the head prints it)"
)
_DASHBOARD_DO = (
    "start the head with its dashboard, or name it: [ray] dashboard, RAY_API_SERVER_ADDRESS;"
    " without it only logs are read and no job can be submitted"
)
_TRAIN_COST = (
    "RAY_TRAIN_ENABLE_STATE_TRACKING=1 in the driver's environment shows ranks, attempts and"
    " max_failures at once; until then they are read from logs, on each node only its own"
)


def dashboard_checks(
    config: Config, environ: Mapping[str, str], session: str, *, submits: bool
) -> list[Check]:
    """Ask each API once. `session`: whose logs are read; `submits`: a hook submits jobs."""
    return asyncio.run(_all(config.dashboard.rstrip("/"), environ, session, submits=submits))


async def _all(url: str, environ: Mapping[str, str], session: str, *, submits: bool) -> list[Check]:
    async with asker() as http:
        mode = await ask(http, f"{url}/api/authentication_mode", {})
        if mode.status == 0:
            return [Check("dashboard", "fail", f"{url}: {mode.why}", _DASHBOARD_DO)]
        try:
            token, trouble = find_token(environ, Path.home()), ""
        except TokenError as error:
            token, trouble = None, str(error)
        headers = {"Authorization": f"Bearer {token.value}"} if token else {}
        version = await ask(http, f"{url}/api/version", headers)
        checks = [_version(url, version, session), _token(_mode(mode), version, token, trouble)]
        checks += _clock(mode)
        if version.status == OK:
            checks += await _apis(http, url, headers, submits=submits)
        return checks


def _version(url: str, reply: Reply, session: str) -> Check:
    if reply.status in (UNAUTHORIZED, FORBIDDEN):
        return Check("dashboard", "ok", f"{url} answers, and wants a token")
    found = parse_version(reply.json, 0.0)
    if reply.status != OK or not found or not found[0].ray_version:
        why = reply.why or f"HTTP {reply.status} to /api/version"
        return Check("dashboard", "fail", f"{url} is no dashboard of Ray: {why}", _DASHBOARD_DO)
    seen = found[0]
    if two := two_sessions(session, seen.session):
        do = "name one of them: [ray] dashboard or [ray] session_dir; until then nothing is resumed"
        return Check("dashboard", "fail", f"{url}: {two}", do)
    return Check(
        "dashboard",
        "ok",
        f"{url} answers: Ray {seen.ray_version}, {seen.session or 'no session named'}",
    )


def _mode(reply: Reply) -> str:
    found = reply.json
    said = found.get("authentication_mode", "") if isinstance(found, dict) else ""
    return str(said) if reply.status == OK else ""


def _token(mode: str, version: Reply, token: Token | None, trouble: str) -> Check:
    """Say whether the token is accepted. It is never shown, only where it comes from."""
    wants = f"authentication mode {mode}" if mode else "this Ray knows no authentication mode"
    where = f"from {token.source}" if token else "none found"
    if trouble:
        return Check("token", "fail", f"{wants}; {trouble}", _ADMISSION)
    if version.status in (UNAUTHORIZED, FORBIDDEN):
        return Check("token", "fail", f"{wants}; token {where}: HTTP {version.status}", _ADMISSION)
    if mode in ("", "disabled"):
        return Check("token", "ok", f"{wants}: none is needed")
    return Check("token", "ok", f"{wants}; token {where}: accepted")


def _clock(reply: Reply) -> list[Check]:
    if reply.ahead_s is None:
        return []
    ahead = reply.ahead_s
    if abs(ahead) < CLOCK_S:
        return [Check("clock", "ok", f"within {CLOCK_S:g} s of the dashboard's")]
    way = "behind" if ahead > 0 else "ahead of"
    fact = f"this machine is {abs(ahead):.0f} s {way} the dashboard's"
    return [
        Check(
            "clock",
            "warn",
            fact,
            "run chrony or systemd-timesyncd on all nodes: logs of several machines are put in order by time",
        )
    ]


async def _apis(
    http: aiohttp.ClientSession, url: str, headers: Mapping[str, str], *, submits: bool
) -> list[Check]:
    asked = [ask(http, f"{url}/api/jobs/", headers)]
    asked += [ask(http, f"{url}/api/v0/{_PATHS[kind]}", headers) for kind in STATE]
    jobs, *state = await asyncio.gather(*asked)
    checks = [
        _api("Jobs API", {"jobs": jobs}),
        _api("State API", dict(zip(STATE, state, strict=True))),
    ]
    checks.append(await _train(http, url, headers, state[STATE.index("actors")]))
    if submits and jobs.status == OK:
        checks.append(_submission(await ask(http, f"{url}/api/jobs/", headers, body=b"{}")))
    return checks


def _api(name: str, replies: Mapping[str, Reply]) -> Check:
    bad = {k: r.why or f"HTTP {r.status}" for k, r in replies.items() if r.status != OK}
    if not bad:
        return Check(name, "ok", f"{', '.join(replies)} answer")
    do = "look into dashboard.log on the head: a GCS that is gone, or no rights for this token"
    return Check(name, "fail", ", ".join(f"{k}: {why}" for k, why in bad.items()), do)


def _submission(reply: Reply) -> Check:
    """An empty submission is refused by its form (400) by who would take a whole one."""
    if reply.status == 400:  # noqa: PLR2004 - HTTP
        return Check("submission", "ok", "the dashboard takes submissions")
    do = "let this token, or a proxy between, POST /api/jobs/: the `job` hook needs it"
    return Check("submission", "fail", reply.why or f"HTTP {reply.status} to a POST /api/jobs/", do)


async def _train(
    http: aiohttp.ClientSession, url: str, headers: Mapping[str, str], actors: Reply
) -> Check:
    """Asked only where Ray Train runs: the first question makes the dashboard a driver of the cluster."""
    living = [
        a
        for a in parse_actors(actors.json, 0.0)
        if a.class_name == CONTROLLER and a.state != "DEAD"
    ]
    if not living:
        return Check("Train state API", "ok", f"not asked, Ray Train does not run. {_TRAIN_COST}")
    reply = await ask(http, f"{url}/api/train/v2/runs/v1", headers)
    if reply.status == OK:
        return Check("Train state API", "ok", "on")
    if reply.status == NOT_FOUND or off_reason(reply.status, reply.body):
        return Check("Train state API", "warn", "off", _TRAIN_COST)
    return Check("Train state API", "warn", reply.why or f"HTTP {reply.status}", _TRAIN_COST)
