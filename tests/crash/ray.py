"""A dashboard of Ray with many jobs, which takes submissions as slowly and says as little as a busy one."""

from __future__ import annotations

import asyncio
import random
import time
from collections import Counter

from aiohttp import web

from tests.fakeray import ManyRows


class ManyJobs(ManyRows):
    """Jobs that train until they are told to fail; counts the submissions that it took and that it was asked for."""

    def __init__(self, seed: int) -> None:
        super().__init__("quiet")
        self._rng = random.Random(seed)
        self.asked: Counter[str] = Counter()
        self.taken: Counter[str] = Counter()

    def begin(self, submission: str) -> None:
        """A job starts to train."""
        number = len(self.rows) + 1
        now = int(time.time() * 1000)
        self._put(submission, f"python train.py --seed {number}", {}, now)

    def fails(self, submission: str) -> None:
        """It fails."""
        self.rows[submission] |= {"status": "FAILED", "end_time": int(time.time() * 1000)}

    def _put(self, submission: str, entrypoint: str, metadata: dict[str, object], now: int) -> None:
        row = {**self.job, "submission_id": submission, "entrypoint": entrypoint}
        job_id = f"{len(self.rows) + 1:08x}"
        self.rows[submission] = {**row, "job_id": job_id, "metadata": metadata, "start_time": now}

    def routes(self) -> list[web.RouteDef]:
        """What is answered."""
        return [web.post("/api/jobs/", self._submit), *super().routes()]

    async def _submit(self, request: web.Request) -> web.Response:
        body = await request.json()
        name = body["submission_id"]
        self.asked[name] += 1
        await asyncio.sleep(self._rng.choice([0, 0, self._rng.random() * 0.1]))
        if name in self.rows:
            text = f"ValueError: Job with submission_id {name} already exists. "
            return web.Response(status=500, text=text)
        self._put(name, body["entrypoint"], body["metadata"], int(time.time() * 1000))
        self.taken[name] += 1
        if self._rng.random() < 0.2 and request.transport is not None:
            request.transport.close()  # it took it, and nobody hears of it
        return web.json_response({"submission_id": name})
