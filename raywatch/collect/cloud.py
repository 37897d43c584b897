"""Metadata services of AWS, Google Cloud and Azure: what they announce about this machine.

Each is asked only where the configuration names it or the machine's own DMI fields do: on other clouds the same
address belongs to somebody else. A service that lies or hangs costs a bounded body, a short wait and ever rarer tries.
"""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TypeVar

import aiohttp

from raywatch.collect import metadata
from raywatch.collect.asked import Asked, unheard
from raywatch.httpbody import whole
from raywatch.notice import Machine, Notice, Notices, Provider
from raywatch.observations import EndpointHealth

log = logging.getLogger("raywatch.cloud")
LINK_LOCAL = "http://169.254.169.254"
MAX_BODY = 65_536
CONNECT_S, ANSWER_S = 1.0, 2.0
AZURE_ANSWER_S = (
    130.0  # the first question switches scheduled events on, which may take two minutes
)
WAIT_S = 60  # of a long poll
BACK_OFF_S = (2.0, 300.0)
HEALTH_EVERY_S = 30.0
TOKEN_S = 21_600  # of AWS, the longest that it gives
SLOWLY = 10  # what is announced days or minutes ahead is asked so much more rarely
DMI = Path("/sys/class/dmi/id")
BOOT = Path("/proc/sys/kernel/random/boot_id")
_FIELDS = ("sys_vendor", "board_vendor", "bios_vendor", "bios_version", "product_name")
_AZURE_TAG = "7783-7084-3265-9085-8269-3286-77"  # sys_vendor is that of any Hyper-V
_OK, _UNAUTHORIZED, _NOT_FOUND = 200, 401, 404
_T = TypeVar("_T")
Read = Callable[[bytes, Machine], "tuple[Notice, ...] | None"]
Emit = Callable[[Sequence[Notices | EndpointHealth]], None]


class Trouble(Exception):  # noqa: N818 - a way to answer, not an error of ours
    """It did not answer as it should: `state` is that of EndpointHealth."""

    def __init__(self, state: str, detail: str) -> None:
        super().__init__(detail)
        self.state, self.detail = state, detail


def hinted(dmi: Path = DMI) -> tuple[Provider, ...]:
    """Return the cloud that this machine's firmware names, none where it says nothing or another name."""
    said = " ".join(_field(dmi / name) for name in _FIELDS).lower()
    if "amazon" in said:  # `Amazon EC2`; Xen's bios_version ends in .amazon
        return ("aws",)
    if "google" in said:
        return ("gcp",)
    return ("azure",) if _field(dmi / "chassis_asset_tag") == _AZURE_TAG else ()


def boot_id(path: Path = BOOT) -> str:
    """Return the kernel's boot id, '' where there is none."""
    return _field(path)


def _field(path: Path) -> str:
    with suppress(OSError):
        return path.read_bytes()[:256].decode(errors="replace").strip()
    return ""


@dataclass(frozen=True, slots=True)
class Answer:
    """Status, body and ETag."""

    status: int
    body: bytes
    etag: str


class Asking:
    """Bounded questions to one service: no redirects, no proxies, no more than MAX_BODY."""

    def __init__(self, session: aiohttp.ClientSession, url: str) -> None:
        self._session, self._url = session, url.rstrip("/")

    async def ask(
        self,
        path: str,
        headers: Mapping[str, str],
        *,
        method: str = "GET",
        wait_s: float = ANSWER_S,
    ) -> Answer:
        """Ask once. Raises Trouble where nothing that can be read comes."""
        times = aiohttp.ClientTimeout(total=wait_s, sock_connect=CONNECT_S)
        try:
            async with self._session.request(
                method, self._url + path, headers=headers, timeout=times, allow_redirects=False
            ) as answer:
                body = await whole(answer, MAX_BODY)
                if body is None:
                    raise Trouble("error", "the answer is longer than this reads")
                flavor = answer.headers.get("Metadata-Flavor", "")
                if headers.get("Metadata-Flavor", flavor) != flavor:
                    raise Trouble("error", "it is not Google's: it does not echo Metadata-Flavor")
                return Answer(answer.status, body, answer.headers.get("ETag", "")[:128])
        except asyncio.TimeoutError:
            raise Trouble("timeout", "it does not answer") from None
        except aiohttp.ClientConnectorError as error:
            raise Trouble("refused", str(error)[:200]) from None
        except (aiohttp.ClientError, ValueError) as error:
            raise Trouble("error", f"{type(error).__name__}: {error}"[:200]) from None


def _told(answer: Answer, read: Read, machine: Machine, path: str) -> tuple[Notice, ...]:
    """Return what an answer tells. Raises Trouble where it cannot be understood."""
    found = read(answer.body, machine) if answer.status == _OK else None
    if found is None:
        raise Trouble("error", f"HTTP {answer.status} or an unknown answer to {path}")
    return found


