"""Logs of real, healthy Ray clusters, and what a scan says of them: python -m tests.bench.healthy [--size 1G] [--keep FOLDER].

Round after round a cluster starts, runs what people run (tests/bench/workloads/healthy_*.py) to its end, and is stopped
as people stop it (SIGTERM to `ray start --block`). Every second one logs at level debug, which is what makes a gigabyte
of lines that real code wrote. Nothing fails, so no incident is right.

A driver that fails all the same, as on a machine that is too busy for Ray, is a failure in its session's logs: they are
left out, and the round is run again. Only a driver's end leaves a session out, never what a scan says; whatever it
calls a failure before that driver began is a false alarm as everywhere.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path

from raywatch.scan import ScanResult, scan_paths
from tests.bench.measure import size
from tests.bench.workloads import healthy_job, healthy_more
from tests.daemons import until
from tests.ray.cluster import Cluster, Node, free_ports, start_head

RUN_S = 600
SCALE, MORE = 3, 20  # how much of each; so many times more where each task leaves a hundred lines
MANY = frozenset({"tasks", "actors", "restarts", "groups"})
MOST_LEFT_OUT = 3
WHY = "left-out.json"
# `ray stop` ends every Ray process that it sees: it must see those of one node only.
OF_ITS_OWN = ("unshare", "--pid", "--fork", "--kill-child", "--mount-proc")
# What a round raises where something in it did not end as it should; a mistake of this module is none of it.
_WRONG = (AssertionError, OSError, subprocess.SubprocessError)
Make = Callable[[int, Path], None]


class DriverFailed(Exception):  # noqa: N818 - what it is
    """A part of a round did not end as it should. `began`: when it was started, in seconds since 1970."""

    def __init__(self, what: str, began: float, why: str) -> None:
        super().__init__(f"{what}: {why}")
        self.began = began


@dataclass(slots=True)
class Round:
    """One cluster and what runs on it."""

    cluster: Cluster
    drivers: Path
    debug: bool
    doing: str = "start"
    began: float = field(default_factory=time.time)

    def begin(self, doing: str) -> None:
        """Note what runs from now on."""
        self.doing, self.began = doing, time.time()

    def driver(self, kind: str, *, through: str = "", then: Callable[[], object] = str) -> None:
        """Run a workload to its end; `then` is called once it runs. Raises as a process does that failed."""
        self.begin(f"driver {kind} {through}".strip())
        script = healthy_job if kind in healthy_job.KINDS else healthy_more
        scale = SCALE * (MORE if self.debug and kind in MANY and not through else 1)
        argv = [sys.executable, str(script.__file__), kind, f"{self.cluster.temp_dir}/storage"]
        out = self.drivers / f"driver-{'client' if through else kind}.log"
        environ = {**self.cluster.environ, "RAY_ADDRESS": through or self.cluster.address}
        with (
            out.open("wb") as told,
            subprocess.Popen([*argv, str(scale)], env=environ, stdout=told, stderr=told) as running,
        ):
            try:
                then()
                code = running.wait(RUN_S)
            finally:
                running.kill()
        if code:
            raise subprocess.CalledProcessError(code, f"driver {kind}", out.read_bytes()[-300:])

    def job(self, submission_id: str, kind: str, *, stop: bool = False) -> None:
        """Submit a job and wait for its end, or stop it while it runs, as a person does."""
        self.begin(f"job {submission_id}")
        script = f"{healthy_job.__file__} {kind} {self.cluster.temp_dir}/storage 2"
        entrypoint = "sleep 600" if stop else f"{sys.executable} {script}"
        self.cluster.ask("/api/jobs/", {"entrypoint": entrypoint, "submission_id": submission_id})

        def status() -> object:
            return self.cluster.job(submission_id)["status"]

        if stop:
            until(lambda: status() == "RUNNING", RUN_S, "the job runs")
            self.cluster.ask(f"/api/jobs/{submission_id}/stop", method="POST")
        ended = ("SUCCEEDED", "FAILED", "STOPPED")
        until(lambda: status() in ended, RUN_S, "the job has ended")
        assert status() == ("STOPPED" if stop else "SUCCEEDED"), f"job {submission_id}: {status()}"
        log = self.drivers / f"job-driver-{submission_id}.log"
        log.write_text(self.cluster.job_log(submission_id))

    def usual(self) -> None:
        """What every user does."""
        self.cluster.add_node(num_cpus=2)
        for kind in healthy_job.KINDS:
            self.driver(kind)
        self.driver("tasks", through=self.cluster.client)
        self.job("j-1", "tasks")

    def rarer(self) -> None:
        """What restarts, spills, scales and is taken away, as somebody meant it."""
        self.cluster.add_node(num_cpus=2, resources={"slot": 1})
        for kind in healthy_more.KINDS:
            if kind != "elastic":
                self.driver(kind)
        self.driver("restarts", through=self.cluster.client)
        self.job("j-stopped", "tasks", stop=True)
        log = self.drivers / "driver-elastic.log"

        def join() -> Node:
            until(lambda: b"1 workers from step" in log.read_bytes(), RUN_S, "one trains")
            return self.cluster.add_node(num_cpus=2, resources={"slot": 1}, inside=OF_ITS_OWN)

        self.driver("elastic", then=join)
        self.leave(self.cluster.nodes[-1])

    def leave(self, node: Node) -> None:
        """Take a node away as planned: `ray stop` where nothing but that node can be seen."""
        self.begin(f"ray stop {node.name}")
        (first,) = (
            Path(f"/proc/{node.starter.pid}/task/{node.starter.pid}/children").read_text().split()
        )
        seen = Path(f"/proc/{first}/ns/pid").readlink()
        assert seen != Path("/proc/self/ns/pid").readlink(), "ray stop would see other clusters"
        inside = ("nsenter", f"--target={first}", "--pid", "--mount", "--")
        told = subprocess.run(
            [*inside, self.cluster.ray, "stop"],
            env=self.cluster.environ,
            capture_output=True,
            check=True,
            timeout=RUN_S,
        )
        (self.drivers / "ray-stop.log").write_bytes(told.stdout + told.stderr)
        os.kill(int(first), signal.SIGKILL)  # `ray start --block` takes a stop for no reason to end
        node.starter.wait(60)
        self.cluster.nodes.remove(node)
        until(lambda: node.name not in self.cluster.node_ids(), RUN_S, "the node has left")


def round_of(number: int, folder: Path) -> None:
    """Run one cluster from its start to its end; keep its logs, whatever happens. Raises DriverFailed."""
    (folder / "drivers").mkdir(parents=True)
    temp = Path(tempfile.mkdtemp(prefix="rwh", dir="/tmp"))
    environ = {"HEALTHY_PORT": str(free_ports(1)[0]), "TZ": "UTC"}  # as a scan reads them
    debug = bool(number % 2)
    if debug:
        environ["RAY_BACKEND_LOG_LEVEL"] = "debug"
    began = time.time()
    try:
        with start_head(temp, num_cpus=4, environ=environ) as cluster:
            running = Round(cluster, folder / "drivers", debug)
            try:
                (running.rarer if number // 2 % 2 else running.usual)()
                running.begin("stop")
                for node in reversed(cluster.nodes):
                    node.starter.send_signal(signal.SIGTERM)
                    node.starter.wait(60)
            except _WRONG as error:
                raise DriverFailed(running.doing, running.began, _why(error)) from error
            finally:
                shutil.copytree(cluster.session / "logs", folder / "logs", symlinks=True)
    except _WRONG as error:
        raise DriverFailed("start", began, _why(error)) from error


def _why(error: Exception) -> str:
    last = error.output if isinstance(error, subprocess.CalledProcessError) else b""
    return f"{error} {last.decode(errors='replace') if last else ''}".strip()


def bytes_of(folder: Path) -> int:
    """Bytes of all files below a folder."""
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def fill(kept: Path, wanted: int, make: Make) -> None:
    """Add rounds until `wanted` bytes stand. Raises DriverFailed where one round fails MOST_LEFT_OUT times."""
    shutil.rmtree(kept / "making", ignore_errors=True)  # what was cut off
    rounds = sorted(kept.glob("round-*"))
    have = sum(map(bytes_of, rounds))
    number = int(rounds[-1].name.removeprefix("round-")) + 1 if rounds else 0
    failures = 0
    while have < wanted:
        making = kept / "making"
        try:
            make(number, making)
        except DriverFailed as error:
            failures += 1
            (making / WHY).write_text(json.dumps({"why": str(error), "began": error.began}))
            making.rename(kept / f"left-out-{number:03}-{time.time_ns()}")
            print(f"round {number} is left out: {error}", flush=True)
            if failures == MOST_LEFT_OUT:
                raise
            continue
        failures = 0
        made = bytes_of(making)
        making.rename(kept / f"round-{number:03}")
        have, number = have + made, number + 1
        print(f"round {number}: {made / 1e6:.0f} MB, {have / 1e6:.0f} MB in all", flush=True)


def shown(result: ScanResult) -> str:
    """What a scan said, for people."""
    rows = [
        f"{i['class']}: {i['root']['file']}:{i['root']['line']} {i['root']['text'][:200]}"
        for i in result.incidents
    ]
    rows += [f"unexplained {u['count']} x {u['template'][:160]}" for u in result.unknown[:20]]
    roles = Counter(i["role"] for i in result.incidents)
    rows.append(
        f"{result.stats['bytes'] / 1e6:.0f} MB in {result.stats['files']} files: {dict(roles) or 'no incident'}"
    )
    return "\n".join(rows)


def wrong(result: ScanResult) -> bool:
    """Whether a scan called anything a failure, or could not read all."""
    return bool(result.damaged) or any(i["role"] in ("root", "symptom") for i in result.incidents)


def verdict(kept: Path) -> int:
    """Scan whole rounds, and what came before the failure in those that were left out; 1 where anything is wrong."""
    rounds = [str(p) for p in sorted(kept.glob("round-*"))]
    result = scan_paths(rounds)
    print(f"{len(rounds)} sessions\n{shown(result)}")
    found = wrong(result)
    for folder in sorted(kept.glob("left-out-*")):
        told = json.loads((folder / WHY).read_text())
        before = scan_paths([str(folder)], until=told["began"])
        print(f"{folder.name} ({told['why']!r}); before that:\n{shown(before)}")
        found |= wrong(before)
    return int(found)


def main() -> int:
    """Make the logs, scan them; 1 where anything is called a failure, 2 where they cannot be made."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="1G", type=size)
    parser.add_argument("--keep", help="where the logs are kept, and more are added", type=Path)
    given = parser.parse_args()
    kept = given.keep or Path(tempfile.mkdtemp(prefix="healthy"))
    kept.mkdir(parents=True, exist_ok=True)
    try:
        fill(kept, given.size, round_of)
        return verdict(kept)
    except DriverFailed as error:
        print(f"healthy: failed {MOST_LEFT_OUT} times, last of {error}", file=sys.stderr)
        return 2
    finally:
        if given.keep is None:
            shutil.rmtree(kept)


if __name__ == "__main__":
    os.nice(5)
    sys.exit(main())
