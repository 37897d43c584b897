"""Logs of real, healthy Ray clusters, and what a scan says of them: python -m tests.bench.healthy [--size 1G] [--keep FOLDER].

Round after round a cluster of two nodes starts, runs tasks, actors, Data, Train, Tune, Serve, jobs and a Ray Client driver
to their ends, and is stopped as people stop it (SIGTERM to `ray start --block`). Every second one logs at level debug,
which is what makes a gigabyte of lines that real code wrote. Nothing fails, so no incident is right.
"""

from __future__ import annotations

import argparse
import os
import shutil
import signal
import subprocess
import sys
import tempfile
from collections import Counter
from pathlib import Path

from raywatch.scan import ScanResult, scan_paths
from tests.bench.measure import size
from tests.bench.workloads.healthy_job import KINDS
from tests.daemons import until
from tests.ray.cluster import Cluster, free_ports, start_head

JOB = Path(__file__).parent / "workloads" / "healthy_job.py"
RUN_S = 600
SCALE, MORE = 3, 20  # how much of each; so many times more where each task leaves a hundred lines


def round_of(number: int, kept: Path) -> int:
    """Run one cluster from its start to its end; keep its logs. Returns their bytes."""
    folder = kept / f"round-{number:03}"
    drivers = folder / "drivers"
    drivers.mkdir(parents=True)
    temp = Path(tempfile.mkdtemp(prefix="rwh", dir="/tmp"))
    environ = {"HEALTHY_PORT": str(free_ports(1)[0])}
    if number % 2:
        environ["RAY_BACKEND_LOG_LEVEL"] = "debug"
    with start_head(temp, num_cpus=4, environ=environ) as cluster:
        cluster.add_node(num_cpus=2)
        for kind in KINDS:
            scale = SCALE * (MORE if number % 2 and kind in ("tasks", "actors") else 1)
            _driver(cluster, kind, drivers / f"driver-{kind}.log", cluster.address, scale)
        _driver(cluster, "tasks", drivers / "driver-client.log", cluster.client, SCALE)
        _submitted(cluster, drivers, str(temp))
        session = cluster.session
        for node in reversed(cluster.nodes):
            node.starter.send_signal(signal.SIGTERM)
            node.starter.wait(60)
        shutil.copytree(session / "logs", folder / "logs", symlinks=True)
    return sum(p.stat().st_size for p in folder.rglob("*") if p.is_file() and not p.is_symlink())


def _driver(cluster: Cluster, kind: str, out: Path, address: str, scale: int) -> None:
    storage = cluster.temp_dir
    environ = {**cluster.environ, "RAY_ADDRESS": address}
    with out.open("wb") as told:
        subprocess.run(
            [sys.executable, str(JOB), kind, f"{storage}/storage", str(scale)],
            env=environ,
            stdout=told,
            stderr=told,
            timeout=RUN_S,
            check=True,
        )


def _submitted(cluster: Cluster, drivers: Path, storage: str) -> None:
    """Submit a job."""
    body = {
        "entrypoint": f"{sys.executable} {JOB} tasks {storage}/storage 2",
        "submission_id": "j-1",
    }
    cluster.ask("/api/jobs/", body)
    until(lambda: cluster.job("j-1")["status"] == "SUCCEEDED", RUN_S, "the job is done")
    (drivers / "job-driver-j-1.log").write_text(cluster.job_log("j-1"))


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


def main() -> int:
    """Make the logs, scan them; 1 where anything is called a failure."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--size", default="1G", type=size)
    parser.add_argument("--keep", help="where the logs are kept, and more are added", type=Path)
    given = parser.parse_args()
    kept = given.keep or Path(tempfile.mkdtemp(prefix="healthy"))
    kept.mkdir(parents=True, exist_ok=True)
    have = sum(p.stat().st_size for p in kept.rglob("*") if p.is_file() and not p.is_symlink())
    number = len(list(kept.glob("round-*")))
    while have < given.size:
        made = round_of(number, kept)
        have, number = have + made, number + 1
        print(f"round {number}: {made / 1e6:.0f} MB, {have / 1e6:.0f} MB in all", flush=True)
    result = scan_paths([str(kept)])
    print(shown(result))
    if given.keep is None:
        shutil.rmtree(kept)
    failed = [i for i in result.incidents if i["role"] in ("root", "symptom")]
    return int(bool(failed or result.damaged))


if __name__ == "__main__":
    os.nice(5)
    sys.exit(main())
