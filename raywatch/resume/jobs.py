"""Ray's Jobs API as a hook needs it: read a job afresh, submit one with an id of our own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal
from urllib.parse import quote

import aiohttp

from raywatch.httpbody import whole

MAX_BODY = 64 << 20
MAX_ROWS = 10_000  # that the State API gives in one answer, and reads from its source
_UNSET_MS = 1 << 62


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An answer that says nothing about the job: `kind` is why. `refused`: Ray said that it will not do it.

    Where it did not, a submission may be taken yet: Ray answers 400 for what it refuses, 500 for its own trouble
    (job_head.py of 2.60).
    """

    kind: Literal["refused", "timeout", "unauthorized", "forbidden", "error", "missing"]
    detail: str
    refused: bool = False


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the API shows it now."""

    submission_id: str
    job_id: str
    status: str
    entrypoint: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    runtime_env: str = "{}"  # JSON
    started_at: float | None = None
    ended_at: float | None = None


@dataclass(frozen=True, slots=True)
class Actor:
    """An actor of a job, as far as it tells who is left."""

    state: str
    node_id: str
    pid: int


@dataclass(frozen=True, slots=True)
class Worker:
    """A worker or driver process that Ray has as alive."""

    worker_id: str
    kind: str  # WORKER | DRIVER | ...
    node_id: str
    pid: int
    started_at: float | None = None


@dataclass(frozen=True, slots=True)
class Submission:
    """What to submit. `runtime_env` is JSON text."""

    submission_id: str
    entrypoint: str
    runtime_env: str
    metadata: Mapping[str, str]
    resources: Mapping[str, float] = field(default_factory=dict)


class JobsClient:
    """The dashboard at `url`. One aiohttp session; use it as an async context manager."""

    def __init__(
        self, url: str, token: Callable[[], str | None], *, timeout_s: float = 15.0
    ) -> None:
        self._url, self._token = url.rstrip("/"), token
        self._timeout = aiohttp.ClientTimeout(total=timeout_s)
        self._session: aiohttp.ClientSession | None = None

    async def __aenter__(self) -> JobsClient:  # noqa: PYI034 - typing.Self is 3.11
        self._session = aiohttp.ClientSession(timeout=self._timeout)
        return self

    async def __aexit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._session is not None:
            await self._session.close()

    async def jobs(self) -> tuple[Job, ...] | Unreadable:
        """List all jobs."""
        body = await self._ask("GET", "/api/jobs/")
        if isinstance(body, Unreadable):
            return body
        return (
            tuple(map(_job, body))
            if isinstance(body, list)
            else Unreadable("error", "no list of jobs")
        )

    async def job(self, submission_id: str) -> Job | Unreadable:
        """Read one job."""
        body = await self._ask("GET", f"/api/jobs/{quote(submission_id, safe='')}")
        return body if isinstance(body, Unreadable) else _job(body)

    async def actors(self, job_id: str) -> tuple[Actor, ...] | Unreadable:
        """List the actors of a job, also dead ones. Detached ones outlive every job and hold no rank."""
        rows = await self._state("actors", f"&detail=1{_filter('job_id', job_id)}")
        if isinstance(rows, Unreadable):
            return rows
        try:
            mine = [r for r in rows if r["job_id"] == job_id and not r.get("is_detached")]
            return tuple(
                Actor(str(r["state"]), _text(r, "node_id"), _number(r, "pid")) for r in mine
            )
        except KeyError as error:
            return Unreadable("error", f"an actor without {error}")

    async def living_workers(self) -> tuple[Worker, ...] | Unreadable:
        """List the processes that Ray has as alive; on a node that is dead this means nothing."""
        rows = await self._state("workers", f"&detail=1{_filter('is_alive', 'True')}")
        if isinstance(rows, Unreadable):
            return rows
        try:
            return tuple(_worker(r) for r in rows if r["is_alive"] is not False)
        except KeyError as error:
            return Unreadable("error", f"a worker without {error}")

    async def living_nodes(self) -> frozenset[str] | Unreadable:
        """Return the ids of the nodes that Ray does not have as dead."""
        rows = await self._state("nodes", "")
        if isinstance(rows, Unreadable):
            return rows
        try:
            return frozenset(_text(r, "node_id") for r in rows if r["state"] != "DEAD")
        except KeyError as error:
            return Unreadable("error", f"a node without {error}")

    async def _state(self, what: str, query: str) -> list[dict[str, object]] | Unreadable:
        """Read a list of the State API; a part of one is no list."""
        body = await self._ask("GET", f"/api/v0/{what}?limit={MAX_ROWS}{query}")
        if isinstance(body, Unreadable):
            return body
        try:
            told = body["data"]["result"]  # type: ignore[index] # a wrong shape is caught
            rows = list(told["result"])
            if not all(isinstance(r, dict) for r in rows):
                return Unreadable("error", f"no list of {what}")
            cut = _cut(len(rows), told)
        except (KeyError, TypeError, ValueError):
            return Unreadable("error", f"no list of {what}")
        return Unreadable("error", cut) if cut else rows

    async def submit(self, submission: Submission) -> Literal["created", "exists"] | Unreadable:
        """Submit a job. A second one with the same submission_id is refused by Ray itself: `exists`."""
        body = {
            "entrypoint": submission.entrypoint,
            "submission_id": submission.submission_id,
            "runtime_env": json.loads(submission.runtime_env or "{}"),
            "metadata": dict(submission.metadata),
            **submission.resources,
        }
        answer = await self._ask("POST", "/api/jobs/", body)
        if isinstance(answer, Unreadable):
            # job_manager.py of Ray 2.9 to 2.60: "Job with submission_id X already exists."
            return "exists" if "already exists" in answer.detail else answer
        return "created"

    async def _ask(self, method: str, path: str, body: object = None) -> object | Unreadable:
        if self._session is None:
            raise RuntimeError("use JobsClient as an async context manager")
        token = self._token()
        headers = {"Authorization": f"Bearer {token}"} if token else {}
        try:
            async with self._session.request(
                method, self._url + path, json=body, headers=headers, allow_redirects=False
            ) as answer:
                raw = await whole(answer, MAX_BODY)
        except asyncio.TimeoutError:
            return Unreadable("timeout", f"no answer from {self._url} in time; the GCS may be gone")
        except aiohttp.ClientConnectorError as error:
            return Unreadable("refused", str(error))
        except aiohttp.ClientError as error:
            return Unreadable("error", f"{type(error).__name__}: {error}")
        return (
            Unreadable("error", "the answer is too long")
            if raw is None
            else _read(answer.status, raw)
        )


def _read(status: int, raw: bytes) -> object | Unreadable:
    kinds: dict[int, Literal["unauthorized", "forbidden", "missing"]] = {
        401: "unauthorized",
        403: "forbidden",
        404: "missing",
    }
    text = raw[-4096:].decode(errors="replace")
    if status != 200:  # noqa: PLR2004 - HTTP
        no = 400 <= status < 500  # noqa: PLR2004 - HTTP
        return Unreadable(kinds.get(status, "error"), f"HTTP {status}: {text}", refused=no)
    try:
        return json.loads(raw)  # type: ignore[no-any-return] # shape checked by the callers
    except ValueError:
        return Unreadable("error", "the answer is no JSON")


def _filter(key: str, value: str) -> str:
    return f"&filter_keys={key}&filter_predicates=%3D&filter_values={quote(value)}"


def _cut(shown: int, told: dict[str, object]) -> str:
    """Say what a list leaves out. `total` counts before any filter, the other numbers partly behind it."""
    read, total = _number(told, "num_after_truncation"), _number(told, "total")
    if MAX_ROWS <= read < total or shown < _number(told, "num_filtered"):
        return f"truncated: {shown} of {total}"
    return _text(told, "partial_failure_warning")[:300]


def _text(row: Mapping[str, object], key: str) -> str:
    value = row.get(key)
    return "" if value is None else str(value)


def _number(row: Mapping[str, object], key: str) -> int:
    found = _text(row, key)
    return int(found) if found.isascii() and found.isdigit() and len(found) < 20 else 0  # noqa: PLR2004 - 64 bits


def _time(row: Mapping[str, object], key: str) -> float | None:
    ms = _number(row, key)
    return ms / 1000 if 0 < ms < _UNSET_MS else None


def _worker(row: Mapping[str, object]) -> Worker:
    return Worker(
        worker_id=_text(row, "worker_id"),
        kind=_text(row, "worker_type"),
        node_id=_text(row, "node_id"),
        pid=_number(row, "pid"),
        started_at=_time(row, "start_time_ms"),
    )


def _job(row: object) -> Job:
    known = row if isinstance(row, dict) else {}
    metadata = known.get("metadata")
    return Job(
        submission_id=str(known.get("submission_id") or ""),
        job_id=str(known.get("job_id") or ""),
        status=str(known.get("status") or "UNKNOWN"),
        entrypoint=str(known.get("entrypoint") or ""),
        metadata={str(k): str(v) for k, v in metadata.items()}
        if isinstance(metadata, dict)
        else {},
        runtime_env=json.dumps(known.get("runtime_env") or {}),
        started_at=_time(known, "start_time"),
        ended_at=_time(known, "end_time"),
    )
