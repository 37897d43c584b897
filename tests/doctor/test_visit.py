"""`raywatch doctor` as people call it: beside nothing, beside a dead network, with a wrong file, on a terminal or not."""

import json
import os
import socket
import subprocess
import sys
import time
from pathlib import Path

import pytest

from raywatch.doctor.checks import LIMIT_S, Check
from raywatch.doctor.report import exit_code, rendered
from tests.doctor.test_local import session_in
from tests.fakeray import FakeRay

RAYWATCH = Path(sys.executable).with_name("raywatch")
PARTS = (
    *(
        "configuration",
        "session",
        "logs",
        "event export",
        "event push",
        "inotify",
        "dashboard",
        "token",
        "clock",
    ),
    *("Jobs API", "State API", "Train state API", "daemon", "store", "rules", "engine"),
    *("open files", "cloud", "resume"),
)


def doctor(folder, *argv):
    """Run it with a home and a working directory of its own; return exit code, output, errors and seconds."""
    keep = ("PATH", "LANG")
    env = {k: v for k, v in os.environ.items() if k in keep} | {"HOME": str(folder)}
    asked = [RAYWATCH, "doctor", "--listen", "127.0.0.1:9", *argv]
    began = time.monotonic()
    done = subprocess.run(asked, capture_output=True, check=False, env=env, cwd=folder, timeout=60)
    return done.returncode, done.stdout.decode(), done.stderr.decode(), time.monotonic() - began


def test_beside_a_healthy_ray_nothing_fails(tmp_path):
    """A row for each check, in words; no colour in a pipe, and that no daemon runs is no failure."""
    session_in(tmp_path)
    with FakeRay() as ray:
        (tmp_path / "raywatch.toml").write_text(
            f'[ray]\ndashboard = "{ray.url}"\n[cloud]\nprovider = "none"\n'
        )
        code, out, err, _ = doctor(tmp_path, "--temp-dir", str(tmp_path))

    rows = [x for x in out.splitlines() if not x.lstrip().startswith("do: ")]
    names = [x[6:].split("  ")[0] for x in rows[:-2]]
    assert (code, err, tuple(names)) == (0, "", PARTS)
    assert "\x1b" not in out
    assert rows[-1].endswith(", 0 FAIL")
    assert rows[0] == "ok    configuration    raywatch.toml"


def test_where_everything_is_dead_it_ends_within_seconds(tmp_path):
    """A dashboard, a daemon and a cloud that accept and never answer; the rest is looked at all the same."""
    with socket.create_server(("127.0.0.1", 0)) as mute:
        url = f"http://127.0.0.1:{mute.getsockname()[1]}"
        (tmp_path / "raywatch.toml").write_text(
            f'[ray]\ndashboard = "{url}"\n[cloud]\nprovider = "aws"\nurl = "{url}"\n'
            '[[resume]]\nrun = "x"\nmode = "auto"\nhook = {kind = "job"}\n'
        )
        listen = ("--listen", url.removeprefix("http://"))
        code, out, _, took = doctor(tmp_path, "--temp-dir", str(tmp_path), "--json", *listen)

    found = {c["name"]: c["verdict"] for c in json.loads(out)["checks"]}
    assert code == 1
    assert found == {
        "configuration": "ok",
        "session": "fail",
        "dashboard": "fail",
        "daemon": "warn",
        "store": "ok",
        "rules": "ok",
        "engine": "ok",
        "open files": "ok",
        "cloud": "warn",
        "resume x": "ok",
    }
    assert took < 2 * LIMIT_S


def test_a_configuration_with_a_mistake_is_told_and_the_rest_is_looked_at(tmp_path):
    """A flag with one is a usage error."""
    (tmp_path / "raywatch.toml").write_text("[ray]\ndashbord = 1\n")
    code, out, _, _ = doctor(tmp_path, "--json")
    first, *others = json.loads(out)["checks"]
    wrong = doctor(tmp_path, "--listen", "nowhere")

    assert (code, first["verdict"]) == (1, "fail")
    assert first["fact"] == "raywatch.toml:2: unknown key dashbord; did you mean dashboard?"
    assert {"session", "store"} <= {c["name"] for c in others}
    assert wrong[:3] == (2, "", "raywatch: --listen nowhere: give HOST:PORT, like 127.0.0.1:9265\n")
    assert doctor(tmp_path, "--nonsense")[0] == 2


@pytest.mark.parametrize(("verdict", "code"), [("ok", 0), ("warn", 0), ("fail", 1)])
def test_only_what_fails_makes_the_exit_code(verdict, code):
    """A warning does not."""
    assert exit_code([Check("a", "ok", ""), Check("b", verdict, "")]) == code


def test_a_table_says_what_to_do_and_text_of_others_is_safe():
    """Colour is asked for; what to do stands under what needs it, and nowhere else."""
    checks = [
        Check("short", "ok", "fine", "not shown"),
        Check("a longer one", "warn", "x\x1b[2Jy\nz", "do this"),
        Check("bad", "fail", "no", "do that"),
    ]
    assert rendered(checks, as_json=False, color=False) == (
        "ok    short         fine\n"
        "warn  a longer one  x\\x1b[2Jy\\x0az\n"
        "                    do: do this\n"
        "FAIL  bad           no\n"
        "                    do: do that\n"
        "\n"
        "1 ok, 1 warn, 1 FAIL"
    )
    colored = rendered(checks, as_json=False, color=True)
    assert "\x1b[31mFAIL\x1b[0m" in colored
    assert json.loads(rendered(checks, as_json=True, color=True))["counts"] == {
        "ok": 1,
        "warn": 1,
        "fail": 1,
    }
