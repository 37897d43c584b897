"""Which files there are: those that are read now, those that rest, and what a path means.

A file is a number of its own, made of device and inode; a path is a label. Sweeps look at every file, events name some;
both only say where to look, the file's own state and content decide.
"""

from __future__ import annotations

import os
import stat
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from heapq import heappush, heapreplace
from itertools import chain, islice
from pathlib import Path
from sys import intern

from raywatch.collect.followed import UNKNOWN, Followed
from raywatch.collect.identity import LONG
from raywatch.collect.resting import TURNS, Cursor, Rested, Resting, nearest
from raywatch.collect.sweep import walk
from raywatch.model import FileId, Source

Describe = Callable[[str], Source | None]


class Roster:
    """All files below some roots. `_due` are those to be read, in turn."""

    def __init__(
        self, roots: Sequence[Path], describe: Describe, cursors: Iterable[Cursor], max_open: int
    ) -> None:
        self._roots = [r.resolve() for r in roots]
        self._describe = describe
        self._max_open = max_open
        self._live: dict[int, Followed] = {}
        self._paths: dict[str, Followed] = {}
        self._rest = Resting(cursors)
        self._due: dict[int, Followed] = {}
        self._behind: set[int] = set()  # with history that is not committed
        self._moved: dict[
            int, None
        ] = {}  # cursors to be written together with what their lines did
        self._passed: deque[int] = deque()  # the same of lines that did nothing
        self._ignored: dict[int, str] = {}
        self._ignored_now: dict[int, str] = {}
        self._opened: deque[Followed] = deque()
        self._glimpsed: deque[Followed] = deque()  # open too, but nothing was said to grow
        self._held = 0
        self._gone: list[FileId] = []
        self._sweep: Iterator[None] | None = None
        self._turn = 0
        self._now = 0.0
        self.untold: dict[str, float] | None = None  # growth that a sweep saw before any event

    def close(self) -> None:
        """Let go of all descriptors."""
        self._sweep = None
        for file in self._live.values():
            self._shut(file)
        self._opened.clear()
        self._glimpsed.clear()

    def set_roots(self, roots: Sequence[Path]) -> None:
        """Follow other folders from now on; files of the old ones are drained and forgotten."""
        self._roots = [r.resolve() for r in roots]
        self._sweep = None

    def files(self) -> int:
        """How many files are followed."""
        return len(self._live) + len(self._rest)

    def caught_up(self) -> bool:
        """Say whether all that was there when its file was met is committed; new lines may come all the time."""
        return not self._behind

    def is_sweeping(self) -> bool:
        """Say whether a sweep is under way."""
        return self._sweep is not None

    def cursors(self, passed: int | None = None) -> list[Cursor]:
        """Return the cursors that moved since they were last returned.

        All of those whose lines had a hit: they belong to what it did. Of the others at most `passed`: whoever loses
        one reads lines again that do nothing.
        """
        keys, self._moved = self._moved, {}
        for _ in range(len(self._passed) if passed is None else min(passed, len(self._passed))):
            key = self._passed.popleft()
            keys[key] = None
            file = self._live.get(key)
            if file is not None:
                file.unsaved = False
        found = map(self._cursor, keys)
        return [c for c in found if c is not None]

    def _cursor(self, key: int) -> Cursor | None:
        file = self._live.get(key)
        return file.cursor() if file is not None else self._rest.cursor(key)

    def gone(self) -> list[FileId]:
        """Return the files that were forgotten since the last call."""
        gone, self._gone = self._gone, []
        return gone

    # --- sweeps ---

    def begin_sweep(self, *, doubting: bool = False, newest: int = 0) -> None:
        """Look at every file, some at each poll: a thousand at once would hold up what is being written.

        `doubting`: growth that no event told is noted in `untold`. `newest`: so many that changed last come first.
        """
        if self._sweep is None:
            self._turn = (self._turn + 1) % TURNS
            self._sweep = chain(self._newest(newest), self._swept())
            self.untold = (self.untold or {}) if doubting else None

    def end_sweep(self) -> None:
        """Give a sweep up: the next one begins at the beginning."""
        self._sweep = None

    def _go_on(self, steps: int | None) -> None:
        """Let the sweep look at so many files."""
        taken = deque(islice(self._sweep or (), steps), maxlen=0 if steps is None else steps)
        if steps is None or len(taken) < steps:
            self._sweep = None

    def _newest(self, count: int) -> Iterator[None]:
        """Read what changed last: of two hundred thousand files that is where the failure is."""
        newest: list[tuple[int, str]] = []
        for root in self._roots if count else ():
            for path, found in walk(str(root), {}):
                if len(newest) < count:
                    heappush(newest, (found.st_mtime_ns, path))
                elif found.st_mtime_ns > newest[0][0]:
                    heapreplace(newest, (found.st_mtime_ns, path))
                yield
        for _, path in sorted(newest, reverse=True):
            self._named(path)
            yield

    def _swept(self) -> Iterator[None]:
        listed: dict[str, bool] = {}
        for root in self._roots:
            for path, found in walk(str(root), listed):
                self._meet(path, found)
                yield
        for file in [f for f in self._live.values() if f.turn != self._turn]:
            self._miss(file, listed)
            yield
        for key in self._rest.absent(self._turn, listed):
            if key is not None:
                self._drop(key)
            yield
        self._ignored, self._ignored_now = self._ignored_now, {}

    def _miss(self, file: Followed, listed: Mapping[str, bool]) -> None:
        """A file was not in the listing: it is deleted, or was just being moved."""
        if file.turn == self._turn or self._live.get(file.key) is not file:
            return  # it came, or rests, since the listing ended
        if file.fd >= 0:
            file.unlinked = not os.fstat(file.fd).st_nlink
            if file.unlinked:
                self._due[file.key] = file
            return
        file.missed += 1
        above = os.path.dirname(file.path)  # noqa: PTH120 - strings all the way
        if file.missed > 1 and nearest(above, listed) is not False:
            self._forget(file)  # a rename between the listing and the look is missed once only

    # --- what a path means ---

    def _named(self, path: str) -> None:
        """An event named a path: what it means may have changed, and what it holds."""
        try:
            found = os.lstat(path)
        except OSError:
            self._bare(path)
            return
        if stat.S_ISREG(found.st_mode):
            file = self._meet(path, found, named=True)
            if file is not None:
                file.used = True
                self._due[file.key] = file

    def _bare(self, path: str) -> None:
        """A path means another file now, or none: what it meant is read to its end, then its links are counted."""
        file = self._paths.pop(path, None)
        if file is not None:
            file.suspect = True
            self._due[file.key] = file

    def _meet(self, path: str, found: os.stat_result, *, named: bool = False) -> Followed | None:
        """Look at a file; whatever changed makes it due. None where it rests on, or is nothing to follow."""
        key = self._rest.key(found.st_dev, found.st_ino)
        looked = found.st_size, found.st_mtime_ns
        file = self._live.get(key)
        if file is None:
            if not named and self._rest.keeps(key, path, *looked, self._turn):
                return None
            file = self._begin(key, path, found)
            if file is None:
                return None
        if not named and self.untold is not None:
            self._doubt(file, path, found.st_size)
        if self._paths.get(path) is not file:
            was = file.path
            self._label(file, path)
            if was != path and file.fd < 0 and not file.offset and not self._described_anew(file):
                return None  # nothing was read of it: no content can tell whether it is the same
        file.turn, file.missed, file.unlinked, file.size = self._turn, 0, False, found.st_size
        # A sweep of thousands of quiet files must not read them all.
        if file.looked != looked:
            file.looked = looked
            self._due[key] = file
        elif file.fd < 0:
            self._settle(file)
        return file

    def _doubt(self, file: Followed, path: str, size: int) -> None:
        """Note growth that nobody told yet; its event may be under way."""
        if (
            size > max(file.end, file.offset)
            and file.key not in self._due
            and self.untold is not None
        ):
            self.untold.setdefault(path, self._now)

    def _save(self, file: Followed) -> None:
        """Have its cursor written some time."""
        if not file.unsaved:
            file.unsaved = True
            self._passed.append(file.key)

    def _label(self, file: Followed, path: str) -> None:
        path = intern(path)  # as inotify names it
        self._bare(path)
        if file.path != path:
            if self._paths.get(file.path) is file:
                del self._paths[file.path]
            file.path = path
            self._save(file)
        self._paths[path] = file

    def _begin(self, key: int, path: str, found: os.stat_result) -> Followed | None:
        """Follow a file that rests, that is stored, or that is new; None for what is no log or empty."""
        rested = self._rest.pop(key)
        if rested is None and self._ignored.get(key) == path:
            self._ignored_now[key] = path
            return None
        if rested is None and not found.st_size:  # most streams of workers stay empty
            return None
        source = self._describe(path)
        if source is None:
            self._ignored[key] = self._ignored_now[key] = path
            if rested is not None:
                self._drop(key)
            return None
        file = Followed(self._rest.file(key), key, intern(path), source, grown_at=self._now)
        self._live[key] = file
        self._label(file, path)
        if rested is not None:
            self._restore(file, rested)
        if (rested is None or rested.unmet) and found.st_size > file.offset:
            file.history = found.st_size
            self._behind.add(key)
        return file

    def _restore(self, file: Followed, rested: Rested) -> None:
        cursor = rested.cursor
        file.offset = file.end = cursor.offset
        file.line, file.skipping = cursor.line, cursor.skipping
        file.stretch, file.crc = cursor.stretch, cursor.crc
        file.told, file.told_crc = cursor.told, cursor.told_crc
        file.looked = UNKNOWN if rested.unmet else (cursor.offset, rested.changed_ns)
        if cursor.path != file.path:
            self._save(file)

    def _described_anew(self, file: Followed) -> bool:
        """Take the description of the path that it has now: another file got its number; False for what is no log."""
        source = self._describe(file.path)
        if source is None:
            self._forget(file)
            self._ignored[file.key] = self._ignored_now[file.key] = file.path
            return False
        file.source = source
        return True

    def _forget(self, file: Followed) -> None:
        self._shut(file)
        self._leave(file)
        self._drop(file.key)

    def _leave(self, file: Followed) -> None:
        self._live.pop(file.key, None)
        self._due.pop(file.key, None)
        if self._paths.get(file.path) is file:
            del self._paths[file.path]

    def _drop(self, key: int) -> None:
        self._behind.discard(key)
        self._moved.pop(key, None)
        self._gone.append(self._rest.file(key))

    # --- descriptors ---

    def _open(self, file: Followed) -> bool:
        """Have it open and proved; False where it cannot be read now."""
        if file.fd >= 0:
            return file.stretch <= LONG or self._prove(file)
        self._spare(self._max_open - 1)
        try:
            fd = os.open(file.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return self._not_opened(file)
        found = os.fstat(fd)
        if (found.st_dev, found.st_ino) != file.id:
            os.close(fd)
            return self._not_opened(file)
        file.fd = fd
        self._held += 1
        if not self._prove(file):
            self._shut(file)
            return self._not_opened(file)
        (self._opened if file.used else self._glimpsed).append(file)
        return True

    def _prove(self, file: Followed) -> bool:
        """Begin a file anew that is another now; False where the disk fails."""
        try:
            if not file.prove():
                self._begin_anew(file)
        except OSError:
            return False
        return True

    def _begin_anew(self, file: Followed) -> None:
        file.begin_anew()
        self._save(file)
        self._behind.discard(file.key)

    def _not_opened(self, file: Followed) -> bool:
        """Its path means another file now, or nothing; or there are no descriptors left. The next sweep tries again."""
        file.looked, file.suspect, file.history = UNKNOWN, False, 0
        self._behind.discard(file.key)
        if file.unlinked:
            self._forget(file)
        return False

    def _shut(self, file: Followed) -> None:
        if file.fd >= 0:
            os.close(file.fd)
            file.fd = -1
            self._held -= 1

    def _spare(self, most: int) -> None:
        """Close descriptors until `most` are open: first of what was only looked into once, most of a big session.

        Opening a file again is safe, because the end of what was read proves it.
        """
        while self._glimpsed and (self._held > most or len(self._glimpsed) > self._max_open // 8):
            file = self._glimpsed.popleft()
            if not self._shut_quiet(file) and file.fd >= 0:
                self._opened.append(file)
        tries = 2 * len(self._opened)
        while self._opened and self._held > most and tries:
            file, tries = self._opened.popleft(), tries - 1
            if not self._shut_quiet(file) and file.fd >= 0:
                self._opened.append(file)

    def _shut_quiet(self, file: Followed) -> bool:
        """Close a file unless it was used since this was last asked, or would be lost."""
        used, file.used = file.used, False
        if file.fd < 0 or used or file.unlinked or file.suspect or not self._is_proved(file):
            return False
        self._shut(file)
        self._settle(file)
        return True

    def _is_proved(self, file: Followed) -> bool:
        """Look at a quiet file once more before it rests; False where it is to be read first."""
        if file.looked[0] == file.offset or not self._is_quiet(file):
            return True
        found = os.fstat(file.fd)
        if found.st_size != file.offset or not self._prove(file) or file.rewritten:
            self._due[file.key] = file
            return False
        file.looked = found.st_size, found.st_mtime_ns
        return True

    def _is_quiet(self, file: Followed) -> bool:
        odd = file.wake_at or file.held or file.unlinked or file.suspect or file.told
        return not odd and file.end == file.offset and file.key not in self._due

    def _settle(self, file: Followed) -> None:
        """Lay a file to rest that has no descriptor and nothing more to say."""
        if file.fd >= 0 or not self._is_quiet(file):
            return
        changed_ns = file.looked[1] if file.looked[0] == file.offset else -1
        self._leave(file)
        self._rest.put(file.key, file.cursor(), changed_ns, file.turn)
