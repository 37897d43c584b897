"""A real Alertmanager with the shipped configuration: who is told what, and what is not told beside its cause."""

from __future__ import annotations

import re
import shlex
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import yaml

from tests.alerting import (
    ALERTMANAGER,
    ALERTMANAGER_AT,
    RECEIVER_AT,
    ROOT,
    RULES,
    Notice,
    Server,
    alertmanager,
    changed,
    free_addresses,
    notices,
    receiver,
)
from tests.daemons import until
from tests.test_deploy import tool

README = ROOT / "deploy" / "README.md"
TEXT = ALERTMANAGER.read_text()
CONFIG = yaml.safe_load(TEXT)
SOON = {"group_wait: 30s": "group_wait: 1s", "group_interval: 5m": "group_interval: 1s"}


@dataclass(frozen=True, slots=True)
class Trouble:
    """What fires on one cluster, and what of it is told."""

    fires: str
    page: str = ""
    tickets: str = ""
    silent: str = ""  # inhibited; what is nowhere else is info, which nobody is told


SYMPTOMS = "RingBroken WorkersCrashed ObjectsLost PeersUnreachable RunFailed NodeUnhealthy"
TROUBLES = {
    "a node is killed and nobody restarts the run": Trouble(
        f"NodeLost TrainingStopped {SYMPTOMS}", "TrainingStopped", "NodeLost", SYMPTOMS
    ),
    "a node is killed and the run goes on": Trouble(
        f"NodeLost {SYMPTOMS}", tickets="NodeLost", silent=SYMPTOMS
    ),
    "a cloud takes a node": Trouble(f"NodeTaken {SYMPTOMS}", silent=SYMPTOMS),
    "a cloud takes many": Trouble(
        f"PreemptionWave NodeTaken PodEvicted {SYMPTOMS}",
        tickets="PreemptionWave",
        silent=f"NodeTaken PodEvicted {SYMPTOMS}",
    ),
    "a rack goes": Trouble(
        f"ManyNodesLost NodeLost TrainingStopped InferenceEngineDead {SYMPTOMS}",
        "ManyNodesLost",
        silent=f"NodeLost TrainingStopped InferenceEngineDead {SYMPTOMS}",
    ),
    "the GCS ends": Trouble(
        "GCSFailed ManyNodesLost AutoscalerFailed TrainingStopped DashboardUnreachable ClientLost",
        "GCSFailed",
        silent="ManyNodesLost AutoscalerFailed TrainingStopped DashboardUnreachable ClientLost",
    ),
    "the dashboard ends": Trouble(
        "DashboardFailed DashboardUnreachable",
        tickets="DashboardFailed",
        silent="DashboardUnreachable",
    ),
    "the cloud has no machines": Trouble(
        "CapacityUnavailable CapacityPending NodesNotReplaced",
        tickets="CapacityUnavailable",
        silent="CapacityPending NodesNotReplaced",
    ),
    "a disk is full": Trouble(
        "DiskFull DiskNearlyFull CheckpointOverdue CheckpointOld",
        tickets="DiskFull",
        silent="DiskNearlyFull CheckpointOverdue CheckpointOld",
    ),
    "a disk has been full for long": Trouble(
        "DiskFull CheckpointsStopped CheckpointOverdue", "CheckpointsStopped", "DiskFull",
        "CheckpointOverdue",
    ),
    "checkpoints stop": Trouble(
        "CheckpointsStopped CheckpointOverdue CheckpointOld",
        "CheckpointsStopped",
        silent="CheckpointOverdue CheckpointOld",
    ),
    "a run loops": Trouble("RestartLoop RestartsFrequent", "RestartLoop", silent="RestartsFrequent"),
    "raywatch's resumes loop": Trouble(
        "ResumeLoop RestartsFrequent", "ResumeLoop", silent="RestartsFrequent"
    ),
    "replicas fail": Trouble(
        "ServeReplicasFailing ServeReplicaFailed TrainingStopped",
        "ServeReplicasFailing TrainingStopped",
        silent="ServeReplicaFailed",
    ),
    "raywatch is down": Trouble(
        "Down LogsUnreadable Lagging DashboardUnreachable StoreNotWritable Watchdog",
        "Down",
        silent="LogsUnreadable Lagging DashboardUnreachable StoreNotWritable",
    ),
    "raywatch is stuck under a run that stands": Trouble(
        "LoopStuck Lagging TrainingStopped", "LoopStuck TrainingStopped", silent="Lagging"
    ),
    "what nothing explains or a person decides on is told beside a cause": Trouble(
        "NodeLost UnknownFailure ResumeSuggested RestartBudgetUsedUp NoticeHookFailed",
        tickets="NodeLost UnknownFailure ResumeSuggested RestartBudgetUsedUp NoticeHookFailed",
    ),
    "a program raises beside a ring that breaks": Trouble(
        "ProgramFailed RunFailed RingBroken WorkersCrashed",
        tickets="RingBroken WorkersCrashed",
        silent="RunFailed",
    ),
    "symptoms without a cause": Trouble("RingBroken RunFailed", tickets="RingBroken RunFailed"),
}  # fmt: skip


