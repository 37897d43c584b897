"""inotify wakes, files decide: which paths may have changed since the last look.

Events only wake the loop and name files; a lost event costs latency and never data, because sweeps look at every file.
Where inotify does not work, or does not tell all, the sweeps are faster, and `mode` and `reason` say so.
"""

from __future__ import annotations

import contextlib
import os
import select
import threading
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Protocol

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from raywatch.collect.hints import Hints
from raywatch.collect.mounts import mounts, shared_type


class Watching(Protocol):
    """What names the paths that changed. `fd` is readable when something happened."""

    @property
    def fd(self) -> int:
        """The descriptor to wait for."""

    def read(self) -> Hints:
        """Return what changed since the last call. Raises OSError when no more can be watched."""

    def close(self) -> None:
        """Stop watching."""


class Observed(FileSystemEventHandler):
    """The same by watchdog's stock observer: three threads, four times the processor time, no insides used."""

    def __init__(self, folders: Sequence[str]) -> None:
        """Watch folders, which are no links, and all below them. Raises OSError where it does not work."""
        self._lock = threading.Lock()
        self._named: set[str] = set()
        self.fd = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._observer = Observer()
        self._observer.daemon = True
        try:
            for folder in folders:
                self._observer.schedule(self, folder, recursive=True)
            self._observer.start()
        except OSError:
            os.close(self.fd)
            raise

    def on_any_event(self, event: FileSystemEvent) -> None:
        """Take a path from the observer's thread."""
        if event.event_type in ("opened", "closed_no_write"):
            return  # our own reads
        with self._lock:
            paths = [p for p in (event.src_path, event.dest_path) if p]
            self._named |= {os.fsdecode(p) for p in paths}
            os.eventfd_write(self.fd, 1)

    def read(self) -> Hints:
        """Return what changed since the last call. Dropped events are not told: the sweep finds what they hid."""
        with self._lock, contextlib.suppress(BlockingIOError):
            os.eventfd_read(self.fd)
            named, self._named = self._named, set()
            return Hints(moved=named)
        return Hints()

    def close(self) -> None:
        """Stop watching."""
        self._observer.stop()
        self._observer.join(5)
        with self._lock:
            os.close(self.fd)


def best() -> Callable[[Sequence[str]], Watching]:
    """Return what watches: the lightest that the installed watchdog allows."""
    try:
        from raywatch.collect.inotify import Watches  # noqa: PLC0415 - not in every version of watchdog
    except (ImportError, AttributeError):
        return Observed
    return Watches


class Waker:
    """Watches folders and everything below them. Only `wake` may be called from another thread."""

    def __init__(
        self,
        watching: Callable[[Sequence[str]], Watching] | None = None,
        mounts: Callable[[], str] = mounts,
    ) -> None:
        """`watching` names what changed; by default the lightest that this watchdog allows. `mounts`: see mountinfo."""
        self._watching, self._mounts = watching or best(), mounts
        self._woken = os.eventfd(0, os.EFD_NONBLOCK | os.EFD_CLOEXEC)
        self._either = select.epoll()
        self._either.register(self._woken, select.EPOLLIN)
        self._watches: Watching | None = None
        self.mode = "poll"
        self.reason = "nothing is watched yet"

    def watch(self, folders: Sequence[Path]) -> None:
        """Watch these folders instead of the ones before. Links are resolved: a watched link gives no events."""
        self._let_go()
        paths = [str(f.resolve()) for f in folders]
        try:
            self._watches = self._watching(paths)
        except OSError as error:  # watch limits, folders that just went
            self.distrust(str(error))
            return
        self._either.register(self._watches.fd, select.EPOLLIN)
        self.mode, self.reason = "inotify", ""
        shared = [kind for kind in (shared_type(p, self._mounts()) for p in paths) if kind]
        if shared:
            self.distrust(f"{shared[0]} does not tell what others write")

    @property
    def watches(self) -> bool:
        """Whether any event can come."""
        return self._watches is not None

    def distrust(self, reason: str) -> None:
        """Say that events are not enough here, and why; those that come still wake."""
        self.mode, self.reason = "poll", reason

    def wait(self, timeout_s: float) -> Hints:
        """Return what changed since the last call, at the latest after `timeout_s`."""
        events = self._either.poll(timeout_s)
        if any(fd == self._woken for fd, _ in events):
            os.eventfd_read(self._woken)
        if self._watches is None or not any(fd == self._watches.fd for fd, _ in events):
            return Hints()
        try:
            return self._watches.read()
        except OSError as error:  # the watch limit, reached by a new folder
            self._let_go()
            self.distrust(str(error))
            return Hints()

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
