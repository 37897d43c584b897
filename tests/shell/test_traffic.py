"""Questions and facts are counted under the source that they are of, in a bounded set of words."""

from __future__ import annotations

import asyncio
from contextlib import asynccontextmanager
from functools import partial

import pytest

from raywatch.collect.cloud import CloudPoller
from raywatch.collect.dashboard import DashboardPoller
from raywatch.collect.kubernetes import Access, KubernetesPoller
from raywatch.notice import Machine, Notices
from raywatch.observations import EndpointHealth, EventSeen, KubeRayListed, NodeSeen, SessionSeen
from raywatch.traffic import OUTCOMES, Traffic
from tests.clouds import Clouds
from tests.fakeray import FakeRay
from tests.kubernetes import NAMESPACE, KubeApi
from tests.shell.test_cloud import AWS, until


def test_series_of_all_sources_are_there_from_the_start():
    """And none comes but those: an unknown state is an error."""
    traffic = Traffic(("nodes", "train", "train_v1"))
    before = traffic.view()
    for state in ("up", "off", "refused", "timeout", "unauthorized", "forbidden", "busy", "?", ""):
        traffic.asked("nodes", state)
    asked = traffic.view().asked

    assert before.told == {"nodes": 0, "train": 0}
    assert set(before.asked) == {(s, o) for s in ("nodes", "train", "train_v1") for o in OUTCOMES}
    assert set(asked) == set(before.asked)
    assert {o: n for (s, o), n in asked.items() if s == "nodes"} == {
        "ok": 2,
        "refused": 1,
        "timeout": 1,
        "unauthorized": 2,
        "throttled": 1,
        "error": 2,
    }


def test_facts_are_counted_where_they_are_from():
    """A pushed row of a node is one of the push; how a source stands is no fact."""
    node = NodeSeen(1.0, "n", "", "", "ALIVE", "", is_head=False)
    event = EventSeen("e", 1.0, "node_dead")
    traffic = Traffic(("nodes", "version", "ray_events", "kubernetes", "aws"))
    traffic.told([node, node, SessionSeen(1.0, "2.60.0", "s"), EndpointHealth(1.0, "nodes", "up")])
    traffic.told([node, event], "ray_events")
    traffic.told([KubeRayListed(1.0, frozenset()), Notices(1.0, "aws", "spot", Machine(), ())])

    assert traffic.view().told == {
        "nodes": 2,
        "version": 1,
        "ray_events": 2,
        "kubernetes": 1,
        "aws": 1,
    }


def told_by(begin, is_enough) -> list[tuple[str, str]]:
    """The questions that a poller tells of until there are enough. `begin(asked)` yields it, beside whom it asks."""
    asked: list[tuple[str, str]] = []

    async def main() -> None:
        async with begin(lambda *told: asked.append(told)) as poller:
            task = asyncio.create_task(poller.run())
            try:
                await until(lambda: is_enough(asked))
            finally:
                task.cancel()
                await asyncio.gather(task, return_exceptions=True)

    asyncio.run(main())
    return asked


def test_the_dashboard_poller_tells_of_each_question():
    """Of each endpoint that it asks; where nobody listens, of the one that it tried."""
    with FakeRay() as ray:

        @asynccontextmanager
        async def begin(asked, url=ray.url):
            yield DashboardPoller(url, lambda: None, lambda _: None, clock=lambda: 1.0, asked=asked)

        told = told_by(begin, lambda asked: len(asked) >= 7)
        refused = told_by(partial(begin, url="http://127.0.0.1:1"), bool)

    names = ["version", "jobs", "nodes", "actors", "workers", "autoscaler", "groups"]
    assert told == [(n, "up") for n in names]
    assert refused == [("version", "refused")]


@pytest.mark.parametrize(("is_hidden", "state"), [(False, "up"), (True, "error")])
def test_the_cloud_poller_tells_of_each_question(is_hidden, state):
    """Also of those that are not answered well."""

    @asynccontextmanager
    async def begin(asked):
        clouds = Clouds()
        clouds.values |= {} if is_hidden else AWS
        async with clouds.served() as url:
            where = url if not is_hidden else f"{url}/none"
            yield CloudPoller(
                {"aws": where},
                lambda _: None,
                clock=lambda: 1.0,
                boot="b",
                poll_s=0.02,
                back_off_s=(0.02, 0.1),
                asked=asked,
            )

    assert set(told_by(begin, lambda asked: len(asked) > 2)) == {("aws", state)}


@pytest.mark.parametrize(("status", "state"), [(0, "up"), (401, "unauthorized"), (500, "error")])
def test_the_kubernetes_poller_tells_of_each_question(status, state):
    """Of lists, of watches that ended, and of those that were refused."""

    @asynccontextmanager
    async def begin(asked):
        api = KubeApi()
        api.status = status
        async with api.served(None) as url:
            access = Access(url, NAMESPACE)
            yield KubernetesPoller(access, lambda _: None, clock=lambda: 1.0, asked=asked)

    assert set(told_by(begin, bool)) == {("kubernetes", state)}
