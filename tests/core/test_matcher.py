"""The matcher against its twin in pure Python: same hits, byte for byte, for any chunk."""

import re
from functools import lru_cache

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from raywatch.core.compiling import compile_ruleset
from raywatch.core.matcher import Matcher
from raywatch.core.signatures import SignatureError
from raywatch.model import Hit
from raywatch.pipeline import checked_engine
from tests import twin

PATTERNS = [
    r"worker_id = (?P<w>[0-9a-f]+), .*exit_type = SYSTEM_ERROR",
    r"'[^']+' failed",
    r"lost\s+node",
    r"^Traceback \(most recent",
    r"(?i)out of memory",
    r"code \d+\b",
    r"aaaa\Wb",
    r"end of file$",
]
RULES = twin.ruleset(PATTERNS)
MATCHER = compile_ruleset(RULES)
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
    b"aaaa-b",
    b"aaaa\nb",
    b"lost\nnode",
    b"lost\x0bnode",
    b"end of file",
    b"\n",
    b"\r\n",
    b"\xff\xfe\x00",
    b"\xc0\xc1\xf5",
    b"\t",
]
# What is no text: invalid UTF-8, NUL, terminal codes, what Unicode calls a new line or a digit, very long lines.
NOISE = [
    b"\n",
    b"\n\n",
    b"\r",
    b"\r\n",
    b"\x00",
    b"\xff\xfe",
    b"\xc3",
    b"\x80",
    b"\xc0\xc1\xf5",
    b"\x1b[31m",
    b"\x0b",
    b"\x0c",
    b"\x1c",
    b"\x85",
    "\u2028".encode(),
    "٣".encode(),
    "é".encode(),
    "ſ".encode(),
    b" ",
    b"x" * 5_000,
    b"\\n",
    b'"',
]
LETTERS = "ab-_ 0é"
SETTINGS = settings(max_examples=400, deadline=None, derandomize=True)


def assert_same_hits(matcher: Matcher, rules, data: bytes, cuts=()) -> None:
    """Whole, and in parts that are cut at any line starts."""
    expected = twin.hits(rules, data)

    assert matcher.scan(data) == expected
    joined = [
        Hit(h.signature, at + h.start, at + h.end)
        for at, part in twin.parts(data, cuts)
        for h in matcher.scan(part)
    ]
    assert joined == expected


@SETTINGS
@given(st.lists(st.sampled_from(PIECES), max_size=30), st.lists(st.integers(0, 300), max_size=5))
def test_the_database_and_its_twin_agree(pieces, cuts):
    """For any chunk of such pieces, also with invalid UTF-8, both name the same signatures and lines."""
    assert_same_hits(MATCHER, RULES, b"".join(pieces), cuts)


def literals():
    """Texts; the characters that mean something are escaped."""
    return st.text(LETTERS, min_size=1, max_size=3).map(re.escape)


def classes():
    """Sets of bytes as people and machines write them, with the newline in some."""
    shorthands = [r"\s", r"\S", r"\w", r"\W", r"\d", r"\D", ".", r"[^\W_]", r"[^a]", r"[^\s-]"]
    written = ["[a-]", "[]a]", "[^]a]", r"[\x00- ]", r"[\s\S]", r"[\n-a]", "[ab\\n]", r"[\w-]"]
    flagged = [
        "(?s:.)",
        "(?i:A)",
        "(?i:[^B])",
        r"(?i:\x41)",
        "(?-i:a)",
        r"\x61",
        r"\142",
        "(?:é|a)",
    ]
    return st.sampled_from(shorthands + written + flagged)


def edges():
    """Places."""
    return st.sampled_from(["^", "$", r"\A", r"\Z", r"\b", r"\B"])


REPEATS = ["*", "+", "?", "{2}", "{1,3}", "{,2}", "{2,}", "*?", "+?", "??", "{1,2}?"]


def grown(inner):
    """Larger expressions out of smaller ones."""
    return st.one_of(
        st.lists(inner, min_size=2, max_size=3).map("".join),
        st.lists(inner, min_size=2, max_size=3).map(lambda p: f"(?:{'|'.join(p)})"),
        st.tuples(inner, st.sampled_from(REPEATS)).map(lambda p: f"(?:{p[0]}){p[1]}"),
        inner.map(lambda p: f"(?i:{p})" if p.isascii() else f"({p})"),
    )


EXPRESSIONS = st.recursive(st.one_of(literals(), classes(), edges()), grown, max_leaves=8)
TEXTS = st.lists(
    st.one_of(
        st.sampled_from([n for n in NOISE if len(n) < 9]),
        st.text(LETTERS + "AB", max_size=6).map(str.encode),
        st.just(b"WORD"),
    ),
    max_size=12,
).map(b"".join)


@lru_cache(maxsize=512)
def engine_for(pattern: str):
    """A matcher for one pattern, None where it is refused."""
    rules = twin.ruleset([pattern])
    try:
        return rules, compile_ruleset(rules)
    except SignatureError:
        return None


