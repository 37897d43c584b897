"""A Kubernetes API server on loopback: lists in pages, watches from a version on, and refuses as the real one does."""

from __future__ import annotations

import asyncio
import copy
import json
import re
import ssl
from contextlib import asynccontextmanager
from pathlib import Path

import yaml
from aiohttp import web

OBJECTS = yaml.safe_load(Path(__file__).with_suffix(".yaml").read_text())
RBAC = Path(__file__).parent.parent / "deploy" / "kubernetes" / "rbac.yaml"
NAMESPACE, CLUSTER = "dev-namespace", "testcluster-4gib-1gib-2gib-volume-kuberay"
_PATH = re.compile(r"(?:/api/v1|/apis/(ray\.io)/v1)/namespaces/([^/]+)/([a-z]+)")


def laid(base, over):
    """One object over another: conditions are joined by type, other lists replaced."""
    if isinstance(base, dict) and isinstance(over, dict):
        return {k: laid(base.get(k), over[k]) if k in over else base[k] for k in {**base, **over}}
    if isinstance(base, list) and isinstance(over, list) and over and "type" in over[0]:
        types = {c["type"] for c in over}
        return [*(c for c in base if c["type"] not in types), *over]
    return over


def a(name, *more, base="pod"):
    """An object of the collection laid over its base; then these changes over it."""
    found = OBJECTS[base] if name == base else laid(OBJECTS[base], OBJECTS[name])
    for change in more:
        found = laid(found, change)
    return copy.deepcopy(found)


def allowed_by(role):
    """What a Role allows: (group, resource, verb)."""
    return {
        (group, resource, verb)
        for rule in role["rules"]
        for group in rule["apiGroups"]
        for resource in rule["resources"]
        for verb in rule["verbs"]
    }


