"""[[run]] tables -> rules of runs outside Ray Train, and the signatures that find their progress.

An expression of the configuration becomes a signature like any other: the one compiled database finds its lines, and
what a signature must not be is refused with the line of the configuration.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial

from raywatch.core.declared import FRAMEWORKS
from raywatch.model import RunRule
from raywatch.resources import resource_dir

KEYS: Mapping[str, type] = {
    "name": str,
    "match": str,
    "framework": str,
    "step": str,
    "checkpoint": str,
    "storage": str,
}
MAX_NAME = 100
_GROUPS = {"step": "step", "checkpoint": "path"}  # what an expression must capture
_LIKE = {"step": "batch=(?P<step>\\d+)", "checkpoint": "saved to (?P<path>\\S+)"}
_WHERE = ["job", "driver", "worker"]


@dataclass(frozen=True, slots=True)
class Declared:
    """All [[run]] of a configuration: rules, the files of their presets, and signature texts with a name each."""

    rules: tuple[RunRule, ...] = ()
    presets: tuple[str, ...] = ()
    texts: tuple[tuple[str, str], ...] = ()


def declared(
    rows: Sequence[Mapping[str, str]],
    fail: Callable[..., Exception],
    line: Callable[..., int],
    path: str,
) -> Declared:
    """Read [[run]] tables, whose keys and types are right. `fail(what, number, key)` makes the error that is raised."""
    rules: list[RunRule] = []
    texts: list[tuple[str, str]] = []
    for number, row in enumerate(rows):
        rule = _rule(row, number, fail)
        if rule.name in {r.name for r in rules}:
            raise fail(
                f"name {rule.name!r} stands twice; each [[run]] needs its own", number, "name"
            )
        rules.append(rule)
        for key in _GROUPS:
            if key in row:
                at = line(number, key)
                text = _signature(rule, number, key, row[key])
                _check(text, partial(_failing, fail, number, key), key, row[key])
                texts.append((path, "\n" * (at - 1) + text))
    tags = dict.fromkeys(t for r in rules for t in FRAMEWORKS.get(r.framework, ()))
    files = (resource_dir("rules") / "runs" / f"{tag}.yaml" for tag in tags)
    return Declared(tuple(rules), tuple(str(f) for f in files if f.is_file()), tuple(texts))


def _failing(fail: Callable[..., Exception], number: int, key: str, what: str) -> Exception:
    return fail(what, number, key)


def _rule(row: Mapping[str, str], number: int, fail: Callable[..., Exception]) -> RunRule:
    for key in ("name", "match"):
        if not row.get(key, "").strip():
            raise fail(f"{key} is missing from [[run]]", number)
    framework = row.get("framework", "")
    if framework and framework not in FRAMEWORKS:
        words = ", ".join(FRAMEWORKS)
        raise fail(f"framework {framework!r} must be one of {words}", number, "framework")
    if not framework and not row.keys() & _GROUPS.keys():
        raise fail("a [[run]] needs a framework, or a step or checkpoint expression", number)
    if len(row["name"]) > MAX_NAME:
        raise fail(f"name must have at most {MAX_NAME} characters", number, "name")
    own = tuple(f"run_{key}" for key in _GROUPS if key in row)
    return RunRule(row["name"], row["match"], framework, row.get("storage", ""), own)


def _signature(rule: RunRule, number: int, key: str, expression: str) -> str:
    """Write a signature file in one line of JSON, which is YAML."""
    row = {
        "id": f"run-{number + 1}-{key}",
        "fact": f"run_{key}",
        "title": f"[[run]] {rule.name}",
        "where": {"component": _WHERE},
        "any": [expression],
        "capture": [expression],
        "set": {"declared": rule.name},
    }
    return json.dumps([row])


def _check(text: str, fail: Callable[[str], Exception], key: str, expression: str) -> None:
    # Only where there is an expression: a start needs neither YAML nor the checks.
    from raywatch.core.lint import expressions_of  # noqa: PLC0415
    from raywatch.core.signature_files import parse_signatures  # noqa: PLC0415
    from raywatch.core.signatures import SignatureError  # noqa: PLC0415

    group = _GROUPS[key]
    try:
        groups = re.compile(expression).groupindex
    except re.error as error:
        raise fail(f"{key} is no regular expression: {error}") from error
    if group not in groups:
        raise fail(f"{key} must name what it captures: (?P<{group}>...), like '{_LIKE[key]}'")
    try:
        expressions_of(parse_signatures(text, "", {})[0])
    except SignatureError as error:
        reason = error.reason.partition(": ")[2]
        raise fail(f"{key} {reason}") from error
