r"""How the work of a backtracking matcher grows with the text: is a pattern linear in `re`?

`re` tries every way to match from every start. The ways are the paths through the pattern's automaton, so the work is
linear when there is a bound on the paths that read the same text, and grows as its square or worse when a text exists that
two repeats can share between them in a growing number of ways (Weber and Seidl, "On the degree of ambiguity of finite
automata", 1991): a state p that comes back to itself on some text w, leads to q on w, and q comes back to itself on w.
The search for a start is such a repeat too: it passes over anything. So `\S+x` is quadratic (w = any letter), `a.*b` is
(w = "a"), `Job \S+ x` is not: "Job " holds a space, which `\S+` does not pass.

Safe side: edges of words and lines are taken as always true (`^` at the start of a pattern excepted), every repeat that
may vary counts as a loop, with the number of rounds that it may vary by, and all sharing is multiplied.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass, field
from itertools import product

from raywatch.core.patterns import (
    ALL,
    NEWLINE,
    Chars,
    Edge,
    Either,
    Node,
    PatternError,
    Repeat,
    Seq,
    trimmed,
)

MAX_STATES = 2_000
MAX_CHECKS = 300_000  # about a second
ENDLESS = math.inf


@dataclass(slots=True)
class _Automaton:
    """Positions of a pattern (Glushkov): what each reads, which may come next, how often it may be read again."""

    masks: list[int] = field(default_factory=list)
    follow: list[set[int]] = field(default_factory=list)
    rounds: list[float] = field(default_factory=list)
    doubled: bool = False  # two ways from one position to the next: a repeat of a repeat
    checks: int = 0

    def add(self, mask: int, rounds: float) -> int:
        if len(self.masks) >= MAX_STATES:
            raise PatternError(f"has more than {MAX_STATES:,} positions; repeat less")
        self.masks.append(mask)
        self.follow.append(set())
        self.rounds.append(rounds)
        return len(self.masks) - 1

    def check(self) -> None:
        """Count a step of the search for shared texts, which is itself no place to be stuck in."""
        self.checks += 1
        if self.checks > MAX_CHECKS:
            raise PatternError(
                "has too many repeats in repeats to be checked; write several patterns"
            )

    def join(self, lasts: set[int], firsts: set[int]) -> None:
        for last in lasts:
            self.doubled = self.doubled or bool(self.follow[last] & firsts)
            self.follow[last] |= firsts


@dataclass(frozen=True, slots=True)
class _Part:
    """A piece of the automaton: where it begins and ends, and whether it may be nothing."""

    first: set[int]
    last: set[int]
    empty: bool


_NOTHING = _Part(set(), set(), empty=True)


def _build(auto: _Automaton, node: Node, rounds: float, *, at_start: bool) -> _Part:
    """Add a node. `at_start`: nothing of the pattern stands before it, so that `^` reads the newline there."""
    match node:
        case Chars(mask):
            at = auto.add(mask, rounds)
            return _Part({at}, {at}, empty=False)
        case Edge(where):
            if where == "^" and at_start:
                at = auto.add(NEWLINE, rounds)
                return _Part({at}, {at}, empty=False)
            return _NOTHING
        case Seq(items):
            part = _NOTHING
            for item in items:
                following = _build(auto, item, rounds, at_start=at_start and part.empty)
                part = _after(auto, part, following)
            return part
        case Either(branches):
            parts = [_build(auto, b, rounds, at_start=at_start) for b in branches]
            auto.doubled = auto.doubled or sum(p.empty for p in parts) > 1
            return _Part(
                set().union(*(p.first for p in parts)),
                set().union(*(p.last for p in parts)),
                any(p.empty for p in parts),
            )
        case Repeat():
            return _repeat(auto, node, rounds, at_start=at_start)


def _repeat(auto: _Automaton, node: Repeat, rounds: float, *, at_start: bool) -> _Part:
    """Add the copies that must be there; the last one turns where the number may vary."""
    varies = ENDLESS if node.high is None else float(node.high - node.low)
    part, must = _NOTHING, node.low
    for n in range(max(must, 1) if varies else must):
        turns = bool(varies) and n >= must - 1
        again = rounds * (varies + 1) if turns else rounds
        copy = _build(auto, node.body, again, at_start=at_start and part.empty)
        if turns:
            auto.join(copy.last, copy.first)
            copy = _Part(copy.first, copy.last, empty=copy.empty or not must)
        part = _after(auto, part, copy)
    return part


def _after(auto: _Automaton, one: _Part, two: _Part) -> _Part:
    auto.join(one.last, two.first)
    return _Part(
        one.first | two.first if one.empty else one.first,
        one.last | two.last if two.empty else two.last,
        one.empty and two.empty,
    )


@dataclass(frozen=True, slots=True)
class Shared:
    """Two repeats that can share text: a piece of `length` bytes goes to either, `rounds` times."""

    length: int
    rounds: float


@dataclass(frozen=True, slots=True)
class Growth:
    """What makes the work of a pattern grow faster than the text."""

    exponential: bool
    shared: tuple[Shared, ...]

    def per_character(self, window: int) -> float:
        """Return about how often the matcher looks at a character of a hostile text of `window` characters."""
        if self.exponential:
            return math.inf
        return math.prod(min(s.rounds, window / 2) / s.length + 1 for s in self.shared)

    def touching(self) -> bool:
        """Say whether two endless repeats meet with nothing between them that would tell them apart."""
        return any(s.length == 1 and s.rounds == ENDLESS for s in self.shared)


def growth(tree: Node) -> Growth:
    """Return what the repeats of a pattern share. Raises PatternError for one too large to be checked."""
    auto = _Automaton()
    start = auto.add(ALL, ENDLESS)
    # A repeat at the end that may stop anywhere never has to try again.
    part = _build(auto, trimmed(tree, end=-1), 1, at_start=True)
    auto.follow[start] = part.first | {start}
    loops = _loops(auto)
    if auto.doubled or _doubled(auto, loops):
        return Growth(exponential=True, shared=())
    pairs = ((p, q, _chained(auto, loops, p, q)) for p in loops for q in loops if p != q)
    return Growth(
        exponential=False,
        shared=tuple(
            Shared(length, min(auto.rounds[p], auto.rounds[q])) for p, q, length in pairs if length
        ),
    )


def _loops(auto: _Automaton) -> dict[int, frozenset[int]]:
    """Return for each state that can come back to itself the states on its ways back."""
    inside = {s for s, rounds in enumerate(auto.rounds) if rounds > 1}  # only these repeat
    reach = {s: _closure(auto.follow, s, inside) for s in inside}
    return {
        s: frozenset(t for t in reach[s] if s in reach[t]) for s in sorted(inside) if s in reach[s]
    }


def _closure(follow: list[set[int]], start: int, inside: set[int]) -> set[int]:
    seen: set[int] = set()
    todo = list(follow[start] & inside)
    while todo:
        state = todo.pop()
        if state not in seen:
            seen.add(state)
            todo += follow[state] & inside
    return seen


def _doubled(auto: _Automaton, loops: dict[int, frozenset[int]]) -> bool:
    """Find a state that comes back to itself on one text in two ways: the work doubles with each round."""
    return any(len(ring) > 1 and _parts_and_meets(auto, s, ring) for s, ring in loops.items())


def _parts_and_meets(auto: _Automaton, state: int, ring: frozenset[int]) -> bool:
    """Walk two paths over one text through a ring; say whether they part and both come back."""
    todo = [(state, state, False)]
    seen = set(todo)
    while todo:
        one, two, parted = todo.pop()
        for a, b in product(auto.follow[one] & ring, auto.follow[two] & ring):
            auto.check()
            if not auto.masks[a] & auto.masks[b]:
                continue
            new = (a, b, parted or a != b)
            if new == (state, state, True):
                return True
            if new not in seen:
                seen.add(new)
                todo.append(new)
    return False


def _chained(auto: _Automaton, loops: dict[int, frozenset[int]], p: int, q: int) -> int:
    """Return the least length of a text that leads p to p, p to q and q to q; 0 where there is none."""
    todo = deque([((p, p, q), 1)])
    seen = {(p, p, q)}
    while todo:
        at, length = todo.popleft()
        for new in _steps(auto, loops[p], loops[q], at):
            if new == (p, q, q):
                return length
            if new not in seen:
                seen.add(new)
                todo.append((new, length + 1))
    return 0


def _steps(
    auto: _Automaton, ring: frozenset[int], other: frozenset[int], at: tuple[int, int, int]
) -> Iterator[tuple[int, int, int]]:
    one, middle, two = at
    for a in auto.follow[one] & ring:
        for c in auto.follow[two] & other:
            auto.check()
            both = auto.masks[a] & auto.masks[c]
            if both:
                for b in auto.follow[middle]:
                    auto.check()
                    if both & auto.masks[b]:
                        yield a, b, c
