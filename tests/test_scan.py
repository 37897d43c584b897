"""A scan says the same however it is cut, packed, ordered and spread over processes."""

import io
import json
import os
import signal
import subprocess
import sys
import tarfile
import time
from collections import Counter
from contextlib import closing
from dataclasses import replace
from datetime import timezone
from functools import partial
from pathlib import Path
from typing import cast

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raywatch.archive import Guarded, no_tick
from raywatch.model import Component, Source
from raywatch.nodes import Nodes, with_node
from raywatch.pieces import Lines, Report, ScanError, examine_task, tasks_of
from raywatch.pipeline import load_engine
from raywatch.processes import examine_in_processes
from raywatch.reading import examine_stream
from raywatch.scan import scan_paths
from raywatch.spread import examine_here
from tests.daemons import until

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

ENGINE = load_engine()
UTC = timezone.utc
NODE, OTHER = "a" * 56, "b" * 56
DIED = (
    "[2026-11-23 07:09:03,578 W 10 10] (gcs_server) gcs_health_check_manager.cc:209: Health check failed for node "
    "5192188689939d714f03f25b506336457eb397612cf02e85b009ae7f, remaining checks 0, status 14, response status 0\n"
)
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n"
TRACE = 'Traceback (most recent call last):\n  File "train.py", line 8, in loop\n    step()\n'
RAYLET = f"[2026-11-23 07:00:00,000 I 1 1] (raylet) main.cc:1: Setting node ID node_id={NODE}\n"
QUIET = "".join(f"step {n} loss {n * 7919 % 1009}\n" for n in range(400))


def whole(done):
    """Reports in the order of their tasks, with the lines of whole files."""
    lines, every = Lines(), Report()
    for _, task, report in sorted(done, key=lambda d: d[0]):
        one = lines.of(task, report)
        every.findings += one.findings
        every.facts += one.facts
        every.files += one.files
        every.size += one.size
    return every


def serially(paths, span):
    """What all tasks say, one after the other."""
    tasks = enumerate(tasks_of(paths, span))
    return whole((n, t, examine_task(ENGINE, t, UTC)) for n, t in tasks)


PARTS = {
    "quiet": QUIET[:2000],
    "trace": TRACE + OOM,
    "ok": "ok\n",
    "long": "x" * 900 + "\n",
    "in": " y\n",
}


@settings(deadline=None)
@given(
    parts=st.lists(st.sampled_from(sorted(PARTS)), max_size=12),
    span=st.integers(64, 4_000),
    last=st.sampled_from(["", "no newline"]),
)
def test_a_file_says_the_same_in_parts(tmp_path_factory, parts, span, last):
    """Classes, lines, texts: also of records on a border."""
    path = tmp_path_factory.mktemp("log") / f"worker-{7:056x}-ffffffff-12.err"
    path.write_text("".join(PARTS[p] for p in parts) + last)
    cut, uncut = serially([str(path)], span), serially([str(path)], 1 << 30)

    assert cut == replace(uncut, lines=cut.lines)
    covered = [p for t in tasks_of([str(path)], span) for p in t]
    assert sum(p.size for p in covered) == path.stat().st_size
    begins = [p.span[0] for p in covered if p.span and p.span[0]]
    assert all(path.read_bytes()[at - 1 : at] == b"\n" for at in begins)


def add(counter, path, size):
    """What was read of each file."""
    counter[path] += size


def folder_of(tmp_path, raylet_last):
    """A session of one node: (name, text) in an order of choice."""
    files = [
        ("logs/raylet.out", RAYLET),
        ("logs/worker-" + "7" * 56 + "-ffffffff-12.err", TRACE + OOM),
        ("logs/train/ray-train-app-worker-" + "7" * 56 + ".log", "x\n"),
    ]
    path = tmp_path / f"{raylet_last}.tar"
    with tarfile.open(path, "w") as tar:
        for name, text in sorted(files, reverse=raylet_last):
            entry = tarfile.TarInfo(name)
            entry.size = len(text)
            tar.addfile(entry, io.BytesIO(text.encode()))
    return path


def test_an_archive_is_read_once_and_its_node_is_known_all_the_same(tmp_path):
    """Wherever the raylet's file comes; the same as unpacked."""
    found = []
    for last in (False, True):
        path = folder_of(tmp_path, last)
        taken = Counter[str]()
        (incident,) = scan_paths([str(path)], tick=partial(add, taken)).incidents
        assert taken == {str(path): path.stat().st_size}
        found.append(incident["subject"])
    with tarfile.open(path) as tar:
        tar.extractall(tmp_path / "out", filter="data")
    (incident,) = scan_paths([str(tmp_path / "out")]).incidents

    assert found == [incident["subject"]] * 2
    assert incident["subject"]["node"] == NODE


def test_a_folder_of_several_raylets_is_of_no_node():
    """Each raylet's own file is, also in a subfolder of its logs."""
    nodes = Nodes()
    nodes.learn({"x/raylet.out": NODE})
    assert [nodes.of(p) for p in ("x/a.log", "x/jobs/a.log", "y/a.log")] == [NODE, NODE, ""]
    nodes.learn({"x/raylet.1.out": OTHER})
    assert [nodes.of(p) for p in ("x/a.log", "x/raylet.out", "x/raylet.1.out")] == ["", NODE, OTHER]


