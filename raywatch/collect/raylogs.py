"""Ray's log families: what a file's name tells, and where sessions lie (reference/ray.md 1.1, 1.2)."""

from __future__ import annotations

import contextlib
import re
from collections.abc import Iterator, Mapping
from pathlib import Path

from raywatch.model import Component, LogFormat, Source

_HEX = r"[0-9a-f]"
_PID = r"(?P<pid>\d+)"
_WORKER = rf"(?P<worker_id>{_HEX}{{56}})"
# A number before the extension is a second process of the kind in the session (raylet.1.out), one behind it is
# rotation (raylet.out.1): _private/node.py:_make_inc_temp and StreamRedirector of Ray 2.60.
_INC, _ROT = r"(?:\.\d+)?", r"(?:\.\d+)?$"
_OUT, _ANY = rf"{_INC}\.(?:out|err){_ROT}", rf"{_INC}\.(?:out|err|log){_ROT}"

FAMILIES: tuple[tuple[str, Component, LogFormat], ...] = (
    (rf"raylet{_OUT}", "raylet", "cpp"),
    (rf"gcs_server{_OUT}", "gcs", "cpp"),
    (
        rf"(?:io_)?worker-{_WORKER}(?:-(?P<job_id>{_HEX}{{8}}))?-{_PID}\.(?:out|err){_ROT}",
        "worker",
        "text",
    ),
    (rf"(?:python|cpp|java)-core-worker-{_WORKER}_{_PID}\.log{_ROT}", "core", "cpp"),
    (
        rf"(?:python|cpp|java)-core-driver-(?P<job_id>{_HEX}{{8}}){_HEX}*_{_PID}\.log{_ROT}",
        "core",
        "cpp",
    ),
    (rf"java-worker.*\.log{_ROT}", "worker", "text"),
    (rf"monitor{_ANY}", "monitor", "python"),
    (rf"log_monitor{_ANY}", "log_monitor", "python"),
    (rf"dashboard_agent{_ANY}", "agent", "python"),
    (rf"dashboard(?:_\w+)?{_ANY}", "dashboard", "python"),
    (rf"runtime_env_agent{_ANY}", "runtime_env", "python"),
    (rf"runtime_env_setup-(?:(?P<job_id>{_HEX}{{8}})|.*)\.log{_ROT}", "runtime_env", "python"),
    (rf"ray_client_server(?:_\d+)?{_OUT}", "client_server", "python"),
    (rf"job-driver-(?P<submission_id>.+)\.log{_ROT}", "job", "text"),
    (rf"supervisor-(?P<submission_id>.+)\.log{_ROT}", "job", "python"),
    (rf"ray_process_exit\.log{_ROT}", "process_exit", "python"),
    (rf"ray-train-(?:sys|app)-(?:controller|worker)-{_WORKER}\.log{_ROT}", "train", "json"),
    (rf"event_EXPORT_\w+\.log{_ROT}", "export", "event"),
    (rf"event_\w+\.log{_ROT}", "event", "event"),
    (rf"ray-data.*\.log{_ROT}", "data", "python"),
    (rf"(?:controller|proxy|replica)_.+\.log{_ROT}", "serve", "text"),
    (r"(?:dmesg|kern\.log|syslog|messages|journal).*$", "kernel", "text"),
    (r".*driver.*\.(?:log|txt|out|err)$", "driver", "text"),
)
_MAGIC = (
    *(b"\x7fELF", b"SQLite format 3", b"\x89PNG", b"PK\x03\x04", b"7z\xbc\xaf"),
    *(b"\x1f\x8b", b"\xfd7zXZ", b"BZh", b"\x28\xb5\x2f\xfd", b"\x04\x22\x4d\x18"),
)
_COMPILED = tuple((re.compile(p), c, f) for p, c, f in FAMILIES)
# All in one, to find the first that matches: there may be two hundred thousand names. Its number is that of the group.
_WHICH = re.compile("|".join(f"({re.sub(r'[(][?]P<[a-z_]+>', '(?:', p)})" for p, _, _ in FAMILIES))
# Rewritten in place, another format, or no log at all.
_NOT_LOGS = re.compile(
    r"debug_state.*\.txt|.*\.(?:json|yaml|yml|pb|bin|png|svg|db|sqlite|pkl|pt|zip|gz|tgz|xz|bz2|zst|lz4|7z|tar|so|sock|lock|csv|py)$"
)


def describe(path: str, *, node: str | None = None, session: str = "") -> Source | None:
    """Say what the file at `path` is by its name alone; None for what is not a log. Pure.

    `node`: None for what the path says.
    """
    name = path.rsplit("/", 1)[-1]
    if _NOT_LOGS.match(name):
        return None
    node = node_of_archive(path) if node is None else node
    session = session or _session_of(path)
    which = _WHICH.match(name)
    if which is None:
        return Source(path=path, component="unknown", node=node, session=session)
    pattern, component, log_format = _COMPILED[(which.lastindex or 1) - 1]
    match = pattern.match(name)
    found = {k: v for k, v in match.groupdict().items() if v} if match else {}
    return Source(
        path=path,
        component=component,
        format=log_format,
        node=node,
        session=session,
        job_id="" if found.get("job_id") == "ffffffff" else found.get("job_id", ""),
        worker_id=found.get("worker_id", ""),
        submission_id=found.get("submission_id", ""),
        pid=int(found.get("pid", 0)),
    )


