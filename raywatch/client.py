"""A client of the daemon's HTTP API: what the verbs do that ask a running daemon.

Standard library only, so that a verb starts fast. It uses no proxy and follows no redirect: a token goes to the
address that the user named and nowhere else.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from http.client import HTTPConnection, HTTPException, HTTPSConnection
from pathlib import Path
from typing import NamedTuple, TypeVar, cast
from urllib.parse import quote, urlencode, urlsplit

from raywatch.capacitytables import capacity_story
from raywatch.core.nodeview import NodeJson
from raywatch.core.runview import RunJson
from raywatch.core.view import IncidentJson
from raywatch.model import RaywatchError
from raywatch.nodetables import node_story, nodes_table
from raywatch.noticetables import notices_table
from raywatch.tables import (
    ActionRow,
    actions_table,
    did,
    incident_story,
    incidents_table,
    run_story,
    runs_table,
    would_resume,
)
from raywatch.terminal import safe

LOOPBACK = frozenset({"127.0.0.1", "localhost", "::1"})
TIMEOUT_S = 30.0  # more than the daemon takes for an answer
FOLLOW_S = 10.0  # a person who started something is told what came of it, if that is soon
OK, UNAUTHORIZED = 200, 401
_PLAIN = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.@%+/-]*")
SHOWN_CHOICES = 5
_T = TypeVar("_T", IncidentJson, RunJson, NodeJson, ActionRow)


class ClientError(RaywatchError):
    """The daemon is away, says no, or does not know what was named."""


class Shown(NamedTuple):
    """What a verb prints, its exit code, and what a person must know who reads it."""

    text: str
    code: int
    warnings: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Client:
    """The daemon at `url`. `token` is sent wherever the user pointed, `own_token` to this machine only."""

    url: str
    token: str = ""
    own_token: str = ""
    timeout_s: float = TIMEOUT_S

    def get(self, path: str, **query: str) -> bytes:
        """Ask for a path; return the body. Raises ClientError."""
        return self._ask("GET", path + ("?" + urlencode(query) if query else ""))

    def post(self, path: str, body: Mapping[str, object] | None = None) -> bytes:
        """Ask the daemon to do something; return the body. Raises ClientError."""
        if not self._token():
            raise ClientError(
                "this needs the daemon's token: give --token-file or RAYWATCH_TOKEN"
                " (it is in <state>/token, readable by the daemon's user)"
            )
        return self._ask("POST", path, json.dumps(body or {}).encode())

    def _token(self) -> str:
        is_here = urlsplit(self.url).hostname in LOOPBACK
        return self.token or (self.own_token if is_here else "")

    def _ask(self, method: str, path: str, body: bytes | None = None) -> bytes:
        at, kind = urlsplit(self.url), "application/json"
        made = HTTPSConnection if at.scheme == "https" else HTTPConnection
        headers = {"Content-Type": kind} if body is not None else {}
        if token := self._token():
            headers["Authorization"] = f"Bearer {token}"
        connection = made(at.hostname or "", at.port, timeout=self.timeout_s)
        try:
            connection.request(method, at.path.rstrip("/") + path, body, headers)
            answer = connection.getresponse()
            status, found = answer.status, answer.read()
        except TimeoutError as error:
            raise ClientError(f"the daemon at {self.url} does not answer in time") from error
        except (OSError, HTTPException, UnicodeError) as error:
            raise ClientError(
                f"no daemon answers at {self.url}; start it with `raywatch daemon`"
            ) from error
        finally:
            connection.close()
        return self._checked(status, found)

    def _checked(self, status: int, body: bytes) -> bytes:
        try:
            found = json.loads(body)
        except ValueError:
            found = None
        if not isinstance(found, dict):
            raise ClientError(f"what answers at {self.url} is no raywatch daemon (HTTP {status})")
        if status == UNAUTHORIZED:
            raise ClientError(
                f"the daemon at {self.url} wants its token: give --token-file or RAYWATCH_TOKEN"
            )
        if status != OK:
            raise ClientError(str(found.get("error", f"HTTP {status}")))
        return body


def make_client(
    url: str,
    token_file: str | None,
    env_token: str,
    own_file: Path,
    *,
    timeout_s: float = TIMEOUT_S,
) -> Client:
    """Return a client; `token_file` before the environment's token. Raises ClientError."""
    at = urlsplit(url)
    try:
        is_url = at.scheme in ("http", "https") and bool(at.hostname) and at.port != 0
    except ValueError:  # a port that is none
        is_url = False
    if not is_url:
        raise ClientError(f"{url!r} is no URL of a daemon; give one like http://127.0.0.1:9265")
    client = Client(url.rstrip("/"), timeout_s=timeout_s)
    if token_file is None:
        token = _usable(env_token, "RAYWATCH_TOKEN")
        return replace(client, token=token, own_token=_own(own_file))
    try:
        token = Path(token_file).expanduser().read_text()
    except (OSError, UnicodeDecodeError) as error:
        raise ClientError(f"--token-file {token_file}: {error}") from error
    if not token.strip():
        raise ClientError(f"--token-file {token_file} holds no token")
    return replace(client, token=_usable(token, f"--token-file {token_file}"))


