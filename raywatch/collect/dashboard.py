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
    parse_actors,
    parse_jobs,
    parse_nodes,
    parse_version,
    parse_workers,
)
from raywatch.model import (
    ActorSeen,
    EndpointHealth,
    JobSeen,
    NodeSeen,
    Observation,
    SessionSeen,
    WorkerSeen,
)

log = logging.getLogger("raywatch.dashboard")
MAX_BODY = 64 << 20
ALERT_S = 30.0  # for so long after a nudge everything is asked every second
ALERT_EVERY_S = 1.0
HEALTH_EVERY_S = 30.0
TURN_S = 0.5
BACK_OFF_S = 10.0
Parse = Callable[[bytes, float], Sequence[Observation]]


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


class DashboardPoller:
    """Asks the dashboard at `url` and emits what changed. `run` in an asyncio loop; `nudge` from any thread."""

    def __init__(
        self,
        url: str,
        token: Callable[[], Token | None],
        emit: Callable[[Sequence[Observation]], None],
        *,
        clock: Callable[[], float],
        timeout_s: float = 10.0,
    ) -> None:
        self._url, self._token, self._emit, self._clock = url.rstrip("/"), token, emit, clock
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._asked = {e.name: 0.0 for e in ENDPOINTS}
        self._bodies: dict[str, bytes] = {}
        self._rows: dict[str, dict[str, Observation]] = {e.name: {} for e in ENDPOINTS}
        self._health: dict[str, EndpointHealth] = {}
        self._alert_until = 0.0
        self._retry_at = 0.0
        self._lock = threading.Lock()

    def nudge(self) -> None:
        """Something failed: ask everything now and often for a while."""
        with self._lock:
            if self._clock() > self._alert_until - ALERT_S / 2:
                self._asked = dict.fromkeys(self._asked, 0.0)
            self._alert_until = self._clock() + ALERT_S

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
        for endpoint in self._due(self._clock()):
            self._asked[endpoint.name] = self._clock()
            health, body = await self._ask(session, endpoint)
            seen += self._health_news(health)
            if health.state == "refused":
                self._retry_at = self._clock() + min(BACK_OFF_S, endpoint.every_s)
                break
            if body is not None and body != self._bodies.get(endpoint.name):
                self._bodies[endpoint.name] = body
                seen += self._news(endpoint, body)
        return seen

    def _due(self, now: float) -> list[Endpoint]:
        if now < self._retry_at:
            return []
        with self._lock:
            alert = now < self._alert_until
        return [
            e
            for e in ENDPOINTS
            if now - self._asked[e.name] >= (ALERT_EVERY_S if alert else e.every_s)
        ]

    async def _ask(
        self, session: aiohttp.ClientSession, endpoint: Endpoint
    ) -> tuple[EndpointHealth, bytes | None]:
        token = self._token()
        headers = {"Authorization": f"Bearer {token.value}"} if token else {}
        state, detail, body = "up", "", None
        try:
            async with session.get(
                self._url + endpoint.path, headers=headers, allow_redirects=False
            ) as answer:
                body = await answer.content.read(MAX_BODY)
                while more := await answer.content.read(MAX_BODY - len(body)):
                    body += more
                if answer.status != 200:  # noqa: PLR2004 - HTTP
                    tried = f"token tried: {token.source if token else 'none'}"
                    state = {401: "unauthorized", 403: "forbidden"}.get(answer.status, "error")
                    detail = f"HTTP {answer.status}; {tried}"
        except asyncio.TimeoutError:
            state, detail = "timeout", "it accepts and does not answer; the GCS may be gone"
        except aiohttp.ClientConnectorError as error:
            state, detail = "refused", str(error)
        except aiohttp.ClientError as error:
            state, detail = "error", f"{type(error).__name__}: {error}"
        return EndpointHealth(
            self._clock(), endpoint.name, state, detail
        ), body if state == "up" else None

    def _health_news(self, health: EndpointHealth) -> list[Observation]:
        known = self._health.get(health.name)
        changed = known is None or known.state != health.state
        if changed and (known is not None or health.state != "up"):
            log.warning("dashboard %s is %s %s", health.name, health.state, health.detail)
        if not changed and known is not None and health.at - known.at < HEALTH_EVERY_S:
            return []
        self._health[health.name] = health
        return [health]

    def _news(self, endpoint: Endpoint, body: bytes) -> list[Observation]:
        rows = {_key(o): o for o in endpoint.parse(body, self._clock())}
        known = self._rows[endpoint.name]
        news = [o for k, o in rows.items() if k not in known or _undated(known[k]) != _undated(o)]
        self._rows[endpoint.name] = rows
        return news


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
        case _:
            return ""


def _undated(seen: Observation) -> Observation:
    return replace(seen, at=0.0)
