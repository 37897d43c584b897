"""raywatch itself: does it live, keep up, see, remember, and what does it cost."""

from __future__ import annotations

from typing import Any

from grafana_foundation_sdk.models import units

from tests.boards.boards import board
from tests.boards.parts import (
    BAD,
    GREEN,
    ORANGE,
    RED,
    YELLOW,
    YES_NO,
    Ask,
    Column,
    lines,
    number,
    rows,
    timeline,
)
from tests.boards.promql import RATE, itself, or_zero, total, watched

_GONE = "not scraped"
_HERE = "{{instance}}"
_OK, _NOT_OK = 'outcome="ok"', 'outcome!="ok"'


def _state() -> list[Any]:
    up = f"min({watched('up')})"
    return [
        number(
            "Scraped",
            "Whether Prometheus reaches every raywatch of the last 15 minutes.",
            up,
            texts=YES_NO,
            empty=_GONE,
        ),
        number(
            "Last Turn",
            "Time since the loop last told how things stand, every 2 s at least. It grows where the loop hangs.",
            f"max(time() - {itself('last_tick_timestamp_seconds')})",
            unit=units.Seconds,
            decimals=0,
            steps=((30, ORANGE), (60, RED)),
            empty=_GONE,
        ),
        number(
            "Blind Sources",
            "Sources of facts that do not answer.",
            or_zero(f"count({itself('source_up')} == 0)"),
            steps=BAD,
        ),
        number(
            "Store",
            "Whether the last commit of every daemon succeeded. no: a full disk, or one that cannot be written.",
            f"min({itself('store_writable')})",
            texts={"1": ("writable", GREEN), "0": ("not writable", RED)},
            empty=_GONE,
        ),
        number(
            "Rules",
            "Whether the rules in force are those that were tried last. broken: those before stay in force.",
            f"min({itself('rules_last_reload_successful')})",
            texts={"1": ("as configured", GREEN), "0": ("broken", RED)},
            empty=_GONE,
        ),
        number(
            "Following Files By",
            "events: the kernel tells of each write. polling: it does not for some files (/healthz says why), which costs time.",
            f"max({itself('tail_polling')})",
            texts={"0": ("events", GREEN), "1": ("polling", YELLOW)},
            empty=_GONE,
        ),
    ]


def _table() -> Any:
    started = watched("process_start_time_seconds")
    return rows(
        "Daemons",
        "One row a daemon. Store Rebuilt: this start found the store corrupt and began a new one; counters begin at 0.",
        [
            Ask(total(itself("build_info"), "instance, version", how="max")),
            Ask(total(itself("ray_session_info"), "instance, SessionName, ray_version", how="max")),
            Ask(f"time() - max by (instance) ({started})", "Up For"),
            Ask(total(itself("tail_files"), "instance", how="max"), "Files"),
            Ask(total(itself("store_rebuilt"), "instance", how="max"), "Store Rebuilt"),
            Ask(
                f"time() - {total(itself('rules_last_reload_success_timestamp_seconds'), 'instance', how='min')}",
                "Rules Loaded",
            ),
        ],
        [
            Column("Up For", unit=units.Seconds),
            Column("Rules Loaded", unit=units.Seconds),
            Column("Store Rebuilt", texts={"0": ("no", GREEN), "1": ("yes", RED)}),
        ],
        {
            "instance": "Daemon",
            "version": "Version",
            "SessionName": "Ray Session",
            "ray_version": "Ray",
        },
        height=5,
        empty=_GONE,
    )


def _loop() -> list[Any]:
    ticks = total(f"rate({itself('tick_seconds_bucket')}[{RATE}])", "instance, le")
    lag = total(itself("tail_lag_bytes"), "instance", how="max")
    return [
        lines(
            "Duration of a Turn",
            "A turn of the loop reads, classifies, decides and commits. Half of them take less, and 99 of 100.",
            Ask(f"histogram_quantile(0.5, {ticks})", "{{instance}} median"),
            Ask(f"histogram_quantile(0.99, {ticks})", "{{instance}} 99 of 100"),
            unit=units.Seconds,
            empty=_GONE,
        ),
        lines(
            "Turns per Second",
            "Few where nothing is written; 0 where the loop hangs.",
            Ask(total(f"rate({itself('tick_seconds_count')}[{RATE}])", "instance"), _HERE),
            empty=_GONE,
        ),
        lines(
            "Logs Read",
            "Bytes a second by the part of Ray that writes them.",
            Ask(
                total(f"rate({itself('tail_read_bytes_total')}[{RATE}])", "component"),
                "{{component}}",
            ),
            stacked=True,
            unit=units.BytesPerSecondIEC,
            empty=_GONE,
        ),
        lines(
            "Bytes Not Read Yet",
            "Near 0, but for moments, where raywatch keeps up.",
            Ask(lag, _HERE),
            unit=units.BytesIEC,
            empty=_GONE,
        ),
    ]


