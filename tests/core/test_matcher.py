"""The matcher against its twin in pure Python: same hits, byte for byte, for any chunk."""

import re
from types import MappingProxyType

from hypothesis import given, settings
from hypothesis import strategies as st

from raywatch.core.matcher import Matcher, line_pattern
from raywatch.core.signatures import Ruleset, parse_signatures
from raywatch.model import FailureClass, Hit
from raywatch.pipeline import load_engine

CLASSES = MappingProxyType(
    {"x": FailureClass("x", "g", "root", "job", "none", "an x")},
)
PATTERNS = [
    r"worker_id = (?P<w>[0-9a-f]+), .*exit_type = SYSTEM_ERROR",
    r"'[^']+' failed",
    r"lost\s+node",
    r"^Traceback \(most recent",
    r"(?i)out of memory",
    r"code \d+\b",
    r"a\Wb",
    r"end of file$",
]
RULES = Ruleset(
    parse_signatures(
        "\n".join(
            f"- {{id: s{i}, class: x, where: {{component: [any]}}, any: [{p!r}]}}".replace(
                "\\\\", "\\"
            )
            if "'" not in p
            else f'- {{id: s{i}, class: x, where: {{component: [any]}}, any: ["{p}"]}}'
            for i, p in enumerate(PATTERNS)
        ),
        "rules.yaml",
        CLASSES,
    ),
    CLASSES,
)
MATCHER = Matcher(RULES)
PIECES = [
    b"worker_id = ab12, ",
    b"exit_type = SYSTEM_ERROR",
    b"'x",
    b"' failed",
    b"lost",
    b" ",
    b"node",
    b"Traceback (most recent",
    b"OUT of Memory",
    b"code 77",
    b"a-b",
    b"a\nb",
    b"lost\nnode",
    b"lost\x0bnode",
    b"end of file",
    b"\n",
    b"\r\n",
    b"\xff\xfe\x00",
    b"\t",
]


def twin(data: bytes) -> list[Hit]:
    """The same in pure Python, a line at a time."""
    found = set()
    start = 0
    for raw in data.split(b"\n"):
        for i, s in enumerate(RULES.signatures):
            if any(re.search(p.encode(), raw) for p in s.any):
                found.add(Hit(i, start, start + len(raw)))
        start += len(raw) + 1
    return sorted(found, key=lambda h: (h.start, h.signature))


@settings(max_examples=400, deadline=None, derandomize=True)
@given(st.lists(st.sampled_from(PIECES), max_size=30))
def test_the_database_and_its_twin_agree(pieces):
    """For any chunk of such pieces, also with invalid UTF-8, both name the same signatures and lines."""
    data = b"".join(pieces)

    assert MATCHER.scan(data) == twin(data)


def test_no_pattern_matches_across_a_newline():
    """Negated classes and \\s stop at the end of the line."""
    assert MATCHER.scan(b"'x\n' failed\nlost\nnode\na\nb") == []


def test_a_dumped_database_gives_the_same_hits():
    """Loading what was dumped replaces compiling."""
    loaded = Matcher(RULES, MATCHER.dump())

    assert loaded.key == MATCHER.key
    assert loaded.scan(b"lost node") == MATCHER.scan(b"lost node") == [Hit(2, 0, 9)]


def test_groups_lose_their_names():
    """Hyperscan knows no named groups; everything else stays as it was."""
    assert line_pattern(r"(?P<a>x) [^]y] \[z") == r"(?:x) [^\n\]y] \[z"


def test_a_long_line_is_scanned_in_linear_time():
    """A megabyte without a newline is one line and one hit."""
    data = b"x" * (1 << 20) + b" code 7"

    assert load_engine().matcher.scan(b"x" * (1 << 20)) == []
    assert MATCHER.scan(data) == [Hit(5, 0, len(data))]
