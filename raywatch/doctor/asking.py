"""One question by HTTP, asked once with a short wait, and every way not to be answered as a value."""

from __future__ import annotations

import asyncio
import os
import time
from collections.abc import Mapping
from dataclasses import dataclass
from email.utils import parsedate_to_datetime

import aiohttp

from raywatch.collect.rayjson import load
from raywatch.httpbody import whole

WAIT_S = 3.0
MAX_BODY = 16 << 20
OK, UNAUTHORIZED, FORBIDDEN, NOT_FOUND = 200, 401, 403, 404


@dataclass(frozen=True, slots=True)
class Reply:
    """What came: `status` 0 where nothing did, `why` says why. `ahead_s`: how far its clock is ahead of ours."""

    status: int
    why: str = ""
    body: bytes = b""
    ahead_s: float | None = None

    @property
    def json(self) -> object | None:
        """The body, None where it is no JSON."""
        return load(self.body)


async def ask(
    session: aiohttp.ClientSession,
    url: str,
    headers: Mapping[str, str],
    *,
    body: bytes | None = None,
) -> Reply:
    """GET, or POST a JSON body. Never raises."""
    began = time.time()
    kind = {"Content-Type": "application/json"} if body is not None else {}
    method = "GET" if body is None else "POST"
    try:
        async with session.request(
            method, url, headers={**kind, **headers}, data=body, allow_redirects=False
        ) as answer:
            found = await whole(answer, MAX_BODY)
            date = answer.headers.get("Date", "")
            return Reply(answer.status, "", found or b"", _ahead(date, (began + time.time()) / 2))
    except asyncio.TimeoutError:
        return Reply(0, f"it accepts and does not answer within {WAIT_S:g} s")
    except (aiohttp.ClientError, ValueError) as error:
        return Reply(0, _why(error))


def _why(error: Exception) -> str:
    number = error.errno if isinstance(error, aiohttp.ClientConnectorError) else None
    if number and number > 0 and not isinstance(error, aiohttp.ClientSSLError):
        return os.strerror(number)  # the error's own text names every address that was tried
    return f"{type(error).__name__}: {error}"


def asker() -> aiohttp.ClientSession:
    """Return a session that waits a little and uses no proxy."""
    return aiohttp.ClientSession(timeout=aiohttp.ClientTimeout(total=WAIT_S), trust_env=False)


def _ahead(date: str, now: float) -> float | None:
    """Return how far a Date header is ahead; it is cut to a second, so half of one is put back."""
    try:
        return parsedate_to_datetime(date).timestamp() + 0.5 - now
    except (ValueError, TypeError):
        return None
