"""Runs outside Ray Train: what a [[run]] declares, and what its lines say of step, checkpoint and ranks."""

from __future__ import annotations

from dataclasses import replace
from datetime import timezone

import pytest

from raywatch.core.declared import SAID, looked_at
from raywatch.core.levels import launched
from raywatch.core.repeats import MAX_STEPS, Repeats
from raywatch.core.runs import Runs, note, observe, ranks_left, submission_status
from raywatch.declaring import declared
from raywatch.model import Checkpoint, CheckpointProblem, Chunk, FileId, Source
from raywatch.observations import SessionSeen, WorkerSeen
from raywatch.pipeline import examine, load_engine
from tests.core.casekit import runs_of
from tests.core.desk import BY_COMMAND, Desk, caused
from tests.core.runkit import S1, S2, driver, group, history, job, only

TABLES = [
    {"name": "loop", "match": "*", "framework": "plain"},
    {
        "name": "hvd",
        "match": "*driver.log",
        "step": r"batch=(?P<step>\d+)",
        "checkpoint": r"wrote (?P<path>\S+) at batch (?P<step>\d+)",
    },
]
DECLARED = declared(TABLES, lambda what, *_: AssertionError(what), lambda *_: 1, "raywatch.toml")
ENGINE = load_engine(DECLARED.presets, DECLARED.texts)
LOOP, OWN = DECLARED.rules
MARK = "02000000" + "f" * 48  # a driver's worker id


def says(*lines, at=50.0, submission=S1, component="job", path="/l/job-driver-x.log", **source):
    """The facts of lines that were read at a time."""
    named = Source(path, component, submission_id=submission, **source)
    data = "".join(f"{x}\n" for x in lines).encode()
    chunk = Chunk(named, FileId(0, 0), 0, 1, data, 0.0, final=True)
    return examine(ENGINE, chunk, timezone.utc, at).facts


def told(runs, *lines, **where):
    """The runs after these lines."""
    for fact in says(*lines, **where):
        runs = note(runs, fact, fact.at)
    return runs


def ruled(*rules):
    return Runs(rules=rules)


# --- whose a line is -------------------------------------------------------------------------------------


def test_a_declared_job_is_a_run_of_that_name_before_it_prints_a_line():
    run = only(history(job(at=1), runs=ruled(replace(LOOP, match="raysubmit_*"))))

    assert (run.id, run.name, run.framework, run.status) == (S1, "loop", "plain", "running")


def test_a_declared_run_is_one_lineage_by_name():
    """Submitted again by hand it is the same run; the newest job says how it stands."""
    first = history(job(at=1), job(at=1, status="FAILED", ended=9), runs=ruled(LOOP))
    runs = history(job(S2, at=30, job_id="03000000"), runs=first)

    run = only(runs)
    assert (run.submissions, run.status, runs.get("loop")) == ((S1, S2), "running", run)
    assert [(a.started_at, a.ended_at, a.status) for a in run.attempts] == [
        (1, 9, "failed"),
        (30, None, "running"),
    ]


def test_a_driver_by_hand_is_found_by_its_command():
    runs = history(driver(at=1), runs=ruled(replace(LOOP, match="python train.py*")))

    assert (only(runs).name, only(runs).jobs) == ("loop", ("02000000",))


def test_the_same_job_id_in_the_next_session_is_another_attempt():
    """A driver by hand is 01000000 or 02000000 in each."""
    runs = history(
        SessionSeen(0.0, "2.60", "session_1"),
        driver(at=1),
        driver("SUCCEEDED", at=1, ended=9),
        SessionSeen(20.0, "2.60", "session_2"),
        driver(at=30),
        runs=ruled(LOOP),
    )

    assert [(a.started_at, a.ended_at) for a in only(runs).attempts] == [(1, 9), (30, None)]


@pytest.mark.parametrize("match", ["nobody-*", "python other.py"])
def test_a_job_that_nothing_declares_is_no_declared_run(match):
    runs = history(job(at=1), runs=ruled(replace(LOOP, match=match)))

    assert only(runs).framework == ""
    assert told(runs, "step 12").get(S1).step is None


def test_what_is_ray_trains_stays_its_own():
    runs = history(job(at=1), group(5), runs=ruled())
    theirs = told(replace(runs, rules=(LOOP,)), "step 12", at=60.0)

    assert [(r.name, r.framework, r.step) for r in theirs.runs.values()] == [("exp", "", None)]


