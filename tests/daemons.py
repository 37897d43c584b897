"""A real daemon as a process, for tests."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Protocol

_PAUSE = threading.Event()


def until(
    true: Callable[[], object], seconds: float, what: str, *, pause_s: float = 0.02
) -> object:
    """Ask again and again until the answer is true; fail with what was waited for."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        answer = true()
        if answer:
            return answer
        _PAUSE.wait(pause_s)
    raise AssertionError(f"not within {seconds} s: {what}")


class Process(Protocol):
    """What a test does with a daemon's process: a part of subprocess.Popen."""

    pid: int

    def poll(self) -> int | None:
        """Return its exit code, None while it lives."""

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end."""

    def send_signal(self, number: int, /) -> None:
        """Send a signal."""

    def kill(self) -> None:
        """End it at any instruction."""


def arguments(temp_dir: Path, state: Path, *more: str) -> list[str]:
    """Return the arguments of `raywatch daemon` with a state and a port of its own."""
    store = str(state / "raywatch.db")
    return ["--temp-dir", str(temp_dir), "--store", store, "--listen", "127.0.0.1:0", *more]


def started(argv: Sequence[str], log: Path, environ: Mapping[str, str] | None = None) -> Process:
    """Start `raywatch daemon`; what it prints goes behind what is in `log`."""
    with log.open("ab") as out:
        return subprocess.Popen(
            [sys.executable, "-m", "raywatch", "daemon", *argv],
            stdout=out,
            stderr=out,
            env={**os.environ, **(environ or {})},
        )


class DaemonProcess:
    """`raywatch daemon` on a port of its own."""

    def __init__(
        self,
        temp_dir: Path,
        state: Path,
        *more: str,
        environ: Mapping[str, str] | None = None,
        start: Callable[[Sequence[str], Path], Process] | None = None,
    ) -> None:
        """`start` makes the process in another way."""
        self._state = state
        self.log = state.with_name(state.name + ".out")
        self._start = self.log.stat().st_size if self.log.exists() else 0
        argv = arguments(temp_dir, state, *more)
        self.process = start(argv, self.log) if start else started(argv, self.log, environ)
        try:
            self.url = str(until(self._listening, 60, "the daemon listens"))
        except BaseException:  # Ctrl-C too
            self.kill()  # nobody else can
            raise

    def _listening(self) -> str:
        if self.process.poll() is not None:
            raise AssertionError(f"the daemon ended: {self.output()}")
        word = "raywatch listens on "
        return next(
            (x.removeprefix(word) for x in self.output().splitlines() if x.startswith(word)), ""
        )

    def output(self) -> str:
        """What this process printed."""
        return self.log.read_bytes()[self._start :].decode()

    def get(self, path: str, **headers: str) -> tuple[int, bytes]:
        """GET a path; return status and body."""
        request = urllib.request.Request(self.url + path, headers=headers)
        try:
            with urllib.request.urlopen(request, timeout=40) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def post(self, path: str, body: bytes = b"", token: str | None = None) -> tuple[int, bytes]:
        """POST to a path with the daemon's token or another; return status and body."""
        known = (self._state / "token").read_text() if token is None else token
        headers = {"Authorization": f"Bearer {known}"}
        request = urllib.request.Request(self.url + path, body, headers, method="POST")
        try:
            with urllib.request.urlopen(request, timeout=40) as answer:
                return answer.status, answer.read()
        except urllib.error.HTTPError as error:
            with error:
                return error.code, error.read()

    def actions(self) -> list[dict[str, object]]:
        """What was decided, newest snapshot."""
        return list(json.loads(self.get("/api/v1/actions")[1])["actions"])

    def incidents(self) -> list[dict[str, object]]:
        """The incidents of the newest snapshot."""
        return list(json.loads(self.get("/api/v1/snapshot")[1])["incidents"])

    def kill(self) -> None:
        """End it at any instruction."""
        self.process.kill()
        self.process.wait()

    def stop(self) -> int:
        """End it as an operator does; return its exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(20)


def make_session(temp_dir: Path, name: str = "session_2026-11-24_00-00-00_000001_1") -> Path:
    """Lay out a session as Ray does; return its log folder."""
    logs = temp_dir / name / "logs"
    logs.mkdir(parents=True)
    link = temp_dir / "session_latest"
    link.unlink(missing_ok=True)
    link.symlink_to(temp_dir / name)
    return logs
