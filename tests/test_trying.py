"""For who writes signatures: what they do to a log, drafts for the unexplained, and a schema for editors."""

import json

import jsonschema
import pytest
import yaml

from raywatch.core.samples import check
from raywatch.core.signature_files import parse_signatures
from raywatch.core.signature_schema import signature_schema
from raywatch.core.signatures import SignatureError
from raywatch.pipeline import checked_engine, load_ruleset
from raywatch.resources import resource_dir
from raywatch.trying import drafts, render_tried, tried
from tests.test_cli import CRASH, raywatch

CLASSES = load_ruleset().classes
SCHEMA = jsonschema.Draft202012Validator(signature_schema(CLASSES))
UNKNOWN = (
    "2026-11-23 07:28:46,793\tERROR shards.py:229 -- the frobnicator gave up on shard 7\n"
    "fine\n"
    "2026-11-23 07:28:47,793\tERROR shards.py:229 -- the frobnicator gave up on shard 8\n"
    "2026-11-23 07:28:48,793\tERROR other.py:1 -- no such colour\n"
)


@pytest.fixture
def log(tmp_path):
    """A log with two kinds of errors that nobody knows."""
    path = tmp_path / "dashboard.log"
    path.write_text(UNKNOWN)
    return str(path)


def test_a_draft_passes_its_own_check(log, tmp_path):
    """As it is printed, the most frequent first, and with it the lines are unexplained no more."""
    mine = tmp_path / "mine.yaml"
    mine.write_text(drafts([log], count=9))
    first, second = yaml.safe_load(mine.read_text())
    engine = checked_engine([str(mine)])

    assert (first["id"], first["any"]) == (
        "the-frobnicator-gave-up-on",
        [r"the\s+frobnicator\s+gave\s+up\s+on\s+shard"],
    )
    assert first["where"] == {"component": ["dashboard"]}
    assert (first["hits"], second["id"]) == (
        [UNKNOWN.splitlines()[0], UNKNOWN.splitlines()[2]],
        "no-such-colour",
    )
    assert check(engine.ruleset, engine.matcher) == []
    mine.write_text(mine.read_text().replace("unknown_failure", "user_exception"))
    assert yaml.safe_load(drafts([log], count=9, rules=[str(mine)])) == []
    assert yaml.safe_load(drafts([log], count=1)) == [first]


def test_hostile_lines_make_drafts_that_are_only_texts(tmp_path):
    """YAML, expressions and terminals in a line: quoted, escaped, or no draft at all."""
    path = tmp_path / "x.log"
    lines = [
        "ERROR (a+)+$ [b-z]{99} *** ??? and more of it",
        "ERROR !!python/object/apply:os.system ['true'] and so on",
        "ERROR \x1b[31m red \x1b]0;title\x07 words of some length",
        "ERROR - id: x # y",
        "ERROR " + "z" * 3000,
    ]
    path.write_text("\n".join(lines) + "\n")
    text = drafts([str(path)], count=9)

    parsed = parse_signatures(text, "draft", CLASSES)
    assert len(parsed) >= 3
    assert "\x1b" not in text
    assert all(s.class_id == "unknown_failure" and s.maturity == "trial" for s in parsed)


def test_nothing_unknown_no_draft(tmp_path):
    """A healthy log, and one that is explained."""
    path = tmp_path / "gcs_server.out"
    path.write_text("fine\n" + CRASH)

    assert yaml.safe_load(drafts([str(path)], count=5)) == []


MINE = r"""
- {id: shard-lost, class: user_exception, where: {component: [dashboard]}, any: ['gave up on shard \d+'], unless: ['shard 8'],
   capture: 'shard (?P<shard>\d+)'}
- {id: colour-lost, class: user_exception, where: {component: [raylet]}, any: ['no such colour']}
"""


def test_what_a_signature_does_is_told(log, tmp_path):
    """Lines hit, those that `where` and `unless` keep from counting, the first that counts and what it gives."""
    mine = tmp_path / "mine.yaml"
    mine.write_text(MINE)
    found = {t.signature.id: t for t in tried([log], rules=[str(mine)])}
    shard, colour = found["shard-lost"], found["colour-lost"]

    assert (shard.lines, shard.counts, shard.excluded, shard.elsewhere) == (2, 1, 1, 0)
    assert (shard.first, dict(shard.gives)) == (f"{log}:1", {"shard": "7"})
    assert (colour.lines, colour.counts, colour.elsewhere) == (1, 0, 1)
    assert "`where` does not name that component" in render_tried([colour], as_json=False)
    assert json.loads(render_tried([shard], as_json=True))[0]["id"] == "shard-lost"


def test_the_verbs(log):
    """As people call them."""
    code, out, _ = raywatch("rules", "test", log)
    assert (code, out.splitlines()[0]) == (0, "error-level (unknown_failure): 3 lines")
    code, out, _ = raywatch("rules", "suggest", "-n", "1", log)
    assert (code, len(yaml.safe_load(out))) == (0, 1)
    code, out, _ = raywatch("rules", "schema")
    assert (code, json.loads(out)["title"]) == (0, "raywatch signatures")
    code, _, err = raywatch("rules", "test", "/nowhere.log")
    assert (code, err.count("\n")) == (2, 1)


@pytest.mark.parametrize("path", sorted((resource_dir("rules") / "signatures").glob("*.yaml")))
def test_the_shipped_files_fit_the_schema(path):
    """Each file, as an editor would check it."""
    SCHEMA.validate(yaml.safe_load(path.read_text()))


@pytest.mark.parametrize(
    "text",
    [
        "- {id: A, class: worker_crash, where: {component: [gcs]}, any: [x]}",
        "- {id: a, class: nope, where: {component: [gcs]}, any: [word]}",
        "- {id: a, class: worker_crash, any: [word]}",
        "- {id: a, class: worker_crash, where: {component: [gsc]}, any: [word]}",
        "- {id: a, class: worker_crash, where: {component: [gcs]}, any: [7]}",
        "- {id: a, clas: worker_crash, where: {component: [gcs]}, any: [word]}",
        "- {id: a, class: worker_crash, fact: f, where: {component: [gcs]}, any: [word]}",
        "- {id: a, class: worker_crash, where: {component: [gcs]}, any: [word], confidence: 2}",
        "- {id: a, class: worker_crash, where: {component: [gcs]}, any: [word], trust: much}",
        "- {id: a, class: worker_crash, where: {component: [gcs]}, any: [word], hits: [{txt: x}]}",
    ],
)
def test_schema_and_parser_refuse_the_same(text):
    """What an editor marks is what `rules check` refuses."""
    assert not SCHEMA.is_valid(yaml.safe_load(text))
    with pytest.raises(SignatureError):
        parse_signatures(text, "mine.yaml", CLASSES)
