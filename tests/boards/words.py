"""The words that several dashboards share: states and their colours, classes by role."""

from __future__ import annotations

from typing import get_args

from raywatch.core.taxonomy import parse_taxonomy
from raywatch.model import RunStatus
from raywatch.resources import resource_dir
from tests.boards.parts import BLUE, GREEN, GREY, ORANGE, RED, YELLOW, Texts
from tests.boards.promql import every, of_session, where

STATUSES: dict[str, str] = {
    "unknown": GREY,
    "pending": YELLOW,
    "running": GREEN,
    "restarting": ORANGE,
    "failed": RED,
    "stopped": GREY,
    "finished": BLUE,
}
assert set(STATUSES) == set(get_args(RunStatus))
STATUS_TEXTS: Texts = {s: (s, colour) for s, colour in STATUSES.items()}
STATUS_CODES: Texts = {str(i): (s, colour) for i, (s, colour) in enumerate(STATUSES.items())}
OWNER_TEXTS: Texts = {
    "ray_train": ("Ray Train", GREEN),
    "kuberay": ("KubeRay", GREEN),
    "launcher": ("its launcher", GREEN),
    "raywatch": ("raywatch", BLUE),
    "nobody": ("nobody", RED),
}
LEVEL_TEXTS: Texts = {
    "1": ("1: ends with a lost worker", RED),
    "2": ("2: restarts", YELLOW),
    "3": ("3: goes on with fewer", GREEN),
    "4": ("4: shrinks and grows", GREEN),
}


def status_code(*matchers: str) -> str:
    """Return one number a run, by its status: what a state set is as a line of time."""
    series = (every("run_status", *matchers, where("status", status)) for status in STATUSES)
    codes = " or ".join(f"{code} * ({one} == 1)" for code, one in enumerate(series))
    return f"max by (run) (({codes}) {of_session()})"


def classes(role: str) -> str:
    """Return a matcher of the classes of a role."""
    known = parse_taxonomy((resource_dir("rules") / "taxonomy.yaml").read_text())
    found = sorted(c.id for c in known.values() if c.role == role)
    return where("class", "|".join(found))
