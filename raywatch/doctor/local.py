"""What this machine says: the session and its logs, how they are watched, the store, limits, rules, the engine."""

from __future__ import annotations

import os
import resource
import shutil
import stat
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import NamedTuple

from raywatch.collect.events import export_environment
from raywatch.collect.raylogs import current_session, default_temp_dirs, describe
from raywatch.collect.wake import Waker
from raywatch.config import Config
from raywatch.doctor.checks import Check, Verdict
from raywatch.following import OPEN_FILES
from raywatch.model import RaywatchError
from raywatch.pipeline import load_ruleset

MAX_FILES = 200_000  # that are looked at
NAMED = 3  # files that cannot be read
FEW_FILES = 4096  # open files: fewer do not hold the logs of a busy node
LITTLE, TOO_LITTLE = 512 << 20, 16 << 20  # bytes free
RULES_S = 10.0
WATCHES = Path("/proc/sys/fs/inotify/max_user_watches")
_PRIVATE = stat.S_IRWXG | stat.S_IRWXO
_ENGINE = """
from raywatch.core.matcher import Matcher, compile_database, engine_version
data = b"raywatch looks for this line\\n"
assert Matcher(compile_database([b"this line"], [0])).scan(data)
print(engine_version())
"""
_SAMPLES = """
import sys
from raywatch.core.compiling import compile_ruleset
from raywatch.core.samples import check
from raywatch.core.signature_files import parse_rules
from raywatch.pipeline import rule_texts, user_files
texts = rule_texts(sys.argv[1:])
own = [str(f) for f in user_files(sys.argv[1:])]
ruleset = parse_rules([texts[0], *(t for t in texts if t[0] in own)])
print("\\n".join(check(ruleset, compile_ruleset(ruleset), paths=own)))
"""


class Session(NamedTuple):
    """The session that the daemon would follow, and by which rule; `error` where none is found."""

    path: Path | None
    rule: str
    error: str = ""


def find_session(config: Config, environ: Mapping[str, str]) -> Session:
    """Find it as the daemon does."""
    if config.session_dir is not None:
        there = config.session_dir.is_dir()
        error = "" if there else f"{config.session_dir} is no folder"
        return Session(config.session_dir if there else None, "session_dir", error)
    if config.temp_dir is not None:
        places: tuple[Path, ...] = (config.temp_dir,)
        rule = "temp_dir"
    else:
        named = [k for k in ("RAY_TMPDIR", "TMPDIR") if environ.get(k)]
        places, rule = default_temp_dirs(environ), " or ".join([*named, "Ray's default"])
    try:
        found = next(filter(None, map(current_session, places)), None)
    except OSError as error:
        return Session(None, rule, f"{error.filename}: {error.strerror}")
    return Session(found, rule, "" if found else f"none in {', '.join(map(str, places))}")


def session_checks(config: Config, environ: Mapping[str, str]) -> list[Check]:
    """Say which session is found and whether its logs can be read."""
    session = find_session(config, environ)
    if session.path is None:
        do = "start Ray on this machine, or name its folder: --temp-dir, --session-dir, RAY_TMPDIR"
        return [Check("session", "fail", f"{session.error} (by {session.rule})", do)]
    found = Check("session", "ok", f"{session.path} (by {session.rule})")
    logs = session.path / "logs"
    if not os.access(logs, os.R_OK | os.X_OK):
        fact = (
            f"{logs} {'may not be read' if logs.exists() else 'is not there'} by uid {os.getuid()}"
        )
        return [found, Check("logs", "fail", fact, _AS_RAYS_USER)]
    return [found, _logs_check(logs), *event_checks(logs, config)]


_AS_RAYS_USER = "run raywatch as the user who runs Ray, or let its group read the session folder"


def _logs_check(logs: Path) -> Check:
    unreadable: list[str] = []
    kinds: Counter[str] = Counter()
    for number, path in enumerate(_files(str(logs), unreadable)):
        source = describe(path, node="")
        if source is not None:
            kinds[source.component] += 1
            if not os.access(path, os.R_OK):
                unreadable.append(path)
        if number >= MAX_FILES:
            break
    total = sum(kinds.values())
    listed = ", ".join(f"{n} {k}" for k, n in sorted(kinds.items()))
    if unreadable:
        names = ", ".join(unreadable[:NAMED]) + (" ..." if len(unreadable) > NAMED else "")
        verdict: Verdict = "fail" if len(unreadable) >= total else "warn"
        return Check("logs", verdict, f"{len(unreadable)} may not be read: {names}", _AS_RAYS_USER)
    if not kinds["raylet"]:
        do = "look whether Ray runs here; its raylet names the node that the logs are of"
        return Check("logs", "warn", f"no log of a raylet among {total} files: {listed}", do)
    return Check("logs", "ok", f"{total} files can be read: {listed}")


def _files(folder: str, unreadable: list[str]) -> Iterator[str]:
    def failed(error: OSError) -> None:
        unreadable.append(str(error.filename))

    for where, _, names in os.walk(folder, onerror=failed):
        yield from (f"{where}/{name}" for name in names)


def event_checks(logs: Path, config: Config) -> list[Check]:
    """Say whether Ray writes events to files, and with which environment a head pushes them to raywatch."""
    return [_files_of_events(logs), _push_of_events(config)]


def _push_of_events(config: Config) -> Check:
    # It is shown, so no secret is in it.
    environ = export_environment(f"http://{config.host}:{config.port}", "$KEY")
    hint = " ".join(f'{k}="{v}"' for k, v in environ.items())
    return Check(
        "event push",
        "ok",
        f"a head that is started with this pushes what happens: {hint} (optional; KEY: docs/configuration.md)",
    )


