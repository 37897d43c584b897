"""One file that is read: how far, and what proves that it is still the same."""

from __future__ import annotations

import os
from dataclasses import dataclass
from zlib import crc32

from raywatch.collect.identity import ANCHOR, STRETCH, crc_of_lines, extended
from raywatch.collect.resting import Cursor
from raywatch.model import FileId, Source

NEWLINE = 10
UNKNOWN = (-1, -1)


@dataclass(slots=True, eq=False)
class Followed:
    """A file that is read now or was lately."""

    id: FileId
    key: int
    path: str
    source: Source
    offset: int = 0
    line: int = 0
    anchor: bytes = b""  # the bytes before the offset, known while it is open
    stretch: int = 0  # see Cursor
    crc: int = 0
    skipping: bool = False  # inside a line that was cut
    told: int = 0
    told_crc: int = 0
    fd: int = -1
    end: int = -1  # where the file ended when it was last read
    size: int = 0
    grown_at: float = 0.0
    wake_at: float = 0.0  # when its timer rings, 0 for none
    history: int = 0  # bytes that were there when it was met first
    looked: tuple[int, int] = UNKNOWN  # size and time of change when it was last looked at
    turn: int = 0  # the sweep that met it last
    missed: int = 0  # sweeps in a row that did not
    unlinked: bool = False
    suspect: bool = False  # its path went, or names another file now
    held: bool = False  # lines that were given are not committed: their record is open
    used: bool = False  # it was said to grow since its descriptor was last asked back
    rewritten: bool = False  # what was read of it is not there any more, which is to be said
    unsaved: bool = False  # it stands among those whose cursors are to be written

    def cursor(self) -> Cursor:
        """How far it was read."""
        return Cursor(
            self.id,
            self.path,
            self.offset,
            self.line,
            self.stretch,
            self.crc,
            self.skipping,
            self.told,
            self.told_crc,
        )

    def is_plain(self) -> bool:
        """Say whether its lines may be matched among others': nothing about it is out of the ordinary."""
        odd = self.held or self.told or self.skipping or self.suspect or self.unlinked
        return not (odd or self.rewritten) and (not self.anchor or self.anchor[-1] == NEWLINE)

    def prove(self) -> bool:
        """Say whether what was read of it last is there still. Raises OSError."""
        data = os.pread(self.fd, self.stretch, self.offset - self.stretch)
        if crc32(data) != self.crc:
            return False
        self.anchor = data[-ANCHOR:]
        if self.stretch > STRETCH:
            self.stretch, self.crc = extended(0, 0, data)
        return True

    def begin_anew(self) -> None:
        """Start at its beginning: it was truncated, refilled, or has the number of another."""
        self.offset = self.line = self.told = self.history = self.stretch = self.crc = 0
        self.anchor, self.skipping, self.held, self.rewritten = b"", False, False, True

    def tell(self, told: int, data: bytes) -> None:
        """Note that `data`, which is behind the cursor, was reported up to line `told`, and what that was."""
        crc = crc_of_lines(data, told - self.line) if told > self.line else None
        self.told, self.told_crc = (0, 0) if crc is None else (told, crc)

    def told_of(self, data: bytes) -> int:
        """Return which line of `data` was the last to be reported, 0 where that was said of other lines."""
        if self.told and self.told_crc not in (-1, crc_of_lines(data, self.told - self.line)):
            self.told = 0
        return self.told
