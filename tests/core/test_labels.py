"""The `run` label: users' names, whatever they are, as bounded and distinct labels that stay."""

import re
from dataclasses import replace

from hypothesis import given
from hypothesis import strategies as st

from raywatch.core.labels import MAX_LABEL, assigned, label_of, newest
from raywatch.model import Run

NAMES = st.text(st.characters(), max_size=100) | st.text('\n"\\{}=\ud800\u202e\x00a', max_size=12)
A, B = Run(id="exp@/s/1", name="exp"), Run(id="exp@/s/2", name="exp")


@given(NAMES, NAMES)
def test_labels_are_printable_bounded_and_as_distinct_as_names(one, other):
    """Also names that differ only behind the cut or in what cannot be printed."""
    first, second = label_of(one), label_of(other)

    assert first.isprintable()
    assert 0 < len(first) <= MAX_LABEL
    assert first.encode()
    assert (first == second) == (one == other or {one, other} == {"", "unnamed"})


def test_a_usual_name_is_its_label():
    """Nothing is added where nothing needs it."""
    assert label_of("llama-7b/lr=3e-4 über") == "llama-7b/lr=3e-4 über"
    assert re.fullmatch("x{55}-[0-9a-f]{8}", label_of("x" * 10_240))


def test_lineages_of_one_name_have_two_labels_and_keep_them():
    """The later one bears a digest, also once it stands first."""
    labels = assigned({}, [A])
    both = assigned(labels, [A, B])

    assert labels == {A.id: "exp"}
    assert both[A.id] == "exp"
    assert re.fullmatch("exp~[0-9a-f]{8}", both[B.id])
    assert assigned(both, [B, A]) is both
    assert assigned(both, [B]) == {B.id: both[B.id]}
    assert assigned(both, [A, replace(B, name="other")]) == {A.id: "exp", B.id: "other"}


def test_nobody_can_take_the_label_of_another():
    """A run may be named as another one is labelled."""
    two = assigned({}, [A, B])
    thief = Run(id="t", name=two[B.id])

    assert len(set(assigned({}, [thief, A, B]).values())) == 3


@given(st.lists(st.tuples(NAMES, st.booleans()), max_size=8))
def test_no_two_runs_share_a_label(rows):
    """Whatever their names are and were: two equal label sets would make the exposition invalid."""
    runs = [Run(id=f"r{i}", name=name) for i, (name, _) in enumerate(rows)]
    before = assigned({}, [replace(r, name="exp") for r in runs])
    labels = assigned(before, [r for r, (_, shown) in zip(runs, rows, strict=True) if shown])

    assert len(set(labels.values())) == len(labels) == sum(shown for _, shown in rows)


def test_what_goes_on_and_then_what_began_last_is_shown():
    """The oldest that are over have no series."""
    old = [Run(id=f"e{i}", status="finished", started_at=float(i)) for i in range(1, 6)]
    alive = Run(id="a", status="running", started_at=0.5)

    assert [r.id for r in newest([alive, *old], limit=3)] == ["e4", "e5", "a"]
