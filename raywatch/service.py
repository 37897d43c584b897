"""The second thread: an asyncio loop that only waits for the network, for hooks and for slow disks.

It and the first thread meet in the published snapshot and in one queue of what was seen and what came of hooks.
"""

from __future__ import annotations

import asyncio
import contextlib
import math
import threading
import time
from collections.abc import Callable, Coroutine, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Protocol

from prometheus_client import CollectorRegistry, GCCollector, PlatformCollector, ProcessCollector

from raywatch.asking import OK, UNAVAILABLE, Answer, Approve, Keep, Request, Resume, Want
from raywatch.cluster import DASHBOARD
from raywatch.collect.cloud import CloudPoller, boot_id
from raywatch.collect.dashboard import DashboardPoller
from raywatch.collect.events import events_key
from raywatch.collect.kubernetes import NAME as KUBERNETES
from raywatch.collect.kubernetes import KubernetesPoller
from raywatch.collect.rayauth import Token, TokenError, find_token
from raywatch.collect.raylogs import gcs_address
from raywatch.config import Config
from raywatch.exposition import Exposition
from raywatch.inbox import Inbox, Item
from raywatch.metrics import RaywatchCollector
from raywatch.model import Action, RaywatchError, Run
from raywatch.notice import NoticeAction
from raywatch.observations import KubeRayListed
from raywatch.pushing import SOURCE as RAY_EVENTS
from raywatch.pushing import Receiver
from raywatch.resume.checkpoints import look
from raywatch.resume.hooks import HookRunner
from raywatch.resume.jobs import JobsClient
from raywatch.resume.keeper import Keeper
from raywatch.resume.notices import NoticeRunner
from raywatch.resume.packages import PackageStore, PutBack, put_back
from raywatch.resuming import Look
from raywatch.shown import Publisher
from raywatch.traffic import Traffic
from raywatch.web import Api, ensure_token, make_app, port_of, serve

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
HOOK_GRACE_S = 10.0  # that hooks get when the daemon stops
CLOUD_S = 1.0  # between two questions to a cloud: a notice is known within 2 s
ASK_S = 20.0  # a person waits so long for an answer


class Shown(Protocol):
    """What the first thread shows; safe from any thread."""

    @property
    def shown(self) -> Publisher:
        """The newest snapshot and the metrics."""

    def health(self) -> tuple[bool, bytes]:
        """Say whether it sees and keeps what happens."""

    def wake(self) -> None:
        """Look into the inbox now."""


class Poller(Protocol):
    """What asks others, until it is cancelled."""

    def run(self) -> Coroutine[object, object, None]:
        """Ask until cancelled."""


