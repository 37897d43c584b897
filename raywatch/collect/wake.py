"""inotify wakes, files decide: which paths may have changed since the last look.

Events only wake the loop and name files; a lost event costs latency and never data, because a sweep comes every two
seconds. Where inotify does not work the sweep alone is left, and `mode` says so.
"""

from __future__ import annotations

import threading
from collections.abc import Sequence
from pathlib import Path

from watchdog.events import FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer


class _Marks(FileSystemEventHandler):
    def __init__(self) -> None:
        self.lock = threading.Lock()
        self.dirty: set[str] = set()
        self.woken = threading.Event()

    def on_any_event(self, event: FileSystemEvent) -> None:
        if event.event_type in ("opened", "closed_no_write"):
            return  # our own reads
        with self.lock:
            for path in (event.src_path, event.dest_path):
                if path:
                    self.dirty.add(
                        path if isinstance(path, str) else path.decode(errors="surrogateescape")
                    )
        self.woken.set()


class Waker:
    """Watches folders and everything below them."""

    def __init__(self) -> None:
        self._marks = _Marks()
        self._observer = Observer()
        self._observer.daemon = True
        self._started = False
        self.mode = "poll"
        self.reason = "nothing is watched yet"

    def watch(self, folders: Sequence[Path]) -> None:
        """Watch these folders instead of the ones before. Links are resolved: a watched link gives no events."""
        self._observer.unschedule_all()
        try:
            for folder in folders:
                self._observer.schedule(self._marks, str(folder.resolve()), recursive=True)
            if not self._started:
                self._observer.start()
                self._started = True
        except OSError as error:  # watch limits, network file systems, folders that just went
            self.mode, self.reason = "poll", str(error)
            return
        self.mode, self.reason = "inotify", ""

    def wait(self, timeout_s: float) -> set[str]:
        """Return the paths named since the last call, at the latest after `timeout_s`."""
        self._marks.woken.wait(timeout_s)
        with self._marks.lock:
            self._marks.woken.clear()
            dirty, self._marks.dirty = self._marks.dirty, set()
        return dirty

    def wake(self) -> None:
        """End a wait at once, from any thread."""
        self._marks.woken.set()

    def close(self) -> None:
        """Stop watching."""
        if self._started:
            self._observer.stop()
            self._observer.join(5)
