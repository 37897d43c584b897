"""What the daemon works with: the configuration, with what flags say over it."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from datetime import datetime, timezone, tzinfo
from pathlib import Path
from zoneinfo import ZoneInfo, ZoneInfoNotFoundError

from raywatch.config import Config, ConfigError, find_config, load_config, parse_address
from raywatch.core.taxonomy import parse_taxonomy
from raywatch.options import Settings
from raywatch.resources import resource_dir


def settled(given: Settings, environ: Mapping[str, str]) -> Config:
    """Read the configuration and put flags over it. Raises ConfigError."""
    classes = parse_taxonomy((resource_dir("rules") / "taxonomy.yaml").read_text())
    found = load_config(find_config(given["config"], environ), environ, classes)
    return under(found, given)


def under(found: Config, given: Settings) -> Config:
    """Return the configuration with what flags say over it. Raises ConfigError."""
    if given["listen"]:
        address = parse_address(given["listen"])
        if address is None:
            raise ConfigError(f"--listen {given['listen']}: give HOST:PORT, like 127.0.0.1:9265")
        found = replace(found, host=address[0], port=address[1])
    temp_dir, session_dir = given["temp_dir"], given["session_dir"]
    return replace(
        found,
        temp_dir=Path(temp_dir) if temp_dir else found.temp_dir,
        session_dir=Path(session_dir) if session_dir else found.session_dir,
        store=Path(given["store"] or found.store).expanduser(),
        rules=(*found.rules, *given["rules"]),
    )


def local_zone() -> tzinfo:
    """Return the zone that Ray's logs on this machine are written in."""
    try:
        name = str(Path("/etc/localtime").resolve()).rpartition("zoneinfo/")[2]
        return ZoneInfo(name)
    except (ZoneInfoNotFoundError, ValueError, OSError):
        return datetime.now().astimezone().tzinfo or timezone.utc
