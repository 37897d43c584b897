"""The training that `raywatch demo` submits as a job: Ray Train v2, DDP over gloo, a tiny model, real checkpoints.

It knows nothing of raywatch. Run again with the same name and storage it goes on from its newest registered
checkpoint, as every Ray Train program should.
"""

import argparse
import tempfile
import time
from pathlib import Path

import ray
import ray.train
import torch
from ray.train.torch import TorchTrainer, prepare_model

STEP_S = 0.2


def train_loop(config: dict[str, float]) -> None:
    """Train until stopped; every few steps rank 0 writes a checkpoint that all ranks report."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    context = ray.train.get_context()
    rank, size = context.get_world_rank(), context.get_world_size()
    model = prepare_model(torch.nn.Linear(16, 1))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    first = load(model, optimizer) + 1
    node = ray.get_runtime_context().get_node_id()
    print(f"rank {rank} of {size} starts at step {first} on node {node}", flush=True)  # noqa: T201
    for step in range(first, int(config["steps"]) + 1):
        features = torch.randn(32, 16)
        loss = (model(features).squeeze(1) - features.sum(1)).pow(2).mean()
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        time.sleep(STEP_S)
        if step % int(config["every"]) == 0:
            report(step, float(loss), model, optimizer, writes=rank == 0)


def load(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> int:
    """Restore the newest checkpoint, if there is one; return its step, else 0."""
    checkpoint = ray.train.get_checkpoint()
    if checkpoint is None:
        return 0
    with checkpoint.as_directory() as folder:
        state = torch.load(Path(folder) / "state.pt")
    model.load_state_dict(state["model"])
    optimizer.load_state_dict(state["optimizer"])
    return int(state["step"])


def report(
    step: int,
    loss: float,
    model: torch.nn.Module,
    optimizer: torch.optim.Optimizer,
    *,
    writes: bool,
) -> None:
    """Report the step, with a checkpoint from the rank that writes it."""
    metrics = {"step": step, "loss": loss}
    if not writes:
        ray.train.report(metrics)
        return
    state = {"step": step, "model": model.state_dict(), "optimizer": optimizer.state_dict()}
    with tempfile.TemporaryDirectory() as folder:
        torch.save(state, Path(folder) / "state.pt")
        ray.train.report(metrics, checkpoint=ray.train.Checkpoint.from_directory(folder))
    print(f"step {step} loss {loss:.4f}, checkpoint written", flush=True)  # noqa: T201


def main() -> None:
    """Read the flags and train."""
    flags = argparse.ArgumentParser(description=__doc__)
    flags.add_argument("--name", required=True)
    flags.add_argument("--storage", required=True)
    flags.add_argument("--workers", type=int, default=2)
    flags.add_argument("--steps", type=int, default=5000)
    flags.add_argument("--every", type=int, default=10, help="Steps between two checkpoints.")
    flags.add_argument(
        "--preemption-budget",
        type=int,
        default=-1,
        help="How often Ray Train itself restarts after a preemption; its own default is -1, always.",
    )
    given = flags.parse_args()
    TorchTrainer(
        train_loop,
        train_loop_config={"steps": given.steps, "every": given.every},
        scaling_config=ray.train.ScalingConfig(
            num_workers=given.workers, placement_strategy="SPREAD"
        ),
        run_config=ray.train.RunConfig(
            name=given.name,
            storage_path=given.storage,
            checkpoint_config=ray.train.CheckpointConfig(num_to_keep=3),
            failure_config=ray.train.FailureConfig(  # type: ignore[call-arg] # of Ray Train v2
                max_failures=0, max_preemption_failures=given.preemption_budget
            ),
        ),
    ).fit()


if __name__ == "__main__":
    main()
