"""The commands of the runbooks, typed on the head of a real cluster: each ends well and says something.

A host of its own has the paths and ports that the pages name. What a command looks for is there, or it is what a
signature's sample says: a pattern that finds neither is wrong. Needs root.
"""

import json
import os
import re
import shlex
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml

from raywatch.runbooks import runbook_names, runbook_text
from tests.alerting import ALERTMANAGER, PROMETHEUS, alertmanager_argv, prometheus_argv
from tests.daemons import until
from tests.ray.hosts import Hosts
from tests.ray.runbook_lines import Pipeline, filled, pipelines, typed

pytestmark = pytest.mark.ray
ROOT = Path(__file__).parent.parent.parent
LOGS = "/tmp/ray/session_latest/logs"
# A program of the pages is in one of these two; a new one must be put there.
HERE = frozenset(
    shlex.split(
        "amtool cat curl date df dmesg du for free getent grep head id last ls mount pgrep pip promtool ps python python3 "
        "ray raywatch sed sort ss tail ulimit uniq uptime wc xargs"
    )
)
ELSEWHERE = {
    "a cloud's own command line": "aws gcloud",
    "Kubernetes": "kubectl",
    "Slurm": "sacct scontrol",
    "a device and its driver": "nvidia-smi rocm-smi lspci",
    "a network of InfiniBand or EFA": "ibstat ibqueryerrors ibv_devinfo fi_info rdma ethtool ip",
    "another host that answers": "nc ping ssh redis-cli",
    "a machine with systemd": "coredumpctl journalctl systemctl",
    "what neither Ray nor Debian's base brings": "file lsof py-spy xxd",
    "Ray Serve, which the tests do not install": "serve",
    "a library that does not load": "ldd",
}
# Programs that are here, asked for what is not: words of the command.
NOT_HERE = {
    "/proc/driver/nvidia": "a driver",
    "torch.cuda": "a build of torch for GPUs",
    "state.pt": "torch, and a model's state",
    "/sys/fs/cgroup": "a container with limits of its own",
    "/tmp/tpu_logs": "a TPU",
    "/tmp/libtpu_lockfile": "a TPU",
    "/logs/serve/": "Ray Serve, which the tests do not install",
    "MASTER_ADDR": "another host",
    "io_worker-": "objects that spilled",
    "ray_spilled_objects": "objects that spilled",
    "runtime_env_setup-ray_client_server_": "a client with an environment of its own",
    "grep PORT": "a port that somebody has taken",
    "grep -h 'SUBMISSION_ID'": "a job whose supervisor died",
}
# The only exit code that is not 0: something failed, which is what this cluster is for.
CODES = {"raywatch scan": 1, "raywatch incidents": 1}
# What waits, and what a loaded machine is late with, is another matter from one run to the next: 0 or 1.
EITHER = ("raywatch capacity", "raywatch doctor")
# Rows that this cluster does not have: the value is proved against Ray's own words.
NO_ROWS = frozenset({"state=DEAD", "state=RESTARTING", "exit_type=NODE_OUT_OF_MEMORY"})
# What no signature's sample says, as who writes it does.
WORDS = """
Agent process with name dashboard_agent exited, exit code 0.
Selected to kill: worker 12
Top 10 memory users:
Parameter indices which did not receive grad for rank 0: 1 2
Missing ranks:
Stalled ranks:
"""  # Ray's agent_manager.cc and memory monitor, torch's reducer.cpp, Horovod's stall_inspector.cc
RUN, JOB = "book", "j-book"
CLIENT = "import ray; ray.init('ray://127.0.0.1:10001'); print(ray.get(ray.put(1)))"
PAGES = {name: runbook_text(name) for name in runbook_names()}
TYPED = typed(PAGES.values())


def is_here(pipeline: Pipeline) -> bool:
    """Whether a local cluster's head can run it."""
    return HERE.issuperset(pipeline.programs) and not any(x in pipeline.text for x in NOT_HERE)


