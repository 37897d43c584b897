"""The JSON schema of signature files, from what the parser allows: for editors that complete and check."""

from __future__ import annotations

from collections.abc import Iterable

from raywatch.core.signature_files import COMPONENTS
from raywatch.model import Trust

_TEXTS: dict[str, object] = {"type": "array", "items": {"type": "string"}, "minItems": 1}
_ONE_OR_MORE: dict[str, object] = {"oneOf": [{"type": "string"}, _TEXTS]}
_SAMPLES: dict[str, object] = {
    "type": "array",
    "items": {
        "oneOf": [
            {"type": "string"},
            {
                "type": "object",
                "required": ["text"],
                "additionalProperties": False,
                "properties": {
                    "text": {"type": "string"},
                    "gives": {"type": "object", "description": "fields that it must capture"},
                    "component": {"enum": list(COMPONENTS)},
                    "also": _TEXTS,
                },
            },
        ]
    },
}


def signature_schema(classes: Iterable[str]) -> dict[str, object]:
    """Return the schema (draft 2020-12) of a signature file whose classes are these."""
    properties: dict[str, object] = {
        "id": {"type": "string", "pattern": "^[a-z0-9]+(-[a-z0-9]+)*$"},
        "class": {"enum": sorted(classes), "description": "the failure; or give a fact"},
        "fact": {"type": "string", "description": "what is no failure: drain, group_started ..."},
        "title": {"type": "string"},
        "maturity": {"enum": ["stable", "trial"], "description": "trial: shown, never acts"},
        "where": {
            "type": "object",
            "required": ["component"],
            "properties": {
                "component": {
                    "type": "array",
                    "minItems": 1,
                    "items": {"enum": [*COMPONENTS, "any"]},
                }
            },
        },
        "any": _ONE_OR_MORE | {"description": "linear expressions, each on one raw line"},
        "unless": _ONE_OR_MORE | {"description": "not where one of these is in the record"},
        "capture": _ONE_OR_MORE | {"description": "named groups become fields"},
        "set": {"type": "object", "description": "fields that are always the same"},
        "trust": {"enum": [name.lower() for name in Trust.__members__]},
        "confidence": {"type": "number", "exclusiveMinimum": 0, "maximum": 1},
        "own_words": {"type": "boolean", "description": "not on copies behind (Name pid=...)"},
        "aside": {"type": "boolean", "description": "evidence only: opens and counts nothing"},
        "ray": {"type": "string", "description": "versions that write it, like >=2.40"},
        "refs": _TEXTS,
        "hits": _SAMPLES,
        "misses": _SAMPLES,
        "also": _TEXTS | {"description": "signatures that may hit the same lines"},
    }
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "raywatch signatures",
        "type": "array",
        "items": {
            "type": "object",
            "required": ["id", "where", "any"],
            "oneOf": [{"required": ["class"]}, {"required": ["fact"]}],
            "additionalProperties": False,
            "properties": properties,
        },
    }
