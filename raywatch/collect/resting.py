"""Files that are wholly read and quiet, some 230 bytes each: most of a big session is that.

A row is packed: two hundred thousand objects with their strings would be a hundred megabytes, and every one would be
looked at by the collector of garbage.
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import NamedTuple

from raywatch.model import FileId

# turn of the sweep, flags, stretch, its checksum, folder, time of change, offset, line, told, its checksum; then the name
_HEAD, _WIDE = struct.Struct("<BBHIIqII"), struct.Struct("<BBHIIqQQQq")
_UNMET, _MISSED, _SKIPPING, _IS_WIDE = 1, 2, 4, 8
_NARROW = 1 << 32
TURNS = 256
_MAX_INO = (1 << 64) - 1


@dataclass(frozen=True, slots=True)
class Cursor:
    """How far a file was read: `offset` bytes, `line` lines; the last `stretch` bytes of them have checksum `crc`."""

    file: FileId
    path: str
    offset: int
    line: int
    stretch: int
    crc: int
    skipping: bool = False
    told: int = 0  # the last line that was reported before its record was whole
    told_crc: int = 0  # of all lines from the offset to that one; -1 where it was not kept


class Rested(NamedTuple):
    """What is known of a file: when it had changed last, and whether it was never seen since the start."""

    cursor: Cursor
    changed_ns: int
    unmet: bool


class Resting:
    """Cursors of files that need nothing, by key: a number for (device, inode)."""

    def __init__(self, cursors: Iterable[Cursor] = ()) -> None:
        """Stored cursors are `unmet`: their files were not seen yet, and are read again when they are."""
        self._devices: list[int] = []
        self._folders: list[str] = []
        self._numbers: dict[str, int] = {}
        self._rows: dict[int, bytes] = {}
        self._unmet = 0
        for cursor in cursors:
            self.put(self.key(*cursor.file), cursor, -1, 0, flags=_UNMET)

    def __len__(self) -> int:
        """Count the files that were seen."""
        return len(self._rows) - self._unmet

    def key(self, device: int, inode: int) -> int:
        """Return the number of a file."""
        if device not in self._devices:
            self._devices.append(device)
        return self._devices.index(device) << 64 | inode

    def file(self, key: int) -> FileId:
        """Return whose number it is."""
        return FileId(self._devices[key >> 64], key & _MAX_INO)

    def put(self, key: int, cursor: Cursor, changed_ns: int, turn: int, *, flags: int = 0) -> None:
        """Lay a file to rest that last changed at `changed_ns` and was met in sweep `turn`."""
        folder, _, name = cursor.path.rpartition("/")
        number = self._numbers.get(folder)
        if number is None:
            number = self._numbers[folder] = len(self._folders)
            self._folders.append(folder)
        flags |= _SKIPPING * cursor.skipping
        self._unmet += flags & _UNMET
        offset, line, told = cursor.offset, cursor.line, cursor.told
        narrow = cursor.stretch, cursor.crc, number, changed_ns, offset, line
        if told or offset >= _NARROW or line >= _NARROW:
            head = _WIDE.pack(turn, flags | _IS_WIDE, *narrow, told, cursor.told_crc)
        else:
            head = _HEAD.pack(turn, flags, *narrow)
        self._rows[key] = head + os.fsencode(name)

    def keeps(self, key: int, path: str, size: int, changed_ns: int, turn: int) -> bool:
        """Say whether the file rests here and is as it was; note that sweep `turn` met it."""
        row = self._rows.get(key)
        if row is None:
            return False
        head = _WIDE if row[1] & _IS_WIDE else _HEAD
        _, flags, _, _, folder, known_ns, offset, *_ = head.unpack_from(row)
        if offset != size or known_ns != changed_ns or flags & _UNMET:
            return False
        above, _, name = path.rpartition("/")
        if self._numbers.get(above) != folder or row[head.size :] != os.fsencode(name):
            return False
        self._rows[key] = bytes((turn, flags & ~_MISSED)) + row[2:]
        return True

    def pop(self, key: int) -> Rested | None:
        """Wake a file."""
        row = self._rows.pop(key, None)
        if row is None:
            return None
        unmet = bool(row[1] & _UNMET)
        self._unmet -= unmet
        return Rested(self._cursor(key, row), _HEAD.unpack_from(row)[5], unmet)

    def cursor(self, key: int) -> Cursor | None:
        """Return the cursor of a file that rests here."""
        row = self._rows.get(key)
        return self._cursor(key, row) if row is not None else None

    def _cursor(self, key: int, row: bytes) -> Cursor:
        head = _WIDE if row[1] & _IS_WIDE else _HEAD
        _, flags, stretch, crc, folder, _, offset, line, *told = head.unpack_from(row)
        path = f"{self._folders[folder]}/{os.fsdecode(row[head.size :])}"
        skipping = bool(flags & _SKIPPING)
        return Cursor(self.file(key), path, offset, line, stretch, crc, skipping, *told)

    def absent(self, turn: int, listed: Mapping[str, bool]) -> Iterator[int | None]:
        """Drop files that two sweeps in a row did not meet and yield them, None for each that stays.

        `listed`: which folders the sweep could read. A file in one that it could not may be there still, and so may one
        of another session, or of what is not mounted yet, as long as nobody saw it.
        """
        visible = {n: nearest(f, listed) for n, f in enumerate(self._folders)}
        for key in [k for k, row in self._rows.items() if row[0] != turn]:
            row = self._rows.get(key)
            if row is None or row[0] == turn:  # it came while this went on
                continue
            seen = visible.get(_HEAD.unpack_from(row)[4])
            if seen is False or (seen is None and row[1] & _UNMET):
                yield None
            elif row[1] & _MISSED:
                self.pop(key)
                yield key
            else:
                self._rows[key] = bytes((row[0], row[1] | _MISSED)) + row[2:]
                yield None


def nearest(folder: str, listed: Mapping[str, bool]) -> bool | None:
    """Say whether the nearest folder at or above this one that a sweep met could be read; None if it met none.

    Roots of other sessions, and what is not mounted yet, are not met.
    """
    while folder not in listed:
        above = os.path.dirname(folder)  # noqa: PTH120 - strings all the way
        if above == folder:
            return None
        folder = above
    return listed[folder]
