"""Metadata services of three clouds on loopback, as strict as the real ones: python -m tests.clouds PORT VALUES.json."""

from __future__ import annotations

import asyncio
import json
import sys
from contextlib import asynccontextmanager
from pathlib import Path

from aiohttp import web


class Clouds:
    """What the services know; `values` maps a path behind the root to a body, and what is not there is 404."""

    def __init__(self) -> None:
        self.values: dict[str, object] = {}
        self.tokens: set[str] = set()
        self.asked: list[str] = []
        self.hang = False
        self.changed = asyncio.Event()

    def put(self, path: str, value: object) -> None:
        """Change a value."""
        self.values[path] = value
        self.changed.set()
        self.changed = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Any request."""
        self.asked.append(f"{request.method} {request.path}")
        if self.hang:
            await asyncio.sleep(60)
        if request.path.startswith("/computeMetadata/v1/instance/"):
            return await self._gcp(request)
        if request.path.startswith("/metadata/"):
            return self._azure(request)
        return self._aws(request)

    def _aws(self, request: web.Request) -> web.Response:
        if request.path == "/latest/api/token":
            ttl = request.headers.get("X-aws-ec2-metadata-token-ttl-seconds", "")
            if request.method != "PUT" or not ttl.isdigit() or not 1 <= int(ttl) <= 21_600:
                return web.Response(status=400)
            self.tokens.add(f"token{len(self.asked)}==")
            return web.Response(text=f"token{len(self.asked)}==")
        if request.headers.get("X-aws-ec2-metadata-token") not in self.tokens:
            return web.Response(status=401)
        return self._value(request.path.removeprefix("/latest/meta-data/"))

    async def _gcp(self, request: web.Request) -> web.Response:
        if request.headers.get("Metadata-Flavor") != "Google":
            return web.Response(status=403)
        key = request.path.removeprefix("/computeMetadata/v1/instance/")
        if request.query.get("last_etag") == self._etag(key):
            timeout = float(request.query["timeout_sec"])
            with_change = asyncio.wait_for(self.changed.wait(), timeout)
            await asyncio.gather(with_change, return_exceptions=True)
        answer = self._value(key)
        flavor = str(self.values.get("flavor", "Google"))
        answer.headers.update({"Metadata-Flavor": flavor, "ETag": self._etag(key)})
        return answer

    def _etag(self, key: str) -> str:
        return f"e{abs(hash(str(self.values.get(key)))):x}"

    def _azure(self, request: web.Request) -> web.Response:
        if request.headers.get("Metadata") != "true" or "api-version" not in request.query:
            return web.json_response({"error": "Bad request"}, status=400)
        return self._value(request.path.removeprefix("/metadata/"))

    def _value(self, key: str) -> web.Response:
        value = self.values.get(key)
        if value is None:
            return web.Response(status=404)
        if isinstance(value, str):
            return web.Response(text=value)
        return web.json_response(value)

    @asynccontextmanager
    async def served(self):
        """Its URL, while it is served."""
        app = web.Application()
        app.router.add_route("*", "/{any:.*}", self.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        try:
            yield f"http://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            await runner.cleanup()


def main(port: str, values: str) -> None:
    """Serve what stands in a file, read afresh for each answer, until the process ends."""
    clouds, file = Clouds(), Path(values)

    async def answer(request: web.Request) -> web.StreamResponse:
        clouds.values = json.loads(file.read_text())  # noqa: ASYNC240 - a few bytes
        return await clouds.answer(request)

    app = web.Application()
    app.router.add_route("*", "/{any:.*}", answer)
    web.run_app(app, host="127.0.0.1", port=int(port))


if __name__ == "__main__":
    main(*sys.argv[1:])
