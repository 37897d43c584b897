"""Ruleset -> compiled multi-pattern database, or the reason why a signature is refused."""

from __future__ import annotations

import hyperscan

from raywatch.core.lint import EVERYDAY, expressions_of
from raywatch.core.matcher import Matcher
from raywatch.core.signatures import Ruleset, SignatureError

_FLAGS = hyperscan.HS_FLAG_MULTILINE
# A literal of three bytes that no text holds (they are no UTF-8), and that is never reported. The engine's filter looks
# at every 4th byte where all literals are longer, at every 2nd where one is not (fdr_engine_description.cpp,
# findDesiredStride), and then sees twice as much of each literal: measured on quiet Ray logs, 1.6 times faster, since it is
# false alarms that cost.
_STRIDE = b"\\xc0\\xc1\\xf5"


def compile_database(expressions: list[bytes], owners: list[int]) -> hyperscan.Database:
    """Compile with the signatures' numbers as ids, which several expressions may share."""
    db = hyperscan.Database(mode=hyperscan.HS_MODE_BLOCK)
    db.compile(
        expressions=[*expressions, _STRIDE],
        ids=[*owners, max(owners, default=0) + 1],
        flags=[_FLAGS] * len(expressions) + [_FLAGS | hyperscan.HS_FLAG_QUIET],
    )
    return db


def compile_ruleset(ruleset: Ruleset) -> Matcher:
    """Check and compile the signatures. Raises SignatureError for one that must not be used."""
    pairs = [(i, e) for i, s in enumerate(ruleset.signatures) for e in expressions_of(s)]
    try:
        db = compile_database([e for _, e in pairs], [i for i, _ in pairs])
    except hyperscan.error as error:
        raise _refused(ruleset, pairs, error) from error
    _check_everyday_lines(ruleset, db)
    return Matcher(db)


def compile_for(ruleset: Ruleset, component: str) -> Matcher:
    """Compile the signatures that a component's lines can mean; their hits have their numbers in the whole ruleset.

    A filter over a thousand literals passes several times as many lines on as one over two hundred.
    """
    pairs = [
        (i, e)
        for i, s in enumerate(ruleset.signatures)
        if s.applies_to(component)
        for e in expressions_of(s)
    ]
    return Matcher(compile_database([e for _, e in pairs], [i for i, _ in pairs]))


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
            compile_database([expression], [0])
        except hyperscan.error as reason:  # noqa: PERF203 - on the way to an error
            s = ruleset.signatures[owner]
            return SignatureError(s.path, s.line, s.id, f"any: the engine refuses it: {reason}")
    return SignatureError("-", 0, "-", f"the engine refuses the signatures together: {error}")
