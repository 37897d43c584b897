"""Text from logs for a terminal: shown, never executed."""

import json
import re

_MESSAGE = re.compile(
    r'"(?:(?:reason_|error_)?message|(?:reason|error)Message|formatted_exception_string|formattedExceptionString'
    r'|status_detail|statusDetail)": ?"((?:[^"\\]|\\.)*)'
)


def told(line: str) -> str:
    """Return what a log line says to a person: of a JSON line (Ray Train, event and export files) its message's first line.

    Where there is a traceback, the exception ends it. Never raises; other lines stay as they are.
    """
    message = _MESSAGE.search(line) if line.startswith("{") else None
    if message is None:
        return line
    try:
        text = str(json.loads(f'"{message[1]}"'))
    except ValueError:  # the line was cut inside an escape
        text = message[1]
    rows = [r for r in text.replace("\\n", "\n").splitlines() if r.strip() and not r[:1].isspace()]
    if not rows:
        return line
    raised = "Traceback (most recent call last)" in text or rows[0] == "User exception:"
    return rows[-1] if raised else rows[0]


def safe(text: str, limit: int = 400) -> str:
    r"""Return one line, cut at `limit` characters; controls, overrides and odd spaces are shown as \xNN. Never raises."""
    shown = "".join(
        c if c.isprintable() else " " if c == "\t" else f"\\x{ord(c):02x}"
        for c in text[: limit + 1]
    )
    return shown if len(shown) <= limit else shown[: limit - 1] + "…"
