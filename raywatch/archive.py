"""Paths -> streams of bytes: folders, files, .gz and .tar.gz, never more than a block in memory."""

from __future__ import annotations

import gzip
import os
import tarfile
import zlib
from collections.abc import Iterator
from typing import IO, NamedTuple

from raywatch.model import RaywatchError

BLOCK = 4 << 20


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


_BROKEN = (OSError, EOFError, zlib.error, tarfile.TarError)


def _file(path: str) -> Iterator[Member]:
    try:
        if path.endswith((".tar.gz", ".tgz", ".tar.xz", ".tar")):
            yield from _tar(path)
            return
        opened = gzip.open(path, "rb") if path.endswith(".gz") else open(path, "rb")  # noqa: SIM115
    except _BROKEN as error:
        raise ArchiveError(f"{path}: {error}") from error
    with opened as stream:
        yield Member(path.removesuffix(".gz"), _blocks(path, stream))


def _tar(path: str) -> Iterator[Member]:
    with tarfile.open(path, "r|*") as archive:
        for entry in archive:
            stream = archive.extractfile(entry) if entry.isfile() else None
            if stream is not None:
                yield Member(f"{path}!/{entry.name}", _blocks(path, stream))


def _blocks(path: str, stream: IO[bytes] | gzip.GzipFile) -> Iterator[bytes]:
    """Read a stream to its end. It is the consumer who reads, so the error is caught here."""
    try:
        while block := stream.read(BLOCK):
            yield block
    except _BROKEN as error:
        raise ArchiveError(f"{path}: {error}") from error
