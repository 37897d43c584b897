"""Which decisions may be forgotten: a ledger that is kept for ever outgrows everything else in the store.

Forgetting must change no later decision. What was fired for a lineage is its history, and budgets, back-off and the
number of the next attempt are counted from it, so nothing of it goes while any run reaches it, used up or not: a
budget that forgets is no budget. It is bounded all the same: runs are (lineage.MAX_RUNS), and so are their attempts.
Once its lineage is forgotten too, a run of this name is a new lineage that a person began, with a budget of its own;
raywatch's own resubmission cannot be one, it is seen as a run within seconds and FRESH_S is a day.
What was never fired (observed, abandoned) is no history: it only must not be all that links a run to its history.
"""

from __future__ import annotations

from collections.abc import Mapping

from raywatch.core.relevance import FIRED, reached
from raywatch.core.runs import Runs, canonical
from raywatch.model import Action

KEEP_S = 90 * 86_400.0
FRESH_S = 86_400.0  # nothing younger goes, however much there is
MAX_ACTIONS = 2000
_UNFIRED = ("observed", "abandoned")
_FINAL = (*_UNFIRED, "succeeded", "failed", "timed_out", "interrupted", "refused")


def forgettable(
    ledger: Mapping[str, Action], runs: Runs, now: float, limit: int = MAX_ACTIONS
) -> frozenset[str]:
    """Return the keys of the actions that are old or too many, final, and nobody's history."""
    newest = sorted(ledger.values(), key=lambda a: (_touched_at(a), a.key), reverse=True)
    due = {
        a.key: a
        for place, a in enumerate(newest)
        if a.state in _FINAL and now - _touched_at(a) > (KEEP_S if place < limit else FRESH_S)
    }
    if not due:
        return frozenset()
    known = known_to_runs(ledger, runs)
    gone = frozenset(k for k, a in due.items() if k not in known or a.state in _UNFIRED)
    left = {k: a for k, a in ledger.items() if k not in gone}
    history = {k for k in known if ledger[k].state in FIRED}
    if history <= known_to_runs(left, runs):
        return gone
    return gone - known


def orphaned(ledger: Mapping[str, Action], runs: Runs, now: float) -> tuple[Action, ...]:
    """Return what waits for a person or a moment although its run was forgotten long ago."""
    pending = ("waiting", "awaiting_approval", "suggested")
    old = [a for a in ledger.values() if a.state in pending and now - _touched_at(a) > KEEP_S]
    known = known_to_runs(ledger, runs) if old else frozenset()
    return tuple(a for a in old if a.key not in known)


def known_to_runs(ledger: Mapping[str, Action], runs: Runs) -> frozenset[str]:
    """Return the keys of the actions that some run reaches, as policy reaches its history."""
    ids = set(runs.runs)
    ids |= {canonical(runs, r.metadata.get("raywatch_run", r.id)) for r in runs.runs.values()}
    submissions = {s for r in runs.runs.values() for s in r.submissions}
    return frozenset(reached(ids, submissions, runs, ledger))


def _touched_at(action: Action) -> float:
    times = (action.created_at, action.started_at, action.ended_at, action.first_step_at)
    return max(t for t in times if t is not None)
