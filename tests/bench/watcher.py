"""What others do: a tailer as watchdog's documentation shows it, and the least there is. They match nothing."""

from __future__ import annotations

import socket
import sys
import threading
from pathlib import Path

from watchdog.events import FileModifiedEvent, FileSystemEvent, FileSystemEventHandler
from watchdog.observers import Observer

from raywatch.collect.wake import Waker
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


def answer(folder: Path, port: int) -> None:
    """Send a byte to a port of this machine for each write: what the machine itself takes, without any work."""
    waker = Waker()
    waker.watch([folder])
    with socket.create_connection(("127.0.0.1", port)) as client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.sendall(b"r")
        while True:
            if waker.wait(60):
                client.sendall(b"x")


def watch(folder: Path) -> None:
    """Read what is written, until it is killed."""
    hold_many_files()
    observer = Observer()
    observer.schedule(Reader(folder), str(folder), recursive=True)
    observer.start()
    print("ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":  # FOLDER [PORT]
    if len(sys.argv) > 2:
        answer(Path(sys.argv[1]), int(sys.argv[2]))
    watch(Path(sys.argv[1]))
