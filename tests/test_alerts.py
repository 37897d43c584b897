"""The alerts of rules/prometheus/: their form, what they name, and that each of their tests can fail.

What an alert does is told in rules/prometheus/tests/*.yaml, which promtool runs; here is held that these are complete.
"""

import re
import subprocess
import sys
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any, TypeAlias, get_args

import pytest
import yaml

from raywatch import traffic
from raywatch.cli_rules import RUNBOOKS
from raywatch.cluster import DASHBOARD
from raywatch.core import tally
from raywatch.core.nodeview import NodeState
from raywatch.core.restarts import Owner
from raywatch.core.taxonomy import LOADER, parse_taxonomy
from raywatch.core.waiting import WaitingKind
from raywatch.model import RunStatus
from raywatch.resources import resource_dir
from tests.shell.test_metrics import VIEW, exposition
from tests.test_cli import raywatch

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

Rule: TypeAlias = dict[str, Any]
ROOT = Path(__file__).parent.parent
FOLDER = resource_dir("rules") / "prometheus"
FILES = {p.name: yaml.load(p.read_text(), LOADER) for p in sorted(FOLDER.glob("*.yaml"))}
TESTS = {
    p.name: yaml.load(p.read_text(), LOADER) for p in sorted((FOLDER / "tests").glob("*.yaml"))
}
RULES: list[Rule] = [r for f in FILES.values() for g in f["groups"] for r in g["rules"]]
ALERTS: dict[str, Rule] = {r["alert"]: r for r in RULES if "alert" in r}
RECORDED = {r["record"] for r in RULES if "record" in r}
CLASSES = parse_taxonomy((resource_dir("rules") / "taxonomy.yaml").read_text())
# Prometheus' own, and what prometheus_client tells of the process.
FOREIGN = {"up", "process_start_time_seconds"}
EXPORTED = set(re.findall(r"^(raywatch_\w+)", exposition(VIEW), re.MULTILINE))
# Its expression is a constant: there is nothing that it could be silent about.
WATCHDOG = "RaywatchWatchdog"
_DUMPER = getattr(yaml, "CSafeDumper", yaml.SafeDumper)
_NAME = re.compile(r"\b(?:[a-z_]+:)?raywatch_[\w:]+|\bup\b|\bprocess_\w+")
_CLASSES = re.compile(r'\bclass(?:=|=~|!~)"([^"]+)"')
_COMPARED = re.compile(r" (>=|<=|==|>|<) ")


def promtool(*argv: str | Path) -> tuple[int, str]:
    """Exit code and all output; a tool that is missing fails."""
    done = subprocess.run(["promtool", *argv], capture_output=True, text=True, check=False)
    return done.returncode, done.stdout + done.stderr


def classes_of(rule: Rule) -> set[str]:
    """The classes that an alert names."""
    return {c for names in _CLASSES.findall(rule["expr"]) for c in names.split("|")}


def is_of_classes(rule: Rule) -> bool:
    """Whether it is about incidents or findings of the classes that it names."""
    return re.search(r"raywatch_(incidents_open|findings_total)", rule["expr"]) is not None


# --- form ----------------------------------------------------------------------------------------


def test_promtool_accepts_the_rules(tmp_path):
    """Without a word of lint; a rule that stands twice would be one."""
    code, said = promtool("check", "rules", "--lint=all", "--lint-fatal", *FOLDER.glob("*.yaml"))

    assert (code, said.count("SUCCESS")) == (0, len(FILES)), said
    group = {"name": "twice", "rules": [RULES[0], RULES[0]]}
    (tmp_path / "twice.yaml").write_text(yaml.safe_dump({"groups": [group]}))
    assert promtool("check", "rules", "--lint=all", "--lint-fatal", tmp_path / "twice.yaml")[0] != 0


def faults(rule: Rule) -> list[str]:
    """What is wrong with an alert's form."""
    name, labels, notes = rule["alert"], rule["labels"], rule["annotations"]
    wrong = [] if re.fullmatch(r"Raywatch([A-Z][A-Za-z]+)", name) else ["its name"]
    if not re.fullmatch(r"\d+[mh]", rule.get("for", "")):
        wrong.append("for")
    if (labels["severity"] == "none") != (name == WATCHDOG) or labels["severity"] not in (
        *("critical", "warning", "info"),
        "none",
    ):
        wrong.append("severity")
    if labels["tier"] not in ("cause", "symptom", "watcher"):
        wrong.append("tier")
    groups = {CLASSES[c].group for c in classes_of(rule)} or {labels.get("cause")}
    if (labels["tier"] == "cause") != ("cause" in labels) or (
        "cause" in labels and labels["cause"] not in groups
    ):
        wrong.append("cause")
    if set(notes) != {"summary", "description", "runbook_url"} or "{{" in notes["summary"]:
        wrong.append("annotations")
    if not notes["runbook_url"].endswith(f"/runbooks/alerts/{name}.md"):
        wrong.append("runbook_url")
    return wrong


