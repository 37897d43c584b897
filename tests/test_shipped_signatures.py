"""Every shipped signature hits its real lines, misses its near misses, and leaves the others' alone."""

import re

import pytest

from raywatch.core.compiling import compile_ruleset
from raywatch.core.declared import ASKED
from raywatch.core.samples import check
from raywatch.core.signature_files import parse_signatures
from raywatch.core.signatures import Ruleset, SignatureError
from raywatch.pipeline import checked_engine
from raywatch.resources import resource_dir

ENGINE = checked_engine()
GOOD = "- {id: a, class: worker_crash, where: {component: [gcs]}, any: ['it broke'], hits: ['1: it broke', '%s'], misses: ['it works', '%s'], refs: [r]}"


def test_the_shipped_signatures_pass_their_own_samples():
    """No problem with any of them."""
    assert check(ENGINE.ruleset, ENGINE.matcher, shipped=True) == []


def test_presets_that_a_run_asks_for_pass_their_own_samples():
    """They join the shipped ones; of those only their own lines are theirs to explain."""
    presets = [str(p) for p in sorted((resource_dir("rules") / "runs").glob("*.yaml"))]
    engine = checked_engine(presets)

    assert check(engine.ruleset, engine.matcher, shipped=True, paths=presets) == []
    assert {
        s.constants["framework"] for s in engine.ruleset.signatures if s.path in presets
    } == ASKED


@pytest.mark.parametrize(
    ("hit", "miss", "problem"),
    [
        ("nothing", "fine", "does not fire on its own hit"),
        ("it broke", "it broke too", "fires on its own near miss"),
    ],
)
def test_a_wrong_sample_is_found(hit, miss, problem):
    """The check can fail: a hit that does not hit, a miss that does."""
    assert [problem in p for p in problems(GOOD % (hit, miss))] == [True]


TWO = "hits: ['it broke', 'now it broke'], misses: ['fine', 'well'], refs: [r]"


@pytest.mark.parametrize(
    ("samples", "found"),
    [
        (TWO, []),
        (TWO.replace(", 'now it broke'", ""), ["hits: 1 given"]),
        (TWO.replace(", 'well'", ""), ["misses: 1 given"]),
        # One text twice is one sample.
        (TWO.replace("now it broke", "it broke"), ["hits: 1 given"]),
        (TWO.replace("'fine', 'well'", "fine, fine"), ["misses: 1 given"]),
        (TWO.replace("refs: [r]", "refs: []"), ["refs is empty"]),
        ("refs: []", ["hits: 0 given", "misses: 0 given", "refs is empty"]),
    ],
)
def test_a_shipped_signature_shows_two_hits_and_two_misses(samples, found):
    """The law can fail; it does not bind a user's own file."""
    text = WHERE + f"['it broke'], {samples}}}"

    assert [re.split(r"f\.yaml:\d+: a: |;", p)[1] for p in problems(text)] == found
    assert problems(text, shipped=False) == []


def problems(text: str, *, shipped: bool = True) -> list[str]:
    """Return what is wrong with the samples of a signature file."""
    classes = ENGINE.ruleset.classes
    rules = Ruleset(parse_signatures(text, "f.yaml", classes), classes)
    return check(rules, compile_ruleset(rules), shipped=shipped)


WHERE = "- {id: a, class: worker_crash, where: {component: [gcs]}, any: "


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ("- {id: A, class: worker_crash}", "kebab-case"),
        ("- {id: a, class: nope, where: {component: [gcs]}, any: [x]}", "not in the taxonomy"),
        ("- {id: a, class: worker_crash, any: [x]}", "where:"),
        (
            "- {id: a, class: worker_crash, where: {component: [gsc]}, any: [x]}",
            "'gsc' must be one of",
        ),
        (WHERE + "[7]}", "any: 7 must be a text"),
        (WHERE + "[broken], hits: ['a' 'b'", "not YAML"),
        ("- {id: a, clas: worker_crash}", "unknown key 'clas'"),
        ("\n- [", "not YAML"),
        ("[" * 200_000, "nested too deeply"),
        ("- " * 200_000, "nested too deeply"),
        ("{a: " * 200_000, "nested too deeply"),
        ("- &a [*a]", "a signature is a mapping"),
        ("id: a", "a signature file is a list"),
        ("", "a signature file is a list"),
    ],
)
def test_a_mistake_is_named_with_file_and_line(text, reason):
    """`path:line: id: what, and what would be right`."""
    with pytest.raises(SignatureError) as caught:
        parse_signatures(text, "mine.yaml", ENGINE.ruleset.classes)

    assert str(caught.value).startswith("mine.yaml:")
    assert reason in str(caught.value)
