"""Text from logs for a terminal: shown, never executed."""

import unicodedata

_HOSTILE = frozenset(
    {"Cc", "Cf", "Cs", "Co", "Zl", "Zp"}
)  # controls, bidirectional overrides, separators


def safe(text: str, limit: int = 400) -> str:
    """Return one line without control or format characters, cut at `limit` characters. Never raises."""
    shown = "".join(
        " " if c == "\t" else f"\\x{ord(c):02x}" if unicodedata.category(c) in _HOSTILE else c
        for c in text[: limit + 1]
    )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
