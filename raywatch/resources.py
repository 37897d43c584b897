"""Where the files are that come with raywatch: rules, runbooks, dashboards."""

from pathlib import Path
from typing import Literal

_PACKAGE = Path(__file__).parent


def resource_dir(name: Literal["rules", "runbooks", "dashboards"]) -> Path:
    """Return the folder `name`: beside the code in an installed wheel, at the top in a checkout."""
    installed = _PACKAGE / "_data" / name
    return installed if installed.is_dir() else _PACKAGE.parent / name
