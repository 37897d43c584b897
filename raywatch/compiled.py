"""The compiled database of the signatures, kept between runs in `$XDG_CACHE_HOME/raywatch`, and never trusted.

Compiling costs a hundred times more than loading. What is loaded was written by this user, for exactly these expressions,
this code, engine, Python and processor, and its checksum holds: all of that is checked before the engine sees a byte, and
whatever is not so is compiled anew. A cache that cannot be read or written costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import logging
import os
import platform
import stat
import struct
import sys
import tempfile
from collections.abc import Iterable, Mapping
from importlib.abc import InspectLoader
from pathlib import Path
from types import ModuleType

from raywatch.core import expressions, growth, lint, matcher, patterns
from raywatch.core.matcher import DatabaseError, Matcher, database_key
from raywatch.core.signatures import Ruleset

log = logging.getLogger(__name__)

_MAGIC = b"raywatch database\n"
_VERSION = 1
_HEADER = struct.Struct(
    f"<{len(_MAGIC)}sI32sQ32s"
)  # magic, version, key, length, sha256 of the body
_CODE = (patterns, expressions, growth, lint, matcher)  # what decides what is in a database
MAX_BYTES = 64 << 20  # of one database; those of some hundred signatures have 0.2 MB
KEPT = 8  # databases: rules under work, several versions of raywatch
_SUFFIX = ".hsdb"
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


def cache_folder(environ: Mapping[str, str]) -> Path | None:
    """Return where databases are kept, None where there is no home. The folder need not exist."""
    base = environ.get("XDG_CACHE_HOME", "")
    if not os.path.isabs(base):  # noqa: PTH117 - empty or relative: the XDG specification says to ignore it
        home = environ.get("HOME", "")
        if not os.path.isabs(home):  # noqa: PTH117
            return None
        base = f"{home}/.cache"
    return Path(base) / "raywatch"


def load_matcher(ruleset: Ruleset, folder: Path | None) -> Matcher:
    """Load the compiled signatures from `folder`, or check and compile them and keep them there.

    Raises SignatureError; never an error of the cache.
    """
    key = _key(ruleset) if folder else None
    if folder is None or key is None:
        return Matcher(ruleset)
    path = folder / f"{key.hex()[:32]}{_SUFFIX}"
    try:
        return Matcher(ruleset, _body(_read(path), key))
    except FileNotFoundError:
        pass
    except (OSError, _UnfitError, DatabaseError) as error:
        log.debug("compiled signatures not used path=%s reason=%s", path, error)
    compiled = Matcher(ruleset)
    try:
        _keep(path, _packed(compiled.dump(), key))
    except (OSError, _UnfitError) as error:
        log.debug("compiled signatures not kept path=%s reason=%s", path, error)
    return compiled


class _UnfitError(Exception):
    """A cache that is not as we write it."""


def _key(ruleset: Ruleset, code: Iterable[ModuleType] = _CODE) -> bytes | None:
    """Return what a database depends on; None where our own code cannot be read."""
    digest = hashlib.sha256(database_key(ruleset).encode())
    for module in code:
        source = _source(module)
        if source is None:
            return None
        digest.update(source.encode())
    digest.update(f"{sys.version} {platform.machine()} {_processor()}".encode())
    return digest.digest()


def _source(module: ModuleType) -> str | None:
    """Return the text of a module, so that a database never outlives the code that wrote its expressions."""
    loader = module.__spec__.loader if module.__spec__ else None
    return loader.get_source(module.__name__) if isinstance(loader, InspectLoader) else None


def _processor() -> str:
    """Return what the first processor can do; the engine writes databases for it."""
    try:
        with open("/proc/cpuinfo", "rb") as rows:
            head = rows.read(8_192)
    except OSError:
        return ""
    return next(
        (r.decode() for r in head.splitlines() if r.startswith((b"flags", b"Features"))), ""
    )


def _packed(body: bytes, key: bytes) -> bytes:
    return _HEADER.pack(_MAGIC, _VERSION, key, len(body), hashlib.sha256(body).digest()) + body


def _body(data: bytes, key: bytes) -> bytes:
    """Return the database in a file's bytes once everything about it is right."""
    if len(data) <= _HEADER.size:
        raise _UnfitError("cut short")
    body = data[_HEADER.size :]
    if data != _packed(body, key):
        raise _UnfitError("not what was written")
    return body


def _read(path: Path) -> bytes:
    """Read a file that only this user can have written."""
    _check_folder(path.parent)
    # O_NONBLOCK: a pipe put there must not hold us up.
    descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode) or not _is_ours(status):
            raise _UnfitError("no plain file of this user alone")
        if status.st_size > MAX_BYTES:
            raise _UnfitError("too large")
        with open(descriptor, "rb", closefd=False) as opened:
            return opened.read(MAX_BYTES)
    finally:
        os.close(descriptor)


def _check_folder(folder: Path) -> None:
    status = folder.lstat()
    if not stat.S_ISDIR(status.st_mode) or not _is_ours(status):
        raise _UnfitError(f"{folder} is no folder of this user alone")


def _is_ours(status: os.stat_result) -> bool:
    return status.st_uid == os.geteuid() and not status.st_mode & _OTHERS_WRITE


def _keep(path: Path, data: bytes) -> None:
    """Write a file at once, and forget the oldest."""
    folder = path.parent
    os.makedirs(folder.parent, mode=0o700, exist_ok=True)  # noqa: PTH103 - as the XDG specification says
    folder.mkdir(mode=0o700, exist_ok=True)
    _check_folder(folder)
    descriptor, name = tempfile.mkstemp(prefix=".", suffix=_SUFFIX, dir=folder)  # 0600
    try:
        with open(descriptor, "wb") as out:
            out.write(data)
        os.replace(name, path)  # noqa: PTH105 - a name, not a Path
    except OSError:
        Path(name).unlink(missing_ok=True)
        raise
    _forget(folder)


def _forget(folder: Path) -> None:
    """Remove all but the newest, also what a killed writer left."""
    files = [(f.stat(follow_symlinks=False).st_mtime, f.path) for f in os.scandir(folder)]
    for _, name in sorted(files, reverse=True)[KEPT:]:
        if name.endswith(_SUFFIX):
            Path(name).unlink(missing_ok=True)
