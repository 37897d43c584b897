"""Paths -> streams of bytes: folders, files, what is packed, tars; never more than a block in memory, each read once.

A stream never raises: where its bytes are damaged or cannot be read it ends, and `why` says so. What came before counts.
"""

from __future__ import annotations

import io
import os
import tarfile
from collections.abc import Callable, Iterator
from types import ModuleType
from typing import NamedTuple, Protocol, TypeAlias, cast

from raywatch.ahead import Ahead
from raywatch.collect.raylogs import is_binary
from raywatch.model import RaywatchError
from raywatch.unpack import PACKINGS, Packing, Unpacked

HEAD = 1 << 16  # bytes by which a file is known
_BLOCK = 1 << 20  # bytes behind which a checksum stands: 900 KB of bzip2 at most
_DEEP = 4  # archives in archives; a deeper one is a trap
_TAR_HEADERS = 16 << 20  # bytes of headers before one member of a tar
_BROKEN = (OSError, EOFError, ValueError, tarfile.TarError)
_Bytes: TypeAlias = io.RawIOBase | io.BufferedIOBase
Tick: TypeAlias = Callable[
    [str, int], None
]  # (path, bytes that were read of it, as they lie there)


class ArchiveError(RaywatchError):
    """A path that cannot be read: `path: why`."""


