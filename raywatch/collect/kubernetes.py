"""The Kubernetes API: what becomes of Ray's pods and of KubeRay's resources, listed once and then watched. Only reads.

No client library: beside aiohttp, which is here anyway, kubernetes_asyncio adds 39 MB to a process and 0.3 s to its
start, kr8s 23 MB, lightkube 12 MB (measured, with an HTTP client of their own); they read lists as a whole. What they
would save is the reading of a kubeconfig, which no pod has, and some fifty lines.
"""

from __future__ import annotations

import asyncio
import logging
import ssl
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator, Mapping, Sequence
from contextlib import aclosing, asynccontextmanager
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import NamedTuple

import aiohttp

from raywatch.collect import podjson
from raywatch.collect.asked import Asked, unheard
from raywatch.collect.podjson import Pod, PodEvent, Row
from raywatch.collect.rayjson import load
from raywatch.collect.rayrows import rows_of, within
from raywatch.httpbody import whole
from raywatch.observations import EndpointHealth, KubeRayListed, KubeRaySeen, PodSeen

log = logging.getLogger("raywatch.kubernetes")
NAME = "kubernetes"  # of the source
ACCOUNT = Path("/var/run/secrets/kubernetes.io/serviceaccount")
MAX_BODY = 4 << 20  # of a page of a list
MAX_LINE = 2 << 20  # of a watch: etcd holds no larger object
PAGE, EVENTS_PAGE = 10, 100  # a pod is some 18 KB of JSON, an event 1 KB: a page costs 3 ms
CONNECT_S, ANSWER_S = 3.0, 15.0
WATCH_S = 120  # then the API server ends a watch and it goes on from where it was
LATE_S = 15.0  # a watch that lasts so much longer is dead
TURN_S = 1.0  # between two watches
BACK_OFF_S = (1.0, 60.0)
ABSENT_S = 300.0  # between two looks for KubeRay where its kinds are not known
HEALTH_EVERY_S = 30.0
MAX_EARLY = 256  # events of pods that are not listed yet
MAX_TOKEN = 16_384
_OK, _NOT_FOUND, _GONE = 200, 404, 410
_STATES = {401: "unauthorized", 403: "forbidden"}
Seen = PodSeen | KubeRaySeen | KubeRayListed | EndpointHealth
Emit = Callable[[Sequence[Seen]], None]


@dataclass(frozen=True, slots=True)
class Access:
    """Where the API server is and what of it is watched. `account`: folder with token and ca.crt, None for none.

    `is_asked_for`: somebody configured it. Else a service account that may read nothing is no trouble: most may not.
    """

    url: str
    namespace: str
    cluster: str = ""  # a RayCluster; '' for all pods of Ray in the namespace
    account: Path | None = None
    is_asked_for: bool = True


class Kind(NamedTuple):
    """A kind of object and how it is asked for."""

    name: str
    path: str
    selector: Mapping[str, str] = {}
    is_kuberay: bool = False
    page: int = PAGE


class Trouble(Exception):  # noqa: N818 - a way to answer, not an error of ours
    """It did not answer as it should: `state` is that of EndpointHealth."""

    def __init__(self, state: str, detail: str) -> None:
        super().__init__(detail)
        self.state, self.detail = state, detail


class Expired(Exception):  # noqa: N818 - same
    """What was known is too old to go on from (410): list again."""


class Absent(Exception):  # noqa: N818 - same
    """The API server does not know this kind (404): KubeRay is not installed."""


def kinds(access: Access) -> tuple[Kind, ...]:
    """Return what is watched: deploy/kubernetes/rbac.yaml allows just that."""
    core, ray = (f"{p}/namespaces/{access.namespace}/" for p in ("/api/v1", "/apis/ray.io/v1"))
    own = f"{podjson.CLUSTER}={access.cluster}" if access.cluster else "ray.io/is-ray-node=yes"
    of_pods = {"fieldSelector": "involvedObject.kind=Pod"}
    named = {"fieldSelector": f"metadata.name={access.cluster}"} if access.cluster else {}
    return (
        Kind("pods", f"{core}pods", {"labelSelector": own}),
        Kind("events", f"{core}events", of_pods, page=EVENTS_PAGE),
        Kind("rayclusters", f"{ray}rayclusters", named, is_kuberay=True),
        Kind("rayjobs", f"{ray}rayjobs", is_kuberay=True),
        Kind("rayservices", f"{ray}rayservices", is_kuberay=True),
    )


