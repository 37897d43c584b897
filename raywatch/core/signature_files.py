"""Signature files as values: parse them, refuse what is wrong with file, line and reason.

The expressions themselves are checked where they are compiled (`lint`). What comes from the cache needs neither.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, get_args

import yaml

from raywatch.core.signatures import Ruleset, Sample, Signature, SignatureError
from raywatch.core.taxonomy import LOADER, parse_taxonomy
from raywatch.model import Component, FailureClass, Trust

COMPONENTS = get_args(Component)
_MAX_DEPTH = 20
_ID = re.compile(r"[a-z0-9]+(-[a-z0-9]+)*\Z")
_KEYS = frozenset(
    [
        "id",
        "class",
        "fact",
        "title",
        "maturity",
        "where",
        "any",
        "unless",
        "capture",
        "set",
        "trust",
        "confidence",
        "own_words",
        "aside",
        "ray",
        "refs",
        "hits",
        "misses",
        "also",
    ]
)


def parse_rules(texts: Sequence[tuple[str, str]]) -> Ruleset:
    """Parse the taxonomy, which comes first, and signature files: pairs of path and text. Raises SignatureError."""
    (_, taxonomy), *files = texts
    classes = parse_taxonomy(taxonomy)
    return Ruleset(
        tuple(s for path, text in files for s in parse_signatures(text, path, classes)), classes
    )


def parse_signatures(
    text: str, path: str, classes: Mapping[str, FailureClass]
) -> tuple[Signature, ...]:
    """Parse one signature file. Raises SignatureError for the first mistake."""
    try:
        rows, lines = _read_rows(text)
    except yaml.YAMLError as error:
        mark = getattr(error, "problem_mark", None)
        line = mark.line + 1 if mark else 1
        raise SignatureError(
            path, line, "-", f"not YAML: {getattr(error, 'problem', error)}"
        ) from error
    if not isinstance(rows, list):
        raise SignatureError(path, 1, "-", "a signature file is a list of signatures")
    return tuple(
        _Entry(path, line, row, classes).signature() for line, row in zip(lines, rows, strict=True)
    )


def _check_depth(text: str) -> None:
    """Refuse what is nested deeper than any signature: the loader in C calls itself for each level, to the crash."""
    depth = 0
    for event in yaml.parse(text, Loader=LOADER):
        if isinstance(event, yaml.CollectionStartEvent):
            depth += 1
        elif isinstance(event, yaml.CollectionEndEvent):
            depth -= 1
        if depth > _MAX_DEPTH:
            mark: Any = event.start_mark  # its stub does not know that marks in C are marks
            raise yaml.MarkedYAMLError(problem="nested too deeply", problem_mark=mark)


def _read_rows(text: str) -> tuple[object, list[int]]:
    """Read YAML; return what it says and the lines on which the items of its list begin."""
    _check_depth(text)
    loader = LOADER(text)
    try:
        node = loader.get_single_node()
        if not isinstance(node, yaml.SequenceNode):
            return None, []
        return loader.construct_document(node), [n.start_mark.line + 1 for n in node.value]
    finally:
        loader.dispose()


@dataclass(frozen=True, slots=True)
class _Entry:
    path: str
    line: int
    row: object
    classes: Mapping[str, FailureClass]

    def fail(self, reason: str) -> SignatureError:
        name = self.row.get("id", "-") if isinstance(self.row, dict) else "-"
        return SignatureError(self.path, self.line, str(name), reason)

    def signature(self) -> Signature:
        row = self.row
        if not isinstance(row, dict):
            raise self.fail("a signature is a mapping with id, class, title, where, any")
        unknown = sorted(set(row) - _KEYS)
        if unknown:
            raise self.fail(f"unknown key {unknown[0]!r}; allowed are {', '.join(sorted(_KEYS))}")
        return Signature(
            id=self._id(row),
            class_id=self._class(row),
            fact=str(row.get("fact", "")),
            title=str(row.get("title", "")),
            maturity=self._one_of(row, "maturity", ("stable", "trial"), "stable"),
            components=self._components(row),
            any=self._patterns(row, "any", required=True),
            unless=self._patterns(row, "unless"),
            capture=self._patterns(row, "capture"),
            constants={str(k): str(v) for k, v in (row.get("set") or {}).items()},
            trust=self._trust(row),
            confidence=self._confidence(row),
            own_words=row.get("own_words") is True,
            aside=row.get("aside") is True,
            refs=tuple(row.get("refs") or ()),
            hits=self._samples(row, "hits"),
            misses=self._samples(row, "misses"),
            also=frozenset(row.get("also") or ()),
            path=self.path,
            line=self.line,
        )

    def _id(self, row: Mapping[str, object]) -> str:
        name = row.get("id")
        if not isinstance(name, str) or not _ID.match(name):
            raise self.fail("id must be kebab-case, like memory-monitor-kill")
        return name

    def _class(self, row: Mapping[str, object]) -> str:
        if ("class" in row) == ("fact" in row):
            raise self.fail("give exactly one of class (a failure) and fact (no failure)")
        name = str(row.get("class", ""))
        if "class" in row and name not in self.classes:
            raise self.fail(f"class {name!r} is not in the taxonomy")
        return name

    def _one_of(
        self, row: Mapping[str, object], key: str, allowed: Sequence[str], default: str
    ) -> str:
        value = row.get(key, default)
        if value not in allowed:
            raise self.fail(f"{key} {value!r} must be one of {', '.join(allowed)}")
        return str(value)

    def _components(self, row: Mapping[str, object]) -> frozenset[str]:
        where = row.get("where")
        names = where.get("component") if isinstance(where, dict) else None
        if not isinstance(names, list) or not names:
            raise self.fail("where: {component: [...]} is required; [any] for every component")
        wrong = [n for n in names if n not in COMPONENTS and n != "any"]
        if wrong:
            raise self.fail(f"component {wrong[0]!r} must be one of {', '.join(COMPONENTS)}, any")
        return frozenset(names)

    def _patterns(
        self, row: Mapping[str, object], key: str, *, required: bool = False
    ) -> tuple[str, ...]:
        value = row.get(key, [])
        patterns = [value] if isinstance(value, str) else value
        if not isinstance(patterns, list) or (required and not patterns):
            raise self.fail(f"{key} must be a list of regular expressions")
        for pattern in patterns:
            if not isinstance(pattern, str):
                raise self.fail(f"{key}: {pattern!r} must be a text")
        return tuple(patterns)

    def _trust(self, row: Mapping[str, object]) -> Trust | None:
        name = row.get("trust")
        if name is None:
            return None
        if str(name).upper() not in Trust.__members__:
            raise self.fail(
                f"trust {name!r} must be one of {', '.join(t.lower() for t in Trust.__members__)}"
            )
        return Trust[str(name).upper()]

    def _confidence(self, row: Mapping[str, object]) -> float:
        value = row.get("confidence", 0.9)
        if not isinstance(value, (int, float)) or not 0 < value <= 1:
            raise self.fail("confidence must be a number above 0 and at most 1")
        return float(value)

    def _samples(self, row: Mapping[str, object], key: str) -> tuple[Sample, ...]:
        rows = row.get(key, [])
        if not isinstance(rows, list):
            raise self.fail(f"{key} must be a list")
        return tuple(self._sample(key, r) for r in rows)

    def _sample(self, key: str, row: object) -> Sample:
        if isinstance(row, str):
            return Sample(row)
        if not isinstance(row, dict) or not isinstance(row.get("text"), str):
            raise self.fail(f"{key}: a sample is a text or a mapping with text")
        gives = {str(k): str(v) for k, v in (row.get("gives") or {}).items()}
        return Sample(
            row["text"], gives, str(row.get("component", "")), frozenset(row.get("also") or ())
        )
