"""A daemon's many lives under writers, rotations and jobs that fail; in the end everything took effect once.

One story is one store, one session and one Ray: `tell` plays it and raises AssertionError with the seed where a law is
broken. Everything that is drawn is drawn from the seed; when exactly a signal comes is the machine's affair.
"""

from __future__ import annotations

import contextlib
import json
import random
import re
import resource
import signal
import sqlite3
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.crash.lives import Forge
from tests.crash.ray import ManyJobs
from tests.daemons import DaemonProcess, Process, arguments, make_session, started

RANDOM_S = """ "$(printf '0.%03d' "$(od -An -N1 -tu1 /dev/urandom)")" """
HOOK = """\
echo "start $RAYWATCH_ACTION_KEY" >> "$1"
sleep {seconds}
echo "end $RAYWATCH_ACTION_KEY" >> "$1"
"""
CONFIG = """\
[ray]
dashboard = "{url}"
[[resume]]
run = "cmd-*"
mode = "auto"
backoff_s = 0.2
hook = {{kind = "command", argv = {argv}}}
[[resume]]
run = "job-*"
mode = "auto"
backoff_s = 0.2
hook = {{kind = "job"}}
"""
FINAL = ("succeeded", "interrupted")
_FULL = re.compile(r"^raywatch: .*(?:disk I/O error|disk is full|File too large)$", re.MULTILINE)
STILL_S = 15.0  # a daemon that shows nothing new for so long has done what it will do
_FOUND = re.compile(
    r'^raywatch_findings_total\{class="(\w+)",component="(\w+)"\} (\S+)$', re.MULTILINE
)
_ACTED = re.compile(
    r'^raywatch_actions_total\{class="(\w+)",hook="(\w+)",outcome="(\w+)"\} (\S+)$', re.MULTILINE
)


@dataclass
class Figures:
    """What happened in a story."""

    kills: int = 0
    by_moment: Counter[str] = field(default_factory=Counter)
    findings: int = 0
    jobs: int = 0
    interrupted: int = 0
    submissions: int = 0
    seconds: float = 0.0

    def __add__(self, other: Figures) -> Figures:
        """Join two stories."""
        return Figures(
            self.kills + other.kills,
            self.by_moment + other.by_moment,
            self.findings + other.findings,
            self.jobs + other.jobs,
            self.interrupted + other.interrupted,
            self.submissions + other.submissions,
            self.seconds + other.seconds,
        )

    def __str__(self) -> str:
        moments = ", ".join(f"{n} {m}" for m, n in sorted(self.by_moment.items()))
        return (
            f"{self.kills} kills ({moments}); {self.findings} failure records, 0 lost, 0 twice; "
            f"{self.jobs} jobs failed, {self.submissions} submissions, {self.interrupted} hooks interrupted, "
            f"0 keys twice; {self.seconds:.0f} s"
        )


