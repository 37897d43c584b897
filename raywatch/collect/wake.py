"""inotify wakes, files decide: which paths may have changed since the last look.

Events only wake the loop and name files; a lost event costs latency and never data, because a sweep comes every two
seconds. Where inotify does not work the sweep alone is left, and `mode` says so.
"""

from __future__ import annotations

import contextlib
import os
import select
from collections.abc import Sequence
from pathlib import Path

from raywatch.collect.inotify import Watches


class Waker:
    """Watches folders and everything below them. Only `wake` may be called from another thread."""

    def __init__(self) -> None:
        self._woken = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._either = select.epoll()
        self._either.register(self._woken, select.EPOLLIN)
        self._watches: Watches | None = None
        self.mode = "poll"
        self.reason = "nothing is watched yet"

    def watch(self, folders: Sequence[Path]) -> None:
        """Watch these folders instead of the ones before. Links are resolved: a watched link gives no events."""
        self._let_go()
        try:
            self._watches = Watches([str(f.resolve()) for f in folders])
        except OSError as error:  # watch limits, network file systems, folders that just went
            self.mode, self.reason = "poll", str(error)
            return
        self._either.register(self._watches.fd, select.EPOLLIN)
        self.mode, self.reason = "inotify", ""

    def wait(self, timeout_s: float) -> set[str]:
        """Return the paths named since the last call, at the latest after `timeout_s`."""
        self._either.poll(timeout_s)
        with contextlib.suppress(BlockingIOError):
            os.eventfd_read(self._woken)
        if self._watches is None:
            return set()
        try:
            return self._watches.read()
        except OSError as error:  # the watch limit, reached by a new folder
            self._let_go()
            self.mode, self.reason = "poll", str(error)
            return set()

    def wake(self) -> None:
        """End a wait at once, from any thread."""
        with contextlib.suppress(OSError):  # closed, or woken so often that it cannot count it
            os.eventfd_write(self._woken, 1)

    def close(self) -> None:
        """Stop watching. Whoever wakes must have ended before."""
        self._let_go()
        woken, self._woken = self._woken, -1  # its number may soon be another file's
        self._either.close()
        os.close(woken)

    def _let_go(self) -> None:
        if self._watches is not None:
            self._either.unregister(self._watches.fd)
            self._watches.close()
            self._watches = None
