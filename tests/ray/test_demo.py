"""`raywatch demo` as its users run it: a real cluster, a real run, a node that is really killed."""

import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]


def demo(*flags: str) -> tuple[int, str]:
    """Run it; return exit code and what it printed."""
    argv = [sys.executable, "-m", "raywatch", "demo", "--timeout", "300", *flags]
    done = subprocess.run(argv, capture_output=True, check=False)
    return done.returncode, done.stdout.decode() + done.stderr.decode()


def latest() -> str | None:
    """Where the user's own session link points."""
    link = Path("/tmp/ray/session_latest")
    return str(link.readlink()) if link.is_symlink() else None


def left(folder: str) -> list[str]:
    """Processes that name the demo's folder."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes()
        except OSError:
            continue
        if folder.encode() in words:
            found.append(words.decode(errors="replace"))
    return found


def test_training_goes_on_after_a_spot_node_died():
    """Exit code 0 only if it does; nothing is left behind, the user's session link stays."""
    before = latest()
    code, out = demo()
    folder = out.partition("folder ")[2].split()[0]

    assert code == 0, out
    assert "spot_preemption" in out
    assert "first step" in out
    assert left(folder) == []
    assert not Path(folder).exists()
    assert latest() == before


def test_no_hook_is_fired_where_ray_train_restarts_the_run_itself():
    """With Ray Train's own default budget for preemptions."""
    code, out = demo("--train-budget")

    assert code == 0, out
    assert "resubmitted" not in out