# --- a cluster that a reader sits at -------------------------------------------------------------


class Said(NamedTuple):
    """What came of a command: the exit codes of its stages, its output, what it said besides."""

    codes: tuple[int, ...]
    out: str
    err: str


class Book:
    """A head on which a reader types commands. What begins two of them is run once."""

    def __init__(self, hosts: Hosts) -> None:
        self.hosts = hosts
        self.values: dict[str, str] = {}
        self._begun: dict[str, Said] = {}

    def run(self, text: str, given: str = "") -> Said:
        """Run a pipeline as bash does on the head."""
        with tempfile.NamedTemporaryFile(dir=self.hosts.folder) as codes:
            script = f'{text}\necho "${{PIPESTATUS[*]}}" > {codes.name}'
            done = subprocess.run(
                self.hosts.head.inside("bash", "-c", script),
                env=ENVIRON,
                cwd=self.hosts.folder,
                input=given,
                capture_output=True,
                text=True,
                errors="replace",
                check=False,
                timeout=90,
            )
            return Said(tuple(map(int, codes.read().split())), done.stdout, done.stderr)

    def begin(self, texts: Iterable[str]) -> None:
        """Run first stages, three at a time: most of it is Ray's command line that starts."""
        new = [t for t in dict.fromkeys(texts) if t not in self._begun]
        with ThreadPoolExecutor(3) as many:
            self._begun.update(zip(new, many.map(self.run, new), strict=True))

    def fault(self, pipeline: Pipeline) -> str:
        """What is wrong with it; empty where nothing is."""
        first, *rest = (filled(s, self.values) for s in pipeline.stages)
        self.begin([first])
        said = self._begun[first]
        wrong = _begins_wrong(first, said)
        if wrong or (said.out and not rest):
            return wrong
        more = self.run(" | ".join(rest), said.out) if rest else said
        for stage, code in zip(rest, more.codes, strict=False):
            # What reads no further than it needs ends the one before it by SIGPIPE.
            if code not in (0, 128 + 13, 1 if stage.startswith("grep ") else 0):
                return f"{stage} ends with {code}: {more.err}"
        looks = [s for s in pipeline.stages if s.startswith("grep ")]
        if more.out or first.endswith(".err") or (looks and all(map(_is_real, looks))):
            return ""
        return "says nothing"


def _begins_wrong(text: str, said: Said) -> str:
    """What is wrong with a first stage."""
    (code,) = said.codes or (-1,)
    right = next((c for start, c in CODES.items() if text.startswith(start)), 0)
    looks = text.startswith("grep ")
    if code != right and not (code == 1 and (looks or text.startswith(EITHER))):
        return f"ends with {code}: {said.err or said.out}"
    # Healthy processes leave a file so, and a series that nobody has is no mistake of a query.
    empty = (text.startswith("tail ") and text.endswith(".err")) or text.startswith("promtool ")
    if not (said.out or looks or empty):
        return "says nothing"
    if text.startswith("curl ") and not re.fullmatch(
        r"\s*(?:\{.*\}|success|200)\s*", said.out, re.DOTALL
    ):
        return f"answers {said.out[:200]}"
    value = re.search(r"--filter [\"']([a-z_]+)!?=(\w+)", text)
    rows = re.search(r"^Total: [1-9]|^\s*(?:- )?[a-z_]+: ", said.out, re.MULTILINE)
    if text.startswith("ray list ") and not rows:
        asked = f"{value[1]}={value[2]}" if value else ""
        return (
            ""
            if asked in NO_ROWS and value and value[2] in ray_words()
            else f"no rows: {said.out[:200]}"
        )
    return ""


def ray_words() -> set[str]:
    """Names of all states and reasons that Ray's own messages know."""
    from ray.core.generated import common_pb2, gcs_pb2

    files = (common_pb2.DESCRIPTOR, gcs_pb2.DESCRIPTOR)
    enums = [e for f in files for e in f.enum_types_by_name.values()]
    enums += [e for f in files for m in f.message_types_by_name.values() for e in m.enum_types]
    return {v.name for e in enums for v in e.values}


