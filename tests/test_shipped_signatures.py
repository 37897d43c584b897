"""Every shipped signature hits its real lines, misses its near misses, and leaves the others' alone."""

import pytest

from raywatch.core.compiling import compile_ruleset
from raywatch.core.samples import check
from raywatch.core.signature_files import parse_signatures
from raywatch.core.signatures import Ruleset, SignatureError
from raywatch.pipeline import checked_engine

ENGINE = checked_engine()
GOOD = "- {id: a, class: worker_crash, where: {component: [gcs]}, any: ['it broke'], hits: ['%s'], misses: ['%s'], refs: [r]}"


def test_the_shipped_signatures_pass_their_own_samples():
    """No problem with any of them."""
    assert check(ENGINE.ruleset, ENGINE.matcher, shipped=True) == []


@pytest.mark.parametrize(
    ("hit", "miss", "problem"),
    [
        ("nothing", "fine", "does not fire on its own hit"),
        ("it broke", "it broke too", "fires on its own near miss"),
    ],
)
def test_a_wrong_sample_is_found(hit, miss, problem):
    """The check can fail: a hit that does not hit, a miss that does."""
    rules = Ruleset(
        parse_signatures(GOOD % (hit, miss), "f.yaml", ENGINE.ruleset.classes),
        ENGINE.ruleset.classes,
    )

    assert [problem in p for p in check(rules, compile_ruleset(rules), shipped=True)] == [True]


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
