r"""Which expressions a signature may hold: refused at load, with the reason and what would be right.

An `any` is matched by the engine on every byte that is read: it must mean on a line what Python means by it (`patterns`),
and it must hold a literal that the engine can look for. Hyperscan filters by literals (at most their last 8 bytes) and is
several times slower for the sake of one pattern that has none: measured beside the shipped ones on quiet Ray logs,
`[0-9a-f]{56}` costs 5 x, `\w+: ` 6 to 11 x, a literal of one or two bytes 1.2 to 1.3 x, of three or more 1.0 to 1.06 x
(`python -m tests.bench.rulecost --beside EXPRESSION`).

It never runs in `re`, so `A.*B` is as good as any; what is refused are repeats that touch each other or begin the expression,
which mean less than they cost whoever else reads it.

An `unless` or `capture` runs in Python's `re` on the text of a record, which a program may have written to hurt: what can
cost more than a few milliseconds there is refused (`growth`).
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import TypeVar

from raywatch.core.expressions import expression
from raywatch.core.growth import growth
from raywatch.core.patterns import (
    Chars,
    Edge,
    Either,
    Node,
    PatternError,
    Repeat,
    Seq,
    parse,
    width,
)
from raywatch.core.signatures import CAPTURE_WINDOW, Signature, SignatureError, record_pattern

T = TypeVar("T")
# Shapes of a fifth of all lines of healthy clusters: what hits one of them hits all the time and says nothing.
EVERYDAY = b"""\
[2026-11-23 07:28:45,566 I 210 421] core_worker.cc:591: Event stats:
[2026-11-23 07:28:45,566 I 20 20] (raylet) node_manager.cc:551: [state-dump] Event stats:
[2026-11-23 07:28:45,566 I 10 10] (gcs_server) gcs_server.cc:245: Gcs Debug state:
[2026-11-23 07:28:45,566 D 210 421] core_worker.cc:591: Task Event stats:
Global stats: 0 total (0 active)
Queueing time: mean = 3.082ms, max = 35.434ms, min = 0.000ms, total = 52.290ms
Execution time:  mean = 25.80ms, total = 581799.97ms
\tPeriodicalRunner.RunFnPeriodically - 14 total (0 active), Execution time: mean = 0.34ms, total = 4.77ms
2026-11-23 07:28:46,793\tINFO web_log.py:229 -- 127.0.0.1 [23/Nov/2026:07:28:45 +0000] 'GET /api/jobs/ HTTP/1.1' 200 382 bytes
2026-11-23 07:29:32,390\tINFO train_head.py:190 -- Getting all actor info from GCS (actor_ids=[])
2026-11-23 07:28:46,306\tINFO autoscaler.py:147 -- The autoscaler took 0.0 seconds to fetch the list of non-terminated nodes.
======== Autoscaler status: 2026-11-23 07:28:46.306311 ========
Recent failures:
 (no failures)
 (no pending nodes)
Pending Demands:
---------------------------------------------------------------
\ttotal number of sent failure: 0
:job_id:01000000
:actor_name:RayTrainWorker
:task_name:f
"""
MIN_LITERAL = 4  # bytes
# Looks at each character of a hostile record: 32 are 0.5 million steps in the window, 1 to 6 ms.
MAX_LOOKS = 32


def expressions_of(signature: Signature) -> tuple[bytes, ...]:
    """Return what the engine compiles for a signature. Raises SignatureError for what must not be used."""
    for key, patterns in (("unless", signature.unless), ("capture", signature.capture)):
        for pattern in patterns:
            _check(signature, key, pattern, _check_record_pattern)
    return tuple(_check(signature, "any", p, _line_expression) for p in signature.any)


def _check(s: Signature, key: str, pattern: str, check: Callable[[str], T]) -> T:
    try:
        return check(pattern)
    except PatternError as error:
        raise SignatureError(s.path, s.line, s.id, f"{key}: {pattern!r} {error}") from error


def _line_expression(pattern: str) -> bytes:
    tree = parse(pattern)
    _check_width(tree)
    found = growth(tree)
    if found.exponential or found.touching():
        raise PatternError(
            "has repeats that can match the same text (the search for a start is one), which is quadratic in `re`;"
            " begin with a literal and put what cannot be repeated between them"
        )
    if literal_length(tree) < MIN_LITERAL:
        raise PatternError(
            f"has no {MIN_LITERAL} bytes in a row that every match must hold, so that each byte of every log would be"
            " looked at for it alone; name a word of the message"
        )
    return expression(tree)


def _check_record_pattern(pattern: str) -> None:
    tree = parse(pattern, record=True)
    _check_width(tree)
    if growth(tree).per_character(CAPTURE_WINDOW) > MAX_LOOKS:
        raise PatternError(
            "can take a time that grows with the square of the text or worse; let no repeat match what stands before"
            " it, or bound it: [^)]{1,200}"
        )
    try:
        record_pattern(pattern)
    except (re.error, OverflowError) as error:
        raise PatternError(f"is no regular expression: {error}") from error


def _check_width(tree: Node) -> None:
    if not width(tree):
        raise PatternError("matches the empty string, so every line; name what must stand there")


def literal_length(tree: Node) -> int:
    """Return the length of the longest literal that stands in every match; case may differ."""
    return max(_literals(tree))


def _literals(node: Node) -> tuple[int, int, int]:
    """Return the sure literal at the beginning, at the end, and the longest within."""
    match node:
        case Chars(mask):
            sure = int(_is_one_letter(mask))
            return sure, sure, sure
        case Edge():
            return 0, 0, 0
        case Seq(items):
            return _joined(items)
        case Either(branches):
            longest = min(max(_literals(b)) for b in branches)
            return 0, 0, longest
        case Repeat(low, high, body):
            if not low:
                return 0, 0, 0
            first, last, longest = _literals(body)
            if high == low and longest == width(body) == first:
                return first * low, last * low, longest * low
            return first, last, longest


def _joined(items: tuple[Node, ...]) -> tuple[int, int, int]:
    """A literal runs on from one part to the next where the part is nothing else."""
    first, run, longest, whole = 0, 0, 0, True
    for item in items:
        if isinstance(item, Edge):
            continue
        begins, ends, within = _literals(item)
        longest = max(longest, within, run + begins)
        is_literal = begins == width(item) and not _varies(item)
        run = run + begins if is_literal else ends
        if whole:
            first += begins
        whole = whole and is_literal
    return first, run, longest


def _varies(node: Node) -> bool:
    """Say whether its matches differ in length."""
    match node:
        case Seq(items):
            return any(map(_varies, items))
        case Either(branches):
            return len(set(map(width, branches))) > 1 or any(map(_varies, branches))
        case Repeat(low, high, body):
            return low != high or _varies(body)
    return False


def _is_one_letter(mask: int) -> bool:
    """Say whether a set is one byte, or a letter in both cases."""
    low = mask & -mask
    return mask in (low, low | low << 32 if _is_capital(low) else low)


def _is_capital(bit: int) -> bool:
    return ord("A") <= bit.bit_length() - 1 <= ord("Z")
