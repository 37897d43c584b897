r"""A regular expression as a tree of sets of bytes: what Python's `re` means by it, in no dialect.

Python reads a pattern; what the engine or a check needs is made from the tree, never from the text: `\s`, `{,3}`,
`(?i:x)`, `\Z`, `[^\W_]` mean different things in different dialects, a set of bytes does not.

Two ways to read one. A **line** pattern (`any`) is matched on the raw bytes of one line, as `re.search` on bytes: classes
are ASCII, a character beyond it is its UTF-8 bytes, and no newline is ever seen. A **record** pattern (`unless`,
`capture`) is matched on joined text; for the checks there are four sorts of characters beyond ASCII (digits, spaces,
letters, the rest) and one named there stands for all, which errs on the safe side.
"""

from __future__ import annotations

import re
import sys
import warnings
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal

if sys.version_info >= (3, 11):
    from re import _parser as sre
else:
    import sre_parse as sre

NEWLINE = 1 << 10
ALL = (1 << 256) - 1
_ASCII = 128
BEYOND = ALL ^ ((1 << _ASCII) - 1)  # bytes that are no ASCII; in records: every other character
MAX_PATTERN = 4_096  # characters: an expression, not a program

Where = Literal["^", "$", r"\b", r"\B"]


class PatternError(ValueError):
    """Why a pattern cannot be used, and what would be right."""


@dataclass(frozen=True, slots=True)
class Chars:
    """One byte out of a set: bit n stands for byte n."""

    mask: int


@dataclass(frozen=True, slots=True)
class Edge:
    """A place that must be an edge of the line or of a word."""

    where: Where


@dataclass(frozen=True, slots=True)
class Seq:
    """One after another."""

    items: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Either:
    """One of several."""

    branches: tuple[Node, ...]


@dataclass(frozen=True, slots=True)
class Repeat:
    """From `low` to `high` times; None: without end."""

    low: int
    high: int | None
    body: Node


Node = Chars | Edge | Seq | Either | Repeat


def parse(pattern: str, *, record: bool = False) -> Node:
    """Read a line pattern, or a `record` pattern. Raises PatternError."""
    if len(pattern) > MAX_PATTERN:
        raise PatternError(f"is longer than {MAX_PATTERN:,} characters; write several patterns")
    flags, beyond = 0 if record else re.ASCII, ""
    if not record:
        _read(_encoded(pattern))  # refuses what only texts may hold: \\u, \\N, (?u)
        pattern, beyond = _stood_in(pattern)
    tree = _read(pattern, flags)
    try:
        return _Reader(record, beyond).sequence(tree, tree.state.flags)
    except RecursionError as error:
        raise PatternError("is nested too deeply") from error


def _encoded(pattern: str) -> bytes:
    try:
        return pattern.encode()
    except UnicodeEncodeError as error:
        raise PatternError("holds half a character (a lone surrogate)") from error


def _read(pattern: str | bytes, flags: int = 0) -> Any:
    """Let Python read it. What it only warns about (a set in a set, flags in the middle) has two meanings."""
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            return sre.parse(pattern, flags)  # type: ignore[arg-type] # its stub knows no bytes
    except RecursionError as error:
        raise PatternError("is nested too deeply") from error
    except (re.error, OverflowError, ValueError) as error:
        raise PatternError(f"is no regular expression: {error}") from error
    except Warning as warning:
        raise PatternError(f"is ambiguous: {warning}; escape the bracket or spell it out") from None


_STAND_INS = 0xE000  # private characters, which no escape in a line pattern can name


def _stood_in(pattern: str) -> tuple[str, str]:
    """Replace characters beyond ASCII by stand-ins, so that the tree keeps them whole; return them too."""
    beyond = "".join(sorted(set(re.findall(r"[^\x00-\x7f]", pattern))))
    table = {ord(c): chr(_STAND_INS + i) for i, c in enumerate(beyond)}
    return pattern.translate(table), beyond


_EDGES: dict[str, Where] = {
    "AT_BEGINNING": "^",
    "AT_BEGINNING_STRING": "^",
    "AT_END": "$",
    "AT_END_STRING": "$",
    "AT_BOUNDARY": r"\b",
    "AT_NON_BOUNDARY": r"\B",
}
_REFUSED = {
    "ASSERT": "looks ahead or behind",
    "ASSERT_NOT": "looks ahead or behind",
    "FAILURE": "looks ahead or behind",  # what newer Pythons make of (?!)
    "GROUPREF": "refers back to a group",
    "GROUPREF_IGNORE": "refers back to a group",
    "GROUPREF_EXISTS": "depends on a group",
    "ATOMIC_GROUP": "has an atomic group",
    "POSSESSIVE_REPEAT": "has a possessive repeat",
}
_NOT_LINEAR = "look-around, back-references and atomic parts cannot be matched in linear time"


def mask_of(members: Iterable[int]) -> int:
    """Return the set of these bytes."""
    return sum(1 << n for n in set(members))


_LETTERS = mask_of(b"abcdefghijklmnopqrstuvwxyz")
_CATEGORIES = {
    "DIGIT": mask_of(b"0123456789"),
    "SPACE": mask_of(b" \t\n\r\f\v"),
    "WORD": mask_of(b"0123456789_") | _LETTERS | _LETTERS >> 32,
}
# In records: other scripts' digits, spaces and letters, and the rest, as four sorts of one character each.
_SORTS = {"DIGIT": 1 << 128, "SPACE": 1 << 129, "WORD": 1 << 128 | 1 << 130}


