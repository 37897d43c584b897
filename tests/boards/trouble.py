"""A real daemon in trouble under a real Prometheus: real logs written anew, a served dashboard, jobs that fail."""

from __future__ import annotations

import json
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime, timezone
from pathlib import Path

from aiohttp import web

from tests.alerting import Server, free_addresses, prometheus
from tests.boards.replay import CASES, Line, lines_of, shifted, squeezed
from tests.daemons import DaemonProcess, Process, make_session
from tests.fakeray import NODE, ManyRows

API = CASES.parent / "api" / "2.60.0"
LOOP, LONE, DONE = "raysubmit_loop", "raysubmit_lone", "raysubmit_done"
CONFIG = """
[ray]
dashboard = "{url}"
[[run]]
name = "loop"
match = "*loop*"
framework = "plain"
step = 'batch=(?P<step>\\d+)'
storage = "{storage}"
[[resume]]
run = "loop"
mode = "auto"
backoff_s = 0.2
max_attempts = 5
hook = {{kind = "job"}}
"""
PROMETHEUS = """
global: {scrape_interval: %s, scrape_timeout: %s}
scrape_configs:
- job_name: raywatch
  static_configs: [{targets: ["%s"], labels: {ray_io_cluster: lab}}]
"""


class TroubledRay(ManyRows):
    """Ray's APIs with jobs that begin and fail, a group that waits, and a cloud that refuses machines."""

    def __init__(self, session: str) -> None:
        super().__init__(LOOP)
        self.session = session
        self.is_busy = False
        self.nodes[0]["node_ip"] = "10.0.0.1"  # the recorded clusters live on 127.0.0.1
        self.nodes += [
            {
                "node_id": f"{n:056x}",
                "node_ip": f"10.0.0.{n}",
                "state": state,
                "is_head_node": False,
            }
            for n, state in ((2, "ALIVE"), (3, "ALIVE"), (4, "DEAD"))
        ]
        self.nodes[-1]["end_time_ms"] = int(time.time() * 1000)

    def begin(
        self, submission: str, entrypoint: str, metadata: dict[str, object] | None = None
    ) -> None:
        """A job starts."""
        self.rows[submission] = {
            **self.job,
            "submission_id": submission,
            "job_id": f"{0x50 + len(self.rows):02x}000000",
            "entrypoint": entrypoint,
            "metadata": metadata or {},
            "start_time": int(time.time() * 1000),
        }

    def end(self, submission: str, status: str, code: int) -> None:
        """It ends."""
        ended = {"status": status, "end_time": int(time.time() * 1000), "driver_exit_code": code}
        self.rows[submission] |= ended

    def routes(self) -> list[web.RouteDef]:
        """What is answered."""
        mine = [
            web.post("/api/jobs/", self._submit),
            web.get("/api/cluster_status", self._status),
            web.get("/api/v0/placement_groups", self._groups),
            web.get("/api/v0/workers", self._workers),
        ]
        return [*mine, *(r for r in super().routes() if "cluster_status" not in r.path)]

    async def _submit(self, request: web.Request) -> web.Response:
        body = await request.json()
        self.begin(body["submission_id"], body["entrypoint"], body["metadata"])
        return web.json_response({"submission_id": body["submission_id"]})

    async def _workers(self, _request: web.Request) -> web.Response:
        return web.Response(status=503) if self.is_busy else await self._nothing(_request)

    async def _status(self, _request: web.Request) -> web.Response:
        text = (API / "autoscaler" / "v1-refused.json").read_bytes()
        return web.Response(body=shifted(text, time.time()), content_type="application/json")

    async def _groups(self, _request: web.Request) -> web.Response:
        found = json.loads((API / "placement_groups.json").read_text())
        for row in found["data"]["result"]["result"]:
            row["stats"]["creation_request_received_ns"] = str(int((time.time() - 60) * 1e9))
        return web.json_response(found)


class Loop:
    """A program that trains: it reports steps, saves each fifth time, and goes on from what it saved."""

    def __init__(self, logs: Path, storage: Path, ray: TroubledRay) -> None:
        self._logs, self._storage, self._ray = logs, storage, ray
        self._job, self._times, self._step, self._saved = LOOP, 0, 0, 0

    def work(self) -> None:
        """Do some steps, if the newest job of it runs."""
        newest = [s for s in self._ray.rows if s not in (LONE, DONE)][-1]
        if self._ray.rows[newest]["status"] != "RUNNING":
            return
        if newest != self._job:
            self._job, self._step = newest, self._saved
        self._times, self._step = self._times + 1, self._step + 8
        said = f"batch={self._step} loss 0.1\n"
        if self._times % 5 == 0:
            name, self._saved = f"step_{self._step}.pt", self._step
            with zipfile.ZipFile(self._storage / name, "w") as out:
                out.writestr("data.pkl", "weights")
            said += f"saved checkpoint to {name}\n"
        with (self._logs / f"job-driver-{newest}.log").open("a") as log:
            log.write(said)


