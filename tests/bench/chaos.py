"""Long and random: usage: python -m tests.bench.chaos [ROUNDS]. What CI does once, many times, with figures.

1. A daemon that is killed at random moments under lines and rotations counts each line once.
2. `raywatch demo` goes the whole way each time; how long its parts took as min, median and max.
"""

from __future__ import annotations

import random
import re
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path

from tests.shell.test_daemon import kill_at_random

DEMO = [sys.executable, "-m", "raywatch", "demo", "--timeout", "300"]
_FIGURE = re.compile(r"^ +(\w[\w ]* -> \w[\w ]*?) +([\d.]+) s$", re.MULTILINE)


def kills(rounds: int) -> None:
    """Play the random program with other seeds each time."""
    for seed in range(rounds):
        with tempfile.TemporaryDirectory() as folder:
            written = kill_at_random(Path(folder), random.Random(seed), lives=12)
        print(f"ok   daemon killed 12 times, seed {seed}: {written} lines counted once", flush=True)


def demos(rounds: int) -> int:
    """Run the demo again and again; return how often it failed."""
    took: dict[str, list[float]] = {}
    failed = 0
    for number in range(rounds):
        done = subprocess.run(DEMO, capture_output=True, text=True, check=False)
        failed += done.returncode != 0
        print(f"{'FAIL' if done.returncode else 'ok  '} demo {number + 1}", flush=True)
        print(done.stdout[-3000:] if done.returncode else "", end="", flush=True)
        for what, seconds in _FIGURE.findall(done.stdout):
            took.setdefault(what, []).append(float(seconds))
    for what, seconds in took.items():
        low, mid, high = min(seconds), statistics.median(seconds), max(seconds)
        print(f"{what:28} min {low:5.1f}  median {mid:5.1f}  max {high:5.1f} s  n={len(seconds)}")
    return failed


def main(rounds: int) -> int:
    """Return 1 where anything failed."""
    kills(rounds)
    return int(demos(rounds) > 0)


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]) if len(sys.argv) > 1 else 10))