class Stream(Protocol):
    """The bytes of one file, to be read at once (a tar is a stream)."""

    why: str  # why it ended too early; empty where it did not

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill a part of the buffer; 0 at the end, and at once where there is no text."""

    def head(self) -> bytes:
        """Return the first bytes; of a stream that can be read once only, after the first were read."""


class Member(NamedTuple):
    """One file: a label for people and its bytes."""

    path: str
    stream: Stream


def no_tick(_path: str, _size: int) -> None:
    """Nobody watches."""


class Plain(io.FileIO):
    """A file as it lies there; lines of such a one can be counted later, and it can be read from anywhere."""

    def __init__(self, path: str, tick: Tick = no_tick) -> None:
        super().__init__(path)
        self.why = ""
        self._path, self._tick = path, tick
        try:
            self._text = not is_binary(self.head())
        except OSError:
            self.close()
            raise

    def head(self) -> bytes:
        """Return the first bytes."""
        return os.pread(self.fileno(), HEAD, 0)

    def read(self, size: int | None = -1, /) -> bytes:
        """Return up to `size` bytes, text or not. Raises OSError."""
        data = super().read(-1 if size is None else size) or b""
        self._tick(self._path, len(data))
        return data

    def readinto(self, buffer: memoryview, /) -> int:  # type: ignore[override] # any buffer, says typeshed
        """Fill a part of the buffer; 0 at the end, and at once where there is no text."""
        if not self._text:
            return 0
        try:
            size = super().readinto(buffer) or 0
        except OSError as error:
            self.why, size = _reason(error), 0
        self._tick(self._path, size)
        return size


class Guarded:
    """Bytes out of something else. None: there are none, and `why` says why.

    `guess`: only its first bytes say how it is packed. Where they were wrong it is no text, and nothing is damaged.
    """

    def __init__(self, raw: _Bytes | None, why: str = "", *, guess: bool = False) -> None:
        self.why = why
        self._raw, self._head, self._guess = raw, b"", guess

    def head(self) -> bytes:
        """Return the first bytes, once they were read."""
        return self._head

    def readinto(self, buffer: memoryview, /) -> int:
        """Fill a part of the buffer; 0 at the end, and at once where there is no text."""
        if self._raw is None:
            return 0
        if self._head:
            return self._read(buffer)
        size = 0
        while size < min(HEAD, len(buffer)):  # a decompressor gives little at a time
            got = self._read(buffer[size:])
            if not got:
                break
            size += got
        self._head = bytes(buffer[: min(HEAD, size)])
        if is_binary(self._head):
            self._find_damage()
            self._raw = None
            return 0
        return size

    def _find_damage(self) -> None:
        """Read on for a block: what looks binary may be damage, and the checksum that tells it stands behind it."""
        block = memoryview(bytearray(HEAD))
        left = 0 if self._guess else _BLOCK
        while left > 0 and (got := self._read(block)):
            left -= got

    def _read(self, buffer: memoryview) -> int:
        if self._raw is None:
            return 0
        try:
            return self._raw.readinto(buffer) or 0
        except _BROKEN as error:
            self.why = "" if self._guess and not self._head else _reason(error)
            self._raw = None
            return 0


def _reason(error: Exception) -> str:
    return str(getattr(error, "strerror", None) or error)  # no errno, no path twice


def is_url(path: str) -> bool:
    """Say whether a path names something in object storage."""
    return path.startswith(("s3://", "gs://", "az://"))


def files_of(path: str) -> Iterator[tuple[str, int]]:
    """Yield (file, bytes) of every file at `path`, a folder's in order of their names. Raises ArchiveError.

    One that cannot be asked has no bytes: who reads it will say why.
    """
    if is_url(path):
        try:
            yield from _objects().objects_of(path)
        except OSError as error:
            raise ArchiveError(f"{path}: {_reason(error)}") from error
        return
    if not os.path.exists(path):  # noqa: PTH110 - strings all the way: there may be 200,000 of them
        raise ArchiveError(f"{path}: No such file or directory")
    if not os.path.isdir(path):  # noqa: PTH112
        yield path, _size(path)
        return
    for folder, folders, names in os.walk(path):
        folders.sort()
        for name in sorted(names):
            whole = os.path.join(folder, name)  # noqa: PTH118
            if os.path.isfile(whole):  # noqa: PTH113 - no sockets, no pipes
                yield whole, _size(whole)


def _size(path: str) -> int:
    try:
        return os.stat(path).st_size  # noqa: PTH116
    except OSError:
        return 0


def _objects() -> ModuleType:
    try:
        from raywatch import objects  # noqa: PLC0415 - an extra, which costs a tenth of a second
    except ImportError as error:
        raise ArchiveError(
            "object storage is read by obstore: pip install 'raywatch[objects]'"
        ) from error
    return objects


def members(path: str, tick: Tick = no_tick) -> Iterator[Member]:
    """Yield every file at `path`, archives opened. Raises ArchiveError where `path` itself cannot be read."""
    for file, _ in files_of(path):
        yield from members_of(file, tick)


def members_of(file: str, tick: Tick = no_tick) -> Iterator[Member]:
    """Yield what one file holds: itself, its unpacked self, or the members of the archive that it is.

    Raises ArchiveError where object storage cannot be read at all, and what `tick` raises.
    """
    try:
        if is_url(file):
            objects = _objects()
            with Ahead(objects.ObjectStream(file, tick), objects.RANGE) as stored:
                yield from opened(file, stored, stored.peek())
            return
        with Plain(file, tick) as raw:
            yield from opened(file, raw, raw.head(), plain=raw)
    except OSError as error:
        yield Member(file, Guarded(None, _reason(error)))


def opened(
    label: str, raw: _Bytes, head: bytes = b"", *, plain: Stream | None = None, depth: int = 0
) -> Iterator[Member]:
    """Yield what the bytes of `raw` hold, by its name or else by its first bytes. `plain`: the same, if it is not packed."""
    packing = packing_of(label)
    name = label.rpartition("/")[2]
    if depth == _DEEP:
        yield Member(label, Guarded(None, f"more than {_DEEP} archives in one another"))
    elif packing:
        # One thread reads ahead, for the outermost.
        with Ahead(Unpacked(raw, packing)) if depth == 0 else Unpacked(raw, packing) as unpacked:
            if is_tar(name):
                yield from _tar(label, unpacked, depth)
            else:
                yield from opened(label[: -len(ending_of(name))], unpacked, depth=depth + 1)
    elif is_tar(name):
        yield from _tar(label, raw, depth)
    else:
        found = next((p for p in PACKINGS if head.startswith(p.magic)), None)
        guessed = Guarded(Unpacked(raw, found), guess=True) if found else None
        yield Member(label, guessed or plain or Guarded(raw))


def packing_of(path: str) -> Packing | None:
    """Say by its name how a file is packed."""
    return next((p for p in PACKINGS if path.endswith(p.endings)), None)


def is_tar(name: str) -> bool:
    """Say by its name whether a file is a tar once it is unpacked."""
    ending = ending_of(name)
    return ending.startswith(".t") or name[: len(name) - len(ending)].endswith(".tar")


def ending_of(name: str) -> str:
    """Return the end of a name that says how the file is packed, or nothing."""
    return next((e for p in PACKINGS for e in p.endings if name.endswith(e)), "")


class _Headers(io.RawIOBase):
    """What a tar is read from. A header may be as long as it says, and it is read whole: here is its bound."""

    def __init__(self, raw: _Bytes) -> None:
        self._raw = raw
        self.left: int | None = _TAR_HEADERS  # bytes until it is too long; None between headers

    def read(self, size: int = -1, /) -> bytes:
        """Return up to `size` bytes. Raises what `raw` raises, and TarError."""
        data = self._raw.read(size) or b""
        if self.left is not None:
            self.left -= len(data)
            if self.left < 0:
                raise tarfile.ReadError(f"a header of more than {_TAR_HEADERS >> 20} MiB")
        return data


class _Header(tarfile.TarInfo):
    """A header. The library takes one that is damaged for the end of the archive; here it is an error."""

    @classmethod
    def frombuf(cls, buf: bytes | bytearray, encoding: str, errors: str) -> tarfile.TarInfo:  # type: ignore[override]
        """Read a header. Raises ReadError where it is none."""
        try:
            return super().frombuf(buf, encoding, errors)
        except (tarfile.EOFHeaderError, tarfile.EmptyHeaderError):  # type: ignore[attr-defined] # unlisted, documented by its text
            raise
        except tarfile.HeaderError as error:
            raise tarfile.ReadError(f"no tar, or damaged: {error}") from error


def _tar(label: str, raw: _Bytes, depth: int) -> Iterator[Member]:
    source = _Headers(raw)
    try:
        with tarfile.open(fileobj=source, mode="r|", bufsize=1 << 20, tarinfo=_Header) as archive:
            while entry := archive.next():
                source.left = None
                stream = archive.extractfile(entry) if entry.isfile() else None
                if stream is not None:
                    inner = cast("io.BufferedReader", stream)
                    head = inner.peek(8)
                    yield from opened(f"{label}!/{entry.name}", inner, head, depth=depth + 1)
                    while inner.read(HEAD):  # what nobody wanted, so that a header alone is bounded
                        pass
                archive.members.clear()  # type: ignore[attr-defined] # it keeps them all; unlisted in typeshed
                source.left = _TAR_HEADERS
            source.left = None
            while source.read(1 << 20):  # the checksum comes last
                pass
    except _BROKEN as error:
        yield Member(label, Guarded(None, _reason(error)))