def test_every_alert_has_the_form():
    """Name, `for`, labels and annotations; no name stands twice."""
    assert {n: faults(r) for n, r in ALERTS.items() if faults(r)} == {}
    assert len([r for r in RULES if "alert" in r]) == len(ALERTS) >= 40


@pytest.mark.parametrize(
    ("part", "key", "value", "fault"),
    [
        ("", "for", "90s", "for"),
        ("labels", "severity", "page", "severity"),
        ("labels", "severity", "none", "severity"),
        ("labels", "tier", "watcher", "cause"),
        ("labels", "tier", "symptom", "cause"),
        ("labels", "cause", "memory", "cause"),
        ("annotations", "summary", "{{ $labels.class }} is open.", "annotations"),
        ("annotations", "runbook_url", "https://x/runbooks/alerts/Other.md", "runbook_url"),
    ],
)
def test_a_wrong_form_is_found(part, key, value, fault):
    """The check can fail."""
    rule = yaml.safe_load(yaml.safe_dump(ALERTS["RaywatchNodeLost"]))
    (rule[part] if part else rule)[key] = value

    assert faults(rule) == [fault]


# --- what is shipped ------------------------------------------------------------------------------


def test_they_are_exported_with_the_address_of_ones_own_runbooks(tmp_path):
    """The exported tests still pass: the address stands in both."""
    folder = tmp_path / "rules"

    assert raywatch("rules", "export", folder, "--runbooks", "https://wiki.corp/ray/")[0] == 0
    links = re.findall(r"runbook_url: (\S+)", (folder / "prometheus" / "nodes.yaml").read_text())
    assert links[0] == "https://wiki.corp/ray/alerts/RaywatchNodeLost.md"
    assert len(links) == len(FILES["nodes.yaml"]["groups"][0]["rules"])
    assert promtool("test", "rules", folder / "prometheus" / "tests" / "nodes.yaml")[0] == 0


@pytest.mark.parametrize("wrong", ["wiki", "https://x/a b", "https://x/'", "https://x/\ny: 1"])
def test_what_is_no_address_is_refused(tmp_path, wrong):
    """Before anything is written."""
    code, _, said = raywatch("rules", "export", tmp_path / "rules", "--runbooks", wrong)

    assert (code, "--runbooks is no URL" in said, "Traceback" in said) == (2, True, False)
    assert not (tmp_path / "rules").exists()