def _is_real(stage: str) -> bool:
    """Whether what a grep looks for stands in a signature's sample."""
    words = [w for w in shlex.split(stage) if not w.startswith(("/tmp/ray", "--include"))]
    found = subprocess.run(words, input=SAMPLES, capture_output=True, text=True, check=False)
    return bool(found.stdout)


SAMPLES = WORDS + "".join(
    (x if isinstance(x, str) else x["text"]) + "\n"
    for f in (ROOT / "rules" / "signatures").glob("*.yaml")
    for s in yaml.safe_load(f.read_text())
    for x in s["hits"]
)
ENVIRON = {
    **{k: v for k, v in os.environ.items() if not k.startswith(("RAY_", "RAYWATCH_"))},
    "PATH": f"{Path(sys.executable).parent}:{os.environ['PATH']}",
    "RAY_AUTH_MODE": "disabled",
}


@pytest.fixture(scope="module")
def book():
    """A head with a daemon, a job in which much fails and much waits, and a client that has left."""
    folder = Path(tempfile.mkdtemp(prefix="rw", dir="/tmp"))
    environ = {"RAY_TRAIN_ENABLE_STATE_TRACKING": "1", "PATH": ENVIRON["PATH"]}
    try:
        with Hosts(folder, environ) as hosts:
            hosts.add(num_cpus=2)
            store = ["--store", str(folder / "state" / "raywatch.db")]
            hosts.start(
                hosts.head, [sys.executable, "-m", "raywatch", "daemon", *store], "daemon.out"
            )
            argv = [
                sys.executable,
                str(Path(__file__).with_name("book_driver.py")),
                f"{folder}/s",
                RUN,
            ]
            body = {"entrypoint": shlex.join(argv), "submission_id": JOB}
            hosts.ask(f"{hosts.dashboard}/api/jobs/", body)
            start_servers(hosts)
            client = start_client(hosts)
            running = Book(hosts)
            until(
                lambda: "the book is ready" in log_of(hosts), 120, "the job is ready", pause_s=0.5
            )
            # Ray gives the server of a client 30 s to start, which a machine at work may not keep.
            if client.wait(90):
                assert start_client(hosts).wait(90) == 0, (folder / "client.out").read_text()
            running.values = values(running, folder)
            watchdog = (
                "amtool alert query --alertmanager.url=http://127.0.0.1:9093 RaywatchWatchdog"
            )
            until(lambda: running.run(watchdog).out, 90, "an alert has come", pause_s=0.5)
            yield running
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def start_servers(hosts: Hosts) -> None:
    """Start Prometheus and Alertmanager with what deploy/ ships, as it stands."""
    asks = prometheus_argv(PROMETHEUS, hosts.folder / "prometheus")
    tells = alertmanager_argv(ALERTMANAGER, hosts.folder / "alertmanager")
    hosts.start(hosts.head, asks, "prometheus.out")
    hosts.start(hosts.head, tells, "alertmanager.out")


def start_client(hosts: Hosts) -> subprocess.Popen[bytes]:
    """Start a program that uses Ray Client and leaves."""
    return hosts.start(hosts.head, [sys.executable, "-c", CLIENT], "client.out")


def log_of(hosts: Hosts) -> str:
    """What the job printed."""
    return str(json.loads(hosts.ask(f"{hosts.dashboard}/api/jobs/{JOB}/logs"))["logs"])


