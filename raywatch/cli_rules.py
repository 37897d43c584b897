"""`raywatch rules ...`: the verbs of who reads and writes signatures; what a verb needs is imported inside it."""

from __future__ import annotations

import re

import click

from raywatch.options import JSON, RULES, exported

RUNBOOKS = "https://raywatch.example/runbooks"  # in the shipped alerts: a name that nobody can have
_URL = re.compile(r"https?://[\w.:/~%+@-]+", re.ASCII)  # nothing that YAML would read as its own


@click.group()
def rules() -> None:
    """Signatures: list them, check your own, export the shipped ones."""


@rules.command(name="check")
@click.argument("paths", nargs=-1, type=click.Path(exists=True))
def check_rules(paths: tuple[str, ...]) -> int:
    """Check signature files against their own samples (and those that are shipped)."""
    from raywatch.core.samples import check
    from raywatch.pipeline import checked_engine

    engine = checked_engine(paths)
    problems = check(engine.ruleset, engine.matcher)
    for problem in problems:
        click.echo(problem, err=True)
    click.echo(f"{len(engine.ruleset.signatures)} signatures, {len(problems)} problems")
    return 2 if problems else 0


@rules.command(name="list")
@RULES
@JSON
def list_rules(*, rules: tuple[str, ...], as_json: bool) -> int:
    """List the signatures in force."""
    import json

    from raywatch.pipeline import load_ruleset

    rows = [
        {"id": s.id, "class": s.class_id, "fact": s.fact, "title": s.title, "file": s.path}
        for s in load_ruleset(rules).signatures
    ]
    if as_json:
        click.echo(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        click.echo(f"{row['id']:28} {row['class'] or 'fact ' + row['fact']:28} {row['title']}")
    return 0


@rules.command(name="test")
@click.argument("logs", nargs=-1, required=True)
@RULES
@JSON
def test_rules(logs: tuple[str, ...], *, rules: tuple[str, ...], as_json: bool) -> int:
    """Say which signatures hit LOGS, where, and what kept them from counting: for who writes one."""
    from raywatch.trying import render_tried, tried

    click.echo(render_tried(tried(logs, rules=rules), as_json=as_json))
    return 0


@rules.command(name="suggest")
@click.argument("logs", nargs=-1, required=True)
@click.option(
    "-n", "count", default=5, show_default=True, help="How many, the most frequent first."
)
@RULES
def suggest_rules(logs: tuple[str, ...], *, count: int, rules: tuple[str, ...]) -> int:
    """Draft signatures for what looks like an error in LOGS and no signature explains.

    They are of maturity trial: shown, never acting. Give each its class, its component and near misses.
    """
    from raywatch.trying import drafts

    click.echo(drafts(logs, count=count, rules=rules), nl=False)
    return 0


@rules.command(name="schema")
def schema_of_rules() -> int:
    """Print the JSON schema of signature files, for editors."""
    import json

    from raywatch.core.signature_schema import signature_schema
    from raywatch.pipeline import load_ruleset

    click.echo(json.dumps(signature_schema(load_ruleset().classes), indent=2))
    return 0


@rules.command()
@click.argument("folder", type=click.Path(file_okay=False))
@click.option(
    "--runbooks", metavar="URL", help="Where your copy of the runbooks is: alerts link there."
)
def export(folder: str, *, runbooks: str | None) -> int:
    """Copy the shipped rules to a new FOLDER: signatures, and Prometheus' in its folder `prometheus`."""
    from pathlib import Path

    if runbooks is not None and not _URL.fullmatch(runbooks):
        raise click.UsageError("--runbooks is no URL; give https://HOST/PATH, without a query")
    code = exported("rules", folder)
    if runbooks is not None:
        for path in sorted(Path(folder, "prometheus").rglob("*.yaml")):
            text = path.read_text(encoding="utf-8")
            path.write_text(text.replace(RUNBOOKS, runbooks.rstrip("/")), encoding="utf-8")
    return code
