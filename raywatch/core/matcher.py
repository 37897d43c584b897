"""A compiled ruleset; scan(bytes) -> hits. `compiling` makes one of checked signatures.

Hyperscan in block mode, expressions in the line-end form (`expressions`): one report a pattern and line, at the line's end,
and Python only looks for its start.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence

import hyperscan

from raywatch.core.signatures import Ruleset
from raywatch.model import HIT_BITS, Hit, RaywatchError

_FLAGS = hyperscan.HS_FLAG_MULTILINE
# A literal of three bytes that no text holds (they are no UTF-8), and that is never reported. The engine's filter looks
# at every 4th byte where all literals are longer, at every 2nd where one is not (fdr_engine_description.cpp,
# findDesiredStride), and then sees twice as much of each literal: measured on quiet Ray logs, 1.6 times faster, since it is
# false alarms that cost.
_STRIDE = b"\\xc0\\xc1\\xf5"
_MASK = (1 << HIT_BITS) - 1


class DatabaseError(RaywatchError):
    """A serialised database that this engine does not load."""


def engine_version() -> str:
    """Return the version of the engine. What one of another version wrote it does not load either."""
    # Not importlib.metadata, which would take a tenth of the start-up.
    return str(getattr(hyperscan, "__version__", ""))


def database_key(ruleset: Ruleset) -> str:
    """Return what a database depends on as a text: the signatures' expressions and the engine's version."""
    digest = hashlib.sha256(engine_version().encode())
    for s in ruleset.signatures:
        for key in ("any", "unless", "capture"):
            digest.update(repr((key, getattr(s, key))).encode(errors="surrogatepass"))
    return digest.hexdigest()


class Matcher:
    """The compiled ruleset. Not for two threads at once: it owns one scratch space."""

    def __init__(self, database: hyperscan.Database) -> None:
        """Own a database whose ids are the numbers of the signatures in their ruleset."""
        self._db = database
        self._found: list[int] = []

    @classmethod
    def load(cls, dumped: bytes) -> Matcher:
        """Take what `dump` gave, in this version of the engine. Raises DatabaseError."""
        return cls(_load(dumped))

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


def _load(database: bytes) -> hyperscan.Database:
    try:
        db = hyperscan.loadb(database, mode=hyperscan.HS_MODE_BLOCK)
        db.scratch = hyperscan.Scratch(db)  # loadb leaves it None
    except hyperscan.error as error:
        raise DatabaseError(f"the engine does not load it: {error}") from error
    return db


def compile_database(expressions: Sequence[bytes], owners: Sequence[int]) -> hyperscan.Database:
    """Compile with the signatures' numbers as ids, which several expressions may share."""
    db = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    db.compile(
        expressions=[*expressions, _STRIDE],
        ids=[*owners, max(owners, default=0) + 1],
        flags=[_FLAGS] * len(expressions) + [_FLAGS | hyperscan.HS_FLAG_QUIET],
    )
    return db
