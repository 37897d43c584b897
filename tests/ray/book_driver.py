"""A job with a little of all that the runbooks look for, each once; then it waits: `python book_driver.py STORAGE RUN`."""

import contextlib
import logging
import os
import signal
import sys
import tempfile
import threading
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
import ray
from ray.exceptions import RayError
from ray.train import Checkpoint, FailureConfig, RunConfig, ScalingConfig, get_checkpoint, report
from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer
from ray.util.placement_group import placement_group, remove_placement_group

KEPT: list[Any] = []


class Plain:
    """An actor that speaks, may refuse to be made, and may be killed."""

    def __init__(self, *, fail: bool = False) -> None:
        print("an actor is made", file=sys.stderr, flush=True)
        if fail:
            raise ValueError("book: refuses")

    def ping(self) -> int:
        return 1

    def die(self) -> None:
        os.kill(os.getpid(), signal.SIGKILL)


def loop() -> None:
    """Report a checkpoint, then fail; Ray Train tries once more."""
    logging.getLogger("ray.train").error("book: an error of a rank")
    first = get_checkpoint() is None
    with tempfile.TemporaryDirectory() as folder:
        with zipfile.ZipFile(Path(folder, "model.pt"), "w") as saved:
            saved.writestr("data", "x" * 1000)
        report({"first": first}, checkpoint=Checkpoint.from_directory(folder))
    raise ValueError("book: the loop fails")


def failures() -> None:
    """A task that raises, one whose worker is killed, an actor that cannot be made, one that is made again."""

    @ray.remote(max_retries=0, num_cpus=0.1)
    def bad(kill: int) -> None:
        if kill:
            os.kill(os.getpid(), signal.SIGKILL)
        raise ValueError("book: a task fails")

    Actor: Any = ray.remote(num_cpus=0.1, max_restarts=1)(Plain)  # noqa: N806 - a class
    again = Actor.remote()
    refs = [
        bad.remote(0),
        bad.remote(1),
        Actor.options(max_restarts=0).remote(fail=True).ping.remote(),
        again.die.remote(),
    ]
    for ref in refs:
        with contextlib.suppress(RayError):
            ray.get(ref)
    KEPT.append(again)


def waiting() -> None:
    """An actor, a task and a placement group that no node has room for; a group that was removed; an object."""
    Actor: Any = ray.remote(num_cpus=99)(Plain)  # noqa: N806 - a class

    @ray.remote(num_cpus=99)
    def large() -> None:
        pass

    removed = placement_group([{"CPU": 0.1}])
    ray.get(removed.ready())
    remove_placement_group(removed)
    KEPT.extend([Actor.remote(), large.remote(), placement_group([{"CPU": 99}])])
    KEPT.append(ray.put(np.zeros(1_000_000)))


def main() -> None:
    """Run all, say so, wait."""
    storage, name = sys.argv[1:3]
    ray.init()
    trainer = DataParallelTrainer(
        loop,
        scaling_config=ScalingConfig(num_workers=1, resources_per_worker={"CPU": 0.1}),
        run_config=RunConfig(
            name=name, storage_path=storage, failure_config=FailureConfig(max_failures=1)
        ),
    )
    other = threading.Thread(target=failures)
    other.start()
    with contextlib.suppress(Exception):  # the run fails, as it should
        trainer.fit()
    other.join()
    waiting()
    print("the book is ready", flush=True)
    threading.Event().wait()


if __name__ == "__main__":
    main()