class Aws:
    """IMDSv2: a token first, then 404 while there is nothing."""

    TOPICS: tuple[tuple[str, str, Read, int], ...] = (
        ("spot", "/latest/meta-data/spot/instance-action", metadata.spot_action, 1),
        (
            "rebalance",
            "/latest/meta-data/events/recommendations/rebalance",
            metadata.rebalance,
            SLOWLY,
        ),
        (
            "maintenance",
            "/latest/meta-data/events/maintenance/scheduled",
            metadata.scheduled,
            SLOWLY,
        ),
    )

    def __init__(self, asking: Asking, poll_s: float) -> None:
        self._asking, self._poll_s, self._token = asking, poll_s, ""

    async def _get(self, path: str) -> Answer:
        for _ in range(2):
            if not self._token:
                ttl = {"X-aws-ec2-metadata-token-ttl-seconds": str(TOKEN_S)}
                got = await self._asking.ask("/latest/api/token", ttl, method="PUT")
                self._token = metadata.plain(got.body, metadata.TOKEN) if got.status == _OK else ""
                if not self._token:
                    raise Trouble(
                        "error", f"HTTP {got.status} or no token to PUT /latest/api/token"
                    )
            answer = await self._asking.ask(path, {"X-aws-ec2-metadata-token": self._token})
            if answer.status != _UNAUTHORIZED:
                return answer
            self._token = ""  # it ran out
        raise Trouble("unauthorized", "its own token is refused")

    async def machine(self) -> Machine:
        """Return who this is."""
        instance = await self._get("/latest/meta-data/instance-id")
        ip = await self._get("/latest/meta-data/local-ipv4")
        return Machine(metadata.plain(instance.body), metadata.address(ip.body))

    async def told(self, topic: str, machine: Machine) -> tuple[Notice, ...]:
        """Ask for one list; wait before where it was asked a moment ago."""
        path, read = next((p, r) for t, p, r, _ in self.TOPICS if t == topic)
        answer = await self._get(path)
        return () if answer.status == _NOT_FOUND else _told(answer, read, machine, path)

    def pause_s(self, topic: str) -> float:
        """Return how long to wait between two questions."""
        return self._poll_s * next(n for t, _, _, n in self.TOPICS if t == topic)


class Gcp:
    """Google's metadata server, which answers once a value changes."""

    ROOT = "/computeMetadata/v1/instance/"
    TOPICS = (("preempted",), ("maintenance-event",))
    FLAVOR: Mapping[str, str] = {"Metadata-Flavor": "Google"}

    def __init__(
        self, asking: Asking, poll_s: float, boot: str, clock: Callable[[], float]
    ) -> None:
        self._asking, self._poll_s, self._boot, self._clock = asking, poll_s, boot, clock
        self._etags: dict[str, str] = {}

    async def machine(self) -> Machine:
        """Return who this is."""
        keys = ("id", "network-interfaces/0/ip", "name")
        told = [await self._asking.ask(self.ROOT + k, self.FLAVOR) for k in keys]
        return Machine(*(metadata.plain(t.body) if t.status == _OK else "" for t in told))

    async def told(self, topic: str, machine: Machine) -> tuple[Notice, ...]:
        """Ask for a value; after the first time, wait for it to change."""
        etag = self._etags.get(topic, "")
        query = f"?wait_for_change=true&timeout_sec={WAIT_S}&last_etag={etag}" if etag else ""
        wait_s = WAIT_S + 10 if etag else ANSWER_S
        answer = await self._asking.ask(self.ROOT + topic + query, self.FLAVOR, wait_s=wait_s)
        parse = metadata.gcp_preempted if topic == "preempted" else metadata.gcp_maintenance
        read = partial(parse, boot=self._boot, now=self._clock())
        found = _told(answer, read, machine, topic)
        self._etags[topic] = metadata.plain(answer.etag.encode())
        return found

    def pause_s(self, topic: str) -> float:
        """Return how long to wait between two questions; a server that answers at once must not be hammered."""
        return self._poll_s / 2 if self._etags.get(topic) else self._poll_s


