"""The daemon's counters: kept, written down in the tick's transaction, and shown as metrics."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from itertools import product
from types import MappingProxyType
from typing import get_args

from pydantic import TypeAdapter, ValidationError

from raywatch.core.capacity import Failure
from raywatch.core.drains import is_taking
from raywatch.core.labels import assigned, newest
from raywatch.core.lineage import canonical
from raywatch.core.relevance import speaks_of_class
from raywatch.core.runs import Runs
from raywatch.core.tally import (
    BOUNDS_S,
    OUTCOMES,
    PHASES,
    Phase,
    Restart,
    Tally,
    acted,
    booked,
    broke,
    expected,
    restarted,
    saved,
    tidied,
)
from raywatch.core.waiting import Reason, failed_launches, failures_at
from raywatch.memory import COUNTERS, Document
from raywatch.metrics import WorkView
from raywatch.model import (
    Action,
    Change,
    Drain,
    FailureClass,
    Finding,
    HookKind,
    Incident,
    ResumeRule,
)
from raywatch.notice import CLASSES, NoticeAction, NoticeHook, NoticeHookKind
from raywatch.runrows import RunRows

_TALLY = TypeAdapter(Tally)
_LAUNCHES = TypeAdapter(dict[str, float])  # when one of a node type failed last
HOOKS = tuple(dict.fromkeys((*get_args(HookKind), *get_args(NoticeHookKind))))
# All of hook x class x outcome would be some thousand series, nearly all of them 0 for ever. There from the start is
# what a rule's mode ends in, for the classes that the rule admits: those come within one scrape of the failure. The
# other outcomes take their time (a hook that times out, a decision that is given up) and are there, at 0, as soon as
# an incident of their class was seen.
_AT_ONCE: Mapping[str, tuple[str, ...]] = {
    "observe": ("observed",),
    "suggest": ("suggested",),
    "approve": ("suggested", "succeeded", "failed"),
    "auto": ("suggested", "succeeded", "failed"),
}
ANSWERED = ("succeeded", "failed", "timed_out", "interrupted", "refused")
Moves = Sequence[tuple[Action | None, Action]]


class Counting:
    """All that is counted for ever. Owned by the first thread."""

    def __init__(
        self,
        rules: Sequence[ResumeRule],
        classes: Mapping[str, FailureClass],
        docs: Mapping[str, Mapping[str, str]],
        hooks: Sequence[NoticeHook] = (),
        givers: Iterable[str] = (),
    ) -> None:
        """Go on from stored documents. `givers`: who may give notices beside Ray. Raises ValueError for those of another version."""
        self._rules, self._classes, self._hooks = rules, classes, hooks
        self.findings: Counter[tuple[str, str]] = Counter()  # (class, component)
        self.incidents: Counter[str] = Counter()
        self.newest: dict[str, tuple[str, float]] = {}  # class -> its last incident, and when
        # By who gave them: ray, kubernetes or a cloud.
        self.notices: Counter[str] = Counter(dict.fromkeys(("ray", *givers), 0))
        self.launch_failures: Counter[str] = Counter(dict.fromkeys(get_args(Reason), 0))
        self._launches: Mapping[str, Failure] = {}  # the last that failed of each node type
        self.answers: Counter[tuple[str, str, str]] = (
            Counter()
        )  # hooks of notices, as actions are counted
        stored = docs.get("counters", {})
        try:
            self._load(stored.get("-", "{}"))
            self._tally: Tally = _TALLY.validate_json(stored.get("tally", "{}"))
            self._launches = failures_at(_LAUNCHES.validate_json(stored.get("launches", "{}")))
        except ValidationError as error:
            raise ValueError(f"the store holds what this version cannot read: {error}") from error
        self._written = self._tally
        self._told: Mapping[str, Failure] = self._launches
        self._seen: Runs | None = None
        self._rows = RunRows(rules)
        self._changed = False

    def _load(self, text: str) -> None:
        for key, count in COUNTERS.validate_json(text).items():
            kind, _, name = key.partition(" ")
            if kind == "n":
                self.notices[name or "ray"] = count
            elif kind == "i":
                self.incidents[name] = count
            elif kind == "l":
                self.launch_failures[name] = count
            elif kind == "a":
                hook_kind, class_id, state = name.split(" ")
                self.answers[hook_kind, class_id, state] = count
            else:
                class_id, _, component = name.partition(" ")
                self.findings[class_id, component] = count

    def documents(self) -> Iterator[Document]:
        """Yield what changed since the last call."""
        if self._changed:
            rows = {f"f {c} {where}": n for (c, where), n in self.findings.items()}
            rows |= {f"i {c}": n for c, n in self.incidents.items()}
            rows |= {f"n {who}": n for who, n in self.notices.items() if n}
            rows |= {f"l {why}": n for why, n in self.launch_failures.items() if n}
            rows |= {"a " + " ".join(what): n for what, n in self.answers.items()}
            yield Document("counters", "-", COUNTERS.dump_json(rows).decode())
            self._changed = False
        if self._tally is not self._written:
            yield Document("counters", "tally", _TALLY.dump_json(self._tally).decode())
            self._written = self._tally
        if self._launches is not self._told:  # another line of one may be read in the next life
            rows_at = {k: f.last_at for k, f in self._launches.items()}
            yield Document("counters", "launches", _LAUNCHES.dump_json(rows_at).decode())
            self._told = self._launches

    def saw(
        self,
        findings: Iterable[Finding],
        changes: Iterable[Change],
        drains: Iterable[Drain],
        now: float,
    ) -> None:
        """Count what was found and what it did to the incidents; `drains` are new ones."""
        findings = list(findings)
        for finding in findings:
            self.findings[finding.class_id, finding.evidence.component] += finding.count
            self._changed = True
        self._launches, reasons = failed_launches(self._launches, findings)
        self.launch_failures.update(reasons)
        for change in changes:
            if change.kind in ("opened", "reclassified"):
                self.incidents[change.incident.class_id] += 1
                self.newest[change.incident.class_id] = change.incident.id, now
                self._changed = True
            self._tally = broke(self._tally, change.incident, change.finding, now)
        for drain in filter(is_taking, drains):  # an idle node that is sent away is no notice
            self.noticed(drain.by)

    def noticed(self, who: str, times: int = 1) -> None:
        """Count notices that a node will be taken, by who gave them."""
        if times:
            self.notices[who] += times
            self._changed = True

    def answered(self, ends: Iterable[NoticeAction]) -> None:
        """Count what came of hooks of notices; what an earlier life did is no outcome of this one."""
        for action in ends:
            if action.state != "history":
                self.answers[action.hook.kind, CLASSES[action.notice.kind], action.state] += 1
                self._changed = True

    def did(
        self,
        moves: Moves,
        restarts: Sequence[Restart],
        runs: Runs,
        incidents: Sequence[Incident],
        now: float,
    ) -> None:
        """Count what became of actions and runs, and book what has settled."""
        tally = self._tally
        for before, action in moves:
            tally = acted(tally, before, action, runs, now)
        tally = booked(restarted(tally, restarts), runs, incidents, self._classes, now)
        if runs is not self._seen:
            tally = tally.with_labels(assigned(tally.labels, newest(runs.runs.values())))
            tally = saved(tally, runs)
            self._seen = runs
        self._tally = tally

    def tidy(self, runs: Runs, ledger: Mapping[str, Action], incidents: Sequence[Incident]) -> None:
        """Follow lineages that became one; drop what belongs to nothing that is still known."""
        self._tally = tidied(self._tally, runs, ledger, incidents)

    # --- what is shown -----------------------------------------------------------------------------

    def work(
        self,
        runs: Runs,
        incidents: Sequence[Incident],
        ledger: Mapping[str, Action] = MappingProxyType({}),
        answers: Iterable[NoticeAction] = (),
    ) -> WorkView:
        """Return the part of the metrics that is about runs and actions. `answers`: what is done about notices."""
        tally, labels = self._tally, self._tally.labels
        restarts, breaks = expected(tally, runs, incidents, self._classes)
        losses = {r: {_pair(w)[1]: 0.0 for w in row} for r, row in restarts.items()}
        return WorkView(
            runs=self._rows.of(runs, ledger, tally),
            actions=self._actions(),
            ring_breaks=_labelled(tally.breaks, breaks, runs, labels),
            restarts={
                (run, *_pair(what)): count
                for (run, what), count in _labelled(tally.restarts, restarts, runs, labels).items()
            },
            lost_s=_labelled(tally.lost_s, losses, runs, labels),
            phases={p: _plain(tally.phases.get(p, Phase())) for p in PHASES},
            bounds_s=BOUNDS_S,
            hooks_running=_running(ledger.values(), answers),
        )

    def _actions(self) -> dict[tuple[str, str, str], int]:
        rows: dict[tuple[str, str, str], int] = {}
        for rule in self._rules:
            admitted = [c.id for c in self._classes.values() if speaks_of_class(rule, c)]
            seen = [c for c in admitted if self.incidents[c]]
            hook = (rule.hook.kind,)
            rows |= dict.fromkeys(product(hook, admitted, _AT_ONCE[rule.mode]), 0)
            rows |= dict.fromkeys(product(hook, seen, OUTCOMES), 0)
        for what, count in self._tally.actions.items():
            hook_kind, class_id, outcome = what.split(" ")
            rows[hook_kind, class_id, outcome] = count
        for asked in self._hooks:
            seen = [CLASSES[kind] for kind in asked.kinds]
            rows |= dict.fromkeys(product((asked.kind,), seen, ANSWERED), 0)
        for answer, count in self.answers.items():
            rows[answer] = rows.get(answer, 0) + count
        return rows


def _pair(what: str) -> tuple[str, str]:
    owner, _, class_id = what.partition(" ")
    return owner, class_id


def _plain(phase: Phase) -> tuple[tuple[int, ...], float]:
    return phase.counts, phase.sum_s


def _running(ledger: Iterable[Action], answers: Iterable[NoticeAction]) -> dict[str, int]:
    kinds = [a.hook.kind for a in ledger if a.state == "started"]
    more = [a.hook.kind for a in answers if a.state == "started"]
    return {**dict.fromkeys(HOOKS, 0), **Counter((*kinds, *more))}


def _labelled(
    counts: Mapping[str, Mapping[str, float]],
    zeros: Mapping[str, Mapping[str, float]],
    runs: Runs,
    labels: Mapping[str, str],
) -> dict[tuple[str, str], float]:
    """Return the rows of the runs that are shown, and of '' (no run was known)."""
    found: dict[tuple[str, str], float] = {}
    for table in (zeros, counts):
        for run, row in table.items():
            label = labels.get(canonical(runs, run)) if run else ""
            if label is None:
                continue
            for what, count in row.items():
                found[label, what] = found.get((label, what), 0) + count
    return found
