"""Restarts, broken rings, recoveries and lost work on a timetable -> each counted once, under its class."""

from __future__ import annotations

from dataclasses import replace

from raywatch.core.incidents import State, correlate
from raywatch.core.runs import Runs, note
from raywatch.core.tally import (
    BOUNDS_S,
    MAX_SAVES,
    SETTLE_S,
    Phase,
    Tally,
    acted,
    booked,
    broke,
    expected,
    interval_s,
    restarted,
    restarts_between,
    tidied,
)
from raywatch.core.tally import (
    saved as noted,
)
from raywatch.model import Action, Checkpoint, Entity, Finding, Hook, Run, Subject
from tests.core.desk import CLASSES, NINE
from tests.core.runkit import S1, group, history, job, only, policy, rank_set_up, saved
from tests.core.test_incidents import N1, at

TRAINING = (job(at=1), rank_set_up(4, 0, "w0"), group(5), saved(6))
RUN = Action(
    "k1",
    S1,
    "exp",
    "i1",
    "node_lost",
    1,
    "auto",
    Hook("job"),
    "waiting",
    created_at=103.0,
    due_at=103.0,
    detected_at=100.0,
)


class Desk:
    """A tally, what it is told, and what it says."""

    def __init__(self, *events) -> None:
        self.runs = history(*(events or TRAINING))
        self.state, self.tally = State(), Tally()

    def find(self, finding: Finding, now: float) -> None:
        self.state, changes = correlate(self.state, finding, CLASSES)
        for change in changes:
            self.tally = broke(self.tally, change.incident, change.finding, now)

    def tell(self, fact, now: float | None = None) -> None:
        now = fact.at if now is None else now
        before, self.runs = self.runs, note(self.runs, fact, now)
        self.tally = restarted(self.tally, restarts_between(before, self.runs, fact, now))

    def act(self, *actions: Action, now: float = 0.0) -> None:
        for before, after in zip((None, *actions), actions, strict=False):
            self.tally = acted(self.tally, before, after, self.runs, now)

    def book(self, now: float) -> Tally:
        self.tally = booked(self.tally, self.runs, self.state.incidents, CLASSES, now)
        assert booked(self.tally, self.runs, self.state.incidents, CLASSES, now) is self.tally
        return self.tally

    def expected(self):
        return expected(self.tally, self.runs, self.state.incidents, CLASSES)


def ring(when: float, worker: str = "w0", *, class_id: str = "ring_break") -> Finding:
    found: Finding = at(when, class_id, who=worker, component="train")
    return found


def lost_node(when: float) -> Finding:
    found: Finding = at(when, "node_lost", node=N1)
    return replace(found, entities=frozenset({Entity("worker", "w0")}))


# --- broken rings ----------------------------------------------------------------------------------


def test_a_broken_ring_is_counted_once_under_its_root():
    """The ring breaks at once, the dead node is known a minute later, copies and more ranks come between."""
    desk = Desk()
    desk.find(ring(100), now=101)
    assert desk.expected()[1] == {S1: {"ring_break": 0}}
    desk.find(ring(100.5), now=101)
    desk.find(ring(103, class_id="store_lost"), now=104)
    desk.find(lost_node(164), now=165)

    assert desk.expected()[1] == {S1: {"node_lost": 0}}
    assert desk.book(101 + SETTLE_S - 0.1).breaks == {}
    assert desk.book(101 + SETTLE_S).breaks == {S1: {"node_lost": 1}}
    desk.find(ring(250), now=250)
    assert desk.book(1000).breaks == {S1: {"node_lost": 1}}
    assert desk.expected()[1] == {}


def test_rings_of_incidents_that_become_one_are_counted_once_each():
    """Two rings of one run were two incidents until their node was known to be dead."""
    desk = Desk()
    for when, worker in ((100, "w0"), (103, "w1")):
        desk.find(replace(ring(when, worker), subject=Subject("worker", worker, N1)), now=when)
    before = desk.state.incidents
    desk.find(replace(lost_node(110), entities=frozenset()), now=111)

    (lost,) = desk.state.incidents
    assert len(before) == 2
    assert lost.class_id == "node_lost"
    assert set(desk.tally.rings) == {lost.id}
    assert desk.book(1000).breaks == {S1: {"node_lost": 1}}


