"""All checks of a visit, each beside the others. It works without a daemon and next to one; each API is asked once."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from raywatch.config import Config, ConfigError, find_config
from raywatch.doctor.checks import Check, Part, carry_out
from raywatch.doctor.local import (
    engine_checks,
    find_session,
    limit_checks,
    rule_checks,
    session_checks,
    store_checks,
    watching_checks,
)
from raywatch.doctor.ours import cloud_checks, daemon_checks, resume_checks
from raywatch.doctor.ray import dashboard_checks
from raywatch.options import Settings
from raywatch.settling import settled, under


def examined(given: Settings, environ: Mapping[str, str]) -> Sequence[Check]:
    """Look at everything; a file that cannot be read is told, and the defaults are taken. Raises ConfigError for flags."""
    flags = under(Config(), given)
    path = find_config(given["config"], environ)
    try:
        config = settled(given, environ)
    except ConfigError as error:
        do = "mend that line; what follows is of the defaults and the flags"
        first = Check("configuration", "fail", str(error), do)
        return [first, *_examined(flags, environ)]
    told = str(path) if path else "no file: defaults, the environment and flags"
    return [Check("configuration", "ok", told), *_examined(config, environ)]


def _examined(config: Config, environ: Mapping[str, str]) -> Sequence[Check]:

    def dashboard() -> Sequence[Check]:
        session = find_session(config, environ).path
        submits = any(r.hook.kind == "job" for r in config.resume)
        name = session.resolve().name if session else ""
        return dashboard_checks(config, environ, name, submits=submits)

    parts: Sequence[tuple[str, Part]] = (
        ("session", lambda: session_checks(config, environ)),
        ("inotify", lambda: watching_checks(config, environ)),
        ("dashboard", dashboard),
        ("daemon", lambda: daemon_checks(config)),
        ("store", lambda: store_checks(config)),
        ("rules", lambda: rule_checks(config.rules)),
        ("engine", engine_checks),
        ("open files", limit_checks),
        ("cloud", lambda: cloud_checks(config)),
        ("resume", lambda: resume_checks(config, environ)),
    )
    return carry_out(parts)