class KubeApi:
    """What the server knows. Objects have numbered versions; a watch gets what came after the one that it names."""

    def __init__(self) -> None:
        self.objects: dict[str, dict[str, dict[str, object]]] = {}
        self.log: list[tuple[int, str, str, dict[str, object]]] = []
        self.version, self.compacted = 100, 0
        role = next(d for d in yaml.safe_load_all(RBAC.read_text()) if d["kind"] == "Role")
        self.allowed = allowed_by(role)
        self.kuberay = True
        self.tokens: set[str] | None = None  # None: anybody
        self.status = 0  # another answer to all
        self.hang = False
        self.raw: bytes | None = None  # instead of what a list or a watch would tell
        self.gone_as_event = False  # 410 in a stream, as after a bookmark; else as the status
        self.piece = 1 << 20  # bytes of a body that come at once
        self.asked: list[tuple[str, str, dict[str, str]]] = []
        self._changed = asyncio.Event()
        self._ends = 0

    def put(self, plural, row, what=None):
        """Add or change an object."""
        uid = row["metadata"]["uid"]
        known = self.objects.setdefault(plural, {})
        kind = what or ("MODIFIED" if uid in known else "ADDED")
        self.version += 1
        row["metadata"]["resourceVersion"] = str(self.version)
        if kind == "DELETED":
            known.pop(uid, None)
        else:
            known[uid] = row
        self.log.append((self.version, plural, kind, copy.deepcopy(row)))
        self._wake()

    def delete(self, plural, row):
        """Delete an object, which is as it is given at last."""
        self.put(plural, row, "DELETED")

    def bookmark(self):
        """Tell all watches which version it is."""
        self.version += 1
        row: dict[str, object] = {"metadata": {"resourceVersion": str(self.version)}}
        self.log += [(self.version, p, "BOOKMARK", row) for p in ("pods", "events", "rayjobs")]
        self._wake()

    def compact(self):
        """Forget all that was before."""
        self.version += 1
        self.compacted, self.log = self.version, []
        self.end_watches()

    def end_watches(self):
        """End all watches, as a restart of the server does."""
        self._ends += 1
        self._wake()

    def verbs(self):
        """What was asked for: (group, resource, verb)."""
        return {(g, r, "watch" if "watch" in q else "list") for g, r, q in self.asked}

    def _wake(self):
        self._changed.set()
        self._changed = asyncio.Event()

    async def answer(self, request: web.Request) -> web.StreamResponse:
        """Any request."""
        found = _PATH.fullmatch(request.path)
        assert found is not None, request.path
        assert request.method == "GET", request.method
        group, _, plural = found[1] or "", found[2], found[3]
        query = dict(request.query)
        self.asked.append((group, plural, query))
        if self.hang:
            await asyncio.sleep(60)
        token = request.headers.get("Authorization", "").removeprefix("Bearer ")
        if self.tokens is not None and token not in self.tokens:
            return _refusal(401, "Unauthorized")
        verb = "watch" if "watch" in query else "list"
        if (group, plural, verb) not in self.allowed:
            return _refusal(403, f'{plural} is forbidden: User "x" cannot {verb} resource')
        if group and not self.kuberay:
            return _refusal(404, "the server could not find the requested resource")
        if self.status:
            return _refusal(self.status, "no")
        if verb == "list":
            return self._list(plural, query)
        return await self._watch(request, plural, query)

    def _list(self, plural: str, query: dict[str, str]) -> web.Response:
        if self.raw is not None:
            return web.Response(body=self.raw)
        rows = [r for r in self.objects.get(plural, {}).values() if _selected(r, query)]
        begin, size = int(query.get("continue", 0)), int(query["limit"])
        items = [{k: v for k, v in r.items() if k != "kind"} for r in rows[begin : begin + size]]
        meta = {"resourceVersion": str(self.version)}
        if begin + size < len(rows):
            meta["continue"] = str(begin + size)
        kind = {"rayclusters": "RayCluster", "rayjobs": "RayJob", "rayservices": "RayService"}
        named = kind.get(plural, "PodList").removesuffix("List")
        return web.json_response({"kind": f"{named}List", "metadata": meta, "items": items})

    async def _watch(
        self, request: web.Request, plural: str, query: dict[str, str]
    ) -> web.StreamResponse:
        at = int(query["resourceVersion"])
        if at < self.compacted and not self.gone_as_event:
            return _refusal(410, "too old resource version")
        answer = web.StreamResponse()
        await answer.prepare(request)
        if at < self.compacted:
            await self._send(answer, {"type": "ERROR", "object": {"kind": "Status", "code": 410}})
            return answer
        if self.raw is not None:
            await answer.write(self.raw)
        until = asyncio.get_running_loop().time() + float(query["timeoutSeconds"])
        ends = self._ends
        while ends == self._ends and (left := until - asyncio.get_running_loop().time()) > 0:
            changed = self._changed
            for version, of, what, row in list(self.log):
                if version > at and of == plural and _selected(row, query, what):
                    at = version
                    await self._send(answer, {"type": what, "object": row})
            waiting = asyncio.ensure_future(changed.wait())
            await asyncio.wait([waiting], timeout=left)
            waiting.cancel()
        return answer

    async def _send(self, answer, change):
        text = json.dumps(change).encode() + b"\n"
        for begin in range(0, len(text), self.piece):
            await answer.write(text[begin : begin + self.piece])
            await asyncio.sleep(0)

    @asynccontextmanager
    async def served(self, tls: ssl.SSLContext | None = None):
        """Its URL, while it is served."""
        app = web.Application()
        app.router.add_route("*", "/{any:.*}", self.answer)
        runner = web.AppRunner(app, shutdown_timeout=0.1)
        await runner.setup()
        await web.TCPSite(runner, "127.0.0.1", 0, ssl_context=tls).start()
        try:
            yield f"http{'s' if tls else ''}://127.0.0.1:{runner.addresses[0][1]}"
        finally:
            self.end_watches()
            await runner.cleanup()


def _selected(row, query, what=""):
    if what == "BOOKMARK":
        return True
    key, _, value = query.get("labelSelector", "").partition("=")
    if key and row["metadata"].get("labels", {}).get(key) != value:
        return False
    key, _, value = query.get("fieldSelector", "").partition("=")
    known = {
        "metadata.name": row["metadata"]["name"],
        "involvedObject.kind": row.get("involvedObject", {}).get("kind"),
    }
    return not key or known[key] == value


def _refusal(status: int, message: str) -> web.Response:
    body = {"kind": "Status", "status": "Failure", "message": message, "code": status}
    return web.json_response(body, status=status)
