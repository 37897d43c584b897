"""Ruleset -> compiled multi-pattern database, or the reason why a signature is refused."""

from __future__ import annotations

import hyperscan

from raywatch.core.lint import EVERYDAY, expressions_of
from raywatch.core.matcher import Matcher, compile_database
from raywatch.core.signatures import Ruleset, SignatureError


def compile_ruleset(ruleset: Ruleset) -> Matcher:
    """Check and compile the signatures. Raises SignatureError for one that must not be used."""
    pairs = [(i, e) for i, s in enumerate(ruleset.signatures) for e in expressions_of(s)]
    return compile_pairs(ruleset, pairs)


def compile_pairs(ruleset: Ruleset, pairs: list[tuple[int, bytes]]) -> Matcher:
    """Compile checked expressions of signatures, which their numbers name. Raises SignatureError."""
    try:
        db = compile_database([e for _, e in pairs], [i for i, _ in pairs])
    except hyperscan.error as error:
        raise _refused(ruleset, pairs, error) from error
    _check_everyday_lines(ruleset, db)
    return Matcher(db)


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
