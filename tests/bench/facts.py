"""How soon a daemon shows what happened in a real Ray cluster: python -m tests.bench.facts [--rounds 5].

From the fact (a SIGKILL, a process' last act, the moment that a log line names) to the snapshot that tells of it, as a
client sees it that waits for the next one. Beside it how soon Ray's own API says the same, where it does.
"""

from __future__ import annotations

import argparse
import json
import os
import random
import shlex
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import datetime
from pathlib import Path
from typing import Any

import raywatch
from tests.daemons import DaemonProcess, until
from tests.ray.cluster import Cluster, free_ports, start_head

LONG_S = 120.0
ACTOR = """
import os, sys, ray
ray.init(address="auto", log_to_driver=False)

@ray.remote
class Alive:
    def pid(self):
        return os.getpid()

alive = Alive.remote()
open(sys.argv[1], "w").write(str(ray.get(alive.pid.remote())))
sys.stdin.read()
"""
CLOUD = """
[cloud]
provider = "aws"
url = "http://127.0.0.1:{port}"
"""
Shown = Mapping[str, Any]


@dataclass(slots=True)
class Bench:
    """A cluster, a daemon beside it, and the seconds that were measured."""

    cluster: Cluster
    daemon: DaemonProcess
    folder: Path
    seconds: dict[str, list[float]] = field(default_factory=dict)

    def seen(self, true: Callable[[Shown], object]) -> tuple[float, object]:
        """Wait for the snapshot of which something is true; return when it came and what was found."""
        until_s, after = time.monotonic() + LONG_S, -1
        while time.monotonic() < until_s:
            status, body = self.daemon.get(f"/api/v1/snapshot?after={after}&wait=5")
            if status == 200:
                shown = json.loads(body)
                after = shown["seq"]
                if found := true(shown):
                    return time.time(), found
        raise AssertionError(f"not shown within {LONG_S:.0f} s")

    def note(self, what: str, seconds: float) -> None:
        """Keep a figure."""
        self.seconds.setdefault(what, []).append(seconds)
        print(f"  {what}: {seconds:.2f} s", flush=True)


def actor_killed(bench: Bench) -> None:
    """SIGKILL of an actor's process, whose driver goes on."""
    told = bench.folder / "pid"
    told.unlink(missing_ok=True)
    environ = {**bench.cluster.environ, "RAY_ADDRESS": bench.cluster.address}
    driver = subprocess.Popen(
        [sys.executable, "-c", ACTOR, str(told)],
        env=environ,
        stdin=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )
    until(lambda: told.exists() and told.read_text(), 60, "the actor lives")
    time.sleep(3)
    known = {i["id"] for i in bench.seen(lambda s: s)[1]["incidents"]}  # type: ignore[index]
    began = time.time()
    os.kill(int(told.read_text()), signal.SIGKILL)
    at, _ = bench.seen(lambda s: [i for i in s["incidents"] if i["id"] not in known])
    bench.note("actor killed: incident", at - began)
    driver.communicate(timeout=60)


def job_failed(bench: Bench) -> None:
    """A submitted job that ends with an exit code."""
    name, end = f"job{time.time_ns()}", bench.folder / "end"
    body = {"entrypoint": f"sh -c 'sleep 2; date +%s.%N > {end}; exit 3'", "submission_id": name}
    bench.cluster.ask("/api/jobs/", body)

    def failed(shown: Shown) -> object:
        return [r for r in shown["runs"] if name in r["submissions"] and r["status"] == "failed"]

    at, _ = bench.seen(failed)
    bench.note("job failed: its run", at - float(end.read_text()))


def node_drained(bench: Bench) -> None:
    """What the GCS' log says of a drain."""
    node = bench.cluster.add_node()
    argv = [bench.cluster.ray, "drain-node", f"--address={bench.cluster.address}"]
    argv += [f"--node-id={node.node_id}", "--reason=DRAIN_NODE_REASON_PREEMPTION"]
    argv += ["--reason-message=bench", "--deadline-remaining-seconds=3600"]
    asked = subprocess.Popen(argv, env=bench.cluster.environ)
    at, found = bench.seen(lambda s: [d for d in s["drains"] if d["node_id"] == node.node_id])
    assert isinstance(found, list)
    bench.note("node drained: drain", at - datetime.fromisoformat(found[0]["at"]).timestamp())
    asked.wait(60)
    bench.cluster.kill_node(node)


