"""What trains, what was decided about it, and what came of it: runs, ledger and rules in the first thread.

Decisions are pure (core.policy); this keeps their state between ticks, writes it down, and says what is to be fired.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

from pydantic import TypeAdapter, ValidationError

from raywatch.core.attempts import explained, newly_ended
from raywatch.core.declared import is_named_by_log, looked_at
from raywatch.core.ledger import forgettable, orphaned
from raywatch.core.lineage import put
from raywatch.core.policy import ByHand, apply_outcome, decide, decide_by_hand, progress
from raywatch.core.relevance import speaks_of
from raywatch.core.runs import (
    Runs,
    canonical,
    note,
    observe,
    restored,
    submission_status,
)
from raywatch.core.runview import RunJson, checkpoint_json, run_json
from raywatch.core.saved import checkpoint_seen
from raywatch.core.tally import Restart, restarts_between
from raywatch.core.view import rfc3339
from raywatch.memory import Document
from raywatch.model import (
    Action,
    Checkpoint,
    CheckpointProblem,
    Fact,
    FailureClass,
    Hook,
    Incident,
    Outcome,
    ResumeRule,
    Run,
    RunRule,
)
from raywatch.observations import Observation

_RUN = TypeAdapter(Run)
_ACTION = TypeAdapter(Action)
_MERGED = TypeAdapter(dict[str, str])
_LOOKS = ("running", "restarting", "failed", "pending", "unknown")
_DEFAULT = ResumeRule(run="", mode="observe", hook=Hook("job"))
_UNDONE = ("suggested", "awaiting_approval", "waiting", "started")
MAX_LOOKS = 20
EXPLAIN_S = 300.0  # a vanished node is known dead a minute later, and its class may get better
PRUNE_S = 3600.0


@dataclass(frozen=True, slots=True)
class Look:
    """What is on the disk of a run."""

    run: str
    found: Checkpoint | CheckpointProblem
    older: Checkpoint | None = None  # the newest whole one before it


class Resuming:
    """Runs and ledger, from stored documents on."""

    def __init__(
        self,
        rules: Sequence[ResumeRule],
        classes: Mapping[str, FailureClass],
        docs: Mapping[str, Mapping[str, str]],
        *,
        started_at: float,
        runs: tuple[RunRule, ...] = (),
    ) -> None:
        """`started_at`: the daemon's first start; `runs`: what the configuration declares. Raises ValueError for documents of another version."""
        self._rules, self._classes, self._started_at = rules, classes, started_at
        try:
            known = [_RUN.validate_json(t) for t in docs.get("run", {}).values()]
            merged = _MERGED.validate_json(docs.get("merged", {}).get("-", "{}"))
            self.ledger = {k: _ACTION.validate_json(t) for k, t in docs.get("action", {}).items()}
        except ValidationError as error:
            raise ValueError(f"the store holds what this version cannot read: {error}") from error
        # Actions name a run by the id that it had: one that was merged away since must still be found.
        self.runs: Runs = replace(restored(known), merged=merged, rules=runs)
        self._changed: set[str] = set()
        self._moves: list[tuple[Action | None, Action]] = []
        self._restarts: list[Restart] = []
        self._pruned_at = 0.0
        self._ended: dict[
            str, float
        ] = {}  # runs of which an attempt ended, until when it is explained
        self._repeating = [r for r in rules if r.hook.kind == "job" and r.mode != "observe"]

    def unfinished(self, now: float) -> list[Action]:
        """Settle what a crash left behind; return the actions to fire again.

        A job hook is safe to fire again: its key is the submission's id, as long as Ray knows it. What is older than
        `max_age_s`, and a command, is interrupted.
        """
        again: list[Action] = []
        for action in [a for a in self.ledger.values() if a.state == "started"]:
            is_safe = action.hook.kind == "job" or action.hook.retry_interrupted
            age = now - (action.started_at or 0.0)
            if is_safe and age <= self._rule_of(action).max_age_s:
                again.append(action)
            else:
                detail = "the daemon ended while it ran; not run again"
                self.outcome(Outcome(action.key, "interrupted", now, detail), now)
        return again

    def learn(self, facts: Iterable[Fact], seen: Iterable[Observation | Look], now: float) -> None:
        """Take in what logs, APIs and disks say about runs."""
        known = self.runs
        for fact in sorted(facts, key=lambda f: f.at):
            before = self.runs
            self.runs = note(before, fact, now)
            self._restarts += restarts_between(before, self.runs, fact, now)
        for item in seen:
            if isinstance(item, Look):
                self._look(item, now)
            else:
                self.runs = observe(self.runs, item, now)
        if self.runs.runs is not known.runs:
            self._ended |= dict.fromkeys(newly_ended(known, self.runs), now + EXPLAIN_S)

    def _look(self, look: Look, now: float) -> None:
        run = self.runs.get(look.run)
        if run is None or not is_named_by_log(run):
            self.runs = checkpoint_seen(self.runs, look.run, look.found, now, look.older)
        elif (found := looked_at(run, look.found)) is not None:
            self.runs = checkpoint_seen(self.runs, look.run, found, now)

    def decide(self, incidents: Sequence[Incident], now: float) -> list[Action]:
        """Decide; return the actions that are to be fired once they are on the disk."""
        self._explain(incidents, now)
        new = decide(
            incidents,
            self.runs,
            self.ledger,
            self._rules,
            self._classes,
            now=now,
            started_at=self._started_at,
        )
        for action in new:
            self.put(action)
        for action in list(self.ledger.values()):
            moved = progress(action, self.runs, now)
            if moved is not action:
                self.put(moved)
        return [a for a in new if a.state == "started"]

    def _explain(self, incidents: Sequence[Incident], now: float) -> None:
        """Say which incident ended an attempt; its class may get better for a while."""
        for number, until in list(self._ended.items()):
            run = self.runs.get(number)
            if run is None or now > until:
                del self._ended[number]
                continue
            told = explained(run, incidents, self.runs, self._classes)
            self.runs = put(self.runs, told, self.runs.life(run.id))

    def outcome(self, outcome: Outcome, now: float) -> None:
        """Note what came of an action."""
        action = self.ledger.get(outcome.key)
        if action is not None:
            self.put(apply_outcome(action, outcome, now, self._rule_of(action)))

    def _rule_of(self, action: Action) -> ResumeRule:
        return next(
            (r for r in self._rules if r.hook == action.hook and r.mode == action.mode), _DEFAULT
        )

    def prune(self, now: float) -> bool:
        """Forget decisions that are nobody's history any more, once an hour; return whether it was time."""
        if now - self._pruned_at < PRUNE_S:
            return False
        self._pruned_at = now
        dropped = forgettable(self.ledger, self.runs, now)
        for action in orphaned(self.ledger, self.runs, now):  # shown so until the next time
            gone = "its run is not known any more"
            self.put(replace(action, state="abandoned", detail=gone))
        if dropped:
            self.ledger = {k: a for k, a in self.ledger.items() if k not in dropped}
            self._changed |= dropped
        return True

    def news(self) -> tuple[list[tuple[Action | None, Action]], list[Restart]]:
        """Return how actions changed and which runs were started again since the last call, for the counters."""
        told = self._moves, self._restarts
        self._moves, self._restarts = [], []
        return told

    def by_hand(self, run: Run, incidents: Sequence[Incident], now: float) -> ByHand:
        """Say what a person who asks to resume the run now would start, and what forbids it."""
        return decide_by_hand(
            run,
            incidents,
            self.runs,
            self.ledger,
            rules=self._rules,
            classes=self._classes,
            now=now,
        )

    def named(self, text: str) -> tuple[Run, ...]:
        """Return the run of that lineage id, else those of that name or submission."""
        run = self.runs.get(text)
        if run is not None:
            return (run,)
        known = self.runs.runs.values()
        return tuple(r for r in known if text and text in (r.name, *r.submissions))

    def put(self, action: Action) -> None:
        """Enter an action, new or changed, into the ledger."""
        self._moves.append((self.ledger.get(action.key), action))
        self.ledger = {**self.ledger, action.key: action}
        self._changed.add(action.key)

    def to_look_at(self) -> list[tuple[str, str, str]]:
        """Return (run, storage path, name) of runs whose checkpoints may have changed."""
        live = [r for r in self.runs.runs.values() if r.name and r.status in _LOOKS]
        places = [self._place(r) for r in live]
        return [p for p in places if p[1]][-MAX_LOOKS:]

    def _place(self, run: Run) -> tuple[str, str, str]:
        """Of a run outside Ray Train only its log names a checkpoint: the path itself is looked at."""
        if run.checkpoint is not None and is_named_by_log(run):
            return run.id, run.checkpoint.path, ""
        return run.id, self._storage(run), run.name

    def _storage(self, run: Run) -> str:
        """Return the folder that holds the run's own one: what the configuration says beats what Ray Train says."""
        named = (r.checkpoints for r in self._rules if r.checkpoints and speaks_of(r, run))
        return next(named, run.storage_path)

    def packages(self) -> tuple[str, ...]:
        """Return the runtime_envs whose code must be kept: of jobs that run or wait to be submitted again."""
        waiting = {canonical(self.runs, a.run) for a in self.ledger.values() if a.state in _UNDONE}
        wanted = (r for r in self.runs.runs.values() if r.kind == "submission" and r.runtime_env)
        kept = (
            r.runtime_env
            for r in wanted
            if r.id in waiting or submission_status(self.runs, r) == "RUNNING"
            if any(speaks_of(rule, r) for rule in self._repeating)
        )
        return tuple(dict.fromkeys(kept))

    def documents(self, before: Runs) -> Iterator[Document]:
        """Yield what changed since `before` and since the last call."""
        for number, run in self.runs.runs.items():
            if before.runs.get(number) is not run:
                yield Document("run", number, _RUN.dump_json(run).decode())
        for number in before.runs.keys() - self.runs.runs.keys():
            yield Document("run", number, None)
        if self.runs.merged is not before.merged:
            yield Document("merged", "-", _MERGED.dump_json(dict(self.runs.merged)).decode())
        for key in self._changed:
            kept = self.ledger.get(key)
            yield Document("action", key, _ACTION.dump_json(kept).decode() if kept else None)
        self._changed.clear()

    def run_of(self, action: Action) -> Run | None:
        """Return the run of an action."""
        return self.runs.get(action.run)

    def shown(self) -> dict[str, list[RunJson] | list[dict[str, object]]]:
        """Show runs and actions as the API does."""
        return {
            "runs": [run_json(r, self.runs, self._rules) for r in self.runs.runs.values()],
            "actions": [self.shown_action(a) for a in self.ledger.values()],
        }

    def shown_action(self, action: Action) -> dict[str, object]:
        """Show one action as the API does, under the id that its run has now."""
        return {**_action_json(action), "run": canonical(self.runs, action.run)}


def _action_json(action: Action) -> dict[str, object]:
    return {
        "key": action.key,
        "run": action.run,
        "run_name": action.run_name,
        "incident": action.incident,
        "class": action.class_id,
        "attempt": action.attempt,
        "mode": action.mode,
        "hook": action.hook.kind,
        "hook_name": action.hook.name,
        "by_hand": action.by_hand,
        "state": action.state,
        "detail": action.detail,
        "created_at": rfc3339(action.created_at),
        "due_at": rfc3339(action.due_at),
        "started_at": rfc3339(action.started_at),
        "ended_at": rfc3339(action.ended_at),
        "submission_id": action.submission_id,
        "avoid_nodes": list(action.avoid_nodes),
        "checkpoint": checkpoint_json(action.checkpoint),
        "first_step": action.first_step,
        "first_step_at": rfc3339(action.first_step_at),
        "output": action.output,
    }
