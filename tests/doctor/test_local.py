"""What the doctor says of this machine: each check on real parts, and the side on which it fails."""

import os
import threading
from pathlib import Path

import pytest

from raywatch.config import Config
from raywatch.doctor import local
from raywatch.doctor.checks import Check, carry_out
from raywatch.doctor.local import (
    engine_checks,
    limit_checks,
    rule_checks,
    session_checks,
    store_checks,
    watching_checks,
)
from tests.daemons import make_session
from tests.doctor.aside import aside, open_folder

NODE = "ab" * 28


def verdicts(checks):
    return [(c.name, c.verdict) for c in checks]


def session_in(folder: Path) -> Path:
    """A session whose raylet logs."""
    logs = make_session(folder)
    (logs / "raylet.out").write_text(f"Setting node ID node_id={NODE}\n")
    (logs / "gcs_server.out").write_text("x\n")
    return logs


def test_a_session_is_found_by_the_rule_that_names_it(tmp_path):
    """With what lies in it."""
    logs = session_in(tmp_path)
    rules = {
        "temp_dir": (Config(temp_dir=tmp_path), {}),
        "session_dir": (Config(session_dir=logs.parent), {}),
        "RAY_TMPDIR": (Config(), {"RAY_TMPDIR": str(tmp_path)}),
    }
    for rule, (config, environ) in rules.items():
        session, read, events, push = session_checks(config, environ)
        assert verdicts([session, read, events, push]) == [
            ("session", "ok"),
            ("logs", "ok"),
            ("event export", "ok"),
            ("event push", "ok"),
        ]
        assert session.fact.startswith(f"{logs.parent} (by {rule}")
        assert read.fact == "2 files can be read: 1 gcs, 1 raylet"
        assert events.fact.startswith("off")
        assert "http://127.0.0.1:9265/api/v1/events/$KEY" in push.fact


def test_no_session_is_a_failure(tmp_path):
    """Where none is, and where the named folder is none."""
    (none,) = session_checks(Config(temp_dir=tmp_path), {})
    (named,) = session_checks(Config(session_dir=tmp_path / "x"), {})

    assert (none.verdict, none.fact) == ("fail", f"none in {tmp_path} (by temp_dir)")
    assert (named.verdict, named.fact) == (
        "fail",
        f"{tmp_path / 'x'} is no folder (by session_dir)",
    )
    assert "--temp-dir" in none.do
    assert watching_checks(Config(temp_dir=tmp_path), {}) == []


def test_logs_without_a_raylet_and_exported_events_are_told(tmp_path):
    """What is in the folder is not of a node that runs here, exported events neither."""
    logs = make_session(tmp_path)
    (logs / "gcs_server.out").write_text("x\n")
    (logs / "export_events").mkdir()
    (logs / "export_events" / "event_EXPORT_ACTOR.log").touch()
    empty = session_checks(Config(temp_dir=tmp_path), {})[2]
    (logs / "export_events" / "event_EXPORT_NODE.log").write_text("{}\n")
    _, read, events, _ = session_checks(Config(temp_dir=tmp_path), {})

    assert (read.verdict, read.fact) == (
        "warn",
        "no log of a raylet among 3 files: 2 export, 1 gcs",
    )
    assert empty.fact.startswith("off")
    assert events.fact == f"on: 1 files in {logs.resolve() / 'export_events'}"


def test_logs_that_may_not_be_read_are_named():
    """A whole folder, all files, one file, a folder below: with who may not."""
    with open_folder() as folder:
        logs = session_in(folder)
        config = Config(temp_dir=folder)
        raylet, gcs = logs / "raylet.out", logs / "gcs_server.out"
        raylet.chmod(0)
        one = aside(lambda: session_checks(config, {}))[1]
        gcs.chmod(0)
        every = aside(lambda: session_checks(config, {}))[1]
        gcs.chmod(0o644)
        raylet.chmod(0o644)
        (logs / "train").mkdir(mode=0o700)
        (logs / "train").chmod(0)
        below = aside(lambda: session_checks(config, {}))[1]
        logs.chmod(0)
        whole = aside(lambda: session_checks(config, {}))[1]
        logs.chmod(0o755)
        (logs / "train").chmod(0o755)
        fine = aside(lambda: session_checks(config, {}))[1]

    assert one[:3] == ("logs", "warn", f"1 may not be read: {raylet}")
    assert every[:2] == ("logs", "fail")
    assert "2 may not be read" in every[2]
    assert below[:3] == ("logs", "warn", f"1 may not be read: {logs / 'train'}")
    assert whole[:3] == ("logs", "fail", f"{logs} may not be read by uid {_nobody()}")
    assert fine[1] == "ok"
    assert all("as the user who runs Ray" in r[3] for r in (one, every, below, whole))


def _nobody() -> int:
    return 65534 if os.geteuid() == 0 else os.geteuid()


def test_a_kernel_that_watches_nothing_more_is_a_warning():
    """The daemon polls then; with descriptors as the limit that is reached."""
    with open_folder() as folder:
        session_in(folder)
        config = Config(temp_dir=folder)
        (fine,) = aside(lambda: watching_checks(config, {}))
        (few,) = aside(lambda: watching_checks(config, {}), left=2)

    assert fine[:2] == ("inotify", "ok")
    assert fine[2].startswith("1 folders are watched")
    assert few[:2] == ("inotify", "warn")
    assert "inotify instance limit reached" in few[2]
    assert "max_user_instances" in few[3]


