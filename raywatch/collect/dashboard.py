"""Ray's dashboard, asked gently: every request adds a line to dashboard.log, so it is few while nothing happens."""

from __future__ import annotations

import asyncio
import logging
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace

import aiohttp

from raywatch.collect.rayauth import Token
from raywatch.collect.rayjson import (
    load,
    parse_actors,
    parse_jobs,
    parse_nodes,
    parse_train,
    parse_version,
    parse_workers,
    shortfall,
)
from raywatch.collect.trainstate import TrainGate, off_reason
from raywatch.httpbody import whole
from raywatch.observations import (
    ActorSeen,
    EndpointHealth,
    JobSeen,
    NodeSeen,
    Observation,
    SessionSeen,
    TrainRunSeen,
    WorkerSeen,
)

log = logging.getLogger("raywatch.dashboard")
MAX_BODY = 64 << 20
ALERT_S = 30.0  # for so long after a nudge everything is asked every second
ALERT_EVERY_S = 1.0
HEALTH_EVERY_S = 30.0
NEVER = float("-inf")
TURN_S = 0.5
BACK_OFF_S = 10.0
SAME_FOR_ALL = frozenset(["refused", "unauthorized", "forbidden"])
Parse = Callable[[object, float], Sequence[Observation]]


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is asked, how often while nothing happens, and how the answer is read."""

    name: str
    path: str
    every_s: float
    parse: Parse


ENDPOINTS = (
    Endpoint("version", "/api/version", 10.0, parse_version),
    Endpoint("jobs", "/api/jobs/", 5.0, parse_jobs),
    Endpoint("nodes", "/api/v0/nodes?detail=1&limit=10000", 5.0, parse_nodes),
    Endpoint("actors", "/api/v0/actors?detail=1&limit=10000", 10.0, parse_actors),
    Endpoint("workers", "/api/v0/workers?detail=1&limit=10000", 10.0, parse_workers),
)
TRAIN = Endpoint("train", "/api/train/v2/runs/v1", 10.0, parse_train)


class DashboardPoller:
    """Asks the dashboard at `url` and emits what changed. `run` in an asyncio loop; `nudge` from any thread."""

    def __init__(
        self,
        url: str,
        token: Callable[[], Token | None],
        emit: Callable[[Sequence[Observation]], None],
        *,
        clock: Callable[[], float],
        steady: Callable[[], float] | None = None,
        timeout_s: float = 10.0,
        max_body: int = MAX_BODY,
    ) -> None:
        """`steady` times the questions (else `clock` does): a clock that is set back must not stop them."""
        self._url, self._token, self._emit, self._clock = url.rstrip("/"), token, emit, clock
        self._steady = steady or clock
        self._timeout, self._max_body = aiohttp.ClientTimeout(total=timeout_s), max_body
        self._asked = {e.name: NEVER for e in ENDPOINTS}
        self._bodies: dict[str, bytes] = {}
        self._notes: dict[str, str] = {}  # what the body leaves out
        self._rows: dict[str, dict[str, Observation]] = {}
        self._train = TrainGate()
        self._health: dict[str, EndpointHealth] = {}
        self._answered: dict[str, float] = {}  # when each last answered well
        self._session = ""
        self._alert_until = 0.0
        self._retry_at = 0.0
        self._lock = threading.Lock()

    def nudge(self) -> None:
        """Something failed: ask everything now and often for a while."""
        with self._lock:
            if self._steady() > self._alert_until - ALERT_S / 2:
                self._asked = dict.fromkeys(self._asked, NEVER)
            self._alert_until = self._steady() + ALERT_S

    async def run(self) -> None:
        """Ask until cancelled."""
        async with aiohttp.ClientSession(timeout=self._timeout) as session:
            while True:
                seen = await self.poll(session)
                if seen:
                    self._emit(seen)
                await asyncio.sleep(TURN_S)

    async def poll(self, session: aiohttp.ClientSession) -> list[Observation]:
        """Ask what is due; return what changed and how the endpoints answered."""
        seen: list[Observation] = []
        for endpoint in self._due(self._steady()):
            self._asked[endpoint.name] = self._steady()
            health, body = await self._ask(session, endpoint)
            rows = None
            if body is not None:
                health, rows = self._read(endpoint, body, health)
            if endpoint is TRAIN:
                self._train = self._train.answered(health, self._steady())
            seen += self._health_news(health)
            if health.state in SAME_FOR_ALL:
                self._retry_at = self._steady() + min(BACK_OFF_S, endpoint.every_s)
                for other in ENDPOINTS:  # none of them sees anything; said once
                    seen += self._health_news(replace(health, name=other.name), quiet=True)
                break
            if rows is not None:
                seen += self._news(endpoint, rows)
        return seen

    def _due(self, now: float) -> list[Endpoint]:
        if now < self._retry_at:
            return []
        with self._lock:
            alert = now < self._alert_until
        due = [
            e
            for e in ENDPOINTS
            if now - self._asked[e.name] >= (ALERT_EVERY_S if alert else e.every_s)
        ]
        return [*due, TRAIN] if self._train.is_due(now, alert=alert) else due

    async def _ask(
        self, session: aiohttp.ClientSession, endpoint: Endpoint
    ) -> tuple[EndpointHealth, bytes | None]:
        at = self._clock()  # what an answer shows may be as old as its question
        token = self._token()
        headers = {"Authorization": f"Bearer {token.value}"} if token else {}
        body = None
        try:
            async with session.get(
                self._url + endpoint.path, headers=headers, allow_redirects=False
            ) as answer:
                body = await whole(answer, self._max_body)
                state, detail = _verdict(endpoint, answer.status, body, token)
        except asyncio.TimeoutError:
            state, detail = "timeout", "it accepts and does not answer; the GCS may be gone"
        except aiohttp.ClientConnectorError as error:
            state, detail = "refused", str(error)
        except aiohttp.ClientError as error:
            state, detail = "error", f"{type(error).__name__}: {error}"
        return EndpointHealth(at, endpoint.name, state, detail), body if state == "up" else None

    def _read(
        self, endpoint: Endpoint, body: bytes, up: EndpointHealth
    ) -> tuple[EndpointHealth, Sequence[Observation] | None]:
        """Return the rows of a body, None where it is the last one again or cannot be read."""
        name = endpoint.name
        if body == self._bodies.get(name):
            return replace(up, detail=self._notes[name]), None
        found = load(body)
        if found is None:
            return replace(up, state="error", detail="the answer is no JSON"), None
        self._bodies[name], self._notes[name] = body, shortfall(found)
        return replace(up, detail=self._notes[name]), endpoint.parse(found, up.at)

    def _health_news(self, health: EndpointHealth, *, quiet: bool = False) -> list[Observation]:
        if health.state == "up":
            self._answered[health.name] = health.at
        health = replace(health, answered_at=self._answered.get(health.name))
        known = self._health.get(health.name)
        changed = known is None or known.state != health.state
        changed = changed or (known is not None and bool(known.detail) != bool(health.detail))
        if changed and not quiet and (known is not None or health.state != "up" or health.detail):
            level = logging.INFO if health.state == "off" else logging.WARNING
            log.log(level, "dashboard %s is %s %s", health.name, health.state, health.detail)
        if not changed and known is not None and 0 <= health.at - known.at < HEALTH_EVERY_S:
            return []
        self._health[health.name] = health
        return [health]

    def _news(self, endpoint: Endpoint, seen: Sequence[Observation]) -> list[Observation]:
        self._train = self._train.heard(seen, endpoint.name)
        self._enter(next((s.session for s in seen if isinstance(s, SessionSeen)), self._session))
        rows = {_key(o): o for o in seen}
        known = self._rows.get(endpoint.name, {})
        news = [o for k, o in rows.items() if k not in known or _undated(known[k]) != _undated(o)]
        self._rows[endpoint.name] = rows
        return news

    def _enter(self, session: str) -> None:
        """Forget what an earlier session said: rows of the new one that came before its name are told again."""
        if session and self._session not in ("", session):
            self._bodies, self._rows = {}, {}
            self._asked = dict.fromkeys(self._asked, NEVER) | {"version": self._steady()}
        self._session = session or self._session


def _verdict(
    endpoint: Endpoint, status: int, body: bytes | None, token: Token | None
) -> tuple[str, str]:
    """Return the state of an endpoint that answered, and why."""
    off = off_reason(status, body or b"") if endpoint is TRAIN else ""
    if off:
        return "off", off
    if status != 200:  # noqa: PLR2004 - HTTP
        tried = f"token tried: {token.source if token else 'none'}"
        state = {401: "unauthorized", 403: "forbidden"}.get(status, "error")
        return state, f"HTTP {status}; {tried}"
    if body is None:  # half a list is no list: what is not in it is not gone
        return "error", "the answer is longer than this reads"
    return "up", ""


def _key(seen: Observation) -> str:
    match seen:
        case JobSeen():
            return seen.submission_id or seen.job_id
        case NodeSeen():
            return seen.node_id
        case ActorSeen():
            return seen.actor_id
        case WorkerSeen():
            return seen.worker_id
        case SessionSeen():
            return seen.session
        case TrainRunSeen():
            return seen.run_id
        case _:
            return ""


def _undated(seen: Observation) -> Observation:
    return replace(seen, at=0.0)
