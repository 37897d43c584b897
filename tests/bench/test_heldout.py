"""The score of the held-out texts is right, and each text is the one that was labelled."""

import json
import subprocess
from pathlib import Path

import pytest

from raywatch.core.taxonomy import parse_taxonomy
from tests.bench.heldout import (
    NONE,
    Answer,
    accuracy,
    confused,
    half_of,
    macro_f1,
    main,
    read_snippets,
    render,
    scores,
)
from tests.bench.pinned import PinnedError, Repositories, Source, digest, excerpt, identity

OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 2.00 GiB."
CALM = "INFO:     Application startup complete."


def answer(expected: str, given: str, *accept: str) -> Answer:
    return Answer("x", expected, accept, given, given != NONE)


def test_f1_by_hand():
    """a: 2 of its 3 found, 1 of 3 answers wrong: P 2/3, R 2/3. b: none of 1 found. none: 1 of 1, said twice: F1 2/3."""
    answers = [
        answer("a", "a"),
        answer("a", "near", "near"),
        answer("a", "none"),
        answer("b", "a"),
        answer("none", "none"),
    ]

    table = scores(answers)

    assert {c: (s.support, s.said, s.right) for c, s in table.items()} == {
        "a": (3, 3, 2),
        "b": (1, 0, 0),
        "none": (1, 2, 1),
    }
    assert table["a"].precision == table["a"].recall == pytest.approx(2 / 3)
    assert [s.f1 for s in table.values()] == pytest.approx([2 / 3, 0, 2 / 3])
    assert macro_f1(table) == pytest.approx((2 / 3 + 0 + 2 / 3) / 3)
    assert accuracy(answers) == pytest.approx(3 / 5)
    assert confused(answers) == [("a", "none", 1), ("b", "a", 1)]


def test_a_class_that_no_text_has_is_no_part_of_the_mean():
    """It lowers the precision of nothing but itself; the recall of the class that was missed pays for it."""
    table = scores([answer("a", "a"), answer("a", "c")])

    assert (table["c"].support, table["c"].f1) == (0, 0)
    assert macro_f1(table) == pytest.approx(2 / 3)


def test_a_warning_about_a_healthy_text_is_no_alarm():
    answers = [
        Answer("x", NONE, (), "node_unhealthy", alarm=False),
        Answer("y", NONE, (), "cuda_oom", alarm=True),
        Answer("z", NONE, ("cuda_oom",), "cuda_oom", alarm=True),
    ]

    assert "false alarms: 1 of 3 healthy texts, and 1 more with a warning" in render(answers)


def place(**more: object) -> Source:
    return {"repo": "a/b", "commit": "c", "path": "p", "lines": [2, 3], **more}  # type: ignore[typeddict-item]


def test_a_text_is_cut_out_of_its_file():
    """Shared indentation goes, other blanks stay; JSON strings and literals of programs are unpacked."""
    assert excerpt("x\n  one\r\n    two\nx", place()) == "one\n  two\n"
    assert excerpt(json.dumps([{"a/b": "x\none\ntwo"}]), place(pointer="/0/a~1b")) == "one\ntwo\n"
    assert excerpt('\n{"no", "longer"}, // `x`\n`y`', place(quoted=True)) == "longer\ny\n"


@pytest.mark.parametrize(
    "source",
    [place(lines=[2, 9]), place(pointer="/1"), place(pointer="/0/k"), place(pointer="/0/n")],
)
def test_a_place_that_is_not_there_is_an_error(source: Source):
    with pytest.raises(PinnedError):
        excerpt(json.dumps([{"n": 1}]), source)


def git(folder: Path, *arguments: str) -> str:
    who = ("-c", "user.name=a", "-c", "user.email=a@b.invalid")
    return subprocess.check_output(["git", "-C", folder, *who, *arguments], text=True).strip()


@pytest.fixture
def pinned(tmp_path: Path) -> Path:
    """A repository with two lines, and a file that pins both."""
    work = tmp_path / "work"
    work.mkdir()
    git(work, "init", "--quiet")
    (work / "log.txt").write_text(f"{OOM}\n{CALM}\n")
    git(work, "add", ".")
    git(work, "commit", "--quiet", "-m", "x")
    commit = git(work, "rev-parse", "HEAD")
    git(tmp_path, "clone", "--quiet", "--bare", "work", "repos/some+one")
    rows = []
    for line, (text, label) in enumerate([(OOM, "cuda_oom"), (CALM, NONE)], 1):
        source = Source(repo="some/one", commit=commit, path="log.txt", lines=[line, line])
        row = {"id": identity(source), "source": source, "sha256": digest(text + "\n")}
        rows.append(row | {"class": label, "accept": [], "why": "It says so."})
    path = tmp_path / "snippets.jsonl"
    path.write_text("".join(json.dumps(r) + "\n" for r in rows))
    return path


def test_two_lines_are_explained(pinned: Path, capsys: pytest.CaptureFixture[str]):
    """From the repository to the table, by the shipped rules."""
    assert main(["--repos", str(pinned.parent / "repos"), "--json"], pinned) == 0

    shown = json.loads(capsys.readouterr().out)
    assert (shown["texts"], shown["macro_f1"], shown["confused"]) == (2, 1.0, [])


def test_a_text_that_changed_is_not_scored(pinned: Path, capsys: pytest.CaptureFixture[str]):
    pinned.write_text(pinned.read_text().replace(digest(CALM + "\n"), "0" * 64))

    assert main(["--repos", str(pinned.parent / "repos")], pinned) == 2
    assert "log.txt holds another text" in capsys.readouterr().err


def test_what_is_missing_is_said(pinned: Path, capsys: pytest.CaptureFixture[str]):
    assert main(["--repos", str(pinned.parent / "nothing")], pinned) == 2
    said = capsys.readouterr().err
    assert "lacks 1 repositories" in said
    assert "some/one" in said


@pytest.mark.parametrize("half", [[], ["--half", "test"]])
def test_errors_of_the_test_half_are_not_shown(
    half: list[str], pinned: Path, capsys: pytest.CaptureFixture[str]
):
    """Whoever sees them tunes the rules to them."""
    assert main(["--repos", str(pinned.parent / "repos"), "--errors", *half], pinned) == 2
    assert capsys.readouterr().out == ""


def test_the_texts_are_pinned_and_labelled_by_the_taxonomy():
    """Ids follow from places, no text stands twice, and all classes exist."""
    rows = read_snippets()
    taxonomy = Path(__file__).parents[2] / "rules" / "taxonomy.yaml"
    classes = {*parse_taxonomy(taxonomy.read_text()), NONE}

    assert [r["id"] for r in rows] == [identity(r["source"]) for r in rows]
    assert len({r["sha256"] for r in rows}) == len(rows) >= 900
    assert {c for r in rows for c in (r["class"], *r["accept"])} <= classes
    assert all(1 <= b - a + 1 <= 60 for a, b in (r["source"]["lines"] for r in rows))
    assert sum(r["class"] == NONE for r in rows) >= 250
    assert {half_of(r["id"]) for r in rows} == {"dev", "test"}


def test_a_repository_may_lie_one_folder_deeper(tmp_path: Path):
    (tmp_path / "a+b" / "repo" / "objects").mkdir(parents=True)

    assert Repositories(tmp_path).git_dir("a/b") == tmp_path / "a+b" / "repo"
    assert Repositories(tmp_path).missing([place(), place(repo="c/d")]) == ["c/d"]
