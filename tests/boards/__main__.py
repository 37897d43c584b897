"""Write dashboards/*.json anew: `python -m tests.boards [FOLDER]`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from tests.boards.incidents import incidents
from tests.boards.itself import itself_board
from tests.boards.overview import overview
from tests.boards.runs import runs

MADE = {
    "overview.json": overview,
    "incidents.json": incidents,
    "runs.json": runs,
    "itself.json": itself_board,
}


def main() -> None:
    """Write them into a folder, the shipped one where none is given."""
    folder = Path(sys.argv[1]) if len(sys.argv) > 1 else Path(__file__).parents[2] / "dashboards"
    for name, make in MADE.items():
        (folder / name).write_text(json.dumps(make(), indent=2, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
