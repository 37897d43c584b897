"""What is asked only where it has something to tell, 429 as a state of its own, and a report that stands still."""

import json
from pathlib import Path

import pytest

from raywatch.collect.endpoints import ENDPOINTS, GROUPS, SERVE, STATUS, TRAIN_V1
from raywatch.observations import AutoscalerSeen, GroupsSeen, ServeSeen, TrainRunSeen
from tests.shell.test_dashboard import OFF, OPTIONAL, Dashboard, healths, play, spend

API = Path(__file__).parent.parent / "api" / "2.60.0"
STATE_API = [e.name for e in ENDPOINTS if e.path.startswith("/api/v0/")]


def recorded(endpoint, name):
    """Let a dashboard answer as Ray 2.60 did."""
    return {endpoint.path.partition("?")[0]: (API / f"{name}.json").read_bytes()}


def asked(dashboard, endpoint):
    """How often it was asked."""
    return sum(path == endpoint.path.partition("?")[0] for path, _ in dashboard.asked)


def of(kind, seen):
    """What was told of a kind."""
    return [o for o in seen if isinstance(o, kind)]


@pytest.mark.parametrize(
    ("endpoint", "actor", "kind", "name"),
    [(SERVE, 0, ServeSeen, "serve"), (TRAIN_V1, 1, TrainRunSeen, "train_v1")],
)
def test_what_needs_an_actor_is_asked_while_it_lives(endpoint, actor, kind, name):
    """Each question makes the dashboard a driver of the cluster, and without the actor there is nothing to tell."""
    dashboard = Dashboard()
    dashboard.raw = recorded(endpoint, name)

    async def begins(poller, session):
        assert asked(dashboard, endpoint) == 0
        dashboard.actors = [OPTIONAL[actor]]
        return await spend(dashboard, 60)(poller, session)

    async def ends(poller, session):
        dashboard.actors = [{**OPTIONAL[actor], "state": "DEAD"}]
        seen = await spend(dashboard, 30)(poller, session)
        before = asked(dashboard, endpoint)
        seen += await spend(dashboard, 120)(poller, session)
        return seen, asked(dashboard, endpoint) - before

    _, told, (over, later) = play(dashboard, [spend(dashboard, 120), begins, ends])

    assert healths(told, endpoint.name)[0] == "up"
    assert len(of(kind, told)) == 1
    assert later == 0
    assert [o.apps for o in of(ServeSeen, over)] == ([()] if endpoint is SERVE else [])


def test_serve_that_comes_back_is_told_again():
    """With the very same body."""
    dashboard = Dashboard()
    dashboard.raw = recorded(SERVE, "serve")

    def lives(state):
        async def deed(poller, session):
            dashboard.actors = [{**OPTIONAL[0], "state": state}]
            return of(ServeSeen, await spend(dashboard, 40)(poller, session))

        return deed

    first, over, again = play(dashboard, [lives("ALIVE"), lives("DEAD"), lives("ALIVE")])
    assert [len(o.apps) for o in (*first, *over, *again)] == [2, 0, 2]


def test_an_optional_api_that_says_no_is_asked_ever_more_rarely():
    """As that of Ray Train v2."""
    dashboard = Dashboard()
    dashboard.actors = [OPTIONAL[1]]
    dashboard.codes = {TRAIN_V1.path: (500, OFF)}
    (seen,) = play(dashboard, [spend(dashboard, 3600, 5.0)])

    assert set(healths(seen, "train_v1")) == {"off"}
    assert asked(dashboard, TRAIN_V1) <= 12


def test_too_many_questions_are_a_state_of_their_own_and_a_reason_to_wait():
    """Ray counts the State API's together: one 429 stands for all of it, and the jobs are asked on."""
    dashboard = Dashboard()
    paths = {e.path.partition("?")[0] for e in ENDPOINTS if e.name in STATE_API}
    dashboard.codes = dict.fromkeys(paths, (429, "{}"))
    rare = 0

    async def calm(poller, session):
        nonlocal rare
        rare = sum(path in paths for path, _ in dashboard.asked)
        dashboard.codes = {}
        return await spend(dashboard, 70)(poller, session)

    async def again(poller, session):
        dashboard.codes = dict.fromkeys(paths, (429, "{}"))
        before = len(dashboard.asked)
        await spend(dashboard, 15)(poller, session)
        return sum(path in paths for path, _ in dashboard.asked[before:])

    seen, later, soon = play(dashboard, [spend(dashboard, 300), calm, again])

    assert all(set(healths(seen, name)) == {"busy"} for name in STATE_API)
    assert set(healths(seen, "jobs")) == {"up"}
    assert rare <= 12
    assert all(healths(later, name)[-1] == "up" for name in STATE_API)
    assert soon >= 2  # the first wait is a short one again


def test_a_report_that_stands_still_is_a_silent_autoscaler():
    """v1 writes the time into each; said once, and taken back by the next one."""
    dashboard = Dashboard()
    body = json.loads((API / "autoscaler" / "v1-refused.json").read_text())
    path = STATUS.path.partition("?")[0]
    dashboard.raw = {path: json.dumps(body).encode()}

    async def goes_on(poller, session):
        seen = []
        for number in range(10):
            text = body["data"]["clusterStatus"].replace("2026-11-25", f"2026-11-{10 + number}")
            dashboard.raw = {path: json.dumps({"data": {"clusterStatus": text}}).encode()}
            seen += await spend(dashboard, 20)(poller, session)
        return seen

    still, alive = play(dashboard, [spend(dashboard, 300), goes_on])

    assert [(o.silent, o.pending) for o in of(AutoscalerSeen, still)] == [
        (False, (("cpu-worker", "launching", 3),)),
        (True, (("cpu-worker", "launching", 3),)),
    ]
    assert [o.silent for o in of(AutoscalerSeen, alive)] == [False]


def test_groups_that_wait_are_told_as_a_whole():
    """So that what is in it no more waits no more."""
    dashboard = Dashboard()
    dashboard.raw = recorded(GROUPS, "placement_groups")

    async def placed(poller, session):
        dashboard.raw = {}
        return await spend(dashboard, 30)(poller, session)

    waits, done = play(dashboard, [spend(dashboard, 60), placed])
    assert [[g.name for g in o.waiting] for o in of(GroupsSeen, waits)] == [["gang"]]
    assert [o.waiting for o in of(GroupsSeen, done)] == [()]