def test_a_class_that_comes_too_late_moves_no_counter():
    """A counter never falls, and never says one break twice."""
    desk = Desk()
    desk.find(ring(100), now=100)
    assert desk.book(190).breaks == {S1: {"ring_break": 1}}
    desk.find(lost_node(185), now=195)
    desk.find(ring(195), now=195)

    assert desk.book(1000).breaks == {S1: {"ring_break": 1}}


def test_a_node_breaks_the_rings_of_those_who_say_so():
    """Another run that had a rank on the node and no ring is not counted."""
    other = {"name": "other", "job_id": "03000000"}
    quiet = (
        job("raysubmit_two", at=1, job_id="03000000"),
        rank_set_up(4, 0, "w9", node_id=N1, **other),
        group(5, 1, **other),
    )
    desk = Desk(*TRAINING, *quiet)
    desk.find(replace(lost_node(100), entities=frozenset()), now=100)
    desk.find(replace(ring(101), subject=replace(ring(101).subject, node=N1)), now=101)

    assert [(i.class_id, dict(i.explains)) for i in desk.state.incidents] == [
        ("node_lost", {"ring_break": 1})
    ]
    assert desk.book(300).breaks == {S1: {"node_lost": 1}}


def test_a_ring_of_an_unknown_run_is_counted_under_no_name_once():
    """Horovod on plain actors has no lineage."""
    desk = Desk()
    desk.find(ring(100, "stranger"), now=100)
    assert desk.book(190).breaks == {"": {"ring_break": 1}}
    desk.find(ring(195, "w0"), now=195)
    late = ring(150, "stranger")
    desk.find(replace(late, entities=late.entities | ring(0).entities), now=196)

    assert desk.book(900).breaks == {"": {"ring_break": 1}, S1: {"ring_break": 1}}


def test_other_collective_trouble_is_no_broken_ring():
    """Nobody found each other, a stall that may pass, a crash."""
    desk = Desk()
    for class_id in ("rendezvous_failed", "horovod_stall", "worker_crash"):
        desk.find(ring(100, class_id=class_id), now=100)

    assert desk.book(900).breaks == {}


# --- restarts --------------------------------------------------------------------------------------


def test_a_restart_by_ray_train_is_counted_once_under_what_caused_it():
    """Each line of a decision stands in two files; one more is one more."""
    desk = Desk()
    desk.find(ring(100), now=100)
    desk.find(lost_node(120), now=121)
    for _ in range(2):
        desk.tell(policy(102, "RETRY", "3"))
    assert desk.expected()[0] == {S1: {"ray_train node_lost": 0}}
    desk.book(102 + SETTLE_S - 0.1)
    assert desk.tally.restarts == {}
    desk.tell(policy(150, "RETRY", "3"))
    desk.tell(policy(160, "RAISE", "3"))

    assert desk.book(102 + SETTLE_S).restarts == {S1: {"ray_train node_lost": 1}}
    assert desk.book(900).restarts == {S1: {"ray_train node_lost": 2}}


def test_a_restart_that_nothing_explains_is_an_unknown_failure():
    """Not the next best incident of another run or time."""
    desk = Desk()
    desk.find(ring(100, "stranger"), now=100)
    desk.find(ring(1000), now=1000)
    desk.tell(policy(500, "RETRY", "3"), now=1001)

    assert desk.book(2000).restarts == {S1: {"ray_train unknown_failure": 1}}


def test_history_is_read_for_a_while_before_its_restarts_are_booked():
    """The file that names the cause may be read last."""
    desk = Desk()
    desk.tell(policy(102, "RETRY", "3"), now=50_000)
    desk.book(50_010)
    desk.find(lost_node(101), now=50_020)

    assert desk.book(50_100).restarts == {S1: {"ray_train node_lost": 1}}


