"""Which expressions are refused, with what reason: and that what is let through is linear, by counted work."""

import re
import sys
import warnings
from contextlib import suppress

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raywatch.core import patterns
from raywatch.core.compiling import compile_ruleset
from raywatch.core.expressions import expression
from raywatch.core.growth import growth
from raywatch.core.lint import MAX_LOOKS, expressions_of, literal_length
from raywatch.core.patterns import Chars, Edge, Either, Node, PatternError, Repeat, Seq, parse
from raywatch.core.signatures import CAPTURE_WINDOW, SignatureError
from raywatch.pipeline import load_ruleset
from tests import twin

REFUSED = {
    # what Hyperscan cannot, or not in linear time
    "(?=x)word": "look-around",
    "(?<!x)word": "look-around",
    "(?!)word": "look-around",
    r"(w)ord\1": "refers back",
    "(?P<a>w)ord(?P=a)": "refers back",
    "(w)?ord(?(1)x|y)": "depends on a group",
    "wordy{1,40000}z": "the engine refuses it",
    # what no line holds
    r"word\n": "has a newline",
    r"word\r?\n": "has a newline",
    r"word\x0a": "has a newline",
    r"word\012": "has a newline",
    "word[\\n]": "has a newline",
    r"word[^\s\S]": "no character of a line",
    # what Python and the engine, or bytes and text, read differently
    "[[:alpha:]]word": "ambiguous",
    r"[\w--\d]word": "ambiguous",
    r"word\h": "bad escape",
    r"word\R": "bad escape",
    r"word\u00e9": "bad escape",
    "word(?i)s": "",  # an error or a warning, by version
    "(?u)word": "flags",
    "(?L)word": "flags",
    "(?i)wordé": "beyond ASCII",
    "word[^é]": "beyond ASCII",
    "word[à-é]": "beyond ASCII",
    "(": "no regular expression",
    "(" * 3_000 + "word" + ")" * 3_000: "longer than",
    "(" * 1_500 + "word" + ")" * 1_500: "",  # nested too deeply, or read all right, by version
    "word" * 2_000: "longer than",
    # what matches everything
    "x*": "empty string",
    r"\b": "empty string",
    "^$": "empty string",
    "(?:word)?": "empty string",
    # what is quadratic or worse
    r"\S+word": "quadratic",
    r"(?P<file>\S+\.cu): word": "quadratic",
    "(a+)+word": "quadratic",
    "(?:a|a)*word": "quadratic",
    "(?:a?b?)*word": "quadratic",
    "word=(a+)+;": "quadratic",
    "word=(?:a|ab|b)*;": "quadratic",
    r"word\S+\S+\[": "quadratic",
    "word.*.*=": "quadratic",
    "wordx*x*y": "quadratic",
    # what hits all the time
    "stats": "healthy clusters",
    r" \d+ total \(": "healthy clusters",
    "(?i)failures?:": "healthy clusters",
    # what the engine cannot look for
    r"\d{4}-\d\d": "4 bytes in a row",
    "[0-9a-f]{56}": "4 bytes in a row",
    "(?i)oom": "4 bytes in a row",
    "a.*b": "4 bytes in a row",
    "word|oom": "4 bytes in a row",
    "wo(?:rd)?": "4 bytes in a row",
}


def refusal(pattern: str, key: str = "any") -> str:
    """What is said of a signature that holds it; empty where nothing is."""
    more = {} if key == "any" else {key: [pattern]}
    rules = twin.ruleset([pattern if key == "any" else "word"], **more)
    try:
        compile_ruleset(rules)
    except SignatureError as error:
        return str(error)
    return ""


@pytest.mark.parametrize("pattern", [p for p in REFUSED if REFUSED[p]], ids=lambda p: p[:40])
def test_it_is_refused_with_its_place_and_the_reason(pattern):
    """`path:line: id: key: 'pattern' reason`."""
    said = refusal(pattern)

    assert said.startswith("rules.yaml:1: s0: any: ")
    assert REFUSED[pattern] in said


