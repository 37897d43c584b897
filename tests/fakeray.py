"""A dashboard of Ray in a thread: one job that trains until it is told to fail."""

from __future__ import annotations

import asyncio
import threading
import time
from datetime import datetime, timezone
from pathlib import Path
from typing import TypeVar

from aiohttp import web

NODE = "5192188689939d714f03f25b506336457eb397612cf02e85b009ae7f"
JOB_ID = "05000000"
_Fake = TypeVar("_Fake", bound="FakeRay")


def _state(*rows):
    return web.json_response({"result": True, "data": {"result": {"result": list(rows)}}})


class FakeRay:
    """Plays the APIs of Ray 2.60 that are asked about one job; a context manager."""

    def __init__(self, submission: str = "raysubmit_1") -> None:
        self.job = {
            "type": "SUBMISSION",
            "job_id": JOB_ID,
            "submission_id": submission,
            "status": "RUNNING",
            "entrypoint": "python train.py",
            "start_time": int((time.time() - 60) * 1000),
            "end_time": None,
            "metadata": {},
            "runtime_env": {},
        }
        self.others: list[dict[str, object]] = []  # jobs beside it
        self.session = "s"
        self.nodes: list[dict[str, object]] = [
            {"node_id": NODE, "node_ip": "127.0.0.1", "state": "ALIVE", "is_head_node": True}
        ]
        self.url = ""
        self._loop = asyncio.new_event_loop()
        self._ready, self._ended = threading.Event(), asyncio.Event()
        self._thread = threading.Thread(target=self._run)

    def __enter__(self: _Fake) -> _Fake:  # noqa: PYI019 - typing.Self is 3.11
        self._thread.start()
        assert self._ready.wait(10)
        return self

    def __exit__(self, *_error: object) -> None:
        self._loop.call_soon_threadsafe(self._ended.set)
        self._thread.join(10)

    def fail(self, logs: Path) -> None:
        """A worker of the job dies, and the job with it."""
        worker = f"{7:056x}"
        stamp = datetime.now(timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M:%S,%f")[:-3]
        self.job |= {"status": "FAILED", "end_time": int(time.time() * 1000)}
        (logs / f"job-driver-{self.job['submission_id']}.log").write_text(
            "(raylet) A worker died or was killed while executing a task by an unexpected system "
            f"error. Lease ID: 01 Worker ID: {worker} Node ID: {NODE} Worker PID: 502\n"
        )
        with (logs / "gcs_server.out").open("a") as out:
            out.write(
                f"[{stamp} W 10 10] (gcs_server) gcs_worker_manager.cc:70: Reporting worker exit, "
                f"worker id = {worker}, node id = {NODE}, address = 127.0.0.1, "
                "exit_type = SYSTEM_ERROR, exit_detail = Worker unexpectedly exits.\n"
            )

    def _run(self) -> None:
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    def routes(self) -> list[web.RouteDef]:
        """What is answered."""
        return [
            web.get("/api/version", self._version),
            web.get("/api/jobs/", self._jobs),
            web.get("/api/jobs/{id}", self._one),
            web.get("/api/v0/nodes", self._nodes),
            web.get("/api/v0/{kind}", self._nothing),
            web.get("/api/cluster_status", self._nothing),
        ]

    async def _serve(self) -> None:
        app = web.Application()
        app.add_routes(self.routes())
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0).start()
        self.url = f"http://127.0.0.1:{runner.addresses[0][1]}"
        self._ready.set()
        await self._ended.wait()
        await runner.cleanup()

    async def _version(self, _request):
        return web.json_response({"ray_version": "2.60.0", "session_name": self.session})

    async def _jobs(self, _request):
        return web.json_response([self.job, *self.others])

    async def _one(self, request):
        known = request.match_info["id"] == self.job["submission_id"]
        return web.json_response(self.job) if known else web.Response(status=404)

    async def _nodes(self, _request):
        return _state(*self.nodes)

    async def _nothing(self, _request):
        return _state()


class ManyRows(FakeRay):
    """Ray with the jobs of `rows`, by submission id, and no other."""

    def __init__(self, submission: str = "raysubmit_1") -> None:
        super().__init__(submission)
        self.rows: dict[str, dict[str, object]] = {}

    async def _jobs(self, _request: web.Request) -> web.Response:
        return web.json_response(list(self.rows.values()))

    async def _one(self, request: web.Request) -> web.Response:
        row = self.rows.get(request.match_info["id"])
        return web.json_response(row) if row else web.Response(status=404)