def test_they_are_in_the_package():
    """The build puts the folder where resource_dir looks in an installed wheel; nothing of it is kept out."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    ignored = subprocess.run(
        ["git", "check-ignore", "--stdin"],  # hatchling leaves out what git ignores
        input="\n".join(str(p) for p in FOLDER.rglob("*.yaml")).encode(),
        capture_output=True,
        cwd=ROOT,
        check=False,
    )

    assert wheel["force-include"]["rules"] == "raywatch/_data/rules"
    assert "exclude" not in wheel
    assert ignored.stdout == b""
    assert FOLDER == ROOT / "rules" / "prometheus"


def test_the_address_is_a_name_that_nobody_can_have():
    """Of every alert, until somebody gives another (RFC 2606 keeps .example)."""
    links = {r["annotations"]["runbook_url"] for r in ALERTS.values()}

    assert {link.rpartition("/alerts/")[0] for link in links} == {RUNBOOKS}


# --- names ---------------------------------------------------------------------------------------


def unknown(expr: str) -> set[str]:
    """The metrics and classes of an expression that nobody exports or knows."""
    names = set(_NAME.findall(re.sub(r'"[^"]*"', '""', expr)))
    return names - EXPORTED - FOREIGN - RECORDED | classes_of({"expr": expr}) - set(CLASSES)


def test_what_is_asked_for_is_exported():
    """Metrics of the exposition, classes of the taxonomy."""
    texts = {r.get("alert") or r["record"]: r["expr"] for r in RULES}

    assert {n: unknown(e) for n, e in texts.items() if unknown(e)} == {}
    assert unknown('rate(raywatch_finding_total{class=~"node_lost|nodelost"}[5m]) > 0') == {
        "raywatch_finding_total",
        "nodelost",
    }


# What labels may say, from where it is defined.
VALUES = {
    "status": set(get_args(RunStatus)),
    "owner": set(get_args(Owner)),
    "kind": set(get_args(WaitingKind)),
    "state": set(get_args(NodeState)),
    "outcome": {*tally.OUTCOMES, *traffic.OUTCOMES},
    "phase": set(tally.PHASES),
    "source": {"logs", "ray_events", *DASHBOARD},
    "job": {"raywatch"},
    "class": set(CLASSES),
}


def unheard(expr: str) -> set[str]:
    """The values of labels in an expression that nobody ever gives them."""
    asked = re.findall(r'(\w+)(?:=|=~|!=|!~)"([^"]+)"', expr)
    return {f"{k}={v}" for k, names in asked for v in names.split("|") if v not in VALUES[k]}


def test_what_labels_are_asked_for_they_may_say():
    """No alert waits for a word that is spelt otherwise."""
    assert {r.get("alert") or r["record"]: u for r in RULES if (u := unheard(r["expr"]))} == {}
    assert unheard('x{status=~"failed|crashed", owner="no one"}') == {
        "status=crashed",
        "owner=no one",
    }


def test_the_dashboard_is_one_source():
    """Each of its questions is told of by RaywatchDashboardUnreachable, and by no other alert."""
    rest = ALERTS["RaywatchSourceUnreachable"]["expr"]
    (asked,) = re.findall(r'source=~"([^"]+)"', ALERTS["RaywatchDashboardUnreachable"]["expr"])
    (left,) = re.findall(r'source!~"([^"]+)"', rest)

    assert set(asked.split("|")) == set(DASHBOARD)
    assert set(left.split("|")) == {"logs", *DASHBOARD}


def test_every_root_is_somebodys_alert():
    """A root opens a ticket of its cause, a symptom that nothing explains one of its own."""
    told = defaultdict(set)
    for rule in ALERTS.values():
        if is_of_classes(rule):
            for name in classes_of(rule):
                told[rule["labels"]["tier"]].add(name)
    role = {r: {c.id for c in CLASSES.values() if c.role == r} for r in ("root", "symptom")}

    assert role["root"] - told["cause"] == set()
    assert role["symptom"] - told["symptom"] == set()
    assert role["symptom"] & told["cause"] == role["root"] & told["symptom"] == set()


def test_benign_classes_alert_nobody():
    """And a warning, which opens no incident, is looked for among the findings."""
    named = {n: classes_of(r) for n, r in ALERTS.items() if "incidents_open" in r["expr"]}
    wrong = {
        n: {c for c in cs if CLASSES[c].role in ("benign", "warning")} for n, cs in named.items()
    }

    assert {n: cs for n, cs in wrong.items() if cs} == {}


# --- what promtool is told to try ----------------------------------------------------------------


@pytest.mark.parametrize("name", TESTS)
def test_the_alerts_do_what_their_tests_say(name):
    """promtool, on the files as they are shipped."""
    code, said = promtool("test", "rules", FOLDER / "tests" / name)

    assert code == 0, said


def told_of(name: str) -> tuple[set[str], set[str]]:
    """The instances that an alert's tests are about, and those of which it is expected at some time."""
    given, expected = set(), set()
    for group in (g for t in TESTS.values() for g in t["tests"] if g["name"] == name):
        for series in group["input_series"]:
            given |= set(re.findall(r'instance="([\w-]+)"', series["series"]))
        for tried in group["alert_rule_test"]:
            assert tried["alertname"] == name
            found = {a["exp_labels"].get("instance", "fires") for a in tried.get("exp_alerts", ())}
            expected |= found
            if found:
                assert not {i for i in found if i.startswith(("below", "absent", "reset"))}
    return given, expected


@pytest.mark.parametrize("name", sorted(ALERTS.keys() - {WATCHDOG}))
def test_every_alert_is_tried_in_all_four_ways(name):
    """It fires, is silent just below, where its series are absent, and it outlives a restart of the exporter."""
    given, expected = told_of(name)
    counts = re.search(r"\b(increase|rate)\(", ALERTS[name]["expr"]) is not None

    assert {"fires", "below", "restart"} <= given
    assert "fires" in expected
    assert {i for i in given if i.startswith("fires")} <= expected
    assert "absent" in given or name == "RaywatchAbsent"
    assert not counts or name in _NO_RESET or "reset" in given


# Where no counter that begins anew could make it fire.
_NO_RESET = {"RaywatchResumedWithoutProgress"}


# --- the tests can fail --------------------------------------------------------------------------


