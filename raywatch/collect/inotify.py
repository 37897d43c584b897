"""watchdog's inotify descriptor without its threads: folders and everything below them, read by whoever waits.

Each thread between the kernel and the loop costs a turn of the interpreter's lock: the stock observer has three, which
made a line visible tens of milliseconds later and kept an idle daemon awake (reference/performance.md 3.1).
What this uses of watchdog's inside exists from 7.1 on (tests/shell/test_wake.py is its canary); where it does not,
importing this module fails and collect/wake.py takes the stock observer.
"""

from __future__ import annotations

import contextlib
import errno
import os
from collections.abc import Iterator, Sequence

from watchdog.observers.inotify_c import InotifyConstants, InotifyFD, inotify_add_watch

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
_NEW_FOLDER = InotifyConstants.IN_CREATE | InotifyConstants.IN_MOVED_TO
_BUFFER = 1 << 16
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
        try:
            for folder in folders:
                self._add(folder)
                list(self._watched_below(folder))
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

    def read(self) -> set[str]:
        """Return the paths that changed since the last call. Raises OSError when no more can be watched."""
        named: set[str] = set()
        while data := self._data():
            for watch, mask, _cookie, name in self._parse_event_buffer(data):
                named |= self._taken(watch, mask, os.fsdecode(name))
        return named

    def _data(self) -> bytes:
        with contextlib.suppress(BlockingIOError):
            return os.read(self.fd, _BUFFER)
        return b""

    def _taken(self, watch: int, mask: int, name: str) -> set[str]:
        if mask & InotifyConstants.IN_Q_OVERFLOW:
            # Folders may have come meanwhile; what was written is left to the sweep.
            return {p for folder in self._folders for p in self._watched_below(folder)}
        if mask & InotifyConstants.IN_IGNORED:
            self._paths.pop(watch, None)
            return set()
        folder = self._paths.get(watch)
        if folder is None:
            return set()
        path = f"{folder}/{name}" if name else folder
        if mask & InotifyConstants.IN_ISDIR and mask & _NEW_FOLDER:
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
        watch = inotify_add_watch(self.fd, os.fsencode(folder), _MASK)
        if watch < 0:
            self._raise_error()  # silent for EACCES: what may not be read is not watched
            return
        self._paths[watch] = folder


@contextlib.contextmanager
def _gone_is_fine() -> Iterator[None]:
    try:
        yield
    except OSError as error:
        if error.errno not in _WENT:
            raise