def test_more_folders_than_half_of_what_may_be_watched_is_a_warning(tmp_path, monkeypatch):
    """Before the limit is reached."""
    session_in(tmp_path)
    limit = tmp_path / "limit"
    monkeypatch.setattr(local, "WATCHES", limit)
    told = []
    for most in (2, 1):
        limit.write_text(f"{most}\n")
        told += watching_checks(Config(temp_dir=tmp_path), {})

    assert verdicts(told) == [("inotify", "ok"), ("inotify", "warn")]
    assert told[1].fact == "1 folders are watched, of 1 that a user may have"


def test_few_open_files_are_a_warning():
    """The hard limit counts: the daemon raises the other itself."""
    (few,) = aside(limit_checks, files=256)
    assert few[:3] == ("open files", "warn", "at most 256")
    assert "LimitNOFILE=16384" in few[3]


def test_a_store_must_be_ours_to_write(tmp_path, monkeypatch):
    """Its folder, its file, its mode, and room for it."""
    with open_folder() as folder:
        kept = folder / "raywatch.db"
        (shut,) = aside(lambda: store_checks(Config(store=folder / "new" / "raywatch.db")))
        kept.touch(0o600)
        folder.chmod(0o777)
        if os.geteuid() == 0:
            (theirs,) = aside(lambda: store_checks(Config(store=kept)))
            assert theirs[:2] == ("store", "fail")
            assert theirs[2].startswith(f"{kept} may not be written by uid")
    assert shut[:3] == (
        "store",
        "fail",
        f"{folder}/new/raywatch.db: {folder} may not be written by uid {_nobody()}",
    )

    config = Config(store=tmp_path / "state" / "raywatch.db")
    (fresh,) = store_checks(config)
    config.store.parent.mkdir()
    config.store.touch(0o600)
    (kept_well,) = store_checks(config)
    config.store.chmod(0o644)
    (read_by_all,) = store_checks(config)
    config.store.chmod(0o600)
    monkeypatch.setattr(local, "LITTLE", 1 << 62)
    (tight,) = store_checks(config)
    monkeypatch.setattr(local, "TOO_LITTLE", 1 << 62)
    (full,) = store_checks(config)

    assert (fresh.verdict, fresh.fact.endswith("(made at the first start)")) == ("ok", True)
    assert (kept_well.verdict, kept_well.fact.endswith("MiB free")) == ("ok", True)
    assert (read_by_all.verdict, "has mode 0644" in read_by_all.fact) == ("warn", True)
    assert read_by_all.do == f"chmod 600 {config.store}"
    assert [tight.verdict, full.verdict] == ["warn", "fail"]


def test_rules_that_cannot_be_read_or_break_their_promise_fail(tmp_path):
    """With the first thing that is wrong."""
    broken, wrong = tmp_path / "broken.yaml", tmp_path / "wrong.yaml"
    broken.write_text("- id: [")
    wrong.write_text(
        "- id: our-own\n  class: worker_crash\n  title: A test\n  where: {component: [worker]}\n"
        "  any: ['our own words']\n  hits: [{text: 'quite other words'}]\n  misses: ['nothing']\n"
    )
    (unread,) = rule_checks([str(broken)])
    (lies,) = rule_checks([str(wrong)])

    assert (unread.verdict, str(broken) in unread.fact) == ("fail", True)
    assert (lies.verdict, lies.fact.count("\n")) == ("fail", 0)
    assert "our-own" in lies.fact
    assert lies.do == f"raywatch rules check {wrong}"


@pytest.mark.parametrize(
    ("code", "said"),
    [
        ("import os; os.kill(os.getpid(), 4)", "ended by signal 4"),
        (
            "import hyperscan_of_nobody",
            "ModuleNotFoundError: No module named 'hyperscan_of_nobody'",
        ),
    ],
)
def test_an_engine_that_does_not_run_here_fails(monkeypatch, code, said):
    """Also where the processor ends the program that tries it."""
    (runs,) = engine_checks()
    monkeypatch.setattr(local, "_ENGINE", code)
    (not_here,) = engine_checks()

    assert (runs.verdict, "hyperscan" in runs.fact) == ("ok", True)
    assert (not_here.verdict, not_here.fact.endswith(said)) == ("fail", True)


def test_what_hangs_or_breaks_is_said_and_holds_up_nothing_else():
    """In the order in which it was asked."""
    never = threading.Event()

    def hangs():
        never.wait(30)
        return [Check("hangs", "ok", "")]

    def breaks():
        raise PermissionError(13, "no", "/x")

    told = carry_out(
        [
            ("hangs", hangs),
            ("breaks", breaks),
            ("none", list),
            ("fine", lambda: [Check("fine", "ok", "")]),
        ],
        0.2,
    )
    never.set()

    assert verdicts(told) == [("hangs", "fail"), ("breaks", "fail"), ("fine", "ok")]
    assert told[0].fact == "not answered within 0.2 s"
    assert "'/x'" in told[1].fact