def succeeded(**more) -> tuple[Action, ...]:
    begun = replace(RUN, state="started", started_at=110.0, checkpoint=NINE)
    return RUN, begun, replace(begun, **{"state": "succeeded", "ended_at": 112.0, **more})


def test_a_resume_counts_as_a_restart_once_it_succeeded():
    """With the class that it was decided for; a hook that failed restarted nothing."""
    desk = Desk()
    desk.act(*succeeded(), now=112)
    desk.act(*(replace(a, key="k2") for a in succeeded(state="failed")), now=112)
    assert desk.expected()[0] == {S1: {"raywatch node_lost": 0}}

    assert desk.book(112 + SETTLE_S).restarts == {S1: {"raywatch node_lost": 1}}
    assert desk.book(900).restarts == {S1: {"raywatch node_lost": 1}}


# --- actions and recoveries --------------------------------------------------------------------------


def test_an_action_counts_once_under_each_outcome():
    """A decision that is given up, taken up and given up again was given up once."""
    desk = Desk()
    abandoned = replace(RUN, state="abandoned")
    desk.act(RUN, abandoned, abandoned, RUN, abandoned, RUN, *succeeded()[1:], succeeded()[2])

    assert desk.tally.actions == {"job node_lost abandoned": 1, "job node_lost succeeded": 1}


def times(tally: Tally) -> dict[str, tuple[int, float]]:
    return {k: (sum(p.counts), p.sum_s) for k, p in tally.phases.items()}


def test_the_parts_of_a_recovery_add_up():
    """From the first telling line to the first step beyond the checkpoint, each once."""
    desk = Desk()
    done = succeeded(submission_id="k1")
    stepped = replace(done[-1], first_step_at=130.0, first_step=10)
    desk.act(*done, stepped, replace(stepped, output="more"))

    assert times(desk.tally) == {
        "detect": (1, 3.0),
        "decide": (1, 7.0),
        "launch": (1, 2.0),
        "first_step": (1, 18.0),
    }


def test_a_command_that_trains_itself_was_launched_at_its_first_step():
    """It ends with the training, not with its start."""
    desk = Desk()
    _, begun, done = succeeded(ended_at=5000.0)
    stepped = replace(begun, first_step_at=130.0, first_step=10)
    desk.act(RUN, begun, stepped, replace(done, first_step_at=130.0, first_step=10))

    assert times(desk.tally)["launch"] == (1, 20.0)
    assert times(desk.tally)["first_step"] == (1, 0.0)


def test_a_bucket_holds_its_bound():
    """As Prometheus' `le` says."""
    phase = Phase().with_one(BOUNDS_S[1]).with_one(1e9).with_one(-5)

    assert (phase.counts[0], phase.counts[1], phase.counts[-1]) == (1, 1, 1)
    assert phase.sum_s == BOUNDS_S[1] + 1e9


# --- lost work ---------------------------------------------------------------------------------------


def with_checkpoint(desk: Desk, saved_at: float | None) -> Desk:
    run = replace(only(desk.runs), checkpoint=replace(NINE, at=saved_at))
    desk.runs = replace(desk.runs, runs={run.id: run})
    return desk


def test_lost_work_is_what_was_done_since_the_checkpoint():
    """Until the first line that tells of the failure; by Ray Train's restart and by raywatch's."""
    desk = with_checkpoint(Desk(), 80.0)
    desk.find(lost_node(100), now=100)
    desk.tell(policy(103, "RETRY", "3"))
    assert desk.book(900).lost_s == {S1: {"node_lost": 20.0}}

    desk = with_checkpoint(Desk(), 80.0)
    desk.act(*succeeded(), now=112)
    assert desk.book(900).lost_s == {S1: {"node_lost": 20.0}}


