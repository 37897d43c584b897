"""Is a file still the one that was read?

A number (device, inode) is given to a new file as soon as nobody holds the old one, so what was read must be there
still. While a file is held open its number is its own: each read overlaps the last bytes (ANCHOR), which shows that it
was cut and filled again. What was closed, stored or at rest is proved by more when it is opened: lines of one component
may end alike for hundreds of bytes. Of that stretch only length and checksum are kept.

What remains: a file that is cut and filled again between two looks, farther than it was, with the same last bytes just
there. It is found out when the file is opened next, and read anew.

CRC-32, because it goes on from a number: nothing has to be read again when a line is added. That two different
stretches have the same one happens once in 2**32 numbers given anew; who makes it happen hides lines of its own.
"""

from __future__ import annotations

from zlib import crc32

ANCHOR = 128  # bytes that each read overlaps
STRETCH = 1024  # bytes before the cursor that prove a file when it is opened, and more where it grew by little
LONG = 8192  # when there are so many, they are proved and cut to the last of them


def extended(length: int, crc: int, data: bytes | memoryview) -> tuple[int, int]:
    """Return length and checksum of the stretch before the cursor once it moved over `data`."""
    size = len(data)
    if size < STRETCH:
        return length + size, crc32(data, crc)
    return STRETCH, crc32(data[size - STRETCH :])


def crc_of_lines(data: bytes, count: int) -> int | None:
    """Return the checksum of the first `count` lines, None where there are not so many."""
    end = 0
    for _ in range(count):
        end = data.find(b"\n", end) + 1
        if not end:
            return None
    return crc32(memoryview(data)[:end])
