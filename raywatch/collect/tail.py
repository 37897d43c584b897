"""Followed files -> chunks of whole lines.

A file is (device, inode) while it is held open; its path is a label, so a rename is a non-event. Every read overlaps
the last bytes that were read, and more is looked at when it is opened (see identity): if they differ, it is another
file and is read from its start. A cursor stands behind a newline; what is not committed comes again.

Whatever a poll does, it does for files that changed, never for all there are: those to be read stand in a queue, those
whose line or record is open have a timer, the others rest.
"""

from __future__ import annotations

import contextlib
import os
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from heapq import heappop, heappush
from pathlib import Path
from types import TracebackType
from zlib import crc32

from raywatch.collect.batch import Batch, Match, Piece
from raywatch.collect.followed import Followed
from raywatch.collect.identity import ANCHOR, LONG, STRETCH, extended
from raywatch.collect.resting import Cursor
from raywatch.collect.roster import Describe, Roster
from raywatch.model import Chunk

__all__ = ["BACKLOG", "SLICE", "Cursor", "Followed", "Tailer"]

SLICE = 64  # files that one turn of a sweep looks at
BACKLOG = 4096  # files to be read beyond which a sweep waits: each of them is an object
SOON_S = 0.0005


class Tailer(Roster):
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
        super().__init__(roots, describe, cursors, max_open)
        self._max_line, self._linger_s = max_line, linger_s
        self._quiet_s, self._text_quiet_s = quiet_s, text_quiet_s
        self._waits = sorted((quiet_s, text_quiet_s, linger_s))
        self._timers: list[tuple[float, int]] = []
        self._batch: Batch[Followed] = Batch(0)
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

    def busy(self) -> bool:
        """Say whether files wait that can be read now."""
        return bool(self._due)

    def next_at(self) -> float | None:
        """Return when the next line or record that is open may have ended; None where none is."""
        while self._timers and not self._rings(*self._timers[0]):
            heappop(self._timers)
        return self._timers[0][0] if self._timers else None

    def lag_bytes(self) -> int:
        """How many bytes were there at the last look and are not committed."""
        waiting = {key: self._live[key] for at, key in self._timers if self._rings(at, key)}
        late = {**waiting, **self._due}.values()
        return sum(max(0, f.size - f.offset) for f in late)

    def poll(
        self,
        now: float,
        *,
        dirty: Collection[str] | None = None,
        written: Collection[str] = (),
        budget: int = 8 << 20,
        share: int = 1 << 20,
        match: Match | None = None,
        look: int = SLICE,
    ) -> list[Chunk]:
        """Return what is new: at most `share` bytes a file and about `budget` in all, every file in turn.

        `dirty` names the paths that may have changed in any way; None looks at everything, at once. `written` names
        those that only grew. `look`: so many files may the sweep look at that is under way.

        With `match`, lines in which it finds nothing are committed at once and not returned; the others come with
        their `hits`.
        """
        self._ring(
            now, every=dirty is None or now < self._now
        )  # earlier than before: the clock was set back
        self._now = now
        if dirty is None:
            self._sweep = None
            self.begin_sweep()
            self._go_on(None)
        self._hear(dirty or (), written)
        if self._sweep is not None and len(self._due) < BACKLOG:
            self._go_on(look)
        chunks = self._gather(now, budget, max(share, self._max_line + 1), match)
        self._spare(self._max_open)
        return chunks

    def recheck(self, since: float) -> None:
        """Look into every file that grew since then: where events cannot be trusted."""
        for key, file in self._live.items():
            if file.grown_at >= since:
                file.used = True
                self._due[key] = file

    def commit(self, chunk: Chunk, upto: int, *, told: int = 0) -> None:
        """Move the file's cursor to `upto`, an offset inside the chunk; what is behind it comes again.

        `told`: the last line behind it that was reported already.
        """
        key = self._rest.key(*chunk.file)
        file = self._live.get(key)
        if file is None or file.offset != chunk.offset:
            return
        self._advance(file, chunk.data[: upto - chunk.offset])
        self.read_bytes[chunk.source.component] += upto - chunk.offset
        file.skipping = chunk.cut and upto == chunk.end
        file.tell(told, chunk.data[upto - chunk.offset :] if told else b"")
        file.held = upto < chunk.end
        self._moved[key] = None
        if file.unlinked or file.suspect or file.skipping or file.end < file.size:
            return  # there is more to be read
        if file.held and chunk.final:
            return  # whoever reads wanted less
        self._due.pop(key, None)
        if file.offset < file.end:
            self._wait(file, chunk.read_at)
        else:
            file.wake_at = 0.0
            self._settle(file)

    def _advance(self, file: Followed, data: bytes) -> None:
        file.line += data.count(b"\n")
        file.anchor = (file.anchor + data[-ANCHOR:])[-ANCHOR:]
        file.stretch, file.crc = extended(file.stretch, file.crc, data)
        self._go_to(file, file.offset + len(data))

    def _go_to(self, file: Followed, offset: int) -> None:
        file.offset = offset
        self._save(file)
        if self._behind and offset >= file.history:
            self._behind.discard(file.key)

    # --- whose turn it is ---

    def _hear(self, dirty: Collection[str], written: Collection[str]) -> None:
        for path in dirty:
            self._named(path)
        known, due = self._paths.get, self._due
        for path in written:
            file = known(path)
            if file is None:
                self._named(path)
            else:
                file.used = True
                due[file.key] = file
        if self.untold:
            for path in (*dirty, *written):
                self.untold.pop(path, None)

    def _rings(self, at: float, key: int) -> bool:
        file = self._live.get(key)
        return file is not None and file.wake_at == at

    def _ring(self, now: float, *, every: bool) -> None:
        while self._timers and (every or self._timers[0][0] <= now):
            at, key = heappop(self._timers)
            if self._rings(at, key):
                file = self._due[key] = self._live[key]
                file.wake_at = 0.0

    def _wait(self, file: Followed, now: float) -> None:
        """Look again when the file was quiet for long enough to say more about its last line or record."""
        file.grown_at = min(file.grown_at, now)  # the clock was set back
        idle = now - file.grown_at
        waits = self._waits if file.held else (self._linger_s,)
        after = next((w for w in waits if idle < w), None)
        file.wake_at = 0.0
        if after is not None:
            file.wake_at = max(file.grown_at + after, now + SOON_S)
            heappush(self._timers, (file.wake_at, file.key))

    def _gather(self, now: float, budget: int, limit: int, match: Match | None) -> list[Chunk]:
        chunks: list[Chunk] = []
        room = limit + ANCHOR
        if match is not None and not self._batch.has_room(budget + room):
            self._batch = Batch(budget + room)
        due, batch = self._due, self._batch
        for key, file in list(due.items()):
            if budget <= batch.used:
                break  # the others stand in front at the next turn
            if due.pop(key, None) is None:
                continue
            if match is not None and file.is_plain() and self._take(file, now, limit):
                continue
            chunk = self._read(file, now, limit)
            if chunk is not None:
                chunks.append(chunk)
                budget -= len(chunk.data)
        if match is not None:
            pieces, found = batch.matched(match)
            for number, piece in enumerate(pieces):
                if number in found:
                    chunks.append(self._hit(piece, found[number], now))
                else:
                    self._pass(piece, now)
        return chunks

    # --- many files at once ---

    def _take(self, file: Followed, now: float, limit: int) -> bool:
        """Read a file into the batch; False for what is out of the ordinary: it is read by itself."""
        if file.fd < 0 or file.stretch > LONG:
            if not self._open(file):
                return True
            if not file.is_plain():
                return False
        try:
            got, whole = self._batch.take(file, limit)
        except OSError:  # the disk's own trouble: nothing to read now
            return True
        if whole:
            if file.offset + got != file.end:
                file.end, file.grown_at = file.offset + got, now
            return True
        if got == 0:
            self._ended(file)
            return True
        if got < 0 or got > self._max_line or got == limit:
            return False
        self._grew(file, got, now)
        if now - file.grown_at >= self._linger_s:
            return False
        self._wait(file, now)
        return True

    def _hit(self, piece: Piece[Followed], hits: Sequence[int], now: float) -> Chunk:
        file, _, first, whole, last, at_end = piece
        self._measure(file, file.offset + last - first, at_end=at_end)
        lines = self._batch.copy(first, whole)
        return self._emit(file, lines, last - first, now, at_end=at_end, hits=hits)

    def _pass(self, piece: Piece[Followed], now: float) -> None:
        """Commit lines that say nothing. Ten thousand times a second: calls that are short stand in line here."""
        file, start, first, whole, last, at_end = piece
        size, data, view = whole - first, self._batch.data, self._batch.view
        offset = file.offset + size
        file.size = file.offset + last - first
        file.line += data.count(b"\n", first, whole)
        file.anchor = bytes(view[max(start, whole - ANCHOR) : whole])
        if size < STRETCH:
            file.stretch += size
            file.crc = crc32(view[first:whole], file.crc)
        else:
            file.stretch, file.crc = extended(0, 0, view[first:whole])
        self.read_bytes[file.source.component] += size
        if self._behind or not file.unsaved:
            self._go_to(file, offset)
        else:
            file.offset = offset
        if not at_end:
            self._measure(file, file.size, at_end=False)
            self._due[file.key] = file
        elif whole < last:
            self._wait(file, now)
        elif file.fd < 0:
            self._settle(file)

    def _measure(self, file: Followed, end: int, *, at_end: bool) -> None:
        file.size = end if at_end or file.fd < 0 else max(end, os.fstat(file.fd).st_size)

    # --- one by one ---

    def _read(self, file: Followed, now: float, limit: int) -> Chunk | None:
        if not self._open(file):
            return None
        data = self._bytes_behind(file, limit)
        rewritten, file.rewritten = file.rewritten, False
        if rewritten and not self._described_anew(file):
            return None
        found = os.fstat(file.fd)
        file.size = found.st_size
        if file.suspect:
            file.suspect, file.unlinked = False, not found.st_nlink
        if file.skipping and data:
            data = self._skip(file, data)
        if not data:
            if file.skipping and file.offset < file.size:
                self._due[file.key] = file
            else:
                self._ended(file)
            return None
        return self._chunk(file, data, now, rewritten=rewritten)

    def _ended(self, file: Followed) -> None:
        """There is nothing behind the cursor."""
        file.held, file.end, file.wake_at = False, file.offset, 0.0
        if file.unlinked:
            self._forget(file)
        else:
            self._settle(file)

    def _bytes_behind(self, file: Followed, limit: int) -> bytes:
        n = len(file.anchor)
        with contextlib.suppress(OSError):  # the disk's own trouble: nothing to read now
            data = os.pread(file.fd, n + limit, file.offset - n)
            if data[:n] == file.anchor:
                return data[n:]
            self._begin_anew(file)
            return os.pread(file.fd, limit, 0)
        return b""

    def _skip(self, file: Followed, data: bytes) -> bytes:
        """Pass over the rest of a line that was cut."""
        end = data.find(b"\n") + 1
        self._advance(file, data[:end] if end else data)
        file.skipping = not end
        return data[end:] if end else b""

    def _chunk(self, file: Followed, data: bytes, now: float, *, rewritten: bool) -> Chunk | None:
        seen = len(data)
        at_end = file.offset + seen >= file.size
        self._grew(file, seen, now)
        whole = data.rfind(b"\n") + 1
        cut = not whole and seen > self._max_line
        if not whole and not cut:
            if not at_end:
                self._due[file.key] = file
                return None
            if not file.unlinked and now - file.grown_at < self._linger_s:
                self._wait(file, now)  # a line that is still being written
                return None
        kept = data[: self._max_line] if cut else data[: whole or seen]
        return self._emit(file, kept, seen, now, at_end=at_end, cut=cut, rewritten=rewritten)

    def _grew(self, file: Followed, seen: int, now: float) -> None:
        end = file.offset + seen
        if end != file.end:
            file.end, file.grown_at = end, now

    def _emit(
        self,
        file: Followed,
        data: bytes,
        seen: int,
        now: float,
        *,
        at_end: bool,
        cut: bool = False,
        rewritten: bool = False,
        hits: Sequence[int] | None = None,
    ) -> Chunk:
        """Give the first of `seen` bytes behind the cursor; they come again unless they are committed."""
        self._due[file.key] = file
        idle = now - file.grown_at
        text = file.source.format == "text"
        quiet = file.unlinked or idle >= (self._text_quiet_s if text else self._quiet_s)
        return Chunk(
            file.source,
            file.id,
            file.offset,
            file.line + 1,
            data,
            now,
            final=not data.endswith(b"\n") or (at_end and quiet and len(data) == seen),
            cut=cut,
            rewritten=rewritten,
            still=at_end and idle >= self._quiet_s,
            told=file.told_of(data),
            hits=hits,
        )
