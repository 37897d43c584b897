"""Ray's dashboard, asked gently: every request adds a line to dashboard.log, so it is few while nothing happens."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable, Sequence
from dataclasses import replace

import aiohttp

from raywatch.collect.asked import Asked, unheard
from raywatch.collect.endpoints import SERVE, STATUS, TRAIN, TRAIN_V1, Endpoint
from raywatch.collect.rayauth import Token
from raywatch.collect.rayjson import load, shortfall
from raywatch.collect.schedule import SAME_FOR_ALL, Schedule, same_for
from raywatch.collect.trainstate import off_reason
from raywatch.httpbody import whole
from raywatch.observations import (
    ActorSeen,
    AutoscalerSeen,
    EndpointHealth,
    JobSeen,
    NodeSeen,
    Observation,
    ServeSeen,
    SessionSeen,
    TrainRunSeen,
    WorkerSeen,
)

log = logging.getLogger("raywatch.dashboard")
MAX_BODY = 64 << 20
HEALTH_EVERY_S = 30.0
TURN_S = 0.5
SILENT_S = 60.0  # an autoscaler (v1) writes a new report every 5 s


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
        asked: Asked = unheard,
    ) -> None:
        """`steady` times the questions (else `clock` does): a clock that is set back must not stop them."""
        self._asked = asked
        self._url, self._token, self._emit, self._clock = url.rstrip("/"), token, emit, clock
        self._steady = steady or clock
        self._timeout, self._max_body = aiohttp.ClientTimeout(total=timeout_s), max_body
        self._bodies: dict[str, bytes] = {}
        self._since: dict[str, float] = {}  # when they came first
        self._notes: dict[str, str] = {}  # what the body leaves out
        self._rows: dict[str, dict[str, Observation]] = {}
        self._health: dict[str, EndpointHealth] = {}
        self._answered: dict[str, float] = {}  # when each last answered well
        self._session = ""
        self._schedule = Schedule()

    def nudge(self) -> None:
        """Something failed: ask everything now and often for a while."""
        self._schedule.nudge(self._steady())

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
        for endpoint in self._schedule.due(self._steady()):
            if self._schedule.is_waiting(endpoint, self._steady()):
                continue
            self._schedule.asking(endpoint, self._steady())
            health, body = await self._ask(session, endpoint)
            rows = None
            if body is not None:
                health, rows = self._read(endpoint, body, health)
            self._asked(endpoint.name, health.state)
            self._schedule.answered(endpoint, health, self._steady())
            seen += self._health_news(health)
            for other in same_for(endpoint, health):  # none of them sees anything; said once
                seen += self._health_news(replace(health, name=other.name), quiet=True)
            if health.state in SAME_FOR_ALL:
                break
            if rows is not None:
                seen += self._news(endpoint, rows)
        return seen + self._over()

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
            return replace(up, detail=self._notes[name]), self._again(endpoint)
        found = load(body)
        if found is None:
            return replace(up, state="error", detail="the answer is no JSON"), None
        self._bodies[name], self._notes[name] = body, shortfall(found)
        self._since[name] = self._steady()
        return replace(up, detail=self._notes[name]), endpoint.parse(found, up.at)

    def _again(self, endpoint: Endpoint) -> Sequence[Observation] | None:
        """Return what it means that a body is the last one again: a report has its time in it."""
        if endpoint is not STATUS or self._steady() - self._since[endpoint.name] < SILENT_S:
            return None
        told = self._rows.get(endpoint.name, {}).values()
        return [replace(o, silent=o.reports) for o in told if isinstance(o, AutoscalerSeen)]

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
        self._schedule.heard(seen, endpoint.name)
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
            self._schedule.anew(self._steady())
        self._session = session or self._session

    def _over(self) -> list[Observation]:
        """Tell that there are no Serve applications any more: nobody is left who could say so."""
        known = self._rows.get(SERVE.name, {}).values()
        if not any(isinstance(o, ServeSeen) and o.apps for o in known):
            return []
        if not self._schedule.is_over(SERVE):
            return []
        self._bodies.pop(SERVE.name, None)  # the same applications may come back
        return self._news(SERVE, [ServeSeen(self._clock(), ())])


def _verdict(
    endpoint: Endpoint, status: int, body: bytes | None, token: Token | None
) -> tuple[str, str]:
    """Return the state of an endpoint that answered, and why."""
    off = off_reason(status, body or b"") if endpoint in (TRAIN, TRAIN_V1) else ""
    if off:
        return "off", off
    if status != 200:  # noqa: PLR2004 - HTTP
        tried = f"token tried: {token.source if token else 'none'}"
        state = {401: "unauthorized", 403: "forbidden", 429: "busy"}.get(status, "error")
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