def names(text: str) -> set[str]:
    """Names of alerts, without what they all begin with."""
    return {f"Raywatch{x}" for x in text.split()}


def alert(name: str, instance: str, run: str = "llm") -> dict[str, object]:
    """An alert with the labels that Prometheus gives it."""
    rule = RULES[name]
    labels = {"alertname": name, **rule["labels"]}
    if name != "RaywatchWatchdog":  # it has no target
        labels |= {"job": "raywatch", "instance": instance}
    if "$labels.run " in rule["annotations"]["description"]:
        labels["run"] = run
    return {"labels": labels, "annotations": rule["annotations"]}


def post(server: Server, alerts: Iterable[Mapping[str, object]]) -> None:
    """Tell an Alertmanager as Prometheus does."""
    assert server.ask("/api/v2/alerts", list(alerts)) is not None


# All troubles at once, each on a cluster of its own.
ALL = [alert(name, what) for what, t in TROUBLES.items() for name in sorted(names(t.fires))]
SILENT = {(what, name) for what, t in TROUBLES.items() for name in names(t.silent)}


def suppressed(server: Server) -> set[tuple[str, str]]:
    """(cluster, alert) of what an Alertmanager suppresses now."""
    return {
        (a["labels"].get("instance", ""), a["labels"]["alertname"])
        for a in server.alerts()
        if a["status"]["state"] == "suppressed"
    }


def silenced(
    folder: Path, config: Mapping[str, Any], alerts: Iterable[Mapping[str, object]]
) -> set[tuple[str, str]]:
    """(cluster, alert) of what a configuration silences."""
    last = {"source_matchers": ["alertname = Last"], "target_matchers": ["alertname = Behind"]}
    rules = [*config["inhibit_rules"], last]
    (address,) = free_addresses(1)
    text = yaml.safe_dump({**config, "inhibit_rules": rules})
    with alertmanager(folder, text, address) as server:
        post(server, alerts)
        # Alerts are taken in one after the other: once these two are, all are.
        post(server, [{"labels": {"alertname": x}} for x in ("Last", "Behind")])
        until(lambda: ("", "Behind") in suppressed(server), 30, "all are taken in")
        return suppressed(server) - {("", "Behind")}


def told(rows: Iterable[Notice], to: str) -> dict[str, list[set[str]]]:
    """Cluster -> what each notification to a receiver held."""
    found: dict[str, list[set[str]]] = {}
    for row in rows:
        if row.to == to and row.status == "firing":
            instances = {str(x.get("instance")) for x in row.labels}
            assert len(instances) == 1, "two clusters in one notification"
            found.setdefault(instances.pop(), []).append(set(row.alerts))
    return found


