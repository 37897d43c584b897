r"""Ruleset -> compiled multi-pattern database; scan(bytes) -> hits.

Hyperscan in block mode, expressions in the line-end form (`expressions`): one report a pattern and line, at the line's end,
and Python only looks for its start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable

import hyperscan

from raywatch.core.lint import EVERYDAY, expressions_of
from raywatch.core.signatures import Ruleset, SignatureError
from raywatch.model import HIT_BITS, Hit, RaywatchError

_FLAGS = hyperscan.HS_FLAG_MULTILINE
_MASK = (1 << HIT_BITS) - 1
# A literal of three bytes that no text holds (they are no UTF-8), and that is never reported. The engine's filter looks
# at every 4th byte where all literals are longer, at every 2nd where one is not (fdr_engine_description.cpp,
# findDesiredStride), and then sees twice as much of each literal: measured on quiet Ray logs, 1.6 times faster, since it is
# false alarms that cost.
_STRIDE = b"\\xc0\\xc1\\xf5"


class DatabaseError(RaywatchError):
    """A serialised database that this engine does not load."""


def database_key(ruleset: Ruleset) -> str:
    """Return what a database depends on as a text: the signatures' expressions and the engine's version."""
    # Not importlib.metadata, which would take a tenth of the start-up.
    # What an engine of another version wrote it does not load either.
    digest = hashlib.sha256(getattr(hyperscan, "__version__", "").encode())
    for s in ruleset.signatures:
        for key in ("any", "unless", "capture"):
            digest.update(repr((key, getattr(s, key))).encode(errors="surrogatepass"))
    return digest.hexdigest()


def _compile(expressions: list[bytes], owners: list[int]) -> hyperscan.Database:
    """Compile with the signatures' numbers as ids, which several expressions may share."""
    db = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    db.compile(
        expressions=[*expressions, _STRIDE],
        ids=[*owners, max(owners, default=0) + 1],
        flags=[_FLAGS] * len(expressions) + [_FLAGS | hyperscan.HS_FLAG_QUIET],
    )
    return db


class Matcher:
    """The compiled ruleset. Not for two threads at once: it owns one scratch space."""

    def __init__(self, ruleset: Ruleset, database: bytes | None = None) -> None:
        """Check and compile the signatures, or load their `database` (from `dump`, of the same `database_key`).

        Raises SignatureError for a signature that must not be used, DatabaseError.
        """
        self._db = _load(database) if database else _compile_all(ruleset)
        self._found: list[int] = []

    def dump(self) -> bytes:
        """Serialise the database; loading it is a thousand times faster than compiling."""
        return bytes(hyperscan.dumpb(self._db))

    def _on_match(self, number: int, _start: int, end: int, _flags: int, _context: object) -> None:
        self._found.append(end << HIT_BITS | number)

    def packed(self, data: bytes | bytearray | memoryview) -> list[int]:
        """Return `end << HIT_BITS | signature` for every line that matches, in this order, each once.

        `end` is the end of the line, without its newline. Never raises on any bytes.
        """
        found: list[int] = []
        self._found = found
        self._db.scan(data, match_event_handler=self._on_match)  # type: ignore[type-var] # any buffer
        if len(found) > 1:  # patterns of one signature may share a line; order is not promised
            found = sorted(set(found))
        return found

    def scan(self, data: bytes) -> list[Hit]:
        """Return every (signature, line) that matches, by line and signature. Never raises on any bytes."""
        return unpacked(data, self.packed(data))


def unpacked(data: bytes, packed: Iterable[int]) -> list[Hit]:
    """Return packed hits with the bounds of their lines."""
    return [Hit(p & _MASK, data.rfind(b"\n", 0, p >> HIT_BITS) + 1, p >> HIT_BITS) for p in packed]


def _compile_all(ruleset: Ruleset) -> hyperscan.Database:
    pairs = [(i, e) for i, s in enumerate(ruleset.signatures) for e in expressions_of(s)]
    try:
        db = _compile([e for _, e in pairs], [i for i, _ in pairs])
    except hyperscan.error as error:
        raise _refused(ruleset, pairs, error) from error
    _check_everyday_lines(ruleset, db)
    return db


def _check_everyday_lines(ruleset: Ruleset, db: hyperscan.Database) -> None:
    """Refuse a signature that hits what Ray writes all the time."""
    found: list[tuple[int, int]] = []

    def on_match(number: int, _start: int, end: int, _flags: int, _context: object) -> None:
        found.append((number, end))

    db.scan(EVERYDAY, match_event_handler=on_match)
    for number, end in found:
        s, line = ruleset.signatures[number], EVERYDAY[:end].rpartition(b"\n")[2].decode()
        raise SignatureError(
            s.path, s.line, s.id, f"any: hits what healthy clusters write all the time: {line!r}"
        )


def _refused(ruleset: Ruleset, pairs: list[tuple[int, bytes]], error: Exception) -> SignatureError:
    """Find the pattern that the engine refuses."""
    for owner, expression in pairs:
        try:
            _compile([expression], [0])
        except hyperscan.error as reason:  # noqa: PERF203 - on the way to an error
            s = ruleset.signatures[owner]
            return SignatureError(s.path, s.line, s.id, f"any: the engine refuses it: {reason}")
    return SignatureError("-", 0, "-", f"the engine refuses the signatures together: {error}")


def _load(database: bytes) -> hyperscan.Database:
    try:
        db = hyperscan.loadb(database, mode=hyperscan.HS_MODE_BLOCK)
        db.scratch = hyperscan.Scratch(db)  # loadb leaves it None
    except hyperscan.error as error:
        raise DatabaseError(f"the engine does not load it: {error}") from error
    return db
