"""Which node wrote which file of saved logs: its raylet says so in its first lines, wherever they come in an archive."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import replace
from typing import TypeVar

from raywatch.collect.raylogs import node_id_in
from raywatch.model import Evidence, Fact, Finding

# Of another raylet's session, or of one that was rotated: both name their node in their first lines.
_RAYLET = re.compile(r"raylet(?:\.\d+)?\.out(?:\.\d+)?$")
_SUBFOLDERS = frozenset(["train", "events", "serve", "ray-data", "jobs", "old", "export_events"])
_Told = TypeVar("_Told", Finding, Fact)


def node_of_raylet(path: str, head: bytes) -> str:
    """Return the node that the first bytes of a raylet's file name, else ''."""
    return node_id_in(head) if _RAYLET.match(path.rpartition("/")[2]) else ""


class Nodes:
    """What the raylets of saved logs said."""

    def __init__(self) -> None:
        self._of_folder: dict[str, set[str]] = {}
        self._of_raylet: dict[str, str] = {}

    def learn(self, raylets: Mapping[str, str]) -> None:
        """Take in node ids by the paths of the raylets' files that named them."""
        for path, node in raylets.items():
            self._of_folder.setdefault(path.rpartition("/")[0], set()).add(node)
        self._of_raylet.update(raylets)

    def of(self, path: str) -> str:
        """Return the node that wrote a file, else ''.

        Several raylets of one host share a folder: then only a record's own words name its node.
        """
        if path in self._of_raylet:
            return self._of_raylet[path]
        folder = path.rpartition("/")[0]
        if folder.rpartition("/")[2] in _SUBFOLDERS:
            folder = folder.rpartition("/")[0]
        known = self._of_folder.get(folder, set())
        return next(iter(known)) if len(known) == 1 else ""


def with_node(told: _Told, node: str) -> _Told:
    """Return what `classify` says of a record of this node, from what it said of the same of an unknown one."""
    if not node:
        return told
    fields = {"node": node, **told.fields}
    evidence: Evidence = replace(told.evidence, node=told.evidence.node or node)
    if isinstance(told, Fact):
        return replace(told, fields=fields, evidence=evidence)
    subject = told.subject
    nameless = subject.kind == "node" and not subject.id
    named = replace(subject, id=node if nameless else subject.id, node=subject.node or node)
    return replace(told, fields=fields, evidence=evidence, subject=named)