# --- the file ------------------------------------------------------------------------------------


def test_amtool_accepts_the_file_as_it_stands_and_with_its_examples(tmp_path):
    """Also with what is commented out in the place of the placeholders; a mistake is refused."""
    path = tmp_path / "alertmanager.yml"
    head, receivers = TEXT.split("\nreceivers:\n")
    examples = re.sub(r"^    # ", "    ", receivers, flags=re.MULTILINE)

    for text in (TEXT, f"{head}\nreceivers:\n{examples}"):
        path.write_text(text)
        code, said = tool("amtool", "check-config", path)
        assert (code, "SUCCESS" in said, "4 receivers" in said) == (0, True, True)
    assert {k for r in yaml.safe_load(path.read_text())["receivers"] for k in r} == {
        "name",
        "webhook_configs",
        "pagerduty_configs",
        "slack_configs",
    }
    path.write_text(TEXT.replace("receiver: deadman", "receiver: no_such"))
    assert tool("amtool", "check-config", path)[0] == 1


def test_no_secret_stands_in_the_file():
    """Whatever is one is named by a file, in a folder that git does not take."""
    keys = re.findall(r"(\w*(?:key|token|secret|password|api_url)\w*): *(\S+)", TEXT)

    assert keys != []
    assert [k for k, v in keys if not (k.endswith("_file") and v.startswith("secrets/"))] == []
    secret = ALERTMANAGER.parent / "secrets" / "slack"
    assert tool("git", "-C", ALERTMANAGER.parent, "check-ignore", "-q", secret)[0] == 0


def test_an_inhibition_names_alerts_and_causes_that_there_are():
    """A misspelt one would silence nothing, without a word."""
    words = re.findall(r'(alertname|cause|tier|severity) *[!=]~? *"?([\w|]+)', TEXT)
    known = {
        "alertname": set(RULES),
        **{k: {r["labels"].get(k) for r in RULES.values()} for k in ("cause", "tier", "severity")},
    }

    assert len(words) > 30
    assert [(k, w) for k, ws in words for w in ws.split("|") if w not in known[k]] == []
    assert all({"job", "instance"} <= set(r["equal"]) for r in CONFIG["inhibit_rules"])


# --- what a real Alertmanager makes of it ---------------------------------------------------------


@pytest.mark.slow
def test_each_trouble_pages_at_most_once_and_its_symptoms_do_not(tmp_path):
    """All of them at once: one page a cluster, a ticket an alert, and the dead man's switch."""
    address, hears = free_addresses(2)
    text = changed(TEXT, {**SOON, RECEIVER_AT: hears})
    with receiver(tmp_path, hears) as file, alertmanager(tmp_path, text, address) as server:
        post(server, ALL)
        until(lambda: any(n.to == "deadman" for n in notices(file)), 30, "the watchdog")
        expected = sum(bool(t.page) + len(t.tickets.split()) for t in TROUBLES.values())
        until(lambda: sum(n.to != "deadman" for n in notices(file)) >= expected, 30, "all of it")
        rows = notices(file)
        quiet = suppressed(server)
    pages, tickets = told(rows, "page"), told(rows, "ticket")

    for what, trouble in TROUBLES.items():
        assert pages.get(what, []) == ([names(trouble.page)] if trouble.page else []), what
        one_each = sorted(map(sorted, tickets.get(what, [])))
        assert one_each == sorted([x] for x in names(trouble.tickets)), what
    assert quiet == SILENT
    assert {n.alerts for n in rows if n.to == "deadman"} == {("RaywatchWatchdog",)}


