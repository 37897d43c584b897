"""The first thread of `raywatch daemon`: follow the logs of the current session and say what fails.

It owns state and database: read, match, correlate, commit cursors and effects in one transaction, publish. A second
one (`service`) serves what was published; `lifetime` starts and ends both.
"""

from __future__ import annotations

import json
import logging
import time
from collections import Counter
from collections.abc import Sequence
from datetime import tzinfo
from itertools import chain
from pathlib import Path
from queue import SimpleQueue

from raywatch import __version__
from raywatch.asking import Desk
from raywatch.cluster import Cluster
from raywatch.collect.hints import Hints
from raywatch.collect.kubernetes import NAME as KUBERNETES
from raywatch.collect.resting import Cursor
from raywatch.config import Config
from raywatch.core.incidents import State, correlate_all, expire, note
from raywatch.core.runs import Runs
from raywatch.core.view import drain_json, incident_json, unknown_json
from raywatch.counting import Counting
from raywatch.examining import Examining, History
from raywatch.following import Following, label
from raywatch.inbox import Inbox, take
from raywatch.memory import documents, remembered
from raywatch.metrics import MetricsView, StoreView
from raywatch.model import Action, Chunk, Fact, FileId, Finding, Outcome
from raywatch.notice import Notices
from raywatch.noticing import Noticing
from raywatch.pace import Pace
from raywatch.reloading import Reloading
from raywatch.resuming import Look, Resuming
from raywatch.service import Service
from raywatch.shown import Publisher, Written
from raywatch.sight import Sight
from raywatch.store import Commit, CursorRow, Store, StoreWriteError

log = logging.getLogger("raywatch.daemon")
SWEEP_S = 2.0  # between two looks for another session, and at what nothing tells
SETTLE_S = 1.0  # between two turns of decisions when nothing happened
COMMIT_S = 1.0  # cursors alone need not be written more often: their lines are still in the files
PASSED = 500  # cursors a commit of files that said nothing: so many rows are some 3 ms
SHOWN_SHARE = 0.2  # of the time may go into snapshots, when they are large
RETRY_S = 5.0
STUCK_S = 60.0  # a loop that made no turn for so long sees nothing
QUIET_S = 900.0  # an incident that was quiet for so long is over


