"""`raywatch demo`: a spot node goes away under a training run on a real Ray cluster, and the run goes on.

What is shown live is what the daemon publishes; what decides on the exit code is what Ray itself says at the end: the
jobs' status, the new job's own output, and the newest checkpoint in the run's storage.
"""

from __future__ import annotations

import contextlib
import importlib.util
import shutil
import signal
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from raywatch.demo_cluster import HOST, RUN, WORKERS, Cluster, Deadline, DemoError, RayNode
from raywatch.demo_watch import ActionView, DemoDaemon, Screen, Snapshot, news
from raywatch.model import RaywatchError

FIRST_JOB, MESSAGE = "raywatch-demo", "spot instance reclaimed by the cloud"
DRAIN_S = 8
KILL_AFTER_S = 4.0  # before the deadline, as clouds do: Ray Train still trains on that node
RETRIES = "[FailurePolicy] RETRY"  # with its own budget Ray Train leaves the node at the deadline
LEAVES_S = DRAIN_S + 20.0
NO_HOOK_S = 10.0  # how long no hook may fire after Ray declared the node dead
TRAIN_S, RESUME_S, DEAD_S = 120.0, 150.0, 60.0
CHECKPOINT_STEP = 20  # not the very first one
FIRED = frozenset({"started", "succeeded", "failed", "timed_out", "interrupted"})
GIVEN_UP = frozenset({"failed", "timed_out", "interrupted", "refused", "abandoned", "suggested"})
NEEDS = {"ray": "'raywatch[ray]'", "torch": "torch"}
GREEN, RED = 32, 31
# Between what is timed; `incident` is when it had the name that it kept.
FIGURES = (
    ("notice", "kill"),
    ("kill", "incident"),
    ("incident", "resubmitted"),
    ("kill", "resubmitted"),
    ("resubmitted", "first step"),
    ("kill", "first step"),
)
ALL_SIGNALS = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)


def run_demo(
    *,
    keep: bool = False,
    timeout_s: float = 240.0,
    temp_dir: str | None = None,
    train_budget: bool = False,
) -> int:
    """Play the demo; return 0 only if Ray itself confirms that training went on past the checkpoint.

    It makes a folder of its own in `temp_dir` (/tmp) and removes it, unless `keep`. With `train_budget` Ray Train may
    restart the run itself, and 0 means that it did and that no hook was fired.
    """
    missing = [package for module, package in NEEDS.items() if not importlib.util.find_spec(module)]
    if missing:
        raise DemoError(f"the demo runs a real cluster: pip install {' '.join(missing)}")
    screen = Screen(sys.stdout)
    folder = Path(tempfile.mkdtemp(prefix="rw-", dir=temp_dir or "/tmp")).resolve()  # noqa: S108 - sockets need it short
    stop = _Stop()
    try:
        with stop:
            return _play(folder, screen, timeout_s, train_budget=train_budget)
    except KeyboardInterrupt:
        screen.say("stopped", "everything that was started is ended")
        return 128 + stop.number
    finally:
        if keep:
            screen.say("kept", str(folder))
        else:
            shutil.rmtree(folder, ignore_errors=True)


def _play(folder: Path, screen: Screen, timeout_s: float, *, train_budget: bool) -> int:
    story = Story(folder, Deadline(timeout_s), screen)
    try:
        story.play(train_budget=train_budget)
    except RaywatchError as error:
        screen.say("failed", str(error), RED)
        for label, text in story.last_words():
            screen.say(label, text)
        return 1
    else:
        return 0
    finally:
        with _deaf():
            story.close()


class _Stop:
    """While it is entered, each signal that ends a program is a KeyboardInterrupt."""

    def __init__(self) -> None:
        self.number = int(signal.SIGINT)
        self._before: dict[signal.Signals, object] = {}

    def __enter__(self) -> None:
        for number in ALL_SIGNALS:
            self._before[number] = signal.signal(number, self._raise)

    def __exit__(self, *_: object) -> None:
        for number, handler in self._before.items():
            signal.signal(number, handler)  # type: ignore[arg-type] # what signal() itself returned

    def _raise(self, number: int, _frame: FrameType | None) -> None:
        self.number = number
        raise KeyboardInterrupt


@contextlib.contextmanager
def _deaf() -> Iterator[None]:
    """Hear no signal while what was started is being ended; a second Ctrl-C would leave it behind."""
    before = {number: signal.signal(number, signal.SIG_IGN) for number in ALL_SIGNALS}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


