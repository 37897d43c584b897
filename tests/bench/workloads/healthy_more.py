"""More of what healthy users of Ray do: things that restart, spill, scale, are kept or are taken away as somebody meant it.

`python healthy_more.py NAME STORAGE SCALE`. No failure is meant.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
import sys
import tempfile
import time
import urllib.request
import zipfile
from base64 import urlsafe_b64encode
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import ray

log = logging.getLogger("healthy")
PATIENCE_S = 180


def restarts(_storage: str, scale: int) -> None:
    """Actors that may restart and end as planned: by themselves, killed for good, asked to leave, out of scope."""

    class Plain:
        def ping(self) -> int:
            return os.getpid()

        def leave(self) -> None:
            ray.actor.exit_actor()

    Safe: Any = ray.remote(max_restarts=3, max_task_retries=2, num_cpus=0.1)(Plain)  # noqa: N806 - a class
    for number in range(scale):
        made = [Safe.remote() for _ in range(4)]
        named = Safe.options(name=f"safe-{number}", lifetime="detached").remote()
        print(len(set(ray.get([a.ping.remote() for a in (*made, named)]))), "actors")
        made[0].leave.remote()
        made[1].__ray_terminate__.remote()
        ray.kill(made[2])
        ray.kill(ray.get_actor(f"safe-{number}"))
        del made, named


def groups(_storage: str, scale: int) -> None:
    """Placement groups of every strategy, used and removed; an actor that still lives in one goes with it."""
    from ray.util.placement_group import placement_group, remove_placement_group
    from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

    @ray.remote(num_cpus=0.1)
    def where() -> str:
        return ray.get_runtime_context().get_node_id()

    class Plain:
        def ping(self) -> bool:
            return True

    Tenant: Any = ray.remote(num_cpus=0.1)(Plain)  # noqa: N806 - a class

    for number in range(scale):
        for strategy in ("PACK", "SPREAD", "STRICT_PACK"):
            group = placement_group([{"CPU": 0.5}] * 2, strategy=strategy)
            ray.get(group.ready(), timeout=PATIENCE_S)
            inside = PlacementGroupSchedulingStrategy(placement_group=group)
            print(
                strategy,
                len(
                    set(
                        ray.get(
                            [where.options(scheduling_strategy=inside).remote() for _ in range(4)]
                        )
                    )
                ),
            )
            tenant = Tenant.options(scheduling_strategy=inside).remote()
            ray.get(tenant.ping.remote())
            if number % 2:
                ray.kill(tenant)
            remove_placement_group(group)


def spilling(_storage: str, scale: int) -> None:
    """Objects and a Data pipeline that are larger than the object store, read back whole."""
    import numpy as np

    kept = [ray.put(np.full(10_000_000, i, np.uint8)) for i in range(12)]
    print("read back", [int(ray.get(r)[-1]) for r in kept])
    del kept
    wide = ray.data.range_tensor(1500 * scale, shape=(4000,), override_num_blocks=8 * scale)
    whole = wide.map_batches(lambda b: {"data": b["data"] + 1}, batch_size=50).materialize()
    print("rows", whole.count(), "bytes", whole.size_bytes())


def _wheel(folder: Path) -> Path:
    """A package without dependencies, as pip takes it without a registry."""
    name, info = "rwhealthy-1.0-py3-none-any.whl", "rwhealthy-1.0.dist-info"
    parts = {
        "rwhealthy.py": "ANSWER = 42\n",
        f"{info}/METADATA": "Metadata-Version: 2.1\nName: rwhealthy\nVersion: 1.0\n",
        f"{info}/WHEEL": "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n",
    }
    with zipfile.ZipFile(folder / name, "w") as wheel:
        rows = []
        for path, text in parts.items():
            wheel.writestr(path, text)
            digest = urlsafe_b64encode(hashlib.sha256(text.encode()).digest()).rstrip(b"=").decode()
            rows.append(f"{path},sha256={digest},{len(text)}")
        wheel.writestr(f"{info}/RECORD", "\n".join([*rows, f"{info}/RECORD,,", ""]))
    return folder / name


def environments(_storage: str, scale: int) -> None:
    """Runtime environments: a folder and a module of the job; pip and variables of tasks."""
    with tempfile.TemporaryDirectory() as text:
        folder = Path(text)
        (folder / "rwmodule").mkdir()
        (folder / "rwmodule" / "__init__.py").write_text("ANSWER = 43\n")
        (folder / "rwfolder").mkdir()
        (folder / "rwfolder" / "rwfile.py").write_text("ANSWER = 44\n")
        offline = ["--no-index", "--no-deps"]
        pip = {"packages": [str(_wheel(folder))], "pip_install_options": offline}
        ray.shutdown()  # folders are taken along at a job's start only
        ray.init(
            logging_level=logging.INFO,
            runtime_env={
                "working_dir": str(folder / "rwfolder"),
                "py_modules": [str(folder / "rwmodule")],
            },
        )

        @ray.remote(num_cpus=0.1)
        def answer(modules: list[str]) -> list[int]:
            return [int(__import__(m).ANSWER) for m in modules]

        @ray.remote(num_cpus=0.1)
        def variable() -> str:
            return os.environ["RW_HEALTHY"]

        print(ray.get(answer.remote(["rwmodule", "rwfile"])))
        print(ray.get(answer.options(runtime_env={"pip": pip}).remote(["rwhealthy"])))
        for number in range(scale):
            own = {"env_vars": {"RW_HEALTHY": str(number)}}
            print(ray.get(variable.options(runtime_env=own).remote()))


def stopping(storage: str, scale: int) -> None:
    """Ray Tune: trials that a rule stops early or that reach their last iteration, each with its checkpoints."""
    from ray import tune
    from ray.tune.schedulers import MedianStoppingRule

    def objective(config: dict[str, float]) -> None:
        for i in range(20):
            with tempfile.TemporaryDirectory() as folder:
                Path(folder, "state").write_text(str(i))
                kept = tune.Checkpoint.from_directory(folder)
                tune.report({"score": config["x"] * i}, checkpoint=kept)

    rule = MedianStoppingRule(grace_period=2, min_samples_required=2)
    tuner = tune.Tuner(
        tune.with_resources(objective, {"cpu": 0.5}),
        param_space={"x": tune.grid_search([i / 10 for i in range(2 + scale)])},
        tune_config=tune.TuneConfig(metric="score", mode="max", scheduler=rule),
        run_config=tune.RunConfig(
            name=f"stopping-{os.getpid()}",
            storage_path=storage,
            stop={"training_iteration": 8},
            checkpoint_config=tune.CheckpointConfig(num_to_keep=2),
        ),
    )
    print(tuner.fit().get_best_result().metrics)


def _kept(config: dict[str, Any]) -> None:
    """One worker's training: goes on from the checkpoint that is there, saves at every step, ends when it may."""
    from ray import train

    found = train.get_checkpoint()
    first = 0
    if found is not None:
        with found.as_directory() as folder:
            first = int(Path(folder, "step").read_text()) + 1
    size = train.get_context().get_world_size()
    print(f"{size} workers from step {first}", flush=True)
    # An elastic group grows while it trains: it is started anew with one more.
    last = first + config["steps"] + (100_000 if size < config["wait_for"] else 0)
    for step in range(first, last):
        with tempfile.TemporaryDirectory() as folder:
            Path(folder, "step").write_text(str(step))
            mine = train.get_context().get_world_rank() == 0
            saved = train.Checkpoint.from_directory(folder) if mine else None
            train.report({"step": step}, checkpoint=saved)
        time.sleep(0.2)


