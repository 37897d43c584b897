"""What is not seen is said: which source, since when, why, and which views it spoils."""

import pytest

from raywatch.core.blindness import (
    STALE_S,
    VIEWS,
    Standing,
    aged,
    apart,
    blind,
    heard,
    spell,
    unasked,
)
from raywatch.observations import EndpointHealth

DASHBOARD = ("version", "jobs", "nodes", "train")
UP = ("version", "jobs", "nodes")


def standing(name, state="up", since=100.0, detail="", answered=90.0):
    return Standing(name, state, detail, since, since, answered)


def said(*sources, now=340.0):
    return [(b["words"], b["spoils"]) for b in blind(sources, DASHBOARD, now)]


def others(*but):
    return [standing(n) for n in ("logs", *UP) if n not in but]


def test_who_sees_everything_says_nothing():
    """What is switched off and what was not asked yet a moment after the start hide nothing."""
    assert said(*others(), standing("train", "off"), unasked("aws", 330.0)) == []
    assert said(*others(), unasked("aws", 100.0)) == [
        ("aws not answering for 4 min: not asked yet", ["incidents", "nodes"])
    ]


def test_a_dashboard_that_is_gone_is_one_line():
    """Whether Ray Train was asked or not; what is left is named."""
    away = [standing(n, "refused", detail="x") for n in UP]
    words = "dashboard not answering for 4 min: connection refused; what you see is from logs alone"
    every = ["incidents", "runs", "nodes", "actions"]

    assert said(standing("logs"), *away) == [(words, every)]
    assert said(standing("logs"), *away, standing("train", "off")) == [(words, every)]
    assert said(standing("logs", "error", detail="no session"), *away) == [
        ("dashboard not answering for 4 min: connection refused; nothing is seen", every),
        ("logs not read for 4 min: no session; nothing is seen", list(VIEWS)),
    ]
    (row,) = blind([standing("logs"), *away], DASHBOARD, 340.0)
    assert (row["sources"], row["state"], row["detail"]) == (list(UP), "refused", "x")
    assert (row["since"], row["answered_at"]) == (
        "1970-01-01T00:01:40.000Z",
        "1970-01-01T00:01:30.000Z",
    )


def test_one_list_that_is_missing_spoils_the_views_that_are_made_of_it():
    """The rest of the dashboard answers, so nothing is said of what is left."""
    assert said(*others("nodes"), standing("nodes", "timeout")) == [
        (
            (
                "dashboard's nodes not answering for 4 min: it accepts and does not answer,"
                " the GCS may be gone"
            ),
            ["incidents", "runs", "nodes", "actions"],
        )
    ]
    assert said(*others(), standing("train", "error", detail="HTTP 500")) == [
        ("dashboard's train not answering for 4 min: HTTP 500", ["runs"])
    ]
    assert said(*others(), standing("kubernetes", "forbidden", detail="pods")) == [
        (
            "kubernetes not answering for 4 min: it forbids this (HTTP 403), pods",
            ["incidents", "nodes"],
        )
    ]


@pytest.mark.parametrize(
    ("state", "why"),
    [
        ("refused", "connection refused"),
        ("timeout", "the GCS may be gone"),
        ("unauthorized", "it wants another token (HTTP 401), HTTP 401; token tried: none"),
        ("forbidden", "it forbids this (HTTP 403)"),
        ("error", "HTTP 500"),
    ],
)
def test_each_way_to_be_blind_has_its_words(state, why):
    """Four different facts, and any other with what was answered."""
    detail = {"unauthorized": "HTTP 401; token tried: none", "error": "HTTP 500"}.get(state, "")
    ((words, _),) = said(standing("logs"), *(standing(n, state, detail=detail) for n in UP))
    assert why in words


def test_an_age_is_of_the_last_good_answer():
    """A try that failed makes no source younger; it is blind since the first that did."""
    source = unasked("jobs", 1.0)
    for at, state in (
        (2.0, "refused"),
        (10.0, "up"),
        (15.0, "up"),
        (20.0, "refused"),
        (30.0, "timeout"),
    ):
        source = heard(source, EndpointHealth(at, "jobs", state))
    assert (source.at, source.since, source.answered_at) == (30.0, 20.0, 15.0)
    never = heard(unasked("jobs", 1.0), EndpointHealth(2.0, "jobs", "refused"))
    assert (never.since, never.answered_at) == (2.0, None)
    told = EndpointHealth(40.0, "jobs", "refused", answered_at=38.0)  # who asks knows better
    assert heard(source, told).answered_at == 38.0


def test_a_source_that_is_not_asked_any_more_does_not_look_healthy():
    """Ray Train alone may rest."""
    assert aged(standing("jobs"), 100.0 + STALE_S).state == "up"
    assert aged(standing("jobs"), 101.0 + STALE_S).state == "stale"
    assert aged(standing("train"), 9e9).state == "up"
    assert aged(standing("aws", "off"), 9e9).state == "off"


def test_a_span_is_said_in_its_largest_unit():
    """Never below zero: clocks are set back."""
    assert [spell(s) for s in (-5, 0, 59, 60, 7200, 2e5)] == [
        "0 s",
        "0 s",
        "59 s",
        "1 min",
        "2 h",
        "2 d",
    ]


def test_two_sessions_are_not_one_sight():
    """Logs of one and a dashboard of another; one and the same is nothing to say."""
    (row,) = apart("the logs and the dashboard are of two sessions: a, b")
    assert row["words"].endswith("two sessions: a, b; what you see is of both")
    assert row["spoils"] == list(VIEWS)
    assert apart("") == ()
