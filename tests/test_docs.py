"""What can be configured and called is written down, and what is written down exists."""

import re
from pathlib import Path

import pytest

from raywatch import config
from raywatch.cli import cli
from raywatch.core.declared import FRAMEWORKS
from raywatch.core.taxonomy import parse_taxonomy
from raywatch.declaring import KEYS
from raywatch.resources import resource_dir

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text()
CONFIGURATION = (ROOT / "docs" / "configuration.md").read_text()


def test_every_key_of_the_configuration_is_written_down():
    """With a value that the reader takes."""
    keys = {k for table in config.SECTIONS.values() for k in table} | set(config.RESUME) | set(KEYS)
    assert [
        k for k in sorted(keys) if not re.search(rf"^{k} = ", CONFIGURATION, re.MULTILINE)
    ] == []
    assert [k for k in config.HOOK if f"`{k}`" not in CONFIGURATION] == []


def test_the_written_configuration_is_one(tmp_path):
    """The example can be copied."""
    (example,) = re.findall(r"```toml\n(.*?)```", CONFIGURATION, re.DOTALL)
    path = tmp_path / "raywatch.toml"
    path.write_text(example)
    classes = parse_taxonomy((resource_dir("rules") / "taxonomy.yaml").read_text())
    found = config.load_config(path, {}, classes)

    assert [r.run for r in found.resume] == ["llm-*"]
    assert [r.name for r in found.declared.rules] == ["bert"]
    assert set(re.findall(r"^\[+(\w+)", example, re.MULTILINE)) == {
        *config.SECTIONS,
        "resume",
        "notice",
        "run",
    }


@pytest.mark.parametrize("framework", sorted(FRAMEWORKS))
def test_every_framework_is_written_down(framework):
    """With what its lines look like."""
    assert re.search(rf"^\|.*`{framework}`.*\|.*\|", CONFIGURATION, re.MULTILINE)


@pytest.mark.parametrize("verb", sorted(cli.commands))
def test_every_verb_is_in_the_readme(verb):
    """A user finds it without --help."""
    assert f"raywatch {verb}" in README


def test_links_lead_somewhere():
    """To files that are there."""
    for page in (ROOT / "README.md", *(ROOT / "docs").glob("*.md"), ROOT / "deploy" / "README.md"):
        for link in re.findall(r"\]\((?!https?:)([^)#]+)", page.read_text()):
            assert (page.parent / link).exists(), f"{page.name}: {link}"
