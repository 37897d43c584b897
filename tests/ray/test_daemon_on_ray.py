"""A real Ray cluster: a killed worker becomes an incident with the line that proves it."""

import contextlib
import os
import signal
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest

from tests.daemons import DaemonProcess, until
from tests.ray.cluster import free_ports, metric_ports

pytestmark = pytest.mark.ray
VICTIM = """
import os, sys, time, ray
ray.init(address=sys.argv[1], _temp_dir=sys.argv[2], log_to_driver=False)

@ray.remote(max_retries=0)
def victim(path):
    with open(path + ".part", "w") as out:
        out.write(str(os.getpid()))
    os.rename(path + ".part", path)
    time.sleep(120)

try:
    ray.get(victim.remote(sys.argv[3]))
except ray.exceptions.WorkerCrashedError:
    sys.exit(0)
sys.exit(1)
"""


def processes_of(temp_dir: Path) -> list[int]:
    """Our own cluster's processes: those that name its folder."""
    found = []
    for entry in Path("/proc").iterdir():
        if entry.name.isdigit() and int(entry.name) != os.getpid():
            try:
                words = (entry / "cmdline").read_bytes() + (entry / "environ").read_bytes()
            except OSError:
                continue
            if str(temp_dir).encode() in words:
                found.append(int(entry.name))
    return found


@pytest.fixture
def cluster():
    """A head of one logical CPU in a folder of its own; ended by pid."""
    temp_dir = Path(tempfile.mkdtemp(prefix="rw", dir="/tmp"))
    (port,) = free_ports(1)
    env = os.environ | {"RAY_TMPDIR": str(temp_dir), "RAY_AUTH_MODE": "disabled"} | metric_ports()
    argv = [
        "start",
        "--head",
        f"--port={port}",
        f"--temp-dir={temp_dir}",
        "--num-cpus=1",
        "--block",
    ]
    argv += ["--include-dashboard=false", "--object-store-memory=80000000", "--disable-usage-stats"]
    ray = str(Path(sys.executable).with_name("ray"))
    with (temp_dir / "head.out").open("wb") as out:
        head = subprocess.Popen([ray, *argv], env=env, stdout=out, stderr=out)
    try:
        until(lambda: b"started" in (temp_dir / "head.out").read_bytes(), 90, "the head is up")
        yield temp_dir, f"127.0.0.1:{port}", env
    finally:
        head.terminate()
        head.wait(60)
        for pid in processes_of(temp_dir):
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def test_a_killed_worker_is_an_incident_with_its_line(cluster, tmp_path):
    """SIGKILL of a worker in a task: class, worker and the GCS' own line; no other incident."""
    temp_dir, address, env = cluster
    daemon = DaemonProcess(temp_dir, tmp_path / "state")
    pid_file = tmp_path / "pid"
    driver = subprocess.Popen(
        [sys.executable, "-c", VICTIM, address, str(temp_dir), str(pid_file)],
        env=env,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        until(pid_file.exists, 90, "the task runs")
        assert daemon.incidents() == []
        os.kill(int(pid_file.read_text()), signal.SIGKILL)
        until(daemon.incidents, 20, "an incident")
        assert driver.wait(30) == 0
        (incident,) = daemon.incidents()
    finally:
        driver.kill()
        driver.wait()
        daemon.kill()

    assert (incident["class"], incident["resume"]) == ("worker_crash", "counted")
    assert "worker" in str(incident["root"])