def red(folder: Path, change: Callable[[Rule], Rule | None]) -> tuple[set[str], set[str]]:
    """Change every alert for which `change` gives another; return who was changed and whose tests then fail."""
    (folder / "tests").mkdir(parents=True)
    changed: set[str] = set()
    for name, text in FILES.items():
        groups = [
            {**g, "rules": [_changed(r, change) or r for r in g["rules"]]} for g in text["groups"]
        ]
        mine = {r["alert"] for g in text["groups"] for r in g["rules"] if _changed(r, change)}
        tried = [t for t in TESTS[name]["tests"] if t["name"] in mine]
        if mine:
            (folder / name).write_text(yaml.dump({"groups": groups}, Dumper=_DUMPER))
            test = yaml.dump({**TESTS[name], "tests": tried}, Dumper=_DUMPER)
            (folder / "tests" / name).write_text(test)
        changed |= mine
    _, said = promtool("test", "rules", *sorted((folder / "tests").glob("*.yaml")))
    return changed, set(re.findall(r"^ +alertname: (\w+), time: ", said, re.MULTILINE))


def _changed(rule: Rule, change: Callable[[Rule], Rule | None]) -> Rule | None:
    return change(dict(rule)) if "alert" in rule else None


def never(rule: Rule) -> Rule | None:
    """Nothing is ever found."""
    return {**rule, "expr": f"({rule['expr']}) unless ({rule['expr']})"}


def at_once(rule: Rule) -> Rule | None:
    """It does not wait."""
    return None if rule["for"] == "0m" else {**rule, "for": "0m"}


def later(rule: Rule) -> Rule | None:
    """It waits a minute longer."""
    number, unit = int(rule["for"][:-1]), rule["for"][-1]
    return {**rule, "for": f"{number * (60 if unit == 'h' else 1) + 1}m"}


def turned(place: int) -> Callable[[Rule], Rule | None]:
    """A comparison says the opposite."""
    other = {">": "<=", "<": ">=", ">=": "<", "<=": ">", "==": "!="}

    def change(rule: Rule) -> Rule | None:
        found = list(_COMPARED.finditer(rule["expr"]))[place : place + 1]
        return (
            {**rule, "expr": _put(rule["expr"], found[0], 1, other[found[0][1]])} if found else None
        )

    return change


def nudged(place: int, by: int) -> Callable[[Rule], Rule | None]:
    """A threshold is a little higher or lower: by one where it is a small number, else by a tenth."""

    def change(rule: Rule) -> Rule | None:
        found = list(re.finditer(r" (?:>=|<=|>|<) ([\d.]+)", rule["expr"]))[place : place + 1]
        if not found:
            return None
        old = float(found[0][1])
        new = old + by if old <= 10 and old.is_integer() else old * (1 + by / 10)
        return {**rule, "expr": _put(rule["expr"], found[0], 1, f"{new:g}")}

    return change


def without(place: int) -> Callable[[Rule], Rule | None]:
    """One of several values of a label, such as a class, is not looked for."""

    def change(rule: Rule) -> Rule | None:
        spans = [
            (m.start(1) + v.start(), m.start(1) + v.end())
            for m in re.finditer(r'\w+[=!]~"([^"]+)"', rule["expr"])
            for v in re.finditer(r"[^|]+", m[1])
        ][place : place + 1]
        if not spans:
            return None
        start, end = spans[0]
        return {**rule, "expr": f"{rule['expr'][:start]}nothing{rule['expr'][end:]}"}

    return change


def _put(text: str, found: re.Match[str], group: int, new: str) -> str:
    return text[: found.start(group)] + new + text[found.end(group) :]


MUTANTS: dict[str, Callable[[Rule], Rule | None]] = {
    "never": never,
    "at once": at_once,
    "later": later,
    **{f"comparison {i + 1} turned": turned(i) for i in range(4)},
    **{f"threshold {i + 1} {by:+}": nudged(i, by) for i in range(3) for by in (1, -1)},
    **{f"value {i + 1} left out": without(i) for i in range(11)},
}


@pytest.mark.parametrize("mutant", MUTANTS)
def test_a_changed_alert_fails_its_test(tmp_path, mutant):
    """Each alert for itself: its expression, each comparison, threshold and value, and how long it waits."""
    changed, failed = red(tmp_path / "rules", MUTANTS[mutant])

    assert changed - failed == set()
    assert failed <= changed
    assert changed


def test_no_place_is_left_out():
    """One more comparison, threshold or value than the mutants reach would be tried by none."""
    for over in (turned(4), nudged(3, 1), without(11)):
        assert [n for n, r in ALERTS.items() if over(dict(r)) is not None] == []


def test_unchanged_alerts_fail_no_test(tmp_path):
    """The way there makes nothing red by itself."""
    changed, failed = red(tmp_path / "rules", lambda rule: {**rule})

    assert (changed, failed) == (set(ALERTS), set())
