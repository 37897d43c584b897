"""What Ray pushes is taken once, answered when it is on the disk, and refused while the first thread is behind."""

import asyncio
import json
import math
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from raywatch.asking import OK, UNAVAILABLE, Answer, Desk, Keep, Request
from raywatch.collect.events import events_key
from raywatch.model import Fact, Finding
from raywatch.observations import EndpointHealth, EventSeen
from raywatch.pushing import ANSWER_S, KEEP, LATE_S, MAX_WAITING, Receiver, Told
from raywatch.resuming import Resuming
from raywatch.store import Store
from tests.daemons import DaemonProcess, make_session, until

API = Path(__file__).parent.parent / "api" / "2.60.0"
BATCHES = [b["events"] for b in json.loads((API / "events.json").read_text())["batches"]]
LINES = json.loads((API / "events.json").read_text())["gcs_server.out"]
NOW = 1_800_000_000.0
NODE = "ab" * 28
DRAIN = EventSeen("d/0", NOW, "node_draining", NODE)
DEATH = EventSeen("e/0", NOW, "node_dead", NODE, reason="EXPECTED_TERMINATION")


class First:
    """The first thread: takes what is emitted, and answers when the test says so."""

    def __init__(self) -> None:
        self.seen: list[object] = []
        self.asked: list[Callable[[Answer], None]] = []
        self.receiver = Receiver(self.seen.extend, self.asked.append, lambda: NOW)

    def sources(self) -> list[tuple[str, str]]:
        return [(h.name, h.state) for h in self.seen if isinstance(h, EndpointHealth)]


def body(number: int) -> bytes:
    return json.dumps(BATCHES[number]).encode()


def test_nothing_is_answered_before_it_is_on_the_disk():
    """Ray forgets a batch that was answered with success."""
    first = First()

    async def main() -> Answer:
        asked = asyncio.create_task(first.receiver.take(body(5)))
        await asyncio.sleep(0)  # it runs until it waits
        assert any(isinstance(o, EventSeen) for o in first.seen)
        assert not asked.done()
        first.asked[0](Answer(OK, {}))
        return await asked

    assert asyncio.run(main()).status == OK
    assert first.sources() == [("ray_events", "up")]


@pytest.mark.parametrize(("write_error", "status"), [("", OK), ("disk full", UNAVAILABLE)])
def test_only_a_disk_that_cannot_be_written_refuses_what_came(write_error, status):
    """A daemon that still reads the history, or sees no session, decides nothing yet; it can hear."""
    told: list[Answer] = []
    desk = Desk(Resuming((), {}, {}, started_at=0.0))

    assert desk.take([Request(Keep(), told.append, math.inf)], (), NOW, "closed") == []
    assert told == []
    desk.reply(write_error)
    assert [a.status for a in told] == [status]


def test_what_tells_nothing_is_not_the_first_thread_s_affair():
    """Events of tasks come by the thousand."""
    first = First()
    tasks = [{"eventType": "TASK_LIFECYCLE_EVENT", "taskLifecycleEvent": {"taskId": "AA=="}}] * 9

    assert asyncio.run(first.receiver.take(json.dumps(tasks).encode())).status == OK
    assert asyncio.run(first.receiver.take(b"[]")).status == OK
    assert first.asked == []
    assert first.sources() == [("ray_events", "up")]  # once a second at most


def test_a_first_thread_that_is_behind_makes_ray_come_again(monkeypatch):
    """No more than MAX_WAITING batches lie in its queue, also after Ray has given up waiting for the answers."""
    monkeypatch.setattr("raywatch.pushing.ANSWER_S", 0.01)
    first = First()

    async def main() -> None:
        for _ in range(MAX_WAITING):
            assert (await first.receiver.take(body(5))).status == UNAVAILABLE
        told = len(first.seen)
        assert (await first.receiver.take(body(5))).status == UNAVAILABLE
        assert len(first.seen) == told
        first.asked[0](Answer(OK, {}))  # one is taken, late
        assert (await first.receiver.take(body(5))).status == UNAVAILABLE
        assert len(first.seen) > told

    asyncio.run(main())
    assert ANSWER_S < 3.0  # that Ray waits


def test_what_is_no_array_is_refused_and_shown():
    """A clear word for who pushes, and a source that is not up."""
    first = First()

    for wrong in (b"", b"{}", b"null", b"7", b"[", b'"x"', b"\xff", b"[" * 100_000):
        status, said = asyncio.run(first.receiver.take(wrong))
        assert (status, said) == (400, {"error": "the body must be a JSON array of Ray's events"})
    assert first.sources() == [("ray_events", "error")]


def test_a_batch_that_is_too_long_is_said():
    """Ray would send it for ever, and nothing after it."""
    first = First()

    assert asyncio.run(first.receiver.take(None)).status == 413
    (health,) = first.seen
    assert isinstance(health, EndpointHealth)
    assert (health.state, "MAX_EVENT_SEND_BATCH_SIZE" in health.detail) == ("error", True)


def test_an_event_means_something_once():
    """Ray sends a batch again when its answer was lost, also to the daemon's next life."""
    told = Told({})
    assert isinstance(told.hear(DRAIN, NOW), Fact)
    assert isinstance(told.hear(DEATH, NOW), Finding)
    assert (told.hear(DRAIN, NOW), told.hear(DEATH, NOW)) == (None, None)
    written = list(told.documents())
    again = Told({"event": {d.id: d.json for d in written if d.json}})

    assert [d.id for d in written] == ["d/0", "e/0"]
    assert list(told.documents()) == []
    assert again.hear(DEATH, NOW) is None


