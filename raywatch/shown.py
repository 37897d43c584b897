"""What the first thread shows and the second serves: snapshots and metrics, safe from any thread."""

from __future__ import annotations

import json
import threading
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import is_not
from typing import NamedTuple

from raywatch import __version__
from raywatch.core.nodeview import Around, Known, node_json, surroundings
from raywatch.core.runs import Runs, runs_hurt
from raywatch.core.view import incident_json, rfc3339
from raywatch.metrics import MetricsView
from raywatch.model import Drain, FailureClass, Incident

GONE = 1000  # ids of incidents that went, which are remembered for those who ask what changed


class _Row(NamedTuple):
    """The JSON of an incident, what it was made of, and the number of the snapshot that showed it first."""

    incident: Incident
    hurt: tuple[str, ...]
    text: bytes
    seq: int


class IncidentTexts:
    """Remembers texts: a thousand incidents are a megabyte of JSON, and every finding publishes."""

    def __init__(self, classes: Mapping[str, FailureClass], floor: int) -> None:
        """`floor`: the number of the snapshot that was there before any incident was shown."""
        self._classes = classes
        self._runs: Runs | None = None
        self._known: dict[str, _Row] = {}
        self._gone: deque[tuple[int, str]] = deque()
        self.floor = floor  # what changed since an older snapshot is not known

    def of(self, incidents: Iterable[Incident], runs: Runs, seq: int) -> tuple[_Row, ...]:
        """Return the rows of snapshot `seq`; only what is new is written."""
        known, same_runs = self._known, runs is self._runs
        rows: dict[str, _Row] = {}
        for incident in incidents:
            row = known.get(incident.id)
            if row is None or row.incident is not incident or not same_runs:
                row = self._row(row, incident, runs_hurt(runs, incident), seq)
            rows[incident.id] = row
        self._gone.extend((seq, number) for number in known.keys() - rows.keys())
        while len(self._gone) > GONE:
            self.floor, _ = self._gone.popleft()
        self._known, self._runs = rows, runs
        return tuple(rows.values())

    def gone(self) -> tuple[tuple[int, str], ...]:
        """Return which incidents went, each with the first snapshot without it."""
        return tuple(self._gone)

    def _row(self, row: _Row | None, incident: Incident, hurt: tuple[str, ...], seq: int) -> _Row:
        if row is not None and row.incident is incident and row.hurt == hurt:
            return row
        shown = {**incident_json(incident, self._classes), "runs": list(hurt)}
        return _Row(incident, hurt, json.dumps(shown).encode(), seq)


class _Published(NamedTuple):
    """A snapshot in pieces: they are joined where somebody asks for it."""

    seq: int
    head: bytes = b"{}"
    rows: tuple[_Row, ...] = ()
    rest: bytes = b"{}"
    gone: tuple[tuple[int, str], ...] = ()
    floor: int = 0

    def whole(self) -> bytes:
        """Return all of it as JSON."""
        rows = b", ".join([r.text for r in self.rows])
        return b'%s, "incidents": [%s], %s' % (self.head[:-1], rows, self.rest[1:])

    def since(self, after: int) -> bytes:
        """Return the incidents that changed since snapshot `after`, as JSON; all of them where that is not known."""
        whole = after < self.floor
        rows = b", ".join([r.text for r in self.rows if whole or r.seq > after])
        gone = [number for seq, number in self.gone if seq > after and not whole]
        head = json.dumps({"seq": self.seq, "whole": whole, "gone": gone}).encode()
        return b'%s, "incidents": [%s]}' % (head[:-1], rows)


class Publisher:
    """The newest snapshot as JSON, and what the metrics show."""

    def __init__(self, classes: Mapping[str, FailureClass], view: MetricsView, now: float) -> None:
        """Numbers of snapshots begin at `now` in ms: whoever waits for a newer one sees a restart's."""
        seq = int(now * 1000)
        self._texts = IncidentTexts(classes, seq)
        self._lock = threading.Lock()
        self._published = _Published(seq, floor=seq)
        self._joined = (seq, b"")  # the last snapshot that was asked for as a whole
        self._view = view

    def publish(
        self,
        now: float,
        session: str | None,
        *,
        incidents: Iterable[Incident],
        runs: Runs,
        rest: bytes,
        view: MetricsView,
    ) -> None:
        """Show how things stand; `rest` is a JSON object. From the first thread."""
        seq = self._published.seq + 1
        head = {"seq": seq, "now": rfc3339(now), "version": __version__, "session": session}
        rows = self._texts.of(incidents, runs, seq)
        texts = json.dumps(head).encode(), rows, rest, self._texts.gone(), self._texts.floor
        with self._lock:
            self._published, self._view = _Published(seq, *texts), view

    def snapshot(self, after: int) -> bytes | None:
        """Return the snapshot if it is newer than number `after`."""
        published = self._newest()
        if published.seq <= after:
            return None
        seq, text = self._joined
        if seq != published.seq:  # two threads may both join it, to the same text
            text = published.whole()
            self._joined = published.seq, text
        return text

    def changes(self, after: int) -> bytes | None:
        """Return the incidents that changed since snapshot `after`, None where there is no newer one."""
        published = self._newest()
        return published.since(after) if published.seq > after else None

    def seq(self) -> int:
        """Return the number of the newest snapshot."""
        return self._newest().seq

    def _newest(self) -> _Published:
        with self._lock:
            return self._published

    def metrics_view(self) -> MetricsView:
        """Return what the metrics show."""
        with self._lock:
            return self._view


class Written:
    """A JSON text that is written anew only where what it is made of is another object."""

    def __init__(self) -> None:
        self._made_of: tuple[object, ...] = ()
        self._text = "{}"

    def of(self, made_of: tuple[object, ...], rows: Callable[[], Mapping[str, object]]) -> str:
        """Return the text of `rows`, which are made of nothing but `made_of`: objects that never change."""
        known = self._made_of
        if len(known) != len(made_of) or any(map(is_not, known, made_of)):
            self._made_of, self._text = made_of, json.dumps(rows())
        return self._text


class NodeTexts:
    """The nodes as JSON, written anew only where a node or what is around it is another: there may be a thousand."""

    def __init__(self) -> None:
        self._made_of: tuple[object, ...] = ()
        self._rows: dict[str, tuple[Known, Drain | None, Around, str]] = {}
        self._text = "[]"

    def of(
        self,
        nodes: Mapping[str, Known],
        drains: Mapping[str, Drain],
        incidents: Sequence[Incident],
        runs: Runs,
        read: frozenset[str],
    ) -> str:
        """Return the list as JSON. `read`: the nodes whose logs this daemon reads."""
        made_of = (nodes, drains, incidents, runs, read)
        if len(self._made_of) != len(made_of) or any(map(is_not, self._made_of, made_of)):
            around = surroundings(nodes, incidents, runs, read)
            rows = {k: self._row(n, drains.get(k), around[k]) for k, n in nodes.items()}
            self._text = f"[{', '.join(r[-1] for r in rows.values())}]"
            self._made_of, self._rows = made_of, rows
        return self._text

    def _row(
        self, node: Known, drain: Drain | None, around: Around
    ) -> tuple[Known, Drain | None, Around, str]:
        row = self._rows.get(node.seen.node_id)
        if row is not None and row[0] is node and row[1] is drain and row[2] == around:
            return row
        return node, drain, around, json.dumps(node_json(node, drain, around))
