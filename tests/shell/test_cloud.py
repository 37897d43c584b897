"""Metadata services: each protocol is spoken as it is, what they announce is told once, and lies cost nothing."""

import asyncio

import pytest

from raywatch.collect.cloud import MAX_BODY, CloudPoller, hinted
from raywatch.notice import Machine, Notices
from raywatch.observations import EndpointHealth
from tests.clouds import Clouds

AWS = {"instance-id": "i-0b662ef9931388ba0", "local-ipv4": "10.0.3.7"}
SPOT = {"action": "terminate", "time": "2026-11-25T08:22:00Z"}
REBOOT = {
    "NotBefore": "21 Jan 2027 09:00:43 GMT",
    "Code": "system-reboot",
    "EventId": "instance-event-0d59937288b749b32",
    "State": "active",
}
GCP = {"id": "42", "network-interfaces/0/ip": "10.1.0.2", "name": "w1"}
GCP |= {"preempted": "FALSE", "maintenance-event": "NONE"}
ADDRESS = [{"privateIpAddress": "10.2.0.4"}]
AZURE = {
    "instance": {
        "compute": {"name": "vm_1", "vmId": "c0ffee"},
        "network": {"interface": [{"ipv4": {"ipAddress": ADDRESS}}]},
    },
    "scheduledevents": {"DocumentIncarnation": 1, "Events": []},
}


def event(name, kind="Preempt", at="Wed, 25 Nov 2026 08:22:00 GMT", number="A-1"):
    """One of Azure's."""
    return {"EventId": number, "EventType": kind, "Resources": [name], "NotBefore": at}


async def until(true):
    """Wait for what must come at once."""
    for _ in range(1000):
        if true():
            return
        await asyncio.sleep(0.01)
    raise AssertionError("it did not come")


def play(provider, values, story):
    """Run a poller beside a story; return what it emitted and the service."""
    seen: list[Notices | EndpointHealth] = []

    async def main():
        clouds = Clouds()
        clouds.values |= values
        async with clouds.served() as url:
            poller = CloudPoller(
                {provider: url},
                seen.extend,
                clock=lambda: 1000.0,
                boot="b1",
                poll_s=0.02,
                back_off_s=(0.02, 0.1),
            )
            task = asyncio.create_task(poller.run())
            try:
                await story(clouds, seen)
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)
        return clouds

    return seen, asyncio.run(main())


def lists(seen, topic):
    """The lists of a topic, one after the other, as words."""
    found = [s for s in seen if isinstance(s, Notices) and s.topic == topic]
    return [tuple((n.kind, n.what, n.deadline_at) for n in s.told) for s in found]


def test_aws_tells_of_a_spot_interruption_once_and_renews_its_token():
    """404 is no trouble; a token that ran out is got again; what stands is not told again."""

    async def story(clouds, seen):
        await until(lambda: lists(seen, "spot"))
        clouds.tokens.clear()
        clouds.put("spot/instance-action", SPOT)
        clouds.put("events/maintenance/scheduled", [REBOOT, {**REBOOT, "State": "canceled"}])
        await until(lambda: len(lists(seen, "spot")) == 2 and len(lists(seen, "maintenance")) == 2)
        await asyncio.sleep(0.1)

    seen, _ = play("aws", AWS, story)
    (machine,) = {s.machine for s in seen if isinstance(s, Notices)}
    assert machine == Machine("i-0b662ef9931388ba0", "10.0.3.7")
    assert lists(seen, "spot") == [(), (("preemption", "terminate", 1795594920.0),)]
    assert lists(seen, "maintenance") == [(), (("maintenance", "system-reboot", 1800522043.0),)]
    assert [s.state for s in seen if isinstance(s, EndpointHealth)] == ["up"]


def test_gcp_waits_for_a_change_and_asks_no_more_often_than_it_must():
    """A long poll answers when the value changes; meanwhile one question stands for each value."""

    async def story(clouds, seen):
        await until(lambda: lists(seen, "preempted") and lists(seen, "maintenance-event"))
        await asyncio.sleep(0.3)
        assert len(clouds.asked) <= 3 + 4
        clouds.put("preempted", "TRUE")
        await until(lambda: len(lists(seen, "preempted")) == 2)

    seen, _ = play("gcp", GCP, story)
    assert lists(seen, "preempted")[1] == (("preemption", "preempted", 1030.0),)
    keys = [n.key for s in seen if isinstance(s, Notices) for n in s.told]
    assert keys == ["gcp 42 preempted b1"]


def test_azure_tells_of_this_machine_only():
    """The list is that of a group; an event that left it is over."""

    async def story(clouds, seen):
        await until(lambda: lists(seen, "events"))
        rows = [event("vm_2"), event("vm_1"), event("vm_1", "Freeze", number="A-2")]
        clouds.put("scheduledevents", {"DocumentIncarnation": 2, "Events": rows})
        await until(lambda: len(lists(seen, "events")) == 2)
        clouds.put("scheduledevents", {"DocumentIncarnation": 3, "Events": []})
        await until(lambda: len(lists(seen, "events")) == 3)

    seen, _ = play("azure", AZURE, story)
    at = 1795594920.0
    told = (("preemption", "Preempt", at), ("maintenance", "Freeze", at))
    assert lists(seen, "events") == [(), told, ()]


@pytest.mark.parametrize(
    "lie", ["x" * (MAX_BODY + 1), "[" * 60_000, '{"action": "rm -rf /", "time": "now"}', "\x00"]
)
def test_a_service_that_lies_tells_nothing_and_is_asked_ever_more_rarely(lie):
    """It is shown as a source that fails."""

    async def story(clouds, seen):
        await until(lambda: any(getattr(s, "state", "") == "error" for s in seen))
        before = sum(a.endswith("instance-action") for a in clouds.asked)
        await asyncio.sleep(0.3)
        assert sum(a.endswith("instance-action") for a in clouds.asked) - before <= 6

    seen, _ = play("aws", {**AWS, "spot/instance-action": lie}, story)
    assert lists(seen, "spot") == []


def test_a_machine_names_its_cloud_in_its_firmware(tmp_path):
    """Where it names none, or is any Hyper-V, nobody is asked."""
    assert hinted(tmp_path) == ()
    (tmp_path / "sys_vendor").write_text("Microsoft Corporation\n")
    assert hinted(tmp_path) == ()
    (tmp_path / "chassis_asset_tag").write_text("7783-7084-3265-9085-8269-3286-77\n")
    assert hinted(tmp_path) == ("azure",)
    (tmp_path / "sys_vendor").write_text("Amazon EC2\n")
    assert hinted(tmp_path) == ("aws",)
    (tmp_path / "sys_vendor").write_text("Google\n")
    assert hinted(tmp_path) == ("gcp",)


def test_a_service_that_hangs_is_a_source_that_does_not_answer():
    """And one that does not echo Google's header is somebody else's."""

    async def hang(clouds, seen):
        clouds.hang = True
        await until(lambda: any(getattr(s, "state", "") == "timeout" for s in seen))

    async def other(_clouds, seen):
        await until(lambda: any("Metadata-Flavor" in getattr(s, "detail", "") for s in seen))

    assert not [s for s in play("aws", AWS, hang)[0] if isinstance(s, Notices)]
    assert not [s for s in play("gcp", {**GCP, "flavor": ""}, other)[0] if isinstance(s, Notices)]