def test_what_was_told_is_forgotten_in_the_end():
    """The oldest first, from the disk too."""
    told = Told({})
    for number in range(KEEP + 2):
        told.hear(replace(DEATH, id=str(number)), NOW)

    assert [d.id for d in told.documents() if d.json is None] == ["0", "1"]


def test_what_ray_held_back_for_long_opens_nothing():
    """The incident that the logs told may be over: its copy would open another."""
    assert Told({}).hear(DEATH, NOW + LATE_S) is not None
    assert Told({}).hear(DEATH, NOW + LATE_S + 1) is None


# --- a daemon ---


def restamped(events: Any, seconds: float) -> Any:
    """The same events at another time."""
    text = json.dumps(events)
    for at in sorted({t[:19] for t in text.split('"') if t.startswith("2026-11-25T")}):
        then = time.mktime(time.strptime(at, "%Y-%m-%dT%H:%M:%S")) - time.timezone + seconds
        text = text.replace(at, time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(then)))
    return json.loads(text)


def line_of(text: str, seconds: float) -> str:
    """A line of the log at another time, in the machine's zone."""
    then = time.mktime(time.strptime(text[1:20], "%Y-%m-%d %H:%M:%S")) - time.timezone + seconds
    return "[" + time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(then)) + text[20:] + "\n"


def push(daemon: DaemonProcess, state: Path, events: object, key: str = "") -> int:
    """POST as Ray's agent does: no Authorization, a URL with a key."""
    key = key or events_key((state / "token").read_text())
    url = f"{daemon.url}/api/v1/events/{key}"
    request = urllib.request.Request(url, json.dumps(events).encode(), method="POST")
    try:
        with urllib.request.urlopen(request, timeout=20) as answer:
            return int(answer.status)
    except urllib.error.HTTPError as error:
        with error:
            return error.code


def counted(daemon: DaemonProcess, component: str = "event") -> dict[str, int]:
    """Findings of a component, by class."""
    rows = daemon.get("/metrics")[1].decode().splitlines()
    mine = [r for r in rows if r.startswith("raywatch_findings_total") and f'"{component}"' in r]
    found = {r.split('class="')[1].split('"')[0]: int(float(r.split()[-1])) for r in mine}
    return {name: number for name, number in found.items() if number}


def source(daemon: DaemonProcess) -> str:
    """How the source of pushed events stands."""
    rows = json.loads(daemon.get("/api/v1/snapshot")[1])["sources"]
    return str(next((r["state"] for r in rows if r["source"] == "ray_events"), ""))


def shown(daemon: DaemonProcess) -> list[tuple[str, str]]:
    """The incidents and what they explain."""
    return sorted((str(i["class"]), str(i["explains"])) for i in daemon.incidents())


def stored(state: Path) -> dict[str, int]:
    """Findings of each incident, after the daemon's end."""
    with Store(state / "raywatch.db") as store:
        rows = map(json.loads, store.docs()["incident"].values())
        return {r["class_id"]: r["findings"] for r in rows}


def test_a_daemon_learns_from_events_and_counts_each_once(tmp_path):
    """Killed worker, preempted and vanished node; the log's lines and batches that come again change no count."""
    logs, state = make_session(tmp_path), tmp_path / "state"
    later = time.time() - 1795614010
    batches = [restamped(b, later) for b in BATCHES]
    daemon = DaemonProcess(tmp_path, state)
    try:
        until(lambda: source(daemon) == "off", 10, "nobody pushes")
        assert 'raywatch_source_up{source="ray_events"' not in daemon.get("/metrics")[1].decode()
        assert push(daemon, state, batches[0], key="0" * 32) == 401
        assert [push(daemon, state, b) for b in batches] == [200] * len(batches)
        assert source(daemon) == "up"
        first, counts = shown(daemon), counted(daemon)
        assert [push(daemon, state, b) for b in batches] == [200] * len(batches)
        assert (shown(daemon), counted(daemon)) == (first, counts)
        (logs / "gcs_server.out").write_text("".join(line_of(x, later) for x in LINES))
        until(lambda: counted(daemon, "gcs") == counts | {"node_lost": 2}, 20, "the log was read")
        together = shown(daemon)
    finally:
        daemon.kill()
    assert stored(state) == {"node_lost": 1, "spot_preemption": 1, "worker_crash": 3}
    daemon = DaemonProcess(tmp_path, state)
    try:
        assert [push(daemon, state, b) for b in batches] == [200] * len(batches)
        assert (shown(daemon), counted(daemon)) == (together, counts)
        assert 'raywatch_source_up{source="ray_events"} 1.0' in daemon.get("/metrics")[1].decode()
    finally:
        assert daemon.stop() == 0

    assert counts == {"node_lost": 1, "spot_preemption": 1, "worker_crash": 3}
    assert first == [("node_lost", "[]"), ("spot_preemption", "[]"), ("worker_crash", "[]")]
    assert together == first
    assert stored(state) == {"node_lost": 1, "spot_preemption": 1, "worker_crash": 3}


def test_the_token_is_good_for_events_too_and_the_key_for_nothing_else(tmp_path):
    """A forwarder that can send a header needs no key in its URL."""
    state = tmp_path / "state"
    make_session(tmp_path)
    daemon = DaemonProcess(tmp_path, state)
    try:
        key = events_key((state / "token").read_text())
        events = daemon.post("/api/v1/events", b"[]")
        nobody = daemon.post("/api/v1/events", b"[]", token="")
        misused = daemon.post("/api/v1/runs/x/resume", token=key)
        broken = daemon.post("/api/v1/events", b"{")
    finally:
        assert daemon.stop() == 0

    assert [a[0] for a in (events, nobody, misused, broken)] == [200, 401, 401, 400]
    assert b"JSON array" in broken[1]
