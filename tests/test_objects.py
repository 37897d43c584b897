"""Logs in object storage say what they say in a folder: against a real S3 server."""

import gzip
import json
import os
import subprocess
import sys
import tarfile
from pathlib import Path

import pytest

from tests.s3 import s3_server

CASE = Path(__file__).parent / "cases" / "A4c_node_vanish.tar.xz"
OOM = b"torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB.\n"


@pytest.fixture(scope="module")
def server(tmp_path_factory):
    folder = tmp_path_factory.mktemp("s3")
    with s3_server(folder / "server.out") as running:
        running.create("logs")
        yield running


def scan(server, *argv, code=1):
    """(JSON without ids, standard error) of a scan with the server's environment."""
    done = subprocess.run(
        [sys.executable, "-m", "raywatch", "scan", "--json", *argv],
        env={**os.environ, **server.environ},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == code, done.stderr
    found = json.loads(done.stdout) if done.stdout else None
    for incident in found["incidents"] if found else ():
        del incident["id"]  # it is made of the place too
    return found, done.stderr


def moved(found, old, new):
    """The same result of another place."""
    return json.loads(json.dumps(found).replace(old, new))


def test_a_prefix_is_a_folder_and_an_archive_is_one_there_too(server, tmp_path):
    """The same incidents, files and bytes for any number of processes."""
    with tarfile.open(CASE) as tar:
        tar.extractall(tmp_path / "case", filter="data")
    server.put_folder(tmp_path / "case", "logs/case")
    server.put("logs/all/" + CASE.name, CASE.read_bytes())
    here, _ = scan(server, str(tmp_path / "case"))
    packed, _ = scan(server, str(CASE))

    for jobs in ("1", "2"):
        there, _ = scan(server, "-j", jobs, "s3://logs/case/")
        assert there == moved(here, str(tmp_path / "case"), "s3://logs/case")
        there, _ = scan(server, "-j", jobs, f"s3://logs/all/{CASE.name}")
        assert there == moved(packed, str(CASE), f"s3://logs/all/{CASE.name}")


def test_a_large_object_is_read_in_ranges(server):
    """Its lines are counted through; packed and plain; a byte more than a range, an empty one."""
    text = b"".join(b"step %d\n" % n for n in range(900_000)) + OOM
    name = f"worker-{7:056x}-ffffffff-12.err"
    server.put(f"logs/large/{name}", text)
    server.put(f"logs/large/{name}.1.gz", gzip.compress(text, 1))
    server.put("logs/large/b.log", b"x" * (4 << 20) + b"\n")
    server.put("logs/large/empty.log")
    found, _ = scan(server, "-j", "1", "s3://logs/large")
    (incident,) = found["incidents"]

    assert [(e["file"], e["line"]) for e in incident["evidence"]] == [
        (f"s3://logs/large/{name}{end}", 900_001) for end in ("", ".1")
    ]
    assert found["stats"]["bytes"] == 2 * len(text) + (4 << 20) + 1
    assert found["stats"]["files"] == 4


@pytest.mark.parametrize(
    ("url", "said"),
    [
        ("s3://logs/nothing", "no such object, and none under it"),
        ("s3://absent/x", ""),
        ("s3:///x", ""),
    ],
)
def test_what_is_not_there_is_one_line(server, url, said):
    """Exit code 2."""
    found, err = scan(server, url, code=2)

    assert (found, err.count("\n")) == (None, 1)
    assert err.startswith(f"raywatch: {url}: ")
    assert said in err


def test_a_server_that_is_gone_is_one_line(server):
    """Soon, and without what obstore would tell a programmer."""
    gone = type(server)(9)
    _, err = scan(gone, "s3://logs/x", code=2)

    assert err.count("\n") == 1
    assert len(err) < 500


def test_without_the_extra_it_is_said_what_to_install(server):
    """And nothing else is missing without it."""
    code = (
        "import sys; sys.modules['obstore'] = None; sys.argv = ['raywatch', 'scan', 's3://logs/x']\n"
        "from raywatch.cli import main; main()"
    )
    argv = [sys.executable, "-c", code]
    done = subprocess.run(argv, capture_output=True, text=True, check=False)

    assert (done.returncode, done.stdout) == (2, "")
    assert done.stderr == (
        "raywatch: object storage is read by obstore: pip install 'raywatch[objects]'\n"
    )


_REPLACED = """
import sys
from raywatch.archive import members_of
every = members_of("s3://logs/replaced.log")
member = next(every)
buffer = memoryview(bytearray(1 << 20))
size = member.stream.readinto(buffer)
print("begun", flush=True)
sys.stdin.readline()
while got := member.stream.readinto(buffer):
    assert buffer[:1] == b"o"
    size += got
print(size, member.stream.why)
"""


def test_an_object_that_is_replaced_in_the_midst_is_not_mixed(server):
    """What came before counts, and it is said."""
    server.put("logs/replaced.log", b"o" * (20 << 20))
    reader = subprocess.Popen(
        [sys.executable, "-c", _REPLACED],
        env={**os.environ, **server.environ},
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    )
    with reader:
        assert reader.stdout is not None
        assert reader.stdout.readline() == "begun\n"
        server.put("logs/replaced.log", b"n" * (20 << 20))
        size, _, why = reader.communicate("\n", timeout=60)[0].partition(" ")

    assert int(size) < 20 << 20
    assert why.strip()
