"""Names of Ray's log files, and where sessions lie."""

from typing import Any

import pytest

from raywatch.collect.raylogs import current_session, describe, node_of_archive, node_of_session
from raywatch.model import Component, LogFormat, Source

ID, JOB, NODE = "ab" * 28, "0a000000", "cd" * 28
LOGS = "/tmp/ray/session_1/logs/"

# name -> component, format, what the name tells besides
NAMES: dict[str, tuple[Component, LogFormat, dict[str, Any]]] = {
    "raylet.out": ("raylet", "cpp", {}),
    "raylet.1.out": ("raylet", "cpp", {}),
    "old/raylet.1.err.12": ("raylet", "cpp", {}),
    "gcs_server.err": ("gcs", "cpp", {}),
    f"worker-{ID}-{JOB}-42.out": ("worker", "text", {"worker_id": ID, "job_id": JOB, "pid": 42}),
    f"worker-{ID}-ffffffff-42.err": ("worker", "text", {"worker_id": ID, "pid": 42}),
    f"worker-{ID}-42.out.1": ("worker", "text", {"worker_id": ID, "pid": 42}),
    f"io_worker-{ID}-7.err": ("worker", "text", {"worker_id": ID, "pid": 7}),
    f"python-core-worker-{ID}_9.log": ("core", "cpp", {"worker_id": ID, "pid": 9}),
    f"python-core-driver-{JOB}{'f' * 48}_9.log.2": ("core", "cpp", {"job_id": JOB, "pid": 9}),
    "monitor.log": ("monitor", "python", {}),
    "log_monitor.err": ("log_monitor", "python", {}),
    "dashboard_agent.log.1": ("agent", "python", {}),
    "dashboard.err": ("dashboard", "python", {}),
    "dashboard_TrainHead.out": ("dashboard", "python", {}),
    "runtime_env_agent.log": ("runtime_env", "python", {}),
    f"runtime_env_setup-{JOB}.log": ("runtime_env", "python", {"job_id": JOB}),
    "runtime_env_setup-ray_client_server_23000.log": ("runtime_env", "python", {}),
    "ray_client_server_23000.out": ("client_server", "python", {}),
    "job-driver-raysubmit_x.log": ("job", "text", {"submission_id": "raysubmit_x"}),
    "jobs/supervisor-raysubmit_x.log": ("job", "python", {"submission_id": "raysubmit_x"}),
    "ray_process_exit.log": ("process_exit", "python", {}),
    f"train/ray-train-sys-controller-{ID}.log": ("train", "json", {"worker_id": ID}),
    f"train/ray-train-app-worker-{ID}.log": ("train", "json", {"worker_id": ID}),
    "events/event_RAYLET.log": ("event", "event", {}),
    "events/event_CORE_WORKER_12.log": ("event", "event", {}),
    "export_events/event_EXPORT_NODE.log": ("export", "event", {}),
    "export_events/event_EXPORT_TASK_123.log.1": ("export", "event", {}),
    "ray-data/ray-data.log": ("data", "python", {}),
    "serve/replica_app_Model_x1.log": ("serve", "text", {}),
    "driver.log": ("driver", "text", {}),
    "my-driver-2.txt": ("driver", "text", {}),
    "dmesg.txt": ("kernel", "text", {}),
    "kern.log.1": ("kernel", "text", {}),
    "whatever.out": ("unknown", "text", {}),
}


@pytest.mark.parametrize("name", NAMES)
def test_a_name_tells_who_writes_the_file(name):
    """Component, format, ids; with both kinds of numbers in names."""
    component, log_format, told = NAMES[name]

    assert describe(LOGS + name) == Source(
        LOGS + name, component, log_format, session="session_1", **told
    )


@pytest.mark.parametrize(
    "name",
    ["debug_state.txt", "debug_state_gcs.txt", "a.json", "raylet.sock", "a.sqlite", "a.zip"],
)
def test_what_is_no_log_has_no_source(name):
    """State dumps, sockets, data bases."""
    assert describe(LOGS + name) is None


@pytest.mark.parametrize(
    ("path", "node"),
    [
        ("saved/logs/n1/session_1/logs/raylet.out", "n1"),
        ("saved/logs/session_1/logs/raylet.out", ""),
        ("/tmp/ray/session_1/logs/raylet.out", ""),
        ("session_1/logs/raylet.out", ""),
        ("driver.log", ""),
    ],
)
def test_saved_logs_name_their_node_in_the_folder_before_the_session(path, node):
    """A session folder alone names none."""
    assert node_of_archive(path) == node


def test_the_link_counts_before_the_newest_folder(tmp_path):
    """Also when it points to where the folder was mounted before."""
    for name in ("session_1", "session_2"):
        (tmp_path / name).mkdir()
    link = tmp_path / "session_latest"

    assert current_session(tmp_path) == tmp_path / "session_2"
    link.symlink_to(tmp_path / "session_1")
    assert current_session(tmp_path) == tmp_path / "session_1"
    link.unlink()
    link.symlink_to("/not/mounted/here/session_1")
    assert current_session(tmp_path) == tmp_path / "session_1"
    link.unlink()
    link.symlink_to("/not/mounted/here/session_9")
    assert current_session(tmp_path) == tmp_path / "session_2"


def test_no_session_is_no_error(tmp_path):
    """The daemon waits for one."""
    assert current_session(tmp_path) is None
    assert current_session(tmp_path / "nothing") is None


def test_a_session_folder_that_two_raylets_share_names_no_node(tmp_path):
    """Each raylet's own file still does."""
    first, second, worker = (tmp_path / n for n in ("raylet.out", "raylet.1.out", "worker.out"))
    first.write_text(f"Setting node ID node_id={NODE}\n")
    assert node_of_session(worker, tmp_path) == NODE

    second.write_text(f"Raylet of id, {ID} started\n")

    assert node_of_session(worker, tmp_path) == ""
    assert node_of_session(second, tmp_path) == ID
