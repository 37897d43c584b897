"""Rules that change under a running daemon: taken when they are right, refused when not, and no line lost or counted twice."""

import contextlib
import json
import os
import signal
import sys
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from raywatch.reloading import Reloading, _Check, main
from tests.daemons import DaemonProcess, make_session, until
from tests.shell.test_daemon import crash
from tests.shell.test_examining import ENGINE, NOW, Life

WORD, OTHER = "The flux capacitor is empty", "The hoverboard is out of range"
SOON_S = 60.0  # a check has 4 s of a core, which others may want too


def rule(name: str, expression: str, hit: str) -> str:
    """A signature of a class that no shipped one gives to these lines."""
    return (
        f"- id: {name}\n  class: disk_full\n  title: A test\n  where: {{component: [gcs]}}\n"
        f"  any: ['{expression}']\n  hits: ['{hit}']\n"
    )


def line(text: str) -> str:
    """A line of the GCS of its own time and level."""
    return crash(1).split("]")[0] + f"] (gcs_server) x.cc:1: {text}\n"


class Case:
    """A daemon on a folder of rules."""

    def __init__(self, folder: Path, rules: Path) -> None:
        self.rules = rules
        self.log = make_session(folder) / "gcs_server.out"
        (self.rules / "first.yaml").write_text(rule("flux", "flux capacitor is empty", WORD))
        self.daemon = DaemonProcess(folder, folder / "state", "--rules", str(self.rules))

    def write(self, *lines: str) -> None:
        with self.log.open("a") as out:
            out.write("".join(lines))

    def metric(self, name: str) -> int:
        rows = self.daemon.get("/metrics")[1].decode().splitlines()
        return sum(int(float(r.rsplit(" ", 1)[1])) for r in rows if r.startswith(name + " "))

    def counted(self, name: str) -> int:
        return self.metric(f'raywatch_findings_total{{class="{name}",component="gcs"}}')

    def row(self) -> dict[str, object]:
        return dict(json.loads(self.daemon.get("/healthz")[1])["rules"])

    def until_loaded(self, before: dict[str, object]) -> None:
        def loaded() -> bool:
            assert self.row()["error"] in (None, before["error"])
            return self.row()["loaded_at"] != before["loaded_at"]

        until(loaded, SOON_S, "the rules are loaded")

    def until_failed(self, times: int) -> None:
        name = "raywatch_rules_reload_failures_total"
        until(lambda: self.metric(name) == times, SOON_S, f"refused {times} times")

    @contextlib.contextmanager
    def writing(self) -> Iterator[list[int]]:
        """Write crashes of one worker all the time, some as a storm; the list has their number at the end."""
        ended, written = threading.Event(), [0]

        def run() -> None:
            while not ended.wait(0.02):
                some = 200 if written[0] % 7 == 0 else 1
                self.write(*[crash(7)] * some)
                written[0] += some

        thread = threading.Thread(target=run)
        thread.start()
        try:
            yield written
        finally:
            ended.set()
            thread.join()


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    """One folder of rules for all: what was compiled is kept by path and text."""
    return tmp_path_factory.mktemp("rules")


@pytest.fixture
def case(tmp_path, shared):
    """A daemon that ends with the test."""
    for old in shared.iterdir():
        old.unlink()
    case = Case(tmp_path, shared)
    yield case
    case.daemon.kill()


def test_a_file_comes_and_goes_and_no_line_is_lost_or_counted_twice(case):
    """It is the first of the user's: the number of the other one changes, while lines of a shipped one come all the time."""
    before = case.row()
    with case.writing() as written:
        case.write(line(OTHER))  # nobody knows it yet
        until(lambda: case.counted("worker_crash") > 200, 20, "crashes are counted")
        (case.rules / "a.yaml").write_text(rule("hover", "hoverboard is out of range", OTHER))
        case.until_loaded(before)
        case.write(line(OTHER), line(WORD))
        until(lambda: case.counted("disk_full") >= 2, 20, "old and new are found")
        both = case.row()
        (case.rules / "a.yaml").unlink()
        case.until_loaded(both)
        case.write(line(OTHER), line(WORD))
    until(lambda: case.counted("worker_crash") >= written[0], 20, "all crashes")
    threading.Event().wait(1.5)  # what is counted twice would come by now

    assert case.counted("worker_crash") == written[0]
    assert case.counted("disk_full") == 3
    assert both["signatures"] == before["signatures"] + 1
    assert case.row()["signatures"] == before["signatures"]
    assert case.metric("raywatch_rules_last_reload_success_timestamp_seconds") > 0


