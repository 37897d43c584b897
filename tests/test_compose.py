"""The compose file: what Debian's docker-compose accepts, what it mounts, and that nothing of it is open."""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from raywatch.config import LISTEN
from tests.alerting import ALERTMANAGER, ALERTMANAGER_AT, PROMETHEUS, PROMETHEUS_AT
from tests.daemons import DaemonProcess, make_session
from tests.test_deploy import DAEMON_OPTIONS, options_of, tool

ROOT = Path(__file__).parent.parent
COMPOSE = ROOT / "deploy" / "compose" / "compose.yaml"
GRAFANA = ROOT / "deploy" / "grafana" / "provisioning"
FILE = yaml.safe_load(COMPOSE.read_text())
SERVICES = FILE["services"]
_PINNED = re.compile(r"[a-z/]+:v?\d+\.\d+\.\d+")


def composed(folder: Path, text: str) -> tuple[int, str]:
    """What docker-compose says of a file: exit code and all output."""
    path = folder / "compose.yaml"
    path.write_text(text)
    return tool("docker-compose", "-f", path, "config", "--quiet")


def mounts(service: str) -> dict[str, tuple[Path, str]]:
    """Path in a container -> what of the checkout is there, and how."""
    found = {}
    for volume in SERVICES[service]["volumes"]:
        source, path, *mode = volume.split(":")
        if source not in FILE["volumes"]:
            found[path] = (Path(os.path.normpath(COMPOSE.parent / source)), *mode)
    return found


def outside(service: str, path: str) -> Path:
    """The file of the checkout that a container has at a path."""
    within, (source, _) = max(m for m in mounts(service).items() if path.startswith(m[0]))
    return source / os.path.relpath(path, within)


def flags(service: str) -> dict[str, str]:
    """The flags that a service is started with."""
    return dict(f.removeprefix("--").split("=", 1) for f in SERVICES[service]["command"])


def test_docker_compose_accepts_the_file(tmp_path):
    """No word; what is misspelt, or names what is not there, is refused."""
    text = COMPOSE.read_text()
    misspelt = text.replace("healthcheck:", "helthcheck:", 1)
    not_there = text.replace(
        "      prometheus:\n        condition", "      no_such:\n        condition"
    )

    assert composed(tmp_path, text) == (0, "")
    for wrong, word in ((misspelt, "helthcheck"), (not_there, "no_such")):
        code, said = composed(tmp_path, wrong)
        assert (code, word in said) == (1, True)


@pytest.mark.parametrize("name", SERVICES)
def test_a_service_is_walled_in_watched_and_pinned(name):
    """Nothing is written but named volumes and /tmp; one version, never `latest`."""
    service = SERVICES[name]

    assert service["read_only"] is True
    assert (service["cap_drop"], service["security_opt"]) == (["ALL"], ["no-new-privileges:true"])
    assert service["network_mode"] == "host"
    assert service["healthcheck"]["test"][0] == "CMD"
    assert "build" in service or _PINNED.fullmatch(service["image"])
    assert {mode for _, mode in mounts(name).values()} <= {"ro"}
    assert [s for s, _ in mounts(name).values() if ROOT in s.parents and not s.is_dir()] == []


def test_nothing_listens_on_another_address_than_loopback():
    """On the host's network every listener is the host's."""
    assert flags("prometheus")["web.listen-address"] == PROMETHEUS_AT
    assert flags("alertmanager")["web.listen-address"] == ALERTMANAGER_AT
    assert flags("alertmanager")["cluster.listen-address"] == ""
    assert SERVICES["grafana"]["environment"]["GF_SERVER_HTTP_ADDR"] == "127.0.0.1"
    assert "command" not in SERVICES["raywatch"]  # the Containerfile's, which listens by default
    assert "ports:" not in COMPOSE.read_text()


@pytest.mark.parametrize(
    ("service", "program"),
    [("prometheus", "prometheus"), ("alertmanager", "prometheus-alertmanager")],
)
def test_flags_are_those_of_the_program(service, program):
    """As Debian's version has them."""
    known = set(re.findall(r"--([\w.-]+)", tool(program, "--help-long")[1]))

    assert flags(service).keys() - known == set()
    assert {"no.such"} - known == {"no.such"}


