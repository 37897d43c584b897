"""Linux inotify without a thread: folders and everything below them, read by whoever waits.

Each thread between the kernel and the loop costs a turn of the interpreter's lock; a queue of them made a line visible
tens of milliseconds later and kept an idle daemon awake.
"""

from __future__ import annotations

import contextlib
import ctypes
import errno
import os
import struct
from collections.abc import Iterator, Sequence
from typing import NamedTuple

_MODIFY, _MOVED_FROM, _MOVED_TO, _CREATE, _DELETE = 0x2, 0x40, 0x80, 0x100, 0x200
_ONLYDIR, _DONT_FOLLOW, _EXCL_UNLINK = 0x01000000, 0x02000000, 0x04000000
_OVERFLOW, _IGNORED, _ISDIR = 0x4000, 0x8000, 0x40000000
_MASK = _MODIFY | _MOVED_FROM | _MOVED_TO | _CREATE | _DELETE
_MASK |= _ONLYDIR | _DONT_FOLLOW | _EXCL_UNLINK
_HEAD = struct.Struct("iIII")
_BUFFER = 1 << 16
_WENT = (errno.ENOENT, errno.ENOTDIR, errno.EACCES)  # between the listing and the look


class _Event(NamedTuple):
    watch: int
    mask: int
    name: str


class Watches:
    """One inotify instance. `fd` is readable when something happened; raises OSError where it does not work."""

    def __init__(self, folders: Sequence[str]) -> None:
        """Watch folders, which are no links, and all below them."""
        self._libc = ctypes.CDLL(None, use_errno=True)
        self.fd = self._checked(self._libc.inotify_init1(os.O_NONBLOCK | os.O_CLOEXEC), "inotify")
        self._folders = folders
        self._paths: dict[int, str] = {}
        try:
            for folder in folders:
                self._add(folder)
                list(self._watched_below(folder))
        except OSError:
            self.close()
            raise

    def close(self) -> None:
        """Stop watching."""
        os.close(self.fd)

    def read(self) -> set[str]:
        """Return the paths that changed since the last call. Raises OSError when no more can be watched."""
        named: set[str] = set()
        while data := self._data():
            for event in _events(data):
                named |= self._taken(event)
        return named

    def _data(self) -> bytes:
        with contextlib.suppress(BlockingIOError):
            return os.read(self.fd, _BUFFER)
        return b""

    def _taken(self, event: _Event) -> set[str]:
        if event.mask & _OVERFLOW:  # folders that came meanwhile; their files are left to the sweep
            return {p for folder in self._folders for p in self._watched_below(folder)}
        if event.mask & _IGNORED:
            self._paths.pop(event.watch, None)
            return set()
        folder = self._paths.get(event.watch)
        if folder is None:
            return set()
        path = f"{folder}/{event.name}" if event.name else folder
        if event.mask & _ISDIR and event.mask & (_CREATE | _MOVED_TO):
            with _gone_is_fine():
                self._add(path)
                return {path, *self._watched_below(path)}  # files may have come before the watch
        return {path}

    def _watched_below(self, folder: str) -> Iterator[str]:
        """Watch the folders below one; yield the files that are there."""
        folders = [folder]
        while folders:
            with _gone_is_fine():
                for entry in os.scandir(folders.pop()):
                    if not entry.is_dir(follow_symlinks=False):
                        yield entry.path
                        continue
                    with _gone_is_fine():
                        self._add(entry.path)
                        folders.append(entry.path)

    def _add(self, folder: str) -> None:
        found = self._libc.inotify_add_watch(self.fd, os.fsencode(folder), _MASK)
        self._paths[self._checked(found, folder)] = folder

    def _checked(self, result: int, what: str) -> int:
        if result < 0:
            number = ctypes.get_errno()
            raise OSError(number, os.strerror(number), what)
        return result


@contextlib.contextmanager
def _gone_is_fine() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _WENT:
            raise


def _events(data: bytes) -> Iterator[_Event]:
    at = 0
    while at < len(data):
        watch, mask, _cookie, size = _HEAD.unpack_from(data, at)
        at += _HEAD.size + size
        yield _Event(watch, mask, os.fsdecode(data[at - size : at].rstrip(b"\0")))
