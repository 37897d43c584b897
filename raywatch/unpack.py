"""Packed bytes -> plain bytes in a stream: gzip, zstd, xz and bzip2, none with more memory than its bound."""

from __future__ import annotations

import bz2
import io
import lzma
import sys
from collections.abc import Callable
from typing import NamedTuple, Protocol

from isal import igzip_lib

from raywatch.ahead import Raw

if sys.version_info >= (3, 14):
    from compression import zstd
else:
    from backports import zstd

# Packed bytes read at a time: so few that what is read is told often, even of a bomb (32,000 bytes out of one).
PIECE = 1 << 14
# What a header may ask for: 2^27 bytes are the window that `zstd -d` takes without being told; `xz -9` needs 65 MiB.
WINDOW_LOG = 27
_XZ_MEMORY = 96 << 20


class DamagedError(OSError):
    """Packed bytes that end too early, are of no such format or ask for too much memory."""


class _Decompressor(Protocol):
    """What the decompressors of the standard library, of isal and of zstd have in common."""

    @property
    def eof(self) -> bool: ...
    @property
    def needs_input(self) -> bool: ...
    @property
    def unused_data(self) -> bytes: ...
    def decompress(self, data: bytes, max_length: int) -> bytes: ...


class Packing(NamedTuple):
    """A format: how its bytes begin, how files are called that hold it, how to begin to unpack."""

    name: str
    magic: bytes
    endings: tuple[
        str, ...
    ]  # the long ones first; those that mean a tar end in "t..." or hold ".tar"
    new: Callable[[], _Decompressor]


PACKINGS = (
    # isal inflates several times faster than zlib (reference: `make bench`).
    Packing(
        "gzip",
        b"\x1f\x8b\x08",
        (".gz", ".tgz"),
        lambda: igzip_lib.IgzipDecompressor(flag=igzip_lib.DECOMP_GZIP),
    ),
    Packing(
        "zstd",
        b"\x28\xb5\x2f\xfd",
        (".zst", ".zstd", ".tzst"),
        lambda: zstd.ZstdDecompressor(
            options={zstd.DecompressionParameter.window_log_max: WINDOW_LOG}
        ),
    ),
    Packing(
        "xz", b"\xfd7zXZ\0", (".xz", ".txz"), lambda: lzma.LZMADecompressor(memlimit=_XZ_MEMORY)
    ),
    Packing("bzip2", b"BZh", (".bz2", ".tbz2"), bz2.BZ2Decompressor),
)
_BROKEN = (OSError, EOFError, ValueError, lzma.LZMAError, igzip_lib.IsalError, zstd.ZstdError)


class Unpacked(io.RawIOBase):
    """The plain bytes of `raw`, of all members or frames one behind the other. Raises DamagedError while it is read."""

    def __init__(self, raw: Raw, packing: Packing) -> None:
        self._raw, self._packing = raw, packing
        self._one, self._rest = packing.new(), b""

    def readable(self) -> bool:
        """Yes."""
        return True

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override] # any buffer, says typeshed
        """Fill a part of the buffer; 0 at the end."""
        plain = b""
        while not plain:
            if self._one.eof and not self._next():
                return 0
            packed = b""
            if self._one.needs_input:
                packed = self._rest or self._raw.read(PIECE) or b""
                self._rest = b""
                if not packed:
                    raise DamagedError(f"{self._packing.name} data end too early")
            plain = self._decompressed(packed, len(buffer))
        buffer[: len(plain)] = plain
        return len(plain)

    def _decompressed(self, packed: bytes, size: int) -> bytes:
        try:
            return self._one.decompress(packed, size)
        except _BROKEN as error:  # type: ignore[misc] # isal's stub calls its error an instance
            raise DamagedError(f"no {self._packing.name} data, or damaged: {error}") from error

    def _next(self) -> bool:
        """Begin with the next member, where there is one: padding of zeros is none."""
        rest = self._one.unused_data.lstrip(b"\0")
        while not rest:
            more = self._raw.read(PIECE)
            if not more:
                return False
            rest = more.lstrip(b"\0")
        self._one, self._rest = self._packing.new(), rest
        return True