def node_killed(bench: Bench) -> None:
    """SIGKILL of a raylet and all that belongs to it."""
    node = bench.cluster.add_node()
    bench.seen(lambda s: [n for n in s["nodes"] if n["id"] == node.node_id])
    began = time.time()
    bench.cluster.kill_node(node)
    at, _ = bench.seen(
        lambda s: [i for i in s["incidents"] if i["subject"]["node"] == node.node_id]
    )
    bench.note("node killed: incident", at - began)
    at, _ = bench.seen(
        lambda s: [n for n in s["nodes"] if n["id"] == node.node_id and n["state"] == "dead"]
    )
    bench.note("node killed: dead in the list", at - began)


def noticed(bench: Bench) -> None:
    """A served IMDSv2 announces that the machine is taken; a new daemon, since each machine is taken once."""
    values, config = bench.folder / "values.json", bench.folder / "raywatch.toml"
    (head,) = {n["ip"] for n in bench.seen(lambda s: s["nodes"])[1] if n["is_head"]}  # type: ignore[attr-defined]
    told = {"instance-id": "i-1", "local-ipv4": head}
    values.write_text(json.dumps(told))
    (port,) = free_ports(1)
    cloud = subprocess.Popen(
        [sys.executable, "-m", "tests.clouds", str(port), str(values)], stdout=subprocess.DEVNULL
    )
    config.write_text(CLOUD.format(port=port))
    state = bench.folder / f"cloud{time.time_ns()}"
    environ = {"RAY_API_SERVER_ADDRESS": bench.cluster.dashboard}
    daemon = DaemonProcess(bench.cluster.temp_dir, state, "--config", str(config), environ=environ)
    try:
        beside = replace(bench, daemon=daemon)
        beside.seen(
            lambda s: [x for x in s["sources"] if (x["source"], x["state"]) == ("aws", "up")]
        )
        beside.seen(lambda s: s["nodes"])
        stamp = time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + 120))
        action = json.dumps({"action": "terminate", "time": stamp})
        part = values.with_suffix(".part")
        part.write_text(json.dumps({**told, "spot/instance-action": action}))
        time.sleep(random.random())  # the daemon asks once a second
        began = time.time()
        part.replace(values)
        at, _ = beside.seen(lambda s: s["drains"])
        bench.note("notice of the cloud: drain", at - began)
    finally:
        daemon.kill()
        cloud.kill()
        cloud.wait()


def run_failed(bench: Bench) -> None:
    """SIGKILL of a rank of a Ray Train run without budget."""
    script, name = bench.folder / "train.py", f"run{time.time_ns()}"
    shutil.copyfile(Path(raywatch.__file__).with_name("demo_train.py"), script)
    argv = [sys.executable, str(script), "--name", name, "--storage", str(bench.folder / "s")]
    bench.cluster.ask("/api/jobs/", {"entrypoint": shlex.join(argv), "submission_id": name})

    def trains(shown: Shown) -> object:
        rows = [r for r in shown["runs"] if r["name"] == name and r["step"]]
        return [r for r in rows if r["ranks"] and all(k["pid"] for k in r["ranks"])]

    _, found = bench.seen(trains)
    assert isinstance(found, list)
    began = time.time()
    os.kill(found[0]["ranks"][-1]["pid"], signal.SIGKILL)
    at, _ = bench.seen(
        lambda s: [i for i in s["incidents"] if i["last_at"] and found[0]["id"] in i["runs"]]
    )
    bench.note("rank killed: incident of its run", at - began)
    at, _ = bench.seen(
        lambda s: [r for r in s["runs"] if r["name"] == name and r["status"] == "failed"]
    )
    bench.note("rank killed: the run has failed", at - began)


KINDS = (actor_killed, job_failed, node_drained, node_killed, run_failed, noticed)


@contextmanager
def beside_ray() -> Iterator[Bench]:
    """A head with a daemon."""
    with tempfile.TemporaryDirectory(prefix="rwf") as folder:
        path = Path(folder)
        with start_head(path / "r", num_cpus=6) as cluster:
            told = {"RAY_API_SERVER_ADDRESS": cluster.dashboard}
            daemon = DaemonProcess(cluster.temp_dir, path / "state", environ=told)
            try:
                yield Bench(cluster, daemon, path)
            finally:
                daemon.kill()


def main() -> int:
    """Print the figures."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--rounds", type=int, default=5)
    asked.add_argument("kinds", nargs="*", choices=[[], *(k.__name__ for k in KINDS)])
    given = asked.parse_args()
    with beside_ray() as bench:
        for kind in KINDS:
            if not given.kinds or kind.__name__ in given.kinds:
                for _ in range(given.rounds):
                    kind(bench)
    for what, seconds in bench.seconds.items():
        middle = statistics.median(seconds)
        print(f"{what:36} median {middle:6.2f} s, at most {max(seconds):6.2f} s (n={len(seconds)})")
    return 0


if __name__ == "__main__":
    sys.exit(main())
