"""/metrics as text, in Prometheus' own format or OpenMetrics; the text of what did not change is kept.

Writing ten thousand samples takes a tenth of a second of the interpreter, which the first thread then waits for.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence

from prometheus_client import generate_latest
from prometheus_client.core import Metric
from prometheus_client.openmetrics import exposition as openmetrics
from prometheus_client.registry import Collector

from raywatch.httpbody import weights
from raywatch.metrics import RaywatchCollector, Shown, metric

TEXT = "text/plain; version=0.0.4; charset=utf-8"
OPENMETRICS = "application/openmetrics-text; version=1.0.0; charset=utf-8"
_END = b"# EOF\n"


class _These(Collector):
    """What the writers of prometheus_client take: they use nothing of a registry but this."""

    def __init__(self, metrics: Iterable[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterable[Metric]:
        """Yield the metrics."""
        return self._metrics


class Exposition:
    """Owned by the thread that serves. `others`: collectors beside raywatch's own."""

    def __init__(self, mine: RaywatchCollector, others: Sequence[Collector] = ()) -> None:
        self._mine, self._others = mine, others
        self._texts: dict[tuple[str, str], tuple[Shown, bytes]] = {}  # by format and family

    def text(self, accept: str) -> tuple[bytes, str]:
        """Return the whole exposition and its content type, by a request's Accept."""
        kind = OPENMETRICS if wants_openmetrics(accept) else TEXT
        parts = [self._part(kind, shown) for shown in self._mine.shown()]
        parts += [_written(kind, other) for other in self._others]
        parts += [_END] if kind == OPENMETRICS else []
        return b"".join(parts), kind

    def _part(self, kind: str, shown: Shown) -> bytes:
        key = kind, shown.family.name
        known = self._texts.get(key)
        if known is not None and known[0] == shown:
            return known[1]
        text = _written(kind, _These([metric(shown)]))
        self._texts[key] = shown, text
        return text


def _written(kind: str, families: Collector) -> bytes:
    write = openmetrics.generate_latest if kind == OPENMETRICS else generate_latest
    return bytes(write(families)).removesuffix(_END)


def wants_openmetrics(accept: str) -> bool:
    """Say whether a request asks for OpenMetrics rather than for plain text."""
    wanted = weights(accept)
    mine = wanted.get("application/openmetrics-text", 0.0)
    return mine > 0 and mine >= wanted.get("text/plain", 0.0)
