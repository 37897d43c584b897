"""Ray's Jobs API as a hook needs it: read a job afresh, submit one with an id of our own."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from types import TracebackType
from typing import Literal

import aiohttp

MAX_BODY = 64 << 20


@dataclass(frozen=True, slots=True)
class Unreadable:
    """An answer that says nothing about the job: `kind` is why."""

    kind: Literal["refused", "timeout", "unauthorized", "forbidden", "error", "missing"]
    detail: str


@dataclass(frozen=True, slots=True)
class Job:
    """A job as the API shows it now."""

    submission_id: str
    job_id: str
    status: str
    entrypoint: str
    metadata: Mapping[str, str] = field(default_factory=dict)
    runtime_env: str = "{}"  # JSON


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
        body = await self._ask("GET", f"/api/jobs/{submission_id}")
        return body if isinstance(body, Unreadable) else _job(body)

    async def living_actors(self, job_id: str) -> int | Unreadable:
        """Count the actors of a job that are not dead. Detached ones outlive every job and hold no rank."""
        query = (
            f"?detail=1&limit=10000&filter_keys=job_id&filter_predicates=%3D&filter_values={job_id}"
        )
        body = await self._ask("GET", f"/api/v0/actors{query}")
        if isinstance(body, Unreadable):
            return body
        try:
            rows = body["data"]["result"]["result"]  # type: ignore[index] # a wrong shape is caught
            held = [r for r in rows if r["job_id"] == job_id and not r.get("is_detached")]
            return sum(1 for r in held if r["state"] != "DEAD")
        except (KeyError, TypeError, AttributeError):
            return Unreadable("error", "no list of actors")

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
                raw = await answer.content.read(MAX_BODY)
        except asyncio.TimeoutError:
            return Unreadable("timeout", f"no answer from {self._url} in time; the GCS may be gone")
        except aiohttp.ClientConnectorError as error:
            return Unreadable("refused", str(error))
        except aiohttp.ClientError as error:
            return Unreadable("error", f"{type(error).__name__}: {error}")
        return _read(answer.status, raw)


def _read(status: int, raw: bytes) -> object | Unreadable:
    kinds: dict[int, Literal["unauthorized", "forbidden", "missing"]] = {
        401: "unauthorized",
        403: "forbidden",
        404: "missing",
    }
    text = raw[-4096:].decode(errors="replace")
    if status != 200:  # noqa: PLR2004 - HTTP
        return Unreadable(kinds.get(status, "error"), f"HTTP {status}: {text}")
    try:
        return json.loads(raw)  # type: ignore[no-any-return] # shape checked by the callers
    except ValueError:
        return Unreadable("error", "the answer is no JSON")


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
    )
