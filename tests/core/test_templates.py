"""What no signature explains, by template: counted exactly, in bounded memory."""

from dataclasses import replace

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from raywatch.core.templates import MAX_TEMPLATES, REST, Template, grouped, masked
from raywatch.model import Evidence, Finding, Subject, Trust


def finding(text: str, line: int = 1, count: int = 1) -> Finding:
    """An error-like record that stands for so many."""
    evidence = Evidence("f.log", line, text, None, "worker", "unknown_failure", "error-level")
    return Finding(
        class_id="unknown_failure",
        subject=Subject("job", ""),
        at=0.0,
        dated=False,
        evidence=evidence,
        signature="error-level",
        trust=Trust.SILENCE,
        confidence=0.3,
        fields={},
        entities=frozenset(),
        acts=False,
        count=count,
    )


def texts(*lines: str) -> list[tuple[str, int]]:
    """The templates of lines, with their counts."""
    return [(t.text, t.count) for t in grouped((), map(finding, lines))]


@pytest.mark.parametrize(
    ("line", "template"),
    [
        ("ERROR worker 17 lost 10.0.0.1:8265", "ERROR worker <*> lost <*>"),
        ("ERROR cannot read /data/a/b: 'x y' is \"not z\"", "ERROR cannot read <*> <*> is <*>"),
        ("\x1b[31mERROR\x1b[0m s3://bucket/key?x=y gone", "ERROR <*> gone"),
        ("ERROR  tabs\tand   blanks", "ERROR tabs and blanks"),
    ],
)
def test_what_surely_varies_is_a_variable(line, template):
    """Numbers, addresses, paths, quoted texts; colours and widths are nothing."""
    assert texts(line) == [(template, 1)]


def test_words_that_vary_become_variables():
    """Seven of ten words agree: one template; fewer: two."""
    assert texts(
        "ERROR shard alpha of the big table could not load",
        "ERROR shard beta of the big table could not load",
        "ERROR the index of a table was not found here",
    ) == [
        ("ERROR shard <*> of the big table could not load", 2),
        ("ERROR the index of a table was not found here", 1),
    ]


def test_the_first_and_the_last_line_are_kept():
    """With the count of all between, also of findings that stand for many."""
    (one,) = grouped(
        (), [finding("ERROR x 1", 3), finding("ERROR x 2", 5, 40), finding("ERROR x 3", 9)]
    )

    assert (one.count, one.first.line, one.last.line) == (42, 3, 9)
    assert grouped([one], [finding("ERROR x 4", 11)])[0].count == 43


WORDS = st.lists(st.sampled_from(["ERROR", "a", "b", "7", "'q'", "/x/y/z"]), min_size=1, max_size=6)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(st.lists(st.tuples(WORDS, st.integers(1, 9)), max_size=40), st.integers(0, 40))
def test_nothing_is_lost_and_cuts_change_nothing(lines, cut):
    """All that came is counted, and what is given in two parts is grouped as in one."""
    found = [finding(" ".join(words), n, count) for n, (words, count) in enumerate(lines)]
    whole = grouped((), found)

    assert sum(t.count for t in whole) == sum(count for _, count in lines)
    assert grouped(grouped((), found[:cut]), found[cut:]) == whole


def test_it_does_not_grow():
    """Thousands of shapes: the first two hundred are told apart, the rest is one, and all are counted."""
    shapes = [
        f"ERROR {chr(97 + a) * (b + 1)} {chr(97 + b) * (a + 1)}"
        for a in range(26)
        for b in range(26)
    ]
    found = grouped((), map(finding, shapes))

    assert len(found) == MAX_TEMPLATES + 1
    assert (found[-1].text, sum(t.count for t in found)) == (REST, len(shapes))
    again = grouped(found, [finding("ERROR yet another shape here now")])
    assert again[-1] == replace(found[-1], count=found[-1].count + 1, last=again[-1].last)


def test_a_hostile_line_costs_little():
    """Quotes and slashes without end: bounded, linear, no crash."""
    for text in ("'" * 100_000, "/a" * 100_000, "a://" * 50_000, "x " * 100_000, ""):
        assert len(masked(text)) <= 40
        assert isinstance(grouped((), [finding(text)])[0], Template)
