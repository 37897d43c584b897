"""raywatch.toml + environment -> a frozen Config. Every default and every check stands here.

A mistake is one line: `raywatch.toml:LINE: what, and what would be right`.
"""

from __future__ import annotations

import re
import sys
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field
from difflib import get_close_matches
from pathlib import Path
from typing import Any, get_args

from raywatch.collect.cloud import LINK_LOCAL, hinted
from raywatch.collect.kubernetes import ACCOUNT, Access
from raywatch.declaring import KEYS as RUN
from raywatch.declaring import Declared, declared
from raywatch.model import Hook, Mode, RaywatchError, ResumeRule
from raywatch.notice import NoticeHook, NoticeHookKind, NoticeKind, Provider

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

DASHBOARD = "http://127.0.0.1:8265"
LISTEN = "127.0.0.1:9265"
IN_CLUSTER = "https://kubernetes.default.svc"
HEAD_GROUP = "headgroup"  # KubeRay's name for it, in RAY_NODE_TYPE_NAME
MAX_S = 1e9  # also keeps nan and inf out
STORE = "~/.local/state/raywatch/raywatch.db"
SECTIONS: Mapping[str, tuple[str, ...]] = {
    "ray": ("dashboard", "session_dir", "temp_dir"),
    "listen": ("address", "hosts"),
    "store": ("path",),
    "rules": ("paths",),
    "cloud": ("provider", "url"),
    "kubernetes": ("enabled", "namespace", "cluster", "url", "service_account"),
}
_LABEL = re.compile(r"[a-z0-9]([a-z0-9.-]{0,251}[a-z0-9])?")
PROVIDERS = ("auto", "none", *get_args(Provider))
RESUME = {
    "run": str,
    "mode": str,
    "hook": dict,
    "classes": list,
    "checkpoints": str,
    "max_attempts": int,
    "backoff_s": float,
    "backoff_max_s": float,
    "max_age_s": float,
    "settle_s": float,
}
HOOK = {
    "kind": str,
    "name": str,
    "argv": list,
    "timeout_s": float,
    "retry_interrupted": bool,
    "entrypoint_num_cpus": float,
    "entrypoint_num_gpus": float,
    "entrypoint_memory": float,
}
NOTICE = {"name": str, "kinds": list, "hook": dict}
NOTICE_HOOK = {"kind": str, "argv": list, "timeout_s": float, "ray": str}
ARGV = "a command hook needs argv = [program, argument, ...]"
_WORDS = {
    str: "a text",
    int: "a whole number",
    float: "a number",
    list: "a list",
    dict: "a table",
    bool: "true or false",
}


class ConfigError(RaywatchError):
    """A mistake in the configuration."""


@dataclass(frozen=True, slots=True)
class Config:
    """All that can be configured. Paths are expanded."""

    dashboard: str = DASHBOARD
    session_dir: Path | None = None
    temp_dir: Path | None = None
    host: str = "127.0.0.1"
    port: int = 9265
    hosts: frozenset[str] = frozenset()
    store: Path = Path(STORE)
    rules: tuple[str, ...] = ()
    resume: tuple[ResumeRule, ...] = ()
    clouds: Mapping[Provider, str] = field(default_factory=dict)  # metadata services to ask, by URL
    notices: tuple[NoticeHook, ...] = ()
    declared: Declared = field(default_factory=Declared)  # [[run]]
    kubernetes: Access | None = None  # what of Kubernetes is watched


def find_config(named: str | None, env: Mapping[str, str]) -> Path | None:
    """Return the file to read: the named one, RAYWATCH_CONFIG, else the first that is there."""
    if named or env.get("RAYWATCH_CONFIG"):
        return Path(named or env["RAYWATCH_CONFIG"])
    places = ["raywatch.toml", "~/.config/raywatch/raywatch.toml", "/etc/raywatch/raywatch.toml"]
    return next((p for p in (Path(x).expanduser() for x in places) if p.is_file()), None)


def load_config(path: Path | None, env: Mapping[str, str], classes: Collection[str]) -> Config:
    """Read the configuration. Raises ConfigError; without a file the defaults hold."""
    if path is None:
        return _Reader("", "raywatch.toml", env, classes).config()
    try:
        text = path.read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: {error}") from error
    return _Reader(text, path.name, env, classes).config()


def parse_address(text: str) -> tuple[str, int] | None:
    """Split HOST:PORT; None where it is none."""
    host, _, port = text.rpartition(":")
    return (
        (host.strip("[]"), int(port))
        if host and port.isascii() and port.isdigit() and int(port) < 1 << 16
        else None
    )


