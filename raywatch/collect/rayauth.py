"""Ray's authentication token: where it is found, and that it is never shown."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

from raywatch.model import RaywatchError


class TokenError(RaywatchError):
    """A token was named and cannot be used."""


@dataclass(frozen=True, slots=True)
class Token:
    """A token and where it came from; its value is in no representation of it."""

    value: str = field(repr=False)
    source: str


def find_token(env: Mapping[str, str], home: Path) -> Token | None:
    """Find the token as Ray does: RAY_AUTH_TOKEN, RAY_AUTH_TOKEN_PATH, ~/.ray/auth_token (reference/ray.md 4.1).

    Raises TokenError where one is named and empty, missing or no header value.
    """
    if env.get("RAY_AUTH_TOKEN", "").strip():
        return _checked(env["RAY_AUTH_TOKEN"], "RAY_AUTH_TOKEN")
    named = env.get("RAY_AUTH_TOKEN_PATH", "")
    path = Path(named).expanduser() if named else home / ".ray" / "auth_token"
    try:
        text = path.read_text(errors="replace")
    except OSError as error:
        if named:
            raise TokenError(f"RAY_AUTH_TOKEN_PATH: {path}: {error.strerror}") from error
        return None
    return _checked(text, str(path)) if text.strip() or named else None


def _checked(text: str, source: str) -> Token:
    value = (text.strip().splitlines() or [""])[0].strip()
    if not value or not value.isascii() or not value.isprintable():
        raise TokenError(f"{source}: holds no token")
    return Token(value, source)
