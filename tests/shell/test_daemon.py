"""The daemon as a process on a session folder: what operators and crashes do to it."""

import json
import os
import resource
import subprocess
import sys
import threading
import time
from datetime import datetime, timezone

import pytest

from tests.daemons import DaemonProcess, make_session, until
from tests.shell.test_metrics import promtool

NODE = "5192188689939d714f03f25b506336457eb397612cf02e85b009ae7f"


def crash(worker: int) -> str:
    """The GCS' line about a dead worker, logged now."""
    stamp = datetime.now(timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M:%S,%f")[:-3]
    return (
        f"[{stamp} W 10 10] (gcs_server) gcs_worker_manager.cc:70: Reporting worker exit, worker id = {worker:056x}, "
        f"node id = {NODE}, address = 127.0.0.1, exit_type = SYSTEM_ERROR, exit_detail = Worker unexpectedly exits.\n"
    )


def findings(daemon: DaemonProcess) -> int:
    """How many worker crashes were counted, ever."""
    rows = daemon.get("/metrics")[1].decode().splitlines()
    name = 'raywatch_findings_total{class="worker_crash",component="gcs"} '
    return sum(int(float(r.removeprefix(name))) for r in rows if r.startswith(name))


def until_found(daemon: DaemonProcess, number: int) -> None:
    """Wait for so many findings."""
    until(lambda: findings(daemon) >= number, 10, f"{number} findings")


def test_a_new_session_is_followed(tmp_path):
    """No session yet: it waits and says so, is not healthy, and follows what comes."""
    daemon = DaemonProcess(tmp_path, tmp_path / "state")
    try:
        until(lambda: "no Ray session yet" in daemon.output(), 10, "it says that it waits")
        assert daemon.get("/healthz")[0] == 503
        for i, name in enumerate(
            ["session_2026-11-24_00-00-01_1_1", "session_2026-11-24_00-00-02_1_1"]
        ):
            (make_session(tmp_path, name) / "gcs_server.out").write_text(crash(i + 1))
            until_found(daemon, i + 1)
        assert daemon.get("/healthz")[0] == 200
    finally:
        daemon.kill()


def test_a_session_that_is_named_by_a_link_is_followed_once(tmp_path):
    """The link is resolved: it is not a new session at every sweep."""
    logs = make_session(tmp_path)
    (logs / "gcs_server.out").write_text(crash(1))
    link = str(tmp_path / "session_latest")
    daemon = DaemonProcess(tmp_path, tmp_path / "state", "--session-dir", link)
    try:
        until_found(daemon, 1)
        threading.Event().wait(2.5)  # a sweep and a half
        assert daemon.output().count("following session") == 1
    finally:
        daemon.kill()


def test_a_second_daemon_on_the_same_store_stops_with_a_clear_line(tmp_path):
    """It names the store and the process that owns it."""
    make_session(tmp_path)
    daemon = DaemonProcess(tmp_path, tmp_path / "state")
    argv = [
        "--temp-dir",
        str(tmp_path),
        "--store",
        str(tmp_path / "state" / "raywatch.db"),
        "--listen",
        "127.0.0.1:0",
    ]
    try:
        second = subprocess.run(
            [sys.executable, "-m", "raywatch", "daemon", *argv],
            capture_output=True,
            check=False,
            timeout=60,
        )
    finally:
        daemon.kill()

    assert second.returncode == 2
    assert f"pid {daemon.process.pid}" in second.stderr.decode()
    assert b"Traceback" not in second.stderr


def test_a_long_poll_returns_when_something_happens(tmp_path):
    """`after` is the number of the snapshot that the client has."""
    logs = make_session(tmp_path)
    daemon = DaemonProcess(tmp_path, tmp_path / "state")
    try:
        (logs / "gcs_server.out").write_text(crash(1))
        until(daemon.incidents, 10, "an incident")
        body = json.loads(daemon.get("/api/v1/snapshot")[1])
        seqs, began = [body["seq"]], time.monotonic()
        for _ in range(3):  # a sweep publishes every 2 s, so that the second really waits
            status, newer = daemon.get(f"/api/v1/snapshot?after={seqs[-1]}&wait=30")
            assert status == 200
            seqs.append(json.loads(newer)["seq"])

        assert time.monotonic() - began < 25
        assert seqs == sorted(set(seqs))
        assert daemon.get(f"/api/v1/snapshot?after={body['seq'] + 10_000}")[0] == 304
        assert daemon.get("/api/v1/incidents/nope")[0] == 404
        assert daemon.get("/api/v1/incidents/" + str(body["incidents"][0]["id"]))[0] == 200
    finally:
        daemon.kill()


def test_a_long_poll_for_changes_gets_the_new_incident_only(tmp_path):
    """What is known already is not sent again; other filters do not go with it."""
    log = make_session(tmp_path) / "gcs_server.out"
    log.write_text(crash(1))
    daemon = DaemonProcess(tmp_path, tmp_path / "state")
    try:
        until_found(daemon, 1)
        known = json.loads(daemon.get("/api/v1/incidents?after=-1")[1])
        assert known["whole"]
        with log.open("a") as out:
            out.write(crash(2))

        def newer() -> list[str]:
            path = f"/api/v1/incidents?after={known['seq']}&wait=10"
            known.update(json.loads(daemon.get(path)[1]))
            return [i["subject"]["id"] for i in known["incidents"]]

        assert until(newer, 10, "the second") == [f"{2:056x}"]
        assert daemon.get(f"/api/v1/incidents?after={known['seq'] + 10_000}")[0] == 304
        assert daemon.get("/api/v1/incidents?after=1&class=worker_crash")[0] == 400
        assert daemon.get("/api/v1/incidents?after=x")[0] == 400
    finally:
        daemon.kill()


def test_what_is_binary_in_the_folder_is_not_followed(tmp_path):
    """A core dump and packed logs hold words that look like failures."""
    logs = make_session(tmp_path)
    (logs / "core.77").write_bytes(b"\x7fELF\0\0\n" + crash(1).encode())
    (logs / "gcs_server.out.1.gz").write_bytes(b"\x1f\x8b\n" + crash(2).encode())
    (logs / "gcs_server.out").write_text(crash(3))
    daemon = DaemonProcess(tmp_path, tmp_path / "state")
    try:
        until_found(daemon, 1)
        assert findings(daemon) == 1
        assert b'"files": 1' in daemon.get("/api/v1/snapshot")[1]
    finally:
        daemon.kill()


def test_who_waits_for_a_newer_snapshot_sees_that_of_a_restarted_daemon(tmp_path):
    """Numbers go on rising over restarts: a client that follows would wait for ever."""
    make_session(tmp_path)
    seen: list[int] = []
    for _ in range(2):
        daemon = DaemonProcess(tmp_path, tmp_path / "state")
        try:
            after = seen[-1] if seen else -1
            seen.append(json.loads(daemon.get(f"/api/v1/snapshot?after={after}&wait=10")[1])["seq"])
        finally:
            daemon.kill()

    assert seen[0] < seen[1]


@pytest.mark.parametrize("host", ["evil.example", "evil.example:9265", ""])
def test_another_host_name_is_refused(tmp_path, host):
    """A page of another origin cannot read through a name of its own."""
    make_session(tmp_path)
    daemon = DaemonProcess(tmp_path, tmp_path / "state")
    try:
        assert daemon.get("/api/v1/snapshot", Host=host)[0] in (400, 403)
    finally:
        daemon.kill()


def test_metrics_are_what_prometheus_expects(tmp_path):
    """promtool finds nothing to say; each class is there before anything happened."""
    make_session(tmp_path)
    daemon = DaemonProcess(tmp_path, tmp_path / "state")
    try:
        body = daemon.get("/metrics")[1]
    finally:
        daemon.kill()

    assert promtool(body.decode()) == (0, "")
    assert b'raywatch_incidents_total{class="spot_preemption",group="preemption"} 0.0' in body


def test_the_state_is_private(tmp_path):
    """Others of the machine read neither the store nor the token."""
    make_session(tmp_path)
    daemon = DaemonProcess(tmp_path, tmp_path / "state")
    daemon.kill()
    modes = {p.name: p.stat().st_mode & 0o777 for p in (tmp_path / "state").iterdir()}

    assert (tmp_path / "state").stat().st_mode & 0o777 == 0o700
    assert modes["raywatch.db"] == modes["token"] == modes["raywatch.db.lock"] == 0o600


def test_a_full_disk_under_the_store_costs_nothing_but_waiting(tmp_path):
    """It watches on, says so in /healthz and /metrics, and keeps everything once there is room again."""
    logs = make_session(tmp_path)
    gcs = logs / "gcs_server.out"
    daemon = DaemonProcess(tmp_path, tmp_path / "state")
    limits = resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE)
    try:
        gcs.write_text(crash(1))
        until_found(daemon, 1)
        full = (
            (tmp_path / "state" / "raywatch.db-wal").stat().st_size
        )  # it cannot grow; the log can
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, (full, limits[1]))
        for worker in range(2, 40):
            with gcs.open("a") as out:
                out.write(crash(worker))
        until_found(daemon, 39)
        until(lambda: daemon.get("/healthz")[0] == 503, 10, "it says that it cannot write")
        assert b"raywatch_store_writable 0.0" in daemon.get("/metrics")[1]
        assert "cannot write the store, watching on" in daemon.output()
        resource.prlimit(daemon.process.pid, resource.RLIMIT_FSIZE, limits)
        until(lambda: daemon.get("/healthz")[0] == 200, 15, "it writes again")
    finally:
        daemon.kill()
    daemon = DaemonProcess(tmp_path, tmp_path / "state")
    try:
        assert findings(daemon) == 39
        assert len(daemon.incidents()) == 39
    finally:
        daemon.kill()


