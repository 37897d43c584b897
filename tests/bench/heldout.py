"""How right `raywatch explain` is on logs of other people that no rule was written from.

Usage: python -m tests.bench.heldout --repos DIR [--half dev|test] [--json] [--errors].

The texts are pinned in tests/heldout/snippets.jsonl and read from copies of their repositories (tests.bench.pinned).
A hash of its id puts each into one of two halves: `dev` may be looked at when rules are mended, `test` never, so
`--errors` is refused for it. An answer that the label accepts counts as the label.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
import tempfile
from collections import Counter
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Literal, TypedDict

from raywatch.explain import explain_files
from tests.bench.pinned import PinnedError, Repositories, Source, digest, excerpt

SNIPPETS = Path(__file__).parent.parent / "heldout" / "snippets.jsonl"
NONE = "none"
Half = Literal["dev", "test"]

Snippet = TypedDict(
    "Snippet",
    {
        "id": str,
        "source": Source,
        "sha256": str,
        "class": str,
        "accept": list[str],
        "why": str,
    },
)


@dataclass(frozen=True, slots=True)
class Answer:
    """What was expected of one text, and what came: a class or `none`; `alarm`: the answer says that it failed."""

    id: str
    expected: str
    accept: tuple[str, ...]
    given: str
    alarm: bool

    @property
    def counted(self) -> str:
        """The class that the answer counts as."""
        return self.expected if self.given in self.accept else self.given


@dataclass(frozen=True, slots=True)
class ClassScore:
    """One class: how many texts are of it, how often it was said, how often both."""

    support: int
    said: int
    right: int

    @property
    def precision(self) -> float:
        """Of the texts that were said to be of the class, the part that is; 0 where none was."""
        return self.right / self.said if self.said else 0.0

    @property
    def recall(self) -> float:
        """Of the texts of the class, the part that was said to be; 0 where there is none."""
        return self.right / self.support if self.support else 0.0

    @property
    def f1(self) -> float:
        """The harmonic mean of both."""
        return 2 * self.right / (self.said + self.support) if self.said + self.support else 0.0


def half_of(identity: str) -> Half:
    """Return the half that a text is in."""
    return "test" if hashlib.sha256(identity.encode()).digest()[0] % 2 else "dev"


def read_snippets(path: Path = SNIPPETS) -> list[Snippet]:
    """Read the pinned texts of a file, in its order."""
    return [json.loads(line) for line in path.read_text().splitlines()]


def texts_of(snippets: Iterable[Snippet], repositories: Repositories) -> dict[str, str]:
    """Read the texts, by id. Raises PinnedError where one is not there or not the one that was labelled."""
    texts = {}
    files: dict[tuple[str, str, str], str] = {}
    for snippet in snippets:
        source = snippet["source"]
        key = (source["repo"], source["commit"], source["path"])
        if key not in files:
            files[key] = repositories.file(source)
        text = excerpt(files[key], source)
        if digest(text) != snippet["sha256"]:
            raise PinnedError(f"{snippet['id']}: {source['path']} holds another text")
        texts[snippet["id"]] = text
    return texts


def answers_to(snippets: Sequence[Snippet], texts: dict[str, str]) -> list[Answer]:
    """Ask `raywatch explain` about each text, as a file of its own."""
    with tempfile.TemporaryDirectory() as folder:
        paths = [Path(folder) / f"{s['id']}.log" for s in snippets]
        for path, snippet in zip(paths, snippets, strict=True):
            path.write_text(texts[snippet["id"]])
        explained = explain_files([str(p) for p in paths])
    return [
        Answer(
            s["id"],
            s["class"],
            tuple(s["accept"]),
            e.failure.id if e.failure else NONE,
            bool(e.failure and e.failure.role in ("root", "symptom")),
        )
        for s, e in zip(snippets, explained, strict=True)
    ]


def scores(answers: Iterable[Answer]) -> dict[str, ClassScore]:
    """Count each class that was expected or said, in order of name."""
    support: Counter[str] = Counter()
    said: Counter[str] = Counter()
    right: Counter[str] = Counter()
    for answer in answers:
        support[answer.expected] += 1
        said[answer.counted] += 1
        right[answer.expected] += answer.counted == answer.expected
    return {c: ClassScore(support[c], said[c], right[c]) for c in sorted(support | said)}


def macro_f1(table: dict[str, ClassScore]) -> float:
    """Return the mean F1 of the classes that have texts; NaN where there is none."""
    present = [s.f1 for s in table.values() if s.support]
    return sum(present) / len(present) if present else float("nan")


def accuracy(answers: Sequence[Answer]) -> float:
    """Return the part of the texts that were answered rightly; NaN where there is none."""
    right = sum(a.counted == a.expected for a in answers)
    return right / len(answers) if answers else float("nan")


def confused(answers: Iterable[Answer]) -> list[tuple[str, str, int]]:
    """Return (expected, given, times) of the wrong answers, the most frequent first."""
    pairs = Counter((a.expected, a.given) for a in answers if a.counted != a.expected)
    return [(*pair, n) for pair, n in sorted(pairs.items(), key=lambda p: (-p[1], p[0]))]


def render(answers: Sequence[Answer]) -> str:
    """Write the tables for people."""
    table = scores(answers)
    rows = [f"{'class':28} {'precision':>9} {'recall':>7} {'F1':>5} {'support':>8}"]
    rows += [
        f"{c:28} {s.precision:9.2f} {s.recall:7.2f} {s.f1:5.2f} {s.support:8}"
        for c, s in table.items()
    ]
    healthy = [a for a in answers if a.expected == NONE]
    said = [a for a in healthy if a.counted != NONE]
    rows += [
        "",
        f"{len(answers)} texts of {sum(s.support > 0 for s in table.values())} classes: macro F1 {macro_f1(table):.3f}, accuracy {accuracy(answers):.3f}",
        f"false alarms: {sum(a.alarm for a in said)} of {len(healthy)} healthy texts, and {sum(not a.alarm for a in said)} more with a warning",
    ]
    pairs = confused(answers)
    rows += ["", f"{'expected':28} {'said':28} times"] if pairs else []
    return "\n".join([*rows, *(f"{a:28} {b:28} {n:5}" for a, b, n in pairs)])


def as_json(answers: Sequence[Answer]) -> str:
    """Write the same for programs."""
    table = scores(answers)
    return json.dumps(
        {
            "texts": len(answers),
            "macro_f1": macro_f1(table),
            "accuracy": accuracy(answers),
            "classes": {
                c: asdict(s) | {"precision": s.precision, "recall": s.recall, "f1": s.f1}
                for c, s in table.items()
            },
            "confused": [{"expected": a, "said": b, "times": n} for a, b, n in confused(answers)],
        },
        indent=1,
    )


def render_errors(
    snippets: Sequence[Snippet], answers: Sequence[Answer], texts: dict[str, str]
) -> str:
    """Write each text that was answered wrongly, with where it stands and why its label is what it is."""
    return "\n\n".join(
        f"{s['id']} expected {a.expected}, said {a.given}. {s['why']}\n"
        f"{s['source'].get('thread') or s['source']['repo'] + ' ' + s['source']['path']}\n{texts[s['id']]}"
        for s, a in zip(snippets, answers, strict=True)
        if a.counted != a.expected
    )


def main(arguments: Sequence[str] | None = None, snippets: Path = SNIPPETS) -> int:
    """Print the score; return 2 with one line where the texts are not to be had, or not to be shown."""
    parser = argparse.ArgumentParser(prog="heldout", description=__doc__)
    parser.add_argument("--repos", type=Path, required=True, help="folder of bare repositories")
    parser.add_argument("--half", choices=("dev", "test"), help="one half only")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    parser.add_argument("--errors", action="store_true", help="the texts that went wrong (dev)")
    chosen = parser.parse_args(arguments)
    if chosen.errors and chosen.half != "dev":
        print("--errors wants --half dev: nobody may tune rules to the other half", file=sys.stderr)
        return 2
    wanted = [s for s in read_snippets(snippets) if chosen.half in (None, half_of(s["id"]))]
    repositories = Repositories(chosen.repos)
    if missing := repositories.missing(s["source"] for s in wanted):
        print(
            f"{chosen.repos} lacks {len(missing)} repositories: for each, git clone --bare"
            f" https://github.com/OWNER/NAME {chosen.repos}/OWNER+NAME ({', '.join(missing)})",
            file=sys.stderr,
        )
        return 2
    try:
        texts = texts_of(wanted, repositories)
    except PinnedError as error:
        print(error, file=sys.stderr)
        return 2
    answers = answers_to(wanted, texts)
    print(as_json(answers) if chosen.json else render(answers))
    if chosen.errors:
        print("\n" + render_errors(wanted, answers, texts))
    return 0


if __name__ == "__main__":
    sys.exit(main())
