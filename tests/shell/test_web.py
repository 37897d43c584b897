"""Who may read and write over HTTP."""

import asyncio
import gzip
import io
from dataclasses import replace

import aiohttp
import pytest

from raywatch.web import MAX_EVENTS, Api, WebError, ensure_token, make_app, port_of, serve


def api(*, token="secret", open_reading=False, events=None, events_key="key"):
    """An API that shows nothing."""

    async def wait(_after, _seconds):
        return

    async def answer(*_asked):
        return 200, {}

    return Api(
        snapshot=lambda _: b"{}",
        changes=lambda _: None,
        wait=wait,
        metrics=lambda _: (b"", "text/plain"),
        health=lambda: (True, b"{}"),
        approve=answer,
        resume=answer,
        events=events or answer,
        token=token,
        events_key=events_key,
        hosts=frozenset({"127.0.0.1"}),
        open_reading=open_reading,
    )


def ask(shown: Api, path: str, **headers: str) -> int:
    """GET a path of a real server; return the status."""

    async def main() -> int:
        runner = await serve(make_app(shown), "127.0.0.1", 0)
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.get(f"http://127.0.0.1:{port_of(runner)}{path}", headers=headers) as answer,
            ):
                return int(answer.status)
        finally:
            await runner.cleanup()

    return asyncio.run(main())


def test_another_address_needs_the_token():
    """For all but /healthz."""
    assert ask(api(), "/healthz") == 200
    assert ask(api(), "/metrics") == 401
    assert ask(api(), "/metrics", Authorization="Bearer wrong") == 401
    assert ask(api(), "/metrics", Authorization="Bearer secret") == 200
    assert ask(api(open_reading=True), "/metrics") == 200


@pytest.mark.parametrize(
    ("accepted", "is_packed"),
    [
        ("gzip", True),
        ("deflate, GZIP;q=0.5", True),
        ("", False),
        ("gzip; q=0", False),
        ("br", False),
    ],
)
def test_metrics_are_packed_for_whom_takes_it(accepted, is_packed):
    """And the format is the one that was asked for."""
    asked: list[str] = []

    def metrics(accept: str) -> tuple[bytes, str]:
        asked.append(accept)
        return b"a 1\n" * 100, "text/odd; version=7"

    async def main() -> tuple[bytes, str | None, str]:
        shown = replace(api(open_reading=True), metrics=metrics)
        runner = await serve(make_app(shown), "127.0.0.1", 0)
        headers = {"Accept": "text/odd", "Accept-Encoding": accepted}
        try:
            async with (
                aiohttp.ClientSession(auto_decompress=False) as session,
                session.get(
                    f"http://127.0.0.1:{port_of(runner)}/metrics", headers=headers
                ) as answer,
            ):
                how = answer.headers.get("Content-Encoding")
                return await answer.read(), how, answer.headers["Content-Type"]
        finally:
            await runner.cleanup()

    body, how, kind = asyncio.run(main())
    assert (gzip.decompress(body) if is_packed else body) == b"a 1\n" * 100
    assert (how, kind, asked) == (
        "gzip" if is_packed else None,
        "text/odd; version=7",
        ["text/odd"],
    )


def test_an_empty_token_lets_nobody_in():
    """Whatever is on the disk."""
    assert ask(api(token=""), "/metrics") == 401
    assert ask(api(token=""), "/metrics", Authorization="Bearer ") == 401


def push(shown: Api, path: str, body: bytes = b"[]", **headers: str) -> int:
    """POST to a real server; return the status."""

    async def main() -> int:
        runner = await serve(make_app(shown), "127.0.0.1", 0)
        url = f"http://127.0.0.1:{port_of(runner)}{path}"
        try:
            async with (
                aiohttp.ClientSession() as session,
                session.post(url, data=io.BytesIO(body), headers=headers) as answer,
            ):
                return int(answer.status)
        finally:
            await runner.cleanup()

    return asyncio.run(main())


def test_ray_pushes_to_a_url_with_a_key():
    """Its agents send no Authorization, and name this machine as their nodes know it; the key opens nothing else."""
    taken: list[bytes] = []

    async def events(body: bytes) -> tuple[int, dict[str, object]]:
        taken.append(body)
        return 200, {}

    shown = api(events=events)
    assert push(shown, "/api/v1/events/key", b"[1]", Host="10.0.0.1:9265") == 200
    assert push(shown, "/api/v1/events", b"[2]", Authorization="Bearer secret") == 200
    assert taken == [b"[1]", b"[2]"]
    for path in ("/api/v1/events/kex", "/api/v1/events/", "/api/v1/events", "/api/v1/events/key/"):
        assert push(shown, path) == 401
    assert push(shown, "/api/v1/events", Authorization="Bearer key") == 401
    assert push(shown, "/api/v1/actions/key/approve") == 401
    assert ask(shown, "/api/v1/events/key") == 401
    assert push(api(events=events, events_key=""), "/api/v1/events/") == 401
    assert len(taken) == 2


def test_a_batch_of_events_is_larger_than_other_bodies_and_bounded():
    """A thousand events are some 2 MB."""
    taken: list[int | None] = []

    async def events(body: bytes | None) -> tuple[int, dict[str, object]]:
        taken.append(None if body is None else len(body))
        return (413 if body is None else 200), {}

    assert push(api(events=events), "/api/v1/events/key", b" " * (1 << 21)) == 200
    assert push(api(events=events), "/api/v1/events/key", b" " * (MAX_EVENTS + 1)) == 413
    assert taken == [1 << 21, None]


def test_the_token_is_made_once_and_private(tmp_path):
    """An empty file of a crash is no token."""
    path = tmp_path / "token"
    path.write_text("")
    token = ensure_token(path)

    assert len(token) == 64
    assert ensure_token(path) == token
    assert path.stat().st_mode & 0o777 == 0o600


def test_a_taken_address_is_said():
    """One clear error."""

    async def main():
        first = await serve(make_app(api()), "127.0.0.1", 0)
        try:
            with pytest.raises(WebError, match="cannot listen"):
                await serve(make_app(api()), "127.0.0.1", port_of(first))
        finally:
            await first.cleanup()

    asyncio.run(main())
