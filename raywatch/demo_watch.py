"""What the demo follows and shows: the daemon as a process, its snapshots, what is new in them, and a terminal."""

from __future__ import annotations

import http.client
import os
import subprocess
import sys
import time
import urllib.error
import urllib.request
from pathlib import Path
from typing import TextIO

from pydantic import BaseModel, Field, ValidationError

from raywatch.demo_cluster import DIRECT, RUN, DemoError, demo_env
from raywatch.terminal import safe, told

NO_NEWS = 304
CONFIG = """\
[ray]
dashboard = "{dashboard}"
temp_dir = "{folder}"

[listen]
address = "127.0.0.1:0"

[store]
path = "{folder}/raywatch/raywatch.db"

[[resume]]
run = "{run}"
mode = "auto"
hook = {{kind = "job"}}
settle_s = 30
backoff_s = 1
"""


class Line(BaseModel):
    """A line that proves something."""

    file: str = ""
    line: int = 0
    text: str = ""


class Count(BaseModel):
    """How often a symptom's class was found."""

    name: str = Field(alias="class")
    count: int


class IncidentView(BaseModel):
    """An incident of the snapshot."""

    id: str
    name: str = Field(alias="class")
    title: str = ""
    root: Line = Line()
    explains: list[Count] = []


class CheckpointView(BaseModel):
    """A checkpoint of the snapshot."""

    path: str = ""
    step: int | None = None
    whole: bool = False
    checked: str = ""


class RunView(BaseModel):
    """A run of the snapshot."""

    name: str = ""
    status: str = ""
    level: int | None = None
    world_size: int | None = None
    checkpoint: CheckpointView | None = None


class ActionView(BaseModel):
    """What raywatch does about an incident."""

    key: str
    run_name: str = ""
    name: str = Field(default="", alias="class")
    attempt: int = 0
    state: str = ""
    submission_id: str | None = None
    checkpoint: CheckpointView | None = None
    first_step: int | None = None
    detail: str | None = None


class DrainView(BaseModel):
    """A node that was told to go."""

    node_id: str
    reason: str = ""
    message: str = ""


class Snapshot(BaseModel):
    """The part of /api/v1/snapshot that the demo shows."""

    seq: int = 0
    incidents: list[IncidentView] = []
    runs: list[RunView] = []
    actions: list[ActionView] = []
    drains: list[DrainView] = []

    def run(self) -> RunView:
        """Return the demo's run, an empty one while it is not known."""
        return next((r for r in self.runs if r.name == RUN), RunView())

    def action(self) -> ActionView | None:
        """Return the newest action for the demo's run."""
        return next((a for a in reversed(self.actions) if a.run_name == RUN), None)


def news(old: Snapshot, new: Snapshot) -> list[tuple[str, str]]:
    """Return what `new` says that `old` did not, as labels and lines. Same input, same output."""
    known = {d.node_id for d in old.drains}
    said = [
        ("notice", f"node {d.node_id[:8]} must go: {d.message} ({d.reason})")
        for d in new.drains
        if d.node_id not in known
    ]
    before = {i.id: i for i in old.incidents}
    for incident in new.incidents:
        said += _incident_news(before.get(incident.id), incident)
    if new.run().status not in ("", "unknown", old.run().status):
        said.append(("run", f"{RUN} is {new.run().status}"))
    acted = {a.key: a for a in old.actions}
    for action in new.actions:
        said += _action_news(acted.get(action.key), action)
    return said


def _incident_news(old: IncidentView | None, new: IncidentView) -> list[tuple[str, str]]:
    said = []
    if old is None or old.name != new.name:
        was = f", first taken for {old.name}" if old else ""
        said.append(("incident", f"{new.name}: {new.title}{was}"))
    if old is None or (old.root.file, old.root.line) != (new.root.file, new.root.line):
        said.append(("root cause", f"{new.root.file}:{new.root.line}"))
        said.append(("", told(new.root.text)))
    known = {c.name for c in old.explains} if old else set()
    fresh = [c.name for c in new.explains if c.name not in known]
    return said + ([("explains", ", ".join(fresh))] if fresh else [])