def _own(path: Path) -> str:
    try:
        return _usable(path.read_text(), str(path))
    except (OSError, UnicodeDecodeError):  # no daemon of this user ran here; reading needs none
        return ""


def _usable(token: str, where: str) -> str:
    token = token.strip()
    if not token.isascii() or not token.isprintable():  # it would break the header
        raise ClientError(f"{where} holds no token")
    return token


# --- names ---------------------------------------------------------------------------------------


def chosen(rows: Sequence[_T], text: str, names: Callable[[_T], Sequence[str]], kind: str) -> _T:
    """Return the row that is named, or whose name begins so and no other's does. Raises ClientError."""
    exact = [r for r in rows if names(r)[0] == text] or [r for r in rows if text in names(r)]
    found = exact or [r for r in rows if any(n.startswith(text) for n in names(r) if text)]
    if len(found) == 1:
        return found[0]
    if not found:
        raise ClientError(f"no {kind} {text}; `raywatch {kind}s` lists them")
    shown = [names(r)[0] for r in found[:SHOWN_CHOICES]]
    more = f" and {len(found) - len(shown)} more" if len(found) > len(shown) else ""
    raise ClientError(f"{text} may be {', '.join(shown)}{more}: give more of it")


def incident_names(row: IncidentJson) -> Sequence[str]:
    """What an incident is called; others that turned out to be its symptoms have become it."""
    return (row["id"], *row["merged"])


def run_names(row: RunJson) -> Sequence[str]:
    """What a run is called; the first is its id."""
    return (row["id"], row["name"], *row["submissions"])


def node_names(row: NodeJson) -> Sequence[str]:
    """What a node is called; the first is its id."""
    return (row["id"], row["ip"], row["name"])


def action_names(row: ActionRow) -> Sequence[str]:
    """What an action is called; the first is its key."""
    return (row["key"], row["key"].removeprefix("raywatch-"))


def incidents(client: Client) -> list[IncidentJson]:
    """All incidents that the daemon remembers."""
    return cast("list[IncidentJson]", json.loads(client.get("/api/v1/incidents"))["incidents"])


def runs(client: Client) -> list[RunJson]:
    """All runs."""
    return cast("list[RunJson]", json.loads(client.get("/api/v1/runs"))["runs"])


def nodes(client: Client) -> list[NodeJson]:
    """All nodes that the daemon remembers."""
    return cast("list[NodeJson]", json.loads(client.get("/api/v1/nodes"))["nodes"])


def actions(client: Client, **query: str) -> list[ActionRow]:
    """All actions, or those that the query names."""
    return cast("list[ActionRow]", json.loads(client.get("/api/v1/actions", **query))["actions"])


# --- verbs ---------------------------------------------------------------------------------------


def _shown(body: bytes, code: int, text: Callable[[], str], *, as_json: bool) -> Shown:
    """Print a body as it is, or as text with a warning for each source that it lacks."""
    if as_json:
        return Shown(body.decode(), code)
    blind = json.loads(body).get("blind", ())  # a daemon of before says nothing of it
    return Shown(text(), code, tuple(safe(b["words"]) for b in blind))


def show_incidents(client: Client, query: Mapping[str, str], now: float, *, as_json: bool) -> Shown:
    """List incidents. Exit code 1 where one of them is open and no mere warning."""
    body = client.get("/api/v1/incidents", **query)
    rows = cast("list[IncidentJson]", json.loads(body)["incidents"])

    def text() -> str:
        if not rows and query.get("state") == "open":
            return "nothing is open; --state all lists what was"
        return incidents_table(rows, _names(client, rows), now)

    return _shown(body, int(any(_is_bad(r) for r in rows)), text, as_json=as_json)


def _names(client: Client, rows: Sequence[IncidentJson]) -> dict[str, str]:
    """People know a run by its name."""
    return {r["id"]: r["name"] for r in runs(client)} if any(r["runs"] for r in rows) else {}


def _is_bad(row: IncidentJson) -> bool:
    return row["state"] == "open" and row["role"] in ("root", "symptom")


def show_incident(client: Client, text: str, now: float, *, as_json: bool) -> Shown:
    """Tell the whole story of one incident."""
    number = chosen(incidents(client), text, incident_names, "incident")["id"]
    body = client.get(f"/api/v1/incidents/{quote(number, safe='')}")
    row = cast("IncidentJson", json.loads(body))

    def story() -> str:
        hurt = [r for r in runs(client) if r["id"] in row["runs"]]
        return incident_story(row, hurt, actions(client, incident=number), now)

    return _shown(body, int(_is_bad(row)), story, as_json=as_json)


def show_runs(client: Client, now: float, *, as_json: bool) -> Shown:
    """List runs."""
    body = client.get("/api/v1/runs")
    return _shown(body, 0, lambda: runs_table(json.loads(body)["runs"], now), as_json=as_json)