@pytest.mark.slow
def test_what_is_left_when_a_cause_is_over_is_told(tmp_path):
    """The rack is back and the run still stands: now that pages."""
    address, hears = free_addresses(2)
    text = changed(TEXT, {**SOON, RECEIVER_AT: hears})
    rack, stands = alert("RaywatchManyNodesLost", "a"), alert("RaywatchTrainingStopped", "a")
    with receiver(tmp_path, hears) as file, alertmanager(tmp_path, text, address) as server:
        post(server, [rack, stands])
        until(lambda: notices(file), 30, "the page of the cause")
        post(
            server, [{**rack, "endsAt": "2026-01-01T00:00:00Z", "startsAt": "2025-12-31T00:00:00Z"}]
        )
        until(lambda: len(notices(file)) > 1, 30, "the page of what is left")
        first, second, *_ = notices(file)

    assert first.alerts == ("RaywatchManyNodesLost",)
    assert "RaywatchTrainingStopped" in second.alerts


@pytest.mark.slow
def test_every_alert_alone_goes_where_its_severity_says(tmp_path):
    """No alert silences itself; critical pages, a warning is a ticket, nobody is told of info."""
    address, hears = free_addresses(2)
    text = changed(TEXT, {**SOON, RECEIVER_AT: hears})
    by_severity = {
        s: {n for n, r in RULES.items() if r["labels"]["severity"] == s}
        for s in ("critical", "warning", "info", "none")
    }
    with receiver(tmp_path, hears) as file, alertmanager(tmp_path, text, address) as server:
        post(server, [alert(name, name) for name in RULES])
        count = len(RULES) - len(by_severity["info"])
        until(lambda: len({n.alerts for n in notices(file)}) == count, 60, "all of them")
        rows, all_of_them = notices(file), server.alerts()

    assert {a["labels"]["alertname"] for a in all_of_them} == set(RULES)
    assert {a["status"]["state"] for a in all_of_them} == {"active"}
    for to, severity in (("page", "critical"), ("ticket", "warning"), ("deadman", "none")):
        assert {x for n in rows if n.to == to for x in n.alerts} == by_severity[severity]


@pytest.mark.slow
def test_a_cause_on_another_cluster_or_run_silences_nothing(tmp_path):
    """Nor does a run that loops silence another one."""
    alerts = [
        alert("RaywatchNodeLost", "a"),
        alert("RaywatchRingBroken", "b"),
        alert("RaywatchRestartLoop", "c", run="one"),
        alert("RaywatchRestartsFrequent", "c", run="two"),
    ]

    anywhere = [{**r, "equal": ["job"]} for r in CONFIG["inhibit_rules"]]

    assert silenced(tmp_path, CONFIG, alerts) == set()
    assert silenced(tmp_path, {**CONFIG, "inhibit_rules": anywhere}, alerts) == {
        ("b", "RaywatchRingBroken"),
        ("c", "RaywatchRestartsFrequent"),
    }


@pytest.mark.slow
def test_no_inhibition_can_go(tmp_path):
    """Each is what some trouble needs: without it more is told."""
    rules = CONFIG["inhibit_rules"]
    without = [
        silenced(tmp_path, {**CONFIG, "inhibit_rules": [r for r in rules if r is not rule]}, ALL)
        for rule in rules
    ]

    assert silenced(tmp_path, CONFIG, ALL) == SILENT
    assert [r for r, found in zip(rules, without, strict=True) if not found < SILENT] == []


@pytest.mark.slow
def test_the_drill_of_the_page_pages(tmp_path):
    """The command that deploy/README.md tells to try, against the shipped configuration."""
    (drill,) = re.findall(r"^ +(amtool alert add (?:.*\\\n)*.*)$", README.read_text(), re.MULTILINE)
    address, hears = free_addresses(2)
    text = changed(TEXT, {**SOON, RECEIVER_AT: hears})
    with receiver(tmp_path, hears) as file, alertmanager(tmp_path, text, address):
        argv = shlex.split(changed(drill.replace("\\\n", " "), {ALERTMANAGER_AT: address}))
        assert tool(*argv) == (0, "")
        until(lambda: notices(file), 30, "the page")
        (page,) = notices(file)

    assert (page.to, page.alerts) == ("page", ("RaywatchTrainingStopped",))