def test_work_is_lost_from_the_start_of_the_workers_where_that_is_later():
    """A group that began again from the same checkpoint has not lost the same hours twice."""
    desk = with_checkpoint(Desk(), 80.0)
    desk.tell(policy(100, "RETRY", "3"))
    desk.tell(group(120))
    desk.tell(policy(150, "RETRY", "3"))

    assert desk.book(900).lost_s == {S1: {"unknown_failure": 20.0 + 30.0}}


def test_what_is_not_known_is_not_counted_as_lost():
    """No checkpoint known, one without a time, or one that is newer than the failure of long ago."""
    for saved_at in (None, 500.0):
        desk = with_checkpoint(Desk(), saved_at)
        desk.tell(policy(100, "RETRY", "3"), now=1000)
        assert desk.book(9000).lost_s == {}
    desk = Desk()
    desk.act(*succeeded(), now=112)
    assert desk.book(900).lost_s == {}


# --- lineages ----------------------------------------------------------------------------------------


def test_counts_follow_a_lineage_and_go_with_it():
    """What became another's is added to it; what nobody knows any more is dropped."""
    counts = {S1: {"ray_train node_lost": 2}, "old": {"ray_train node_lost": 3}, "gone": {"x y": 9}}
    tally = Tally(
        restarts=counts,
        breaks={"": {"ring_break": 4}},
        told={"k1": ("failed",), "k2": ("failed",)},
    )
    runs = replace(history(*TRAINING), merged={"old": S1})

    whole = tidied(tally, runs, {"k1": RUN}, ())
    assert whole.restarts == {S1: {"ray_train node_lost": 5}}
    assert whole.breaks == {"": {"ring_break": 4}}
    assert whole.told == {"k1": ("failed",)}


def test_a_lineage_that_is_merged_restarts_nothing():
    """The sum of the restarts of two lineages is not a restart."""
    runs = history(
        job("", at=1),
        group(5),
        policy(6, "RETRY", "3"),
        group(8, job_id="03000000"),
        policy(9, "RETRY", "3", job_id="03000000"),
        saved(10),
    )
    merging = saved(11, job_id="03000000")
    after = note(runs, merging, 11)

    assert (len(runs.runs), len(after.runs), only(after).train_restarts) == (2, 1, 2)
    again = policy(9, "RETRY", "3", job_id="03000000")
    for fact in (merging, again):
        assert restarts_between(runs, note(runs, fact, 11), fact, 11) == ()


# --- whole checkpoints -------------------------------------------------------------------------------


def test_the_usual_distance_of_checkpoints_is_that_of_the_last_whole_ones():
    """The two newest of the disk tell one at once; one that is torn is none, the same one seen again is no other."""

    def seen(tally: Tally, *times: tuple[float, bool]) -> Tally:
        older, newest = (Checkpoint("/c", 1, whole=w, checked="", at=at) for at, w in times)
        return noted(tally, Runs(runs={"r": Run("r", checkpoint=newest)}, older={"r": older}))

    first = seen(Tally(labels={"r": "exp"}), (10.0, True), (20.0, True))
    again = seen(first, (10.0, True), (20.0, True))
    torn = seen(first, (20.0, True), (30.0, False))
    late = seen(first, (20.0, True), (80.0, True))

    assert (first.saves, interval_s(first.saves["r"])) == ({"r": (10.0, 20.0)}, 10.0)
    assert again is first
    assert torn is first
    assert interval_s(late.saves["r"]) == 35.0
    assert interval_s((10.0,)) is interval_s(()) is None


def test_only_the_last_checkpoints_of_runs_that_are_shown_are_remembered():
    """A run without a label has no series."""
    tally = Tally(labels={"r": "exp"})
    for n in range(100):
        found = Checkpoint("/c", n, whole=True, checked="", at=float(n))
        tally = noted(tally, Runs(runs={k: Run(k, checkpoint=found) for k in ("r", "s")}))

    assert tally.saves == {"r": tuple(map(float, range(100 - MAX_SAVES, 100)))}
    assert noted(replace(tally, labels={}), Runs()).saves == {}
