"""`raywatch explain`: the root among all that a text says, `none` where nothing failed, and an answer that fits a screen."""

import io
import json
import re
from pathlib import Path

import pytest

from raywatch.archive import Guarded, Member
from raywatch.explain import (
    _explain,
    explain_exit_code,
    explanation_json,
    render_explanations,
)
from raywatch.pipeline import load_engine

ENGINE = load_engine()
CLASSES = ENGINE.ruleset.classes
SNIPPETS = Path(__file__).parent / "cases" / "snippets.jsonl"
# The labels of the snippets are finer than our classes.
OURS = {
    "nccl_ib_error": "nccl_network_error",
    "nccl_system_error": "nccl_network_error",
    "nccl_cuda_error": "nccl_init_failed",
    "xid119_gsp_timeout": "gpu_hardware_fault",
    "xid_app_fault": "gpu_app_fault",
    "xid_ecc_memory": "gpu_ecc_error",
    "cuda_ecc_error": "gpu_ecc_error",
    "cuda_error_other": "cuda_error",
}

OOM_KILL = "[2026-11-23 07:15:00,000 I 21 21] (raylet) node_manager.cc:3199: Killing 4 worker(s), kill details: Memory on the node (IP: 10.77.0.1, ID: 51) was 9.15GB used / 9.54GB limit"
KERNEL = "[Sun Feb 23 16:24:18 2025] Memory cgroup out of memory: Killed process 24616 (ray::hog) total-vm:1kB, anon-rss:457424kB"
EXIT = "[2026-11-23 07:15:01,000 W 10 10] (gcs_server) gcs_worker_manager.cc:70: Reporting worker exit, worker id = f74e7527fcbf6083271b8d37cec27b8b6d40e660c3ca0305ebcdc76b, node id = 51, address = 127.0.0.1, exit_type = SYSTEM_ERROR, exit_detail = Worker unexpectedly exits with a connection error code 2. End of file. Some common causes include: (1) the process was killed by the OOM killer due to high memory usage, (2) ray stop --force was called, or (3) the worker crashed unexpectedly due to SIGSEGV or another unexpected error."
DIED = "ray.exceptions.ActorDiedError: The actor died unexpectedly before finishing this task."
NODE_DIED = "ray.exceptions.ActorDiedError: The actor died because its node has died. Node Id: 5192188689939d714f03f25b506336457eb397612cf02e85b009ae7f"
RING = "RuntimeError: [/pytorch/third_party/gloo/gloo/transport/tcp/pair.cc:553] Connection closed by peer [127.0.0.1]:59792."
RAISE = '{"asctime": "2026-11-23 07:42:49,356", "levelname": "INFO", "message": "[FailurePolicy] RAISE\\n  Source: worker group\\n  Error count: 1 (max allowed: 0)", "run_name": "r", "component": "controller"}'
DRAIN = "[2026-11-23 07:21:01,445 I 21 21] (raylet) node_manager.cc:2245: Drain raylet RPC has received. Deadline is 1795418476218. Drain reason: DRAIN_NODE_REASON_PREEMPTION. Drain reason message: spot interruption notice: instance-action terminate"
NODE_DEAD = "[2026-11-23 07:22:03,578 W 10 10] (gcs_server) gcs_node_manager.cc:277: The node with node id: 5192188689939d714f03f25b506336457eb397612cf02e85b009ae7f and address: 10.77.0.3 and node name: 10.77.0.3 has been marked dead because the detector has missed too many heartbeats from it."
NODE_STOPPED = "[2026-11-23 07:12:35,385 I 10 25] (gcs_server) gcs_node_manager.cc:734: , death reason = EXPECTED_TERMINATION, death message = received SIGTERM node_id=95bade9db97de37df9b8d2c26a97feb8c89c550c02f8b11d9574347e"
TRACE = 'Traceback (most recent call last):\n  File "t.py", line 1, in f\n    g()\nValueError: bad batch'
RANK_0 = "\n".join(f"[rank0]: {row}" for row in TRACE.split("\n"))
TORCHRUN = (
    "W1123 07:46:36.000000 25 torch/distributed/elastic/multiprocessing/api.py:900] Sending process 27 closing signal SIGTERM\n"
    'Traceback (most recent call last):\n  File "/usr/bin/torchrun", line 8, in <module>\n'
    "torch.distributed.elastic.multiprocessing.errors.ChildFailedError: \n====\nt.py FAILED\n----\nRoot Cause (first observed failure):\n"
    "[0]:\n  rank      : 0 (local_rank: 0)\n  exitcode  : 1 (pid: 27)\n  error_file: <N/A>\n"
    "  traceback : To enable traceback see: https://pytorch.org/docs/stable/elastic/errors.html\n===="
)
NCCL = "[rank1]:[E1225 12:58:32.712922209 ProcessGroupNCCL.cpp:616] [Rank 1] Watchdog caught collective operation timeout: WorkNCCL(SeqNum=17284, OpType=_ALLGATHER_BASE, NumelIn=4, NumelOut=12, Timeout(ms)=7200000) ran for 7200031 milliseconds before timing out."
GROUP = (
    "ray.train.WorkerGroupError: Training failed due to worker errors:\n[Rank 0 Error Snippet]:\n"
    'Traceback (most recent call last):\n  File "a.py", line 1, in f\n'
    + RING
    + "\n\n[Rank 1 Error Snippet]:\n"
    + TRACE
)