def show_run(client: Client, text: str, now: float, *, as_json: bool) -> Shown:
    """Tell what is known of one run."""
    number = chosen(runs(client), text, run_names, "run")["id"]
    body = client.get(f"/api/v1/runs/{quote(number, safe='')}")

    def story() -> str:
        hurt = [i for i in incidents(client) if number in i["runs"]]
        return run_story(json.loads(body), hurt, actions(client, run=number), now)

    return _shown(body, 0, story, as_json=as_json)


def show_nodes(client: Client, now: float, *, as_json: bool) -> Shown:
    """List nodes."""
    body = client.get("/api/v1/nodes")
    return _shown(body, 0, lambda: nodes_table(json.loads(body)["nodes"], now), as_json=as_json)


def show_node(client: Client, text: str, now: float, *, as_json: bool) -> Shown:
    """Tell what is known of one node; where several have had an address, of the one that lives."""
    rows = nodes(client)
    living = [r for r in rows if r["state"] != "dead" and text in node_names(r)]
    number = chosen(living if len(living) == 1 else rows, text, node_names, "node")["id"]
    body = client.get(f"/api/v1/nodes/{quote(number, safe='')}")
    row = cast("NodeJson", json.loads(body))

    def story() -> str:
        ids = {*row["incidents"], row["incident"]}
        return node_story(row, [i for i in incidents(client) if i["id"] in ids], now)

    return _shown(body, 0, story, as_json=as_json)


def show_actions(client: Client, now: float, *, as_json: bool) -> Shown:
    """List what was decided and what came of it."""
    body = client.get("/api/v1/actions")
    return _shown(body, 0, lambda: actions_table(json.loads(body)["actions"], now), as_json=as_json)


def show_notices(client: Client, now: float, *, as_json: bool) -> Shown:
    """List what clouds announced and what was done about it."""
    body = client.get("/api/v1/notices")
    return _shown(body, 0, lambda: notices_table(json.loads(body)["notices"], now), as_json=as_json)


def show_capacity(client: Client, now: float, *, as_json: bool) -> Shown:
    """Say why machines do not come. Exit code 1 where something waits for them."""
    body = client.get("/api/v1/autoscaling")
    found = json.loads(body)
    code = int(bool(found["demands"]))
    return _shown(body, code, lambda: capacity_story(found, now), as_json=as_json)


def do_approve(client: Client, text: str, *, as_json: bool) -> Shown:
    """Let an action go on that awaits approval; of those that begin so, the one that does."""
    rows = actions(client)
    exact = [a for a in rows if a["key"] == text]
    begin = [a for a in rows if any(n.startswith(text) for n in action_names(a))]
    awaiting = [a for a in begin if a["state"] == "awaiting_approval"]
    key = chosen(exact or awaiting or rows, text, action_names, "action")["key"]
    body = client.post(f"/api/v1/actions/{quote(key, safe='')}/approve")
    return Shown(body.decode(), 0) if as_json else _followed(client, json.loads(body)["action"])


def do_resume(client: Client, text: str, *, dry_run: bool, as_json: bool) -> Shown:
    """Start a run again now, or say what would happen (exit code 2 where something forbids it)."""
    number = chosen(runs(client), text, run_names, "run")["id"]
    asked = {"dry_run": True} if dry_run else None
    body = client.post(f"/api/v1/runs/{quote(number, safe='')}/resume", asked)
    found = json.loads(body)
    code = 0 if not dry_run or found["starts"] else 2
    if as_json:
        return Shown(body.decode(), code)
    return Shown(would_resume(found), code) if dry_run else _followed(client, found["action"])


def _followed(client: Client, action: ActionRow) -> Shown:
    """Wait a while for what comes of an action. Exit code 2 where it is known that nothing did."""
    until, seq = time.monotonic() + FOLLOW_S, -1
    while action["state"] == "started" and time.monotonic() < until:
        # A snapshot comes with every sweep, so that the wait ends by itself.
        body = json.loads(client.get("/api/v1/snapshot", after=str(seq), wait=str(FOLLOW_S)))
        seq = body["seq"]
        action = next((a for a in body["actions"] if a["key"] == action["key"]), action)
    return Shown(did(action), 0 if action["state"] in ("started", "waiting", "succeeded") else 2)


# --- completion ----------------------------------------------------------------------------------


def candidates(client: Client, kind: str) -> list[tuple[str, str]]:
    """Return what a shell may complete, with a word about each. Raises ClientError.

    Only names that mean nothing to a shell: they are text of others and stand in a command line then.
    """
    match kind:
        case "incident":
            found = [(i["id"], f"{i['class']} {i['state']}") for i in incidents(client)]
        case "run":
            found = [(r["name"] or r["id"], r["status"]) for r in runs(client)]
        case "node":
            rows = nodes(client)
            found = [(n, r["state"]) for r in rows for n in node_names(r) if n]
        case _:  # what can be approved
            waiting = actions(client, state="awaiting_approval")
            found = [(a["key"], f"{a['run_name']} {a['class']}") for a in waiting]
    return [(name, safe(word, 60)) for name, word in found if _PLAIN.fullmatch(name)]
