"""What the doctor says of the daemon, of clouds and of each [[resume]]: on real ones, and where they fail."""

import asyncio
import json
import threading
from contextlib import contextmanager
from dataclasses import replace
from http.server import BaseHTTPRequestHandler, HTTPServer

import pytest

from raywatch import __version__
from raywatch.config import Config
from raywatch.doctor.ours import cloud_checks, daemon_checks, resume_checks
from raywatch.model import Hook, ResumeRule
from tests.clouds import Clouds
from tests.daemons import DaemonProcess, make_session, until
from tests.fakeray import FakeRay

PORT_OF_NOBODY = 9


@contextmanager
def answering(status, body):
    """A server that says the same to everybody."""

    class Says(BaseHTTPRequestHandler):
        def do_GET(self):
            self.send_response(status)
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_args):
            """Quiet."""

    with HTTPServer(("127.0.0.1", 0), Says) as server:
        thread = threading.Thread(target=server.serve_forever)
        thread.start()
        try:
            yield server.server_port
        finally:
            server.shutdown()
            thread.join(10)


@pytest.mark.parametrize(
    ("status", "body", "verdict", "said"),
    [
        (200, b"<html>", "fail", "is no raywatch daemon"),
        (200, b'{"store": "ok", "version": "9.9"}', "warn", "version 9.9; this is "),
        (
            503,
            b'{"store": "disk full", "loop": "ok", "version": "9.9"}',
            "fail",
            "store: disk full",
        ),
        (503, b'{"store": "ok", "blind": [{"words": "logs not read"}]}', "fail", "logs not read"),
    ],
)
def test_what_listens_may_be_no_healthy_daemon_of_this_version(status, body, verdict, said):
    """Something else, an older one, one that cannot commit, one without logs."""
    with answering(status, body) as port:
        (found,) = daemon_checks(Config(port=port))
    assert (found.verdict, said in found.fact) == (verdict, True)


def test_a_daemon_that_does_not_see_all_is_a_warning():
    """With its own words."""
    words = "dashboard not answering for 4 min: connection refused"
    body = {"store": "ok", "version": __version__, "blind": [{"words": words}]}
    with answering(200, json.dumps(body).encode()) as port:
        (found,) = daemon_checks(Config(port=port))
    assert (found.verdict, found.fact.endswith(f"; {words}")) == ("warn", True)


def test_a_healthy_daemon_is_told_with_its_version(tmp_path):
    """And that none runs."""
    make_session(tmp_path)
    config = tmp_path / "raywatch.toml"
    (none,) = daemon_checks(Config(port=PORT_OF_NOBODY))
    with FakeRay() as ray:
        config.write_text(f'[ray]\ndashboard = "{ray.url}"\n[cloud]\nprovider = "none"\n')
        daemon = DaemonProcess(tmp_path, tmp_path / "state", "--config", str(config))
        try:
            beside = Config(port=int(daemon.url.rpartition(":")[2]))
            until(lambda: daemon_checks(beside)[0].verdict == "ok", 30, "all sources answer")
            (runs,) = daemon_checks(beside)
        finally:
            assert daemon.stop() == 0

    assert (none.verdict, none.do) == ("warn", "start one: raywatch daemon")
    assert none.fact == f"none at http://127.0.0.1:{PORT_OF_NOBODY}: Connection refused"
    assert (runs.verdict, f"{daemon.url}, version " in runs.fact) == ("ok", True)


def test_a_metadata_service_says_who_this_machine_is_or_is_a_warning():
    """A service that hangs costs its own short wait."""

    async def asked(clouds):
        async with clouds.served() as url:
            return await asyncio.to_thread(cloud_checks, Config(clouds={"aws": url}))

    knows, hangs = Clouds(), Clouds()
    knows.values |= {"instance-id": "i-0123", "local-ipv4": "10.0.3.7"}
    hangs.hang = True
    (known,) = asyncio.run(asked(knows))
    (mute,) = asyncio.run(asked(hangs))
    (none,) = cloud_checks(Config())

    assert (known.verdict, known.fact) == ("ok", "aws: i-0123 at 10.0.3.7")
    assert (mute.verdict, mute.fact) == ("warn", "aws: timeout, it does not answer")
    assert "hop limit" in mute.do
    assert (none.verdict, none.fact.startswith("no metadata service is asked")) == ("ok", True)


def told(url, *rules):
    """Verdicts and facts of [[resume]] rules beside a dashboard and no daemon."""
    config = Config(dashboard=url, port=PORT_OF_NOBODY, resume=rules)
    return [(c.name, c.verdict, c.fact) for c in resume_checks(config, {"PATH": "/usr/bin:/bin"})]


def rule(run="*", hook=None, **more):
    return ResumeRule(run, "auto", hook or Hook("job"), **more)


def test_a_rule_names_the_runs_that_it_speaks_of():
    """By what the policy compares; none of those known is a warning, nothing known is none."""
    with FakeRay() as ray:
        for glob in ("raysubmit_*", "python train.py", "exp-7"):
            ray.job["metadata"] = {"name": "exp-7"}
            assert told(ray.url, rule(glob)) == [
                (f"resume {glob}", "ok", "auto, job hook: speaks of raysubmit_1")
            ]
        assert told(ray.url, rule("llm-*")) == [
            ("resume llm-*", "warn", "auto, job hook: speaks of none that is known (raysubmit_1)")
        ]
    assert told("http://127.0.0.1:9", rule("llm-*")) == [
        ("resume llm-*", "ok", "auto, job hook: no run is known yet")
    ]
    assert told("http://127.0.0.1:9") == [
        ("resume", "ok", "no [[resume]]: nothing is ever started")
    ]


def test_a_command_must_be_there_and_executable(tmp_path):
    """In PATH, or where argv says."""
    program = tmp_path / "again.sh"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o644)

    def said(name):
        return told("http://127.0.0.1:9", rule(hook=Hook("command", argv=(name,))))[-1][1:]

    assert said(str(program)) == ("fail", f"its command {program} may not be executed")
    program.chmod(0o755)
    assert said(str(program)) == ("ok", f"its command is {program}")
    assert said(str(tmp_path / "x")) == ("fail", f"its command {tmp_path / 'x'} is not there")
    assert said("no-such-program")[1] == "its command no-such-program is not in PATH"
    assert said("sh")[0] == "ok"


def test_the_checkpoint_of_a_run_is_looked_for_as_the_daemon_does(tmp_path):
    """A torn one and one out of reach are told; a run without one yet begins anew. By the runs that a daemon knows."""
    run = {"id": "exp@/s", "name": "exp", "submissions": [], "storage_path": str(tmp_path)}
    asked = Config(resume=(rule("exp"),), dashboard="http://127.0.0.1:9")

    def said(row):
        body = json.dumps({"runs": [row]}).encode()
        with answering(200, body) as port:
            found = resume_checks(replace(asked, port=port), {})
        return found[1].verdict, found[1].fact

    assert said(run)[0] == "ok"
    assert said(run)[1].endswith("it would begin anew")
    (tmp_path / "exp").mkdir()
    (tmp_path / "exp" / "checkpoint_manager_snapshot.json").write_text("{")
    assert said(run)[0] == "warn"
    assert said(run)[1].startswith("exp: torn: ")
    assert said(run | {"storage_path": "s3://bucket/llm"}) == (
        "warn",
        "exp: remote: s3://bucket/llm is object storage",
    )