def _sources() -> list[Any]:
    well = f"rate({itself('http_requests_total', _OK)}[{RATE}])"
    badly = f"rate({itself('http_requests_total', _NOT_OK)}[{RATE}])"
    silent = total(
        f"time() - ({itself('source_last_observation_timestamp_seconds')} > 0)", "source", how="max"
    )
    told = total(f"rate({itself('observations_total')}[{RATE}])", "source")
    return [
        timeline(
            "Sources",
            "Whether each source of facts answers.",
            total(itself("source_up"), "source", how="min"),
            "{{source}}",
            YES_NO,
            empty=_GONE,
        ),
        lines(
            "Silence of Sources",
            "Time since each source last answered. Logs: since they could last be looked into.",
            Ask(silent, "{{source}}"),
            unit=units.Seconds,
            empty=_GONE,
        ),
        lines(
            "Facts Taken In",
            "Facts a second that each source told.",
            Ask(told, "{{source}}"),
            stacked=True,
            empty=_GONE,
        ),
        lines(
            "Requests",
            "What raywatch asks of Ray, Kubernetes and clouds, a second; what was not answered is named with the reason.",
            Ask(total(well, "source"), "{{source}}"),
            Ask(f"{total(badly, 'source, outcome')} > 0", "{{source}} {{outcome}}"),
            stacked=True,
            unit=units.RequestsPerSecond,
            empty=_GONE,
        ),
    ]


def _store() -> list[Any]:
    return [
        lines(
            "Size of the Store",
            "The database with its log.",
            Ask(total(itself("store_bytes"), "instance", how="max"), _HERE),
            unit=units.BytesIEC,
            span=8,
            empty=_GONE,
        ),
        lines(
            "Free for the Store",
            "Free bytes of its file system. Without space nothing is committed, and what is not committed does not count.",
            Ask(total(itself("store_free_bytes"), "instance", how="min"), _HERE),
            unit=units.BytesIEC,
            span=8,
            empty=_GONE,
        ),
        lines(
            "Broken Rules",
            "Changed rules that were refused, so that those before stayed in force.",
            Ask(
                total(
                    f"increase({itself('rules_reload_failures_total')}[{RATE}])",
                    "instance",
                ),
                _HERE,
            ),
            bars=True,
            span=8,
            empty=_GONE,
        ),
    ]


def _process() -> list[Any]:
    cpu = watched(f"rate(process_cpu_seconds_total[{RATE}])")
    return [
        lines(
            "Processors Used",
            "1 is one processor.",
            Ask(total(cpu, "instance"), _HERE),
            span=8,
            empty=_GONE,
        ),
        lines(
            "Memory",
            "Resident memory of the daemon.",
            Ask(total(watched("process_resident_memory_bytes"), "instance"), _HERE),
            unit=units.BytesIEC,
            span=8,
            empty=_GONE,
        ),
        lines(
            "Open Files",
            "Dashed: how many the process may open.",
            Ask(total(watched("process_open_fds"), "instance"), _HERE),
            Ask(total(watched("process_max_fds"), "instance"), "{{instance}} limit"),
            dashed="/ limit$/",
            span=8,
            empty=_GONE,
        ),
        lines(
            "Hooks That Run",
            "Hooks of actions and notices that have begun and not ended.",
            Ask(total(itself("hooks_running"), "hook"), "{{hook}}"),
            step=True,
            span=8,
            empty="no hook is configured",
        ),
        lines(
            "Duration of a Scrape",
            "How long Prometheus waits for /metrics.",
            Ask(total(watched("scrape_duration_seconds"), "instance", how="max"), _HERE),
            unit=units.Seconds,
            span=8,
            empty=_GONE,
        ),
        lines(
            "Series of a Scrape",
            "How many samples /metrics holds; bounded whatever the logs say.",
            Ask(total(watched("scrape_samples_scraped"), "instance", how="max"), _HERE),
            span=8,
            empty=_GONE,
        ),
    ]


def itself_board() -> dict[str, Any]:
    """Return the dashboard."""
    return board(
        "raywatch-itself",
        "Whether raywatch lives, keeps up with the logs, hears its sources, and what it costs.",
        [
            ("Does It Work?", [*_state(), _table()]),
            ("Loop and Logs", _loop()),
            ("Sources", _sources()),
            ("Store and Rules", _store()),
            ("Process and Scrape", _process()),
        ],
        daemons=True,
    )
