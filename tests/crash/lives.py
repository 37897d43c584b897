"""Lives of the daemon: forked by a warm process, or processes of their own."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.daemons import until


class Life:
    """A forked daemon, used like a subprocess.Popen."""

    def __init__(self, forge: Forge, pid: int) -> None:
        self._forge, self.pid = forge, pid
        self.returncode: int | None = None

    def poll(self) -> int | None:
        """Return how it ended, None while it lives."""
        if self.returncode is None:
            self.returncode = self._forge.ask(wait=self.pid)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        """Wait for its end, at most a minute."""
        until(lambda: self.poll() is not None, timeout or 60, f"{self.pid} ends", pause_s=0.001)
        assert self.returncode is not None
        return self.returncode

    def send_signal(self, number: int) -> None:
        """Send a signal; never to a process that was waited for."""
        if self.returncode is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        """End it at whatever instruction it is."""
        self.send_signal(signal.SIGKILL)


class Forge:
    """The warm process. Its lives may be asked for from several threads."""

    def __init__(self) -> None:
        self.mutant = ""  # how lives are wrong from now on
        self._lock = threading.Lock()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "tests.crash.forge"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )
        assert self._read() == "ready"

    def __enter__(self) -> Forge:  # noqa: PYI034 - typing.Self is 3.11
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._process.communicate()
        assert self._process.returncode == 0

    def _read(self) -> str:
        assert self._process.stdout is not None
        return self._process.stdout.readline().strip()

    def ask(self, **request: Any) -> Any:
        """Send a request, return its answer."""
        with self._lock:
            assert self._process.stdin is not None
            self._process.stdin.write(json.dumps(request) + "\n")
            self._process.stdin.flush()
            return json.loads(self._read())

    def life(self, argv: Sequence[str], out: Path, **mortal: float) -> Life:
        """Fork a daemon; `mortal` are fields of Mortal."""
        how = {"mortal": mortal, "mutant": self.mutant}
        return Life(self, self.ask(argv=list(argv), out=str(out), **how))