def _action_news(old: ActionView | None, new: ActionView) -> list[tuple[str, str]]:
    said = []
    chosen = new.checkpoint
    if chosen and (old is None or old.checkpoint is None or old.checkpoint.path != chosen.path):
        proof = f"whole ({chosen.checked})" if chosen.whole else "not proved whole"
        said.append(("checkpoint", f"step {chosen.step}, {proof}: {chosen.path}"))
    if old is None or (old.state, old.detail) != (new.state, new.detail):
        why = f": {new.detail}" if new.detail else ""
        said.append(("resume", f"attempt {new.attempt} for {new.name} {new.state}{why}"))
    if new.submission_id and (old is None or not old.submission_id):
        said.append(("resubmitted", f"as job {new.submission_id}"))
    if new.first_step is not None and (old is None or old.first_step is None):
        said.append(("first step", f"step {new.first_step} of the new run is past the checkpoint"))
    return said


class DemoDaemon:
    """`raywatch daemon` as a process of its own, on a port of its own."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        self._out = folder / "daemon.out"
        self.url = ""

    def start(self, dashboard: str) -> None:
        """Write its configuration and start it."""
        config = self._folder / "raywatch.toml"
        config.write_text(CONFIG.format(dashboard=dashboard, folder=self._folder, run=RUN))
        argv = [sys.executable, "-m", "raywatch", "daemon", "--config", str(config)]
        with self._out.open("wb") as out:
            self._process = subprocess.Popen(
                argv,
                env=demo_env(self._folder),
                stdin=subprocess.DEVNULL,
                stdout=out,
                stderr=out,
                start_new_session=True,
            )

    def listening(self) -> bool | None:
        """Say whether it listens; raise DemoError if it ended."""
        if self._process is None or self._process.poll() is not None:
            raise DemoError(f"the daemon ended: {(self.output() or ['no output'])[-1]}")
        said = (x.partition("listens on ")[2] for x in self.output())
        self.url = next(filter(None, said), "")
        return bool(self.url) or None

    def output(self) -> list[str]:
        """Return the lines that it printed."""
        return self._out.read_text(errors="replace").splitlines() if self._out.exists() else []

    def next(self, after: int, wait_s: float) -> Snapshot | None:
        """Return the first snapshot newer than `after`, None if there was none in time."""
        url = f"{self.url}/api/v1/snapshot?after={after}&wait={wait_s:g}"
        try:
            with DIRECT.open(url, timeout=wait_s + 10) as answer:
                return Snapshot.model_validate_json(answer.read())
        except urllib.error.HTTPError as error:
            with error:
                if error.code != NO_NEWS:
                    raise DemoError(f"the daemon answers {error}") from error
            return None
        except (OSError, http.client.HTTPException) as error:
            self.listening()  # says why, if it ended
            raise DemoError(f"the daemon does not answer: {error}") from error
        except ValidationError as error:
            raise DemoError(f"the daemon's snapshot cannot be read: {error.errors()[0]}") from error

    def stop(self) -> None:
        """End it as an operator does; it commits what it knows."""
        if self._process is not None and self._process.poll() is None:
            self._process.terminate()
            try:
                self._process.wait(10)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()


# --- the terminal -----------------------------------------------------------------------------------


class Screen:
    """Plain lines with a time, a label and a text; the label has a colour where that is wanted."""

    def __init__(self, out: TextIO) -> None:
        self._out = out
        plain = "NO_COLOR" in os.environ or os.environ.get("TERM") == "dumb"
        self._colours = out.isatty() and not plain
        self._began = time.monotonic()
        self._killed: float | None = None
        self.hidden = ""  # the folder that need not be named in every line

    def kill(self) -> None:
        """From now on times count from the kill."""
        self._killed = time.monotonic()

    def now(self) -> float:
        """Return the seconds since the kill, before it since the start."""
        return time.monotonic() - (self._began if self._killed is None else self._killed)

    def say(self, label: str, text: str, colour: int = 36) -> None:
        """Print one line; hostile characters are shown, never sent."""
        sign = "t+" if self._killed is not None else "  "
        when = f"{sign}{self.now():6.1f} s" if label else ""
        shown = safe(text.replace(self.hidden, "") if self.hidden else text, 300)
        head = f"{label:<12}"
        if self._colours and label:
            head = f"\x1b[1;{colour}m{head}\x1b[0m"
        print(f"{when:10}  {head} {shown}", file=self._out, flush=True)

    def title(self, text: str) -> None:
        """Print a line over a part of the story."""
        print(
            f"\n\x1b[1m{text}\x1b[0m" if self._colours else f"\n{text}", file=self._out, flush=True
        )