@pytest.mark.parametrize("pattern", [p for p in REFUSED if not REFUSED[p]], ids=lambda p: p[:40])
def test_what_depends_on_pythons_version_is_refused_or_means_the_same(pattern):
    """No crash, no warning."""
    said = refusal(pattern)

    assert said.startswith("rules.yaml:1: s0: any: ") or twin.line_regex(pattern).search(b"word")


@pytest.mark.parametrize("pattern", ["word(?>a)", "worda++"])
def test_atomic_parts_are_refused(pattern):
    """Newer Pythons know them, older ones know no such expression."""
    assert re.search("atomic|possessive|no regular expression", refusal(pattern))


@pytest.mark.parametrize(
    ("pattern", "written"),
    [
        (r"word\s+x", rb"(?:word[\x09\x0b-\x0d ]+x).*$"),
        (r"(?s)word.x", rb"(?:word.x).*$"),
        (r"[\s\S]word", rb"(?:.word).*$"),
        (r"[\x00-\x20]word", rb"(?:[\x00-\x09\x0b- ]word).*$"),
        (r"\Aword\Z", rb"(?:^word)$"),
        (r"(?m)^word$", rb"(?:^word)$"),
        ("word{,3}x", rb"(?:wor" + rb"d{0,3}x).*$"),
        ("(?i:W)ord", rb"(?:[Ww]ord).*$"),
        (r"(?x) word \  # spaced", rb"(?:word ).*$"),
        ("(?a)(?P<n>word)", rb"(?:word).*$"),
        (r"word\v", rb"(?:word\x0b).*$"),
        ("wordé+x", rb"(?:word(?:\xc3\xa9)+x).*$"),
        ("word[aé]x", rb"(?:word(?:\xc3\xa9|a)x).*$"),
        (r"word\d+", rb"(?:word[0-9]).*$"),
        (r"(?:x )?word.*", rb"(?:word).*$"),
        ("word[^ab]x", rb"(?:word[\x00-\x09\x0b-`c-\xff]x).*$"),
        (r"word(?#why)|words", rb"(?:word(?:|s)).*$"),
    ],
)
def test_it_is_written_for_the_engine_in_sets_of_bytes(pattern, written):
    """What each construct becomes; that it means the same is the business of test_matcher."""
    assert expression(parse(pattern)) == written.replace(b"\xc3", rb"\xc3").replace(
        b"\xa9", rb"\xa9"
    )


@pytest.mark.parametrize("key", ["unless", "capture"])
@pytest.mark.parametrize(
    ("pattern", "reason"),
    [
        ("(?=x)word", "look-around"),
        ("x*", "empty string"),
        (r"(?P<f>\S+)\[", "square"),
        ("death message = (?P<m>.*?) node_id=", "square"),
        (r"\{[^}\n]*\}", "square"),
        ("(a+)+b", "square"),
        ("=(a+)+;", "square"),
        ("(?i)1[^a1]*é*;", "square"),
        ("=[^ü=]*é*;", "square"),
        (r"=\w*é*;", "square"),
        (r"1[^\d]*é*;", "square"),
        ("=(?:a|ab|b)*;", "square"),
        ("(?:a|a)*b", "square"),
        ("(?:a?){30}b", "square"),
        ("x{1,4}x{1,4}x{1,4}y", "square"),
        ("a{1,20}b.{1,900}c", "square"),
        ("[[:alpha:]]", "ambiguous"),
        ("(", "no regular expression"),
        ("x{99999999999}", "no regular expression"),
        ("(?:word ?){2001}x", "positions"),
        (r"=(?:\S{60}x)+;", "to be checked"),
        ("=" + "(?:a?b?c?){9}" * 20 + ";", "to be checked"),
    ],
)
def test_what_hurts_on_a_record_is_refused(key, pattern, reason):
    """These run in `re`, on text that a program may have written to hurt."""
    said = refusal(pattern, key)

    assert said.startswith(f"rules.yaml:1: s0: {key}: ")
    assert reason in said