def _files_of_events(logs: Path) -> Check:
    export = logs / "export_events"
    # Ray opens some of them also where it writes none.
    count = sum(1 for p in export.glob("event_EXPORT_*") if p.stat().st_size)
    if count:
        return Check("event export", "ok", f"on: {count} files in {export}")
    return Check("event export", "ok", "off: what happens is read from logs and APIs")


def watching_checks(config: Config, environ: Mapping[str, str]) -> list[Check]:
    """Say whether the kernel tells what is written, as the daemon would hear it."""
    session = find_session(config, environ).path
    if session is None or not (session / "logs").is_dir():
        return []
    logs = session / "logs"
    folders = sum(1 for _ in os.walk(logs))
    try:
        most = int(WATCHES.read_text())
    except (OSError, ValueError):
        most = 0
    waker = Waker()
    try:
        waker.watch([logs])
        mode, reason = waker.mode, waker.reason
    finally:
        waker.close()
    limit = f", of {most} that a user may have" if most else ""
    if mode != "inotify":
        do = (
            "raise fs.inotify.max_user_watches and max_user_instances (sysctl); on a network file"
            " system run the daemon on the machine that writes. Until then files are polled"
        )
        return [Check("inotify", "warn", f"{reason} ({folders} folders{limit})", do)]
    if most and folders * 2 > most:
        do = "raise fs.inotify.max_user_watches (sysctl), or remove old folders of the session"
        return [Check("inotify", "warn", f"{folders} folders are watched{limit}", do)]
    return [Check("inotify", "ok", f"{folders} folders are watched{limit}")]


def limit_checks() -> list[Check]:
    """Say whether enough files may be open."""
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and hard < FEW_FILES:
        do = f"LimitNOFILE={OPEN_FILES} in the unit, or ulimit -n: a log that is deleted is lost"
        return [Check("open files", "warn", f"at most {hard}", do)]
    told = "without limit" if hard == resource.RLIM_INFINITY else f"at most {hard}"
    return [Check("open files", "ok", told)]


def store_checks(config: Config) -> list[Check]:
    """Say whether what must survive can be written, and who else can read it."""
    path = config.store
    above = next(p for p in (path.parent, *path.parent.parents) if p.exists())
    if not above.is_dir() or not os.access(above, os.W_OK | os.X_OK):
        fact = f"{path}: {above} may not be written by uid {os.getuid()}"
        return [Check("store", "fail", fact, "name another file: --store, or [store] path")]
    room = os.statvfs(above)
    free = room.f_bavail * room.f_frsize
    told = f"{path}, {free >> 20} MiB free"
    if free < TOO_LITTLE:
        return [Check("store", "fail", told, "make room: nothing can be committed")]
    if path.exists():
        if not path.is_file() or not os.access(path, os.R_OK | os.W_OK):
            fact = f"{path} may not be written by uid {os.getuid()}"
            return [Check("store", "fail", fact, "run as its owner, or name another file: --store")]
        mode = stat.S_IMODE(path.stat().st_mode)
        if mode & _PRIVATE:
            fact = f"{path} has mode {mode:04o}: others may read what jobs are started with"
            return [Check("store", "warn", fact, f"chmod 600 {path}")]
    if free < LITTLE:
        return [Check("store", "warn", told, "make room, or name another file: --store")]
    return [Check("store", "ok", f"{told}{'' if path.exists() else ' (made at the first start)'}")]


def rule_checks(rules: Sequence[str]) -> list[Check]:
    """Say whether the signatures can be read, and whether the user's do what their own samples promise.

    Those alone: to compile all takes seconds of a core, which `raywatch rules check` and the daemon spend.
    """
    try:
        count = len(load_ruleset(rules).signatures)
    except (RaywatchError, OSError) as error:
        return [Check("rules", "fail", str(error), "`raywatch rules check PATH` says it again")]
    if not rules:
        return [Check("rules", "ok", f"{count} signatures")]
    asked = [sys.executable, "-c", _SAMPLES, *rules]
    done = subprocess.run(asked, capture_output=True, check=False, timeout=RULES_S)
    said = (done.stdout if done.returncode == 0 else done.stderr).decode(errors="replace")
    if problems := said.strip().splitlines():
        more = f" and {len(problems) - 1} more" if len(problems) > 1 else ""
        do = f"raywatch rules check {' '.join(rules)}"
        return [Check("rules", "fail", f"{problems[0]}{more}", do)]
    return [Check("rules", "ok", f"{count} signatures, yours keep what their samples promise")]


def engine_checks() -> list[Check]:
    """Say whether the engine runs on this processor: in a process of its own, which an unknown instruction ends."""
    asked = [sys.executable, "-c", _ENGINE]
    done = subprocess.run(asked, capture_output=True, check=False, timeout=RULES_S)
    version = ".".join(map(str, sys.version_info[:3]))
    if done.returncode:
        said = done.stderr.decode(errors="replace").strip().splitlines() or [""]
        ended = f"ended by signal {-done.returncode}" if done.returncode < 0 else said[-1]
        do = "the engine (hyperscan) needs a processor with SSSE3, or ARM; see pip show hyperscan"
        return [Check("engine", "fail", f"Python {version}, hyperscan: {ended}", do)]
    return [Check("engine", "ok", f"Python {version}, hyperscan {done.stdout.decode().strip()}")]


def program_at(name: str, environ: Mapping[str, str]) -> str:
    """Return the program that a hook would start, '' where there is none that may be run."""
    return shutil.which(name, path=environ.get("PATH", os.defpath)) or ""
