r"""Ruleset -> compiled multi-pattern database; scan(bytes) -> hits.

Hyperscan in block mode with the end-of-line trick (reference/performance.md 1.2): each pattern becomes `(?:P).*$` with
MULTILINE and without DOTALL, so the engine reports the end of the line once a rule, and Python only looks for the
line's start. Classes that could cross a newline are rewritten first. Bytes in, bytes matched: never HS_FLAG_UTF8, which
is undefined on invalid UTF-8.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from importlib.metadata import version

import hyperscan

from raywatch.core.signatures import Ruleset, SignatureError
from raywatch.model import HIT_BITS, Hit

_FLAGS = hyperscan.HS_FLAG_MULTILINE
_MASK = (1 << HIT_BITS) - 1


def line_pattern(pattern: str) -> str:
    r"""Rewrite a Python pattern so that it names no groups and cannot match across a newline."""
    out: list[str] = []
    i, in_class = 0, False
    while i < len(pattern):
        two = pattern[i : i + 2]
        if two in (r"\s", r"\S", r"\W", r"\D"):
            out.append(_SHORTHAND[two][in_class])
            i += 2
        elif two[0] == "\\":
            out.append(two)
            i += 2
        elif not in_class and pattern.startswith("(?P<", i):
            out.append("(?:")
            i = pattern.index(">", i) + 1
        elif not in_class and two == "[^":
            out.append(r"[^\n")
            in_class, i = True, i + 2
            if pattern[i : i + 1] == "]":  # a bracket right behind [^ is a literal
                out.append(r"\]")
                i += 1
        else:
            in_class = (two[0] == "[" or in_class) and not (in_class and two[0] == "]")
            out.append(two[0])
            i += 1
    return "".join(out)


# \s and the negated shorthands match a newline; outside and inside a class. \x0b: in a class, \v is PCRE's "any
# vertical space", which holds the newline.
_SHORTHAND = {
    r"\s": (r"[ \t\r\f\x0b]", r" \t\r\f\x0b"),
    r"\S": (r"\S", r"\S"),
    r"\W": (r"[^\w\n]", r"\W"),
    r"\D": (r"[^\d\n]", r"\D"),
}


def _compile(expressions: list[bytes], owners: list[int]) -> hyperscan.Database:
    """Compile with the signatures' numbers as ids, which several expressions may share."""
    db = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    db.compile(
        expressions=expressions,
        ids=owners,
        flags=[_FLAGS] * len(expressions),
    )
    return db


class Matcher:
    """The compiled ruleset. Not for two threads at once: it owns one scratch space."""

    def __init__(self, ruleset: Ruleset, database: bytes | None = None) -> None:
        """Compile, or load `database` (from `dump`, of the same `key`)."""
        pairs = [(i, p) for i, s in enumerate(ruleset.signatures) for p in s.any]
        self._owner = [i for i, _ in pairs]
        self._expressions = [_expression(p) for _, p in pairs]
        digest = hashlib.sha256(version("hyperscan").encode())
        for owner, expression in zip(self._owner, self._expressions, strict=True):
            digest.update(b"%d " % owner + expression + b"\0")
        self.key = digest.hexdigest()[:32]
        self._db = self._load(database) if database else self._compile_all(ruleset)
        self._found: list[int] = []

    def _compile_all(self, ruleset: Ruleset) -> hyperscan.Database:
        try:
            if not self._expressions:
                return _compile([b"\\x00raywatch has no signature\\x00"], [0])
            return _compile(self._expressions, self._owner)
        except hyperscan.error as error:
            raise self._refused(ruleset, error) from error

    def _refused(self, ruleset: Ruleset, error: Exception) -> SignatureError:
        """Find the pattern that the engine refuses."""
        for owner, expression in zip(self._owner, self._expressions, strict=True):
            try:
                _compile([expression], [0])
            except hyperscan.error as reason:  # noqa: PERF203 - on the way to an error
                s = ruleset.signatures[owner]
                return SignatureError(s.path, s.line, s.id, f"any: the engine refuses it: {reason}")
        return SignatureError("-", 0, "-", f"the engine refuses the signatures together: {error}")

    def _load(self, database: bytes) -> hyperscan.Database:
        db = hyperscan.loadb(database, mode=hyperscan.HS_MODE_BLOCK)
        db.scratch = hyperscan.Scratch(db)  # loadb leaves it None
        return db

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


def _expression(pattern: str) -> bytes:
    flags = "(?i)" if pattern.startswith("(?i)") else ""
    body = pattern[len(flags) :]
    if body.endswith("$") and not body.endswith("\\$"):  # it reports the end of the line by itself
        return f"{flags}(?:{line_pattern(body[:-1])})$".encode()
    return f"{flags}(?:{line_pattern(body)}).*$".encode()
