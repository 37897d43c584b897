"""A page for every class that a signature can name: its parts, its links, and the line that it quotes."""

import importlib.util
import io
import re
import shlex
import subprocess
import sys
from pathlib import Path

import click
import pytest
import yaml

from raywatch.archive import Guarded, Member
from raywatch.cli import cli
from raywatch.explain import _explain
from raywatch.pipeline import load_engine
from raywatch.runbooks import RunbookError, class_runbooks, pointer, runbook_text

ROOT = Path(__file__).parent.parent
ENGINE = load_engine()
CLASSES = ENGINE.ruleset.classes
NAMED = {s.class_id for s in ENGINE.ruleset.signatures if s.class_id}
SECTIONS = [
    "What happened",
    "The line that proves it",
    "Not to be confused with",
    "What raywatch does",
    "Check",
    "Mend now",
    "Prevent",
    "Sources",
]
_SECTION = re.compile(r"^## (.+)\n", re.MULTILINE)
_LINK = re.compile(r"\]\(([^)]+)\)")
_FENCE = re.compile(r"```(\w+)\n(.*?)\n```", re.DOTALL)
# Of the machines that pages are written on, not of those that they are read on.
_PRIVATE = re.compile(r"/(?:work|root|home|Users|usr/local|opt)/|site-packages|corpus/")


def parts(page: str) -> dict[str, str]:
    """Sections by their titles."""
    found = _SECTION.split(page)
    return {title: body.strip() for title, body in zip(found[1::2], found[2::2], strict=True)}


# A planned end alone is no failure.
VICTIM = "\nray.exceptions.ActorDiedError: The actor died because its node has died. Node Id: 0a"


def quoted(page: str) -> str:
    """The line that proves it."""
    ((kind, text),) = _FENCE.findall(parts(page)["The line that proves it"])
    assert kind == "text"
    return str(text)


def said(text: str) -> str:
    """What the engine says of a pasted text: the class that explains it best."""
    best = _explain(ENGINE, Member("-", Guarded(io.BytesIO(text.encode() + b"\n")))).best
    return best.class_id if best else "none"


def commands(page: str, program: str) -> list[list[str]]:
    """Every call of a program in the commands of a page."""
    found: list[list[str]] = []
    for line in parts(page)["Check"].splitlines()[1:-1]:
        words = shlex.shlex(line, posix=True, punctuation_chars="|;&<>")
        words.whitespace_split = True
        calls: list[list[str]] = [[]]
        for word in words:
            if set(word) <= set("|;&<>"):
                calls.append([])
            else:
                calls[-1].append(word)
        found += [c[1:] for c in calls if c[:1] == [program]]
    return found


def understood(cli: click.Group, argv: list[str]) -> str:
    """What a command line says against some arguments; empty where it takes them."""
    node: click.Command | None = cli
    rest = list(argv)
    while isinstance(node, click.Group):
        name = rest.pop(0) if rest else ""
        node = node.get_command(click.Context(node), name)
        if node is None:
            return f"no verb {name}"
    assert node is not None
    try:
        node.make_context("", rest)
    except click.ClickException as error:
        return error.format_message()
    return ""


def faults(name: str, page: str) -> list[str]:
    """What is wrong with a page."""
    found = parts(page)
    wrong = []
    if name not in CLASSES:
        return [f"{name} is no class"]
    if page.partition("\n")[0] != f"# {name}: {CLASSES[name].title}":
        wrong.append("the title is not the taxonomy's")
    if list(found) != SECTIONS or not all(found.values()):
        return [*wrong, "its sections are not the usual ones"]
    line = quoted(page) + VICTIM * (name == "node_terminated_expected")
    # An explanation does not name what is no failure.
    if said(line) != ("none" if CLASSES[name].role == "benign" else name):
        wrong.append(f"its line is {said(line)}")
    wrong += [f"no page {x}" for x in _LINK.findall(page) if x.removesuffix(".md") not in PAGES]
    wrong += [f"names a private path: {x}" for x in _PRIVATE.findall(page)]
    if not all(x.startswith("- <https://") for x in found["Sources"].splitlines()):
        wrong.append("a source is no URL")
    if f"`{CLASSES[name].resume}`" not in found["What raywatch does"] and (
        CLASSES[name].role != "warning"
    ):
        wrong.append("does not say what the taxonomy advises")
    return wrong