# `workers`: their number, or (fewest, most).
def _trained(name: str, storage: str, workers: Any, steps: int, **more: Any) -> None:
    from ray.train import CheckpointConfig, RunConfig, ScalingConfig
    from ray.train.v2.api.data_parallel_trainer import DataParallelTrainer

    wait_for = workers if isinstance(workers, int) else workers[1]
    trainer = DataParallelTrainer(
        _kept,
        train_loop_config={"steps": steps, "wait_for": wait_for},
        scaling_config=ScalingConfig(num_workers=workers, **more),
        run_config=RunConfig(
            name=name,
            storage_path=storage,
            checkpoint_config=CheckpointConfig(num_to_keep=2),
        ),
    )
    print(trainer.fit().metrics)


def keeping(storage: str, scale: int) -> None:
    """Ray Train that keeps its two newest checkpoints; a second run of the same name goes on from there."""
    for _ in range(2):
        _trained(f"kept-{os.getpid()}", storage, 2, 4 * scale, resources_per_worker={"CPU": 0.5})


def elastic(storage: str, scale: int) -> None:
    """Ray Train that starts with one worker, and takes a second one once a node with room for it has joined."""
    slot = {"CPU": 0.5, "slot": 1}
    often = {"elastic_resize_monitor_interval_s": 2.0}
    _trained(
        f"elastic-{os.getpid()}", storage, (1, 2), 4 * scale, resources_per_worker=slot, **often
    )


def replicas(_storage: str, scale: int) -> None:
    """Ray Serve: a deployment that calls another, whose replicas follow the load up and down."""
    from ray import serve

    class Slow:
        async def __call__(self) -> str:
            await asyncio.sleep(0.2)
            return "hello"

    class Front:
        def __init__(self, behind: Any) -> None:
            self.behind = behind

        async def __call__(self, _request: object) -> str:
            return str(await self.behind.remote())

    follows = {
        "min_replicas": 1,
        "max_replicas": 3,
        "target_ongoing_requests": 1,
        "upscale_delay_s": 1,
        "downscale_delay_s": 2,
    }
    few = {"num_cpus": 0.1}
    Behind: Any = serve.deployment(autoscaling_config=follows, ray_actor_options=few)(Slow)  # noqa: N806 - a class
    Ahead: Any = serve.deployment(num_replicas=2, ray_actor_options=few)(Front)  # noqa: N806
    port = int(os.environ["HEALTHY_PORT"])
    serve.start(http_options={"port": port, "host": "127.0.0.1"})
    serve.run(Ahead.bind(Behind.bind()))

    def asked(_: int) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{port}/", timeout=60) as answer:
            return bytes(answer.read())

    def running() -> int:
        states = serve.status().applications["default"].deployments["Slow"].replica_states
        return sum(n for state, n in states.items() if state == "RUNNING")

    deadline = time.monotonic() + PATIENCE_S
    with ThreadPoolExecutor(8) as many:
        while running() < 2 and time.monotonic() < deadline:
            assert set(many.map(asked, range(40 * scale))) == {b"hello"}
    print("grown to", running())
    while running() > 1 and time.monotonic() < deadline:
        time.sleep(0.5)
    print("shrunk to", running())
    serve.shutdown()


KINDS = {
    "restarts": restarts,
    "groups": groups,
    "spilling": spilling,
    "environments": environments,
    "stopping": stopping,
    "keeping": keeping,
    "elastic": elastic,
    "replicas": replicas,
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
