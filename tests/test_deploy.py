"""What deploy/ holds is what its own tools accept, and names what is there."""

import json
import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from raywatch.cli import cli
from raywatch.collect.kubernetes import Access, kinds
from raywatch.config import LISTEN
from tests.alerting import PROMETHEUS, RULES, RULES_AT, changed
from tests.kubernetes import allowed_by

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).parent.parent
DEPLOY = ROOT / "deploy"
UNIT = (DEPLOY / "systemd" / "raywatch.service").read_text()
RAYWATCH = Path(sys.executable).with_name("raywatch")
CONTAINER = (DEPLOY / "container" / "Containerfile").read_text()


def tool(*argv: str | Path) -> tuple[int, str]:
    """Exit code and all output; a tool that is missing fails."""
    done = subprocess.run(argv, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    return done.returncode, done.stdout.decode()


def options_of(argv: list[str]) -> set[str]:
    """The options in an argument list of `raywatch daemon`."""
    return {x.partition("=")[0] for x in argv if x.startswith("--")}


DAEMON_OPTIONS = {o for p in cli.commands["daemon"].params for o in p.opts}


# --- systemd -------------------------------------------------------------------------------------


def unit(folder: Path, text: str) -> Path:
    """Write a unit whose program is there."""
    path = folder / "raywatch.service"
    path.write_text(text.replace("/opt/raywatch/bin/raywatch", str(RAYWATCH)))
    return path


def setting(name: str) -> list[str]:
    """The values of a key of the unit."""
    return re.findall(rf"^{name}=(.*)$", UNIT, re.MULTILINE)


def test_systemd_accepts_the_unit(tmp_path):
    """No word from `systemd-analyze verify`."""
    assert tool("systemd-analyze", "verify", "--man=no", unit(tmp_path, UNIT)) == (0, "")


def test_systemd_would_say_so(tmp_path):
    """The check can fail: an unknown key, a program that is not there."""
    wrong = UNIT.replace("NoNewPrivileges=yes", "NoNewPrivilege=yes")

    assert "NoNewPrivilege" in tool("systemd-analyze", "verify", unit(tmp_path, wrong))[1]
    path = tmp_path / "raywatch.service"
    path.write_text(UNIT)
    assert tool("systemd-analyze", "verify", path)[0] != 0


def test_the_unit_is_walled_in(tmp_path):
    """systemd's own measure, 0 (safe) to 10: at most 2.5; unprivileged, and able to read /tmp/ray."""
    code, said = tool(
        "systemd-analyze",
        "security",
        "--offline=true",
        "--no-pager",
        "--threshold=25",
        unit(tmp_path, UNIT),
    )

    assert (code, "Overall exposure level" in said) == (0, True)
    assert setting("User") == ["raywatch"]
    assert setting("PrivateTmp") == setting("DynamicUser") == []  # both would hide Ray's sessions


def test_the_unit_starts_what_raywatch_understands():
    """Its verb and options exist; its state is where systemd makes a folder."""
    ((program, verb, *argv),) = [shlex.split(x) for x in setting("ExecStart")]

    assert (Path(program).name, verb) == ("raywatch", "daemon")
    assert options_of(argv) <= DAEMON_OPTIONS
    assert "%S/raywatch/raywatch.db" in argv
    assert setting("StateDirectory") == ["raywatch"]


# --- Prometheus ----------------------------------------------------------------------------------


def test_prometheus_accepts_its_configuration(tmp_path):
    """Once Ray has written its file of targets, promtool has nothing to warn of; the rules are read with it."""
    found = tmp_path / "prom_metrics_service_discovery.json"
    found.write_text(json.dumps([{"labels": {"job": "ray"}, "targets": ["10.0.0.1:8080"]}]))
    path = tmp_path / "prometheus.yml"
    here = {"/tmp/ray": str(tmp_path), RULES_AT: f"{ROOT}/rules/prometheus/"}
    path.write_text(changed(PROMETHEUS.read_text(), here))
    code, said = tool("promtool", "check", "config", path)

    assert (code, "SUCCESS" in said, "WARNING" in said) == (0, True, False)
    assert sum(map(int, re.findall(r"(\d+) rules found", said))) >= len(RULES) > 40
    path.write_text(path.read_text().replace("job_name: raywatch", "job_nam: raywatch"))
    assert tool("promtool", "check", "config", path)[0] != 0


def test_prometheus_asks_where_raywatch_listens():
    """The default address, and the file that Ray writes."""
    jobs = {j["job_name"]: j for j in yaml.safe_load(PROMETHEUS.read_text())["scrape_configs"]}

    assert jobs["raywatch"]["static_configs"] == [{"targets": [LISTEN]}]
    assert jobs["ray"]["file_sd_configs"] == [
        {"files": ["/tmp/ray/prom_metrics_service_discovery.json"]}
    ]


# --- container -----------------------------------------------------------------------------------


def steps(text: str) -> list[tuple[str, list[str]]]:
    """The instructions of a Containerfile with their words."""
    lines = [x for x in text.replace("\\\n", " ").splitlines() if x and not x.startswith("#")]
    pairs = [line.split(maxsplit=1) for line in lines]
    return [
        (name, json.loads(rest) if rest.startswith("[") else shlex.split(rest))
        for name, rest in pairs
    ]


def test_the_container_copies_what_the_package_is_made_of():
    """All that pyproject.toml names is copied, and all that is copied is there."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    wheel = project["tool"]["hatch"]["build"]["targets"]["wheel"]
    copied = {x for name, words in steps(CONTAINER) if name == "COPY" for x in words[:-1]}
    needed = {*wheel["packages"], *wheel["force-include"], project["project"]["readme"]}

    assert needed - copied == set()
    assert [x for x in copied if not (ROOT / x).exists()] == []


def test_the_container_runs_the_daemon_and_is_not_root():
    """One entry point, options that exist, a user that is no root, state on a volume."""
    said = dict(steps(CONTAINER))
    verb, *argv = said["CMD"]

    assert (said["FROM"], said["ENTRYPOINT"], verb) == (
        ["python:3.11-slim"],
        ["raywatch"],
        "daemon",
    )
    assert options_of(argv) <= DAEMON_OPTIONS
    assert said["USER"] not in (["0"], ["root"])
    assert said["EXPOSE"] == [LISTEN.rpartition(":")[2]]
    assert [a for a in argv if a.startswith(said["VOLUME"][0])] != []


# --- the page ------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", re.findall(r"deploy/[\w./-]+", (DEPLOY / "README.md").read_text()))
def test_the_page_names_files_that_are_there(name):
    """Each path in the README exists, or is a secret, which git must not take."""
    exists = (ROOT / name.rstrip(".")).exists()

    assert exists != (tool("git", "-C", ROOT, "check-ignore", "--quiet", f"{name}/x")[0] == 0)


def test_the_page_names_environment_that_is_read():
    """Each variable is one that raywatch's own code asks for."""
    text = (DEPLOY / "README.md").read_text()
    code = "".join(p.read_text() for p in (ROOT / "raywatch").rglob("*.py"))
    named = set(re.findall(r"\bRAY(?:WATCH)?_[A-Z_]+\b", text))

    assert named
    assert [n for n in sorted(named) if f'"{n}"' not in code] == []
    assert os.access(RAYWATCH, os.X_OK)


# --- Kubernetes ----------------------------------------------------------------------------------


def test_the_role_is_what_is_watched_and_only_reads():
    """Its verbs are tried in test_kubernetes.py, where the server refuses what it does not allow."""
    account, role, binding = yaml.safe_load_all((DEPLOY / "kubernetes" / "rbac.yaml").read_text())

    assert [d["kind"] for d in (account, role, binding)] == [
        "ServiceAccount",
        "Role",
        "RoleBinding",
    ]
    allowed = allowed_by(role)
    assert {verb for _, _, verb in allowed} == {"get", "list", "watch"}
    assert {r for _, r, _ in allowed} == {k.name for k in kinds(Access("", "n"))}
    assert binding["roleRef"]["name"] == role["metadata"]["name"]
    assert [s["name"] for s in binding["subjects"]] == [account["metadata"]["name"]]