PAGES = {name: runbook_text(name) for name in class_runbooks()}


def test_every_class_that_a_signature_names_has_a_page():
    """And no page belongs to nothing."""
    assert NAMED - PAGES.keys() == set()
    assert PAGES.keys() - CLASSES.keys() == set()
    files = sorted(p.name for p in (ROOT / "runbooks").iterdir() if p.is_file())
    assert files == [f"{n}.md" for n in PAGES]


@pytest.mark.parametrize("name", PAGES)
def test_a_page_is_whole_and_right(name):
    """Title, sections, sources, links; the engine finds the class in the line that is quoted."""
    assert faults(name, PAGES[name]) == []


@pytest.mark.parametrize("name", PAGES)
def test_a_page_can_be_read_at_night(name):
    """Short enough, and its commands are shell."""
    lines = PAGES[name].splitlines()
    ((kind, commands),) = _FENCE.findall(parts(PAGES[name])["Check"])
    checked = subprocess.run(
        ["bash", "-n"], input=commands.encode(), capture_output=True, check=False
    )

    assert 25 <= len(lines) <= 60
    assert max(len(x) for x in lines if x not in quoted(PAGES[name])) <= 240
    assert (kind, checked.returncode, checked.stderr) == ("sh", 0, b"")
    assert commands.startswith("raywatch ")


def test_commands_of_raywatch_are_understood():
    """Every verb and option that a page tells to type."""
    typed = [c for p in PAGES.values() for c in commands(p, "raywatch")]

    assert len(typed) >= len(PAGES)
    assert {(*c, understood(cli, c)) for c in typed} == {(*c, "") for c in typed}
    assert understood(cli, ["incident"]) == "no verb incident"
    assert understood(cli, ["incidents", "--al"]) != ""


@pytest.mark.ray
def test_commands_of_ray_are_understood():
    """By the command line of the Ray that is installed."""
    from ray.scripts.scripts import cli as of_ray

    typed = [c for p in PAGES.values() for c in commands(p, "ray")]

    assert len(typed) > 40
    assert {(*c, understood(of_ray, c)) for c in typed} == {(*c, "") for c in typed}
    assert understood(of_ray, ["list", "actors", "--details"]) != ""


@pytest.mark.ray
def test_settings_of_ray_exist():
    """Each RAY_ variable of a page is a word of Ray's sources or of its programs."""
    named = {x for p in PAGES.values() for x in re.findall(r"\bRAY_\w+", p)}
    spec = importlib.util.find_spec("ray")
    assert spec is not None
    assert spec.submodule_search_locations is not None

    assert len(named) > 20
    assert missing(named, Path(spec.submodule_search_locations[0])) == set()
    assert missing({"RAY_no_such_setting"}, Path(spec.submodule_search_locations[0]))


def missing(named: set[str], folder: Path) -> set[str]:
    """Names that are no whole word in Ray's sources and programs; the C++ part drops the RAY_."""
    asks = [a for n in named for a in ("-e", n, "-e", n.removeprefix("RAY_"))]
    where = ["_private", "_common", "train/v2", "util/client", "scripts", "core/src/ray"]
    found = subprocess.run(
        ["rg", "-awoNIF", *asks, *where], cwd=folder, capture_output=True, text=True, check=False
    )
    return named - {f"RAY_{x.removeprefix('RAY_')}" for x in found.stdout.split()}


