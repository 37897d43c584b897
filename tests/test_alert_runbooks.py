"""A page for every alert: what Prometheus and Alertmanager say of it, its commands, and its links."""

from __future__ import annotations

import re
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
import yaml

from raywatch.cli import cli
from raywatch.runbooks import alert_runbooks, class_runbooks, runbook_text
from tests.alerting import ALERTMANAGER, RULES
from tests.test_deploy import tool
from tests.test_runbooks import _LINK, _PRIVATE, commands, missing, parts, raywatch, understood

ROOT = Path(__file__).parent.parent
PAGES = {name: runbook_text(name) for name in alert_runbooks()}
SECTIONS = [
    "What it means",
    "Check",
    "What raywatch does",
    "Do now",
    "Noise and tuning",
    "Belongs together",
]
KINDS = {
    "critical": "Pages",
    "warning": "A ticket",
    "info": "On dashboards only",
    "none": "A heartbeat",
}
# Nearly every cause silences these six; their pages say so in words.
ANY_CAUSE = "any alert that is a cause"
MANY = 12
_QUERY = re.compile(r"^promtool query instant (\S+) '([^']+)'$", re.MULTILINE)
_MATCHER = re.compile(r'(\w+) *(=~|!~|!=|=) *"?([^"]*)"?$')


def classes_of(rule: Mapping[str, Any]) -> list[str]:
    """The classes that an alert's expression asks for by name."""
    asked = re.findall(r'class=~?"([^"]+)"', rule["expr"])
    return list(dict.fromkeys(c for words in asked for c in words.split("|")))


def holds(matcher: str, labels: Mapping[str, str]) -> bool:
    """Whether a matcher of Alertmanager's is fulfilled."""
    found = _MATCHER.match(matcher)
    assert found, matcher
    name, how, value = found.groups()
    here = labels.get(name, "")
    same = re.fullmatch(value, here) is not None if "~" in how else here == value
    return same != how.startswith("!")


def silences() -> set[tuple[str, str]]:
    """(a, b): where a fires nobody is told of b, by the shipped configuration."""
    labels = {n: {"alertname": n, **r["labels"]} for n, r in RULES.items()}

    def fit(matchers: list[str]) -> set[str]:
        return {n for n, x in labels.items() if all(holds(m, x) for m in matchers)}

    return {
        (source, target)
        for rule in yaml.safe_load(ALERTMANAGER.read_text())["inhibit_rules"]
        for source in fit(rule["source_matchers"])
        for target in fit(rule["target_matchers"])
        if source != target
    }


SILENCES = silences()


def linked(page: str, what: str) -> set[str]:
    """The pages that a line of the last section names."""
    text = " ".join(parts(page)["Belongs together"].split())
    found = re.search(rf"- {what}: (.*?)(?= - [A-Z]|$)", text)
    return set(re.findall(r"\[(\w+)\]", found[1])) if found else set()


def first_lines(name: str) -> str:
    """How a page begins, as the rule has it."""
    rule = RULES[name]
    labels = rule["labels"]
    tier = {
        "cause": f"a cause ({labels.get('cause')})",
        "symptom": "a symptom",
        "watcher": "about raywatch itself",
    }[labels["tier"]]
    after = f", after {rule['for']}" if rule["for"] != "0m" else ""
    title = rule["annotations"]["summary"].rstrip(".")
    return f"# {name}: {title}\n\n{KINDS[labels['severity']]}{after}; {tier}.\n"


def faults(name: str, page: str) -> list[str]:
    """What is wrong with a page."""
    found = parts(page)
    if list(found) != SECTIONS or not all(found.values()):
        return ["its sections are not the usual ones"]
    wrong = [] if page.startswith(first_lines(name)) else ["it does not begin as its rule"]
    classes = {c for c in classes_of(RULES[name]) if c in class_runbooks()}
    down = {b for a, b in SILENCES if a == name}
    up = {a for a, b in SILENCES if b == name}
    if linked(page, "Classes") != classes:
        wrong.append("its classes are not those of its expression")
    if linked(page, "Silences") != down:
        wrong.append("it silences others than Alertmanager says")
    if (ANY_CAUSE in found["Belongs together"]) != (len(up) > MANY):
        wrong.append("it is not silent beside every cause")
    if linked(page, "Silent beside") != (up if len(up) <= MANY else set()):
        wrong.append("it is silent beside others than Alertmanager says")
    wrong += [
        f"no page {x}"
        for x in _LINK.findall(page)
        if not (ROOT / "runbooks" / "alerts" / x).is_file()
    ]
    wrong += [f"names a private path: {x}" for x in _PRIVATE.findall(page)]
    return wrong


