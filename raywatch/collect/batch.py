"""What many files have to say, read into one buffer and matched at once.

A piece is the last bytes that were read of a file before (its anchor), proved to be there still, and the whole lines
behind them. It ends with a newline, so that no expression sees two files as one line; what follows the last newline is
overwritten by the next piece. A call of the matcher costs a microsecond and a turn of the interpreter's lock, a hundred
pieces in one call cost it once.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

from raywatch.model import HIT_BITS

Match = Callable[["bytes | bytearray | memoryview"], Sequence[int]]
Owner = TypeVar("Owner")


class Piece(NamedTuple, Generic[Owner]):
    """Whole lines of one file: buffer[first:whole], the anchor before them; the file was read up to `last`."""

    owner: Owner
    start: int
    first: int
    whole: int
    last: int
    at_end: bool


class Batch(Generic[Owner]):
    """One reusable buffer of `size` bytes, and the pieces in it."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)  # pages that nothing was read into cost nothing
        self._view = memoryview(self.data)
        self._pieces: list[Piece[Owner]] = []
        self.used = 0

    def has_room(self, size: int) -> bool:
        """Say whether a piece of so many bytes fits."""
        return self.used + size <= len(self.data)

    def read(self, fd: int, at: int, anchor: bytes, limit: int) -> int:
        """Read at most `limit` bytes behind the anchor at offset `at`; return how many, -1 where it is not there.

        Raises OSError.
        """
        start, size = self.used, len(anchor)
        got = os.preadv(fd, [self._view[start : start + size + limit]], at - size)
        if got < size or not self.data.startswith(anchor, start):
            return -1
        return got - size

    def whole(self, anchor: bytes, got: int) -> int:
        """Return how many of the bytes that were just read are whole lines."""
        first = self.used + len(anchor)
        return max(0, self.data.rfind(b"\n", first, first + got) + 1 - first)

    def keep(self, owner: Owner, anchor: bytes, got: int, whole: int, *, at_end: bool) -> None:
        """Keep the whole lines that were just read; the next piece follows their last newline."""
        start, first = self.used, self.used + len(anchor)
        self.used = first + whole
        self._pieces.append(Piece(owner, start, first, self.used, first + got, at_end))

    def copy(self, start: int, end: int) -> bytes:
        """Return bytes of the buffer, which stay when it is used again."""
        return bytes(self._view[start:end])

    def matched(self, match: Match) -> Iterator[tuple[Piece[Owner], list[int]]]:
        """Match all at once; yield each piece with its hits, counted from its first line. The batch is empty then."""
        pieces, self._pieces = self._pieces, []
        hits = match(self._view[: self.used]) if pieces else ()
        self.used = 0
        at, total = 0, len(hits)
        for piece in pieces:
            base, end = piece.first << HIT_BITS, piece.whole << HIT_BITS
            while at < total and hits[at] < base:  # in the anchor: it was told before
                at += 1
            begin = at
            while at < total and hits[at] < end:
                at += 1
            yield piece, [h - base for h in hits[begin:at]] if at > begin else []
