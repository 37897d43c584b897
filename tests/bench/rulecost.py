"""What each expression costs the scan: python -m tests.bench.rulecost [--rules PATH...] [--beside EXPRESSION...].

Quiet Ray text (the lines of the case corpora that no signature hits) is scanned with all expressions, and with each one left
out, in turns; the least processor time of the rounds counts. A share of 1.05: without it the scan is 1.05 times faster.
`--beside`: what others would cost beside them, also those that are refused at load.
"""

from __future__ import annotations

import argparse
import sys
import time
from dataclasses import replace
from pathlib import Path

from raywatch.archive import members
from raywatch.core.compiling import compile_ruleset
from raywatch.core.expressions import expression
from raywatch.core.lint import expressions_of
from raywatch.core.matcher import Matcher, compile_database
from raywatch.core.patterns import parse
from raywatch.core.signatures import Ruleset, Signature
from raywatch.pipeline import load_ruleset

CASES = Path(__file__).parent.parent / "cases"
BLOCK = 1 << 20
GOAL_SHARE = 1.10  # of one expression


def quiet_text(matcher: Matcher, size: int) -> list[bytes]:
    """Return blocks of Ray's logs without the lines that hit."""
    kept, buffer = bytearray(), bytearray(BLOCK)
    for case in sorted(CASES.glob("*.tar.xz")):
        for path, stream in members(str(case)):
            if "/logs/" not in path and "driver" not in path:
                continue
            while size_read := stream.readinto(memoryview(buffer)):
                block, at = bytes(buffer[:size_read]), 0
                for hit in matcher.scan(block):
                    kept += block[at : max(at, hit.start)]
                    at = min(max(at, hit.end + 1), len(block))
                kept += block[at:]
        if len(kept) >= size:
            break
    return [bytes(kept[i : i + BLOCK]) for i in range(0, min(len(kept), size), BLOCK)]


def without(signatures: tuple[Signature, ...], number: int, pattern: str) -> Matcher:
    """Return a matcher of all expressions but one."""
    one = signatures[number]
    left = replace(one, any=tuple(p for p in one.any if p != pattern))
    rest = (*signatures[:number], left, *signatures[number + 1 :])
    return compile_ruleset(Ruleset(rest, {}))


def scan_s(matcher: Matcher, blocks: list[bytes]) -> float:
    """Processor seconds of one scan."""
    before = time.process_time()
    for block in blocks:
        matcher.packed(block)
    return time.process_time() - before


def beside(ruleset: Ruleset, pattern: str) -> Matcher:
    """Return a matcher of all expressions and one more, which need not pass the checks."""
    pairs = [(i, e) for i, s in enumerate(ruleset.signatures) for e in expressions_of(s)]
    pairs.append((len(ruleset.signatures), expression(parse(pattern))))
    database = compile_database([e for _, e in pairs], [i for i, _ in pairs])
    return Matcher(database)


def least_s(matchers: list[Matcher], blocks: list[bytes], rounds: int) -> list[float]:
    """Return the least processor seconds of each, scanning in turns."""
    best = [float("inf")] * len(matchers)
    for _ in range(rounds):
        for number, matcher in enumerate(matchers):
            best[number] = min(best[number], scan_s(matcher, blocks))
    return best


def main() -> int:
    """Print the dearest expressions; return 1 where one is over its share."""
    asked = argparse.ArgumentParser(description=__doc__)
    asked.add_argument(
        "--rules", action="append", default=[], help="signatures beside the shipped ones"
    )
    asked.add_argument("--rounds", type=int, default=15)
    asked.add_argument("--shown", type=int, default=12)
    asked.add_argument("--size", type=int, default=16, help="MB of text")
    asked.add_argument("--beside", action="append", default=[], help="an expression to try")
    given = asked.parse_args()
    ruleset = load_ruleset(given.rules)
    whole = compile_ruleset(ruleset)
    blocks = quiet_text(whole, given.size << 20)
    if given.beside:
        tried = [whole, *(beside(ruleset, p) for p in given.beside)]
        first, *others = least_s(tried, blocks, given.rounds)
        for seconds, pattern in zip(others, given.beside, strict=True):
            print(f"{seconds / first:5.2f}  {pattern}")
        return 0
    named = [(i, s.id, p) for i, s in enumerate(ruleset.signatures) for p in s.any]
    left_out = [without(ruleset.signatures, i, p) for i, _, p in named]
    first, *others = least_s([whole, *left_out], blocks, given.rounds)
    shares = sorted(((first / s, n) for s, n in zip(others, named, strict=True)), reverse=True)
    speed = sum(map(len, blocks)) / 1e6 / first
    print(f"{len(shares)} expressions: {speed:,.0f} MB/s on quiet text")
    for share, (_, name, pattern) in shares[: given.shown]:
        print(f"{share:5.2f}  {name}: {pattern}")
    reached = shares[0][0] <= GOAL_SHARE
    print(f"goal: none over {GOAL_SHARE:.2f}: {'reached' if reached else 'MISSED'}")
    return int(not reached)


if __name__ == "__main__":
    sys.exit(main())
