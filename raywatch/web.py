"""What the daemon shows over HTTP: /metrics, /healthz, /readyz and /api/v1."""

from __future__ import annotations

import gzip
import hmac
import json
import os
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime, timezone
from functools import partial
from pathlib import Path
from secrets import token_hex
from typing import NamedTuple, TypeAlias

from aiohttp import web
from aiohttp.typedefs import Handler, Middleware

from raywatch.httpbody import weights
from raywatch.model import RaywatchError

MAX_WAIT_S = 30.0
STUCK_S = 60.0
# An eighth of the bytes; level 9 takes eight times as long for a seventh less.
GZIP_LEVEL = 1
MAX_EVENTS = 16 << 20  # bytes; a thousand events of Ray are some 2 MB
EVENTS = "/api/v1/events"
INDEX = (
    "raywatch: /metrics /healthz /readyz /api/v1/snapshot /api/v1/incidents /api/v1/runs"
    " /api/v1/nodes /api/v1/autoscaling /api/v1/actions /api/v1/notices\n"
)
Answer: TypeAlias = "Awaitable[tuple[int, Mapping[str, object]]]"  # HTTP status, JSON
Row: TypeAlias = "dict[str, object]"


class WebError(RaywatchError):
    """The server cannot listen: `address: why`."""


@dataclass(frozen=True, slots=True)
class Api:
    """What the server asks the daemon. All of it is quick and may be called from another thread.

    `snapshot(after)` is the JSON of a snapshot newer than `after`, or None; `changes(after)` that of the incidents
    which changed since; `wait(after, seconds)` sleeps until there is a newer one. `open_reading`: GET needs no token (a loopback address).
    `metrics(accept)` is the exposition that a request's Accept asks for, and its content type.
    `approve(key)` and `resume(run, dry_run)` answer once it was decided and is on the disk, `events(body)` once what Ray
    pushed is (None: longer than MAX_EVENTS). `events_key`: a path that ends with it needs no other proof, and is good for nothing else.
    """

    snapshot: Callable[[int], bytes | None]
    changes: Callable[[int], bytes | None]
    wait: Callable[[int, float], Awaitable[None]]
    metrics: Callable[[str], tuple[bytes, str]]
    health: Callable[[], tuple[bool, bytes]]
    approve: Callable[[str], Answer]
    resume: Callable[[str, bool], Answer]
    events: Callable[[bytes | None], Answer]
    token: str
    events_key: str
    hosts: frozenset[str]
    open_reading: bool


def ensure_token(path: Path) -> str:
    """Return the token that a POST needs, made at the first start, readable by its owner only."""
    known = path.read_text().strip() if path.exists() else ""
    if known:
        return known
    # Whole or not at all: a crash between making and writing it must not leave an empty token.
    part = path.with_name(path.name + ".part")
    with os.fdopen(os.open(part, os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600), "w") as out:
        out.write(token := token_hex(32))
    part.replace(path)
    return token


def make_app(api: Api) -> web.Application:
    """Build the application."""
    app = web.Application(middlewares=[_guard(api)], client_max_size=64 * 1024)
    app.add_routes(
        [
            web.get("/", _index),
            web.get("/metrics", partial(_metrics, api)),
            web.get("/healthz", partial(_health, api)),
            web.get("/readyz", partial(_health, api)),
            web.get("/api/v1/snapshot", partial(_snapshot, api)),
            web.get("/api/v1/incidents", partial(_incidents, api)),
            web.get("/api/v1/incidents/{id}", partial(_incident, api)),
            web.get("/api/v1/runs", partial(_runs, api)),
            web.get(r"/api/v1/runs/{id:[\s\S]+}", partial(_run, api)),  # an id may hold a path
            web.get("/api/v1/nodes", partial(_nodes, api)),
            web.get("/api/v1/nodes/{id}", partial(_node, api)),
            web.get("/api/v1/actions", partial(_actions, api)),
            web.get("/api/v1/notices", partial(_notices, api)),
            web.get("/api/v1/autoscaling", partial(_autoscaling, api)),
            web.post(r"/api/v1/runs/{id:[\s\S]+}/resume", partial(_resume, api)),
            web.post("/api/v1/actions/{key}/approve", partial(_approve, api)),
            web.post(EVENTS, partial(_events, api)),
            web.post(EVENTS + "/{key}", partial(_events, api)),
        ]
    )
    return app