def test_servers_run_the_configuration_of_this_checkout():
    """The one that the tests run natively, and the rules where it looks for them."""
    config = flags("prometheus")["config.file"]
    (pattern,) = yaml.safe_load(PROMETHEUS.read_text())["rule_files"]
    rules = outside("prometheus", os.path.normpath(Path(config).parent / pattern))

    assert outside("prometheus", config) == PROMETHEUS
    assert outside("alertmanager", flags("alertmanager")["config.file"]) == ALERTMANAGER
    assert rules == ROOT / "rules" / "prometheus" / "*.yaml"
    assert list(rules.parent.glob(rules.name)) != []
    ((targets,),) = (
        [t["targets"] for t in m["static_configs"]]
        for m in yaml.safe_load(PROMETHEUS.read_text())["alerting"]["alertmanagers"]
    )
    assert targets == [ALERTMANAGER_AT]


def test_no_password_stands_in_the_open():
    """Each is a file that whoever starts it must make, and that git does not take."""
    words = {
        name: value
        for service in SERVICES.values()
        for name, value in service.get("environment", {}).items()
        if re.search("PASSWORD|TOKEN|SECRET|KEY", name)
    }
    used = [s for service in SERVICES.values() for s in service.get("secrets", [])]
    (secret,) = (COMPOSE.parent / s["file"] for s in FILE["secrets"].values())

    assert words == {
        "RAY_AUTH_TOKEN": None,
        "GF_SECURITY_ADMIN_PASSWORD__FILE": "/run/secrets/grafana_admin_password",
    }
    assert used == list(FILE["secrets"])
    assert tool("git", "-C", ROOT, "check-ignore", "--quiet", secret)[0] == 0


def test_grafana_finds_its_data_and_its_dashboards():
    """The Prometheus beside it, as often as that scrapes; the dashboards of the checkout."""
    (source,) = yaml.safe_load((GRAFANA / "datasources" / "prometheus.yaml").read_text())[
        "datasources"
    ]
    (provider,) = yaml.safe_load((GRAFANA / "dashboards" / "raywatch.yaml").read_text())[
        "providers"
    ]
    interval = yaml.safe_load(PROMETHEUS.read_text())["global"]["scrape_interval"]

    assert (source["type"], source["url"]) == ("prometheus", f"http://{PROMETHEUS_AT}")
    assert source["jsonData"]["timeInterval"] == interval
    assert outside("grafana", "/etc/grafana/provisioning") == GRAFANA
    assert outside("grafana", provider["options"]["path"]) == ROOT / "dashboards"
    assert [json.loads(p.read_text())["uid"] for p in (ROOT / "dashboards").glob("*.json")] != []


def test_the_image_of_raywatch_is_the_one_of_this_checkout():
    """Built from the Containerfile, with Ray's sessions where it looks for them."""
    build = SERVICES["raywatch"]["build"]
    context = (COMPOSE.parent / build["context"]).resolve()
    container = (context / build["dockerfile"]).read_text()
    (command,) = re.findall(r"^CMD (.*)$", container, re.MULTILINE)

    assert context == ROOT
    assert options_of(json.loads(command)) <= DAEMON_OPTIONS
    assert "/tmp/ray" in mounts("raywatch")
    assert "/tmp/ray" in mounts("prometheus")
    assert "raywatch:/var/lib/raywatch" in SERVICES["raywatch"]["volumes"]


@pytest.mark.slow
def test_the_health_check_of_raywatch_knows_a_live_daemon(tmp_path):
    """Its own command: 0 while the daemon lives, 1 when it does not."""
    _, _, *argv = SERVICES["raywatch"]["healthcheck"]["test"]
    make_session(tmp_path)
    daemon = DaemonProcess(tmp_path, tmp_path / "state")
    here = [a.replace(f"http://{LISTEN}", daemon.url) for a in argv]

    def healthy() -> int:
        return subprocess.run([sys.executable, *here], capture_output=True, check=False).returncode

    try:
        assert here != argv
        assert healthy() == 0
    finally:
        daemon.kill()
    assert healthy() == 1
