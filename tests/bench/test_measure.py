"""A figure is right, and a goal that is missed is seen."""

import argparse
import sys

import pytest

from tests.bench import measure
from tests.bench.measure import Cost, Report, at_least, at_most, cost_of, interleaved

PYTHON = [sys.executable, "-I", "-S", "-c"]


def test_the_processor_time_is_that_of_the_whole_process():
    """Also of its children; waiting costs none."""
    spin = "import time\nwhile time.process_time() < {}: pass"
    child = f"import os\nif not os.fork():\n  {spin.format(0.3).replace(chr(10), chr(10) + '  ')}\nelse: os.wait()"

    assert cost_of([*PYTHON, "import time; time.sleep(0.3)"]).cpu_s < 0.2
    assert 0.3 <= cost_of([*PYTHON, spin.format(0.3)]).cpu_s < 0.6
    assert 0.3 <= cost_of([*PYTHON, child]).cpu_s < 0.6


def test_the_peak_is_the_process_own():
    """Not of the one that started it, whatever that holds."""
    held = bytes(200_000_000)

    small = cost_of([*PYTHON, "pass"])
    large = cost_of([*PYTHON, "len(bytes(bytearray(100_000_000)))"])

    assert len(held) > 0
    assert small.peak_mb < 20
    assert 200 < large.peak_mb < 240


def test_a_command_that_fails_is_no_figure():
    """It says what it said."""
    with pytest.raises(RuntimeError, match=r"ended with 3: bad") as caught:
        cost_of([*PYTHON, "import sys; sys.stderr.write('bad'); sys.exit(3)"])

    assert str(caught.value).count("\n") == 0
    assert cost_of([*PYTHON, "import sys; print('x'); sys.exit(1)"], codes=(1,)).output == b"x\n"


def test_commands_run_in_turn(tmp_path):
    """What else the machine does meets all of them."""
    path = tmp_path / "order"
    commands = {n: [*PYTHON, f"open({str(path)!r}, 'a').write({n!r})"] for n in "ab"}

    costs = interleaved(commands, 3)

    assert path.read_text() == "ababab"
    assert [len(c) for c in costs.values()] == [3, 3]


def test_a_ratio_is_of_pairs():
    """The median of what the machine let both do in one round."""
    slow = [Cost(s, 0, 0, b"") for s in (2.0, 20.0, 6.0)]
    fast = [Cost(s, 0, 0, b"") for s in (1.0, 10.0, 2.0)]

    assert measure.ratio(slow, fast) == 2
    assert measure.cpu_s(slow) == 6


@pytest.mark.parametrize(
    ("figure", "goal", "harder", "verdict"),
    [
        (3.1, at_least(3, "x"), 1, "reached"),
        (2.9, at_least(3, "x"), 1, "MISSED"),
        (3.1, at_least(3, "x"), 2, "MISSED"),
        (60, at_most(64, "MB"), 1, "reached"),
        (65, at_most(64, "MB"), 1, "MISSED"),
        (60, at_most(64, "MB"), 2, "MISSED"),
    ],
)
def test_a_goal_can_be_missed(figure, goal, harder, verdict, capsys):
    """The row says so and the exit code too."""
    report = Report(harder)
    report.add("a scan", "scan", figure, goal)

    assert report.rows[0].verdict == verdict
    assert report.end() == int(verdict == "MISSED")
    assert f"| {verdict}\n" in capsys.readouterr().out


def test_what_differs_and_what_is_missing_is_missed(capsys):
    """Unequal counts, and a goal that nothing can be measured for."""
    same, other, none, free = Report(), Report(), Report(), Report()
    same.check("lines", "rg", 3, 3)
    other.check("lines", "rg", 2, 3)
    none.missing("jobs", "scan", at_least(1.7, "x"), "no option -j")
    free.add("speed", "scan", 3.0, None, "MB/s")

    assert [r.end() for r in (same, other, none, free)] == [0, 1, 1, 0]
    assert "lines | rg | 2 | = 3 | MISSED" in capsys.readouterr().out


def test_sizes_are_powers_of_ten():
    """As on the disk's box."""
    assert [measure.size(s) for s in ("17", "400M", "1.5G", "2k")] == [17, 400e6, 1.5e9, 2000]
    with pytest.raises(argparse.ArgumentTypeError, match="no size"):
        measure.size("many")
