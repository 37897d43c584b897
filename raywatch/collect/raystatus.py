"""What Ray says about machines and who waits for them -> observations: autoscaler, placement groups, Serve, Train v1.

The autoscaler's report is a text for people, the same for `ray status`; v1 and v2 write it alike but for details
(autoscaler/_private/util.py: format_info_string; autoscaler/v2/utils.py: ClusterStatusFormatter). It is read by its
headings, and a line that is odd is left out: the JSON beside it has no answer for v2, and camel-cases names of node
types and resources for v1.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence

from raywatch.bundles import bundles_in
from raywatch.collect.rayrows import Row, each, number, rows_of, table, text_of, time_ms, within
from raywatch.observations import (
    AutoscalerSeen,
    Demanded,
    DeploymentSeen,
    GroupSeen,
    GroupsSeen,
    ServeAppSeen,
    ServeSeen,
    TrainAttemptSeen,
    TrainRunSeen,
    TrainWorkerSeen,
)

MAX_TEXT = 1 << 20
MAX_LINE = 4096
MAX_LINES = 20_000  # under a heading: a cluster by hand shows a type for each of its nodes
MAX_ROWS = 1000
_HEADING = re.compile(
    r"(Active|Idle|Pending|Recent failures|From request_resources|(?:\w+ )?(?:Constraints|Demands)):\s*"
)
_SAME = {  # before Ray 2.60
    "Demands": "Pending Demands",
    "Total Demands": "Pending Demands",
    "Total Constraints": "From request_resources",
    "Constraints": "From request_resources",
}
_FAILED = re.compile(r"The autoscaler failed with the following error:\s*")
_NODES = re.compile(r" (\d{1,9}) (\S.*)")
_LAUNCHING = re.compile(r" (\S.*), (\d{1,9}) launching")
_STARTING = re.compile(r" (\S+): ([^,]+), (.*)")
_NO_LAUNCH = re.compile(r" (\S.*?): (\S.*?) \(latest_attempt: [\d:]{1,8}\)(?: - .*)?")
_LOST = re.compile(r" (\S.*?): NodeTerminated \(.*\)")
_WORK = re.compile(r" (\{.*\}): (\d{1,9})\+ pending tasks/actors(?: \(.*\))?")
_GROUP = re.compile(r" (\{.*) \((\w+)\): (\d{1,9})\+ pending placement groups")
_REQUEST = re.compile(r" (\{.*\}): (\d{1,9})\+? from request_resources\(\)")


# --- the autoscaler ------------------------------------------------------------------------------


def parse_status(found: object, at: float) -> list[AutoscalerSeen]:
    """Read /api/cluster_status?format=1."""
    data = within(found, "data")
    if not isinstance(data, dict):
        return []
    text = data.get("clusterStatus")
    return [parse_report(text if isinstance(text, str) else "", at)]


def parse_report(text: str, at: float) -> AutoscalerSeen:
    """Read the text of `ray status`. Never raises."""
    parts = _parts(text[:MAX_TEXT])
    error = _FAILED.search(text[:MAX_TEXT])
    pending, failed = _pending(parts.get("Pending", ())), parts.get("Recent failures", ())
    return AutoscalerSeen(
        at=at,
        reports="Active" in parts,
        active=_nodes(parts.get("Active", ())),
        idle=_nodes(parts.get("Idle", ())),
        pending=pending,
        failed=tuple(sorted({(m[1], m[2]) for m in _matches(_NO_LAUNCH, failed)})),
        ended=_counted(m[1] for m in _matches(_LOST, failed)),
        demands=tuple(
            _demands(parts.get("Pending Demands", ()), parts.get("From request_resources", ()))
        ),
        error=text[error.end() :].strip()[:MAX_LINE] if error else "",
    )


def _parts(text: str) -> dict[str, list[str]]:
    """Return the lines under each heading. An error with which the autoscaler ended is no part of them."""
    parts: dict[str, list[str]] = {}
    rows: list[str] | None = None
    for line in text.splitlines():
        heading = _HEADING.fullmatch(line)
        name = _SAME.get(heading[1], heading[1]) if heading else ""
        if name and name not in parts:
            rows = parts[name] = []
        elif not line.startswith(" "):
            rows = None
        elif rows is not None and len(rows) < MAX_LINES:
            rows.append(line[:MAX_LINE])
    return parts


def _matches(pattern: re.Pattern[str], lines: Iterable[str]) -> Iterator[re.Match[str]]:
    yield from filter(None, map(pattern.fullmatch, lines))


def _counted(names: Iterable[str]) -> tuple[tuple[str, int], ...]:
    return tuple(sorted(Counter(names).items()))


def _nodes(lines: Iterable[str]) -> tuple[tuple[str, int], ...]:
    return tuple((m[2], int(m[1])) for m in _matches(_NODES, lines))


def _pending(lines: Sequence[str]) -> tuple[tuple[str, str, int], ...]:
    """Return what was asked of the cloud: by type and how far it is; an address is of no use to anybody yet."""
    counts: Counter[tuple[str, str]] = Counter()
    for line in lines:
        if found := _LAUNCHING.fullmatch(line):
            counts[found[1], "launching"] += int(found[2])
        elif found := _STARTING.fullmatch(line):
            counts[found[2], found[3] or "starting"] += 1  # v2 often knows no more
    return tuple((kind, how, count) for (kind, how), count in sorted(counts.items()))


def _demands(waiting: Iterable[str], requested: Iterable[str]) -> Iterator[Demanded]:
    for line in waiting:
        if found := _WORK.fullmatch(line):
            yield Demanded("work", tuple(bundles_in(found[1])), int(found[2]))
        elif found := _GROUP.fullmatch(line):
            bundles = tuple(sorted(bundles_in(found[1])))
            yield Demanded("group", bundles, int(found[3]), found[2])
        elif found := _REQUEST.fullmatch(line):
            yield Demanded("request", tuple(bundles_in(found[1])), int(found[2]))
    for found in _matches(_REQUEST, requested):
        yield Demanded("request", tuple(bundles_in(found[1])), int(found[2]))


# --- placement groups ----------------------------------------------------------------------------


def parse_groups(found: object, at: float) -> list[GroupsSeen]:
    """Read /api/v0/placement_groups: those that wait."""
    rows = within(found, "data", "result", "result")
    if not isinstance(rows, list):
        return []
    waiting = [g for g in each(rows, _group) if g.state in ("PENDING", "RESCHEDULING")]
    return [GroupsSeen(at, tuple(waiting[:MAX_ROWS]))]


def _group(row: Row) -> GroupSeen:
    stats = table(row, "stats")
    since_ns = number(stats, "creation_request_received_ns")
    bundles = Counter(
        tuple(sorted((k[:200], float(str(v))) for k, v in table(b, "unit_resources").items()))
        for b in rows_of(row.get("bundles"))
    )
    return GroupSeen(
        group_id=text_of(row, "placement_group_id"),
        name=text_of(row, "name"),
        job_id=text_of(row, "creator_job_id"),
        state=text_of(row, "state"),
        why=text_of(stats, "scheduling_state"),
        bundles=tuple(sorted(bundles.items())),
        since=since_ns / 1e9 if since_ns > 0 else None,
    )


# --- Serve ---------------------------------------------------------------------------------------


def parse_serve(found: object, at: float) -> list[ServeSeen]:
    """Read /api/serve/applications/: bare, by name."""
    apps = within(found, "applications")
    if not isinstance(apps, dict):
        return []
    return [ServeSeen(at, tuple(each(list(apps.values())[:MAX_ROWS], _app)))]


def _app(row: Row) -> ServeAppSeen:
    deployments = list(table(row, "deployments").values())
    return ServeAppSeen(
        name=text_of(row, "name"),
        status=text_of(row, "status"),
        message=text_of(row, "message"),
        deployments=tuple(each(deployments[:MAX_ROWS], _deployment)),
    )


def _deployment(row: Row) -> DeploymentSeen:
    replicas = [text_of(r, "state") for r in rows_of(row.get("replicas"))]
    name, status = text_of(row, "name"), text_of(row, "status")
    return DeploymentSeen(name, status, text_of(row, "message"), _counted(replicas))


# --- Ray Train v1 --------------------------------------------------------------------------------


def parse_train_v1(found: object, at: float) -> list[TrainRunSeen]:
    """Read /api/train/v2/runs, which tells runs of Ray Train v1: newest first, told oldest first.

    It knows one group of workers and no settings: its attempt is the newest one.
    """
    return each(within(found, "train_runs"), lambda row: _run_v1(row, at))[::-1]


def _run_v1(row: Row, at: float) -> TrainRunSeen:
    run_id, name = text_of(row, "id"), text_of(row, "name")
    if not (run_id and name):
        raise ValueError("a run without a name")
    started_at, ended_at = time_ms(row, "start_time_ms"), time_ms(row, "end_time_ms")
    status, detail = text_of(row, "run_status"), text_of(row, "status_detail")
    status = "RUNNING" if status == "STARTED" else status
    attempt = TrainAttemptSeen(
        attempt_id=run_id,
        status=status,
        detail=detail,
        started_at=started_at,
        ended_at=ended_at,
        workers=tuple(each(row.get("workers"), _rank_v1)),
    )
    return TrainRunSeen(
        at=at,
        run_id=run_id,
        name=name,
        status=status,
        detail=detail,
        job_id=text_of(row, "job_id"),
        submission_id=text_of(table(row, "job_details"), "submission_id"),
        controller_actor_id=text_of(row, "controller_actor_id"),
        storage_path="",
        storage_filesystem="",
        max_failures=None,
        started_at=started_at,
        ended_at=ended_at,
        attempts=(attempt,),
    )


def _rank_v1(row: Row) -> TrainWorkerSeen:
    return TrainWorkerSeen(
        world_rank=int(str(row.get("world_rank"))),
        node_id=text_of(row, "node_id"),
        actor_id=text_of(row, "actor_id"),
        pid=number(row, "pid"),
        status=text_of(row, "status"),
    )