EXPORTED = '{"event_data":{"job_id":"AgAAAA==","state_updates":{"error_info":{"error_message":"User exception:\\nray::f()\\n  File \\"t.py\\", line 4, in f\\nValueError: empty","error_type":"TASK_EXECUTION_EXCEPTION"},"state_ts_ns":{"12":"1795628412837572052"}},"task_id":"Z6Loz6WgbbP///////////////8CAAAA"},"event_id":"6b","source_type":"EXPORT_TASK","timestamp":1795628413}'


def explain(text):
    """What is said of a pasted text."""
    return _explain(ENGINE, Member("-", Guarded(io.BytesIO(text.encode() + b"\n"))))


@pytest.mark.parametrize(
    ("lines", "root"),
    [
        ([OOM_KILL, EXIT, DIED, RING, RING, RAISE], "ray_oom_kill"),
        ([KERNEL, EXIT, DIED, RING], "kernel_oom_kill"),
        ([DRAIN, NODE_DEAD, NODE_DIED, RAISE], "spot_preemption"),
        ([NODE_DEAD, NODE_DIED, RAISE], "node_lost"),
        ([NODE_STOPPED, NODE_DIED], "node_terminated_expected"),
        ([RANK_0, TORCHRUN], "user_exception"),
        ([TRACE, NCCL, NCCL, NCCL], "user_exception"),
        ([GROUP], "user_exception"),
        (["*** SIGSEGV received at time=1795417726 on cpu 0 ***", EXIT, DIED], "worker_segfault"),
        ([EXIT, DIED, RING], "worker_crash"),
        ([EXIT, EXPORTED], "worker_crash"),  # the program may have caught what its task raised
    ],
)
@pytest.mark.parametrize("order", ["as it was", "root last", "symptoms thrice"])
def test_the_root_is_told_and_not_its_symptoms(lines, root, order):
    """Whatever comes first and however often."""
    if order == "root last":
        lines = lines[::-1]
    elif order == "symptoms thrice":
        lines = [*lines[1:], *lines, *lines[1:]] if root != "user_exception" else lines
    explanation = explain("\n".join(lines))

    assert explanation_json(explanation)["class"] == root
    assert explain_exit_code([explanation]) == 1


def test_a_task_s_exception_is_told_where_nothing_else_is():
    """A row of an export file alone, in words."""
    explanation = explain(EXPORTED)

    assert explanation_json(explanation)["class"] == "user_exception"
    assert "ValueError: empty" in render_explanations([explanation], as_json=False)


def test_the_rank_that_failed_is_told_and_not_the_one_that_complained_first():
    """Of Ray Train's error the line, the exception and the rank are the cause's."""
    answer = explanation_json(explain(GROUP))

    assert (answer["line"], answer["text"]) == (11, "ValueError: bad batch")
    assert (answer["fields"]["exception"], answer["fields"]["message"]) == (
        "ValueError",
        "bad batch",
    )
    assert answer["subject"]["rank"] == 1
    assert {a["class"] for a in answer["also"]} >= {"ring_break", "train_failed"}