def test_an_expression_of_one_run_says_nothing_of_another():
    runs = history(job(at=1), runs=ruled(LOOP, OWN))

    assert told(runs, "batch=7").get("loop").step is None


def test_a_preset_needs_no_table_where_it_is_clear_whose_the_line_is():
    line = "(TaskRunner pid=12853) step:20 - global_seqlen/min:58430.000 - actor/entropy:0.281"
    runs = history(job(at=1), runs=ruled())

    assert only(told(runs, line)).step == 20
    assert told(runs, line, submission="nobody") is runs
    assert only(told(runs, "step 12")).step is None  # any program may print so


def test_a_plain_line_counts_only_for_who_asked():
    other = replace(LOOP, framework="verl")

    assert told(history(job(at=1), runs=ruled(other)), "step 12").get("loop").step is None


def test_an_expression_of_ones_own_takes_the_presets_place():
    """A batch that is called a step elsewhere in the text would be a second count."""
    both = replace(OWN, match="*", framework="plain", own=("run_step",))
    runs = told(
        history(job(at=1), runs=ruled(both)), "batch=7", "step 3", "saved checkpoint to /c/x"
    )

    assert (only(runs).step, only(runs).checkpoint.path) == (7, "/c/x")


# --- what lines say --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("line", "step"),
    [
        ("step 123", 123),
        ("epoch 3 iter 400", 400),
        ("[step=17] loss 0.3", 17),
        ("[default0]:global_step: 120, loss: 1.5", 120),
        ("resumed at step 10", None),
        ("slurmstepd: error: *** STEP 1234.0 ON node7 CANCELLED AT 2026-11-24T00:00:00 ***", None),
        ("footstep=10", None),
    ],
)
def test_plain_loops(line, step):
    runs = told(history(job(at=1), runs=ruled(LOOP)), line)

    assert (only(runs).step, only(runs).step_at) == (step, step and 50.0)


def test_of_many_lines_in_one_record_the_last_counts():
    """Megatron's lines are indented, so that they join into one record."""
    lines = [f" iteration {n:8d}/    5000 | consumed samples: 128 | lm loss: 1" for n in (1, 2, 3)]
    runs = told(history(job(at=1), runs=ruled(replace(LOOP, framework="megatron"))), *lines)

    assert only(runs).step == 3


def test_a_flood_of_steps_is_not_expanded_and_its_newest_is_known():
    """A loop prints thousands of lines a second; each of them is a line that was found."""
    data = "".join(f"step {n} loss 0.1\n" for n in range(10_000)).encode()
    source = Source("/l/job-driver-x.log", "job", submission_id=S1)
    chunk = Chunk(source, FileId(0, 0), 0, 1, data, 0.0, final=True)
    facts = examine(ENGINE, chunk, timezone.utc, 50.0, repeats=Repeats(ENGINE.ruleset)).facts

    assert [f.fields["step"] for f in facts[-2:]] == ["9998", "9999"]
    assert len(facts) == 2 * MAX_STEPS


def test_an_older_line_takes_no_step_back():
    runs = told(history(job(at=1), runs=ruled(LOOP)), "step 9", at=60.0)

    assert only(told(runs, "step 4", at=50.0)).step == 9
    assert only(told(runs, "step 4", at=70.0)).step == 4  # it began again from a checkpoint


def test_a_checkpoint_is_whole_only_once_somebody_looked():
    runs = history(job(at=1), runs=ruled(replace(LOOP, storage="/s")))
    first = told(runs, "saved checkpoint to out/step_40.pt", at=60.0)
    runs = told(first, "saved checkpoint to out/step_80.pt", at=90.0)
    run = only(runs)

    assert run.checkpoint == Checkpoint("/s/out/step_80.pt", 80, whole=False, checked=SAID, at=90.0)
    assert runs.older[run.id] == only(first).checkpoint
    proved = Checkpoint("/s/out/step_80.pt", None, whole=True, checked=f"{SAID}; whole", at=91.0)
    assert looked_at(run, proved) == replace(proved, step=80, at=90.0)
    assert looked_at(run, replace(proved, path="/s/out/step_40.pt")) is None
    assert isinstance(looked_at(run, CheckpointProblem("corrupt", "cut")), CheckpointProblem)


def test_parts_of_one_checkpoint_are_one():
    shard = "[Torch] Saved /c/global_step10/zero_pp_rank_{}_mp_rank_00_optim_states.pt."
    runs = history(job(at=1), runs=ruled(replace(LOOP, framework="deepspeed")))
    first = told(runs, shard.format(0), at=60.0)

    assert only(first).checkpoint.path, only(first).checkpoint.step == ("/c/global_step10", 10)
    assert told(first, shard.format(1), at=61.0) is first


