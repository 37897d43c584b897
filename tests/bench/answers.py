"""What other versions of Ray answer, recorded: python -m tests.bench.answers [--into FOLDER] [--versions 2.9.3 ...].

For each: a throw-away environment and a private head on which work waits that nothing can satisfy, a Serve application
runs and a Ray Train v1 run ended. The bodies go to FOLDER/<version>/ (tests/api), without the paths of this machine.
What a version does not know, or cannot be installed with here, is said and left out.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import subprocess
import sys
import tempfile
import threading
from pathlib import Path

from raywatch.collect import endpoints
from tests.bench.versions import VERSIONS, install
from tests.daemons import until
from tests.ray.cluster import Cluster, free_ports, start_head

NEW = {
    "cluster_status": endpoints.STATUS,
    "placement_groups": endpoints.GROUPS,
    "serve": endpoints.SERVE,
    "train_v1": endpoints.TRAIN_V1,
}
ALL = {**{e.name: e for e in endpoints.ENDPOINTS[1:5]}, **NEW}
TRACKED = {"RAY_TRAIN_V2_ENABLED": "0", "RAY_TRAIN_ENABLE_STATE_TRACKING": "1"}
API = Path(__file__).parent.parent / "api"
EXTRAS = "default,serve,train"
WAITING = """
import time, ray
from ray.util.placement_group import placement_group
ray.init(address="auto", log_to_driver=False)

@ray.remote(num_gpus=4)
def never():
    pass

@ray.remote(num_cpus=64)
class Huge:
    pass

kept = [never.remote(), never.remote(), Huge.remote()]
kept.append(placement_group([{"CPU": 8}] * 2, strategy="STRICT_SPREAD", name="gang"))
print("it waits", flush=True)
time.sleep(600)
"""
SERVING = """
import sys, time, ray
from ray import serve
ray.init(address="auto", log_to_driver=False)
serve.start(http_options={"host": "127.0.0.1", "port": int(sys.argv[1])})

@serve.deployment(ray_actor_options={"num_cpus": 0})
class Echo:
    def __call__(self):
        return "echo"

@serve.deployment(ray_actor_options={"num_cpus": 0})
class Broken:
    def __init__(self):
        raise RuntimeError("no model here")

serve.run(Echo.bind(), name="echo", route_prefix="/echo")
try:
    serve.run(Broken.bind(), name="broken", route_prefix="/broken")
except Exception as error:
    print(type(error).__name__)
print("it waits", flush=True)
time.sleep(600)
"""
TRAINING = """
import sys, time, ray
from ray.train import RunConfig, ScalingConfig
from ray.train.data_parallel_trainer import DataParallelTrainer
ray.init(address="auto", log_to_driver=False)

def train():
    if sys.argv[0]:
        time.sleep(1)

DataParallelTrainer(
    train,
    scaling_config=ScalingConfig(num_workers=1, trainer_resources={"CPU": 0}),
    run_config=RunConfig(name="first", storage_path=sys.argv[1]),
).fit()
print("it waits", flush=True)
time.sleep(600)
"""


class Program:
    """A program beside the cluster until it waits; a context manager that ends it."""

    def __init__(self, python: Path, text: str, *more: str, cluster: Cluster) -> None:
        self._process = subprocess.Popen(
            [str(python), "-c", text, *more],
            env={**cluster.environ, "RAY_ADDRESS": cluster.address},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        self._lines: list[str] = []
        self._reader = threading.Thread(target=self._read)
        self._reader.start()

    def _read(self) -> None:
        assert self._process.stdout is not None
        self._lines.extend(self._process.stdout)

    def stands(self, seconds: float = 120) -> bool:
        """Wait until it waits; say whether it does."""
        until(lambda: self._waits() or self._process.poll() is not None, seconds, "it waits")
        if not self._waits():
            print("    it ended: " + "".join(self._lines[-4:]).replace("\n", "\n    "), flush=True)
        return self._waits()

    def _waits(self) -> bool:
        return any("it waits" in line for line in self._lines)

    def __enter__(self) -> Program:  # noqa: PYI034 - typing.Self is 3.11
        return self

    def __exit__(self, *_error: object) -> None:
        self._process.kill()
        self._process.wait()
        self._reader.join()
        if self._process.stdout is not None:
            self._process.stdout.close()


def neutral(body: object, cluster: Cluster, binaries: Path) -> str:
    """Return an answer as JSON without what is of this machine alone."""
    text = json.dumps(body, indent=1, ensure_ascii=False)
    text = text.replace(str(cluster.temp_dir), "/tmp/ray").replace(str(binaries), "/usr/bin")
    text = text.replace(str(cluster.temp_dir.parent), "/tmp/storage")
    return re.sub(r"/[\w./-]+/lib/python3\.\d+", "/usr/lib/python3", text) + "\n"


def record(version: str, binaries: Path, into: Path, names: list[str]) -> None:
    """Start a cluster of this version, let work wait on it, and write down what is answered."""
    paths = {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}", **TRACKED}
    python, (port,) = binaries / "python", free_ports(1)
    with (
        tempfile.TemporaryDirectory(prefix="rwa") as folder,
        start_head(Path(folder) / "r", environ=paths, ray=str(binaries / "ray")) as cluster,
        Program(python, TRAINING, f"{folder}/s", cluster=cluster) as training,
        Program(python, SERVING, str(port), cluster=cluster) as serving,
        Program(python, WAITING, cluster=cluster) as waiting,
    ):
        stand = [training.stands(), serving.stands(), waiting.stands()]
        print(f"ray {version}: train, serve, waiting: {stand}", flush=True)
        threading.Event().wait(12)  # two rounds of the autoscaler
        for name in names:
            try:
                body = cluster.ask(ALL[name].path)
            except OSError as error:
                print(f"    {name}: {error}", flush=True)
                continue
            path = into / version / f"{name}.json"
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(neutral(body, cluster, binaries))


def main() -> int:
    """Record; print a line a version."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument("--versions", nargs="+", default=VERSIONS)
    asked.add_argument("--into", type=Path, default=API)
    asked.add_argument("--environments", type=Path, help="keep them here, or find them there")
    asked.add_argument("--names", nargs="+", choices=ALL, default=[*NEW])
    given = asked.parse_args()
    with tempfile.TemporaryDirectory(prefix="rwe") as folder:
        for version in given.versions:
            home = (given.environments or Path(folder)) / version
            binaries = home / "bin"
            if not binaries.exists():
                install(home, version, EXTRAS)
            record(version, binaries, given.into, given.names)
    return 0


if __name__ == "__main__":
    sys.exit(main())
