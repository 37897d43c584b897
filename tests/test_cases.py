"""Whole corpora of real failures: what `raywatch scan` must say of each (tests/cases/expected.yaml)."""

from pathlib import Path

import pytest
import yaml

from tests.bench.score import failures_of, score

CASES = Path(__file__).parent / "cases"
EXPECTED = yaml.safe_load((CASES / "expected.yaml").read_text())


@pytest.mark.parametrize("name", [n for n in EXPECTED if not EXPECTED[n].get("live_only")])
def test_a_scan_says_what_failed(name):
    """Class, scope, number of incidents, resume, effects and culprit are right for a real failure."""
    assert score(CASES, name, EXPECTED[name]) == []


def test_the_score_can_fail():
    """A scenario with nothing found, or with the wrong class, is not called right."""
    assert failures_of(EXPECTED["A2_kill_mf0"], []) == ["class worker_crash missing"]
    assert score(CASES, "A1_clean", EXPECTED["A2_kill_mf0"]) == ["class worker_crash missing"]