@dataclass(frozen=True, slots=True)
class _Reader:
    """Python's tree -> ours."""

    record: bool
    beyond: str  # the characters that stand-ins stand for

    def sequence(self, tree: Any, flags: int) -> Node:
        items = tuple(self.node(str(op), value, flags) for op, value in tree)
        return items[0] if len(items) == 1 else Seq(items)

    def node(self, name: str, value: Any, flags: int) -> Node:
        if name in _REFUSED:
            raise PatternError(f"{_REFUSED[name]}; {_NOT_LINEAR}")
        match name:
            case "LITERAL" | "NOT_LITERAL" | "IN" | "ANY":
                return self.chars(name, value, flags)
            case "AT" if str(value) in _EDGES:
                return Edge(_EDGES[str(value)])
            case "BRANCH":
                return Either(tuple(self.sequence(branch, flags) for branch in value[1]))
            case "SUBPATTERN":
                _, added, removed, inner = value
                return self.sequence(inner, (flags | added) & ~removed)
            case "MAX_REPEAT" | "MIN_REPEAT":
                # Greedy or not: whether something matches is the same.
                low, high, inner = value
                body = self.sequence(inner, flags)
                return Repeat(low, None if high is sre.MAXREPEAT else int(high), body)
        raise PatternError(f"has a part ({name}) that raywatch does not know; write it differently")

    def chars(self, name: str, value: Any, flags: int) -> Node:
        if name == "ANY":
            return self.kept(ALL if flags & re.DOTALL else ALL ^ NEWLINE)
        members = [(str(o), v) for o, v in value] if name == "IN" else [(name, value)]
        whole = [v for o, v in members if o.endswith("LITERAL") and self.is_stand_in(v)]
        negated = name == "NOT_LITERAL" or any(o == "NEGATE" for o, _ in members)
        mask = 0
        for op, what in members:
            found = self.member(op, what, flags)
            # One character beyond ASCII stands for all of them: a class without it still holds others.
            vague = self.record and negated and op != "CATEGORY"
            mask |= found & ~BEYOND if vague else found
        if whole and (negated or flags & re.IGNORECASE):
            raise PatternError(
                "excludes a character beyond ASCII or ignores its case, but lines are bytes;"
                " name what may stand there: (?:é|É)"
            )
        if flags & re.IGNORECASE:
            mask = self.folded(mask, beyond=self.record and not negated)
        if negated:
            mask = ALL ^ mask
        if not whole:
            return self.kept(mask)
        texts = [self.utf8(code) for code in whole]
        return Either((*texts, self.kept(mask))) if mask else Either(tuple(texts))

    def is_stand_in(self, code: int) -> bool:
        return 0 <= code - _STAND_INS < len(self.beyond)

    def utf8(self, code: int) -> Node:
        return Seq(tuple(Chars(1 << b) for b in self.beyond[code - _STAND_INS].encode()))

    def member(self, op: str, what: Any, flags: int) -> int:
        match op:
            case "LITERAL" | "NOT_LITERAL":
                return self.literal(what)
            case "RANGE" if any(map(self.is_stand_in, what)):
                raise PatternError("has a range of characters beyond ASCII, but lines are bytes")
            case "RANGE":
                return self.range(*what)
            case "CATEGORY":
                return self.category(str(what).removeprefix("CATEGORY_"), flags)
        return 0  # NEGATE

    def category(self, name: str, flags: int) -> int:
        kind = name.removeprefix("NOT_")
        mask = _CATEGORIES[kind]
        if self.record and not flags & re.ASCII:
            mask |= _SORTS[kind]
        return mask if kind == name else ALL ^ mask

    def literal(self, code: int) -> int:
        if self.record:
            return 1 << code if code < _ASCII else BEYOND
        if 1 << code == NEWLINE:
            raise PatternError(
                r"has a newline, which no line holds: use $ for the end of a line, and \\n for the two"
                " characters that stand for a newline in JSON lines"
            )
        return 0 if self.is_stand_in(code) else 1 << code

    def range(self, low: int, high: int) -> int:
        mask = ((1 << min(high, 255) + 1) - 1) & ~((1 << min(low, 256)) - 1)
        return mask if not self.record else mask & ~BEYOND | (BEYOND if high >= _ASCII else 0)

    def folded(self, mask: int, *, beyond: bool) -> int:
        small, big = mask & _LETTERS, mask & _LETTERS >> 32
        # A few characters beyond ASCII fold to letters (the Kelvin sign to k).
        odd = BEYOND if beyond and (small or big) else 0
        return mask | small >> 32 | big << 32 | odd

    def kept(self, mask: int) -> Node:
        """Leave newlines out where none is seen, and refuse what then matches nothing."""
        kept = mask if self.record else mask & ~NEWLINE
        if not kept:
            raise PatternError("has a class that matches no character of a line")
        return Chars(kept)


def width(node: Node) -> int:
    """Return the least number of bytes that it matches."""
    match node:
        case Chars():
            return 1
        case Edge():
            return 0
        case Seq(items):
            return sum(map(width, items))
        case Either(branches):
            return min(map(width, branches))
        case Repeat(low, _, body):
            return low * width(body)


def trimmed(node: Node, *, end: int) -> Node:
    """Cut repeats at one end (0: the first, -1: the last) to the least they need: whether it matches stays."""
    match node:
        case Repeat(low, _, body) if not low:
            return Seq(())
        case Repeat(low, _, body):
            return trimmed(body, end=end) if low == 1 else Repeat(low, low, body)
        case Either(branches):
            return Either(tuple(trimmed(b, end=end) for b in branches))
        case Seq(items) if items:
            rest = items[1:] if end == 0 else items[:-1]
            edge = trimmed(items[end], end=end)
            if edge == Seq(()) and rest:
                return trimmed(Seq(rest), end=end)
            return Seq((edge, *rest) if end == 0 else (*rest, edge))
    return node