@dataclass(frozen=True)
class Stage:
    """Where the play is given. Its steps are functions of the moment, 0 to 1."""

    folder: Path
    logs: Path
    storage: Path
    ray: TroubledRay
    daemon: DaemonProcess
    server: Server

    def play(self, seconds: float) -> None:
        """Play it in so many seconds. Log lines are written when they are due, within a tenth of a second."""
        began, moment = time.time(), 0.0
        lines, deeds = script(), self._deeds()
        while lines or deeds:
            moment = (time.time() - began) / seconds
            while deeds and deeds[0][0] <= moment:
                deeds.pop(0)[1]()
            due = [x for x in lines if x.after_s <= moment]
            lines = lines[len(due) :]
            self._write(due, began, seconds)
            time.sleep(0.1)

    def _write(self, due: list[Line], began: float, seconds: float) -> None:
        texts: dict[str, bytes] = {}
        for line in due:
            said = shifted(line.text, began + line.after_s * seconds)
            texts[line.path] = texts.get(line.path, b"") + said
        for path, text in texts.items():
            file = self.logs / path
            file.parent.mkdir(parents=True, exist_ok=True)
            with file.open("ab") as out:
                out.write(text)

    def _deeds(self) -> list[tuple[float, Callable[[], None]]]:
        """Return what the jobs do and when: one trains, fails, is resumed and trains on; one fails for good."""
        deeds: list[tuple[float, Callable[[], None]]] = [
            (0.00, lambda: self.ray.begin(LOOP, "python train.py")),
            (0.02, lambda: self.ray.begin(LONE, "python lone.py")),
            (0.02, lambda: self.ray.begin(DONE, "python short.py")),
            (0.30, lambda: self.ray.end(DONE, "SUCCEEDED", 0)),
            (0.25, lambda: self._fail(LOOP)),
            (0.45, lambda: setattr(self.ray, "is_busy", True)),
            (0.60, lambda: self._fail(LONE)),
            (0.62, lambda: setattr(self.ray, "is_busy", False)),
            (0.65, self._puzzle),
        ]
        loop = Loop(self.logs, self.storage, self.ray)
        deeds += [(moment / 50, loop.work) for moment in range(1, 50)]
        return sorted(deeds, key=lambda d: d[0])

    def _fail(self, submission: str) -> None:
        worker, stamp = f"{len(submission):056x}", _stamp()
        self.ray.end(submission, "FAILED", 1)
        with (self.logs / f"job-driver-{submission}.log").open("a") as log:
            log.write(
                "(raylet) A worker died or was killed while executing a task by an unexpected system "
                f"error. Lease ID: 01 Worker ID: {worker} Node ID: {NODE} Worker PID: 502\n"
            )
        with (self.logs / "gcs_server.out").open("a") as out:
            out.write(
                f"[{stamp} W 10 10] (gcs_server) gcs_worker_manager.cc:70: Reporting worker exit, "
                f"worker id = {worker}, node id = {NODE}, address = 10.0.0.1, "
                "exit_type = SYSTEM_ERROR, exit_detail = Worker unexpectedly exits.\n"
            )

    def _puzzle(self) -> None:
        with (self.logs / "gcs_server.out").open("a") as out:
            out.write(
                f"[{_stamp()} E 10 10] (gcs_server) cheese.cc:7: The larder is out of brie.\n"
            )


def hurried(argv: Sequence[str], log: Path) -> Process:
    """Start a daemon that books restarts and broken rings 5 s after they were seen, where the shipped one waits 90."""
    code = (
        "import sys, raywatch.core.tally as tally; from raywatch.cli import main; "
        "tally.SETTLE_S = 5.0; sys.argv = ['raywatch', 'daemon', *sys.argv[1:]]; main()"
    )
    with log.open("ab") as out:
        return subprocess.Popen([sys.executable, "-c", code, *argv], stdout=out, stderr=out)


def _stamp() -> str:
    return datetime.now(timezone.utc).astimezone().strftime("%Y-%m-%d %H:%M:%S,%f")[:-3]


def script() -> list[Line]:
    """Return the lines of the play. Two Ray Train runs share a session, so one of them gets another job id."""
    refused = (API / "autoscaler" / "v1-refused.log").read_bytes().splitlines(keepends=True)
    cloud = [Line(float(i), "monitor.log", text) for i, text in enumerate(refused)]
    return sorted(
        [
            *squeezed(lines_of("A3_kill_mf3", "07:13:20", "07:14:50"), 0.05, 0.9),
            *squeezed(
                lines_of(
                    "A11c_elastic_short_timeout", "07:42:00", "07:45:30", {"02000000": "03000000"}
                ),
                0.05,
                0.95,
            ),
            *squeezed(lines_of("spot-preemption-drain", "07:20:20", "07:21:55"), 0.2, 0.8),
            *squeezed(cloud, 0.3, 0.7),
        ],
        key=lambda x: x.after_s,
    )


@contextmanager
def stage(folder: Path, *, scrape: str = "500ms", hasty: bool = False) -> Iterator[Stage]:
    """Set it up: a session, its dashboard, a daemon, a Prometheus that has begun to scrape. `hasty`: see hurried."""
    logs, storage = make_session(folder / "ray"), folder / "saved"
    storage.mkdir()
    config = folder / "raywatch.toml"
    with TroubledRay(logs.parent.name) as ray:
        config.write_text(CONFIG.format(url=ray.url, storage=storage))
        daemon = DaemonProcess(
            folder / "ray",
            folder / "state",
            "--config",
            str(config),
            start=hurried if hasty else None,
        )
        try:
            asked = PROMETHEUS % (scrape, scrape, daemon.url.removeprefix("http://"))
            with prometheus(folder, asked, *free_addresses(1)) as server:
                yield Stage(folder, logs, storage, ray, daemon, server)
        finally:
            daemon.kill()
