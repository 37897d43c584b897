"""What the benches have in common: processor time and memory of whole processes, medians, a table of figures and goals.

A process is measured from outside, by a small launcher that waits for it: its processor seconds are those of wait4
(user and system, children included), its peak memory is its own. Linux counts the pages of the process that forked
into the peak of the one that it became, so the launcher must be small: this bench is not.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import shlex
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

_UNITS = {"k": 10**3, "m": 10**6, "g": 10**9}
_LAUNCHER = """
import json, os, sys, time
began = time.monotonic()
pid = os.posix_spawnp(sys.argv[1], sys.argv[1:], os.environ)
_, status, used = os.wait4(pid, 0)
print(end="\\n", file=sys.stderr)  # what it said may lack its own
print(json.dumps([used.ru_utime + used.ru_stime, time.monotonic() - began, used.ru_maxrss / 1000,
                  os.waitstatus_to_exitcode(status)]), file=sys.stderr)
"""


class Cost(NamedTuple):
    """What a process took. Megabytes are 10^6 bytes."""

    cpu_s: float
    wall_s: float
    peak_mb: float
    output: bytes


def cost_of(argv: Sequence[str], *, codes: Collection[int] = (0,)) -> Cost:
    """Run a command and return what it took. Raises RuntimeError for an exit code that is not in `codes`."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        # Isolated and without site: 8 MB, which is less than any program here needs.
        launch = [sys.executable, "-I", "-S", "-c", _LAUNCHER, *argv]
        subprocess.run(launch, stdout=out, stderr=err, stdin=subprocess.DEVNULL, check=True)
        for stream in (out, err):
            stream.seek(0)
        output, told = out.read(), err.read()
    said, _, figures = told.rstrip(b"\n").rpartition(b"\n")
    cpu_s, wall_s, peak_mb, code = json.loads(figures)
    if code not in codes:
        why = said[-2000:].decode(errors="replace").strip()
        raise RuntimeError(f"{shown(argv)} ended with {code}: {why}")
    return Cost(cpu_s, wall_s, peak_mb, output)


def interleaved(
    commands: Mapping[str, Sequence[str]], rounds: int, *, codes: Collection[int] = (0, 1)
) -> dict[str, list[Cost]]:
    """Run all commands in turn, again and again, so that what else the machine does meets all of them."""
    costs: dict[str, list[Cost]] = {name: [] for name in commands}
    for _ in range(rounds):
        for name, argv in commands.items():
            costs[name].append(cost_of(argv, codes=codes))
    return costs


def cpu_s(costs: Sequence[Cost]) -> float:
    """Median of the processor seconds."""
    return statistics.median(c.cpu_s for c in costs)


def ratio(slow: Sequence[Cost], fast: Sequence[Cost]) -> float:
    """How many times more processor time the first takes: median of the pairs of one round."""
    return statistics.median(a.cpu_s / b.cpu_s for a, b in zip(slow, fast, strict=True))


def shown(argv: Sequence[str], most: int = 76) -> str:
    """A command as a person would type it, without the folders of its paths."""
    words = [w.rpartition("/")[2] if w.startswith("/") else w for w in argv]
    text = shlex.join(words)
    return text if len(text) <= most else text[: most - 3] + "..."


class Goal(NamedTuple):
    """At least or at most so much of a unit."""

    least: bool
    value: float
    unit: str = ""

    def reached(self, figure: float) -> bool:
        """Say whether a figure is good enough."""
        return figure >= self.value if self.least else figure <= self.value

    def harder(self, times: float) -> Goal:
        """Return a goal that is so many times as hard: for seeing that a bench can fail."""
        return self._replace(value=self.value * times if self.least else self.value / times)

    def __str__(self) -> str:
        return f"{'>=' if self.least else '<='} {number(self.value)} {self.unit}".rstrip()


def at_least(value: float, unit: str = "") -> Goal:
    """A goal from below."""
    return Goal(least=True, value=value, unit=unit)


def at_most(value: float, unit: str = "") -> Goal:
    """A goal from above."""
    return Goal(least=False, value=value, unit=unit)


class Row(NamedTuple):
    """A line of the table."""

    what: str
    command: str
    figure: str
    goal: str
    verdict: str


HEAD = Row("what", "command", "figure", "goal", "verdict")


class Report:
    """The table of a bench. `harder` makes every goal so many times as hard."""

    def __init__(self, harder: float = 1.0) -> None:
        self._harder = harder
        self.rows: list[Row] = []

    def add(
        self, what: str, command: str, figure: float, goal: Goal | None, note: str = ""
    ) -> None:
        """Add a figure beside its goal, or without one; it is printed at once, a bench is long."""
        unit = goal.unit if goal else ""
        text = " ".join(filter(None, (number(figure), unit, note)))
        if goal is None:
            self._print(Row(what, command, text, "", ""))
            return
        goal = goal.harder(self._harder)
        verdict = "reached" if goal.reached(figure) else "MISSED"
        self._print(Row(what, command, text, str(goal), verdict))

    def check(self, what: str, command: str, found: object, wanted: object) -> None:
        """Add something that must be equal."""
        verdict = "reached" if found == wanted else "MISSED"
        self._print(Row(what, command, str(found), f"= {wanted}", verdict))

    def missing(self, what: str, command: str, goal: Goal, why: str) -> None:
        """Add a goal that cannot be reached: there is nothing to measure."""
        self._print(Row(what, command, why, str(goal), "MISSED"))

    def _print(self, row: Row) -> None:
        if not self.rows:
            print(" | ".join(HEAD))
            print(" | ".join("---" for _ in HEAD))
        self.rows.append(row)
        print(" | ".join(row), flush=True)

    def end(self) -> int:
        """Print what the machine did meanwhile; return the exit code: 1 where a goal is missed."""
        missed = sum(r.verdict == "MISSED" for r in self.rows)
        print(f"\n{missed} of {sum(bool(r.verdict) for r in self.rows)} missed; {load()}")
        return int(missed > 0)


def number(value: float) -> str:
    """Three digits that count, or all before the point."""
    if abs(value) >= 100:
        return f"{value:,.0f}"
    return f"{value:.3g}"


def size(text: str) -> int:
    """Bytes of a text like 400M; powers of ten."""
    unit = _UNITS.get(text[-1:].lower())
    try:
        return int(float(text[:-1] if unit else text) * (unit or 1))
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text!r} is no size like 50M or 1G") from error


def arguments(doc: str | None) -> argparse.ArgumentParser:
    """Return a parser with what every bench takes."""
    asked = argparse.ArgumentParser(description=doc)
    asked.add_argument(
        "--harder", type=float, default=1.0, help="goals so many times as hard: to see it fail"
    )
    return asked


def machine() -> str:
    """What the figures were taken on, and what else it does."""
    cpu = "unknown processor"
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            cpu = line.partition(": ")[2]
            break
    return f"{os.cpu_count()} x {cpu}, Linux {platform.release()}, Python {platform.python_version()}, {load()}"


def load() -> str:
    """How busy the machine was in the last 1, 5 and 15 minutes."""
    return f"load average {' '.join(f'{x:.2f}' for x in os.getloadavg())}"


# --- of processes that go on ----------------------------------------------------------------------


def used_s(pid: int) -> float:
    """Processor seconds that a living process has used."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def resident_mb(pid: int) -> float:
    """Resident memory of a living process, in 10^6 bytes."""
    pages = int(Path(f"/proc/{pid}/statm").read_text().split()[1])
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6
