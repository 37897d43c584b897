"""A session whose driver failed is left out and made again; that hides nothing that a scan calls a failure before it."""

from __future__ import annotations

import time
from datetime import datetime, timezone
from pathlib import Path

import pytest

from tests.bench.healthy import MOST_LEFT_OUT, DriverFailed, Make, fill, verdict

KILLED = "death reason = UNEXPECTED_TERMINATION, death message = health check failed due to missing too many heartbeats"
BEGAN = time.time() - 100


def line(at: float, text: str) -> str:
    """A line of the GCS."""
    when = datetime.fromtimestamp(at, timezone.utc).strftime("%Y-%m-%d %H:%M:%S,000")
    return f"[{when} I 10 10] (gcs_server) gcs_node_manager.cc:734: {text} node_id={'5c' * 28} node_name=a\n"


def making(*failures_at: float | None) -> Make:
    """Rounds in turn: a healthy one for None, one whose driver fails and whose log speaks of a dead node at that time."""
    turns = iter(failures_at)

    def make(_number: int, folder: Path) -> None:
        at = next(turns)
        log = folder / "logs" / "gcs_server.out"
        log.parent.mkdir(parents=True)
        log.write_text(line(BEGAN - 50, "Node is up") * 10 if at is None else line(at, KILLED))
        if at is not None:
            raise DriverFailed("driver tasks", BEGAN, "ended with 1")

    return make


def names(folder: Path) -> list[str]:
    """What stands, without the times."""
    return sorted(p.name[:12] for p in folder.iterdir())


def test_a_round_whose_driver_failed_is_left_out_and_run_again(tmp_path, capsys):
    """Under the same number; what the failure did to its session is no false alarm, and is told."""
    fill(tmp_path, 2000, making(None, BEGAN + 1, None))

    assert names(tmp_path) == ["left-out-001", "round-000", "round-001"]
    assert verdict(tmp_path) == 0
    told = capsys.readouterr().out
    assert "2 sessions" in told
    assert "driver tasks: ended with 1" in told


def test_what_a_scan_says_before_the_driver_began_counts(tmp_path):
    """The same line, a minute earlier, has nothing to do with the driver."""
    fill(tmp_path, 1000, making(BEGAN - 60, None))

    assert verdict(tmp_path) == 1


def test_a_driver_that_always_fails_ends_it(tmp_path):
    """A workload that cannot work is a mistake of this bench."""
    with pytest.raises(DriverFailed, match="driver tasks"):
        fill(tmp_path, 1000, making(*[BEGAN + 1] * MOST_LEFT_OUT))

    assert len(list(tmp_path.glob("left-out-*"))) == MOST_LEFT_OUT


def test_a_run_goes_on_where_it_was_cut_off(tmp_path):
    """Whole rounds count; what was being made is made anew."""
    fill(tmp_path, 1000, making(None))
    (tmp_path / "making").mkdir()
    (tmp_path / "making" / "half.log").write_text("x" * 5000)
    fill(tmp_path, 2000, making(None))

    assert names(tmp_path) == ["round-000", "round-001"]


def test_a_false_alarm_in_a_whole_round_counts(tmp_path):
    """It is what this is for."""
    fill(tmp_path, 1000, making(None))
    with (tmp_path / "round-000" / "logs" / "gcs_server.out").open("a") as log:
        log.write(line(BEGAN, KILLED))

    assert verdict(tmp_path) == 1
