"""What the dashboards ask: series of the chosen clusters, sessions and runs.

`SessionName` is a label of raywatch_ray_session_info alone, so whatever belongs to a session is joined with it: at each
moment of a graph with the session that was followed then, and over a range with all that were followed in it.
"""

from __future__ import annotations

CLUSTER = 'ray_io_cluster=~"$Cluster"'
RUN = 'run=~"$run"'
_SESSION = 'raywatch_ray_session_info{SessionName=~"$SessionName"}'
_TARGET = "and on (job, instance)"
RATE, RANGE = "$__rate_interval", "$__range"


def where(label: str, values: str) -> str:
    """Return a matcher of a label; `values` are a regular expression."""
    return f'{label}=~"{values}"'


def every(name: str, *matchers: str) -> str:
    """Return a selector of raywatch's series `name` in the chosen clusters, whatever the session."""
    return f"raywatch_{name}{{{', '.join((CLUSTER, *matchers))}}}"


def now(name: str, *matchers: str) -> str:
    """Return the series at each moment of the chosen sessions."""
    return f"{every(name, *matchers)} {of_session()}"


def of_session() -> str:
    """Return what keeps the series of daemons that follow a chosen session at the moment."""
    return f"{_TARGET} {_SESSION}"


def last(name: str, *matchers: str) -> str:
    """Return the last value of each series in the range, so that what is over stays in sight."""
    return _over("last_over_time", RANGE, name, matchers)


def grown(name: str, *matchers: str) -> str:
    """Return how much each counter grew in the range."""
    return _over("increase", RANGE, name, matchers)


def added(name: str, *matchers: str) -> str:
    """Return how much each counter grew in the range, where a series may begin above 0: increase() sees no first value."""
    series = every(name, *matchers)
    ends, began = f"last_over_time({series}[{RANGE}])", f"{series} offset {RANGE}"
    session = f"last_over_time({_SESSION}[{RANGE}])"
    return f"clamp_min({ends} - ({began} or 0 * {ends}), 0) {_TARGET} {session}"


def growth(name: str, *matchers: str) -> str:
    """Return how much each counter grew in the step of a graph."""
    return f"increase({every(name, *matchers)}[{RATE}]) {of_session()}"


def _over(function: str, window: str, name: str, matchers: tuple[str, ...]) -> str:
    series, session = every(name, *matchers), f"last_over_time({_SESSION}[{window}])"
    return f"{function}({series}[{window}]) {_TARGET} {session}"


def total(of: str, by: str = "", *, how: str = "sum") -> str:
    """Aggregate."""
    return f"{how} by ({by}) ({of})" if by else f"{how}({of})"


def or_zero(expr: str) -> str:
    """Return 0 where nothing is: what is counted is not unknown, it is none."""
    return f"{expr} or vector(0)"


def watched(expr: str, alive: str = "15m") -> str:
    """Keep what belongs to a raywatch that was there lately; for series that carry another program's name."""
    return f"{expr} {_TARGET} last_over_time({every('build_info', INSTANCE)}[{alive}])"


INSTANCE = 'instance=~"$Instance"'


def itself(name: str, *matchers: str) -> str:
    """Return a selector of what a chosen daemon says of itself."""
    return every(name, INSTANCE, *matchers)