class Scribe:
    """The writer's process."""

    def __init__(self, logs: Path, seed: int) -> None:
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.writer", str(logs), str(seed)],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def told(self, word: str) -> dict[str, Any]:
        """Tell it something; return its ledger."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(word + "\n")
        self._process.stdin.flush()
        return dict(json.loads(self._process.stdout.readline()))

    def close(self) -> None:
        """End it."""
        self._process.communicate()


class Story:
    """One store and what happens around it."""

    def __init__(
        self, folder: Path, seed: int, forge: Forge, ray: ManyJobs, hook_s: str = RANDOM_S
    ) -> None:
        """`hook_s`: what the hook's shell is told to sleep, less than a second."""
        self.seed, self.rng, self.figures = seed, random.Random(seed), Figures()
        self._forge, self.ray = forge, ray
        self._temp, self._state = folder / "ray", folder / "state"
        self._logs = make_session(self._temp)
        self.scribe = Scribe(self._logs, seed)
        self.marks, self._out = folder / "marks", folder / "state.out"
        hook = folder / "hook.sh"
        hook.write_text(HOOK.format(seconds=hook_s))
        self.marks.touch()
        self._out.touch()
        argv = json.dumps(["sh", str(hook), str(self.marks)])
        (folder / "raywatch.toml").write_text(CONFIG.format(url=ray.url, argv=argv))
        self.where = (self._temp, self._state, "--config", str(folder / "raywatch.toml"))
        self._trains: list[str] = []
        self.failed: list[str] = []

    # --- what happens around the daemon ---

    def jobs_move(self, begin: float = 0.3, fail: float = 0.5) -> None:
        """Jobs begin with that chance, others fail with that one."""
        if self.rng.random() < begin:
            for kind in ("cmd", "job", "cmd"):
                name = f"{kind}-{len(self._trains) + len(self.failed)}"
                self.ray.begin(name)
                self._trains.append(name)
        while self._trains and self.rng.random() < fail:
            name = self._trains.pop(0)
            self.ray.fails(name)
            self.scribe.told(f"fail {name}")
            self.failed.append(name)

    def live(self, moment: str = "") -> None:
        """One life and its violent end, at a moment that is drawn or given."""
        moment = moment or self.rng.choices(list(MOMENTS), [w for w, _ in MOMENTS.values()])[0]
        if moment.endswith("a hook"):
            self.scribe.told("rest")  # nothing to be read first: it comes soon
        argv = arguments(*self.where)
        how: dict[str, float] = {}
        if moment == "between statements":
            how["left"] = self.rng.randrange(1, 80)
        if moment == "in a checkpoint":
            how["checkpoints"] = 1
        if moment == "before a hook":
            how["durable_s"] = 0.3
        start: Callable[..., Process] = started if moment == "as a process" else self._forge.life
        out = self._out
        if moment == "with a full disk":  # what it prints must find room
            out = out.with_name("full.out")
            out.write_bytes(b"")
        life = start(argv, out, **how)
        try:
            MOMENTS[moment][1](self, life)
        finally:
            life.kill()
            code = life.wait()
        # A disk that is full at the start is a reason not to start.
        refused = out != self._out and code == 2 and _FULL.search(out.read_text())
        assert code == -signal.SIGKILL or refused, self.said(
            f"{moment}: {code}: {out.read_text()[-3000:]}"
        )
        self.scribe.told("go")
        self.figures.kills += code == -signal.SIGKILL
        self.figures.by_moment[moment] += 1

    def after(self, low: float, high: float) -> None:
        """Let so many seconds pass."""
        time.sleep(self.rng.uniform(low, high))

    def when_written(self, _life: Process) -> None:
        """Wait until the store is written to."""
        wal = self._state / "raywatch.db-wal"
        with contextlib.suppress(OSError):
            before = wal.stat().st_mtime_ns
            self.seen(lambda: wal.stat().st_mtime_ns != before)
        self.after(0, 0.003)

    def when_fired(self, _life: Process) -> None:
        """Wait until a hook was started, where one is due."""
        before = self.marks.stat().st_size
        self.seen(lambda: self.marks.stat().st_size != before, self.till_hook_s())
        self.after(0, self.rng.choice([0, 0.2]))

    def when_firing(self, life: Process) -> None:
        """Wait until it dies of its own hand, where a hook is due."""
        self.seen(lambda: life.poll() is not None, self.till_hook_s())

    def till_hook_s(self) -> float:
        """How long it takes at most until a hook is started; not long where none is due."""
        ran = self.marks.read_text().count("start")
        return 4.0 if sum(j.startswith("cmd") for j in self.failed) > ran else 0.3

    def when_full(self, life: Process) -> None:
        """Let the disk be full for a while: the store's log cannot grow."""
        self.after(0, 0.3)
        size = 4096 * self.rng.randrange(1, 20)
        with contextlib.suppress(ProcessLookupError):
            resource.prlimit(life.pid, resource.RLIMIT_FSIZE, (size, resource.RLIM_INFINITY))
        self.after(0, 0.5)

    def seen(self, true: Callable[[], bool], seconds: float = 1.0) -> None:
        """Wait for something, but not long."""
        end = time.monotonic() + seconds
        while time.monotonic() < end and not true():
            time.sleep(0.0005)

    # --- what must hold ---

    def settle(self, *, real: bool) -> None:
        """Let everything be written whole and a life read it all; everything took effect once, also after one more life."""
        ledger = self.scribe.told("rest")
        for n in range(2):
            daemon = DaemonProcess(*self.where, start=None if real else self._forge.life)
            try:
                self._wait_for(daemon, ledger)
                if n:
                    time.sleep(0.1)
                self._check(daemon, ledger)
                assert daemon.stop() == 0
            finally:
                daemon.kill()
        assert daemon.log.read_text().count("Traceback") == 0, self.said(
            daemon.log.read_text()[-3000:]
        )
        self._check_store()
        self.figures.findings = sum(ledger["counts"].values())

    def said(self, what: object) -> str:
        """Name the story that must be told again."""
        return f"seed {self.seed}, after {self.figures.kills} kills: {what}"

    def _wait_for(self, daemon: DaemonProcess, ledger: dict[str, Any]) -> None:
        """Wait until all is read and decided, or nothing moves any more: `_check` says what is missing."""
        wanted, moved = sum(ledger["counts"].values()), time.monotonic()
        before: object = None
        while time.monotonic() - moved < STILL_S:
            found = sum(found_by(daemon).values())
            states = [a["state"] for a in daemon.actions()]
            if found >= wanted and len(states) >= len(self.failed) and set(states) <= {*FINAL}:
                return
            if (found, states) != before:
                before, moved = (found, states), time.monotonic()
            time.sleep(0.2)  # whoever is asked all the time does nothing else

    def _check(self, daemon: DaemonProcess, ledger: dict[str, Any]) -> None:
        found, wrote = found_by(daemon), ledger["counts"]
        assert found == wrote, self.said(f"found {found}, written {wrote}, {ledger['longest_s']=}")
        shown = [list(map(str, i["evidence"])) for i in daemon.incidents()]  # type: ignore[call-overload]
        lines = Counter(line for lines in shown for line in lines)
        assert set(lines.values()) <= {1}, self.said(f"evidence twice: {lines.most_common(2)}")
        text = [" ".join(lines) for lines in shown]
        wrong = {m: n for m in ledger["marks"] if (n := sum(m in t for t in text)) != 1}
        assert not wrong, self.said(f"incidents of marks: {wrong}")
        self._check_actions(daemon)

    def _check_actions(self, daemon: DaemonProcess) -> None:
        actions = {str(a["key"]): a for a in daemon.actions()}
        marks = Counter(self.marks.read_text().splitlines())
        assert set(marks.values()) <= {1}, self.said(f"a hook ran twice: {marks.most_common(3)}")
        by_job = Counter(k.removeprefix("raywatch-").rpartition("-1-")[0] for k in actions)
        odd = {j: (by_job[j], self.failed.count(j)) for j in {*by_job, *self.failed}}
        odd = {j: n for j, n in odd.items() if n != (1, 1)}
        assert not odd, self.said(f"decided, failed: {odd}; {states_of(actions)}")
        for key, action in actions.items():
            began, ended = f"start {key}" in marks, f"end {key}" in marks
            if action["hook"] == "job":
                fits = action["state"] == "succeeded" and self.ray.taken[key] == 1
            else:
                fits = action["state"] == "interrupted" or (action["state"], began, ended) == (
                    "succeeded",
                    True,
                    True,
                )
            assert fits, self.said(f"{action}: {began=} {ended=} {self.ray.taken[key]=}")
        assert set(self.ray.taken) <= set(actions), self.said("a submission that nobody decided")
        assert {m.split()[1] for m in marks} <= set(actions), self.said(
            "a hook that nobody decided"
        )
        told = Counter((str(a["hook"]), str(a["state"])) for a in actions.values())
        assert acted_by(daemon) == told, self.said("what was counted of actions")
        self.figures.jobs, self.figures.submissions = len(actions), sum(self.ray.taken.values())
        self.figures.interrupted = sum(a["state"] == "interrupted" for a in actions.values())

    def _check_store(self) -> None:
        with closing(sqlite3.connect(self._state / "raywatch.db")) as db:
            assert db.execute("PRAGMA integrity_check").fetchall() == [("ok",)]
        assert not list(self._state.glob("*.corrupt-*")), self.said(
            "the store was taken for corrupt"
        )


