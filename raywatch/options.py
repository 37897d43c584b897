"""What verbs have in common: times, how a daemon is reached, and completion from what it knows."""

from __future__ import annotations

import re
from collections.abc import Callable
from datetime import datetime, timedelta, timezone
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict, TypeVar

import click

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem

    from raywatch.client import Client, Shown

URL = "http://127.0.0.1:9265"
TOKEN = "~/.local/state/raywatch/token"  # noqa: S105 - where it is, beside the default store
JSON = click.option("--json", "as_json", is_flag=True, help="Print facts as JSON.")
RULES = click.option(
    "--rules",
    multiple=True,
    type=click.Path(exists=True),
    help="More signatures: a file or a folder.",
)
_F = TypeVar("_F", bound=Callable[..., object])
_RELATIVE = re.compile(r"(\d+)([smhd])\Z")
_UNITS = {"s": "seconds", "m": "minutes", "h": "hours", "d": "days"}


class Time(click.ParamType[float]):
    """RFC 3339, `2026-11-23 07:00` (UTC), or `15m`, `2h`, `3d` ago."""

    name = "time"

    def convert(
        self, value: object, param: click.Parameter | None, ctx: click.Context | None
    ) -> float:
        """Return unix seconds."""
        text = str(value)
        relative = _RELATIVE.match(text)
        if relative:
            ago = timedelta(**{_UNITS[relative[2]]: int(relative[1])})
            return (datetime.now(timezone.utc) - ago).timestamp()
        try:
            at = datetime.fromisoformat(text.replace("Z", "+00:00"))
        except ValueError:
            self.fail(
                f"{text!r} is no time; give 2026-11-23T07:00:00Z, '2026-11-23 07:00' or 15m",
                param,
                ctx,
            )
        return (at if at.tzinfo else at.replace(tzinfo=timezone.utc)).timestamp()


def asks_daemon(verb: _F) -> _F:
    """Give a verb what it needs to reach the daemon."""
    url = click.option(
        "--url",
        envvar="RAYWATCH_URL",
        default=URL,
        show_default=True,
        help="The daemon's address.",
    )
    token = click.option(
        "--token-file",
        type=click.Path(),
        help=f"The daemon's token.  [default: RAYWATCH_TOKEN, {TOKEN}]",
    )
    return url(token(JSON(verb)))


class Settings(TypedDict):
    """Where the daemon finds its configuration, and what flags say over it."""

    config: str | None
    temp_dir: str | None
    session_dir: str | None
    listen: str | None
    store: str | None
    rules: tuple[str, ...]


def takes_settings(verb: _F) -> _F:
    """Give a verb what says how the daemon is configured."""
    made = (
        click.option(
            "--config",
            type=click.Path(),
            help="Configuration.  [default: raywatch.toml, ~/.config/raywatch, /etc/raywatch]",
        ),
        click.option(
            "--temp-dir",
            type=click.Path(file_okay=False),
            help="Where Ray keeps its sessions.  [default: RAY_TMPDIR, /tmp/ray]",
        ),
        click.option(
            "--session-dir",
            type=click.Path(exists=True, file_okay=False),
            help="Follow this session only.",
        ),
        click.option("--listen", help="Address of the web server.  [default: 127.0.0.1:9265]"),
        click.option(
            "--store", help="What must survive.  [default: ~/.local/state/raywatch/raywatch.db]"
        ),
        RULES,
    )
    for option in reversed(made):
        verb = option(verb)
    return verb


def reach(url: str, token_file: str | None, **how: float) -> Client:
    """Return the daemon that the options name. Raises ClientError."""
    import os

    from raywatch.client import make_client

    token = os.environ.get("RAYWATCH_TOKEN", "")
    return make_client(url, token_file, token, Path(TOKEN).expanduser(), **how)


def print_shown(shown: Shown) -> int:
    """Print what a verb shows, what its reader must know on standard error; return the exit code."""
    click.echo(shown.text)
    for warning in shown.warnings:
        click.echo(f"raywatch: {warning}", err=True)
    return shown.code


def completes(
    kind: str,
) -> Callable[[click.Context, click.Parameter, str], list[CompletionItem]]:
    """Complete the names that the daemon knows; nothing where none answers at once."""

    def complete(
        ctx: click.Context, _param: click.Parameter, incomplete: str
    ) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        from raywatch.client import ClientError, candidates

        given = ctx.params
        try:
            client = reach(given.get("url") or URL, given.get("token_file"), timeout_s=0.5)
            found = candidates(client, kind)
        except ClientError:
            return []
        return [CompletionItem(n, help=word) for n, word in found if n.startswith(incomplete)]

    return complete


def exported(name: Literal["rules", "dashboards"], folder: str) -> int:
    """Copy shipped files to a new folder; return the exit code. Raises UsageError where it exists."""
    import shutil

    from raywatch.resources import resource_dir

    if Path(folder).exists():
        raise click.UsageError(f"{folder} exists; give a folder that does not")
    shutil.copytree(resource_dir(name), folder)
    return 0