@settings(SETTINGS, max_examples=400)
@given(
    EXPRESSIONS,
    EXPRESSIONS,
    st.lists(TEXTS, min_size=3, max_size=6),
    st.lists(st.integers(0, 60), max_size=3),
)
def test_what_is_not_refused_means_what_python_means(before, after, texts, cuts):
    """Any expression out of all constructs: refused, or the same hits as by `re`, line by line."""
    made = engine_for(f"{before}WORD{after}")
    assume(made is not None)
    rules, matcher = made
    for text in texts:
        data = text + b"WORD" + texts[0] + b"\n" + text
        assert_same_hits(matcher, rules, data, cuts)


SETS = [
    r"\s",
    r"\S",
    r"\w",
    r"\W",
    r"\d",
    r"\D",
    ".",
    "(?s:.)",
    r"\b.",
    r"\B.",
    r"[^\W_]",
    r"[^\s-]",
]
MIXED = [
    "(?i:[a-k])",
    "(?i:[^A-K])",
    "(?i:a(?-i:b)?)",
    "(?i:(?-i:[a-k]))",
    r"[\x00- ]",
    r"[\x80-\xff]",
]


@pytest.mark.parametrize("part", SETS + MIXED)
def test_a_set_holds_the_bytes_that_it_holds_in_python(part):
    """Each of the 256, before and behind a word."""
    rules = twin.ruleset([f"a{part}WORD", f"WORD{part}b"])
    lines = [
        b"%sWORD%s" % pair
        for n in range(256)
        for b in [bytes([n])]
        for pair in ((b"a" + b, b""), (b"", b + b"b"))
    ]

    assert_same_hits(compile_ruleset(rules), rules, b"\n".join(lines))


SHIPPED = checked_engine()
SAMPLES = [s.text.encode() for r in SHIPPED.ruleset.signatures for s in (*r.hits, *r.misses)]


@settings(SETTINGS, max_examples=200)
@given(st.data())
def test_the_shipped_signatures_and_their_twins_agree(data):
    """On text made of their own samples, cut and mixed with noise."""
    pieces = []
    for sample in data.draw(st.lists(st.sampled_from(SAMPLES), max_size=5)):
        at = data.draw(st.integers(0, len(sample)))
        noise = data.draw(st.sampled_from([b"", b"\n", *NOISE]))
        pieces += [sample[:at], noise, sample[at:], data.draw(st.sampled_from([b"\n", b" ", b""]))]
    cuts = data.draw(st.lists(st.integers(0, 2_000), max_size=4))

    assert_same_hits(SHIPPED.matcher, SHIPPED.ruleset, b"".join(pieces), cuts)


def test_every_sample_is_reached():
    """The texts above do hit: each signature's own samples, whole, and each hit is the twin's."""
    data = b"\n".join(SAMPLES)
    found = SHIPPED.matcher.scan(data)

    assert found == twin.hits(SHIPPED.ruleset, data)
    assert {h.signature for h in found} == set(range(len(SHIPPED.ruleset.signatures)))


def test_no_pattern_matches_across_a_newline():
    """Negated classes and \\s stop at the end of the line."""
    assert MATCHER.scan(b"'x\n' failed\nlost\nnode\naaaa\nb") == []


def test_a_dumped_database_gives_the_same_hits():
    """Loading what was dumped replaces compiling."""
    loaded = Matcher.load(MATCHER.dump())

    assert loaded.scan(b"lost node") == MATCHER.scan(b"lost node") == [Hit(2, 0, 9)]


def test_what_sets_the_engines_stride_is_never_reported():
    """The three bytes that no text holds hit nothing, also where there is no signature at all."""
    assert MATCHER.scan(b"a\xc0\xc1\xf5b\n") == []
    assert compile_ruleset(twin.ruleset([])).scan(b"a\xc0\xc1\xf5b\n") == []


def test_a_character_beyond_ascii_is_whole():
    """In a class and under a repeat it is all its bytes, never one of them."""
    rules = twin.ruleset(["[éü]x WORD", "(?:é)+x WORD", "é+y WORD"])

    assert compile_ruleset(rules).scan("éx WORD".encode()) == [Hit(0, 0, 8), Hit(1, 0, 8)]
    assert compile_ruleset(rules).scan("ééy WORD".encode()) == [Hit(2, 0, 10)]
    assert compile_ruleset(rules).scan(b"\xa9x WORD") == []


@pytest.mark.parametrize("text", [b"", b"\n", b"\n\n", b"\xc0\xc1\xf5"])
def test_nothing_in_nothing(text):
    """Empty data, empty lines."""
    assert MATCHER.scan(text) == []


def test_a_long_line_is_one_line():
    """A megabyte without a newline, with every sample in it, is one line and one hit a signature."""
    data = b"x" * (1 << 20) + b" ".join(SAMPLES).replace(b"\n", b" ")
    found = SHIPPED.matcher.scan(data)

    assert found == twin.hits(SHIPPED.ruleset, data)
    assert len(found) > len(SHIPPED.ruleset.signatures) // 2
    assert SHIPPED.matcher.scan(data[: 1 << 20]) == []