def test_a_broken_set_changes_nothing_and_is_told_once(case):
    """No YAML, then a hit that does not hit. Mended, it works."""
    before, file = case.row(), case.rules / "first.yaml"
    good = file.read_text()
    for number, bad in enumerate(("- id: [", rule("flux", "something else", WORD)), 1):
        file.write_text(bad)
        case.until_failed(number)
        assert case.metric("raywatch_rules_last_reload_successful") == 0
        assert "first.yaml" in str(case.row()["error"])
    threading.Event().wait(4.5)  # two sweeps
    said = case.daemon.output()
    assert said.count("rules not reloaded: ") == 2
    assert "Traceback" not in said
    assert case.daemon.get("/healthz")[0] == 200
    assert case.row()["loaded_at"] == before["loaded_at"]
    case.write(line(WORD))
    until(lambda: case.counted("disk_full") == 1, 20, "the old one is in force")

    file.write_text(good + rule("hover", "hoverboard is out of range", OTHER))
    case.until_loaded(case.row())
    assert case.row()["error"] is None
    until(lambda: case.metric("raywatch_rules_last_reload_successful") == 1, 10, "it is told")
    case.write(line(OTHER))
    until(lambda: case.counted("disk_full") == 2, 20, "what was mended is in force")


def test_sighup_reloads_what_has_not_changed(case):
    """It does not end the daemon."""
    before = case.row()
    case.daemon.process.send_signal(signal.SIGHUP)
    case.until_loaded(before)
    case.daemon.process.send_signal(signal.SIGHUP)

    assert case.daemon.stop() == 0  # with a check under way


def test_what_the_old_rules_counted_is_counted(tmp_path):
    """A storm that waits to be put together is so before its rules go."""
    log = make_session(tmp_path) / "gcs_server.out"
    life = Life(tmp_path)
    rules = life.daemon._rules
    rules.ask()
    log.write_text(crash(7) * 200)
    life.turns(NOW, NOW + 0.1, wrote=log)
    check = rules._check
    assert check is not None
    before = rules.engine
    check._process.wait(SOON_S)
    with log.open("a") as out:
        out.write(crash(7) * 200)
    life.turns(NOW + 0.2, wrote=log)
    assert rules.engine is not before
    life.turns(NOW + 2.0, NOW + 4.0, wrote=log)  # the last line may not have been whole
    life.die()

    assert life.counted()["worker_crash"] == 400


def test_what_is_still_being_written_is_not_tried(tmp_path):
    """A change counts when two sweeps in a row saw the same."""
    file = tmp_path / "r.yaml"
    file.write_text("[]")
    rules = Reloading([str(file)], ENGINE)
    tried = rules._tried
    for number in range(3):
        file.write_text("#" * (number + 3))
        assert not rules.turn(0.0, sweep=True)
        assert rules._tried == tried
    rules.turn(0.0, sweep=False)
    assert rules._tried == tried
    rules.turn(0.0, sweep=True)
    assert rules._tried != tried
    rules.close()


def test_what_the_configuration_declares_stays_when_rules_change():
    """Expressions of a [[run]] are signatures without a file: the process that checks is told them."""
    row = {"id": "run-1-step", "fact": "run_step", "where": {"component": ["job"]}, "any": [OTHER]}
    rules = Reloading((), ENGINE, [("raywatch.toml", json.dumps([row]))])
    try:
        rules.ask()
        until(lambda: rules.turn(0.0, sweep=True), SOON_S, "the rules are loaded")
    finally:
        rules.close()

    assert rules.row()["error"] is None
    assert [s.path for s in rules.engine.ruleset.signatures if s.id == "run-1-step"] == [
        "raywatch.toml"
    ]


def test_the_lock_of_an_editor_is_no_rule_file(tmp_path):
    """Emacs makes a link to nowhere while a file is edited."""
    (tmp_path / "r.yaml").write_text("[]")
    rules = Reloading([str(tmp_path)], ENGINE)
    tried = rules._tried
    (tmp_path / ".#r.yaml").symlink_to("me@here.1")
    for _ in range(3):
        rules.turn(0.0, sweep=True)

    assert rules._tried == tried
    assert tried
    rules.close()


def test_a_check_that_does_not_end_is_ended(tmp_path):
    """Its time is bounded, and its process is gone."""
    check = _Check([str(tmp_path)], until=0.0)
    with pytest.raises(Exception, match="took longer than 120 s"):
        check.engine(1.0)
    check.close()
    with pytest.raises(ProcessLookupError):
        os.kill(check._process.pid, 0)


def test_another_version_on_the_disk_is_refused(capsys, monkeypatch):
    """What it writes this one may not read."""
    monkeypatch.setattr(os, "nice", lambda _: 0)

    assert main("0.0.0", []) == 2
    assert capsys.readouterr().err == "raywatch is another version now: restart the daemon\n"
    assert "raywatch.reloading" in sys.modules
