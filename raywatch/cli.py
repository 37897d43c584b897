"""The command line: one thin function a verb; what a verb needs is imported inside it."""

from __future__ import annotations

import sys
from datetime import datetime, timezone
from typing import TYPE_CHECKING

import click

from raywatch import __version__
from raywatch.cli_rules import rules
from raywatch.options import JSON as _JSON
from raywatch.options import RULES as _RULES
from raywatch.options import (
    Settings,
    Time,
    asks_daemon,
    completes,
    exported,
    print_shown,
    reach,
    takes_settings,
)

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem
    from typing_extensions import Unpack


@click.group(context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(__version__, prog_name="raywatch")
def cli() -> None:
    """Say why training on Ray failed, with the line that proves it."""


@cli.command()
@click.argument("paths", nargs=-1, required=True)
@click.option("--since", type=Time(), help="Only what was logged from then on.")
@click.option("--until", type=Time(), help="Only what was logged until then.")
@click.option(
    "--tz", default="UTC", show_default=True, help="Zone of times without one: Ray's own logs."
)
@click.option(
    "-j",
    "--jobs",
    type=click.IntRange(min=1),
    help="Processes that read.  [default: the cores that it may use]",
)
@click.option(
    "--on-ray",
    metavar="ADDRESS",
    help="Read on a Ray cluster instead (auto, HOST:6379, ray://HOST:10001): what all its nodes can open.",
)
@click.option("-q", "--quiet", is_flag=True, help="No progress bar.")
@_RULES
@_JSON
def scan(
    paths: tuple[str, ...],
    since: float | None,
    until: float | None,
    *,
    tz: str,
    jobs: int | None,
    on_ray: str | None,
    quiet: bool,
    rules: tuple[str, ...],
    as_json: bool,
) -> int:
    """Say what failed in saved logs: folders, files, .gz, .zst, .xz, .bz2, tars of them, s3://, gs:// and az:// URLs.

    Exit code: 0 nothing failed, 1 something failed, 2 usage or input error, or something could not be read to its end.
    """
    from contextlib import nullcontext

    from raywatch.archive import is_url, no_tick
    from raywatch.pieces import size_of
    from raywatch.scan import damage_of, render_scan, scan_exit_code, scan_paths
    from raywatch.spread import usable_cores

    bar = None
    if sys.stderr.isatty() and not quiet:
        from raywatch.progress import Bar

        bar = Bar(None if any(map(is_url, paths)) else size_of(paths))
    with bar or nullcontext():
        result = scan_paths(
            paths,
            since=since,
            until=until,
            tz=tz,
            rules=rules,
            jobs=jobs or usable_cores(),
            on_ray=on_ray,
            tick=bar.tick if bar else no_tick,
        )
    click.echo(render_scan(result, as_json=as_json))
    for line in damage_of(result):
        click.echo(f"raywatch: {line}", err=True)
    return scan_exit_code(result)


@cli.command()
@takes_settings
def daemon(**given: Unpack[Settings]) -> int:
    """Follow the current Ray session, say what fails, resume what the configuration says."""
    import logging
    import os

    from raywatch.lifetime import run
    from raywatch.settling import local_zone, settled

    logging.basicConfig(
        format="%(asctime)s %(levelname)s %(name)s: %(message)s", level=logging.INFO
    )
    found = settled(given, os.environ)
    run(
        found,
        local_zone(),
        os.environ,
        ready=lambda at: click.echo(f"raywatch listens on http://{found.host}:{at}"),
    )
    return 0


@cli.command()
@takes_settings
@_JSON
def doctor(*, as_json: bool, **given: Unpack[Settings]) -> int:
    """Look at all that raywatch needs, and say what to do about what is missing.

    Takes what `raywatch daemon` takes; works beside one and without one. Exit code: 0 nothing fails, 1 something does,
    2 usage error.
    """
    import os

    from raywatch.doctor.report import exit_code, rendered
    from raywatch.doctor.visit import examined

    checks = examined(given, os.environ)
    color = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    click.echo(rendered(checks, as_json=as_json, color=color))
    return exit_code(checks)


@cli.command()
@click.argument("number", metavar="[ID]", default="", shell_complete=completes("incident"))
@click.option("--class", "class_id", help="Only those of this class.")
@click.option(
    "--state", type=click.Choice(["open", "resolved", "all"]), default="open", show_default=True
)
@click.option("--since", type=Time(), help="Only what was seen from then on.")
@asks_daemon
def incidents(
    number: str,
    class_id: str | None,
    state: str,
    *,
    since: float | None,
    url: str,
    token_file: str | None,
    as_json: bool,
) -> int:
    """List what failed, or tell the whole story of one incident; ID may be its beginning.

    Exit code: 0 nothing is open, 1 something failed, 2 usage error or no daemon.
    """
    import time

    from raywatch.client import show_incident, show_incidents

    client = reach(url, token_file)
    if number:
        shown = show_incident(client, number, time.time(), as_json=as_json)
    else:
        query = {"class": class_id or "", "state": "" if state == "all" else state}
        if since is not None:
            query["since"] = datetime.fromtimestamp(since, timezone.utc).isoformat()
        query = {k: v for k, v in query.items() if v}
        shown = show_incidents(client, query, time.time(), as_json=as_json)
    return print_shown(shown)


@cli.command()
@click.argument("run", default="", shell_complete=completes("run"))
@asks_daemon
def runs(run: str, *, url: str, token_file: str | None, as_json: bool) -> int:
    """List what trains, or tell what is known of one RUN: an id, a name, or the beginning of one."""
    import time

    from raywatch.client import show_run, show_runs

    client = reach(url, token_file)
    if run:
        shown = show_run(client, run, time.time(), as_json=as_json)
    else:
        shown = show_runs(client, time.time(), as_json=as_json)
    return print_shown(shown)


@cli.command()
@click.argument("node", default="", shell_complete=completes("node"))
@asks_daemon
def nodes(node: str, *, url: str, token_file: str | None, as_json: bool) -> int:
    """List the nodes of the cluster, or tell what is known of one NODE: an id, its beginning, an ip or a name."""
    import time

    from raywatch.client import show_node, show_nodes

    client = reach(url, token_file)
    if node:
        return print_shown(show_node(client, node, time.time(), as_json=as_json))
    return print_shown(show_nodes(client, time.time(), as_json=as_json))


@cli.command()
@asks_daemon
def capacity(*, url: str, token_file: str | None, as_json: bool) -> int:
    """Say why work does not get its nodes: who waits, what was asked of the cloud, and what it answered.

    Exit code: 0 nothing waits, 1 something waits, 2 usage error or no daemon.
    """
    import time

    from raywatch.client import show_capacity

    shown = show_capacity(reach(url, token_file), time.time(), as_json=as_json)
    click.echo(shown.text)
    return shown.code


@cli.command()
@asks_daemon
def actions(*, url: str, token_file: str | None, as_json: bool) -> int:
    """List what was decided about runs that failed, and what came of it."""
    import time

    from raywatch.client import show_actions

    shown = show_actions(reach(url, token_file), time.time(), as_json=as_json)
    return print_shown(shown)


@cli.command()
@asks_daemon
def notices(*, url: str, token_file: str | None, as_json: bool) -> int:
    """List what clouds announced about their machines, and what was done about it."""
    import time

    from raywatch.client import show_notices

    shown = show_notices(reach(url, token_file), time.time(), as_json=as_json)
    return print_shown(shown)


@cli.command()
@click.argument("key", shell_complete=completes("action"))
@asks_daemon
def approve(key: str, *, url: str, token_file: str | None, as_json: bool) -> int:
    """Let the action KEY go on that awaits approval; KEY may be the beginning of one."""
    from raywatch.client import do_approve

    shown = do_approve(reach(url, token_file), key, as_json=as_json)
    return print_shown(shown)


@cli.command()
@click.argument("run", shell_complete=completes("run"))
@click.option("--dry-run", is_flag=True, help="Only say what would happen.")
@asks_daemon
def resume(run: str, *, dry_run: bool, url: str, token_file: str | None, as_json: bool) -> int:
    """Start RUN again now, with the hook of its [[resume]].

    Only where its old job FAILED, its ranks are gone and nobody else trains it. Exit code: 0 done, 2 not.
    """
    from raywatch.client import do_resume

    shown = do_resume(reach(url, token_file), run, dry_run=dry_run, as_json=as_json)
    return print_shown(shown)


@cli.command()
@click.option("--keep", is_flag=True, help="Keep the folder with all logs.")
@click.option(
    "--timeout", "timeout_s", default=240.0, show_default=True, help="Seconds it may take."
)
@click.option(
    "--train-budget", is_flag=True, help="Let Ray Train restart the run itself: no hook may fire."
)
def demo(*, keep: bool, timeout_s: float, train_budget: bool) -> int:
    """Kill a spot node under a real Ray Train run on this machine, and see training go on."""
    from raywatch.demo import run_demo

    return run_demo(keep=keep, timeout_s=timeout_s, train_budget=train_budget)


@cli.command()
@click.argument("files", nargs=-1)
@_RULES
@_JSON
def explain(files: tuple[str, ...], *, rules: tuple[str, ...], as_json: bool) -> int:
    """Say what a log or a pasted text means; `-`, or a pipe without FILES, is standard input.

    Exit code: 0 nothing failed, 1 something failed, 2 usage or input error.
    """
    from raywatch.explain import explain_exit_code, explain_files, render_explanations

    if not files and sys.stdin.isatty():
        raise click.UsageError("name FILES, or `-` to paste a text and end it with Ctrl-D")
    explanations = explain_files(files or ("-",), rules=rules)
    click.echo(render_explanations(explanations, as_json=as_json))
    return explain_exit_code(explanations)


def _complete_runbook(
    _ctx: click.Context, _param: click.Parameter, incomplete: str
) -> list[CompletionItem]:
    from click.shell_completion import CompletionItem

    from raywatch.runbooks import runbook_names

    return [CompletionItem(n) for n in runbook_names() if n.startswith(incomplete)]


@cli.command()
@click.argument("name", metavar="[CLASS|ALERT]", default="", shell_complete=_complete_runbook)
def runbook(name: str) -> int:
    """Say what to do about a CLASS of failure or an ALERT; without one list the pages."""
    from raywatch.runbooks import runbook_list, runbook_text

    text = runbook_text(name).rstrip("\n") if name else runbook_list()
    if sys.stdout.isatty():
        click.echo_via_pager(text + "\n")
    else:
        click.echo(text)
    return 0


@cli.group()
def dashboards() -> None:
    """Grafana dashboards: export the shipped ones."""


@dashboards.command(name="export")
@click.argument("folder", type=click.Path(file_okay=False))
def export_dashboards(folder: str) -> int:
    """Copy the shipped dashboards to a new FOLDER, for Grafana to provision or import."""
    return exported("dashboards", folder)


cli.add_command(rules)


@cli.command()
@click.argument("shell", type=click.Choice(["bash", "zsh", "fish"]))
def completion(shell: str) -> int:
    """Print what makes SHELL complete raywatch; put it into its start-up file."""
    from click.shell_completion import get_completion_class

    found = get_completion_class(shell)
    if found is None:
        raise click.UsageError(f"no completion for {shell}")
    click.echo(found(cli, {}, "raywatch", "_RAYWATCH_COMPLETE").source())
    return 0


def main() -> None:
    """Run the command line. Errors of ours are one line on standard error and exit code 2."""
    from raywatch.model import RaywatchError
    from raywatch.terminal import safe

    try:
        code = cli.main(standalone_mode=False)
    except click.ClickException as error:
        error.show()
        code = 2
    except click.Abort:
        code = 130
    except BrokenPipeError:
        code = 0
    except (RaywatchError, ValueError, OSError) as error:
        click.echo(f"raywatch: {safe(str(error))}", err=True)
        code = 2
    sys.exit(code if isinstance(code, int) else 0)