class Daemon:
    """The first thread's part: everything but the web server. `tick` is one turn of the loop."""

    def __init__(
        self,
        config: Config,
        temp_dirs: Sequence[Path],
        zone: tzinfo,
        rules: Reloading,
        store: Store,
    ) -> None:
        self._rules, self._store = rules, store
        classes = rules.engine.ruleset.classes
        self.inbox: Inbox = SimpleQueue()
        self.service: Service | None = None
        docs = store.docs()
        self.state: State = remembered(docs)
        givers = (*config.clouds, *([KUBERNETES] if config.kubernetes else []))
        self._counting = Counting(config.resume, classes, docs, config.notices, givers)
        cursors = (Cursor(FileId(c.dev, c.ino), c.path, *c[3:]) for c in store.cursors())
        self._logs = Following(temp_dirs, config.session_dir, cursors)
        self._tailer = self._logs.tailer
        self._pending = Commit()  # what the disk does not have yet
        started = float(docs.get("start", {}).get("-", time.time()))
        self._pending.docs["start", "-"] = repr(started)
        self._history = History(docs.get(History.KIND, {}))
        self._examining = Examining(rules.engine, zone)
        declared = config.declared.rules
        self._resuming = Resuming(config.resume, classes, docs, started_at=started, runs=declared)
        self._noticing = Noticing(docs, config.notices, started_at=started)
        self._desk = Desk(self._resuming)
        self._to_fire: list[Action] = []
        self._cluster = Cluster(docs, config.clouds, time.time(), config.kubernetes)
        self._sight = Sight(self._logs, self._cluster)
        self._swept_at = self._turned_at = self._committed_at = 0.0
        self._pace = Pace()
        self._show_at = 0.0
        self._unshown = self._caught_up = False
        self._write_error, self._ends = "", False
        self._opened: list[str] = []  # to be said once it is shown
        self._groups = {c.id: c.group for c in classes.values()}
        self._work_text = Written()
        self.shown = Publisher(classes, self._metrics(), time.time())
        self._publish(0.0)

    def close(self) -> None:
        """Commit what is known and let go of the files."""
        now, before = time.time(), self.state
        self._take_counted(now)
        self._collect_documents(before, self._resuming.runs)
        self._commit(now, force=True, passed=None)
        self._logs.close()
        self._rules.close()

    def end(self) -> None:
        """Nothing is started any more."""
        self.service, self._ends = None, True

    def wait(self) -> Hints:
        """Sleep until something is written, at most until something is due; return what events said."""
        now = time.time()
        idle = self._logs.idle_s(now)
        if self._unshown:
            idle = min(idle, max(0.0, self._show_at - now))
        pause = min(idle, self._pace.pause_s(time.monotonic()))
        if pause > 0:
            time.sleep(pause)
            idle -= pause
        return self._logs.waker.wait(idle)

    def wake(self) -> None:
        """End a wait, from any thread."""
        self._logs.waker.wake()

    def tick(self, now: float, hints: Hints) -> None:
        """Read a bounded amount; if it says anything, or it is time, say what it means, commit it, publish it."""
        began = time.monotonic()
        sweep = not 0 <= now - self._swept_at < SWEEP_S  # below 0: the clock was set back
        if sweep:
            self._swept_at = now
            self._logs.sweep(now)
        chunks = self._logs.read(now, hints, self._rules.engine.matcher.packed)
        due = sweep or self._unshown or not 0 <= now - self._turned_at < SETTLE_S
        if chunks or due or not self.inbox.empty():
            self._turned_at = now
            self._turn(now, chunks, sweep=sweep)
        self._pace.took(began, time.monotonic(), heard=bool(hints))
        if sweep:
            self._store.tidy()
            self._pace.collect(time.monotonic())

    def _turn(self, now: float, chunks: list[Chunk], *, sweep: bool) -> None:
        before, runs = self.state, self._resuming.runs
        findings, facts = self._examine(chunks, now)
        self._correlate(findings, facts, now)
        if not self._caught_up and self._logs.is_history_read():
            self._caught_up = True
            for key, text in self._history.documents(self._logs.name or "", now).items():
                self._pending.docs[History.KIND, key] = text
        news = self._resume(facts, now)
        if self.state is not before or news or not self._soon(now):
            self._take_counted(now)
        if self._rules.turn(now, sweep=sweep):
            self._take_counted(now)  # what the old ones counted
            self._examining.use(self._rules.engine)
        self._count(runs, now, sweep=sweep)
        self._collect_documents(before, runs)
        changed = self.state is not before or news
        asked = bool(self._desk)
        acts = bool(self._to_fire) or self._noticing.answering.due()
        self._commit(now, force=changed, durable=acts or asked)
        self._fire(now)
        self._unshown = self._unshown or changed
        if sweep or asked or (self._unshown and now >= self._show_at):
            self._publish(now)
        self._desk.reply(self._write_error)
        self._say_opened()
        if sweep and self.service is not None:
            self.service.look(self._resuming.to_look_at())
            if self._logs.session is not None:
                self.service.keep(self._resuming.packages(), self._logs.session)

    def _examine(self, chunks: list[Chunk], now: float) -> tuple[list[Finding], list[Fact]]:
        """Output without times was written just now, unless it was there before we looked."""
        session = self._logs.name or ""

        def date(chunk: Chunk) -> float | None:
            return now if self._caught_up else self._history.date(chunk, session)

        def commit(chunk: Chunk, upto: int, told: int) -> None:
            self._tailer.commit(chunk, upto, told=told)

        return self._examining.of(chunks, now, date, commit, early=self._caught_up)

    def _take_counted(self, now: float) -> None:
        """Put in what was only counted: it goes to the disk together with the cursors behind it."""
        if self._examining.pending:
            findings, facts = self._examining.counted()
            self._correlate(findings, facts, now)
            self._resuming.learn(facts, [], now)

    def _correlate(self, findings: list[Finding], facts: list[Fact], now: float) -> None:
        classes = self._rules.engine.ruleset.classes
        known = self.state.drains
        self._cluster.hear(findings, now)
        self.state, changes = correlate_all(
            self.state, facts, findings, classes, undated_may_open=False
        )
        drains = [d for n, d in self.state.drains.items() if n not in known]
        self._counting.saw(findings, changes, drains, now)
        opened = [c.incident for c in changes if c.kind == "opened"]
        self._opened += [f"id={i.id} class={i.class_id}" for i in opened]
        if changes and self.service is not None:
            self.service.nudge()
        self.state, _ = expire(self.state, now, QUIET_S)

    def _say_opened(self) -> None:
        for words in self._opened:
            log.warning("incident opened %s", words)
        self._opened.clear()

    def start(self, now: float) -> None:
        """Settle what a crash left behind: that it was started is on the disk already."""
        self._to_fire += self._resuming.unfinished(now)
        self._noticing.answering.settle(now)
        self._fire(now)

    def _resume(self, facts: list[Fact], now: float) -> bool:
        """Take in what came from the other thread and decide; return whether anything did."""
        seen, outcomes, requests, notices = take(self.inbox)
        said = self._cluster.learn((s for s in seen if not isinstance(s, Look)), now)
        if said.findings or said.facts:
            self._correlate(*said, now)
        self._resuming.learn(facts + said.facts, seen, now)
        told = self._notice(notices, now)
        for outcome in outcomes:
            log.warning("hook %s: %s %s", outcome.key, outcome.state, outcome.detail)
            if not self._noticing.answering.outcome(outcome, now):
                self._resuming.outcome(outcome, now)
        # History first: half of it could look like a failure. And nothing that nobody could carry out.
        if not self._closed_to_all():
            self._to_fire += self._resuming.decide(self.state.incidents, now)
        self._to_fire += self._desk.take(requests, self.state.incidents, now, self._closed())
        return bool(seen or outcomes or facts or requests or told or self._to_fire)

    def _notice(self, heard: list[Notices], now: float) -> bool:
        self._noticing.hear(heard)
        if self._ends:  # the next life hears it again, and can answer it
            return False
        told = self._noticing.tell(self._resuming.runs.nodes, now)
        for one in told:
            self._counting.noticed(one.asked.notice.provider)
            self.state = note(self.state, one.drain) if one.drain else self.state
            self._correlate([one.finding], [], now)
            self._noticing.answering.decide(one.asked, self._sight.two_sessions(), now)
        return bool(told)

    def _closed_to_all(self) -> str:
        """Say why nothing may be decided now."""
        if self.service is None:
            return "the daemon ends"
        if not self._caught_up:
            return "the daemon still reads what was there before it started: ask again"
        return self._sight.two_sessions() or self._cluster.unknown_owner()

    def _closed(self) -> str:
        if reason := self._closed_to_all():
            return reason
        return self._write_error and f"the store cannot be written: {self._write_error}"

    def _count(self, runs: Runs, now: float, *, sweep: bool) -> None:
        resuming, incidents = self._resuming, self.state.incidents
        pruned = sweep and self._caught_up and resuming.prune(now)
        self._counting.did(*resuming.news(), resuming.runs, incidents, now)
        self._counting.answered(self._noticing.answering.ends())
        if pruned or resuming.runs.merged is not runs.merged:
            self._counting.tidy(resuming.runs, resuming.ledger, incidents)

    def _fire(self, now: float) -> None:
        """Start what is on the disk; what could not be written is taken back: it is decided anew, not hours later."""
        if self.service is None:
            return
        if self._write_error:
            detail = f"the store cannot be written: {self._write_error}"
            for action in self._to_fire:
                self._resuming.outcome(Outcome(action.key, "deferred", now, detail), now)
            self._to_fire = []
        incidents = {n: i for i in self.state.incidents for n in (i.id, *i.merged)}
        for action in self._to_fire:
            run, incident = self._resuming.run_of(action), incidents.get(action.incident)
            if run is not None:
                classes = self._rules.engine.ruleset.classes
                text = json.dumps(incident_json(incident, classes)) if incident else "{}"
                self.service.fire(action, run, text)
        self._to_fire = []
        if not self._write_error:
            for answer in self._noticing.answering.take(now):
                self.service.answer(answer, self._logs.session)

    def _collect_documents(self, before: State, runs: Runs) -> None:
        changes = documents(before, self.state), self._resuming.documents(runs)
        told = (x.documents() for x in (self._counting, self._noticing, self._cluster))
        for document in chain(*changes, *told):
            self._pending.docs[document.kind, document.id] = document.json

    def _collect_cursors(self, passed: int | None) -> None:
        self._pending.forget(self._tailer.gone())  # first: a new file may have a dead one's number
        self._pending.put_cursors(
            CursorRow(
                *(*c.file, label(c.path), c.offset, c.line),
                *(c.stretch, c.crc, c.skipping, c.told, c.told_crc),
            )
            for c in self._tailer.cursors(passed)
        )

    def _commit(
        self, now: float, *, force: bool, durable: bool = False, passed: int | None = PASSED
    ) -> None:
        """Cursors and effects go together or not at all; a full disk loses nothing that is in the files.

        `passed`: so many cursors of files that said nothing; the others wait for the next time.
        """
        soon = self._soon(now)
        if soon and (self._write_error or not force):
            return
        self._collect_cursors(0 if soon else passed)
        if not self._pending:
            return
        self._committed_at = now
        try:
            self._store.commit(self._pending, durable=durable)
        except StoreWriteError as error:
            if not self._write_error:
                log.error("cannot write the store, watching on: %s", error)  # noqa: TRY400 - one line
            self._write_error = str(error)
            return
        self._pending, self._write_error = Commit(), ""

    def _soon(self, now: float) -> bool:
        """Say whether the last commit, or the last try, was a moment ago."""
        return 0 <= now - self._committed_at < (RETRY_S if self._write_error else COMMIT_S)

    # --- what others see ---

    def _publish(self, now: float) -> None:
        began = time.perf_counter()
        store = {"error": self._write_error or None, "rebuilt": self._store.rebuilt}
        seen = self._sight.shown(now, self.state, self._resuming.runs)
        self.shown.publish(
            now,
            self._logs.name,
            incidents=self.state.incidents,
            runs=self._resuming.runs,
            rest=f'{{{seen}, "store": {json.dumps(store)}, {self._work()[1:]}'.encode(),
            view=self._metrics(),
        )
        if self.service is not None:
            self.service.publish()
        self._unshown = False
        # A thousand incidents are a megabyte: their findings are shown together.
        self._show_at = now + (time.perf_counter() - began) * (1 / SHOWN_SHARE - 1)

    def _work(self) -> str:
        """Return drains, unknown failures, runs and actions as JSON: there may be hundreds, and most findings change none of them."""
        drains, unknown = self.state.drains, self.state.unknown

        def rows() -> dict[str, object]:
            return {
                "drains": [drain_json(d) for d in drains.values()],
                "unknown": unknown_json(unknown),
                **self._cluster.shown(),
                **self._noticing.shown(),
                **self._resuming.shown(),
            }

        made_of: tuple[object, ...] = (drains, unknown, self._resuming.runs, self._resuming.ledger)
        made_of += self._cluster.made_of() + self._noticing.made_of()
        return self._work_text.of(made_of, rows)

    def _metrics(self) -> MetricsView:
        open_now = Counter(i.class_id for i in self.state.incidents if i.state == "open")
        return MetricsView(
            version=__version__,
            classes=self._groups,
            findings=dict(self._counting.findings),
            pairs=self._rules.pairs,
            incidents=dict(self._counting.incidents),
            newest=dict(self._counting.newest),
            open_incidents=open_now,
            notices=dict(self._counting.notices),
            read_bytes=dict(self._tailer.read_bytes),
            lag_bytes=self._tailer.lag_bytes(),
            files=self._tailer.files(),
            polling=self._logs.is_polling(),
            sources=self._sight.ups(),
            ticks=tuple(self._pace.ticks),
            tick_seconds=self._pace.tick_seconds,
            at=time.time(),
            store=StoreView(not self._write_error, self._store.rebuilt, *self._store.room()),
            rules=self._rules.view(),
            work=self._counting.work(
                self._resuming.runs,
                self.state.incidents,
                self._resuming.ledger,
                self._noticing.answering.actions.values(),
            ),
            cluster=self._sight.cluster(self.state.drains, dict(self._counting.launch_failures)),
        )

    def health(self) -> tuple[bool, bytes]:
        """Say whether the daemon sees and keeps what happens, from any thread. Without logs it is not healthy."""
        still = time.time() - self._swept_at > STUCK_S and self._swept_at > 0
        facts = {
            "version": __version__,
            **self._logs.health(),
            "blind": self._sight.blind,
            "loop": "stands still" if still else "ok",
            "store": self._write_error or "ok",
            "store_rebuilt": self._store.rebuilt,
            "rules": self._rules.row(),
        }
        sees = self._logs.standing(0.0).works
        return sees and not still and not self._write_error, json.dumps(facts).encode()
