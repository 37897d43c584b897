"""What concerns raywatch's own part: the daemon, clouds, and whether each [[resume]] could do what it says."""

from __future__ import annotations

import asyncio
import os
from collections.abc import Mapping, Sequence
from pathlib import Path

import aiohttp

from raywatch import __version__
from raywatch.collect.cloud import Asking, Aws, Azure, Gcp, Trouble
from raywatch.collect.rayauth import TokenError, find_token
from raywatch.collect.rayjson import parse_jobs
from raywatch.config import Config
from raywatch.core.relevance import speaks_of
from raywatch.doctor.asking import OK, Reply, ask, asker
from raywatch.doctor.checks import Check
from raywatch.doctor.local import program_at
from raywatch.model import CheckpointProblem, ResumeRule, Run
from raywatch.notice import Provider
from raywatch.resume.checkpoints import look

NAMED = 5  # runs of a rule
_ANY = ("0.0.0.0", "::", "")  # noqa: S104 - what is listened on, not who listens


def daemon_url(config: Config) -> str:
    """Return where the configured daemon would answer on this machine."""
    host = "127.0.0.1" if config.host in _ANY else config.host
    return f"http://{f'[{host}]' if ':' in host else host}:{config.port}"


# --- the daemon ------------------------------------------------------------------------------------


def daemon_checks(config: Config) -> list[Check]:
    """Say whether a daemon runs, sees and keeps what happens, and is of this version."""
    return [asyncio.run(_daemon(daemon_url(config)))]


async def _daemon(url: str) -> Check:
    async with asker() as http:
        reply = await ask(http, f"{url}/healthz", {})
    if reply.status == 0:
        return Check("daemon", "warn", f"none at {url}: {reply.why}", "start one: raywatch daemon")
    found = reply.json
    if not isinstance(found, dict) or "store" not in found:
        do = "let the daemon listen elsewhere: --listen, or [listen] address"
        return Check("daemon", "fail", f"what answers at {url} is no raywatch daemon", do)
    blind = [str(b.get("words")) for b in found.get("blind") or () if isinstance(b, dict)]
    version = str(found.get("version", "that it does not tell"))
    told = f"{url}, version {version}"
    if reply.status != OK:
        bad = [f"{k}: {found[k]}" for k in ("store", "loop") if found.get(k, "ok") != "ok"]
        return Check("daemon", "fail", "; ".join([told, *bad, *blind]), "see its log")
    if version != __version__:
        return Check("daemon", "warn", f"{told}; this is {__version__}", "restart the daemon")
    if blind:
        return Check("daemon", "warn", "; ".join([told, *blind]), "see the check of that source")
    return Check("daemon", "ok", told)


# --- clouds ----------------------------------------------------------------------------------------


def cloud_checks(config: Config) -> list[Check]:
    """Ask each metadata service that the daemon would ask who this machine is."""
    if not config.clouds:
        fact = "no metadata service is asked: neither the firmware nor [cloud] names a cloud"
        return [Check("cloud", "ok", fact)]
    return asyncio.run(_clouds(config.clouds))


async def _clouds(urls: Mapping[Provider, str]) -> list[Check]:
    async with aiohttp.ClientSession(trust_env=False) as http:
        return list(await asyncio.gather(*(_cloud(p, Asking(http, u)) for p, u in urls.items())))


async def _cloud(provider: Provider, asking: Asking) -> Check:
    service: Aws | Gcp | Azure
    match provider:
        case "aws":
            service = Aws(asking, 1.0)
        case "gcp":
            service = Gcp(asking, 1.0, "", lambda: 0.0)
        case "azure":
            service = Azure(asking, 1.0, lambda: 0.0)
    try:
        machine = await service.machine()
    except Trouble as trouble:
        do = 'let this process reach it (IMDSv2 from a container: hop limit 2), or [cloud] provider = "none"'
        return Check("cloud", "warn", f"{provider}: {trouble.state}, {trouble.detail}", do)
    if not machine.instance:
        return Check(
            "cloud",
            "warn",
            f"{provider} does not say which instance this is",
            "see its metadata service",
        )
    return Check("cloud", "ok", f"{provider}: {machine.instance} at {machine.ip or 'no address'}")


# --- [[resume]] -------------------------------------------------------------------------------------


