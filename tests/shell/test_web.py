"""Who may read and write over HTTP."""

import asyncio

import aiohttp
import pytest

from raywatch.web import Api, WebError, ensure_token, make_app, port_of, serve


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
        metrics=lambda: b"",
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


def test_an_empty_token_lets_nobody_in():
    """Whatever is on the disk."""
    assert ask(api(token=""), "/metrics") == 401
    assert ask(api(token=""), "/metrics", Authorization="Bearer ") == 401


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
