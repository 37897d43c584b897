"""Followed files -> chunks of whole lines.

A file is (device, inode) while it is held open; its path is a label, so a rename is a non-event. Every read overlaps
the last bytes that were read: if they differ, it is another file and is read from its start. A cursor stands behind a
newline; what is not committed comes again.
"""

from __future__ import annotations

import contextlib
import os
import stat
from collections import Counter, deque
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from types import TracebackType

from raywatch.model import Chunk, FileId, Source

ANCHOR = 64  # bytes that each read overlaps
SLICE = 64  # files that one turn of a sweep looks at
Describe = Callable[[str], Source | None]


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a file was read: `offset` bytes, `line` lines, and the bytes just before."""

    file: FileId
    path: str
    offset: int
    line: int
    anchor: bytes
    skipping: bool = False
    told: int = 0  # the last line that was reported before its record was whole


@dataclass(slots=True)
class _File:
    id: FileId
    path: str
    source: Source
    offset: int = 0
    line: int = 0
    anchor: bytes = b""
    skipping: bool = False  # inside a line that was cut
    told: int = 0
    fd: int = -1
    end: int = -1  # where the file ended when it was last read
    grown_at: float = 0.0
    pending: bool = True  # has bytes that no event will announce
    unlinked: bool = False
    changed: bool = False  # since cursors() was asked
    missed: int = 0  # sweeps in a row that did not find it
    size: int = field(default=0)
    history: int = 0  # bytes that were there when it was met first
    looked: tuple[int, int] = (-1, -1)  # size and time of change when it was last read


class Tailer:
    """Follows every log below its roots. Reads only when asked; never raises for what a file holds."""

    def __init__(
        self,
        roots: Sequence[Path],
        describe: Describe,
        cursors: Iterable[Cursor] = (),
        *,
        max_line: int = 1 << 20,
        linger_s: float = 2.0,
        quiet_s: float = 0.005,
        text_quiet_s: float = 0.25,
        max_open: int = 2048,
    ) -> None:
        """`quiet_s`: a file that did not grow for so long has ended its record (`text_quiet_s`: plain output)."""
        self._roots = [r.resolve() for r in roots]
        self._describe = describe
        self._saved = {c.file: c for c in cursors}
        self._max_line, self._linger_s, self._max_open = max_line, linger_s, max_open
        self._quiet_s, self._text_quiet_s = quiet_s, text_quiet_s
        self._files: dict[FileId, _File] = {}
        self._ignored: dict[FileId, str] = {}
        self._gone: list[FileId] = []
        self._sweep: Iterator[None] | None = None
        self._absent: set[FileId] = set()
        self._start = self._held = 0
        self.read_bytes: Counter[str] = Counter()

    def __enter__(self) -> Tailer:  # noqa: PYI034 - typing.Self is 3.11
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Let go of all descriptors."""
        for file in self._files.values():
            self._shut(file)

    def set_roots(self, roots: Sequence[Path]) -> None:
        """Follow other folders from now on; files of the old ones are drained and forgotten."""
        self._roots = [r.resolve() for r in roots]
        self._sweep = None

    def files(self) -> int:
        """How many files are followed."""
        return len(self._files)

    def busy(self) -> bool:
        """Say whether a sweep is under way or bytes wait that no event will announce."""
        return self._sweep is not None or any(f.pending for f in self._files.values())

    def caught_up(self) -> bool:
        """Say whether all that was there when its file was met is committed; new lines may come all the time."""
        return all(f.offset >= f.history for f in self._files.values())

    def lag_bytes(self) -> int:
        """How many bytes were there at the last look and are not committed."""
        return sum(max(0, f.size - f.offset) for f in self._files.values())

    def cursors(self) -> list[Cursor]:
        """Return the cursors that moved since the last call."""
        moved = [f for f in self._files.values() if f.changed]
        for file in moved:
            file.changed = False
        return [Cursor(f.id, f.path, f.offset, f.line, f.anchor, f.skipping, f.told) for f in moved]

    def gone(self) -> list[FileId]:
        """Return the files that were forgotten since the last call."""
        gone, self._gone = self._gone, []
        return gone

    def poll(
        self,
        now: float,
        *,
        dirty: Collection[str] | None = None,
        budget: int = 8 << 20,
        share: int = 1 << 20,
    ) -> list[Chunk]:
        """Return what is new: at most `share` bytes a file and about `budget` in all, every file in turn.

        `dirty` names the paths that may have changed; None looks at everything, at once.
        """
        if dirty is None:
            self._sweep = self._swept(now)
            self._go_on()
        elif self._sweep is not None:
            self._go_on(SLICE)
        for file in map(self._known, dirty or ()):
            if file is not None:
                file.pending = True
        due = [f for f in self._files.values() if f.pending]
        self._start = (self._start + 1) % (len(due) or 1)
        chunks: list[Chunk] = []
        for file in due[self._start :] + due[: self._start]:
            if budget <= 0:
                file.pending = True
                continue
            chunk = self._read(file, now, max(share, self._max_line + 1))
            if chunk is not None:
                chunks.append(chunk)
                budget -= len(chunk.data)
        self._shut_idle()
        return chunks

    def commit(self, chunk: Chunk, upto: int, *, told: int = 0) -> None:
        """Move the file's cursor to `upto`, an offset inside the chunk; what is behind it comes again.

        `told`: the last line behind it that was reported already.
        """
        file = self._files.get(chunk.file)
        if file is None or file.offset != chunk.offset:
            return
        self._advance(file, chunk.data[: upto - chunk.offset])
        self.read_bytes[chunk.source.component] += upto - chunk.offset
        file.skipping, file.told = chunk.cut and upto == chunk.end, told
        file.pending = True

    def _advance(self, file: _File, data: bytes) -> None:
        file.offset += len(data)
        file.line += data.count(b"\n")
        file.anchor = (file.anchor + data)[-ANCHOR:]
        file.changed = True

    # --- which files there are ---

    def begin_sweep(self, now: float) -> None:
        """Look at every file, some at each poll: a thousand at once would hold up what is being written."""
        if self._sweep is None:
            self._sweep = self._swept(now)

    def _go_on(self, steps: int | None = None) -> None:
        """Let the sweep look at so many files."""
        taken = deque(islice(self._sweep or (), steps), maxlen=0 if steps is None else steps)
        if steps is None or len(taken) < steps:
            self._sweep = None

    def _swept(self, now: float) -> Iterator[None]:
        seen: set[FileId] = set()
        listed: dict[str, bool] = {}
        for root in self._roots:
            for path, found in _walk(str(root), listed):
                seen.add(FileId(found.st_dev, found.st_ino))
                self._meet(path, found, now)
                yield
        for file in [f for f in self._files.values() if f.id not in seen]:
            self._miss(file)
        self._drop_absent(seen, listed)
        self._ignored = {k: v for k, v in self._ignored.items() if k in seen}

    def _drop_absent(self, seen: set[FileId], listed: Mapping[str, bool]) -> None:
        """Forget saved cursors of files that are gone from folders that could be read, in two sweeps in a row."""
        absent = {i for i, c in self._saved.items() if i not in seen and _was_below(c.path, listed)}
        for number in absent & self._absent:
            del self._saved[number]
            self._gone.append(number)
        self._absent = absent

    def _miss(self, file: _File) -> None:
        """A file was not in the listing: it is deleted, or was just being moved."""
        if file.fd >= 0:
            file.unlinked = not os.fstat(file.fd).st_nlink
            file.pending = file.pending or file.unlinked
            return
        file.missed += 1
        if file.missed > 1:  # a rename between the listing and the look is missed once only
            self._forget(file)

    def _known(self, path: str) -> _File | None:
        try:
            found = os.lstat(path)
        except OSError:
            return None
        return self._meet(path, found, 0.0) if stat.S_ISREG(found.st_mode) else None

    def _meet(self, path: str, found: os.stat_result, now: float) -> _File | None:
        number = FileId(found.st_dev, found.st_ino)
        file = self._files.get(number)
        if file is None:
            if self._ignored.get(number) == path:
                return None
            if not found.st_size:  # most streams of workers stay empty
                return None
            source = self._describe(path)
            if source is None:
                self._ignored[number] = path
                return None
            file = self._files[number] = self._restored(number, path, source, now)
            file.history = found.st_size
        if file.path != path:
            file.path, file.changed = path, True
            if file.fd < 0 and not file.anchor and not self._described_anew(file):
                return None  # nothing was read of it: no content can tell whether it is the same
        file.missed, file.unlinked, file.size = 0, False, found.st_size
        # A sweep of thousands of quiet files must not read them all.
        if file.looked != (found.st_size, found.st_mtime_ns):
            file.pending = True
        return file

    def _restored(self, number: FileId, path: str, source: Source, now: float) -> _File:
        file = _File(number, path, source, grown_at=now)
        saved = self._saved.pop(number, None)
        if saved is not None:
            file.offset, file.line, file.told = saved.offset, saved.line, saved.told
            file.anchor, file.skipping = saved.anchor, saved.skipping
        return file

    def _described_anew(self, file: _File) -> bool:
        """Take the description of the path that it has now: another file got its number; False for what is no log."""
        source = self._describe(file.path)
        if source is None:
            self._forget(file)
            self._ignored[file.id] = file.path
            return False
        file.source = source
        return True

    def _forget(self, file: _File) -> None:
        self._shut(file)
        self._files.pop(file.id, None)
        self._gone.append(file.id)

    # --- reading ---

    def _open(self, file: _File) -> bool:
        if file.fd >= 0:
            return True
        try:
            fd = os.open(file.path, os.O_RDONLY | os.O_NONBLOCK | os.O_NOFOLLOW | os.O_CLOEXEC)
        except OSError:
            return False
        found = os.fstat(fd)
        if FileId(found.st_dev, found.st_ino) != file.id:
            os.close(fd)
            return False
        file.fd = fd
        self._held += 1
        return True

    def _shut(self, file: _File) -> None:
        if file.fd >= 0:
            os.close(file.fd)
            file.fd = -1
            self._held -= 1

    def _shut_idle(self) -> None:
        """Reopening is safe because the anchor proves the file again, so descriptors need no budget."""
        if self._held <= self._max_open:
            return
        held = [f for f in self._files.values() if f.fd >= 0]
        spare = [f for f in held if not f.pending and not f.unlinked]
        for file in spare[: max(0, len(held) - self._max_open)]:
            self._shut(file)

    def _read(self, file: _File, now: float, limit: int) -> Chunk | None:
        file.pending = False
        if not self._open(file):
            file.history = 0
            if file.unlinked:
                self._forget(file)
            return None
        before = os.fstat(file.fd)
        data, rewritten = self._bytes_behind(file, limit)
        if rewritten and not self._described_anew(file):
            return None
        file.looked = before.st_size, before.st_mtime_ns
        file.size = os.fstat(file.fd).st_size
        if file.skipping and data:
            data = self._skip(file, data)
        if not data:
            file.pending = file.skipping and file.offset < file.size
            if file.unlinked and file.offset >= file.size:
                self._forget(file)
            return None
        return self._chunk(file, data, now, rewritten=rewritten)

    def _bytes_behind(self, file: _File, limit: int) -> tuple[bytes, bool]:
        n = len(file.anchor)
        with contextlib.suppress(OSError):  # the disk's own trouble: nothing to read now
            data = os.pread(file.fd, n + limit, file.offset - n)
            if data[:n] == file.anchor:
                return data[n:], False
            # Truncated, refilled, rewritten while we were away: only content betrays it.
            file.offset = file.line = file.told = file.history = 0
            file.anchor, file.skipping, file.changed = b"", False, True
            return os.pread(file.fd, limit, 0), True
        return b"", False

    def _skip(self, file: _File, data: bytes) -> bytes:
        """Pass over the rest of a line that was cut."""
        end = data.find(b"\n") + 1
        self._advance(file, data[:end] if end else data)
        file.skipping = not end
        return data[end:] if end else b""

    def _chunk(self, file: _File, data: bytes, now: float, *, rewritten: bool) -> Chunk | None:
        end = file.offset + len(data)
        at_end = end >= file.size
        if end != file.end:
            file.end, file.grown_at = end, now
        idle = now - file.grown_at
        text = file.source.format == "text"
        quiet = at_end and (
            file.unlinked or idle >= (self._text_quiet_s if text else self._quiet_s)
        )
        whole = data.rfind(b"\n") + 1
        file.pending = True
        cut = not whole and len(data) > self._max_line
        if cut:
            data = data[: self._max_line]
        elif whole:
            quiet = quiet and whole == len(data)
            data = data[:whole]
        elif not (at_end and (file.unlinked or idle >= self._linger_s)):
            return None  # a line that is still being written
        return Chunk(
            file.source,
            file.id,
            file.offset,
            file.line + 1,
            data,
            now,
            quiet or not whole,
            cut,
            rewritten,
            still=at_end and idle >= self._quiet_s,
            told=file.told,
        )


def _was_below(path: str, listed: Mapping[str, bool]) -> bool:
    """Say whether the nearest folder above `path` that a sweep met could be read: then it would have been seen.

    Roots of other sessions, what is not mounted yet and what is unreadable were not met.
    """
    folder = os.path.dirname(path)  # noqa: PTH120 - strings all the way
    while folder not in listed:
        above = os.path.dirname(folder)  # noqa: PTH120
        if above == folder:
            return False
        folder = above
    return listed[folder]


def _walk(root: str, listed: dict[str, bool]) -> Iterator[tuple[str, os.stat_result]]:
    """Yield every regular file below a folder; what cannot be read is passed over. `listed`: which could be."""
    folders = [root]
    while folders:
        folder = folders.pop()
        try:
            entries = list(os.scandir(folder))
        except OSError:
            listed[folder] = False
            continue
        listed[folder] = True
        for entry in entries:
            with contextlib.suppress(OSError):  # gone between the listing and the look
                if entry.is_dir(follow_symlinks=False):
                    folders.append(entry.path)
                elif entry.is_file(follow_symlinks=False):
                    yield entry.path, entry.stat(follow_symlinks=False)