@pytest.mark.parametrize("signature", ENGINE.ruleset.signatures, ids=lambda s: s.id)
def test_a_node_that_is_known_later_changes_nothing(signature):
    """A finding with its node put in is the finding of a record whose node was known."""
    component = cast("Component", next(iter(signature.components), "unknown"))
    for sample in signature.hits:
        texts = sample.text.encode() + b"\n"
        late, early = (
            examine_stream(
                ENGINE,
                Source(path="a/b.log", component=component, node=node),
                Guarded(io.BytesIO(texts)),
                UTC,
            )
            for node in ("", NODE)
        )
        assert [with_node(f, NODE) for f in late.findings] == list(early.findings)
        assert [with_node(f, NODE) for f in late.facts] == list(early.facts)


@pytest.fixture
def many(tmp_path):
    """Logs worth two processes, a failure in each of some."""
    for n in range(40):
        log = tmp_path / f"worker-{n:056x}-ffffffff-{n + 1}.err"
        log.write_text(
            "marker of mine\n" + QUIET * 200 + (TRACE + OOM if n % 9 == 0 else "") + QUIET
        )
    (tmp_path / "raylet.out").write_text(RAYLET)
    return tmp_path


def test_processes_say_the_same_as_one(many):
    """Counts, incidents, lines, and the bytes that were read."""
    here, there = Counter[str](), Counter[str]()
    one = scan_paths([str(many)], jobs=1, tick=partial(add, here))
    two = scan_paths([str(many)], jobs=2, tick=partial(add, there))

    assert one == two
    assert one.stats["files"] == 41
    assert len(one.incidents) == 5
    assert one.stats["bytes"] == here.total() >= there.total() > 0


def test_little_input_starts_no_process(tmp_path):
    """Whatever the number of cores."""
    for n in range(600):
        (tmp_path / f"{n}.log").write_text("quiet\n")
    before = children_of(os.getpid())  # of other tests
    with closing(examine_here(ENGINE, [str(tmp_path)], UTC, no_tick, jobs=8)) as done:
        children = [children_of(os.getpid()) for _ in done]

    assert children == [before] * 3


def children_of(pid):
    """Its processes."""
    return [int(c) for c in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def test_a_process_that_is_killed_is_an_error(many):
    """No hang, no result that is not whole."""
    tasks = tasks_of([str(many)] * 5, 1 << 20)
    before = children_of(os.getpid())  # of other tests

    def killed_in_midst():
        with closing(examine_in_processes(ENGINE, tasks, UTC, no_tick, jobs=2)) as done:
            next(done)
            workers = [p for p in children_of(os.getpid()) if p not in before]
            os.kill(workers[0], signal.SIGKILL)
            list(done)

    with pytest.raises(ScanError, match="was killed"):
        killed_in_midst()
    assert children_of(os.getpid()) == before


@pytest.mark.parametrize(("number", "code"), [(signal.SIGINT, 130), (signal.SIGKILL, -9)])
def test_an_end_ends_all_processes(tmp_path, number, code):
    """Ctrl-C at once, in the midst of gigabytes; a scan that is killed leaves nobody behind."""
    frame = bytes(zstd.compress(QUIET.encode() * 5000))
    for n in range(2):
        (tmp_path / f"worker-{n:056x}-ffffffff-12.err.zst").write_bytes(frame * 2000)
    # Whatever started the tests: what a shell puts into the background ignores Ctrl-C, and so would a child of it.
    plain = ["env", "--default-signal=INT", sys.executable, "-m", "raywatch"]
    argv = [*plain, "scan", "-j", "2", str(tmp_path)]
    with subprocess.Popen(argv, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as scan:
        until(lambda: len(children_of(scan.pid)) == 2, 60, "two processes")
        workers = children_of(scan.pid)
        time.sleep(0.3)  # in the midst of it
        os.kill(scan.pid, number)
        for worker in workers if number == signal.SIGINT else ():
            os.kill(worker, number)  # a terminal sends it to all
        assert scan.wait(5) == code
        assert b"Traceback" not in (scan.stderr.read() if scan.stderr else b"")
    until(lambda: not any(Path(f"/proc/{w}").exists() for w in workers), 10, "all are gone")


def test_rules_of_the_user_are_in_force_in_every_process(many, tmp_path):
    """What is compiled is given to all."""
    rules = tmp_path / "mine.yaml"
    rules.write_text(
        "- id: my-marker\n  class: nan_loss\n  title: Seven\n  where: {component: [worker]}\n"
        "  any: ['marker of mine']\n  hits: ['marker of mine']\n  misses: ['step 1']\n"
    )
    one, two = (scan_paths([str(many)], rules=[str(rules)], jobs=jobs) for jobs in (1, 2))

    assert one == two
    assert one.stats["findings"] == 45


def test_logs_of_containers_are_read_without_their_prefix(tmp_path):
    """A kubelet's file: the time is the runtime's, the line the file's."""
    rows = [
        "step 1",
        "Traceback (most recent call last):",
        '  File "t.py", line 1, in f',
        "ValueError: bad",
    ]
    log = tmp_path / "0.log"
    log.write_text("".join(f"2026-11-23T07:09:03.5Z stderr F {row}\n" for row in rows))
    done = subprocess.run(
        [sys.executable, "-m", "raywatch", "scan", "--json", str(log)],
        capture_output=True,
        check=False,
    )
    (incident,) = json.loads(done.stdout)["incidents"]

    assert (incident["class"], incident["first_at"]) == (
        "user_exception",
        "2026-11-23T07:09:03.500Z",
    )
    assert (incident["root"]["line"], incident["root"]["text"]) == (4, "ValueError: bad")
