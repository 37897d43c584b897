"""What correlation remembers is bounded, and remembered long enough."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise

from raywatch.core.bounds import DRAIN_KEEP_S, END_KEEP_S, KEEP, KEEP_LINKS
from raywatch.core.incidents import MAX_SIZES, State, correlate, correlate_all, expire
from raywatch.memory import documents, remembered
from raywatch.model import Drain, Entity, Evidence, Fact, Finding, Subject, Trust
from tests.core.test_incidents import CLASSES, at

MUCH = KEEP + KEEP // 2


def drained(number: int, when: float, deadline: float | None = None) -> Drain:
    """A node that was told to go."""
    evidence = Evidence("raylet.out", 1, "drain", when, "raylet")
    return Drain(f"{number:056x}", "PREEMPTION", "spot", deadline, when, evidence)


def with_drains(*drains: Drain) -> State:
    return State(drains={d.node_id: d for d in drains})


def test_a_drain_is_remembered_until_long_after_its_end():
    """A month after its deadline, and the newest however old: their logs may be read just now."""
    drains = [drained(n, float(n), deadline=n + 100.0) for n in range(MUCH)]
    state = with_drains(*drains)

    assert expire(state, DRAIN_KEEP_S + 100, 900)[0] is state
    kept, _ = expire(state, DRAIN_KEEP_S * 9, 900)
    assert list(kept.drains) == [d.node_id for d in drains[-KEEP:]]
    assert expire(kept, DRAIN_KEEP_S * 9, 900)[0] is kept
    young = expire(state, DRAIN_KEEP_S + 100 + 99.5, 900)[0]
    assert list(young.drains) == [d.node_id for d in drains[100:]]


def test_a_storm_of_drains_is_bounded_too():
    """All of one hour."""
    state = with_drains(*(drained(n, float(n)) for n in range(4 * KEEP + 1)))
    kept, _ = expire(state, 3600, 900)

    assert list(kept.drains) == list(state.drains)[-2 * KEEP :]


def test_planned_ends_go_after_a_day():
    """An end explains what dies within seconds of it."""
    ends = [at(10 + n, "node_terminated_expected", node=f"{n:056x}") for n in range(MUCH)]
    state, _ = correlate_all(State(), (), ends, CLASSES)
    assert len(state.ends) == MUCH

    assert expire(state, END_KEEP_S, 900)[0] is state
    assert len(expire(state, END_KEEP_S * 2, 900)[0].ends) == KEEP


def test_links_are_bounded_but_for_those_of_open_incidents():
    """Who belongs to an open incident must be known until it is over."""
    first = Entity("worker", "first")
    state, _ = correlate(State(), at(10, "worker_segfault", who="first", job="j"), CLASSES)
    links = {Entity("worker", f"{n}"): frozenset[Entity]() for n in range(KEEP_LINKS * 2)}
    state = replace(state, links={**state.links, **links})

    kept, _ = expire(state, 20, 900)
    assert len(kept.links) == KEEP_LINKS + 1
    assert first in kept.links
    over, _ = expire(replace(state, incidents=()), 20, 900)
    assert first not in over.links


def test_world_sizes_are_bounded():
    """Of a run that changes its size for years, and of runs."""

    def group(run: int, size: int) -> Fact:
        fields = {"size": f"{size}", "run_name": f"{run}"}
        return Fact("group_started", 1.0, Evidence("t", 1, "", 1.0, "train"), fields)

    state, _ = correlate_all(State(), [group(0, n) for n in range(99)], (), CLASSES)
    assert state.sizes["0"] == tuple(range(99 - MAX_SIZES, 99))
    state, _ = correlate_all(state, [group(n, 2) for n in range(1, MUCH)], (), CLASSES)
    assert list(expire(state, 9, 900)[0].sizes) == [f"{n}" for n in range(MUCH - KEEP, MUCH)]


def test_what_is_forgotten_leaves_the_store():
    """Played into an empty store, the documents of both states give the later one, in its order."""
    ends = [at(10 + n, "node_terminated_expected", node=f"e{n:055x}") for n in range(MUCH)]
    whole, _ = correlate_all(with_drains(*(drained(n, n) for n in range(MUCH))), (), ends, CLASSES)
    kept, _ = expire(whole, DRAIN_KEEP_S * 9, 900)
    docs: dict[str, dict[str, str]] = {}
    for row in (*documents(State(), whole), *documents(whole, kept)):
        if row.json is None:
            del docs[row.kind][row.id]
        else:
            docs.setdefault(row.kind, {})[row.id] = row.json

    assert (len(docs["drain"]), len(docs["end"])) == (KEEP, KEEP)
    docs["drain"] = dict(reversed(docs["drain"].items()))
    again = remembered(docs)
    assert again == kept
    assert list(again.drains) == list(kept.drains)


def test_a_crash_loop_of_days_is_one_incident_of_bounded_size():
    """It still names every job that it hurts."""
    state = State()
    for n in range(1000):
        named = (("worker", f"w{n}"), ("job", f"{n // 100:02}000000"), ("run", "exp"))
        crash = Finding(
            "worker_crash",
            Subject("worker", f"w{n}"),
            1000.0 + 10 * n,
            dated=True,
            evidence=Evidence("f", n, "x", 1.0, "gcs"),
            signature="s",
            trust=Trust.RAY,
            entities=frozenset(Entity(k, i) for k, i in named),
        )
        state, _ = correlate(state, crash, CLASSES)

    (incident,) = state.incidents
    assert len(incident.entities) < 600
    assert {e.id for e in incident.entities if e.kind == "job"} >= {"00000000", "09000000"}


def test_what_is_stored_follows_every_change_of_incidents():
    """New, changed, renamed to the front and gone ones: the documents are those of the last state."""
    first, second, third = (
        correlate(State(), at(10 + n, "worker_segfault", who=f"w{n}"), CLASSES)[0].incidents[0]
        for n in range(3)
    )
    grown = replace(first, findings=7)
    rows = ((first, second), (third, grown), (third,), (grown,))
    empty = State()
    states = [empty, *(replace(empty, incidents=i) for i in rows)]
    stored: dict[str, str] = {}
    for before, after in pairwise(states):
        told = list(documents(before, after))
        assert len({d.id for d in told}) == len(told)
        for document in told:
            assert document.kind == "incident"
            if document.json is None:
                del stored[document.id]
            else:
                stored[document.id] = document.json
        found = remembered({"incident": stored}).incidents
        assert {i.id: i for i in found} == {i.id: i for i in after.incidents}
    assert not list(documents(states[1], replace(states[1])))
