"""The compiled signatures, kept between runs in `$XDG_CACHE_HOME/raywatch`, and never trusted.

Parsing and compiling cost a hundred times more than loading. What is loaded was written by this user, from exactly these
files, by this code, engine, Python and processor, and its checksum holds: all of that is checked before the engine sees a
byte, and whatever is not so is made anew. A cache that cannot be read or written costs time and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import stat
import struct
import sys
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TypeVar

from raywatch.core.matcher import DatabaseError, Matcher, compile_database, engine_version
from raywatch.core.signatures import Ruleset, ruleset_of

log = logging.getLogger(__name__)

T = TypeVar("T")

_MAGIC = b"raywatch database\n"
_VERSION = 2
_HEADER = struct.Struct(
    f"<{len(_MAGIC)}sI32sQ32s"
)  # magic, version, key, length, sha256 of the body
_LENGTH = struct.Struct("<Q")  # of the ruleset's document, before it and the database
# What decides what is in an entry: it never outlives the code that wrote it.
_CODE = tuple(
    Path(__file__).parent / "core" / f"{name}.py"
    for name in (
        "compiling",
        "expressions",
        "growth",
        "lint",
        "matcher",
        "patterns",
        "signature_files",
        "signatures",
        "taxonomy",
    )
)
MAX_BYTES = 64 << 20  # of one entry; those of some hundred signatures have 0.5 MB
KEPT = 64  # entries, one a component: rules under work, several versions of raywatch
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


def load_rules(
    texts: Sequence[tuple[str, str]], folder: Path | None
) -> tuple[Ruleset, Matcher, Narrow]:
    """Return the ruleset of `texts` (the taxonomy, then signature files: path and text) without samples, compiled.

    It comes from `folder`, or is checked, compiled and kept there. Raises SignatureError; never an error of the cache.
    """
    key = (_key(texts) if folder else None) or b""
    shelf = _Shelf(folder if key else None)
    ruleset, expressions, matcher = shelf.take(key, lambda: _made(texts), _load)
    return ruleset, matcher, Narrow(ruleset, expressions, key, shelf)


def made_rules(texts: Sequence[tuple[str, str]], folder: Path | None) -> bytes:
    """Return what `loaded_rules` loads in another process of this version, from `folder` or made as `load_rules` makes it.

    Raises SignatureError; never an error of the cache.
    """
    key = (_key(texts) if folder else None) or b""

    def sound(body: bytes) -> bytes:
        _load(body)
        return body

    return _Shelf(folder if key else None).take(key, lambda: _made(texts), sound)


def loaded_rules(body: bytes) -> tuple[Ruleset, Matcher]:
    """Return the ruleset and its matcher that `made_rules` made. Raises DatabaseError."""
    ruleset, _, matcher = _load(body)
    return ruleset, matcher


class Narrow:
    """The signatures that lines of one component can mean, compiled: made or loaded when they are first asked for.

    A filter over a thousand literals lets several times as many lines through as one over two hundred.
    """

    def __init__(
        self, ruleset: Ruleset, expressions: Sequence[Sequence[str]], key: bytes, shelf: _Shelf
    ) -> None:
        self._ruleset, self._expressions = ruleset, expressions
        self._key, self._shelf = key, shelf
        self._known: dict[str, Matcher] = {}

    def of(self, component: str) -> Matcher:
        """Return the matcher of a component."""
        known = self._known.get(component)
        if known is None:
            key = hashlib.sha256(self._key + component.encode()).digest()
            known = self._shelf.take(key, lambda: self._made(component), Matcher.load)
            self._known[component] = known
        return known

    def _made(self, component: str) -> bytes:
        """Their hits have the numbers of the whole ruleset."""
        pairs = [
            (number, expression.encode("latin-1"))
            for number, signature in enumerate(self._ruleset.signatures)
            if signature.applies_to(component)
            for expression in self._expressions[number]
        ]
        return Matcher(compile_database([e for _, e in pairs], [n for n, _ in pairs])).dump()


class _Shelf:
    """A folder of what was made once, or none."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder

    def take(self, key: bytes, make: Callable[[], bytes], use: Callable[[bytes], T]) -> T:
        """Return what `use` makes of the body kept under a key, or of a new one, which is kept."""
        if self._folder is None:
            return use(make())
        path = self._folder / f"{key.hex()[:32]}{_SUFFIX}"
        try:
            return use(_body(_read(path), key))
        except FileNotFoundError:
            pass
        except (OSError, _UnfitError, DatabaseError) as error:
            log.debug("compiled signatures not used path=%s reason=%s", path, error)
        if sys.stderr.isatty():  # seconds that nobody would understand
            sys.stderr.write("raywatch: compiling signatures, once for this version ...\n")
        body = make()
        try:
            _keep(path, _packed(body, key))
        except (OSError, _UnfitError) as error:
            log.debug("compiled signatures not kept path=%s reason=%s", path, error)
        return use(body)


def _made(texts: Sequence[tuple[str, str]]) -> bytes:
    # Here, not above: a start that finds its entry needs neither YAML nor what checks expressions.
    from raywatch.core.compiling import compile_pairs  # noqa: PLC0415
    from raywatch.core.lint import expressions_of  # noqa: PLC0415
    from raywatch.core.signature_files import parse_rules  # noqa: PLC0415

    ruleset = parse_rules(texts)
    expressions = [expressions_of(s) for s in ruleset.signatures]
    pairs = [(n, e) for n, several in enumerate(expressions) for e in several]
    database = compile_pairs(ruleset, pairs).dump()
    told = {
        "ruleset": ruleset.document(),
        "expressions": [[e.decode("latin-1") for e in several] for several in expressions],
    }
    document = json.dumps(told).encode()
    return _LENGTH.pack(len(document)) + document + database


def _load(body: bytes) -> tuple[Ruleset, list[list[str]], Matcher]:
    """Raises DatabaseError."""
    (length,) = _LENGTH.unpack_from(body)
    end = _LENGTH.size + length
    matcher = Matcher.load(body[end:])
    told = json.loads(body[_LENGTH.size : end])
    return ruleset_of(told["ruleset"]), told["expressions"], matcher


class _UnfitError(Exception):
    """A cache that is not as we write it."""


def _key(texts: Sequence[tuple[str, str]], code: Sequence[Path] = _CODE) -> bytes | None:
    """Return what an entry depends on; None where our own code cannot be read."""
    digest = hashlib.sha256()
    try:
        for part in code:
            digest.update(part.read_bytes())
    except OSError:
        return None
    told = (engine_version(), sys.version, os.uname().machine, _processor(), *texts)
    digest.update(repr(told).encode(errors="surrogatepass"))
    return digest.digest()


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
    import tempfile  # noqa: PLC0415 - as in `_made`

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
