"""Runs -> what the metrics show of each; only what changed is worked out anew."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple, get_args

from raywatch.core.lineage import Life
from raywatch.core.relevance import attempts_used, history_of, speaks_of
from raywatch.core.restarts import Owner, next_restart
from raywatch.core.runs import Runs
from raywatch.core.tally import Tally, interval_s
from raywatch.metrics import RunRow
from raywatch.model import OVER, Action, ResumeRule, Run, RunStatus

SLACK_S = 1.0  # between the clocks of a job and of its worker group
BUDGETS = ("failures", "preemptions", "raywatch")  # two of Ray Train's, and that of a [[resume]]
_DONE = ("stopped", "finished")
_ACTING = ("approve", "auto")


class _Made(NamedTuple):
    """A row and all that it was made of."""

    run: Run
    life: Life
    ledger: Mapping[str, Action]
    merged: Mapping[str, str]
    label: str
    saves: tuple[float, ...]
    row: RunRow


class RunRows:
    """Remembers rows: a budget is counted from the whole ledger, and every finding publishes."""

    def __init__(self, rules: Sequence[ResumeRule]) -> None:
        self._rules = rules
        self._known: dict[str, _Made] = {}

    def of(self, runs: Runs, ledger: Mapping[str, Action], tally: Tally) -> tuple[RunRow, ...]:
        """Return the rows of the runs that have a label."""
        labels = {r: label for r, label in tally.labels.items() if r in runs.runs}
        made = {r: self._made(r, label, runs, ledger, tally) for r, label in labels.items()}
        self._known = made
        return tuple(m.row for m in made.values())

    def _made(
        self, run_id: str, label: str, runs: Runs, ledger: Mapping[str, Action], tally: Tally
    ) -> _Made:
        run, life = runs.runs[run_id], runs.life(run_id)
        saves = tally.saves.get(run_id, ())
        known = self._known.get(run_id)
        if known is not None and (known.label, known.saves) == (label, saves):
            same = known.run is run and known.life is life
            if same and known.ledger is ledger and known.merged is runs.merged:
                return known
        row = self._row(run, label, saves, runs, ledger)
        return _Made(run, life, ledger, runs.merged, label, saves, row)

    def _row(
        self,
        run: Run,
        label: str,
        saves: tuple[float, ...],
        runs: Runs,
        ledger: Mapping[str, Action],
    ) -> RunRow:
        over = run.status in OVER
        size = run.world_sizes[-1] if run.world_sizes else None
        found = run.checkpoint
        saved = found.at if found is not None and found.whole else None
        budgets = {} if run.status in _DONE else self._budgets(run, runs, ledger)
        after = next_restart(run, runs, self._rules)
        return RunRow(
            label=label,
            world_size=0 if over and size is not None else size,
            level=run.level,
            step=run.step,
            # Nobody waits for the next checkpoint of a run that is over.
            checkpoint_at=None if over else saved,
            expected_size=None if over else _expected(run),
            progress_at=run.step_at,
            interval_s=interval_s(saves),
            attempts=len(run.attempts) or None,
            status={s: s == run.status for s in get_args(RunStatus)},
            owner={o: o == after.owner for o in get_args(Owner)},
            allowed={k: most for k, (most, _) in budgets.items()},
            left={k: max(0.0, most - used) for k, (most, used) in budgets.items()},
        )

    def _budgets(
        self, run: Run, runs: Runs, ledger: Mapping[str, Action]
    ) -> dict[str, tuple[float, int]]:
        """Return how many restarts each owner allows, as far as that is known, and how many are used."""
        failures, preemptions, ours = BUDGETS
        known = {
            failures: (run.max_failures, run.failures),
            preemptions: (run.max_preemptions, run.preemptions),
        }
        found = {
            name: (math.inf if most < 0 else most, used or 0)
            for name, (most, used) in known.items()
            if most is not None
        }
        rule = next((r for r in self._rules if speaks_of(r, run)), None)
        if rule is not None and rule.mode in _ACTING:
            used = attempts_used(run, history_of(run, runs, ledger))
            found[ours] = (rule.max_attempts, used)
        return found


def _expected(run: Run) -> int | None:
    """Return the most ranks that the run's current job has had; None where no size is known."""
    since = (run.started_at or 0.0) - SLACK_S
    job = run.attempts[-1].job if run.attempts else ""
    mine = (a.size for a in run.attempts if a.job == job and a.started_at >= since)
    return max((s for s in mine if s is not None), default=None)
