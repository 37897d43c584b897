"""Capacity in numbers: what waits and since when, and which launches failed for which reason."""

from __future__ import annotations

import re
from collections.abc import Iterable, Mapping
from typing import Literal, TypeAlias, get_args

from raywatch.core.capacity import (
    AUTOSCALERS_OWN,
    CAPACITY,
    LAUNCH,
    SAME_S,
    Capacity,
    Failure,
    with_failure,
)
from raywatch.model import Finding

# work: tasks and actors; group: placement groups; request: request_resources(); infeasible: of any of these, what no
# node can ever satisfy.
WaitingKind: TypeAlias = Literal["work", "group", "request", "infeasible"]
Reason: TypeAlias = Literal["quota", "capacity", "denied", "throttled", "invalid", "other"]
MAX_TYPES = (
    128  # node types whose last failure is remembered; twice as many until they are looked through
)
_WORDS = 2000  # characters that are looked at
# The first that fits. What clouds call them: errors of EC2, Google Compute Engine and Azure Resource Manager.
_REASONS: tuple[tuple[Reason, re.Pattern[str]], ...] = (
    (
        "throttled",
        re.compile(r"RequestLimitExceeded|Throttl|RATE_EXCEEDED|rateLimitExceeded|TooManyRequests"),
    ),
    (
        "quota",
        re.compile(r"(?i:quota)|LimitExceeded|CountExceeded|more (?:vCPU capacity|instances)"),
    ),
    (
        "capacity",
        re.compile(
            r"Insufficient|RESOURCE_POOL_EXHAUSTED|ReservationCapacity|AllocationFailed|SkuNotAvailable"
            r"|Overconstrained|SpotMaxPriceTooLow|(?i:capacity|not have enough resources|unavailable)"
        ),
    ),
    (
        "denied",
        re.compile(
            r"Unauthori[sz]ed|AuthFailure|Authori[sz]ationFailed|AccessDenied|Forbidden|OptInRequired"
            r"|PendingVerification|RequestExpired|Authentication|(?i:not authori[sz]ed|permission)"
        ),
    ),
    ("invalid", re.compile(r"Invalid|MissingParameter|Unsupported|NotFound|(?i:not found|subnet)")),
)


def pending(capacity: Capacity) -> dict[str, tuple[int, float | None]]:
    """Return by kind how many wait and since when the first of them does; nothing before Ray has told what waits."""
    if capacity.report is None and capacity.groups is None:
        return {}
    found: dict[str, tuple[int, float | None]] = dict.fromkeys(get_args(WaitingKind), (0, None))
    for waiting in capacity.waiting.values():
        kind = "infeasible" if waiting.infeasible else waiting.demand.kind
        count, since = found[kind]
        first = waiting.since if since is None else min(since, waiting.since)
        found[kind] = count + waiting.demand.count, first
    return found


def failed_launches(
    failures: Mapping[str, Failure], findings: Iterable[Finding]
) -> tuple[Mapping[str, Failure], list[Reason]]:
    """Return the last failed launch of each node type, and why those failed that are new: one may be told in several lines."""
    reasons: list[Reason] = []
    fresh: dict[str, Failure] = {}  # failed since the call, and more lines may tell why
    for finding in findings:
        own = finding.evidence.component in AUTOSCALERS_OWN
        if not own or finding.class_id not in (CAPACITY, LAUNCH):
            continue
        after = with_failure(failures, finding)
        changed = next(k for k, f in after.items() if failures.get(k) is not f)
        if _is_new(failures.get(changed), finding.at):
            reasons += [reason_of(fresh[changed])] if changed in fresh else []
            fresh[changed] = after[changed]
        elif changed in fresh:
            fresh[changed] = after[changed]
        failures = _newest(after) if len(after) > 2 * MAX_TYPES else after
    return failures, [*reasons, *map(reason_of, fresh.values())]


def _newest(failures: Mapping[str, Failure]) -> Mapping[str, Failure]:
    newest = sorted(failures.values(), key=lambda f: f.last_at)[-MAX_TYPES:]
    return {f.node_type: f for f in newest}


def failures_at(times: Mapping[str, float]) -> dict[str, Failure]:
    """Return failures of which only the node type and the time are known."""
    return {name: Failure(name, "", "", "", at, at) for name, at in times.items()}


def _is_new(known: Failure | None, at: float) -> bool:
    return known is None or at - known.last_at > SAME_S


def reason_of(failure: Failure) -> Reason:
    """Say in one word why a launch failed."""
    text = f"{failure.code} {failure.words}"[:_WORDS]
    usual: Reason = "capacity" if failure.class_id == CAPACITY else "other"
    return next((word for word, pattern in _REASONS if pattern.search(text)), usual)
