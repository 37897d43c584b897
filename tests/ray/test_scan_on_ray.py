"""`raywatch scan --on-ray` on a real cluster of two nodes: the same answer as here, and clear errors."""

import ast
import json
import os
import re
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from tests.ray.cluster import start_head
from tests.s3 import s3_server

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]
CASES = Path(__file__).parent.parent / "cases"
RULES = """\
- id: my-marker
  class: nan_loss
  title: Mine
  where: {component: [worker]}
  any: ['marker of mine']
  hits: ['marker of mine']
  misses: ['step 1']
"""


@pytest.fixture(scope="module")
def cluster():
    """Two nodes, and an S3 server that its workers can open by themselves."""
    folder = Path(tempfile.mkdtemp(prefix="rw", dir="/tmp"))
    try:
        with (
            s3_server(folder / "s3.out") as server,
            start_head(folder / "ray", num_cpus=1, environ=server.environ) as running,
        ):
            running.add_node(num_cpus=1)
            server.create("logs")
            yield running, server
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Real failures as folders and archives, and many small logs with a marker of the user's."""
    folder = tmp_path_factory.mktemp("saved")
    for name in ("A2_kill_mf0", "node-raylet-sigkill"):
        with tarfile.open(CASES / f"{name}.tar.xz") as tar:
            tar.extractall(folder / name, filter="data")
    shutil.copy(CASES / "A7_oom.tar.xz", folder)
    for n in range(300):
        (folder / f"worker-{n:056x}-ffffffff-{n + 1}.err").write_text(
            "marker of mine\n" * (n % 7 == 0)
        )
    return folder


@pytest.fixture(scope="module")
def known(saved, tmp_path_factory):
    """What is scanned, with the user's signatures, and what a scan here says of it."""
    rules = tmp_path_factory.mktemp("rules") / "mine.yaml"
    rules.write_text(RULES)
    argv = ("--rules", rules, saved)
    return argv, scan("-j", "1", *argv)[0]