def test_a_file_whose_name_is_no_text_is_followed_like_others(tmp_path):
    """Its bytes cannot be stored as they are; the daemon must not end of it, and reads each line once."""
    logs = make_session(tmp_path)
    with open(os.fsencode(logs) + b"/gcs_server\xff.out", "w") as out:
        out.write(crash(1))
    (logs / "gcs_server.out").write_text(crash(2))
    for _ in range(2):
        daemon = DaemonProcess(tmp_path, tmp_path / "state")
        try:
            until_found(daemon, 1)
            until(lambda: b'"files": 2' in daemon.get("/api/v1/snapshot")[1], 10, "two files")  # noqa: B023
            assert daemon.stop() == 0
        finally:
            daemon.kill()
    assert "Traceback" not in daemon.log.read_text()


def test_lines_that_are_no_text_do_no_harm(tmp_path):
    """Invalid UTF-8, a binary file and a line of 100 MB stand between two failures; both are found, once."""
    logs = make_session(tmp_path)
    gcs = logs / "gcs_server.out"
    with gcs.open("wb") as out:
        out.write(crash(1).encode() + b"\xff\xfe\x00\x80 not UTF-8\n" + bytes(range(256)) * 400)
        out.write(b"\n" + b"x" * 100_000_000 + b"\n" + crash(2).encode())
    daemon = DaemonProcess(tmp_path, tmp_path / "state")
    try:
        until_found(daemon, 2)
        assert findings(daemon) == 2
        assert daemon.get("/healthz")[0] == 200
    finally:
        daemon.kill()


def test_what_no_signature_explains_is_counted_and_opens_nothing(tmp_path):
    """By template, exactly, also over a restart; a trial signature never makes an incident of it."""
    log = make_session(tmp_path) / "dashboard.log"

    def unknown(daemon: DaemonProcess) -> list[tuple[str, int]]:
        body = json.loads(daemon.get("/api/v1/snapshot")[1])
        return [(u["template"], u["count"]) for u in body.get("unknown", [])]

    def write(*shards: int) -> None:
        with log.open("a") as out:
            for n in shards:
                out.write(f"2026-11-23 07:28:46,{n:03}\tERROR x.py:1 -- nobody knows shard {n}\n")

    def life(wanted: int) -> None:
        daemon = DaemonProcess(tmp_path, tmp_path / "state")
        try:
            write(9)
            template = "<*> <*> ERROR <*> -- nobody knows shard <*>"
            until(lambda: unknown(daemon) == [(template, wanted)], 10, f"{wanted} of them")
            assert daemon.incidents() == []
        finally:
            daemon.kill()

    write(1, 2)
    life(3)
    write(3)
    life(5)
