"""raywatch beside other versions of Ray: python -m tests.bench.versions [VERSION...].

For each: a throw-away environment, a private head, a task whose worker is killed; the daemon must name it and read
what the dashboard says. It downloads some 100 MB a version.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

from raywatch.collect.endpoints import ENDPOINTS
from raywatch.collect.rayjson import load
from tests.daemons import DaemonProcess, until
from tests.ray.cluster import Cluster, start_head

VERSIONS = ("2.9.3", "2.24.0", "2.40.0", "2.49.2", "2.60.0")
# Old versions import pkg_resources, which newer setuptools do not have.
BESIDE = ("setuptools<80",)
VICTIM = """
import os, signal, ray
ray.init(address="auto", log_to_driver=False)

@ray.remote
class Alive:
    def pid(self):
        return os.getpid()

@ray.remote(max_retries=0)
def victim():
    os.kill(os.getpid(), signal.SIGKILL)

alive = Alive.remote()
ray.get(alive.pid.remote())
try:
    ray.get(victim.remote())
except ray.exceptions.WorkerCrashedError:
    print("crashed as told", flush=True)
"""


def install(folder: Path, version: str, extras: str = "default") -> Path:
    """Make an environment with this Ray; return its `bin`."""
    venv.create(folder, with_pip=True)
    argv = [str(folder / "bin" / "pip"), "install", "--quiet", f"ray[{extras}]=={version}", *BESIDE]
    subprocess.run(argv, check=True)
    return folder / "bin"


def wrong_with(cluster: Cluster, daemon: DaemonProcess, python: Path) -> list[str]:
    """Kill a worker; return what the daemon does not say of it."""
    environ = {**cluster.environ, "RAY_ADDRESS": cluster.address}
    done = subprocess.run(
        [python, "-c", VICTIM],
        env=environ,
        capture_output=True,
        text=True,
        timeout=120,
        check=False,
    )
    if "crashed as told" not in done.stdout:
        return [f"the program did not end as it should: {done.stderr[-2000:]}"]

    def named() -> bool:
        return "worker_crash" in {str(i["class"]) for i in daemon.incidents()}

    try:
        until(named, 30, "worker_crash")
    except AssertionError:
        return [f"no worker_crash but {[i['class'] for i in daemon.incidents()]}"]
    return _wrong_with_sources(cluster, daemon)


def _wrong_with_sources(cluster: Cluster, daemon: DaemonProcess) -> list[str]:
    sources = json.loads(daemon.get("/api/v1/snapshot")[1])["sources"]
    up = {s["source"] for s in sources if s["up"]}
    wrong = [f"{e.name} is not up" for e in ENDPOINTS if e.name not in up]
    for endpoint in ENDPOINTS:
        body = json.dumps(cluster.ask(endpoint.path)).encode()
        if not endpoint.parse(load(body), 0.0):
            wrong.append(f"nothing is read from {endpoint.path}: {body[:200]!r}")
    tracebacks = daemon.output().count("Traceback")
    return wrong + [f"{tracebacks} tracebacks of the daemon"] * bool(tracebacks)


def check(version: str) -> list[str]:
    """Return what is wrong with a version."""
    with tempfile.TemporaryDirectory(prefix="rwv") as folder:
        binaries = install(Path(folder) / "env", version)
        paths = {"PATH": f"{binaries}{os.pathsep}{os.environ['PATH']}"}
        with start_head(Path(folder) / "r", environ=paths, ray=str(binaries / "ray")) as cluster:
            told = {"RAY_API_SERVER_ADDRESS": cluster.dashboard}
            daemon = DaemonProcess(cluster.temp_dir, Path(folder) / "state", environ=told)
            try:
                return wrong_with(cluster, daemon, binaries / "python")
            finally:
                daemon.kill()


def main(versions: list[str]) -> int:
    """Print a line a version; return 1 where one is wrong."""
    failed = 0
    for version in versions or VERSIONS:
        wrong = check(version)
        failed += bool(wrong)
        print(f"{'FAIL' if wrong else 'ok  '} ray {version:8} {'; '.join(wrong)}", flush=True)
    return int(failed > 0)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