LINEAR = [
    r"Job (?P<id>\S+) entrypoint command exited with code (?P<code>-?\d+)",
    r"^(?P<exception>[A-Za-z_][\w.]*(?:Error|Exception))\b",
    r"death message = (?P<m>.{0,300}?) node_id=",
    r"storage folder at: '(?P<path>[^'\n]+)'",
    r"pid=(?P<pid>\d+)\s*,",
    r"rest of it: (?P<rest>.*)",
    "a word\nand one on the next line",
    "(?:é|ü) word [^é]",
    r"=\d*\s*[^\w\s=]*;",
    r"\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3}:\d+",
]


@pytest.mark.parametrize("pattern", LINEAR)
def test_what_is_linear_on_a_record_is_not_refused(pattern):
    """Also with several lines, which records have, and with characters beyond ASCII."""
    assert refusal(pattern, "capture") == ""


@pytest.fixture(autouse=True)
def _deep():
    """The counter below calls itself for each character."""
    before = sys.getrecursionlimit()
    sys.setrecursionlimit(12_000)
    yield
    sys.setrecursionlimit(before)


class TooManyError(Exception):
    """Too many."""


class Counter:
    """A backtracking matcher as `re` is one, which counts how often it looks at a character."""

    def __init__(self, limit: int) -> None:
        self.steps, self.limit = 0, limit

    def search(self, tree: Node, text: bytes) -> bool:
        return any(self.match(tree, text, at, lambda _: True) for at in range(len(text) + 1))

    def match(self, node: Node, text: bytes, at: int, then) -> bool:
        match node:
            case Chars(mask):
                self.steps += 1
                if self.steps > self.limit:
                    raise TooManyError
                return at < len(text) and bool(mask >> text[at] & 1) and bool(then(at + 1))
            case Edge(where):
                return self.is_edge(where, text, at) and bool(then(at))
            case Seq(items):
                if not items:
                    return bool(then(at))
                rest = Seq(items[1:])
                return self.match(items[0], text, at, lambda to: self.match(rest, text, to, then))
            case Either(branches):
                return any(self.match(b, text, at, then) for b in branches)
            case Repeat():
                return self.repeat(node, text, at, then, 0)

    def repeat(self, node: Repeat, text: bytes, at: int, then, done: int) -> bool:
        def again(to: int) -> bool:
            return (to > at or done < node.low) and self.repeat(node, text, to, then, done + 1)

        more = node.high is None or done < node.high
        if more and self.match(node.body, text, at, again):
            return True
        return done >= node.low and bool(then(at))

    def is_edge(self, where: str, text: bytes, at: int) -> bool:
        if where == "^":
            return at == 0 or text[at - 1 : at] == b"\n"
        if where == "$":
            return at == len(text) or text[at : at + 1] == b"\n"
        words = [re.match(rb"\w", text[i : i + 1]) is not None for i in (at - 1, at) if i >= 0]
        return (words[0] != words[-1] or (at == 0 and words[0])) == (where == r"\b")


def looks(pattern: str, text: bytes) -> float:
    """How often it looks at a character, for each character of the text."""
    counter = Counter(100 * len(text))
    try:
        counter.search(parse(pattern, record=True), text)
    except TooManyError:
        return 100.0
    return counter.steps / len(text)


PARTS = [
    "a",
    "b",
    "ab",
    "[ab]",
    "a*",
    "b+",
    "a?",
    "[ab]*",
    "(?:ab)*",
    "(?:a|ab)",
    "a{1,3}",
    "(?:a*b)*",
    "^",
]


@settings(max_examples=300, deadline=None, derandomize=True)
@given(
    st.lists(st.sampled_from(PARTS), min_size=1, max_size=4).map("".join),
    st.lists(st.sampled_from(["a", "b", "ab", "ba", "aab", "\n"]), min_size=1, max_size=3),
)
def test_what_is_called_linear_is_linear_by_counted_work(pattern, piece):
    """A hostile text of one piece again and again, then what does not fit: twice the text, twice the work."""
    whole = f"{pattern}c"
    found = growth(parse(whole, record=True))
    texts = ["".join(piece) * n for n in (12, 24)]
    one, two = (looks(whole, t.encode()) for t in texts)

    if not found.shared and not found.exponential:
        assert two <= one * 1.2 + 1
    if two > one * 1.6:  # it grows: then this was known
        assert found.per_character(CAPTURE_WINDOW) > MAX_LOOKS


