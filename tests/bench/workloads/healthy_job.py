"""What healthy users of Ray do, each with its start and its end: `python healthy_job.py NAME STORAGE SCALE`. No failure is meant."""

from __future__ import annotations

import logging
import os
import sys
import tempfile
import time
import urllib.request
from pathlib import Path
from typing import Any

import ray

log = logging.getLogger("healthy")


def tasks(_storage: str, scale: int) -> None:
    """Tasks with arguments in the object store, nested ones, and one that succeeds when it is tried again."""

    @ray.remote
    def square(x: int) -> int:
        return x * x

    @ray.remote
    def many(n: int) -> int:
        return sum(ray.get([square.remote(i) for i in range(n)]))

    @ray.remote(max_retries=2, retry_exceptions=[ValueError])  # type: ignore[call-overload] # Ray allows a list
    def second_try(marker: str) -> str:
        if not os.path.exists(marker):  # noqa: PTH110
            open(marker, "w").close()
            raise ValueError("the first attempt fails on purpose; max_retries=2")
        return "fine"

    print(ray.get([many.remote(20) for _ in range(5 * scale)]))
    print(ray.get(ray.put(b"x" * 5_000_000))[:1])
    print(ray.get(second_try.remote(tempfile.mktemp())))


def actors(_storage: str, scale: int) -> None:
    """Actors that go out of scope, end themselves, and are killed on purpose."""

    class Plain:
        def __init__(self) -> None:
            self.n = 0

        def add(self) -> int:
            self.n += 1
            return self.n

        def leave(self) -> None:
            ray.actor.exit_actor()

    Counter: Any = ray.remote(Plain)  # noqa: N806 - a class
    for _ in range(scale):
        counters = [Counter.options(num_cpus=0.1).remote() for _ in range(4)]
        print(ray.get([c.add.remote() for c in counters for _ in range(10)])[-1])
        ray.kill(counters[0])
        counters[1].leave.remote()
        del counters
    named = Counter.options(name="keeper", lifetime="detached", num_cpus=0.1).remote()
    print(ray.get(named.add.remote()))
    ray.kill(named)


def data(_storage: str, scale: int) -> None:
    """A small pipeline."""
    found = (
        ray.data.range(2000 * scale, override_num_blocks=4)
        .map_batches(lambda b: {"id": b["id"] * 2})
        .filter(lambda r: r["id"] % 3 == 0)
        .sum("id")
    )
    print("sum", found)


def _loop(config: dict[str, int]) -> None:
    import torch
    from ray import train

    model: Any = torch.nn.Linear(4, 1)
    model = train.torch.prepare_model(model)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    for step in range(config["steps"]):
        loss = model(torch.ones(2, 4)).sum() ** 2
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "model.pt").write_bytes(b"x" * 1000)
            checkpoint = train.Checkpoint.from_directory(folder) if step % 5 == 4 else None
            train.report({"loss": float(loss), "step": step}, checkpoint=checkpoint)


def training(storage: str, scale: int) -> None:
    """Ray Train with two workers and checkpoints, to its end."""
    from ray.train import RunConfig, ScalingConfig
    from ray.train.torch import TorchTrainer

    trainer = TorchTrainer(
        _loop,
        train_loop_config={"steps": 10 * scale},
        scaling_config=ScalingConfig(num_workers=2, resources_per_worker={"CPU": 0.5}),
        run_config=RunConfig(name=f"healthy-{os.getpid()}", storage_path=storage),
    )
    print(trainer.fit().metrics)


def tuning(storage: str, scale: int) -> None:
    """Ray Tune: trials, and some that a scheduler stops early."""
    from ray import tune
    from ray.tune.schedulers import ASHAScheduler

    def objective(config: dict[str, float]) -> None:
        for i in range(8):
            tune.report({"score": config["x"] * i})
            time.sleep(0.02)

    tuner = tune.Tuner(
        tune.with_resources(objective, {"cpu": 0.5}),
        param_space={"x": tune.uniform(0, 1)},
        tune_config=tune.TuneConfig(
            num_samples=2 + 2 * scale, metric="score", mode="max", scheduler=ASHAScheduler()
        ),
        run_config=tune.RunConfig(name=f"tune-{os.getpid()}", storage_path=storage),
    )
    print(tuner.fit().get_best_result().metrics)


def serving(_storage: str, scale: int) -> None:
    """Ray Serve: two replicas, requests, an update, shut down."""
    from ray import serve

    class Greeter:
        async def __call__(self, _request: object) -> str:
            return "hello"

    Hello: Any = serve.deployment(num_replicas=2, ray_actor_options={"num_cpus": 0.1})(Greeter)  # noqa: N806
    port = int(os.environ["HEALTHY_PORT"])
    serve.start(http_options={"port": port, "host": "127.0.0.1"})
    for replicas in (2, 1):
        serve.run(Hello.options(num_replicas=replicas).bind())
        for _ in range(20 * scale):
            with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=30) as answer:
                assert answer.read() == b"hello"
    serve.shutdown()


KINDS = {
    "tasks": tasks,
    "actors": actors,
    "data": data,
    "training": training,
    "tuning": tuning,
    "serving": serving,
}


def main() -> None:
    """Run one."""
    name, storage, scale = sys.argv[1:4]
    ray.init(logging_level=logging.INFO)
    KINDS[name](storage, int(scale))
    log.info("done")
    ray.shutdown()


if __name__ == "__main__":
    main()
