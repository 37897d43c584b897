"""A job's code: kept while it runs, put back before the submission, refused where nobody has it any more."""

import asyncio
import os
import time
from contextlib import asynccontextmanager
from dataclasses import replace

import pytest
from aiohttp import web

from raywatch.resume.hooks import HookRunner
from raywatch.resume.jobs import JobsClient
from raywatch.resume.keeper import AGAIN_S, FORGET_S, RETRY_S, Keeper
from raywatch.resume.packages import PackageStore, put_back
from tests.resume.test_hooks import ACTION, NODES, OLD, RUN, Ray
from tests.resume.test_packages import ENV, URI, Gcs, read, unpack

NAME = URI.removeprefix("gcs://")
JOB = {**OLD, "runtime_env": {"working_dir": URI}}


class Clock:
    """Time that a test sets."""

    def __init__(self) -> None:
        self.now = 1_000_000.0

    def __call__(self) -> float:
        return self.now


class CountingStore(PackageStore):
    """A store that counts how often it is asked."""

    asked = 0

    def keep(self, uri, session):
        """Count, and keep."""
        self.asked += 1
        return super().keep(uri, session)


@asynccontextmanager
async def serving(ray, gcs, order):
    """Ray's Jobs, State and package APIs on one loopback address; `order` notes what changes something."""

    @web.middleware
    async def note(request, handler):
        if request.method != "GET":
            order.append((request.method, request.path))
        return await handler(request)

    app = ray.app()
    app._client_max_size = 100 << 20
    app.middlewares.append(note)
    app.router.add_route("*", "/api/packages/gcs/{name}", gcs.handle)
    runner = web.AppRunner(app, shutdown_timeout=0.1)
    await runner.setup()
    await web.TCPSite(runner, "127.0.0.1", 0).start()
    try:
        yield f"http://127.0.0.1:{runner.addresses[0][1]}"
    finally:
        await runner.cleanup()


def fire(ray, gcs, store):
    """Run a job hook as the daemon does; return its outcome and what it changed at Ray."""
    order: list[tuple[str, str]] = []

    async def main():
        async with serving(ray, gcs, order) as url, JobsClient(url, lambda: None) as jobs:

            async def back(env):
                return await put_back(store, env, url, lambda: None)

            return await HookRunner(jobs, lambda: 5.0, os.environ, back).run(ACTION, RUN, "{}")

    return asyncio.run(main()), order


def test_the_code_is_back_before_the_job_is_submitted(tmp_path):
    """Kept while the job ran; Ray dropped it since; megabytes of it."""
    folder = unpack(tmp_path)
    (folder / "weights.bin").write_bytes(os.urandom(3 << 20))
    store, gcs, ray = PackageStore(tmp_path / "kept"), Gcs(), Ray(JOB, nodes=NODES)
    asyncio.run(Keeper(store, Clock()).keep((ENV,), tmp_path))
    outcome, order = fire(ray, gcs, store)

    assert outcome.state == "succeeded"
    assert order == [("PUT", f"/api/packages/gcs/{NAME}"), ("POST", "/api/jobs/")]
    assert gcs.held == {NAME: read(store)}
    assert len(gcs.held[NAME]) > 3 << 20


def test_code_that_nobody_has_refuses_the_resume(tmp_path):
    """It is not resumable, and says why; nothing was submitted."""
    outcome, order = fire(Ray(JOB, nodes=NODES), Gcs(), PackageStore(tmp_path / "kept"))

    assert outcome.state == "refused"
    assert outcome.detail == f"not resumable: Ray dropped {URI} and no copy of it was kept"
    assert order == []


def test_a_package_api_that_does_not_answer_defers(tmp_path):
    """Unknown is not missing."""
    outcome, order = fire(Ray(JOB, nodes=NODES), Gcs(status=503), PackageStore(tmp_path / "kept"))

    assert (outcome.state, "503" in outcome.detail, order) == ("deferred", True, [])


def keeping(store, clock, deeds, session):
    """Ask a keeper at several times; return how often it asked the store at each."""

    async def main():
        keeper, counts = Keeper(store, clock), []
        for at, envs in deeds:
            clock.now = 1_000_000.0 + at
            before = store.asked
            await keeper.keep(envs, session)
            counts.append(store.asked - before)
        return counts

    return asyncio.run(main())


def test_a_package_is_asked_for_again_until_it_is_there_and_then_seldom(tmp_path):
    """The daemon asks every two seconds: almost all of that must cost nothing."""
    store, clock = CountingStore(tmp_path / "kept"), Clock()
    early = [(0, (ENV,)), (2, (ENV,)), (RETRY_S, (ENV,))]
    assert keeping(store, clock, early, tmp_path) == [1, 0, 1]
    unpack(tmp_path)
    later = [(0, (ENV,)), (RETRY_S, (ENV,)), (AGAIN_S - 1, (ENV, ENV)), (AGAIN_S, (ENV, ENV))]
    assert keeping(store, clock, later, tmp_path) == [1, 0, 0, 1]
    assert keeping(store, clock, [(0, ("{}",)), (0, ())], tmp_path) == [0, 0]


def test_a_package_that_is_not_there_is_a_warning_once(tmp_path, caplog):
    """Not at once: Ray may be unpacking it."""
    store, clock = CountingStore(tmp_path / "kept"), Clock()
    keeping(store, clock, [(0, (ENV,))], tmp_path)
    assert caplog.text == ""
    keeping(store, clock, [(n * RETRY_S, (ENV,)) for n in range(5)], tmp_path)

    (record,) = caplog.records
    assert URI in record.getMessage()
    assert "not unpacked on this node" in record.getMessage()


def test_a_package_that_can_never_be_kept_is_asked_for_once(tmp_path):
    """Too large stays too large."""
    unpack(tmp_path)
    store, clock = CountingStore(tmp_path / "kept", max_bytes=3), Clock()

    assert keeping(store, clock, [(n * AGAIN_S, (ENV,)) for n in range(3)], tmp_path) == [1, 0, 0]


@pytest.mark.parametrize("wanted", [True, False])
def test_what_nobody_asked_for_in_a_week_is_forgotten(tmp_path, wanted):
    """A run that goes on for months keeps its code."""
    unpack(tmp_path)
    store = CountingStore(tmp_path / "kept")
    store.keep(URI, tmp_path)
    asked_at = time.time() - FORGET_S - 5
    os.utime(tmp_path / "kept" / NAME, (asked_at, asked_at))
    asyncio.run(Keeper(store, time.time).keep((ENV,) if wanted else (), tmp_path))

    assert (read(store) is not None) == wanted


def test_two_calls_at_once_copy_once(tmp_path):
    """The daemon asks again while a large package is being copied."""
    unpack(tmp_path)
    store = CountingStore(tmp_path / "kept")

    async def main():
        keeper = Keeper(store, Clock())
        await asyncio.gather(*(keeper.keep((ENV,), tmp_path) for _ in range(5)))

    asyncio.run(main())
    assert store.asked == 1


def test_a_run_that_repeats_no_job_needs_no_code(tmp_path):
    """A command brings its own."""
    action = replace(ACTION, hook=replace(ACTION.hook, kind="command", argv=("true",)))

    async def main():
        order: list[tuple[str, str]] = []
        async with (
            serving(Ray(JOB, nodes=NODES), Gcs(), order) as url,
            JobsClient(url, lambda: None) as jobs,
        ):

            async def back(_env):
                raise AssertionError("nobody should ask")

            return await HookRunner(jobs, lambda: 5.0, os.environ, back).run(action, RUN, "{}")

    assert asyncio.run(main()).state == "succeeded"
