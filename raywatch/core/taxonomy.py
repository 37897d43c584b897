"""The failure classes: rules/taxonomy.yaml as values."""

from collections.abc import Mapping
from types import MappingProxyType
from typing import get_args

import yaml

from raywatch.model import FailureClass, ResumeAdvice, Role, Scope

# The one in C, where PyYAML has it, takes a tenth of the time; both know the safe types only.
LOADER = getattr(yaml, "CSafeLoader", yaml.SafeLoader)
_ALLOWED = {
    "role": get_args(Role),
    "scope": get_args(Scope),
    "resume": get_args(ResumeAdvice),
}


def parse_taxonomy(text: str) -> Mapping[str, FailureClass]:
    """Parse the taxonomy. Raises ValueError that names the class and what is wrong with it."""
    classes: dict[str, FailureClass] = {}
    for row in yaml.load(text, Loader=LOADER):  # noqa: S506 - a safe one
        for key, allowed in _ALLOWED.items():
            if row.get(key) not in allowed:
                raise ValueError(
                    f"class {row.get('id')}: {key} {row.get(key)!r} is none of {allowed}"
                )
        if row["id"] in classes:
            raise ValueError(f"class {row['id']} stands twice")
        classes[row["id"]] = FailureClass(**row)
    return MappingProxyType(classes)