class Story:
    """One demo: the cluster, the daemon that watches it, and what is told about them."""

    def __init__(self, folder: Path, deadline: Deadline, screen: Screen) -> None:
        self.cluster = Cluster(folder, deadline)
        self.daemon = DemoDaemon(folder)
        self._deadline, self._screen = deadline, screen
        self._seen = Snapshot()
        self._step = 0
        self._told: set[str] = set()
        self._at: dict[str, float] = {}  # label -> when it was said, of a monotonic clock

    def close(self) -> None:
        """End everything that was started."""
        self.daemon.stop()
        self.cluster.close()

    def play(self, *, train_budget: bool) -> None:
        """Tell the whole story; raise DemoError where it does not come true."""
        self._prepare(train_budget=train_budget)
        victim, step = self._train()
        if train_budget:
            self._drain(victim, LEAVES_S, until=lambda: RETRIES in self.cluster.log_text(FIRST_JOB))
            self._kill(victim)
            self._left_alone(victim, step)
        else:
            self._drain(victim, KILL_AFTER_S)
            self._kill(victim)
            self._prove(self._resumed())

    def last_words(self) -> list[tuple[str, str]]:
        """Return what daemon and driver printed last, for a story that failed."""
        driver = self.cluster.log_text(FIRST_JOB).splitlines()
        return [("daemon", x) for x in self.daemon.output()[-8:]] + [
            ("job", x) for x in driver[-8:]
        ]

    # --- before ---

    def _prepare(self, *, train_budget: bool) -> None:
        say, cluster = self._screen.say, self.cluster
        self._screen.title("A Ray cluster, a training run, and raywatch beside them")
        say("cluster", f"starts a head and two worker nodes on {HOST}, folder {cluster.folder}")
        cluster.start(meanwhile=lambda: self.daemon.start(cluster.dashboard))
        say("cluster", f"three nodes are alive, dashboard {cluster.dashboard}")
        cluster.submit(FIRST_JOB, budget=-1 if train_budget else 0)
        budget = "-1 (Ray Train's default)" if train_budget else "0"
        say("job", f"{FIRST_JOB}: 2 ranks, max_failures=0, max_preemption_failures={budget}")
        self._deadline.until(self.daemon.listening, 60, "the daemon listens")
        say("raywatch", f'{self.daemon.url}, rule: run "{RUN}", mode auto, hook job')
        self._screen.hidden = f"{cluster.folder}/"

    def _train(self) -> tuple[RayNode, int]:
        """Wait for a checkpoint that Ray Train and raywatch both know; return the node that will go, and the step."""

        def known(snapshot: Snapshot) -> bool:
            found = snapshot.run().checkpoint
            saved = self.cluster.saved_step() or 0
            return bool(found and found.whole and min(found.step or 0, saved) >= CHECKPOINT_STEP)

        run = self._follow(known, TRAIN_S, "raywatch knows a whole checkpoint", FIRST_JOB).run()
        if run.checkpoint is None:
            raise DemoError("raywatch lost the checkpoint")
        self._screen.say(
            "checkpoint", f"step {run.checkpoint.step} is whole ({run.checkpoint.checked})"
        )
        return self._victim(), run.checkpoint.step or 0

    def _victim(self) -> RayNode:
        """Choose a worker node that has a rank, the last one if there are two."""
        ranks = self.cluster.log(FIRST_JOB).nodes
        nodes = {n.node_id: n for n in self.cluster.nodes() if n.name in WORKERS}
        found = [nodes[ranks[r]] for r in sorted(ranks) if ranks[r] in nodes]
        if not found:
            raise DemoError("no worker node has a rank of the run")
        hosted = [f"rank {r}" for r, node in sorted(ranks.items()) if node == found[-1].node_id]
        text = f"{found[-1].name} (node {found[-1].node_id[:8]}) has {', '.join(hosted)}"
        self._screen.say("node", text)
        return found[-1]

    def _drain(
        self, victim: RayNode, limit_s: float, *, until: Callable[[], bool] = lambda: False
    ) -> None:
        """Announce a spot preemption; go on training until the node is to be killed."""
        self._screen.title("The cloud takes a node")
        began = time.monotonic()
        self.cluster.drain(victim.node_id, message=MESSAGE, seconds=DRAIN_S)
        self._screen.say("drain", f"{victim.name} is told: {MESSAGE}, in {DRAIN_S} s")
        while (left := began + limit_s - time.monotonic()) > 0 and self._deadline.left():
            if until():
                return
            self._look(min(left, 1.0), FIRST_JOB)

    def _kill(self, victim: RayNode) -> None:
        self._screen.kill()
        self._at["kill"] = time.monotonic()
        count = self.cluster.kill_node(victim.name)
        self._screen.title("What raywatch says, in seconds since the kill")
        self._screen.say("kill", f"SIGKILL to all {count} processes of {victim.name}", RED)

    # --- after: raywatch resumes ---

    def _resumed(self) -> ActionView:
        """Follow until raywatch says that the new run passed the checkpoint; return what it did."""

        def goes_on(snapshot: Snapshot) -> bool:
            action = snapshot.action()
            if action is not None and action.state in GIVEN_UP:
                raise DemoError(f"raywatch did not resume: {action.state}: {action.detail}")
            return action is not None and action.first_step is not None

        action = self._follow(goes_on, RESUME_S, "the new run is past the checkpoint", "").action()
        if action is None or action.checkpoint is None or not action.submission_id:
            raise DemoError("raywatch named no checkpoint or no job")
        return action

    def _prove(self, action: ActionView) -> None:
        """Ask Ray itself: one new job, which runs, started behind the checkpoint and saved a newer one."""
        self._screen.title("What Ray itself says")
        chosen, new_job = action.checkpoint, action.submission_id or ""
        step = (chosen.step if chosen else None) or 0
        saved = self._deadline.until(lambda: self._saved_past(step), 60, f"a step past {step}")
        statuses = {name: job.status for name, job in self.cluster.jobs().items()}
        if statuses != {FIRST_JOB: "FAILED", new_job: "RUNNING"}:
            raise DemoError(f"expected one failed and one running job, Ray has {statuses}")
        log = self.cluster.log(new_job)
        if log.starts != (step + 1,) or log.step <= step:
            raise DemoError(f"the new job started at {log.starts} and came to step {log.step}")
        say = self._screen.say
        say("jobs", f"{FIRST_JOB} FAILED, {new_job} RUNNING, no other", GREEN)
        say("output", f"the new job started at step {log.starts[0]}, is at {log.step}", GREEN)
        say("storage", f"the newest registered checkpoint is of step {saved}", GREEN)
        self._figures()

    def _saved_past(self, step: int) -> int | None:
        saved = self.cluster.saved_step()
        return saved if saved is not None and saved > step else None

    def _figures(self) -> None:
        self._screen.title("How long it took")
        for begin, end in FIGURES:
            if begin in self._at and end in self._at:
                took = self._at[end] - self._at[begin]
                self._screen.say("", f"{begin + ' -> ' + end:28}{took:6.1f} s")

    # --- after: Ray Train goes on by itself ---

    def _left_alone(self, victim: RayNode, step: int) -> None:
        """Ray Train restarts the run itself; follow until the node is dead and see that no hook fires."""

        def over(_: Snapshot) -> bool:
            dead = any(n.node_id == victim.node_id and not n.alive for n in self.cluster.nodes())
            return dead and len(self.cluster.log(FIRST_JOB).starts) > 1

        self._follow(over, DEAD_S, "Ray Train went on and Ray knows the node as dead", "")
        until = time.monotonic() + NO_HOOK_S
        self._follow(lambda _: time.monotonic() >= until, NO_HOOK_S + 5, "no hook fires", "")
        self._screen.title("What Ray itself says")
        restarted = self.cluster.log(FIRST_JOB).starts[-1]
        past = max(step, restarted)
        saved = self._deadline.until(lambda: self._saved_past(past), 60, f"a step past {past}")
        statuses = {name: job.status for name, job in self.cluster.jobs().items()}
        fired = [a.key for a in self._seen.actions if a.state in FIRED]
        if statuses != {FIRST_JOB: "RUNNING"} or fired:
            raise DemoError(f"a hook was fired: {fired}, Ray has {statuses}")
        say = self._screen.say
        say("jobs", f"{FIRST_JOB} RUNNING, no other", GREEN)
        say("output", f"Ray Train restarted it at step {restarted}", GREEN)
        say("storage", f"the newest registered checkpoint is of step {saved}", GREEN)
        say("raywatch", "no hook fired", GREEN)

    # --- following ---

    def _follow(
        self, done: Callable[[Snapshot], bool], limit_s: float, what: str, job: str
    ) -> Snapshot:
        end = time.monotonic() + min(limit_s, self._deadline.left())
        while not done(self._seen):
            if time.monotonic() >= end:
                raise DemoError(self._deadline.missed(limit_s, what))
            self._look(1.0, job)
        return self._seen

    def _look(self, wait_s: float, job: str) -> None:
        """Say what is new in the daemon's snapshot and in a job's output; wait for it a little."""
        fresh = self.daemon.next(self._seen.seq, wait_s)
        if fresh is not None:
            for label, text in news(self._seen, fresh):
                if label == "incident":
                    self._at[label] = time.monotonic()
                elif label == "notice" or "kill" in self._at:
                    self._at.setdefault(label, time.monotonic())
                if label != "resume" or text not in self._told:  # it asks again every second
                    self._screen.say(label, text)
                self._told.add(text)
            self._seen = fresh
        for step, loss in self.cluster.log(job).steps if job else ():
            if step > self._step:
                self._step = step
                self._screen.say("step", f"{step}, loss {loss}")
