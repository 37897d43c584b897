"""What Ray pushes: taken from the web server into the first thread, and there each event once in all lives of the daemon.

Ray sends a batch again until it was answered with success, so nothing is answered so before it is on the disk, and nothing
that was told once is told anew.
"""

from __future__ import annotations

import asyncio
import json
import logging
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Literal

from raywatch.asking import OK, UNAVAILABLE, Answer
from raywatch.collect.events import SESSION, EventReader
from raywatch.collect.rayjson import load
from raywatch.core.ends import judge
from raywatch.core.view import rfc3339
from raywatch.memory import Document, Remembered
from raywatch.model import Fact, Finding
from raywatch.observations import EndpointHealth, EventSeen, Observation, Pushed
from raywatch.resuming import Look

log = logging.getLogger("raywatch.events")
SOURCE = "ray_events"
KIND: Literal["event"] = "event"
KEEP = 4096  # events that were told
BAD_REQUEST, TOO_LARGE = 400, 413
BATCH_SIZE = "RAY_DASHBOARD_AGGREGATOR_AGENT_MAX_EVENT_SEND_BATCH_SIZE"
ANSWER_S = 2.5  # Ray waits 3 s for an answer
MAX_WAITING = 4  # batches that the first thread has not taken: then Ray is to come again
HEALTH_EVERY_S = 1.0
LATE_S = 600.0  # an incident is over after 900 quiet seconds: of an older one this may be the copy


class Receiver:
    """Takes batches, in the second thread. `keep` calls back once all that was emitted before is on the disk."""

    def __init__(
        self,
        emit: Callable[[Sequence[Observation | Pushed]], None],
        keep: Callable[[Callable[[Answer], None]], None],
        clock: Callable[[], float],
    ) -> None:
        self._emit, self._keep, self._clock = emit, keep, clock
        self._reader = EventReader()
        self._waiting = 0
        self._said = EndpointHealth(0.0, SOURCE, "off", "nobody has pushed events")

    def begin(self) -> None:
        """Say that nothing came yet."""
        self._emit([self._said])

    async def take(self, body: bytes | None) -> Answer:
        """Take one batch, None where it is too long to be read; the answer is that of the POST."""
        if body is None:  # Ray sends it for ever, and nothing after it
            detail = f"a batch is too long: set {BATCH_SIZE} lower than 1000"
            self._emit(self._health(self._clock(), "error", detail))
            return Answer(TOO_LARGE, {"error": detail})
        if self._waiting >= MAX_WAITING:
            return Answer(UNAVAILABLE, {"error": "the daemon is behind: send it again"})
        now, found = self._clock(), load(body)
        if not isinstance(found, list):
            self._emit(self._health(now, "error", "what was pushed is no JSON array"))
            return Answer(BAD_REQUEST, {"error": "the body must be a JSON array of Ray's events"})
        seen = self._reader.read(found, now)
        self._emit([*self._health(now, "up", ""), *seen])
        return await self._kept() if seen else Answer(OK, {})

    async def _kept(self) -> Answer:
        done: asyncio.Future[Answer] = asyncio.get_running_loop().create_future()

        def answered(answer: Answer) -> None:  # also when nobody listens any more
            self._waiting -= 1
            if not done.done():
                done.set_result(answer)

        self._waiting += 1
        self._keep(answered)
        try:
            return await asyncio.wait_for(done, ANSWER_S)
        except asyncio.TimeoutError:
            return Answer(UNAVAILABLE, {"error": "not on the disk yet: send it again"})

    def _health(self, now: float, state: str, detail: str) -> list[Observation]:
        news = state != self._said.state
        if not news and 0 <= now - self._said.at < HEALTH_EVERY_S:
            return []
        if news:
            log.warning("ray_events is %s %s", state, detail)
        self._said = EndpointHealth(now, SOURCE, state, detail)
        return [self._said]


def admitted(
    seen: Iterable[Observation | Pushed | Look], *sessions: str
) -> list[Observation | Look]:
    """Return what is to be taken in, while these sessions are known: what an older one pushes late is no news.

    Ids of jobs and drivers begin again with each session, and Ray sends for ever what it could not send.
    """
    newest = max(filter(SESSION.fullmatch, sessions), default="")  # their names sort by time
    found: list[Observation | Look] = []
    for item in seen:
        if not isinstance(item, Pushed):
            found.append(item)
        elif not item.session or item.session >= newest:
            found += item.seen
    return found


class Told:
    """Which events were told. Owned by the first thread."""

    def __init__(self, docs: Mapping[str, Mapping[str, str]]) -> None:
        """Go on from stored documents."""
        stored = docs.get(KIND, {})
        order = sorted(stored, key=lambda key: str(json.loads(stored[key])["at"]))
        self._known = Remembered(KIND, {k: stored[k] for k in order}, KEEP, str)

    def hear(self, event: EventSeen, now: float) -> Finding | Fact | None:
        """Return what an event means, the first time that it is heard."""
        if event.id in self._known:
            return None
        said = judge(event)
        if said is None:
            return None
        self._known.put(event.id, json.dumps({"at": rfc3339(now)}))
        return said if now - event.at <= LATE_S else None

    def documents(self) -> Iterator[Document]:
        """Yield what changed since the last call."""
        return self._known.documents()
