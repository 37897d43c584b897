"""docs/metrics.md is what the code exports, and what it shows can be asked."""

import re
import subprocess
from pathlib import Path

import pytest
import yaml
from prometheus_client.parser import text_string_to_metric_families

from raywatch.families import FAMILIES
from tests.metricspage import OPEN, page, values
from tests.shell.test_metrics import VIEW, exposition

PAGE = Path(__file__).parent.parent / "docs" / "metrics.md"


def test_the_page_is_up_to_date():
    """Else: python -m tests.metricspage > docs/metrics.md"""
    assert PAGE.read_text() == page()


@pytest.mark.parametrize("family", FAMILIES.values(), ids=lambda f: f.name)
def test_every_label_is_explained(family):
    """By the list of what it may say, or by who gives its names."""
    assert [x for x in family.labels if x not in OPEN and not values(family, x)] == []
    assert f"| `{family.series}` |" in PAGE.read_text()


def test_what_is_exported_is_what_is_written():
    """Every name and its labels, of a view where everything is known."""
    found = {}
    for family in text_string_to_metric_families(exposition(VIEW)):
        labels = {k for s in family.samples for k in s.labels} - {"le"}
        found[family.name] = (family.type, labels, family.documentation)

    assert found == {
        f"raywatch_{f.name}": (f.kind, set(f.labels), f.text) for f in FAMILIES.values()
    }


def test_the_examples_can_be_asked(tmp_path):
    """Prometheus' own parser takes each, and they name only what there is."""
    queries = [f.query for f in FAMILIES.values() if f.query]
    rules = [{"record": f"q{i}", "expr": q} for i, q in enumerate(queries)]
    path = tmp_path / "rules.yml"
    path.write_text(yaml.safe_dump({"groups": [{"name": "examples", "rules": rules}]}))
    done = subprocess.run(["promtool", "check", "rules", path], capture_output=True, check=False)
    names = set(re.findall(r"raywatch_\w+", " ".join(queries)))

    assert (done.returncode, done.stderr) == (0, b"")
    assert {n.removesuffix("_bucket") for n in names} <= {f.series for f in FAMILIES.values()}