class Lines:
    """Whole lines out of a body that comes in pieces of any size; what is longer than the limit is left out."""

    def __init__(self, limit: int = MAX_LINE) -> None:
        self._limit, self._pieces, self._size = limit, list[bytes](), 0
        self.skipped = 0

    def feed(self, piece: bytes) -> Iterator[bytes]:
        """Yield the lines that end in this piece."""
        *ends, rest = piece.split(b"\n")
        for end in ends:
            self._keep(end)
            if self._size > self._limit:
                self.skipped += 1
            elif self._size:
                yield b"".join(self._pieces)
            self._pieces, self._size = [], 0
        self._keep(rest)

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        self._pieces.append(piece)
        if self._size > self._limit:
            self._pieces = []


class Asking:
    """Bounded questions to one API server, each with the token as it is on the disk now: the kubelet renews it."""

    def __init__(
        self, session: aiohttp.ClientSession, access: Access, limits: tuple[int, float, float]
    ) -> None:
        """`limits`: bytes of a line of a watch, how long one lasts and how long it is waited for then, seconds."""
        self._session, self._access = session, access
        self._max_line, self._watch_s, self._late_s = limits

    def _headers(self) -> dict[str, str]:
        account = self._access.account
        if account is None:
            return {}
        try:
            token = (account / "token").read_bytes()[:MAX_TOKEN].decode("ascii").strip()
        except (OSError, ValueError) as error:
            raise Trouble("unauthorized", f"no token can be read: {error}"[:200]) from None
        return {"Authorization": f"Bearer {token}"}

    @asynccontextmanager
    async def _get(
        self, kind: Kind, query: Mapping[str, str], wait_s: float
    ) -> AsyncIterator[aiohttp.ClientResponse]:
        times = aiohttp.ClientTimeout(total=wait_s, sock_connect=CONNECT_S)
        ask = partial(self._session.get, self._access.url + kind.path, params=query)
        try:
            async with ask(headers=self._headers(), timeout=times, allow_redirects=False) as answer:
                if answer.status == _GONE:
                    raise Expired
                if answer.status == _NOT_FOUND and kind.is_kuberay:
                    raise Absent
                if answer.status != _OK:
                    state = _STATES.get(answer.status, "error")
                    raise Trouble(state, f"HTTP {answer.status} to {kind.name}")
                yield answer
        except asyncio.TimeoutError:
            raise Trouble("timeout", f"no answer to {kind.name}") from None
        except aiohttp.ClientSSLError as error:
            raise Trouble("error", f"it is not the cluster's: {error}"[:200]) from None
        except aiohttp.ClientConnectorError as error:
            raise Trouble("refused", str(error)[:200]) from None
        except (aiohttp.ClientError, ValueError) as error:
            raise Trouble("error", f"{kind.name}: {type(error).__name__}: {error}"[:200]) from None

    async def page(self, kind: Kind, after: str) -> Row:
        """Return one page of a list. Raises Trouble, Expired, Absent."""
        query = {**kind.selector, "limit": str(kind.page), **({"continue": after} if after else {})}
        async with self._get(kind, query, ANSWER_S) as answer:
            body = await whole(answer, MAX_BODY)
        found = load(body) if body is not None else None
        if not isinstance(found, dict):
            why = "is no JSON object" if body is not None else "is longer than this reads"
            raise Trouble("error", f"{kind.name}: the answer {why}")
        return found

    async def changes(self, kind: Kind, version: str) -> AsyncGenerator[Row, None]:
        """Yield what a watch tells, until the API server ends it. Raises Trouble, Expired, Absent."""
        query = {
            **kind.selector,
            "watch": "1",
            "resourceVersion": version,
            "allowWatchBookmarks": "true",
            "timeoutSeconds": str(max(1, int(self._watch_s))),
        }
        lines = Lines(self._max_line)
        async with self._get(kind, query, self._watch_s + self._late_s) as answer:
            while piece := await answer.content.readany():
                for line in lines.feed(piece):
                    found = load(line)
                    if isinstance(found, dict):
                        yield found
        if lines.skipped:
            log.error("%s: %d objects were longer than this reads", kind.name, lines.skipped)


@dataclass(slots=True)
class _Known:
    """A pod, and the keys of what was told of it."""

    pod: Pod
    told: set[str] = field(default_factory=set)


