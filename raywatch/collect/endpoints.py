"""What the dashboard is asked, how often in peace and in trouble, and how each answer is read.

Left out: `/api/v0/tasks` (up to 100,000 rows that the GCS gathers for each question; how much work waits stands in the
autoscaler's report, which actors wait in the list of actors) and `/api/v0/cluster_events` (what is in it stands in
monitor.log and in the event files, which are followed). `?nocache=1` is for /nodes, /events and /logical/actors;
none of these is asked, and nothing that is asked here is cached by Ray 2.9 to 2.60.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeAlias

from raywatch.collect.rayjson import (
    parse_actors,
    parse_jobs,
    parse_nodes,
    parse_train,
    parse_version,
    parse_workers,
)
from raywatch.collect.raystatus import parse_groups, parse_serve, parse_status, parse_train_v1
from raywatch.observations import Observation

Parse: TypeAlias = Callable[[object, float], Sequence[Observation]]
STATE_API = "/api/v0/"
# What was removed stays in the list, and what was created waits for nothing.
_WAITING = "".join(
    f"&filter_keys=state&filter_predicates=%21%3D&filter_values={s}" for s in ("REMOVED", "CREATED")
)


@dataclass(frozen=True, slots=True)
class Endpoint:
    """What is asked, how it is read, and how often: in peace, and for a while after something failed."""

    name: str
    path: str
    every_s: float
    alert_s: float
    parse: Parse


VERSION = Endpoint("version", "/api/version", 10.0, 5.0, parse_version)
STATUS = Endpoint("autoscaler", "/api/cluster_status?format=1", 10.0, 5.0, parse_status)
GROUPS = Endpoint(
    "groups",
    f"/api/v0/placement_groups?detail=1&limit=10000{_WAITING}",
    10.0,
    5.0,
    parse_groups,
)
# In trouble all of this together, with Ray Train, Serve and the burst at its beginning, is < 5 requests a second. Jobs
# come first: nothing is resumed before its job has FAILED. What else ends is in the logs within milliseconds.
ENDPOINTS = (
    VERSION,
    Endpoint("jobs", "/api/jobs/", 5.0, 1.0, parse_jobs),
    Endpoint("nodes", "/api/v0/nodes?detail=1&limit=10000", 5.0, 2.0, parse_nodes),
    Endpoint("actors", "/api/v0/actors?detail=1&limit=10000", 10.0, 3.0, parse_actors),
    Endpoint("workers", "/api/v0/workers?detail=1&limit=10000", 10.0, 5.0, parse_workers),
    STATUS,
    GROUPS,
)
# These make the dashboard a driver of the cluster: each is asked only while it is known to have something to tell.
TRAIN = Endpoint("train", "/api/train/v2/runs/v1", 10.0, 2.0, parse_train)
TRAIN_V1 = Endpoint("train_v1", "/api/train/v2/runs", 10.0, 10.0, parse_train_v1)
SERVE = Endpoint("serve", "/api/serve/applications/", 10.0, 10.0, parse_serve)