@dataclass(frozen=True, slots=True)
class _Reader:
    text: str
    name: str
    env: Mapping[str, str]
    classes: Collection[str]

    def fail(self, what: str, *path: str | int) -> ConfigError:
        return ConfigError(f"{self.name}:{_line(self.text, path)}: {what}")

    def config(self) -> Config:
        try:
            found = tomllib.loads(self.text)
        except tomllib.TOMLDecodeError as error:
            line = re.search(r"line (\d+)", str(error))
            raise ConfigError(f"{self.name}:{line[1] if line else 1}: not TOML: {error}") from error
        self._known(found, (*SECTIONS, "resume", "notice", "run"))
        for section, keys in SECTIONS.items():
            table = found.get(section, {})
            if not isinstance(table, dict):
                raise self.fail(f"{section} must be a table: [{section}]", section)
            self._known(table, keys, section)
        address = self._text(found, "listen", "address", LISTEN)
        listen = parse_address(address)
        if listen is None:
            raise self.fail(
                f"address {address!r} must be HOST:PORT, like {LISTEN}", "listen", "address"
            )
        return Config(
            dashboard=self._dashboard(found),
            session_dir=self._path(found, "ray", "session_dir"),
            temp_dir=self._path(found, "ray", "temp_dir"),
            host=listen[0],
            port=listen[1],
            hosts=frozenset(self._texts(found, "listen", "hosts")),
            store=Path(self._text(found, "store", "path", STORE)).expanduser(),
            rules=tuple(self._texts(found, "rules", "paths")),
            resume=tuple(self._rule(r, i) for i, r in enumerate(self._tables(found, "resume"))),
            clouds=self._clouds(found),
            notices=self._notices(self._tables(found, "notice")),
            declared=self._declared(self._tables(found, "run")),
            kubernetes=self._kubernetes(found),
        )

    def _declared(self, rows: list[dict[str, Any]]) -> Declared:
        for number, row in enumerate(rows):
            self._typed(row, RUN, "run", number)
        return declared(
            rows,
            lambda what, *path: self.fail(what, "run", *path),
            lambda *path: _line(self.text, ("run", *path)),
            self.name,
        )

    def _tables(self, found: Mapping[str, object], name: str) -> list[dict[str, Any]]:
        rows = found.get(name, [])
        if not isinstance(rows, list):
            raise self.fail(f"{name} is a list of tables: [[{name}]]", name)
        for number, row in enumerate(rows):
            if not isinstance(row, dict):
                raise self.fail(f"a [[{name}]] is a table", name, number)
        return rows

    def _known(
        self, table: Mapping[str, object], allowed: Collection[str], *path: str | int
    ) -> None:
        for key in table:
            if key not in allowed:
                near = get_close_matches(key, allowed, 1)
                hint = f"did you mean {near[0]}?" if near else f"allowed are {', '.join(allowed)}"
                raise self.fail(f"unknown key {key}; {hint}", *path, key)

    def _text(self, found: Mapping[str, object], section: str, key: str, default: str) -> str:
        table = found.get(section, {})
        value = table.get(key, default) if isinstance(table, dict) else default
        if not isinstance(value, str) or not value:
            raise self.fail(f"{key} must be a text", section, key)
        return value

    def _texts(self, found: Mapping[str, object], section: str, key: str) -> list[str]:
        table = found.get(section, {})
        value = table.get(key, []) if isinstance(table, dict) else []
        if not isinstance(value, list) or not all(isinstance(v, str) for v in value):
            raise self.fail(f"{key} must be a list of texts", section, key)
        return value

    def _path(self, found: Mapping[str, object], section: str, key: str) -> Path | None:
        table = found.get(section, {})
        return (
            Path(self._text(found, section, key, "")).expanduser()
            if isinstance(table, dict) and key in table
            else None
        )

    def _dashboard(self, found: Mapping[str, object]) -> str:
        named = [self.env.get("RAY_API_SERVER_ADDRESS", ""), self.env.get("RAY_ADDRESS", "")]
        default = next((n for n in named if n.startswith(("http://", "https://"))), DASHBOARD)
        return self._url(found, "ray", "dashboard", default)

    def _url(self, found: Mapping[str, object], section: str, key: str, default: str) -> str:
        url = self._text(found, section, key, default)
        if not url.startswith(("http://", "https://")):
            raise self.fail(f"{key} {url!r} must be a URL, like {default}", section, key)
        return url

    def _clouds(self, found: Mapping[str, object]) -> Mapping[Provider, str]:
        url = self._url(found, "cloud", "url", LINK_LOCAL)
        named = self._text(found, "cloud", "provider", "auto")
        if named not in PROVIDERS:
            words = ", ".join(PROVIDERS)
            raise self.fail(f"provider {named!r} must be one of {words}", "cloud", "provider")
        asked = hinted() if named == "auto" else [p for p in get_args(Provider) if p == named]
        return dict.fromkeys(asked, url)

    def _kubernetes(self, found: Mapping[str, object]) -> Access | None:
        """Where a service account is mounted this is a pod: its API server is asked about its own RayCluster."""
        table = found.get("kubernetes", {})
        enabled = table.get("enabled", "auto") if isinstance(table, dict) else "auto"
        if not isinstance(enabled, bool) and enabled != "auto":
            raise self.fail('enabled must be true, false or "auto"', "kubernetes", "enabled")
        account = Path(self._text(found, "kubernetes", "service_account", str(ACCOUNT)))
        has_token = (account / "token").is_file()
        host, port = (self.env.get(f"KUBERNETES_SERVICE_{x}", "") for x in ("HOST", "PORT"))
        host = f"[{host}]" if ":" in host else host
        default = f"https://{host}:{port or 443}" if host else IN_CLUSTER
        url = self._url(found, "kubernetes", "url", default).rstrip("/")
        is_worker = self.env.get("RAY_NODE_TYPE_NAME", HEAD_GROUP) != HEAD_GROUP
        if enabled is False or (enabled == "auto" and (is_worker or not has_token)):
            return None
        if not has_token and url == default:
            what = f"enabled, but {account}/token is not there; name a url, like `kubectl proxy`'s"
            raise self.fail(what, "kubernetes", "enabled")
        own = _first_line(account / "namespace") or "default"
        known = {"namespace": self.env.get("RAY_CLUSTER_NAMESPACE") or own}
        known["cluster"] = self.env.get("RAY_CLUSTER_NAME", "")
        for key, value in known.items():
            named = isinstance(table, dict) and key in table
            known[key] = self._text(found, "kubernetes", key, value) if named else value
            if known[key] and not _LABEL.fullmatch(known[key]):
                raise self.fail(f"{key} {known[key]!r} is no name in Kubernetes", "kubernetes", key)
        trusted = has_token and url.startswith("https://")  # `kubectl proxy` has a token of its own
        return Access(
            url=url,
            namespace=known["namespace"],
            cluster=known["cluster"],
            account=account if trusted else None,
            is_asked_for=enabled is True,
        )

    def _rule(self, row: dict[str, Any], number: int) -> ResumeRule:
        self._typed(row, RESUME, "resume", number)
        for key in ("run", "mode", "hook"):
            if key not in row:
                raise self.fail(f"{key} is missing from [[resume]]", "resume", number)
        if row["mode"] not in get_args(Mode):
            raise self.fail(
                f"mode {row['mode']!r} must be one of {', '.join(get_args(Mode))}",
                "resume",
                number,
                "mode",
            )
        for name in row.get("classes", []):
            if name not in self.classes:
                near = get_close_matches(str(name), self.classes, 1)
                hint = f"; did you mean {near[0]}?" if near else "; see rules/taxonomy.yaml"
                raise self.fail(
                    f"class {name!r} is not in the taxonomy{hint}", "resume", number, "classes"
                )
        numbers = {
            k: row[k] for k in ("backoff_s", "backoff_max_s", "max_age_s", "settle_s") if k in row
        }
        if any(not 0 <= v < MAX_S for v in numbers.values()) or row.get("max_attempts", 1) < 1:
            raise self.fail("times must be 0 or more, max_attempts 1 or more", "resume", number)
        return ResumeRule(
            run=row["run"],
            mode=row["mode"],
            hook=self._hook(row["hook"], number),
            classes=tuple(row.get("classes", ())),
            checkpoints=row.get("checkpoints", ""),
            max_attempts=row.get("max_attempts", 20),
            backoff_s=float(row.get("backoff_s", 10)),
            backoff_max_s=float(row.get("backoff_max_s", 600)),
            max_age_s=float(row.get("max_age_s", 900)),
            settle_s=float(row.get("settle_s", 75)),
        )

    def _notices(self, rows: list[dict[str, Any]]) -> tuple[NoticeHook, ...]:
        hooks = [self._notice(row, number) for number, row in enumerate(rows)]
        names = [h.name for h in hooks]
        for number, name in enumerate(names):
            if name in names[:number]:  # the name tells what was done already
                raise self.fail(f"two [[notice]] are named {name!r}", "notice", number, "name")
        return tuple(hooks)

    def _notice(self, row: dict[str, Any], number: int) -> NoticeHook:
        self._typed(row, NOTICE, "notice", number)
        hook, kinds = row.get("hook"), row.get("kinds", ["preemption"])
        if hook is None:
            raise self.fail("hook is missing from [[notice]]", "notice", number)
        for kind in kinds:
            if kind not in get_args(NoticeKind):
                words = ", ".join(get_args(NoticeKind))
                raise self.fail(f"kind {kind!r} must be one of {words}", "notice", number, "kinds")
        self._typed(hook, NOTICE_HOOK, "notice", number)
        kind, argv = hook.get("kind"), self._argv(hook, "notice", number)
        if kind not in get_args(NoticeHookKind):
            raise self.fail(
                f"hook kind {kind!r} must be drain or command", "notice", number, "hook"
            )
        if kind == "drain" and (argv or "rebalance" in kinds):
            wrong = "takes no argv" if argv else "is nothing for a rebalance: the machine may stay"
            raise self.fail(f"a drain hook {wrong}", "notice", number, "hook")
        if kind == "command" and not argv:
            raise self.fail(ARGV, "notice", number, "hook")
        timeout_s = self._seconds(hook.get("timeout_s", 60), "notice", number, "timeout_s")
        name = str(row.get("name", argv[0] if argv else kind))
        argv = argv or (str(hook.get("ray", "ray")),)
        return NoticeHook(kind, name, argv, tuple(kinds), timeout_s)

    def _argv(self, hook: Mapping[str, object], section: str, number: int) -> tuple[str, ...]:
        argv = hook.get("argv", [])
        if not isinstance(argv, list) or not all(isinstance(a, str) for a in argv):
            raise self.fail(ARGV, section, number, "hook")
        return tuple(argv)

    def _seconds(self, value: object, *path: str | int) -> float:
        if not isinstance(value, (int, float)) or not 0 < value < MAX_S:
            raise self.fail(f"{path[-1]} must be more than 0", *path)
        return float(value)

    def _typed(
        self, row: Mapping[str, object], kinds: Mapping[str, type], *path: str | int
    ) -> None:
        self._known(row, kinds.keys(), *path)
        for key, value in row.items():
            kind = kinds[key]
            fits = isinstance(value, (int, float) if kind is float else kind)
            if not fits or (isinstance(value, bool) and kind is not bool):
                raise self.fail(f"{key} must be {_WORDS[kind]}", *path, key)

    def _hook(self, row: Mapping[str, object], number: int) -> Hook:
        self._typed(row, HOOK, "resume", number)
        kind, argv = row.get("kind"), self._argv(row, "resume", number)
        if kind == "job":
            resources = {k: float(str(v)) for k, v in row.items() if k.startswith("entrypoint_")}
            return Hook("job", name=str(row.get("name", "job")), entrypoint_resources=resources)
        if kind != "command":
            raise self.fail(f"hook kind {kind!r} must be job or command", "resume", number, "hook")
        if not argv:
            raise self.fail(ARGV, "resume", number, "hook")
        return Hook(
            "command",
            name=str(row.get("name", argv[0])),
            argv=argv,
            timeout_s=float(str(row.get("timeout_s", 300))),
            retry_interrupted=row.get("retry_interrupted") is True,
        )


def _first_line(path: Path) -> str:
    try:
        return path.read_text()[:256].strip()
    except (OSError, UnicodeDecodeError):
        return ""


def _line(text: str, path: tuple[str | int, ...]) -> int:
    """Find where a key stands: its table's header, then the key behind it."""
    lines = text.splitlines()
    section = str(path[0]) if path else ""
    wanted = path[1] if len(path) > 1 and isinstance(path[1], int) else 0
    heads = [
        i for i, x in enumerate(lines) if re.match(rf"\s*\[\[?\s*{re.escape(section)}\s*\]", x)
    ]
    start = heads[min(wanted, len(heads) - 1)] if heads else 0
    key = str(path[-1]) if path and not isinstance(path[-1], int) else ""
    for i in range(start, len(lines)):
        if key and re.search(rf"(?:^|[{{,\s\[]){re.escape(key)}\s*(?:=|\])", lines[i]):
            return i + 1
    return start + 1