def _guard(api: Api) -> Middleware:
    @web.middleware
    async def guard(request: web.Request, handler: Handler) -> web.StreamResponse:
        # A page of another origin may name this address by a name of its own (DNS rebinding).
        if _has_events_key(api, request):  # whoever knows it is no such page
            return await handler(request)
        host = (request.host or "").rsplit(":", 1)[0].strip("[]").lower()
        if host not in api.hosts:
            return _error(403, f"Host {host[:80]!r} is not one of this daemon's")
        reads = request.method in ("GET", "HEAD")
        if not (reads and (api.open_reading or request.path == "/healthz")) and not _has_token(
            api, request
        ):
            return _error(401, "give the token of <state>/token as Authorization: Bearer ...")
        response = await handler(request)
        response.headers["X-Content-Type-Options"] = "nosniff"
        response.headers["Cache-Control"] = "no-store"
        return response

    return guard


def _has_token(api: Api, request: web.Request) -> bool:
    given = request.headers.get("Authorization", "").removeprefix("Bearer ").strip()
    return bool(api.token) and hmac.compare_digest(
        given.encode(errors="replace"), api.token.encode()
    )


def _has_events_key(api: Api, request: web.Request) -> bool:
    """Say whether it is Ray's agent, which can send no Authorization."""
    given = request.path.removeprefix(EVENTS + "/")
    mine = api.events_key.encode()
    right = hmac.compare_digest(given.encode(errors="replace"), mine)
    return request.method == "POST" and bool(mine) and right


def _error(status: int, what: str) -> web.Response:
    return web.json_response({"error": what}, status=status)


async def _index(_request: web.Request) -> web.Response:
    return web.Response(text=INDEX)


async def _metrics(api: Api, request: web.Request) -> web.Response:
    body, kind = api.metrics(request.headers.get("Accept", ""))
    headers = {"Content-Type": kind}
    if weights(request.headers.get("Accept-Encoding", "")).get("gzip", 0.0) > 0:
        body = gzip.compress(body, GZIP_LEVEL, mtime=0)  # it lets go of the interpreter meanwhile
        headers["Content-Encoding"] = "gzip"
    return web.Response(body=body, headers=headers)


async def _health(api: Api, _request: web.Request) -> web.Response:
    works, body = api.health()
    return web.Response(status=200 if works else 503, body=body, content_type="application/json")


async def _snapshot(api: Api, request: web.Request) -> web.Response:
    return await _newer(api, request, api.snapshot)


async def _newer(
    api: Api, request: web.Request, newest: Callable[[int], bytes | None]
) -> web.Response:
    """Answer with what is newer than `after`, at the latest after `wait` seconds; 304 where nothing is."""
    try:
        after = int(request.query.get("after", "-1"))
        wait_s = min(float(request.query.get("wait", "0")), MAX_WAIT_S)
    except ValueError:
        return _error(400, "after is a number of a snapshot, wait is seconds")
    body = newest(after)
    if body is None and wait_s > 0:
        await api.wait(after, wait_s)
        body = newest(after)
    if body is None:
        return web.Response(status=304)
    return web.Response(body=body, content_type="application/json")


class _Seen(NamedTuple):
    """Rows of one kind, and what its view does not see."""

    kind: str
    rows: list[Row]
    blind: list[Row]

    def these(self, rows: list[Row]) -> web.Response:
        """Answer with some of the rows."""
        return web.json_response({self.kind: rows, "blind": self.blind})

    def one(self, found: Sequence[Row]) -> web.Response:
        """Answer with the first of the rows that were meant."""
        if found:
            return web.json_response({**found[0], "blind": self.blind})
        return _error(404, f"no such {self.kind.removesuffix('s')}")


def _seen(api: Api, kind: str) -> _Seen:
    told = json.loads(api.snapshot(-1) or b"{}")
    blind = [b for b in told.get("blind", ()) if kind in b["spoils"]]
    rows = told.get(kind, [])
    rows = rows if isinstance(rows, list) else [rows]
    return _Seen(kind, rows, [*_stuck(told.get("now"), time.time()), *blind])


def _stuck(shown_at: str | None, now: float) -> list[Row]:
    """Say that what is shown is old: the loop publishes at every sweep, also when nothing happens."""
    at = datetime.fromisoformat(shown_at.replace("Z", "+00:00")).timestamp() if shown_at else now
    if now - at <= STUCK_S:
        return []
    words = f"the daemon's loop stands still: what you see is of {shown_at}"
    return [{"sources": ["daemon"], "state": "stale", "since": shown_at, "words": words}]


def _only(rows: list[Row], request: web.Request, *keys: str) -> list[Row]:
    wanted = {k: request.query[k] for k in keys if k in request.query}
    return [r for r in rows if all(r[k] == v for k, v in wanted.items())]