@pytest.mark.parametrize(
    ("pattern", "piece"),
    [
        ("[ab]+c", "ab"),
        ("ab[ab]*c", "ab"),
        ("a*a*c", "a"),
        ("(?:a*b)*c", "ab"),
        ("(?:a+)+c", "a"),
        ("a.*b.*c", "ab"),
    ],
)
def test_what_is_refused_does_grow(pattern, piece):
    """By counted work: the reason is no invention."""
    one, two = (looks(pattern, (piece * n).encode()) for n in (15, 30))

    assert two > 1.6 * one or two == 100.0
    assert growth(parse(pattern, record=True)).per_character(CAPTURE_WINDOW) > MAX_LOOKS


def test_the_shipped_captures_are_bounded_on_hostile_text():
    """Each shipped pattern on a window full of what it begins with: counted."""
    for s in load_ruleset().signatures:
        for pattern in (*s.unless, *s.capture):
            head = re.split(r"[\\(\[?+*.{^|]", pattern.lstrip("^"))[0] or "a"
            assert looks(pattern, (head * 1_500)[:1_500].encode()) < 2 * MAX_LOOKS, pattern


@pytest.mark.parametrize(
    ("pattern", "length"),
    [
        ("nvme", 4),
        ("(?i)loss", 4),
        ("f{8}x", 9),
        ("ab(?:cd)ef", 6),
        ("ab[cC]d", 4),
        ("ab[cd]e", 2),
        ("a.*bcd", 3),
        ("abc(?:de)?f", 3),
        ("x{2,}abc", 4),
        ("abcd{1,3}e", 4),
        (r"abc\bdef", 6),
        ("(?:Error|Exception)", 4),
        ("(?:abcde|fgh)", 3),
        ("(?:abcde|f?)", 0),
        ("(?:abc){2}d", 7),
    ],
)
def test_the_literal_that_every_match_holds(pattern, length):
    """The longest run of bytes, whatever else the expression may match."""
    assert literal_length(parse(pattern)) == length


def test_pythons_parser_is_as_it_was():
    """A canary: it is no public module. What our reader takes from it, node by node."""
    tree = patterns._read("a[^b-d\\w]{2,}(?i:.)(?P<n>^|x)+?$\\b")

    assert [str(op) for op, _ in tree] == [
        "LITERAL",
        "MAX_REPEAT",
        "SUBPATTERN",
        "MIN_REPEAT",
        "AT",
        "AT",
    ]
    assert str(tree[1]) == (
        "(MAX_REPEAT, (2, MAXREPEAT, [(IN, [(NEGATE, None), (RANGE, (98, 100)), (CATEGORY, CATEGORY_WORD)])]))"
    )
    assert str(tree[2]) == f"(SUBPATTERN, (None, {re.IGNORECASE.value}, 0, [(ANY, None)]))"
    assert str(tree[3][1][2]) == (
        "[(SUBPATTERN, (1, 0, 0, [(BRANCH, (None, [[(AT, AT_BEGINNING)], [(LITERAL, 120)]]))]))]"
    )
    assert [str(value) for _, value in tree[4:]] == ["AT_END", "AT_BOUNDARY"]


def test_the_shipped_signatures_pass_without_a_warning():
    """All of them, and Python has nothing to say about them."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        found = [expressions_of(s) for s in load_ruleset().signatures]

    assert all(found)


@settings(max_examples=500, deadline=None, derandomize=True)
@given(st.text(st.sampled_from("ab(|)[]^$*+?{},1\\.dwsnxé:<P>=-\n#i&~"), max_size=20))
def test_any_text_is_read_or_refused(text):
    """A reason, never another error."""
    for record in (False, True):
        with suppress(PatternError):
            assert growth(parse(text, record=record)).per_character(CAPTURE_WINDOW) >= 1
