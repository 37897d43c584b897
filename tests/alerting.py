"""A real Prometheus, a real Alertmanager and whom it tells, with the configuration that deploy/ ships."""

from __future__ import annotations

import json
import re
import subprocess
import sys
import urllib.error
import urllib.parse
import urllib.request
from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import yaml

from tests.daemons import until
from tests.ray.cluster import free_ports

ROOT = Path(__file__).parent.parent
PROMETHEUS = ROOT / "deploy" / "prometheus" / "prometheus.yml"
ALERTMANAGER = ROOT / "deploy" / "alertmanager" / "alertmanager.yml"
# What deploy/ says, and a test says differently: addresses and the place of the rules.
DAEMON_AT, PROMETHEUS_AT, ALERTMANAGER_AT, RECEIVER_AT = (
    f"127.0.0.1:{port}" for port in (9265, 9090, 9093, 9099)
)
RULES_AT = "../../rules/prometheus/"
RULES = {
    rule["alert"]: rule
    for path in sorted((ROOT / "rules" / "prometheus").glob("*.yaml"))
    for group in yaml.safe_load(path.read_text())["groups"]
    for rule in group["rules"]
    if "alert" in rule
}


_TIME = re.compile(r"(?<= )(\d+)(s|m|h)\b")
_UNITS = {"s": 1, "m": 60, "h": 3600}


def faster(text: str, times: int, *keys: str) -> str:
    """Divide the times that some keys have, all by the same number: what comes first goes on to come first."""
    wanted = re.compile(rf"^ *(?:{'|'.join(keys)}): .*$", re.MULTILINE)

    def shorter(found: re.Match[str]) -> str:
        return f"{int(found[1]) * _UNITS[found[2]] * 1000 // times}ms"

    return wanted.sub(lambda row: _TIME.sub(shorter, row[0]), text)


class Notice(NamedTuple):
    """One notification: which receiver got it, when, whether it fires, and the labels of its alerts."""

    to: str
    at: float
    status: str
    labels: tuple[Mapping[str, str], ...]
    alerts: tuple[str, ...]  # their names, sorted
    texts: tuple[str, ...]  # their descriptions


def notices(told: Path) -> list[Notice]:
    """What a receiver was told so far."""
    return [_notice(json.loads(x)) for x in told.read_text().splitlines() if x.endswith("}")]


def _notice(row: Mapping[str, Any]) -> Notice:
    labels = tuple(a["labels"] for a in row["body"]["alerts"])
    names = tuple(sorted(x["alertname"] for x in labels))
    texts = tuple(a["annotations"]["description"] for a in row["body"]["alerts"])
    return Notice(row["path"].lstrip("/"), row["at"], row["body"]["status"], labels, names, texts)


def changed(text: str, table: Mapping[str, str]) -> str:
    """Replace what is there; what is not is a mistake of the test."""
    for old, new in table.items():
        assert old in text, f"no {old} in the configuration"
        text = text.replace(old, new)
    return text


def free_addresses(count: int) -> list[str]:
    """Loopback addresses that nobody has, all different."""
    return [f"127.0.0.1:{port}" for port in free_ports(count)]


@dataclass(frozen=True, slots=True)
class Server:
    """A process that answers at an address."""

    process: subprocess.Popen[bytes]
    address: str
    log: Path

    def ask(self, path: str, body: object = None) -> bytes | None:
        """GET or POST; None while nobody answers."""
        assert self.process.poll() is None, self.log.read_text()
        data = None if body is None else json.dumps(body).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"http://{self.address}{path}", data, headers)
        try:
            with urllib.request.urlopen(request, timeout=10) as answer:
                return bytes(answer.read())
        except (urllib.error.URLError, ConnectionError):
            return None

    def query(self, expression: str) -> list[tuple[dict[str, str], float]]:
        """What Prometheus makes of an expression now: labels and value of each series."""
        answer = self.ask("/api/v1/query?query=" + urllib.parse.quote(expression))
        rows = json.loads(answer or b'{"data": {"result": []}}')["data"]["result"]
        return [(r["metric"], float(r["value"][1])) for r in rows]

    def value(self, expression: str) -> list[float]:
        """The values of an expression now."""
        return [value for _, value in self.query(expression)]

    def firing(self) -> set[str]:
        """Names of the alerts that fire on a Prometheus now."""
        answer = json.loads(self.ask("/api/v1/alerts") or b'{"data": {"alerts": []}}')
        rows = answer["data"]["alerts"]
        return {r["labels"]["alertname"] for r in rows if r["state"] == "firing"}

    def alerts(self) -> list[dict[str, Any]]:
        """The alerts that an Alertmanager has, with their states."""
        return list(json.loads(self.ask("/api/v2/alerts") or b"[]"))


@contextmanager
def running(argv: Sequence[str], address: str, log: Path, path: str) -> Iterator[Server]:
    """Run a server until the end of a test; one that is missing or does not come up fails."""
    with log.open("wb") as out:
        process = subprocess.Popen(argv, stdin=subprocess.DEVNULL, stdout=out, stderr=out)
    server = Server(process, address, log)
    try:
        until(lambda: server.ask(path) is not None, 60, f"{argv[0]} is ready")
        yield server
    finally:
        process.terminate()
        process.wait(30)


@contextmanager
def receiver(folder: Path, address: str) -> Iterator[Path]:
    """Run what Alertmanager tells; yield the file of what it was told."""
    told = folder / "told"
    argv = receiver_argv(address, told)
    with (folder / "receiver.out").open("wb") as out:
        process = subprocess.Popen(argv, stdout=out, stderr=out)
    try:
        until(told.exists, 60, "the receiver listens")
        yield told
    finally:
        process.kill()
        process.wait()


def receiver_argv(address: str, told: Path) -> list[str]:
    """The command line of the receiver."""
    return [sys.executable, "-m", "tests.receiver", address.rpartition(":")[2], str(told)]


def alertmanager_argv(config: Path, data: Path, address: str = ALERTMANAGER_AT) -> list[str]:
    """The command line of an Alertmanager without a cluster."""
    return [
        "prometheus-alertmanager",
        f"--config.file={config}",
        f"--storage.path={data}",
        f"--web.listen-address={address}",
        "--cluster.listen-address=",
    ]


def prometheus_argv(config: Path, data: Path, address: str = PROMETHEUS_AT) -> list[str]:
    """The command line of a Prometheus."""
    return [
        "prometheus",
        f"--config.file={config}",
        f"--storage.tsdb.path={data}",
        f"--web.listen-address={address}",
    ]


def alertmanager(folder: Path, text: str, address: str) -> AbstractContextManager[Server]:
    """Run an Alertmanager with a configuration."""
    place = folder / "alertmanager"
    return _configured(place, text, address, alertmanager_argv(_of(place), place, address))


def prometheus(
    folder: Path, text: str, address: str, *flags: str
) -> AbstractContextManager[Server]:
    """Run a Prometheus with a configuration, and with more options."""
    place = folder / "prometheus"
    argv = [*prometheus_argv(_of(place), place, address), *flags]
    return _configured(place, text, address, argv)


def _of(place: Path) -> Path:
    return place.with_suffix(".yml")


@contextmanager
def _configured(place: Path, text: str, address: str, argv: Sequence[str]) -> Iterator[Server]:
    _of(place).write_text(text)
    with running(argv, address, place.with_suffix(".out"), "/-/ready") as server:
        yield server
