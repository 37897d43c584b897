"""`raywatch daemon` as a process: what it holds, what signals do to it, and how it ends.

Order of dying: finish the tick, stop serving, close the files, close the store.
"""

from __future__ import annotations

import logging
import signal
import threading
import time
from collections.abc import Callable, Mapping
from datetime import tzinfo

from raywatch.collect.hints import Hints
from raywatch.collect.raylogs import default_temp_dirs
from raywatch.config import Config
from raywatch.daemon import Daemon
from raywatch.following import hold_many_files
from raywatch.pace import come_first, hold_garbage
from raywatch.reloading import Reloading
from raywatch.service import Service
from raywatch.store import Store

log = logging.getLogger("raywatch.daemon")


def run(
    config: Config, zone: tzinfo, environ: Mapping[str, str], *, ready: Callable[[int], None]
) -> None:
    """Run until SIGTERM or SIGINT; `ready(port)` is called once it listens. Raises StoreError, WebError."""
    stopping = threading.Event()
    hold_many_files()
    come_first()
    told = config.declared
    rules = Reloading((*config.rules, *told.presets), texts=told.texts)
    temp_dirs = (config.temp_dir,) if config.temp_dir else default_temp_dirs(environ)
    with Store(config.store) as store:
        if store.rebuilt:
            log.error("the store was corrupt: set aside, a new one is begun path=%s", config.store)
        daemon = Daemon(config, temp_dirs, zone, rules, store)
        service = Service(daemon, config, environ, daemon.inbox)
        hold_garbage()
        service.start()
        service.started.wait()
        if service.error is not None:
            daemon.close()
            raise service.error
        daemon.service = service

        def stop(_number: int, _frame: object) -> None:
            stopping.set()
            daemon.wake()

        def reload(_number: int, _frame: object) -> None:
            rules.ask()
            daemon.wake()

        for number in (signal.SIGTERM, signal.SIGINT):
            signal.signal(number, stop)
        signal.signal(signal.SIGHUP, reload)
        ready(service.port)
        daemon.start(time.time())
        hints = Hints()
        while not stopping.is_set():
            daemon.tick(time.time(), hints)
            hints = daemon.wait()
        service.stop()
        daemon.end()
        daemon.tick(time.time(), Hints())  # the last outcomes
        daemon.close()
