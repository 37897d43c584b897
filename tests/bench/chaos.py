"""Long and random: usage: python -m tests.bench.chaos [ROUNDS] [--seed N] [--only kills]. What CI does once, many times, with figures.

1. Daemons that are killed at random moments under writers, rotations and jobs that fail do everything once: two
   stories of 60 lives a round, side by side (tests/crash/story.py).
2. `raywatch demo` goes the whole way each time; how long its parts took as min, median and max.
"""

from __future__ import annotations

import argparse
import re
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from tests.crash.lives import Forge
from tests.crash.story import Figures, tell

DEMO = [sys.executable, "-m", "raywatch", "demo", "--timeout", "300"]
LIVES = 60
_FIGURE = re.compile(r"^ +(\w[\w ]* -> \w[\w ]*?) +([\d.]+) s$", re.MULTILINE)


def kills(rounds: int, first: int) -> int:
    """Tell stories from a seed on; return how many broke a law."""
    wrong: list[str] = []
    stories, began = rounds * 2, time.monotonic()
    with Forge() as forge, ThreadPoolExecutor(2) as pool:
        told = [pool.submit(_story, forge, seed) for seed in range(first, first + stories)]
        figures = Figures()
        for number, story in enumerate(told, 1):
            try:
                figures += story.result()
            except AssertionError as error:
                wrong.append(str(error))
                print(f"FAIL {error}", flush=True)
            print(f"     story {number}/{stories}: {figures}", flush=True)
    minutes = (time.monotonic() - began) / 60
    print(f"{'FAIL' if wrong else 'ok  '} {figures}; {figures.kills / minutes:.0f} kills a minute")
    return len(wrong)


def _story(forge: Forge, seed: int) -> Figures:
    with tempfile.TemporaryDirectory() as folder:
        return tell(Path(folder), seed, LIVES, forge, say=_say)


def _say(line: str) -> None:
    if line.endswith("0/60"):
        print(f"     {line}", flush=True)


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


def main() -> int:
    """Return 1 where anything failed."""
    options = argparse.ArgumentParser(description="Long and random.")
    options.add_argument("rounds", type=int, nargs="?", default=10)
    options.add_argument("--seed", type=int, default=1, help="of the first story")
    options.add_argument("--only", choices=["kills", "demos"])
    given = options.parse_args()
    wrong = 0
    if given.only != "demos":
        wrong += kills(given.rounds, given.seed)
    if given.only != "kills":
        wrong += demos(given.rounds)
    return int(wrong > 0)


if __name__ == "__main__":
    sys.exit(main())