def test_every_alert_has_one_page_and_every_page_an_alert():
    """No name is both an alert and a class, so each has one and only one; a rule's URL names its own page."""
    files = [p.name for p in (ROOT / "runbooks" / "alerts").iterdir()]
    urls = {n: r["annotations"]["runbook_url"] for n, r in RULES.items()}

    assert PAGES.keys() == RULES.keys()
    assert sorted(files) == [f"{n}.md" for n in PAGES]
    assert PAGES.keys() & set(class_runbooks()) == set()
    assert {n for n, u in urls.items() if not u.endswith(f"/runbooks/alerts/{n}.md")} == set()


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_and_right(name):
    """It begins as its rule, has all sections, and says of classes and silences what is so."""
    assert faults(name, PAGES[name]) == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_read_at_night(name):
    """Short, never a link to itself, and its commands are shell."""
    page = PAGES[name]
    (block,) = re.findall(r"```sh\n(.*?)\n```", parts(page)["Check"], re.DOTALL)
    checked = subprocess.run(["bash", "-n"], input=block.encode(), capture_output=True, check=False)

    assert 20 <= len(page.splitlines()) <= 60
    assert max(map(len, page.splitlines())) <= 240
    assert (checked.returncode, checked.stderr) == (0, b"")
    assert block.startswith("raywatch ")
    assert f"({name}.md)" not in page


def test_commands_of_raywatch_are_understood():
    """Every verb and option, in the block and in the text."""
    typed = [c for p in PAGES.values() for c in commands(p, "raywatch")]
    said = [x.split()[1:] for p in PAGES.values() for x in re.findall(r"`(raywatch [^`]+)`", p)]

    assert len(typed) >= len(PAGES)
    assert len(said) > 40
    assert {(*c, understood(cli, c)) for c in typed + said} == {(*c, "") for c in typed + said}


def test_queries_are_promql_about_what_the_alert_is_about(tmp_path):
    """promtool takes each one; it asks the shipped Prometheus for series that some rule knows."""
    known = {x for r in RULES.values() for x in re.findall(r"\b(?:\w+:)?raywatch_\w+", r["expr"])}
    asked = {n: _QUERY.findall(p) for n, p in PAGES.items()}
    queries = [q for found in asked.values() for _, q in found]
    path = tmp_path / "queries.yml"

    def check(expressions: list[str]) -> int:
        rows = [{"record": f"q:{n}", "expr": q} for n, q in enumerate(expressions)]
        path.write_text(yaml.safe_dump({"groups": [{"name": "q", "rules": rows}]}))
        return tool("promtool", "check", "rules", path)[0]

    assert {url for found in asked.values() for url, _ in found} == {"http://127.0.0.1:9090"}
    assert len(queries) == sum(p.count("promtool query") for p in PAGES.values()) > 20
    assert check(queries) == 0
    assert check([*queries, "rate(raywatch_nodes[5m"]) != 0
    metrics = {x for q in queries for x in re.findall(r"raywatch_\w+", q)}
    assert metrics - known == ALSO


# Asked for in a page and by no rule: beside what the rule asks for.
ALSO = {"raywatch_store_bytes", "raywatch_tail_read_bytes_total"}


@pytest.mark.ray
def test_settings_of_ray_exist():
    """Each RAY_ variable of a page is a word of Ray's sources or of its programs."""
    import ray

    named = {x for p in PAGES.values() for x in re.findall(r"\bRAY_[a-zA-Z]\w+", p)}

    assert len(named) > 3
    assert missing(named, Path(ray.__file__).parent) == set()


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("A ticket, after 1m", "Pages, after 1m", "it does not begin as its rule"),
        ("; a cause (node)", "; a cause (network)", "it does not begin as its rule"),
        ("## Do now", "## Do", "its sections are not the usual ones"),
        ("- Classes: [node_lost](../node_lost.md), ", "- Classes: ", "its classes are not those of its expression"),
        ("- Silences: [RaywatchNodeUnhealthy](RaywatchNodeUnhealthy.md), ", "- Silences: ", "it silences others than Alertmanager says"),
        ("[RaywatchManyNodesLost](RaywatchManyNodesLost.md)", "", "it is silent beside others than Alertmanager says"),
        ("(RaywatchTrainingStopped.md)", "(RaywatchStopped.md)", "no page RaywatchStopped.md"),
        ("## Do now", "/home/me/x\n\n## Do now", "names a private path: /home/"),
    ],
)  # fmt: skip
def test_a_wrong_page_is_found(old, new, fault):
    """Each check can fail."""
    page = PAGES["RaywatchNodeLost"]

    assert old in page
    assert faults("RaywatchNodeLost", page.replace(old, new)) == [fault]


# --- the verb ------------------------------------------------------------------------------------


def test_the_verb_prints_the_page_of_an_alert_and_lists_it():
    """Behind those of classes; a near miss is told the nearest."""
    assert raywatch("runbook", "RaywatchTrainingStopped") == (
        0,
        PAGES["RaywatchTrainingStopped"],
        "",
    )
    code, out, _ = raywatch("runbook")
    rows = [x.split(maxsplit=1) for x in out.splitlines()[-len(PAGES) :]]
    titles = {n: r["annotations"]["summary"].rstrip(".") for n, r in RULES.items()}
    assert (code, rows) == (0, [[n, titles[n]] for n in PAGES])
    assert raywatch("runbook", "RaywatchTrainingStoped") == (
        2,
        "",
        "raywatch: no runbook RaywatchTrainingStoped; did you mean RaywatchTrainingStopped?\n",
    )


def test_alerts_are_completed():
    """What a shell asks for."""
    (argument,) = cli.commands["runbook"].params
    found = argument.shell_complete(cli.make_context("raywatch", ["runbook"]), "RaywatchGPU")

    assert [c.value for c in found] == [
        "RaywatchGPUDriverMismatch",
        "RaywatchGPUFault",
        "RaywatchGPUOutOfMemory",
    ]