def test_ranks_that_speak_one_after_another_are_no_growing_group():
    runs = history(job(at=1), runs=ruled(LOOP))
    runs = told(runs, *(f"[{r}]<stdout>:step=5" for r in (1, 2, 0, 3)))

    assert [r.world_rank for r in only(runs).ranks] == [0, 1, 2, 3]
    assert only(runs).world_sizes == (4,)


def test_one_rank_alone_says_nothing_of_a_world():
    assert only(told(history(job(at=1), runs=ruled(LOOP)), "[rank0]: step=5")).world_sizes == ()


# --- levels ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "level"),
    [
        ("torchrun --nproc-per-node=4 train.py", 1),
        ("torchrun --nproc_per_node 4 --max_restarts 3 train.py", 2),
        ("python -m torch.distributed.run --nnodes=1:4 --max-restarts=3 train.py", 4),
        ("horovodrun -np 3 python train.py", 1),
        ("/venv/bin/horovodrun -np 3 --min-np 2 --host-discovery-script ./hosts.sh python t.py", 4),
        ("bash run.sh", None),
        ("", None),
    ],
)
def test_the_level_is_read_from_the_launchers_command(command, level):
    found = launched(command)

    assert (found and found.level) == level
    run = only(history(job(at=1, entrypoint=command), runs=ruled(LOOP)))
    assert run.level == level
    assert run.level_reason


# --- the end ---------------------------------------------------------------------------------------------


def ended_driver(exit_type):
    return WorkerSeen(20.0, MARK, "head", 7, "DRIVER", exit_type, "", 20.0)


@pytest.mark.parametrize("first", ["worker", "job"])
@pytest.mark.parametrize(
    ("exit_type", "status"), [("SYSTEM_ERROR", "FAILED"), ("INTENDED_USER_EXIT", "ENDED")]
)
def test_a_killed_driver_failed_whatever_its_job_says(first, exit_type, status):
    """Ray shows the job of a driver that was killed as SUCCEEDED."""
    told_of = [ended_driver(exit_type), driver("SUCCEEDED", at=1, ended=20)]
    runs = history(driver(at=1), runs=ruled(LOOP))
    for seen in told_of if first == "worker" else reversed(told_of):
        runs = observe(runs, seen, 21.0)

    assert submission_status(runs, only(runs)) == status
    assert (only(runs).status == "failed") == (status == "FAILED")


@pytest.mark.parametrize(
    ("seen", "line", "decided"),
    [
        (
            (ended_driver("SYSTEM_ERROR"), driver("SUCCEEDED", at=1, ended=20)),
            "step=5",
            ["started"],
        ),
        # Its children may live: nobody tells.
        (
            (ended_driver("SYSTEM_ERROR"), driver("SUCCEEDED", at=1, ended=20)),
            "[1]<stdout>:step=5",
            [],
        ),
        ((ended_driver("SYSTEM_ERROR"),), "step=5", []),  # its job runs as far as anybody knows
        ((driver("SUCCEEDED", at=1, ended=20),), "step=5", []),  # nothing says that it failed
        ((ended_driver("INTENDED_USER_EXIT"), driver("SUCCEEDED", at=1, ended=20)), "step=5", []),
    ],
)
def test_a_hand_run_driver_is_started_again_only_where_it_is_known_to_be_killed(
    seen, line, decided
):
    """By a command; not while ranks that only its output names may go on."""
    runs = told(
        history(driver(at=1), runs=ruled(LOOP)),
        line,
        submission="",
        job_id="02000000",
        at=15.0,
    )
    runs = history(*seen, runs=runs)
    why = caused(at=19.0, gave_up=False)

    assert [s for s in Desk(BY_COMMAND).decide(runs, why, now=30.0) if s == "started"] == decided
    assert "started" not in Desk().decide(runs, why, now=30.0)  # a job hook knows no such job


def test_a_driver_of_whose_end_nobody_tells_is_not_gone():
    runs = history(driver(at=1), runs=ruled(LOOP))

    assert submission_status(runs, only(runs)) == "RUNNING"
    assert submission_status(told(ruled(LOOP), "step 1", submission=""), only(runs)) == ""