class Azure:
    """Scheduled events of a group of machines, of which this is one."""

    HEADERS: Mapping[str, str] = {"Metadata": "true"}
    TOPICS = (("events",),)
    EVENTS = "/metadata/scheduledevents?api-version=2020-07-01"
    INSTANCE = "/metadata/instance?api-version=2021-02-01"

    def __init__(self, asking: Asking, poll_s: float, clock: Callable[[], float]) -> None:
        self._asking, self._poll_s, self._clock, self._awake = asking, poll_s, clock, False

    async def machine(self) -> Machine:
        """Return who this is. Raises Trouble where it does not say."""
        answer = await self._asking.ask(self.INSTANCE, self.HEADERS)
        found = metadata.azure_machine(answer.body) if answer.status == _OK else None
        if found is None:
            raise Trouble("error", f"HTTP {answer.status} or an unknown answer to {self.INSTANCE}")
        return found

    async def told(self, _topic: str, machine: Machine) -> tuple[Notice, ...]:
        """Ask for the list."""
        wait_s = ANSWER_S if self._awake else AZURE_ANSWER_S
        answer = await self._asking.ask(self.EVENTS, self.HEADERS, wait_s=wait_s)
        read = partial(metadata.azure_events, now=self._clock())
        found = _told(answer, read, machine, self.EVENTS)
        self._awake = True
        return found

    def pause_s(self, _topic: str) -> float:
        """Return how long to wait between two questions."""
        return self._poll_s


class CloudPoller:
    """Asks the services that are named and emits lists that changed, the first one of each too."""

    def __init__(
        self,
        urls: Mapping[Provider, str],
        emit: Emit,
        *,
        clock: Callable[[], float],
        boot: str,
        poll_s: float = 1.0,
        back_off_s: tuple[float, float] = BACK_OFF_S,
        asked: Asked = unheard,
    ) -> None:
        """`boot` is the kernel's boot id: a VM that was preempted and started again is told apart by it."""
        self._asked = asked
        self._urls, self._emit, self._clock = urls, emit, clock
        self._boot, self._poll_s, self._back_off_s = boot, poll_s, back_off_s
        self._health: dict[tuple[Provider, str], EndpointHealth] = {}  # by provider and topic
        self._told: dict[Provider, EndpointHealth] = {}

    async def run(self) -> None:
        """Ask until cancelled."""
        async with aiohttp.ClientSession() as session:
            await asyncio.gather(
                *(
                    self._watch(p, self._service(p, Asking(session, u)))
                    for p, u in self._urls.items()
                )
            )

    def _service(self, provider: Provider, asking: Asking) -> Aws | Gcp | Azure:
        if provider == "aws":
            return Aws(asking, self._poll_s)
        if provider == "gcp":
            return Gcp(asking, self._poll_s, self._boot, self._clock)
        return Azure(asking, self._poll_s, self._clock)

    async def _watch(self, provider: Provider, service: Aws | Gcp | Azure) -> None:
        machine = await self._tried(provider, "machine", service.machine)
        while not machine.instance:
            self._say(provider, "machine", "error", "it does not say which instance this is")
            await asyncio.sleep(self._back_off_s[1])
            machine = await self._tried(provider, "machine", service.machine)
        self._health.pop((provider, "machine"), None)
        await asyncio.gather(
            *(self._follow(provider, service, t[0], machine) for t in service.TOPICS)
        )

    async def _follow(
        self, provider: Provider, service: Aws | Gcp | Azure, topic: str, machine: Machine
    ) -> None:
        known: tuple[str, ...] | None = None
        while True:
            told = await self._tried(provider, topic, partial(service.told, topic, machine))
            keys = tuple(n.key for n in told)
            if keys != known:
                known = keys
                self._emit([Notices(self._clock(), provider, topic, machine, told)])
            await asyncio.sleep(service.pause_s(topic))

    async def _tried(self, provider: Provider, topic: str, ask: Callable[[], Awaitable[_T]]) -> _T:
        """Ask until it is answered, ever more rarely."""
        wait_s, most_s = self._back_off_s
        while True:
            try:
                found = await ask()
            except Trouble as trouble:  # noqa: PERF203 - it sleeps anyway
                self._asked(provider, trouble.state)
                self._say(provider, topic, trouble.state, trouble.detail)
                await asyncio.sleep(wait_s)
                wait_s = min(2 * wait_s, most_s)
            else:
                self._asked(provider, "up")
                self._say(provider, topic, "up", "")
                return found

    def _say(self, provider: Provider, topic: str, state: str, detail: str) -> None:
        """Tell how the service answers, as badly as the worst of its lists: when that changes, else now and then."""
        before = self._told.get(provider)
        self._health[provider, topic] = EndpointHealth(self._clock(), provider, state, detail)
        now = self._worst(provider)
        changed = before is None or before.state != now.state
        if before is not None and not changed and 0 <= now.at - before.at < HEALTH_EVERY_S:
            return
        if changed:
            level = logging.INFO if now.state == "up" else logging.WARNING
            log.log(level, "metadata of %s is %s %s", provider, now.state, ascii(now.detail))
        self._told[provider] = now
        self._emit([now])

    def _worst(self, provider: Provider) -> EndpointHealth:
        mine = [h for (p, _), h in self._health.items() if p == provider]
        return max(mine, key=lambda h: (h.state != "up", h.at))
