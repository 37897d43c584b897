"""Paths -> streams of bytes: folders, files, .gz, .xz, .bz2, tars of them, never more than a block in memory."""

from __future__ import annotations

import bz2
import gzip
import lzma
import os
import tarfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from io import BufferedIOBase
from typing import IO, NamedTuple

from raywatch.collect.raylogs import is_binary
from raywatch.model import RaywatchError

BLOCK = 4 << 20
_TARS = (".tar", ".tgz", ".tar.gz", ".txz", ".tar.xz", ".tbz2", ".tar.bz2")
_PACKED: Mapping[str, Callable[[str], BufferedIOBase]] = {
    ".gz": gzip.GzipFile,
    ".xz": lzma.LZMAFile,
    ".bz2": bz2.BZ2File,
}
_ZSTD = b"\x28\xb5\x2f\xfd"


class ArchiveError(RaywatchError):
    """A path that cannot be read: `path: why`."""


class Member(NamedTuple):
    """One file: a label for people and its bytes, to be read at once (a tar is a stream)."""

    path: str
    blocks: Iterator[bytes]


def members(path: str) -> Iterator[Member]:
    """Yield every file at `path`, archives opened. Raises ArchiveError."""
    if os.path.isdir(path):  # noqa: PTH112 - strings all the way: there may be 200,000 of them
        for folder, folders, names in os.walk(path):
            folders.sort()
            for name in sorted(names):
                whole = os.path.join(folder, name)  # noqa: PTH118
                if os.path.isfile(whole):  # noqa: PTH113 - no sockets, no pipes
                    yield from _file(whole)
        return
    yield from _file(path)


_BROKEN = (OSError, EOFError, zlib.error, lzma.LZMAError, tarfile.TarError)


def _refuse_zstd(path: str, head: bytes = b"") -> None:
    if path.endswith((".zst", ".zstd", ".tzst")) or head.startswith(_ZSTD):
        raise ArchiveError(f"{path}: zstd is not read; unpack it first: zstd -d")


def _file(path: str) -> Iterator[Member]:
    _refuse_zstd(path)
    ending = next((e for e in _PACKED if path.endswith(e)), "")
    try:
        if path.endswith(_TARS):
            yield from _tar(path)
            return
        opened = _PACKED[ending](path) if ending else open(path, "rb")  # noqa: SIM115
    except _BROKEN as error:
        why = getattr(error, "strerror", None) or error  # no errno, no path twice
        raise ArchiveError(f"{path}: {why}") from error
    with opened as stream:
        yield Member(path.removesuffix(ending), _blocks(path, stream))


def _tar(path: str) -> Iterator[Member]:
    with tarfile.open(path, "r|*") as archive:
        for entry in archive:
            stream = archive.extractfile(entry) if entry.isfile() else None
            if stream is not None:
                whole = f"{path}!/{entry.name}"
                _refuse_zstd(whole)
                yield Member(whole, _blocks(whole, stream))


def _blocks(path: str, stream: IO[bytes] | BufferedIOBase) -> Iterator[bytes]:
    """Read a stream to its end; nothing comes of what is no text. It is the consumer who reads, so errors are here."""
    try:
        block = stream.read(BLOCK)
        _refuse_zstd(path, block[:4])
        while block and not is_binary(block):
            yield block
            block = stream.read(BLOCK)
    except _BROKEN as error:
        raise ArchiveError(f"{path}: {error}") from error


class Blocks:
    """Blocks as a stream that fills buffers."""

    def __init__(self, blocks: Iterator[bytes]) -> None:
        self._blocks, self._rest = blocks, memoryview(b"")

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill a part of the buffer; 0 at the end."""
        if not self._rest:
            self._rest = memoryview(next(self._blocks, b""))
        n = min(len(buffer), len(self._rest))
        buffer[:n], self._rest = self._rest[:n], self._rest[n:]
        return n
