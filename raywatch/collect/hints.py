"""What events say: which paths to look at. Never the truth, which is in the files."""

from __future__ import annotations

from dataclasses import dataclass, field


@dataclass(slots=True)
class Hints:
    """`written`: grew, under a name that means what it meant. `moved`: came, went, or changed in any other way.

    `lost`: events were dropped, so anything may have changed.
    """

    written: set[str] = field(default_factory=set)
    moved: set[str] = field(default_factory=set)
    lost: bool = False

    def __bool__(self) -> bool:
        return bool(self.written or self.moved or self.lost)

    def paths(self) -> set[str]:
        """Return all that is named."""
        return self.written | self.moved
