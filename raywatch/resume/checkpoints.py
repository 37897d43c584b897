"""Find the newest checkpoint of a Ray Train run and prove that it is whole. Local disk.

Ray Train v2 keeps `<storage>/<name>/checkpoint_manager_snapshot.json`; what it does not list is not committed, and the
newest folder on the disk is often an orphan (reference/train.md, trap 7). v1 keeps `result.json` in a trial folder.
"""

from __future__ import annotations

import json
import math
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

from raywatch.model import Checkpoint, CheckpointProblem

SNAPSHOT = "checkpoint_manager_snapshot.json"
TRIES = 5  # the snapshot is written in place: a reader can see half of it
TRY_PAUSE_S = 0.05
STEP_KEYS = ("global_step", "step", "training_iteration", "iteration", "epoch")
_ZIP_START, _ZIP_END, _ZIP_TAIL = b"PK\x03\x04", b"PK\x05\x06", 65_557
_TORCH = (".pt", ".pth", ".ckpt", ".bin")


def newest_whole(
    storage_path: str, run_name: str, *, pause: Callable[[float], None] = time.sleep
) -> Checkpoint | CheckpointProblem:
    """Return the checkpoint that Ray Train would resume from, if it is whole; else what is wrong. Never raises.

    Reads every torch file's end and every file's head; takes seconds on a slow disk.
    """
    if "://" in storage_path and not storage_path.startswith("file://"):
        return CheckpointProblem("remote", f"{storage_path} is object storage")
    folder = Path(storage_path.removeprefix("file://")).expanduser() / run_name
    try:
        if (folder / SNAPSHOT).exists():
            return _of_v2(folder, pause)
        trials = sorted(folder.glob("*/result.json"), key=lambda p: p.stat().st_mtime)
        return (
            _of_v1(trials[-1])
            if trials
            else CheckpointProblem("missing", f"no snapshot in {folder}")
        )
    except OSError as error:
        return CheckpointProblem("unreadable", str(error))


def _of_v2(folder: Path, pause: Callable[[float], None]) -> Checkpoint | CheckpointProblem:
    path = folder / SNAPSHOT
    snapshot = _parsed(path, pause)
    if snapshot is None:
        return CheckpointProblem(
            "torn", f"{path} is no JSON, read {TRIES} times; it is not rewritten by itself"
        )
    latest = snapshot.get("latest_checkpoint_result")
    if not isinstance(latest, dict):
        return CheckpointProblem("missing", f"{path} lists no checkpoint yet")
    results = snapshot.get("checkpoint_results")
    listed = [r for r in results if isinstance(r, dict)] if isinstance(results, list) else []
    fault = _fault(folder, latest)
    if fault is None:
        return _checkpoint(
            folder, latest, path.stat().st_mtime, "listed as the latest in the snapshot"
        )
    older = next((r for r in reversed(listed) if r != latest and _fault(folder, r) is None), None)
    hint = f"; {older['checkpoint_dir_name']} before it is whole" if older else ""
    return CheckpointProblem("corrupt", fault + hint)


def _parsed(path: Path, pause: Callable[[float], None]) -> dict[str, object] | None:
    for turn in range(TRIES):
        try:
            found = json.loads(path.read_bytes())
        except ValueError:
            if turn + 1 < TRIES:
                pause(TRY_PAUSE_S)
            continue
        return found if isinstance(found, dict) else None
    return None


def _of_v1(results: Path) -> Checkpoint | CheckpointProblem:
    rows = list(_rows(results))
    kept = [r for r in rows if r.get("checkpoint_dir_name")]
    for row in reversed(kept):
        named = {"checkpoint_dir_name": row["checkpoint_dir_name"], "metrics": row}
        if _fault(results.parent, named) is None:
            return _checkpoint(
                results.parent, named, results.stat().st_mtime, f"listed in {results.name}"
            )
    return CheckpointProblem("missing", f"{results} names no checkpoint that is whole")


def _rows(path: Path) -> Iterator[dict[str, object]]:
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except ValueError:  # the last line may still be written
            continue
        if isinstance(row, dict):
            yield row


def _fault(folder: Path, result: Mapping[str, object]) -> str | None:
    """Return what is wrong with a checkpoint's folder, None if nothing is."""
    name = result.get("checkpoint_dir_name")
    if not isinstance(name, str) or not name or "/" in name or name in (".", ".."):
        return f"{folder}: {name!r} is no folder name"
    path = folder / name
    if not path.is_dir():
        return f"{path} is not there"
    files = [p for p in path.rglob("*") if p.is_file()]
    if not files:
        return f"{path} is empty"
    return next((f"{p}: {why}" for p in files if (why := _file_fault(p))), None)


def _file_fault(path: Path) -> str | None:
    size = path.stat().st_size
    with path.open("rb") as stream:
        head = stream.read(8)
        if path.suffix in _TORCH and not size:
            return "has no bytes"
        if head.startswith(_ZIP_START):
            stream.seek(max(0, size - _ZIP_TAIL))
            return None if _ZIP_END in stream.read() else "is cut: no end of the zip archive"
    if path.suffix == ".safetensors":
        return _safetensors_fault(path, size)
    return None


def _safetensors_fault(path: Path, size: int) -> str | None:
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= size - 8:
            return "is cut: the header is longer than the file"
        try:
            tensors = json.loads(stream.read(length))
            ends = [t["data_offsets"][1] for n, t in tensors.items() if n != "__metadata__"]
        except (ValueError, KeyError, TypeError, IndexError, AttributeError):
            return "has a header that cannot be read"
    return (
        None
        if max(ends, default=0) + 8 + length <= size
        else "is cut: a tensor ends behind the file"
    )


def _checkpoint(folder: Path, result: Mapping[str, object], at: float, checked: str) -> Checkpoint:
    given = result.get("metrics")
    metrics = {
        str(k): float(v)
        for k, v in (given.items() if isinstance(given, dict) else ())
        if isinstance(v, (int, float)) and not isinstance(v, bool) and math.isfinite(v)
    }
    step = next((int(metrics[k]) for k in STEP_KEYS if k in metrics), None)
    path = folder / str(result["checkpoint_dir_name"])
    return Checkpoint(
        str(path), step, whole=True, checked=f"{checked}; every file whole", at=at, metrics=metrics
    )
