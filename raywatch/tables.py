"""What the API says, as tables and stories for a terminal. All of it is text of others: shown, never executed."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TypedDict

from raywatch.core.runview import AttemptJson, BudgetJson, CheckpointJson, ProcessJson, RunJson
from raywatch.core.view import IncidentJson, LineJson, SubjectJson, resume_words
from raywatch.layout import SHORT, age, fields, part, table, when
from raywatch.runbooks import pointer
from raywatch.terminal import safe, told

MAX_LINES, SAME = 6, 100  # of evidence; characters that make two lines the same


ActionRow = TypedDict(
    "ActionRow",
    {
        "key": str,
        "run": str,
        "run_name": str,
        "incident": str,
        "class": str,
        "attempt": int,
        "mode": str,
        "hook": str,
        "hook_name": str,
        "by_hand": bool,
        "state": str,
        "detail": str,
        "created_at": str | None,
        "started_at": str | None,
        "ended_at": str | None,
        "submission_id": str,
        "avoid_nodes": list[str],
        "checkpoint": CheckpointJson | None,
        "first_step": int | None,
        "first_step_at": str | None,
        "output": str,
    },
)


class ObjectionRow(TypedDict):
    """A check that forbids a resume."""

    check: str
    detail: str


class WouldResume(TypedDict):
    """What `resume --dry-run` is told."""

    starts: bool
    would: ActionRow
    objections: list[ObjectionRow]


# --- words -----------------------------------------------------------------------------------------


def _subject(subject: SubjectJson) -> str:
    name = subject["id"] or subject["node"]
    if subject["rank"] is not None and not name.startswith("rank"):
        name = f"rank {subject['rank']} {name}"
    return f"{subject['kind']} {name}".rstrip()


def _short(subject: SubjectJson) -> str:
    name = subject["id"] or subject["node"]
    return f"{subject['kind']} {name[:SHORT]}".rstrip()


def _counts(row: IncidentJson) -> str:
    return ", ".join(
        f"{e['class']} x{e['count']}" if e["count"] > 1 else e["class"] for e in row["explains"]
    )


def _checkpoint(found: CheckpointJson | None) -> str:
    if found is None:
        return "no checkpoint known"
    step = "" if found["step"] is None else f"step {found['step']}, "
    whole = "whole" if found["whole"] else "not known to be whole"
    return f"checkpoint {step}{found['path']} ({whole}: {found['checked']})"


def _step(found: CheckpointJson | None) -> str:
    return "-" if found is None or found["step"] is None else str(found["step"])


# --- incidents ---------------------------------------------------------------------------------------


def incidents_table(rows: Sequence[IncidentJson], names: Mapping[str, str], now: float) -> str:
    """List incidents, the newest first. `names` says what people call a run."""
    if not rows:
        return "no incidents"
    heads = ("ID", "AGE", "CLASS", "SUBJECT", "RUNS", "STATE", "EXPLAINS", "RESUME")
    ordered = sorted(rows, key=lambda r: r["first_at"] or "", reverse=True)
    return table(heads, [_incident_cells(r, names, now) for r in ordered], {"EXPLAINS": 48})


def _incident_cells(row: IncidentJson, names: Mapping[str, str], now: float) -> tuple[str, ...]:
    hurt = ", ".join(names.get(r) or r for r in row["runs"])
    ago, about = age(row["first_at"], now), _short(row["subject"])
    return row["id"], ago, row["class"], about, hurt, row["state"], _counts(row), row["resume"]


def incident_story(
    row: IncidentJson, hurt: Sequence[RunJson], actions: Sequence[ActionRow], now: float
) -> str:
    """Tell all that is known of an incident: the line that proves it, what it explains, hurt and started."""
    culprit = _subject(row["culprit"]) if row["culprit"] else ""
    facts = [
        ("first", when(row["first_at"], now)),
        ("last", when(row["last_at"], now)),
        ("subject", _subject(row["subject"])),
        ("node", row["subject"]["node"]),
        ("culprit", culprit),
        ("workers", " -> ".join(map(str, row["world_sizes"]))),
        ("resume", resume_words(row["resume"])),
    ]
    lines = [
        safe(f"{row['id']}  {row['class']}  {row['state']}  (confidence {row['confidence']:.1f})"),
        f"  {safe(row['title'])}",
        *fields(facts),
        *part("root", [row["root"]], _line),
        *part("evidence", _telling(row), lambda line: [line]),
        *part("explains", row["explains"], lambda e: [f"{e['class']} x{e['count']}"]),
        *part("runs hurt", hurt, _hurt),
        *part("actions", actions, lambda a: _action(a, now)),
    ]
    page = pointer(row["class"])
    return "\n".join([*lines, "", page] if page else lines)


def _telling(row: IncidentJson) -> list[str]:
    """Show evidence without copies: one failure is written up to eight times."""
    distinct = {told(e["text"])[:SAME]: e for e in reversed((row["root"], *row["evidence"]))}
    fresh = list(reversed(distinct.values()))[1:]  # the root stands above
    shown = [part for line in fresh[:MAX_LINES] for part in _line(line)]
    more = len(row["evidence"]) - 1 - len(fresh[:MAX_LINES])
    return [*shown, f"and {more} more, most of them copies: see --json"] if more > 0 else shown


def _line(line: LineJson) -> tuple[str, str]:
    where = f"{line['file']}:{line['line']}" if line["line"] else line["file"]
    return where, f"  {told(line['text'])}"


def _hurt(run: RunJson) -> tuple[str]:
    problem = f"  {run['checkpoint_problem']}" if run["checkpoint_problem"] else ""
    name, saved = run["name"] or run["id"], _checkpoint(run["checkpoint"])
    return (f"{name}  {run['status']}  {saved}{problem}",)


# --- runs --------------------------------------------------------------------------------------------


def runs_table(rows: Sequence[RunJson], now: float) -> str:
    """List runs, the newest first. RISK is what would be lost now; NEXT is who starts it again if a node dies."""
    if not rows:
        return "no runs"
    told = ("RUN", "AGE", "STATUS", "STEP", "SAVED", "RISK", "WORKERS", "LEVEL")
    heads = (*told, "RESTARTS", "NEXT", "ID")
    ordered = sorted(rows, key=lambda r: r["started_at"] or "", reverse=True)
    return table(heads, [_run_cells(r, now) for r in ordered], {"ID": 80})


def _run_cells(row: RunJson, now: float) -> tuple[str, ...]:
    numbers = (row["step"], row["world_size"], row["level"])
    step, workers, level = ("-" if n is None else str(n) for n in numbers)
    restarts = f"{row['restarts']}+{row['resumes']}"  # by Ray Train + by raywatch
    ago, saved = age(row["started_at"], now), _step(row["checkpoint"])
    told = (row["name"], ago, row["status"], step, saved, _risk(row, now), workers, level)
    return (*told, restarts, row["next_restart"]["owner"], row["id"])


def _risk(row: RunJson, now: float) -> str:
    """Say how much work there is since the newest checkpoint, else since the start."""
    saved = row["checkpoint"]
    since = (saved and saved["at"]) or row["started_at"]
    if not since or row["status"] in ("finished", "stopped"):
        return "-"
    return age(since, now)


def run_story(
    row: RunJson, incidents: Sequence[IncidentJson], actions: Sequence[ActionRow], now: float
) -> str:
    """Tell all that is known of a run: first whether it trains, what would be lost now, and who starts it again."""
    level = f"{'?' if row['level'] is None else row['level']} ({row['level_reason']})"
    ranks = ", ".join(f"{r['rank']} on {r['node'][:SHORT] or '?'}" for r in row["ranks"])
    after, restarts = row["next_restart"], f"{row['restarts']} by Ray Train"
    facts = [
        ("id", row["id"]),
        ("framework", row["framework"]),
        ("started", when(row["started_at"], now)),
        ("ended", when(row["ended_at"], now) if row["ended_at"] else ""),
        ("step", _progress(row, now)),
        ("saved", _checkpoint(row["checkpoint"])),
        ("at risk", _at_risk(row, now)),
        ("problem", row["checkpoint_problem"]),
        ("next", f"{after['owner'].replace('_', ' ')} starts it again ({after['reason']})"),
        ("level", level),
        ("failures", _budget(row["failures"])),
        ("preempted", _budget(row["preemptions"])),
        ("workers", " -> ".join(map(str, row["world_sizes"]))),
        ("ranks", ranks),
        ("driver", _process(row["driver"])),
        ("controller", _process(row["controller"])),
        ("restarts", f"{restarts}, {row['resumes']} by raywatch"),
        ("storage", row["storage_path"]),
        ("jobs", ", ".join(row["submissions"] or row["jobs"])),
    ]
    lines = [
        safe(f"{row['name'] or row['id']}  {row['status']}"),
        *fields(facts),
        *part("attempts", row["attempts"][-MAX_LINES:], lambda a: [_attempt(a, now)]),
        *part("incidents", incidents, lambda i: [_brief(i, now)]),
        *part("actions", actions, lambda a: _action(a, now)),
    ]
    return "\n".join(lines)


def _progress(row: RunJson, now: float) -> str:
    if row["step"] is None:
        return ""
    return f"{row['step']}" + (f", {age(row['step_at'], now)} ago" if row["step_at"] else "")


def _at_risk(row: RunJson, now: float) -> str:
    """Say in words what would be lost if the run ended now."""
    saved, risk = row["checkpoint"], _risk(row, now)
    if risk == "-":
        return ""
    if saved is None:
        return f"all of it: {risk} without a known checkpoint"
    steps = (row["step"] or 0) - (saved["step"] or 0)
    both = row["step"] is not None and saved["step"] is not None
    behind = f", {steps} steps" if both and steps > 0 else ""
    return f"{risk} of work{behind} since the checkpoint"


def _budget(found: BudgetJson) -> str:
    most, used = found["max"], found["used"]
    if most is None and used is None:
        return ""
    allowed = {None: "a number that is not known", -1: "any number"}.get(most, f"{most}")
    left = "" if most is None or most < 0 else f", {max(0, most - (used or 0))} left"
    return f"{used or 0} of {allowed} used{left}"


def _process(found: ProcessJson | None) -> str:
    if found is None:
        return ""
    alive = {None: "not known whether it lives", True: "alive", False: "gone"}[found["alive"]]
    pid = f" pid {found['pid']}" if found["pid"] else ""
    return f"{alive}, on {found['node'][:SHORT] or '?'}{pid}"


def _attempt(row: AttemptJson, now: float) -> str:
    size = f"  {row['world_size']} workers" if row["world_size"] else ""
    blamed = f"  {row['class']} {row['incident']}" if row["class"] else ""
    ended = f"  ended {age(row['ended_at'], now)} ago" if row["ended_at"] else ""
    why = f"  {row['why']}" if row["why"] and not blamed else ""
    return f"{age(row['started_at'], now)}  {row['status']}{size}{ended}{blamed}{why}"


def _brief(row: IncidentJson, now: float) -> str:
    return f"{row['id']}  {age(row['first_at'], now)}  {row['class']}  {row['state']}"


# --- actions -----------------------------------------------------------------------------------------


def actions_table(rows: Sequence[ActionRow], now: float) -> str:
    """List actions, the newest first."""
    if not rows:
        return "no actions"
    heads = ("KEY", "AGE", "RUN", "CLASS", "TRY", "HOOK", "STATE", "DETAIL")
    ordered = sorted(rows, key=lambda a: a["created_at"] or "", reverse=True)
    cells = [
        (
            a["key"],
            age(a["created_at"], now),
            a["run_name"] or a["run"],
            a["class"],
            str(a["attempt"]),
            a["hook"],
            a["state"],
            came_of(a),
        )
        for a in ordered
    ]
    return table(heads, cells, {"KEY": 72, "DETAIL": 80})


def came_of(action: ActionRow) -> str:
    """Say what came of an action in a few words."""
    words = [action["detail"]]
    if action["submission_id"] and action["submission_id"] != action["key"]:
        words.append(f"job {action['submission_id']}")
    if action["first_step"] is not None:
        words.append(f"went on to step {action['first_step']}")
    return ", ".join(w for w in words if w)


def _action(action: ActionRow, now: float) -> list[str]:
    asked = "  by hand" if action["by_hand"] else ""
    ago = age(action["started_at"] or action["created_at"], now)
    rows = [f"{action['key']}  {ago}  {action['hook']}  {action['state']}{asked}"]
    if action["checkpoint"]:
        rows.append(f"  {_checkpoint(action['checkpoint'])}")
    if came_of(action):
        rows.append(f"  {came_of(action)}")
    return rows + [f"  | {x}" for x in action["output"].splitlines()[-3:]]


# --- answers -----------------------------------------------------------------------------------------


def did(action: ActionRow) -> str:
    """Say how an action stands that a person let go on or asked for."""
    name, said = action["run_name"] or action["run"], came_of(action)
    rows = [f"{name}  {action['state']}{': ' if said else ''}{said}"]
    rows.append(f"  {action['hook']} hook, {_checkpoint(action['checkpoint'])}")
    rows.append(f"  {action['key']}")
    if action["state"] in ("started", "waiting"):
        rows.append("  `raywatch actions` says what comes of it")
    return "\n".join(map(safe, rows))


def would_resume(found: WouldResume) -> str:
    """Say what a resume would do, or what forbids it."""
    would = found["would"]
    name = would["run_name"] or would["run"]
    head = "would be started again" if found["starts"] else "would not be started again"
    facts = [
        ("hook", f"{would['hook']} {would['hook_name']}"),
        ("from", _checkpoint(would["checkpoint"])),
        ("because of", f"{would['class']} {would['incident']}" if would["incident"] else ""),
        ("avoids", ", ".join(would["avoid_nodes"])),
        ("key", would["key"]),
    ]
    objecting = [f"  objects    {safe(o['detail'])} [{o['check']}]" for o in found["objections"]]
    return "\n".join([safe(f"{name} {head}"), *fields(facts), *objecting])
