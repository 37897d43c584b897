"""`raywatch demo` as its users run it: a real cluster, a real run, a node that is really killed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

pytestmark = [pytest.mark.ray, pytest.mark.timeout(400)]


def demo(*flags: str) -> str:
    """Run it; return what it printed, once it ended well and left nothing behind."""
    before = latest()
    argv = [sys.executable, "-m", "raywatch", "demo", "--timeout", "300", *flags]
    done = subprocess.run(argv, capture_output=True, check=False)
    out = done.stdout.decode() + done.stderr.decode()
    folder = out.partition("folder ")[2].split()[0]

    assert done.returncode == 0, out
    assert left(folder) == []
    assert not Path(folder).exists()
    assert latest() == before
    return out


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
    """Named by its cause before the hook fires, with the cloud's notice as the proof, and fired once."""
    out = demo()

    assert re.search(r"resume +attempt 1 for spot_preemption succeeded", out), out
    assert out.count("resubmitted  as job") == 1
    assert "spot instance reclaimed by the cloud" in out.partition("root cause")[2]
    assert re.search(r"first step +step \d+ of the new run is past the checkpoint", out), out


def test_no_hook_is_fired_where_ray_train_restarts_the_run_itself():
    """With Ray Train's own default budget for preemptions; nothing says that the run failed."""
    out = demo("--train-budget")

    assert "resubmitted" not in out
    assert "train_failed" not in out
