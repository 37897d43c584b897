"""What is not seen: which sources of facts do not answer, since when, why, and which views that spoils.

A source that is switched off, and Ray Train's API while nothing trains, hide nothing.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

from raywatch.core.view import rfc3339
from raywatch.observations import EndpointHealth

STALE_S = 180.0  # Google's metadata server may hold a question for a minute
START_S = 15.0  # until the first answers are there
LOGS, TRAIN = "logs", "train"
VIEWS = ("incidents", "runs", "nodes", "actions", "autoscaling")
# Where a source is not named, it spoils all of them.
_SPOILS: Mapping[str, tuple[str, ...]] = {
    "version": ("actions",),
    "jobs": ("incidents", "runs", "actions"),
    "nodes": ("incidents", "runs", "nodes", "actions"),
    "actors": ("incidents", "runs", "actions"),
    "workers": ("incidents", "actions"),
    TRAIN: ("runs",),
    "train_v1": ("runs",),
    "autoscaler": ("autoscaling",),
    "groups": ("autoscaling",),
    "serve": (),
    "ray_events": ("incidents", "nodes"),
    "kubernetes": ("incidents", "nodes"),
    "aws": ("incidents", "nodes"),
    "gcp": ("incidents", "nodes"),
    "azure": ("incidents", "nodes"),
}
_REASONS: Mapping[str, str] = {
    "unknown": "not asked yet",
    "refused": "connection refused",
    "timeout": "it accepts and does not answer, the GCS may be gone",
    "unauthorized": "it wants another token (HTTP 401)",
    "forbidden": "it forbids this (HTTP 403)",
    "stale": "it was not asked again, the daemon's second thread stands still",
}
_VERB = {LOGS: "read"}
_SPANS = ((86_400, "d"), (3600, "h"), (60, "min"), (1, "s"))


@dataclass(frozen=True, slots=True)
class Standing:
    """How a source stands. `at`: when it was asked last; `answered_at`: when it last answered well; `since`: up, or not."""

    name: str
    state: str
    detail: str
    at: float
    since: float
    answered_at: float | None = None

    @property
    def works(self) -> bool:
        """Whether it answers."""
        return self.state == "up"


class BlindJson(TypedDict):
    """Sources that do not answer, for one reason. `spoils`: the views that depend on one of them."""

    sources: list[str]
    state: str
    since: str | None
    answered_at: str | None
    detail: str
    words: str
    spoils: list[str]


def unasked(name: str, now: float) -> Standing:
    """Return how a source stands that was not asked yet."""
    return Standing(name, "unknown", "", now, now)


def heard(known: Standing | None, health: EndpointHealth) -> Standing:
    """Return how a source stands after it was asked."""
    works = health.state == "up"
    answered = health.at if works else health.answered_at
    if answered is None and known is not None:
        answered = known.answered_at
    same = known is not None and known.works == works and known.state != "unknown"
    since = known.since if same and known is not None else health.at
    return Standing(health.name, health.state, health.detail, health.at, since, answered)


def aged(standing: Standing, now: float) -> Standing:
    """Return it as stale where it was last asked long ago."""
    if now - standing.at <= STALE_S or standing.name == TRAIN or standing.state == "off":
        return standing
    return replace(standing, state="stale", detail="", since=standing.at)


def blind(
    sources: Iterable[Standing], dashboard: Sequence[str], now: float
) -> tuple[BlindJson, ...]:
    """Say what is not seen at `now`. `dashboard`: the sources that are Ray's dashboard."""
    every = list(sources)
    dark = [s for s in every if not s.works and s.state != "off" and not _begins(s, now)]
    asked = {s.name for s in every if s.name in dashboard}
    away = {s.name for s in dark} & asked
    rows = []
    for state in dict.fromkeys(s.state for s in dark if s.name in asked):
        mine = [s for s in dark if s.name in asked and s.state == state]
        # Ray Train is asked only while something trains: without it, it is still the whole dashboard.
        whole = {s.name for s in mine} >= asked - {TRAIN}
        who = "dashboard" if whole else f"dashboard's {', '.join(s.name for s in mine)}"
        rows.append(_row(who, mine, now))
    rows += [_row(s.name, [s], now) for s in dark if s.name not in asked]
    left = _left(logs=any(s.name == LOGS for s in dark), dashboard=bool(asked - {TRAIN} - away))
    return tuple({**r, "words": f"{r['words']}; {left}"} if left else r for r in rows)


def apart(words: str) -> tuple[BlindJson, ...]:
    """Say that logs and dashboard speak of two clusters, where `words` do."""
    if not words:
        return ()
    both: BlindJson = {
        "sources": [LOGS, "dashboard"],
        "state": "apart",
        "since": None,
        "answered_at": None,
        "detail": "",
        "words": f"{words}; what you see is of both",
        "spoils": list(VIEWS),
    }
    return (both,)


def _begins(standing: Standing, now: float) -> bool:
    return standing.state == "unknown" and now - standing.since < START_S


def _left(*, logs: bool, dashboard: bool) -> str:
    """Say what is left to be seen. `logs`: they are dark; `dashboard`: some of it answers."""
    if logs:
        return "what you see is from Ray's APIs alone" if dashboard else "nothing is seen"
    return "" if dashboard else "what you see is from logs alone"


def _row(who: str, mine: Sequence[Standing], now: float) -> BlindJson:
    first = mine[0]
    since = min(s.since for s in mine)
    answered = [s.answered_at for s in mine if s.answered_at is not None]
    reason = _REASONS.get(first.state) or first.detail or first.state
    if first.state in ("unauthorized", "forbidden") and first.detail:
        reason = f"{reason}, {first.detail}"
    hurt = {v for s in mine for v in _SPOILS.get(s.name, VIEWS)}
    return {
        "sources": [s.name for s in mine],
        "state": first.state,
        "since": rfc3339(since),
        "answered_at": rfc3339(max(answered)) if answered else None,
        "detail": first.detail,
        "words": f"{who} not {_VERB.get(who, 'answering')} for {spell(now - since)}: {reason}",
        "spoils": [v for v in VIEWS if v in hurt],
    }


def spell(seconds: float) -> str:
    """Say a time span in its largest unit."""
    whole = max(0, int(seconds))
    size, unit = next((s for s in _SPANS if whole >= s[0]), _SPANS[-1])
    return f"{whole // size} {unit}"