def values(book: Book, folder: Path) -> dict[str, str]:
    """What a reader puts in the place of the pages' words."""

    def rows(what: str) -> list[dict[str, str]]:
        answer = book.hosts.ask(f"{book.hosts.dashboard}/api/v0/{what}?detail=1")
        return list(json.loads(answer)["data"]["result"]["result"])

    actor = next(a for a in rows("actors") if a["class_name"] == "Plain" and a["state"] == "ALIVE")
    worker = next(w for w in rows("workers") if w["pid"] == actor["pid"])
    log = json.loads(book.run("raywatch incidents --state all --json").out)
    saved = next((folder / "s" / RUN).glob("checkpoint_2*/model.pt"))
    return {
        "ID": str(log["incidents"][0]["id"]),
        "RUN": RUN,
        "SUBMISSION_ID": JOB,
        "LOGS": f"{LOGS}/",
        "STORAGE": f"{folder}/s",
        "ACTOR_ID": actor["actor_id"],
        "WORKER_ID": worker["worker_id"],
        "PID": str(actor["pid"]),
        "HEAD": "127.0.0.1",
        "NODE_IP": book.hosts.head.ip,
        "NAME": "localhost",
        "MODULE": "json",
        "checkpoint_DIR": saved.parent.name,
        "FILE.pt": saved.name,
        "FILE": str(saved),
        "PATH": str(folder),
        "MOUNTPOINT": "/",
        "PORT": "23000",
    }


# --- laws ----------------------------------------------------------------------------------------


def test_every_program_is_known_to_be_here_or_not():
    """In one table; no table names what no page uses."""
    elsewhere = [x for words in ELSEWHERE.values() for x in words.split()]

    assert {p for t in TYPED for p in t.programs} == HERE | set(elsewhere)
    assert not HERE.intersection(elsewhere)
    assert [x for x in NOT_HERE if not any(x in t.text for t in TYPED)] == []


def test_commands_end_well_and_say_something(book):
    """All that can run here."""
    mine = [t for t in TYPED if is_here(t)]
    book.begin(filled(t.stages[0], book.values) for t in mine)
    found = [f"{t.text}: {fault}" for t in mine if (fault := book.fault(t))]

    assert "\n".join(found) == ""
    assert len(mine) > 150


@pytest.mark.parametrize(
    ("command", "fault"),
    [
        ("ray list actors --details", "ends with 2"),
        ('ray list nodes --filter "state=DEED"', "ends with 2"),
        ('ray list workers --filter "exit_type=SYSTEM_EROR"', "no rows"),
        ("ray job logs NO_SUCH_JOB", "ends with 1"),
        ("raywatch incidents no-such-id", "ends with 2"),
        ("curl -s http://HEAD:8265/api/no_such", "answers 404"),
        ("promtool query instant http://HEAD:9090 'sum('", "ends with 1"),
        (f"tail -5 {LOGS}/no_such.log", "ends with 1"),
        (f"grep 'no such words' {LOGS}/raylet.out", "says nothing"),
        (f"grep -h raylet {LOGS}/no_such.out", "ends with 2"),
        ("ray job logs SUBMISSION_ID | grep -n 'no such words' | head", "says nothing"),
        ("ray job logs SUBMISSION_ID | tail --no-such", "tail --no-such ends with 1"),
    ],
)
def test_a_wrong_command_is_found(book, command, fault):
    """Each check can fail."""
    (pipeline,) = pipelines(command)

    assert book.fault(pipeline).startswith(fault)


def test_lines_are_cut_as_a_shell_cuts_them():
    """At what is not quoted, without comments."""
    assert pipelines("a 'x|y;z' | b \"p # q\"; c || d  # e; f") == [
        Pipeline(("a 'x|y;z'", 'b "p # q"')),
        Pipeline(("c || d",)),
    ]
    assert pipelines('for p in $(x); do echo "$(y | z)"; done | sort | tail') == [
        Pipeline(('for p in $(x); do echo "$(y | z)"; done', "sort", "tail"))
    ]
    assert (
        filled("a RUN RUNNING SUBMISSION_ID ID", {"RUN": "r", "ID": "i", "SUBMISSION_ID": "s"})
        == "a r RUNNING s i"
    )