def found_by(daemon: DaemonProcess) -> dict[str, int]:
    """The counts of findings that are not 0."""
    rows = _FOUND.findall(daemon.get("/metrics")[1].decode())
    return {f"{c} {where}": int(float(n)) for c, where, n in rows if float(n)}


def acted_by(daemon: DaemonProcess) -> dict[tuple[str, str], int]:
    """The counts of how actions ended that are not 0."""
    rows = _ACTED.findall(daemon.get("/metrics")[1].decode())
    return {
        (hook, outcome): int(float(n))
        for _, hook, outcome, n in rows
        if float(n) and outcome in FINAL
    }


def states_of(actions: dict[str, dict[str, object]]) -> dict[str, object]:
    """How actions stand."""
    return {k: (a["state"], a["detail"]) for k, a in actions.items()}


# moment -> (how often, what is waited for)
MOMENTS: dict[str, tuple[float, Callable[[Story, Process], None]]] = {
    "while it starts": (20, lambda story, _: story.after(0, 0.15)),
    "at any time": (25, lambda story, _: story.after(0.1, 0.6)),
    "after a while": (4, lambda story, _: story.after(1.5, 3)),
    "at a commit": (20, Story.when_written),
    "between statements": (
        12,
        lambda story, life: story.seen(lambda: life.poll() is not None, 0.8),
    ),
    "in a checkpoint": (8, lambda story, _: story.after(0.05, 0.6)),
    "at a hook": (14, Story.when_fired),
    "before a hook": (3, Story.when_firing),
    "with a full disk": (3, Story.when_full),
    "as a process": (1.5, lambda story, _: story.after(0, 2)),
}


@contextlib.contextmanager
def begun(folder: Path, seed: int, forge: Forge, hook_s: str = RANDOM_S) -> Iterator[Story]:
    """Lay out a story; end its writer and its Ray whatever comes."""
    ray = ManyJobs(seed)
    with ray:
        story = Story(folder, seed, forge, ray, hook_s)
        try:
            yield story
        finally:
            story.scribe.close()


def tell(
    folder: Path,
    seed: int,
    lives: int,
    forge: Forge,
    *,
    say: Callable[[str], None] = lambda _: None,
) -> Figures:
    """Play a story of so many lives. Raises AssertionError where a law is broken."""
    began = time.monotonic()
    with begun(folder, seed, forge) as story:
        story.settle(real=False)  # what failed before the first start would be history
        story.scribe.told("go")
        for life in range(1, lives + 1):
            story.jobs_move()
            story.live()
            say(f"seed {seed}: life {life}/{lives}")
            if life % 25 == 0 and life < lives:
                story.settle(real=False)
                story.scribe.told("prune")
                story.scribe.told("go")
        story.settle(real=True)
        story.figures.seconds = time.monotonic() - began
        return story.figures