class Memory:
    """What was seen since the start, so that each thing is told once; owned by the poller."""

    def __init__(self) -> None:
        self._pods: dict[str, _Known] = {}
        self._early: dict[str, list[PodEvent]] = {}  # by the uid of a pod that is not known yet
        self._kuberay: dict[str, KubeRaySeen] = {}

    def pod(self, row: Row, now: float, *, is_gone: bool) -> list[PodSeen]:
        """Take in a pod; return what is new."""
        uid = podjson.line(within(row, "metadata", "uid"), 64)
        known = self._pods.get(uid)
        pod = podjson.pod_of(row, known.pod if known else None)
        if pod is None:
            return []
        if known is None:
            known = self._pods[uid] = _Known(pod)
        known.pod = pod
        seen = podjson.pod_seen(row, pod, now, is_gone=is_gone)
        early = (podjson.told_by(e, pod) for e in self._early.pop(uid, ()))
        new = _new(known, [*(e for e in early if e), *seen])
        if is_gone:
            del self._pods[uid]
        return new

    def event(self, row: Row, now: float) -> list[PodSeen]:
        """Take in an event; return what is new. One of an unknown pod waits for it: they are listed side by side."""
        event = podjson.event_of(row, now)
        if event is None:
            return []
        known = self._pods.get(event.uid)
        if known is None:
            self._early.setdefault(event.uid, []).append(event)
            while len(self._early) > MAX_EARLY:
                del self._early[next(iter(self._early))]
            return []
        seen = podjson.told_by(event, known.pod)
        return _new(known, [seen] if seen else [])

    def kuberay(self, row: Row, now: float, *, is_gone: bool) -> list[KubeRaySeen]:
        """Take in a RayCluster, RayJob or RayService; return it where it is new."""
        seen = podjson.kuberay_seen(row, now, is_gone=is_gone)
        if seen is None:
            return []
        before = self._kuberay.get(seen.uid)
        if before is not None and seen.failed_at is not None and before.failed_at is not None:
            seen = replace(seen, failed_at=before.failed_at)  # where it does not say, it is now
        self._kuberay[seen.uid] = seen
        if is_gone:
            del self._kuberay[seen.uid]
        return [] if before is not None and replace(before, at=now) == seen else [seen]

    def listed(self, kind: Kind, uids: set[str], now: float) -> list[KubeRaySeen | KubeRayListed]:
        """Forget what a whole list does not hold: it went while nobody watched, and nothing says how."""
        if kind.name == "pods":
            self._pods = {u: k for u, k in self._pods.items() if u in uids}
        if not kind.is_kuberay:
            return []
        mine = {u: s for u, s in self._kuberay.items() if f"{s.kind.lower()}s" == kind.name}
        gone = [s for u, s in mine.items() if u not in uids]
        for seen in gone:
            del self._kuberay[seen.uid]
        told: list[KubeRaySeen | KubeRayListed]
        told = [replace(s, at=now, is_gone=True, retried=False) for s in gone]
        if kind.name == "rayjobs":
            retried = (s.submission_id for s in self._kuberay.values() if s.retried)
            told.append(KubeRayListed(now, frozenset(retried) - {""}))
        return told


def _new(known: _Known, seen: Sequence[PodSeen]) -> list[PodSeen]:
    fresh = [s for s in seen if s.key not in known.told]
    known.told |= {s.key for s in fresh}
    return fresh


