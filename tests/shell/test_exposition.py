"""The exposition in both formats, and that what is kept of it is what would be written anew."""

from __future__ import annotations

from dataclasses import replace

import pytest
from prometheus_client import CollectorRegistry, ProcessCollector
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from raywatch.exposition import OPENMETRICS, TEXT, Exposition, wants_openmetrics
from raywatch.metrics import MetricsView, RaywatchCollector
from tests.shell.test_metrics import TEXT as WHOLE
from tests.shell.test_metrics import TRAFFIC, VIEW, promtool

PROMETHEUS_2 = (
    "application/openmetrics-text;version=1.0.0,application/openmetrics-text;version=0.0.1;q=0.75,"
    "text/plain;version=0.0.4;q=0.5,*/*;q=0.1"
)
PROMETHEUS_3 = (
    "application/openmetrics-text;version=1.0.0;escaping=allow-utf-8;q=0.5,"
    "application/openmetrics-text;version=0.0.1;q=0.4,text/plain;version=1.0.0;escaping=allow-utf-8;q=0.3,"
    "text/plain;version=0.0.4;q=0.2,*/*;q=0.1"
)


class Desk:
    """An exposition of a view and a time that may change."""

    def __init__(self, view: MetricsView = VIEW, now: float = 1000.0) -> None:
        self.view, self.now = view, now
        self.kept = self.fresh()

    def fresh(self) -> Exposition:
        return Exposition(RaywatchCollector(lambda: self.view, lambda: self.now, lambda: TRAFFIC))


@pytest.mark.parametrize(
    ("accept", "is_wanted"),
    [
        ("", False),
        ("*/*", False),
        ("text/html, */*;q=0.8", False),
        (PROMETHEUS_2, True),
        (PROMETHEUS_3, True),
        ("text/plain;version=0.0.4;q=0.6,application/openmetrics-text;version=1.0.0;q=0.5", False),
        ("application/openmetrics-text;q=0", False),
        ("application/openmetrics-text;version=evil;q=many", False),
        ("application/openmetrics-text", True),
    ],
)
def test_openmetrics_is_written_for_whom_asks_for_it(accept, is_wanted):
    """By the weights of the request; what cannot be read asks for nothing."""
    assert wants_openmetrics(accept) is is_wanted
    body, kind = Desk().kept.text(accept)
    assert (kind == OPENMETRICS, body.endswith(b"\n# EOF\n")) == (is_wanted, is_wanted)


def test_both_formats_say_the_same():
    """Names, labels and values; only OpenMetrics has the incident behind a count."""
    desk = Desk()
    text, kind = desk.kept.text("")
    told, _ = desk.kept.text(PROMETHEUS_2)

    def rows(families):
        return [(s.name, s.labels, s.value) for f in families for s in f.samples]

    parsed = list(openmetrics(told.decode()))
    exemplars = {
        s.labels["class"]: (s.exemplar.labels, s.exemplar.value, float(s.exemplar.timestamp))
        for f in parsed
        for s in f.samples
        if s.exemplar
    }
    assert (text.decode(), kind) == (WHOLE, TEXT)
    assert rows(parsed) == rows(plain(WHOLE))
    assert exemplars == {"node_lost": ({"incident_id": "i-7f3a"}, 1.0, 912.5)}


@pytest.mark.parametrize("accept", ["", PROMETHEUS_2])
def test_what_changed_is_written_anew(accept):
    """A count, an age, an exemplar, a series that goes: each scrape is that of a new exposition."""
    desk = Desk()
    seen = set()
    for view, now in (
        (VIEW, 1000.0),
        (VIEW, 1000.0),
        (VIEW, 1001.5),
        (replace(VIEW, findings={("node_lost", "gcs"): 3}), 1001.5),
        (replace(VIEW, newest={"node_lost": ("i-2", 990.0)}), 1001.5),
        (MetricsView("1", {}), 1001.5),
    ):
        desk.view, desk.now = view, now
        body = desk.kept.text(accept)
        assert body == desk.fresh().text(accept)
        seen.add(body)

    assert len(seen) == (5 if accept else 4)  # plain text has no exemplars


def test_what_did_not_change_is_not_written_again():
    """Only what depends on the time of the scrape is."""
    desk = Desk()
    desk.kept.text("")
    before = {name: text for (_, name), (_, text) in desk.kept._texts.items()}
    desk.now += 1
    desk.kept.text("")
    after = {name: text for (_, name), (_, text) in desk.kept._texts.items()}

    assert [n for n, text in after.items() if text is not before[n]] == [
        "checkpoint_age_seconds",
        "capacity_pending_seconds",
    ]


def test_other_collectors_are_shown_behind():
    """Those of the process, once, also with an end that OpenMetrics wants once."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    mine = RaywatchCollector(lambda: VIEW, lambda: 1000.0)
    exposition = Exposition(mine, [registry])
    text, told = exposition.text("")[0].decode(), exposition.text(PROMETHEUS_2)[0].decode()

    assert text.count("\nprocess_start_time_seconds ") == 1
    assert told.count("# EOF") == 1
    assert {f.name for f in openmetrics(told)} >= {"raywatch_build_info", "process_cpu_seconds"}
    assert promtool(text) == (0, "")