def test_the_quoted_line_is_a_sample_of_a_signature():
    """What is quoted was really seen: it stands in the signatures' samples, but for a shorter one."""
    samples = {
        x if isinstance(x, str) else x["text"]
        for f in (ROOT / "rules" / "signatures").glob("*.yaml")
        for s in yaml.safe_load(f.read_text())
        for x in s["hits"]
    }
    real = {s.rstrip("\n").replace("\n", "\\n") if s.startswith('{"') else s for s in samples}

    assert [n for n, p in PAGES.items() if quoted(p) not in real] == ["node_launch_failed"]


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("# hang: A run makes no progress", "# hang: It hangs", "the title is not the taxonomy's"),
        ("## Mend now", "## Mend", "its sections are not the usual ones"),
        ("have been waiting for", "wait for", "its line is none"),
        ("(collective_timeout.md)", "(no_such.md)", "no page no_such.md"),
        ("## Check", "/home/me/ray\n\n## Check", "names a private path: /home/"),
        ("- <https://", "- see <http://", "a source is no URL"),
        ("Advice `counted`", "Advice `never`", "does not say what the taxonomy advises"),
    ],
)
def test_a_wrong_page_is_found(old, new, fault):
    """Each check can fail."""
    assert old in PAGES["hang"]
    assert faults("hang", PAGES["hang"].replace(old, new)) == [fault]


# --- the verb ------------------------------------------------------------------------------------


def raywatch(*argv: str) -> tuple[int, str, str]:
    """Run the command; return (exit code, standard output, standard error)."""
    done = subprocess.run(
        [sys.executable, "-m", "raywatch", *argv], capture_output=True, text=True, check=False
    )
    return done.returncode, done.stdout, done.stderr


def test_the_verb_prints_a_page_and_lists_them():
    """The Markdown as it is; without a class every page and its title, those of alerts last."""
    assert raywatch("runbook", "hang") == (0, PAGES["hang"], "")
    code, out, _ = raywatch("runbook")
    rows = [x.split(maxsplit=1) for x in out.splitlines()]

    assert (code, rows[: len(PAGES)]) == (0, [[n, CLASSES[n].title] for n in PAGES])


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("spot_premption", "raywatch: no runbook spot_premption; did you mean spot_preemption?\n"),
        (
            "../../pyproject",
            "raywatch: no runbook ../../pyproject; `raywatch runbook` lists them\n",
        ),
        ("qqq\x1b[2J", "raywatch: no runbook qqq\\x1b[2J; `raywatch runbook` lists them\n"),
    ],
)
def test_an_unknown_class_is_one_line_with_the_nearest(name, said):
    """Exit code 2; a name is never a path."""
    assert raywatch("runbook", name) == (2, "", said)


def test_an_explanation_points_to_the_page(tmp_path):
    """Where one exists, as the last line, for people only."""
    log = tmp_path / "a.log"
    log.write_text(quoted(PAGES["worker_segfault"]) + "\n")
    _, out, _ = raywatch("explain", str(log))

    assert out.splitlines()[-1] == "  runbook: raywatch runbook worker_segfault"
    assert "raywatch runbook" not in raywatch("explain", "--json", str(log))[1]
    assert pointer("no_such_class") == ""


def test_classes_are_completed():
    """What a shell asks for."""
    (argument,) = cli.commands["runbook"].params
    found = argument.shell_complete(cli.make_context("raywatch", ["runbook"]), "client_")

    assert [c.value for c in found] == [
        "client_lost",
        "client_server_crash",
        "client_server_start_failed",
    ]


def test_a_page_that_is_none_is_an_error():
    """Also for those who ask from Python."""
    with pytest.raises(RunbookError, match="did you mean hang"):
        runbook_text("hangs")


def test_near_misses_in_the_pages_are_not_the_class_itself():
    """A page never sends its reader to itself."""
    assert [n for n, p in PAGES.items() if f"({n}.md)" in p] == []