def gcs_address(session: Path | None, environ: Mapping[str, str]) -> str:
    """Return the GCS' address, HOST:PORT: of RAY_ADDRESS, else what `ray start` wrote beside a session, else ''.

    ray/_private/utils.py, write_ray_address: on the head and on every other node; the newest cluster of the machine.
    """
    named = environ.get("RAY_ADDRESS", "")  # it may also be a URL, or the word auto
    if session is None or _ADDRESS.fullmatch(named):
        return named if _ADDRESS.fullmatch(named) else ""
    try:
        with (session.resolve().parent / "ray_current_cluster").open() as file:
            found = file.read(300).strip()
    except (OSError, ValueError):
        return ""
    return found if _ADDRESS.fullmatch(found) else ""


def is_binary(head: bytes) -> bool:
    """Say whether a file that begins so is no text. Zeros at its start are the hole of a log that was cut in place."""
    return head.startswith(_MAGIC) or b"\0" in head[:8192].lstrip(b"\0")


def holds_text(path: Path) -> bool:
    """Say whether a file of an unknown kind may be a log: a core dump is full of words that look like failures."""
    try:
        return not is_binary(_head(path))
    except OSError:  # it is gone, or will be found unreadable by who reads it
        return True


def _session_of(path: str) -> str:
    return next((p for p in path.split("/") if p.startswith("session_")), "")


def node_of_archive(path: str) -> str:
    """Return the folder before `session_*` in saved logs (`logs/<node>/session_*/logs/...`), else ''."""
    parts = path.split("/")
    at = next((i for i, p in enumerate(parts) if p.startswith("session_")), 0)
    return parts[at - 1] if at > 0 and parts[at - 1] not in ("", "ray", "tmp", "logs") else ""


_ADDRESS = re.compile(r"[\w.\-\[\]:]{1,255}:\d{1,5}", re.ASCII)
_RAYLET = re.compile(r"raylet(?:\.\d+)?\.out$")
_GAP = 8
_NODE_ID = re.compile(rb"(?:Setting node ID node_id=|Raylet of id, )([0-9a-f]{56})")


def node_id_in(head: bytes) -> str:
    """Return the node id that a raylet writes into its first lines, else ''."""
    match = _NODE_ID.search(head)
    return match[1].decode() if match else ""


def node_of_session(path: Path, logs: Path) -> str:
    """Return the node that wrote a file of a live session; '' where several raylets share the folder."""
    node = ""
    for raylet in (path,) if _RAYLET.match(path.name) else _raylets(logs):
        try:
            found = node_id_in(_head(raylet))
        except OSError:
            return ""
        if not found or found != (node or found):
            return ""
        node = found
    return node


def nodes_of_session(logs: Path) -> frozenset[str]:
    """Return the nodes of all raylets that log into a folder, '' for one that has not named itself."""
    found = set()
    for raylet in _raylets(logs):
        with contextlib.suppress(OSError):
            found.add(node_id_in(_head(raylet)))
    return frozenset(found)


def _raylets(logs: Path) -> Iterator[Path]:
    """Yield the logs of a session's raylets without listing the folder, which may be large.

    They are numbered from 0, which is left out; some may be gone.
    """
    missing = number = 0
    while missing < _GAP:
        path = logs / (f"raylet.{number}.out" if number else "raylet.out")
        if path.exists():
            missing = 0
            yield path
        else:
            missing += 1
        number += 1


def _head(path: Path) -> bytes:
    with path.open("rb") as stream:
        return stream.read(1 << 16)


def current_session(temp_dir: Path) -> Path | None:
    """Return the session that `session_latest` names, else the newest `session_*`; None where there is none.

    The link is absolute: where the folder is mounted elsewhere it dangles, and the folder of the same name beside it
    is meant.
    """
    link = temp_dir / "session_latest"
    if link.is_symlink():
        beside = temp_dir / link.readlink().name
        if beside.is_dir():
            return beside.resolve()
    found = [p for p in temp_dir.glob("session_*") if p.is_dir() and not p.is_symlink()]
    return max(found, key=lambda p: p.name).resolve() if found else None


def default_temp_dirs(env: Mapping[str, str]) -> tuple[Path, ...]:
    """Return where Ray puts its sessions: RAY_TMPDIR, TMPDIR (in a folder `ray`), then /tmp/ray.

    Ray 2.60, _common/utils.py: get_default_system_temp_dir.
    """
    roots = [Path(env[k]) for k in ("RAY_TMPDIR", "TMPDIR") if env.get(k)]
    named = [p for root in roots for p in (root, root / "ray")]
    return (*named, Path("/tmp/ray"))  # noqa: S108 - Ray's own default
