"""A tailer as watchdog's documentation shows it: a handler that reads what was appended. It matches nothing."""

from __future__ import annotations

import sys
import threading
from pathlib import Path

from watchdog.events import FileModifiedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from tests.bench.crowd import hold_many_files


class Reader(FileSystemEventHandler):
    """Reads each file from where it was read last."""

    def __init__(self, folder: Path) -> None:
        paths = [str(p) for p in folder.rglob("*") if p.is_file()]
        self._files = {path: open(path, "rb") for path in paths}  # noqa: SIM115 - held while it lives
        for stream in self._files.values():
            stream.seek(0, 2)

    def on_modified(self, event: FileSystemEvent) -> None:
        """Read on."""
        if isinstance(event, FileModifiedEvent) and (found := self._files.get(str(event.src_path))):
            found.read()


if __name__ == "__main__":
    hold_many_files()
    observer = Observer()
    observer.schedule(Reader(Path(sys.argv[1])), sys.argv[1], recursive=True)
    observer.start()
    print("ready", flush=True)
    threading.Event().wait()
