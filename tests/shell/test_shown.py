"""What is shown of incidents: snapshots in pieces, and only what changed for those who ask for that."""

from __future__ import annotations

import json
from dataclasses import replace

from raywatch.core.runs import Runs, observe
from raywatch.metrics import MetricsView
from raywatch.model import Incident
from raywatch.pipeline import load_ruleset
from raywatch.shown import GONE, IncidentTexts, Publisher, Written
from tests.core import runkit

CLASSES = load_ruleset().classes
VIEW = MetricsView("1", {})
START = 1_800_000_000.0


def incident(number: int, job: str = "") -> Incident:
    """An incident of its own id."""
    who = [("submission", job)] if job else []
    made: Incident = runkit.incident(*who, subject=f"w{number}")
    return replace(made, id=f"i{number}")


class Showing:
    """A publisher and what a client that only asks for changes knows."""

    def __init__(self) -> None:
        self.publisher = Publisher(CLASSES, VIEW, START)
        self.runs = Runs()
        self.known: dict[str, object] = {}
        self.after = -1

    def publish(self, *incidents: Incident) -> None:
        """Show these."""
        self.publisher.publish(
            START, "s", incidents=incidents, runs=self.runs, rest=b'{"runs": []}', view=VIEW
        )

    def ask(self) -> list[str]:
        """Take in what changed; return the ids that were sent."""
        body = self.publisher.changes(self.after)
        if body is None:
            return []
        told = json.loads(body)
        if told["whole"]:
            self.known = {}
        for number in told["gone"]:
            self.known.pop(number, None)
        self.known |= {row["id"]: row for row in told["incidents"]}
        self.after = told["seq"]
        return [row["id"] for row in told["incidents"]]

    def whole(self) -> dict[str, object]:
        """The incidents of the newest snapshot."""
        rows = json.loads(self.publisher.snapshot(-1) or b"")["incidents"]
        return {row["id"]: row for row in rows}


def test_who_asks_for_changes_gets_them_and_knows_what_a_snapshot_says():
    """New, changed and gone ones; nothing twice."""
    showing = Showing()
    first, second, third = map(incident, range(3))
    for shown, told in (
        ((first, second), ["i0", "i1"]),
        ((first, second), []),
        ((first, second, third), ["i2"]),
        ((replace(first, findings=7, state="resolved"), second, third), ["i0"]),
        ((second, third), []),
        ((second, first), ["i0"]),  # it came back, another went
    ):
        showing.publish(*shown)
        assert showing.ask() == told
        assert showing.known == showing.whole()
    assert showing.ask() == []


def test_who_missed_much_gets_all():
    """The first question, one of an earlier life, and one from before what is remembered of those that went."""
    showing = Showing()
    showing.publish(incident(1))
    assert showing.ask() == ["i1"]
    old = showing.after
    for number in range(GONE + 2):
        showing.publish(incident(1), incident(number + 10))

    showing.after = old
    showing.ask()
    assert json.loads(showing.publisher.changes(old) or b"")["whole"]
    assert showing.known == showing.whole()
    before = showing.publisher.seq() - GONE // 2
    assert not json.loads(showing.publisher.changes(before) or b"")["whole"]
    assert json.loads(showing.publisher.changes(7) or b"")["whole"]
    assert showing.publisher.changes(showing.publisher.seq()) is None


def test_runs_that_become_known_change_the_incidents_that_hurt_them_and_no_other():
    """A run's step changes with every line of progress: the texts stay."""
    showing = Showing()
    hurt, other = incident(1, job="raysubmit_1"), incident(2)
    showing.publish(hurt, other)
    showing.ask()
    showing.runs = observe(showing.runs, runkit.job("raysubmit_1"), 1.0)
    showing.publish(hurt, other)
    assert showing.ask() == ["i1"]
    showing.runs = replace(showing.runs)
    showing.publish(hurt, other)
    assert showing.ask() == []


def test_a_text_is_written_once():
    """Of the same incident in ten snapshots."""
    texts, runs = IncidentTexts(CLASSES, 0), Runs()
    one = incident(1)
    (first,) = texts.of([one], runs, 1)
    assert all(texts.of([one], runs, seq)[0].text is first.text for seq in range(2, 10))


def test_what_is_made_of_the_same_objects_is_written_once():
    """Equal objects are not the same: a changed mapping is another one."""
    written, calls, made = Written(), [], ({"a": 1},)

    def rows() -> dict[str, object]:
        calls.append(1)
        return {"n": len(calls)}

    assert written.of(made, rows) == written.of(made, rows) == '{"n": 1}'
    assert written.of(({"a": 1},), rows) == '{"n": 2}'


def test_a_snapshot_is_joined_from_its_pieces():
    """As one JSON object."""
    showing = Showing()
    showing.publish(incident(1))
    body = json.loads(showing.publisher.snapshot(-1) or b"")
    assert body["session"] == "s"
    assert (body["runs"], [i["id"] for i in body["incidents"]]) == ([], ["i1"])
    assert showing.publisher.snapshot(body["seq"]) is None