class Service(threading.Thread):
    """Serves HTTP, asks Ray, runs hooks, reads checkpoints. Its methods may be called from any thread."""

    def __init__(
        self, shown: Shown, config: Config, environ: Mapping[str, str], inbox: Inbox
    ) -> None:
        super().__init__(name="raywatch-service", daemon=True)
        self._shown, self._config, self._environ, self._inbox = shown, config, environ, inbox
        self._loop = asyncio.new_event_loop()
        self._waiting: set[asyncio.Future[None]] = set()  # for the next snapshot
        self._ended = asyncio.Event()
        self._tasks: set[asyncio.Task[None]] = set()
        self._looking: set[str] = set()
        self._packages = PackageStore(config.store.parent / "packages")
        self._keeper = Keeper(self._packages, time.time)
        others = [*config.clouds, *([KUBERNETES] if config.kubernetes is not None else [])]
        self._traffic = Traffic((*DASHBOARD, *others, RAY_EVENTS))
        self._poller = DashboardPoller(
            config.dashboard,
            self._token,
            self._observed,
            clock=time.time,
            steady=time.monotonic,
            asked=self._traffic.asked,
        )
        self._clouds = CloudPoller(
            config.clouds,
            self._observed,
            clock=time.time,
            boot=boot_id(),
            poll_s=CLOUD_S,
            asked=self._traffic.asked,
        )
        pushed = partial(self._observed, source=RAY_EVENTS)
        self._receiver = Receiver(pushed, self._keep, time.time)
        self._pollers: list[Poller] = [self._poller, self._clouds]
        if config.kubernetes is not None:
            watched = KubernetesPoller(
                config.kubernetes, self._observed, clock=time.time, asked=self._traffic.asked
            )
            self._pollers.append(watched)
        else:  # what an earlier life heard of KubeRay holds no more
            inbox.put(KubeRayListed(time.time(), frozenset()))
        self.started = threading.Event()
        self.error: RaywatchError | None = None
        self.port = 0

    def run(self) -> None:
        """The thread's own part."""
        asyncio.set_event_loop(self._loop)
        self._loop.run_until_complete(self._serve())
        self._loop.close()

    def stop(self) -> None:
        """Stop serving; hooks get a grace."""
        self._soon(self._ended.set)
        self.join(HOOK_GRACE_S + 10)

    def publish(self) -> None:
        """A new snapshot is there."""
        if self._waiting:
            self._soon(self._announce)

    def nudge(self) -> None:
        """Something failed: ask Ray now."""
        self._poller.nudge()

    def fire(self, action: Action, run: Run, incident_json: str) -> None:
        """Run a hook; its outcome comes to the inbox."""
        self._soon(lambda: self._spawn(self._fire(action, run, incident_json)))

    def answer(self, action: NoticeAction, session: Path | None) -> None:
        """Run the hook of a notice; its outcome comes to the inbox."""
        self._soon(lambda: self._spawn(self._answer(action, session)))

    def look(self, runs: Sequence[tuple[str, str, str]]) -> None:
        """Read the newest checkpoint of runs; what is found comes to the inbox."""
        for run in runs:
            self._soon(partial(self._look_at, *run))

    def keep(self, envs: Sequence[str], session: Path) -> None:
        """Keep the packages of these runtime_envs while they are there."""
        self._soon(lambda: self._spawn(self._keeper.keep(envs, session)))

    def _soon(self, call: Callable[[], object]) -> None:
        with contextlib.suppress(RuntimeError):  # the loop is closed: the daemon ends
            self._loop.call_soon_threadsafe(call)

    def _spawn(self, work: object) -> None:
        task = self._loop.create_task(work)  # type: ignore[var-annotated,arg-type] # coroutines of ours
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    def _announce(self) -> None:
        for waiting in self._waiting:
            _end(waiting)

    def _tell(self, item: Item) -> None:
        self._inbox.put(item)
        self._shown.wake()

    def _observed(self, seen: Sequence[Item], source: str = "") -> None:
        self._traffic.told(seen, source)
        for item in seen:
            self._inbox.put(item)
        self._shown.wake()

    def _token(self) -> Token | None:
        try:
            return find_token(self._environ, Path.home())
        except TokenError:
            return None

    def _look_at(self, run: str, storage: str, name: str) -> None:
        if run not in self._looking:
            self._looking.add(run)
            self._spawn(self._look(run, storage, name))

    async def _look(self, run: str, storage: str, name: str) -> None:
        try:
            self._tell(Look(run, *await asyncio.to_thread(look, storage, name)))
        finally:
            self._looking.discard(run)

    async def _fire(self, action: Action, run: Run, incident_json: str) -> None:
        async with JobsClient(self._config.dashboard, self._token_text) as jobs:
            hooks = HookRunner(jobs, time.time, self._environ, self._put_back)
            self._tell(await hooks.run(action, run, incident_json))

    async def _answer(self, action: NoticeAction, session: Path | None) -> None:
        gcs = gcs_address(session, self._environ)
        self._tell(await NoticeRunner(time.time, self._environ).run(action, gcs))

    async def _put_back(self, runtime_env: str) -> PutBack:
        return await put_back(self._packages, runtime_env, self._config.dashboard, self._token_text)

    def _token_text(self) -> str | None:
        token = self._token()
        return token.value if token else None

    async def _ask(self, want: Want) -> Answer:
        """Let the first thread decide, and wait until what it decided is on the disk."""
        asked: asyncio.Future[Answer] = self._loop.create_future()

        def answered(answer: Answer) -> None:
            if not asked.done():
                asked.set_result(answer)

        until = time.time() + ASK_S
        self._tell(Request(want, lambda a: self._soon(partial(answered, a)), until))
        try:
            return await asyncio.wait_for(asked, ASK_S + 1)
        except asyncio.TimeoutError:
            reason = "the daemon did not answer in time; see `raywatch actions` for what it did"
            return Answer(UNAVAILABLE, {"error": reason})

    def _keep(self, answered: Callable[[Answer], None]) -> None:
        """Call back, in this thread, when all that was told until now is on the disk."""
        self._tell(Request(Keep(), lambda a: self._soon(partial(answered, a)), math.inf))

    async def _wait(self, after: int, seconds: float) -> None:
        """Wait for a newer snapshot. A plain future: asyncio.wait_for would make a task for each, and two turns more."""
        waiting: asyncio.Future[None] = self._loop.create_future()
        timer = self._loop.call_later(seconds, _end, waiting)
        self._waiting.add(waiting)  # first: what is published from now on ends it
        try:
            if self._shown.shown.seq() <= after:
                await waiting
        finally:
            self._waiting.discard(waiting)
            timer.cancel()

    async def _events(self, pushed: bytes | None) -> Answer:
        answer = await self._receiver.take(pushed)
        state = {OK: "up", UNAVAILABLE: "busy"}.get(answer.status, "error")
        self._traffic.asked(RAY_EVENTS, state)
        return answer

    def _exposition(self) -> Exposition:
        mine = RaywatchCollector(self._shown.shown.metrics_view, time.time, self._traffic.view)
        rest = CollectorRegistry()
        for collector in (ProcessCollector, PlatformCollector, GCCollector):
            collector(registry=rest)
        return Exposition(mine, [rest])

    async def _serve(self) -> None:
        config = self._config
        token = ensure_token(config.store.parent / "token")
        api = Api(
            snapshot=self._shown.shown.snapshot,
            changes=self._shown.shown.changes,
            wait=self._wait,
            metrics=self._exposition().text,
            health=self._shown.health,
            approve=lambda key: self._ask(Approve(key)),
            resume=lambda run, dry_run: self._ask(Resume(run, dry_run)),
            events=self._events,
            token=token,
            events_key=events_key(token) if token else "",
            hosts=LOOPBACK | {config.host} | config.hosts,
            open_reading=config.host in LOOPBACK,
        )
        try:
            runner = await serve(make_app(api), config.host, config.port)
        except RaywatchError as error:
            self.error = error
            self.started.set()
            return
        self.port = port_of(runner)
        pollers = [self._loop.create_task(p.run()) for p in self._pollers]
        self._receiver.begin()
        self.started.set()
        await self._ended.wait()
        for poller in pollers:
            poller.cancel()
        if self._tasks:
            await asyncio.wait(self._tasks, timeout=HOOK_GRACE_S)
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*pollers, *self._tasks, return_exceptions=True)
        await runner.cleanup()


def _end(waiting: asyncio.Future[None]) -> None:
    if not waiting.done():
        waiting.set_result(None)
