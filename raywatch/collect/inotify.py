"""watchdog's inotify descriptor without its threads: folders and everything below them, read by whoever waits.

Each thread between the kernel and the loop costs a turn of the interpreter's lock: the stock observer has three, which
made a line visible tens of milliseconds later and kept an idle daemon awake (reference/performance.md 3.1). A write is
the event that comes by the thousand: it is taken from the raw buffer by one look-up.
What this uses of watchdog's inside exists from 7.1 on (tests/shell/test_wake.py is its canary); where it does not,
importing this module fails and collect/wake.py takes the stock observer.
"""

from __future__ import annotations

import contextlib
import errno
import os
import struct
from collections import deque
from collections.abc import Iterator, Sequence
from sys import intern

from watchdog.observers.inotify_c import InotifyConstants, InotifyFD, inotify_add_watch

from raywatch.collect.hints import Hints

_SEEN = (
    InotifyConstants.IN_MODIFY,
    InotifyConstants.IN_MOVED_FROM,
    InotifyConstants.IN_MOVED_TO,
    InotifyConstants.IN_CREATE,
    InotifyConstants.IN_DELETE,
    InotifyConstants.IN_ONLYDIR,
    InotifyConstants.IN_DONT_FOLLOW,
    InotifyConstants.IN_EXCL_UNLINK,
)
_MASK = sum(_SEEN)
_WRITE = int(InotifyConstants.IN_MODIFY)
_NEW_FOLDER = InotifyConstants.IN_CREATE | InotifyConstants.IN_MOVED_TO
_BUFFER = 1 << 16
_NAMES = 1 << 14  # that are remembered
_HEAD = struct.Struct(
    "iIII"
)  # inotify(7): watch, mask, cookie, length of the name with its padding
_LENGTH = struct.Struct("12xI")
_WENT = (errno.ENOENT, errno.ENOTDIR, errno.EACCES)  # between the listing and the look


class Watches(InotifyFD):
    """One inotify instance, whose thread is never started. `fd` is readable when something happened."""

    def __init__(self, folders: Sequence[str]) -> None:
        """Watch folders, which are no links, and all below them. Raises OSError where it does not work."""
        super().__init__()
        os.set_blocking(self.fd, False)
        os.set_inheritable(self.fd, False)
        self._folders = folders
        self._paths: dict[int, str] = {}
        self._names: dict[bytes, str] = {}  # the path of a write, by its whole event: all are alike
        try:
            for folder in folders:
                self._add(folder)
                deque(self._watched_below(folder), maxlen=0)
        except OSError:
            self.close()
            raise

    @property
    def fd(self) -> int:
        """The descriptor to wait for."""
        return int(self._inotify_fd)

    def close(self) -> None:
        """Stop watching."""
        self._close_resources()

    def read(self) -> Hints:
        """Return what changed since the last call. Raises OSError when no more can be watched."""
        hints = Hints()
        while data := self._data():
            self._parse(data, hints)
            if len(data) < _BUFFER // 2:
                break
        return hints

    def _data(self) -> bytes:
        with contextlib.suppress(BlockingIOError):
            return os.read(self.fd, _BUFFER)
        return b""

    def _parse(self, data: bytes, hints: Hints) -> None:
        at, end, head = 0, len(data), _HEAD.size
        length_of, known, written = _LENGTH.unpack_from, self._names.get, hints.written
        while at < end:
            (length,) = length_of(data, at)
            event = data[at : at + head + length]
            at += head + length
            path = known(event)
            if path is None:
                self._new(event, hints)
            else:
                written.add(path)

    def _new(self, event: bytes, hints: Hints) -> None:
        """Take an event that is no write, or is one of a name that was not written to lately."""
        watch, mask, _, _ = _HEAD.unpack_from(event)
        name = _text(event[_HEAD.size :])
        if mask != _WRITE:
            self._take(watch, mask, name, hints)
            return
        folder = self._paths.get(watch)
        if folder is not None:
            if len(self._names) >= _NAMES:
                self._names.clear()
            # The very object that the roster has as its label: a look-up then compares no text.
            path = self._names[event] = intern(f"{folder}/{name}")
            hints.written.add(path)

    def _take(self, watch: int, mask: int, name: str, hints: Hints) -> None:
        if mask & InotifyConstants.IN_Q_OVERFLOW:
            # Folders may have come meanwhile; what was written is left to the sweep.
            hints.lost = True
            self._names.clear()
            for root in self._folders:
                deque(self._watched_below(root), maxlen=0)
            return
        if mask & InotifyConstants.IN_IGNORED:
            self._paths.pop(watch, None)
            return
        folder = self._paths.get(watch)
        if folder is None:
            return
        path = f"{folder}/{name}" if name else folder
        hints.moved.add(path)
        if mask & InotifyConstants.IN_ISDIR:
            self._names.clear()  # of all below it
            if mask & _NEW_FOLDER:
                with _gone_is_fine():
                    self._add(path)
                    hints.moved.update(
                        self._watched_below(path)
                    )  # files may have come before the watch

    def _watched_below(self, folder: str) -> Iterator[str]:
        """Watch the folders below one; yield the files that are there."""
        folders = [folder]
        while folders:
            with _gone_is_fine(), os.scandir(folders.pop()) as entries:
                for entry in entries:
                    if not entry.is_dir(follow_symlinks=False):
                        yield entry.path
                        continue
                    with _gone_is_fine():
                        self._add(entry.path)
                        folders.append(entry.path)

    def _add(self, folder: str) -> None:
        watch = inotify_add_watch(self.fd, os.fsencode(folder), _MASK)
        if watch < 0:
            self._raise_error()  # silent for EACCES: what may not be read is not watched
            return
        self._paths[watch] = folder


def _text(name: bytes) -> str:
    return os.fsdecode(name.rstrip(b"\0"))


@contextlib.contextmanager
def _gone_is_fine() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _WENT:
            raise