def resume_checks(config: Config, environ: Mapping[str, str]) -> list[Check]:
    """Say of each rule which known runs it speaks of, whether its hook can start, and from which checkpoint."""
    if not config.resume:
        return [Check("resume", "ok", "no [[resume]]: nothing is ever started")]
    runs = asyncio.run(_runs(config, environ))
    return [c for rule in config.resume for c in _rule(rule, runs, environ)]


async def _runs(config: Config, environ: Mapping[str, str]) -> Sequence[Run]:
    """Return the runs that a daemon knows with what the Jobs API adds; without a daemon its submissions."""
    try:
        token = find_token(environ, Path.home())
    except TokenError:
        token = None
    ours = _read(config.store.parent / "token")
    async with asker() as http:
        known, jobs = await asyncio.gather(
            ask(http, f"{daemon_url(config)}/api/v1/runs", _bearer(ours)),
            ask(
                http,
                f"{config.dashboard.rstrip('/')}/api/jobs/",
                _bearer(token.value if token else ""),
            ),
        )
    return _joined(known, jobs)


def _bearer(token: str) -> Mapping[str, str]:
    return {"Authorization": f"Bearer {token}"} if token.isascii() and token else {}


def _read(path: Path) -> str:
    try:
        return path.read_text().strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _joined(known: Reply, jobs: Reply) -> Sequence[Run]:
    submitted = {j.submission_id: j for j in parse_jobs(jobs.json, 0.0) if j.submission_id}
    found = known.json
    rows = found.get("runs", ()) if isinstance(found, dict) else ()
    runs = []
    for row in rows:
        names = tuple(str(s) for s in row["submissions"])
        job = next((submitted.pop(s) for s in names[::-1] if s in submitted), None)
        runs.append(
            Run(
                id=str(row["id"]),
                name=str(row["name"]),
                submissions=names,
                storage_path=str(row["storage_path"]),
                entrypoint=job.entrypoint if job else "",
                metadata=job.metadata if job else {},
            )
        )
    for name, job in submitted.items():
        runs.append(
            Run(name, submissions=(name,), entrypoint=job.entrypoint, metadata=job.metadata)
        )
    return runs


def _rule(rule: ResumeRule, runs: Sequence[Run], environ: Mapping[str, str]) -> list[Check]:
    name = f"resume {rule.run}"
    mine = [r for r in runs if speaks_of(rule, r)]
    shown = ", ".join(r.name or r.id for r in mine[:NAMED]) + (" ..." if len(mine) > NAMED else "")
    told = f"{rule.mode}, {rule.hook.kind} hook"
    if mine:
        first = Check(name, "ok", f"{told}: speaks of {shown}")
    elif runs:
        do = "it is compared with run names, submission ids, entrypoints and values of metadata"
        others = ", ".join(r.name or r.id for r in runs[:NAMED])
        first = Check(name, "warn", f"{told}: speaks of none that is known ({others})", do)
    else:
        first = Check(name, "ok", f"{told}: no run is known yet")
    return [
        first,
        *_hook(name, rule, environ),
        *(c for r in mine[:NAMED] for c in _saved(name, rule, r)),
    ]


def _hook(name: str, rule: ResumeRule, environ: Mapping[str, str]) -> list[Check]:
    if rule.hook.kind != "command":
        return []
    program = rule.hook.argv[0]
    found = program_at(program, environ)
    if found:
        return [Check(name, "ok", f"its command is {found}")]
    there = os.path.exists(program)  # noqa: PTH110 - a text of the configuration, maybe with a NUL
    why = (
        "may not be executed"
        if there
        else "is not in PATH"
        if "/" not in program
        else "is not there"
    )
    do = "give argv a program that this user may run, best with its whole path"
    return [Check(name, "fail", f"its command {program} {why}", do)]


def _saved(name: str, rule: ResumeRule, run: Run) -> list[Check]:
    """Say which checkpoint the run would go on from; the hook itself needs none."""
    storage = rule.checkpoints or run.storage_path
    if not storage:
        return []
    found = look(storage, run.name).newest
    if isinstance(found, CheckpointProblem):
        fact = f"{run.name}: {found.reason}: {found.detail}"
        do = "mount the storage here, or name it: [[resume]] checkpoints"
        if found.reason == "missing":
            return [Check(name, "ok", f"{fact}; it would begin anew")]
        return [Check(name, "warn", fact, do)]
    return [Check(name, "ok", f"{run.name} would go on from {found.path}")]