def scan(*argv, code=1, environ=None):
    """(JSON, standard error) of a scan."""
    done = subprocess.run(
        [sys.executable, "-m", "raywatch", "scan", "--json", *map(str, argv)],
        env={**os.environ, **(environ or {})},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    return json.loads(done.stdout) if done.stdout else None, done.stderr


@pytest.mark.parametrize("client", [False, True], ids=["address", "client"])
def test_it_says_what_it_says_here(cluster, known, client):
    """Folders, archives, the user's signatures; from a machine of the cluster and through Ray's client."""
    running, _ = cluster
    argv, here = known
    address = running.client if client else running.address
    there, _ = scan("--on-ray", address, *argv, environ=running.environ)

    assert there == here
    assert len(here["incidents"]) >= 3


def test_workers_open_objects_by_themselves(cluster, saved):
    """With the environment of the nodes."""
    running, server = cluster
    server.put_folder(saved / "A2_kill_mf0", "logs/a2")
    server.put("logs/A7.tar.xz", (saved / "A7_oom.tar.xz").read_bytes())
    here, _ = scan("-j", "1", "s3://logs", environ=server.environ)
    there, _ = scan(
        "--on-ray", running.address, "s3://logs", environ={**running.environ, **server.environ}
    )

    assert there == here
    assert here["incidents"]


_OTHER_FILE = """
import os, sys
from raywatch import onray
from raywatch.scan import scan_paths
known = onray._known
onray._known = lambda piece: known(piece)._replace(inode=7, size=7)  # as this machine would see another disk
print(scan_paths([sys.argv[2]], on_ray=sys.argv[1]).damaged)
"""


def test_another_file_of_the_same_name_is_not_read(cluster, saved):
    """A session's folder has one name on all nodes, and its own files on each."""
    running, _ = cluster
    log = next(saved.glob("worker-*.err"))
    done = subprocess.run(
        [sys.executable, "-c", _OTHER_FILE, running.address, str(log)],
        env=dict(running.environ),
        capture_output=True,
        text=True,
        check=True,
    )

    ((path, why),) = ast.literal_eval(done.stdout)
    assert path == str(log)
    assert re.fullmatch(
        r"another file on [\d.]+: give a folder that all nodes share, or object storage", why
    )


def test_a_file_that_a_node_cannot_open_is_told_with_the_node(cluster, saved):
    """And the rest counts."""
    running, _ = cluster
    (saved / "mem.log").symlink_to("/proc/1/mem")
    try:
        found, err = scan("--on-ray", running.address, saved, code=2, environ=running.environ)
    finally:
        (saved / "mem.log").unlink()

    told = rf"raywatch: {saved}/mem\.log: (?:Input/output error|Permission denied) \(on [\d.]+\); what came before it counts\n"
    assert re.fullmatch(told, err)
    assert found["incidents"]


def test_a_cluster_whose_nodes_lack_raywatch(cluster, saved, tmp_path):
    """One line that says what is missing, and where it must be."""
    running, _ = cluster
    code = (
        "import sys; sys.path.insert(0, sys.argv.pop(1)); import raywatch\n"
        "import ray; init = ray.init\n"
        "hidden = {'env_vars': {'PYTHONPATH': sys.argv.pop(1)}}\n"
        "ray.init = lambda *a, **k: init(*a, **k, runtime_env=hidden)\n"
        "from raywatch.cli import main; main()"
    )
    (tmp_path / "raywatch").mkdir()
    (tmp_path / "raywatch" / "__init__.py").write_text(
        "raise ModuleNotFoundError(\"No module named 'raywatch'\")"
    )
    root = Path(__file__).parent.parent.parent
    done = subprocess.run(
        [
            sys.executable,
            "-c",
            code,
            str(root),
            str(tmp_path),
            "scan",
            "--on-ray",
            running.address,
            str(saved),
        ],
        env=dict(running.environ),
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert "raywatch is not installed on a node; all need raywatch " in done.stderr
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize(
    "address", ["local", "10.0.0.1", "nowhere.invalid:6379", "127.0.0.1:9", "ray://x"]
)
def test_an_address_that_leads_nowhere_is_one_line(address, saved):
    """At once, and not after Ray's minute."""
    _, err = scan("--on-ray", address, saved, code=2)

    assert err.startswith(f"raywatch: --on-ray {address}: ")
    assert err.count("\n") == 1


def test_no_cluster_here_is_one_line(saved):
    """For `auto`: it looks at the processes of the machine, so this one has none."""
    alone = ["unshare", "--pid", "--fork", "--mount-proc", sys.executable, "-m", "raywatch"]
    done = subprocess.run(
        [*alone, "scan", "--on-ray", "auto", str(saved)],
        env={**os.environ, "RAY_ADDRESS": "", "RAY_TMPDIR": str(saved)},
        capture_output=True,
        text=True,
        check=False,
    )

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("raywatch: --on-ray auto: ")
    assert done.stderr.count("\n") == 1


@pytest.mark.parametrize("words", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n"])
def test_a_port_that_is_no_ray(saved, words):
    """Somebody listens and says nothing, or nothing that Ray understands."""
    with socket.socket() as other, ThreadPoolExecutor(1) as asking:
        other.bind(("127.0.0.1", 0))
        other.listen()
        address = f"127.0.0.1:{other.getsockname()[1]}"
        asked = asking.submit(scan, "--on-ray", address, saved, code=2)
        with other.accept()[0] as talk:
            talk.sendall(words)
            _, err = asked.result(60)

    assert err.startswith(f"raywatch: --on-ray {address}: ")
    assert err.count("\n") == 1


def test_without_ray_it_is_said(saved):
    """Ray is no requirement of raywatch."""
    code = (
        "import sys; sys.modules['ray'] = None; sys.argv[1:1] = ['scan', '--on-ray', 'auto']\n"
        "from raywatch.cli import main; main()"
    )
    argv = [sys.executable, "-c", code, str(saved)]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr.startswith("raywatch: --on-ray needs Ray on this machine too: ")