@pytest.mark.parametrize(
    "text",
    [
        "a.py:7: UserWarning: The given NumPy array is not writable",
        "DeprecationWarning: old\nFutureWarning: older",
        " 45%|####5     | 45/100 [00:10<00:12,  4.4it/s, loss=0.3, errors=0]\rdone failed=0",
        "2026-11-23 07:00:00,000\tWARNING worker.py:1 -- retrying, attempt 1 of 3 failed\n" + TRACE,
        "Exception ignored in: <function D.__del__ at 0x11>\n" + TRACE,
        TRACE.replace("ValueError: bad batch", "KeyboardInterrupt"),
        NODE_STOPPED,
        "[2026-11-23 08:14:00,800 I 21 21] (raylet) node_manager.cc:2245: Drain raylet RPC has received. Deadline is 0. Drain reason: DRAIN_NODE_REASON_IDLE_TERMINATION. Drain reason message: idle",
        "",
    ],
)
def test_healthy_text_is_none(text):
    """Warnings, bars, what was retried or interrupted, planned stops."""
    explanation = explain(text)

    assert explanation_json(explanation)["class"] == "none"
    assert explain_exit_code([explanation]) == 0
    assert " none. " in render_explanations([explanation], as_json=False)


@pytest.mark.parametrize(
    "around",
    [
        lambda row: f"2026-11-23T07:09:03.123Z stderr F {row}",
        lambda row: json.dumps(
            {"log": row + "\n", "stream": "stderr", "time": "2026-11-23T07:09:03Z"}
        ),
        lambda row: f"[pod/ray-worker-x/ray-worker] {row}",
        lambda row: f"Nov 23 07:09:03 host ray[12]: {row}",
        lambda row: f"> {row}",
        lambda row: f"(RayTrainWorker pid=7, ip=train-8-worker-0) {row}",
        lambda row: f"(RayTrainWorker pid=7) [rank0]: {row}",
        lambda row: f"[default0]:{row}",
        lambda row: f"[1,0]<stderr>:{row}",
        lambda row: f"0: {row}\n1: step",
        lambda row: row.replace("<", "&lt;").replace('"', "&quot;"),
        lambda row: row + "\r",
    ],
)
def test_nothing_that_stands_around_hides_an_exception(around):
    """The type, the message and the line of the file."""
    rows = [*["step 1"] * 5, *TRACE.split("\n"), "step 2"]
    text = "\n".join(map(around, rows))
    answer = explanation_json(explain(text))

    assert answer["class"] == "user_exception"
    assert (answer["fields"]["exception"], answer["fields"]["message"]) == (
        "ValueError",
        "bad batch",
    )
    assert text.split("\n")[answer["line"] - 1] == around("ValueError: bad batch").split("\n")[0]


@pytest.mark.parametrize(
    ("text", "class_id"),
    [
        (
            'ERROR 05-02 21:36:34 [core.py:459] the call failed\nTraceback (most recent call last):\n  File "t.py", line 1, in f\n    g()',
            "unknown_failure",
        ),
        (
            'Traceback (most recent call last):\n  File "t.py", line 1, in f\n    g()',
            "unknown_failure",
        ),
        ("ERROR the call failed\n" + TRACE, "user_exception"),
        ("java.lang.IllegalStateException: no\n\tat a.b.C.d(C.java:24)", "unknown_failure"),
    ],
)
def test_a_failure_without_its_reason_is_unknown_and_not_nothing(text, class_id):
    """A traceback whose end is cut off, an exception of another language."""
    assert explanation_json(explain(text))["class"] == class_id


def test_an_answer_fits_a_terminal():
    """80 columns, the line among its neighbours, what it is not, what to do, the page; nothing drives the terminal."""
    text = "before\n" * 3 + EXIT + "\x1b[2J\nafter \u202e " + "x" * 500
    shown = render_explanations([explain(text)], as_json=False)
    rows = shown.splitlines()

    assert max(map(len, rows)) <= 80
    assert re.search(r"^    2 \| before$", shown, re.MULTILINE)
    assert re.search(r"^  > 4 \| \[2026-11-23 07:15:01,000 W", shown, re.MULTILINE)
    for part in (
        "  it is not",
        "- kernel_oom_kill",
        "list of possible causes",
        "  what to do now",
        "  resume: ",
    ):
        assert part in shown
    assert rows[-1] == "  runbook: raywatch runbook worker_crash"
    assert not {"\x1b", "\u202e"} & set(shown)


@pytest.mark.parametrize(
    "row", SNIPPETS.read_text().splitlines(), ids=lambda r: json.loads(r)["id"]
)
def test_a_snippet_of_other_people_is_read_right(row):
    """Its label, or a class that its label is a part of."""
    snippet = json.loads(row)
    labels = {OURS.get(name, name) for name in (snippet["label"], *snippet["also"])}
    label = OURS.get(snippet["label"], snippet["label"])
    wanted = {label} if snippet["root_in_snippet"] else labels
    answer = explanation_json(explain("\n".join(snippet["lines"])))["class"]

    assert label == "none" or label in CLASSES
    assert answer in wanted