# --- real launchers --------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("case", "rule", "step", "sizes"),
    [
        ("C1_horovodrun_static_kill", replace(LOOP, framework="horovod"), 10, (3,)),
        ("C2_horovodrun_elastic_kill", OWN, 10, ()),
    ],
)
def test_a_real_launchers_output_tells_the_step(case, rule, step, sizes):
    run = only(runs_of(case, ENGINE, rule))

    assert (run.name, run.step, run.world_sizes) == (rule.name, step, sizes)


@pytest.mark.parametrize("case", ["D1_torchrun_kill_r0", "D4_torchrun_sigstop"])
def test_a_launcher_that_prints_no_step_has_none(case):
    """Its errors hold many numbers, and words like `rank: 0`."""
    assert not runs_of(case, ENGINE, replace(LOOP, framework="torchrun")).runs


TRAINED = {
    "A1_clean": ("exp", 39, None, ["running"]),
    "A2_kill_mf0": ("exp", 14, 1, ["failed"]),
    "A3_kill_mf3": ("exp", 39, 2, ["failed", "finished"]),
    "A4c_node_vanish": ("exp", 39, 2, ["failed", "finished"]),
    "A5b_drain_aware": ("exp", 79, None, ["preempted", "finished"]),
    "A11c_elastic_short_timeout": ("exp", 129, 4, ["failed", "resized", "running"]),
    "A16_manual_resume": ("A16_manual_resume", 29, 1, ["failed", "finished"]),
    "old_2_49_2_train_v2_mf2": ("exp", None, 2, ["failed", "finished"]),
}


@pytest.mark.parametrize("case", TRAINED)
def test_a_real_run_of_ray_train_tells_step_level_and_attempts(case):
    run = only(runs_of(case, ENGINE))

    assert (run.name, run.step, run.level, [a.status for a in run.attempts]) == TRAINED[case]


def test_budgets_are_counted_by_whom_they_are_of():
    """A preemption uses its own budget and leaves max_failures alone."""
    drained, killed = (only(runs_of(c, ENGINE)) for c in ("A5b_drain_aware", "A3_kill_mf3"))

    assert (drained.preemptions, drained.max_preemptions) == (1, -1)
    assert (drained.failures, drained.max_failures) == (None, None)
    assert (killed.failures, killed.max_failures) == (1, 3)


@pytest.mark.parametrize(
    ("command", "code", "left"),
    [
        ("torchrun --nproc-per-node=2 loop.py", 1, False),
        ("horovodrun -np 2 python loop.py", 1, False),
        ("torchrun --nproc-per-node=2 loop.py", -9, True),  # killed: it could end nobody
        ("torchrun --nproc-per-node=2 loop.py", 137, True),
        ("torchrun --nproc-per-node=2 loop.py", None, True),
        ("torchrun --nnodes=2 --nproc-per-node=2 loop.py", 1, True),
        ("horovodrun -np 2 -H a:1,b:1 python loop.py", 1, True),
        ("horovodrun -np 2 --hostfile hosts python loop.py", 1, True),
        ("bash run.sh", 1, True),
    ],
)
def test_ranks_that_only_a_text_names_are_gone_with_a_launcher_that_gave_up(command, code, left):
    """On its own host, and by itself; of all others it is not known."""
    rule = replace(LOOP, match="*")
    runs = history(job(at=1, entrypoint=command), runs=ruled(rule))
    runs = told(runs, "[1]<stdout>:step=5", at=15.0)
    assert ranks_left(runs, only(runs)) == ("rank 1",)
    failed = job(at=20, status="FAILED", ended=20, entrypoint=command)
    runs = observe(runs, replace(failed, driver_exit_code=code), 21.0)

    assert bool(ranks_left(runs, only(runs))) == left


def test_a_rank_that_is_a_worker_of_ray_is_a_process_of_its_own():
    """It may train on after the job failed; only Ray can say that it is gone."""
    log = {"component": "worker", "path": "/l/worker-77aa-02000000-9.out", "worker_id": "77aa"}
    runs = history(job(at=1, entrypoint="torchrun loop.py"), runs=ruled(LOOP))
    runs = told(runs, "[rank0]: step=5", at=15.0, submission=S1, **log)
    failed = job(at=20, status="FAILED", ended=20, entrypoint="torchrun loop.py")
    runs = observe(runs, replace(failed, driver_exit_code=1), 21.0)
    assert ranks_left(runs, only(runs)) == ("rank 0",)

    dead = WorkerSeen(22.0, "77aa", "n2", 9, "WORKER", "SYSTEM_ERROR", "", 22.0)
    assert ranks_left(observe(runs, dead, 23.0), only(runs)) == ()
