"""docs/metrics.md, written from the table of metrics: python -m tests.metricspage > docs/metrics.md"""

from __future__ import annotations

import sys
from typing import get_args

from raywatch.cluster import DASHBOARD
from raywatch.collect.kubernetes import NAME as KUBERNETES
from raywatch.core.labels import MAX_LABEL, MAX_SHOWN
from raywatch.core.nodeview import NodeState
from raywatch.core.restarts import Owner
from raywatch.core.tally import OUTCOMES as ACTED
from raywatch.core.tally import PHASES
from raywatch.core.taxonomy import parse_taxonomy
from raywatch.core.waiting import Reason, WaitingKind
from raywatch.counting import ANSWERED, HOOKS
from raywatch.families import SECTIONS, Family
from raywatch.model import Component, RunStatus
from raywatch.notice import Provider
from raywatch.pushing import SOURCE as RAY_EVENTS
from raywatch.resources import resource_dir
from raywatch.runrows import BUDGETS
from raywatch.traffic import OUTCOMES as ANSWERS

CLASSES = parse_taxonomy((resource_dir("rules") / "taxonomy.yaml").read_text())
# What a label may say; of another metric it may be another list.
VALUES: dict[str, tuple[str, ...]] = {
    "class": tuple(CLASSES),
    "cause": tuple(CLASSES),
    "group": tuple(dict.fromkeys(c.group for c in CLASSES.values())),
    "component": get_args(Component),
    "provider": ("ray", KUBERNETES, *get_args(Provider)),
    "hook": HOOKS,
    "actions outcome": tuple(dict.fromkeys((*ACTED, *ANSWERED))),
    "http_requests outcome": ANSWERS,
    "phase": PHASES,
    "status": get_args(RunStatus),
    "run_restart_owner owner": get_args(Owner),
    "run_restarts owner": ("ray_train", "raywatch"),
    "budget": BUDGETS,
    "state": get_args(NodeState),
    "kind": get_args(WaitingKind),
    "reason": get_args(Reason),
    "source": ("logs", *DASHBOARD, *get_args(Provider), KUBERNETES, RAY_EVENTS),
}
# Names that others give: bounded in length and number.
OPEN = {
    "run": f"name of a run, {MAX_LABEL} printable characters of it at most, with a digest where it is longer or"
    f" another run's too; the newest {MAX_SHOWN} runs, those that go on first",
    "SessionName": f"name of the Ray session, at most {MAX_LABEL} characters; Ray's own metrics have this label",
    "ray_version": "what the dashboard says, empty until it does",
    "version": "of raywatch",
}
_WORDS = {
    "class": "a class of `rules/taxonomy.yaml` (`raywatch runbook CLASS` says what it means)",
    "cause": "a class",
}
_HEAD = """# Metrics

Written from the code by `python -m tests.metricspage`; a test holds that it is up to date.

`raywatch daemon` serves `/metrics` on its address (127.0.0.1:9265), in Prometheus' text format and, where it is asked
for, as OpenMetrics. There, `raywatch_incidents_total` bears the id of the newest incident of its class as an exemplar
(`incident_id`, for `raywatch incidents ID`), which Prometheus keeps with `--enable-feature=exemplar-storage`.

Series of classes and of all other lists that are known are there from the start, at 0, so that `rate()` and
`increase()` see the first event. A value that is not known has no series. Text of logs, paths and ids of tasks are
never labels. `ray_io_cluster` and `instance` are labels of the target, as with Ray's own metrics; one cluster's session
is picked with `... and on (job, instance) raywatch_ray_session_info{SessionName=~"..."}`.

Counters of findings, incidents, notices, actions, restarts, ring breaks, lost work, recoveries and failed launches are
kept over restarts of the daemon, each event counted once; bytes, facts and questions count from its start.
"""
_TAIL = """
## Of the process

`process_*`, `python_info` and `python_gc_*` as prometheus_client writes them: processor time, memory, open files and
their limit, when the daemon started.
"""


def values(family: Family, label: str) -> tuple[str, ...] | None:
    """Return what a label of a metric may say, None where others give the names."""
    return VALUES.get(f"{family.name} {label}") or VALUES.get(label)


def unit(family: Family) -> str:
    """Return the unit that the name ends in."""
    last = family.name.rpartition("_")[2]
    if family.name.endswith("timestamp_seconds"):
        return "unix seconds"
    return last if last in ("seconds", "bytes") else ""


def page() -> str:
    """Return the page."""
    parts = [_HEAD]
    for title, families in SECTIONS.items():
        rows = [
            f"| `{f.series}` | {f.kind} | {unit(f)} | {_labels(f)} | {f.text} |" for f in families
        ]
        parts.append(
            "\n".join([f"\n## {title}\n", *_table("name", "kind", "unit", "labels", "is"), *rows])
        )
        asked = [f.query for f in families if f.query]
        parts.append("\n\n```promql\n{}\n```\n".format("\n".join(asked)) if asked else "\n")
    parts.append("\n## Labels\n\n" + "\n".join([*_table("label", "says"), *_says()]) + "\n")
    return "".join([*parts, _TAIL])


def _table(*heads: str) -> tuple[str, str]:
    return f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}"


def _labels(family: Family) -> str:
    return ", ".join(f"`{label}`" for label in family.labels)


def _says() -> list[str]:
    rows = [f"| `{label}` | {text} |" for label, text in OPEN.items()]
    for key, known in VALUES.items():
        name, _, label = key.rpartition(" ")
        of = f" of `{name}`" if name else ""
        words = _WORDS.get(label) or " ".join(f"`{v}`" for v in known)
        rows.append(f"| `{label}`{of} | {words} |")
    return rows


if __name__ == "__main__":
    sys.stdout.write(page())