class KubernetesPoller:
    """Lists and watches, and emits what is new; how the API server answers too."""

    def __init__(
        self,
        access: Access,
        emit: Emit,
        *,
        clock: Callable[[], float],
        back_off_s: tuple[float, float] = BACK_OFF_S,
        limits: tuple[int, float, float] = (MAX_LINE, WATCH_S, LATE_S),
        turn_s: float = TURN_S,
        asked: Asked = unheard,
    ) -> None:
        """`limits`: those of Asking."""
        self._asked = asked
        self._access, self._emit, self._clock = access, emit, clock
        self._back_off_s, self._limits, self._turn_s = back_off_s, limits, turn_s
        self._memory = Memory()
        self._versions: dict[str, str] = {}  # of what was seen last, by kind; none: to be listed
        self._health: dict[str, EndpointHealth] = {}
        self._told: EndpointHealth | None = None
        self._was_up = False

    async def run(self) -> None:
        """Watch until cancelled."""
        try:
            context = _tls(self._access)
        except (OSError, ssl.SSLError) as error:
            self._say("ca.crt", "error", f"ca.crt cannot be used: {error}"[:200])
            return
        connector = aiohttp.TCPConnector(ssl=context)
        async with aiohttp.ClientSession(connector=connector) as session:
            asking = Asking(session, self._access, self._limits)
            await asyncio.gather(*(self._follow(asking, k) for k in kinds(self._access)))

    async def _follow(self, asking: Asking, kind: Kind) -> None:
        wait_s, most_s = self._back_off_s
        while True:
            try:
                if not self._versions.get(kind.name):
                    self._versions[kind.name] = await self._list(asking, kind)
                    self._asked(NAME, "up")
                self._say(kind.name, "up", "")
                await self._watch(asking, kind)
            except Trouble as trouble:  # noqa: PERF203 - it sleeps anyway
                self._asked(NAME, trouble.state)
                self._say(kind.name, trouble.state, trouble.detail)
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, most_s)
            except Expired:
                self._versions[kind.name] = ""
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, most_s)
            except Absent:
                self._say(kind.name, "up", "")
                self._versions[kind.name] = ""
                self._emit(self._memory.listed(kind, set(), self._clock()))
                await asyncio.sleep(max(ABSENT_S, most_s))
            else:
                self._asked(NAME, "up")
                wait_s = self._back_off_s[0]
                await asyncio.sleep(self._turn_s)

    async def _list(self, asking: Asking, kind: Kind) -> str:
        """Take in all that is there; return its version."""
        uids: set[str] = set()
        after = ""
        while True:
            page = await asking.page(kind, after)
            for row in rows_of(page.get("items")):
                # Items of a list leave out what they all are.
                uids.add(podjson.line(within(row, "metadata", "uid"), 64))
                self._take(kind, {"kind": _kind_of(page), **row}, is_gone=False)
            after = podjson.line(within(page, "metadata", "continue"), 4096)
            if not after:
                break
        told = self._memory.listed(kind, uids, self._clock())
        if told:
            self._emit(told)
        version = podjson.line(within(page, "metadata", "resourceVersion"), 64)
        if not version:
            raise Trouble("error", f"{kind.name}: a list without a resourceVersion")
        return version

    async def _watch(self, asking: Asking, kind: Kind) -> None:
        version = self._versions[kind.name]
        async with aclosing(asking.changes(kind, version)) as changes:
            async for change in changes:
                row, what = change.get("object"), change.get("type")
                if not isinstance(row, dict):
                    continue
                if what == "ERROR":
                    self._refused(kind, row)
                if what in ("ADDED", "MODIFIED", "DELETED"):
                    self._take(kind, row, is_gone=what == "DELETED")
                now_at = podjson.line(within(row, "metadata", "resourceVersion"), 64)
                self._versions[kind.name] = now_at or self._versions[kind.name]
                self._say(kind.name, "up", "")

    def _refused(self, kind: Kind, status: Row) -> None:
        """End a watch that goes no further. Raises Expired or Trouble."""
        if status.get("code") == _GONE:
            raise Expired
        said = podjson.line(status.get("message"), 200)
        self._versions[kind.name] = ""
        raise Trouble("error", f"{kind.name}: the watch was ended: {said}")

    def _take(self, kind: Kind, row: Row, *, is_gone: bool) -> None:
        now, memory = self._clock(), self._memory
        seen: Sequence[Seen]
        if kind.name == "pods":
            seen = memory.pod(row, now, is_gone=is_gone)
        elif kind.name == "events":
            seen = [] if is_gone else memory.event(row, now)
        else:
            seen = memory.kuberay(row, now, is_gone=is_gone)
        if seen:
            self._emit(seen)

    def _say(self, name: str, state: str, detail: str) -> None:
        """Tell how the API server answers, as badly as for the worst kind: when that changes, else now and then."""
        self._was_up = self._was_up or (state == "up" and name in ("pods", "events"))
        if state == "forbidden" and not self._was_up and not self._access.is_asked_for:
            state, detail = "off", f"{detail}; deploy/kubernetes/rbac.yaml allows it"
        self._health[name] = EndpointHealth(self._clock(), NAME, state, detail)
        now = max(self._health.values(), key=lambda h: (h.state != "up", h.at))
        before = self._told
        changed = before is None or before.state != now.state
        if before is not None and not changed and 0 <= now.at - before.at < HEALTH_EVERY_S:
            return
        if changed:
            level = logging.INFO if now.state in ("up", "off") else logging.WARNING
            log.log(level, "the Kubernetes API is %s %s", now.state, ascii(now.detail))
        self._told = now
        self._emit([now])


def _kind_of(page: Row) -> str:
    return podjson.line(page.get("kind"), 40).removesuffix("List")


def _tls(access: Access) -> ssl.SSLContext | bool:
    """Return whom to trust: the cluster's own authority where there is one. Reads a file of a few KB."""
    ca = access.account / "ca.crt" if access.account is not None else None
    if not access.url.startswith("https://") or ca is None or not ca.is_file():
        return True
    return ssl.create_default_context(cafile=ca)