async def _incidents(api: Api, request: web.Request) -> web.Response:
    if "after" in request.query:
        if request.query.keys() - {"after", "wait"}:
            return _error(400, "after goes with wait only")
        return await _newer(api, request, api.changes)
    seen = _seen(api, "incidents")
    rows = _only(seen.rows, request, "class", "state")
    if "since" in request.query:
        try:
            since = datetime.fromisoformat(request.query["since"].replace("Z", "+00:00"))
        except ValueError:
            return _error(400, "since is a time in RFC 3339, like 2026-11-23T07:00:00Z")
        rows = [r for r in rows if _was_after(r, since)]
    return seen.these(rows)


def _was_after(row: Row, since: datetime) -> bool:
    since = since if since.tzinfo else since.replace(tzinfo=timezone.utc)
    at = str(row["last_at"] or "").replace("Z", "+00:00")
    return bool(at) and datetime.fromisoformat(at) >= since


async def _incident(api: Api, request: web.Request) -> web.Response:
    seen, number = _seen(api, "incidents"), request.match_info["id"]
    return seen.one([r for r in seen.rows if number == r["id"] or number in _merged(r)])


def _merged(row: Row) -> list[str]:
    """Ids of incidents that turned out to be symptoms of this one."""
    ids = row["merged"]
    return [str(i) for i in ids] if isinstance(ids, list) else []


async def _runs(api: Api, request: web.Request) -> web.Response:
    seen = _seen(api, "runs")
    return seen.these(_only(seen.rows, request, "status", "name"))


async def _run(api: Api, request: web.Request) -> web.Response:
    seen, text = _seen(api, "runs"), request.match_info["id"]
    found = [r for r in seen.rows if r["id"] == text] or [r for r in seen.rows if r["name"] == text]
    if len(found) > 1:
        return _error(409, f"several runs are named {text}; give an id")
    return seen.one(found)


async def _nodes(api: Api, request: web.Request) -> web.Response:
    seen = _seen(api, "nodes")
    return seen.these(_only(seen.rows, request, "state", "ip"))


async def _node(api: Api, request: web.Request) -> web.Response:
    seen = _seen(api, "nodes")
    return seen.one([r for r in seen.rows if r["id"] == request.match_info["id"]])


async def _actions(api: Api, request: web.Request) -> web.Response:
    seen = _seen(api, "actions")
    return seen.these(_only(seen.rows, request, "run", "incident", "class", "state"))


async def _notices(api: Api, request: web.Request) -> web.Response:
    seen = _seen(api, "notices")
    return seen.these(_only(seen.rows, request, "provider", "kind", "node"))


async def _approve(api: Api, request: web.Request) -> web.Response:
    status, body = await api.approve(request.match_info["key"])
    return web.json_response(body, status=status)


async def _resume(api: Api, request: web.Request) -> web.Response:
    try:
        asked = json.loads(await request.read() or b"{}")
    except (ValueError, RecursionError):  # RecursionError: a hostile depth of brackets
        return _error(400, "the body is no JSON")
    dry_run = asked.get("dry_run", False) if isinstance(asked, dict) else None
    if not isinstance(dry_run, bool) or asked.keys() - {"dry_run"}:
        return _error(400, 'the body is empty or {"dry_run": true}')
    status, body = await api.resume(request.match_info["id"], dry_run)
    return web.json_response(body, status=status)


async def _events(api: Api, request: web.Request) -> web.Response:
    try:
        pushed: bytes | None = await request.clone(client_max_size=MAX_EVENTS).read()
    except web.HTTPRequestEntityTooLarge:
        pushed = None
    status, body = await api.events(pushed)
    return web.json_response(body, status=status)


async def _autoscaling(api: Api, _request: web.Request) -> web.Response:
    seen = _seen(api, "autoscaling")
    return seen.one(seen.rows)


async def serve(app: web.Application, host: str, port: int) -> web.AppRunner:
    """Start to listen. Raises WebError. Clean up the returned runner."""
    runner = web.AppRunner(app, access_log=None, shutdown_timeout=2.0)
    await runner.setup()
    try:
        await web.TCPSite(runner, host, port).start()
    except OSError as error:
        await runner.cleanup()
        raise WebError(f"{host}:{port}: cannot listen: {error.strerror or error}") from error
    return runner


def port_of(runner: web.AppRunner) -> int:
    """Return the port that is listened on (for port 0)."""
    return int(runner.addresses[0][1])
