"""What many files have to say, read into one buffer and matched at once.

A piece is the last bytes that were read of a file before (its anchor), proved to be there still, and the whole lines
behind them. It ends with a newline, so that no expression sees two files as one line; what follows the last newline is
overwritten by the next piece. A call of the matcher costs a microsecond and a turn of the interpreter's lock, a hundred
pieces in one call cost it once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from os import preadv
from typing import Generic, Protocol, TypeAlias, TypeVar

from raywatch.model import HIT_BITS

Match = Callable[["bytes | bytearray | memoryview"], Sequence[int]]


class OnDisk(Protocol):
    """A file: its descriptor, how far it was read, the last bytes before that."""

    fd: int
    offset: int
    anchor: bytes


Owner = TypeVar("Owner", bound=OnDisk)


# Whose it is; where its anchor begins in the buffer, its first line, what follows its last whole line, and what was read
# behind that; whether this was all. A plain tuple: it is made ten thousand times a second.
Piece: TypeAlias = "tuple[Owner, int, int, int, int, bool]"


class Batch(Generic[Owner]):
    """One reusable buffer of `size` bytes, and the pieces in it."""

    def __init__(self, size: int) -> None:
        self.data = bytearray(size)  # pages that nothing was read into cost nothing
        self.view = memoryview(self.data)
        self._pieces: list[Piece[Owner]] = []
        self.used = 0

    def has_room(self, size: int) -> bool:
        """Say whether a piece of so many bytes fits."""
        return self.used + size <= len(self.data)

    def take(self, owner: Owner, limit: int) -> tuple[int, int]:
        """Read at most `limit` bytes behind the anchor of a file, which ends at its offset, and keep the whole lines.

        Return how many bytes were read and how many are whole lines; (-1, 0) where the anchor is not there any more.
        Raises OSError.
        """
        start, data, anchor = self.used, self.data, owner.anchor
        size = len(anchor)
        first = start + size
        room = first + limit
        end = start + preadv(owner.fd, (self.view[start:room],), owner.offset - size)
        if end < first or not data.startswith(anchor, start):
            return -1, 0
        whole = data.rfind(b"\n", first, end) + 1
        if not whole:
            return end - first, 0
        self._pieces.append((owner, start, first, whole, end, end < room))
        self.used = whole
        return end - first, whole - first

    def copy(self, start: int, end: int) -> bytes:
        """Return bytes of the buffer, which stay when it is used again."""
        return bytes(self.view[start:end])

    def matched(self, match: Match) -> tuple[list[Piece[Owner]], dict[int, list[int]]]:
        """Match all at once; return the pieces, and the hits of each that has some, by its place among them.

        Hits are counted from the piece's first line. The batch is empty then.
        """
        pieces, self._pieces = self._pieces, []
        hits = match(self.view[: self.used]) if pieces else ()
        self.used = 0
        found: dict[int, list[int]] = {}
        at, total = 0, len(hits)
        for number, piece in enumerate(pieces):
            if at == total:
                break
            base, end = piece[2] << HIT_BITS, piece[3] << HIT_BITS
            while at < total and hits[at] < base:  # in the anchor: it was told before
                at += 1
            begin = at
            while at < total and hits[at] < end:
                at += 1
            if at > begin:
                found[number] = [h - base for h in hits[begin:at]]
        return pieces, found
