"""Find the newest checkpoint of a Ray Train run and prove that it is whole. Local disk.

Ray Train v2 keeps `<storage>/<name>/checkpoint_manager_snapshot.json`; what it does not list is not committed, and the
newest folder on the disk is often an orphan (reference/train.md, trap 7). v1 keeps `result.json` in a trial folder.
"""

from __future__ import annotations

import json
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from functools import lru_cache
from itertools import islice
from pathlib import Path
from typing import NamedTuple

from raywatch.model import Checkpoint, CheckpointProblem

SNAPSHOT = "checkpoint_manager_snapshot.json"
TRIES = 5  # the snapshot is written in place: a reader can see half of it
TRY_PAUSE_S = 0.05
STEP_KEYS = ("global_step", "step", "training_iteration", "iteration", "epoch")
_ZIP_START, _ZIP_END, _ZIP_TAIL = b"PK\x03\x04", b"PK\x05\x06", 65_557
_TORCH = (".pt", ".pth", ".ckpt", ".bin")
_INDEX = (".safetensors.index.json", ".bin.index.json")
MAX_FILES = 10_000  # of a checkpoint that a log line names: it may name a whole disk
_FOLDER = re.compile(r"[^/\0]{1,255}")
_HUGE = 1e308  # keeps nan, inf and integers without end out
MAX_JSON = 16 << 20  # a larger one is believed
MAX_PROVED = 20_000  # files


class Found(NamedTuple):
    """The checkpoint to go on from, or what is wrong with it, and the newest whole one before it."""

    newest: Checkpoint | CheckpointProblem
    older: Checkpoint | None = None


def newest_whole(
    storage_path: str, run_name: str, *, pause: Callable[[float], None] = time.sleep
) -> Checkpoint | CheckpointProblem:
    """Return the checkpoint that Ray Train would resume from, if it is whole; else what is wrong. Never raises."""
    return look(storage_path, run_name, pause=pause).newest


def look(storage_path: str, run_name: str, *, pause: Callable[[float], None] = time.sleep) -> Found:
    """Return the checkpoint that Ray Train would resume from, and the one before it. Never raises.

    Without a `run_name` the path itself is a checkpoint: one that the log of a run outside Ray Train names.
    Reads every torch file's end, every file's head and every small JSON file, once as long as they do not change;
    takes seconds on a slow disk.
    """
    if "://" in storage_path and not storage_path.startswith("file://"):
        return Found(CheckpointProblem("remote", f"{storage_path} is object storage"))
    try:
        folder = Path(storage_path.removeprefix("file://")).expanduser() / run_name
        if not run_name:
            return Found(_of_path(folder))
        if (folder / SNAPSHOT).exists():
            return _of_v2(folder, pause)
        trials = sorted(folder.glob("*/result.json"), key=lambda p: p.stat().st_mtime)
        if trials:
            return _of_v1(trials[-1])
        return Found(CheckpointProblem("missing", f"no snapshot in {folder}"))
    # RuntimeError: ~nobody, a hostile depth; OverflowError: a hostile number; ValueError: a NUL in a path
    except (OSError, RuntimeError, ValueError, OverflowError) as error:
        return Found(CheckpointProblem("unreadable", str(error)))


def _of_path(path: Path) -> Checkpoint | CheckpointProblem:
    """Prove what is at a path; one that is not there may lie on another machine, so that says little."""
    if not path.exists():
        return CheckpointProblem("missing", f"{path} is not there, or lies on another machine")
    if not (path.is_dir() or path.is_file()):  # a pipe would hold who opens it
        return CheckpointProblem("unreadable", f"{path} is neither a file nor a folder")
    if len(list(islice(path.rglob("*"), MAX_FILES + 1))) > MAX_FILES:
        return CheckpointProblem("unreadable", f"{path} holds more than {MAX_FILES} files")
    result = {"checkpoint_dir_name": path.name}
    fault = _fault(path.parent, result) if path.is_dir() else _file_fault(path)
    if fault is not None:
        return CheckpointProblem("corrupt", fault)
    return _checkpoint(path.parent, result, path.stat().st_mtime, "named by its log")


def _of_v2(folder: Path, pause: Callable[[float], None]) -> Found:
    path = folder / SNAPSHOT
    snapshot = _parsed(path, pause)
    if snapshot is None:
        return Found(
            CheckpointProblem(
                "torn", f"{path} is no JSON, read {TRIES} times; it is not rewritten by itself"
            )
        )
    latest = snapshot.get("latest_checkpoint_result")
    if not isinstance(latest, dict):
        return Found(CheckpointProblem("missing", f"{path} lists no checkpoint yet"))
    at = path.stat().st_mtime
    before = (r for r in _before(snapshot, latest) if _fault(folder, r) is None)
    row = next(before, None)
    older = _checkpoint(folder, row, at, "listed in the snapshot") if row else None
    fault = _fault(folder, latest)
    if fault is None:
        return Found(_checkpoint(folder, latest, at, "listed as the latest in the snapshot"), older)
    hint = f"; {Path(older.path).name} before it is whole" if older else ""
    return Found(CheckpointProblem("corrupt", fault + hint), older)


def _before(
    snapshot: Mapping[str, object], latest: Mapping[str, object]
) -> list[Mapping[str, object]]:
    """Return what was registered before the latest, newest first.

    The list itself may be sorted by score; report indices count as registered (Ray 2.55 and later).
    """
    results, indices = snapshot.get("checkpoint_results"), snapshot.get("checkpoint_report_indices")
    listed = results if isinstance(results, list) else []
    known = isinstance(indices, list) and len(indices) == len(listed)
    order = (
        [i for i in indices if isinstance(i, int)] if known and isinstance(indices, list) else []
    )
    if len(order) != len(listed):
        order = list(range(len(listed)))
    ranked = sorted(zip(order, listed, strict=True), key=lambda pair: pair[0], reverse=True)
    name = latest.get("checkpoint_dir_name")
    rows = [r for _, r in ranked if isinstance(r, dict)]
    return [r for r in rows if r.get("checkpoint_dir_name") != name]


def _parsed(path: Path, pause: Callable[[float], None]) -> dict[str, object] | None:
    for turn in range(TRIES):
        try:
            found = json.loads(path.read_bytes())
        except (ValueError, RecursionError):
            if turn + 1 < TRIES:
                pause(TRY_PAUSE_S)
            continue
        return found if isinstance(found, dict) else None
    return None


def _of_v1(results: Path) -> Found:
    folder, at = results.parent, results.stat().st_mtime
    named = [
        {"checkpoint_dir_name": row["checkpoint_dir_name"], "metrics": row}
        for row in _rows(results)
        if row.get("checkpoint_dir_name")
    ]
    whole = (
        _checkpoint(folder, row, at, f"listed in {results.name}")
        for row in reversed(named)
        if _fault(folder, row) is None
    )
    newest = next(whole, None)
    if newest is None:
        problem = f"{results} names no checkpoint that is whole"
        return Found(CheckpointProblem("missing", problem))
    return Found(newest, next(whole, None))


def _rows(path: Path) -> Iterator[dict[str, object]]:
    for line in path.read_bytes().splitlines():
        try:
            row = json.loads(line)
        except (ValueError, RecursionError):  # the last line may still be written
            continue
        if isinstance(row, dict):
            yield row


def _fault(folder: Path, result: Mapping[str, object]) -> str | None:
    """Return what is wrong with a checkpoint's folder, None if nothing is."""
    name = result.get("checkpoint_dir_name")
    if not isinstance(name, str) or not _FOLDER.fullmatch(name) or name in (".", ".."):
        return f"{folder}: {str(name)[:200]!r} is no folder name"
    path = folder / name
    if not path.is_dir():
        return f"{path} is not there"
    files = [p for p in path.rglob("*") if p.is_file()]
    if not files:
        return f"{path} is empty"
    found = (f"{p}: {why}" for p in files if (why := _file_fault(p)))
    return next(found, None) or _parts_fault(files)


def _parts_fault(files: Sequence[Path]) -> str | None:
    """torch.distributed.checkpoint writes `.metadata` last: shards without it are half a checkpoint."""
    for shard in files:
        if shard.suffix == ".distcp" and not (shard.parent / ".metadata").is_file():
            return f"{shard.parent} has shards and no .metadata"
    return None


def _file_fault(path: Path) -> str | None:
    seen = path.stat()
    if path.name.endswith(_INDEX):  # says of other files what may change with them
        return _index_fault(path)
    return _content_fault(str(path), seen.st_size, seen.st_mtime_ns, seen.st_ino)


@lru_cache(maxsize=MAX_PROVED)
def _content_fault(name: str, size: int, _changed_ns: int, _inode: int) -> str | None:
    """Read a file once as long as it stays what it is: a run is looked at every few seconds."""
    path = Path(name)
    with path.open("rb") as stream:
        head = stream.read(8)
        if path.suffix in (*_TORCH, ".json", ".distcp") and not size:
            return "has no bytes"
        if head.startswith(_ZIP_START):
            stream.seek(max(0, size - _ZIP_TAIL))
            return None if _ZIP_END in stream.read() else "is cut: no end of the zip archive"
    if path.suffix == ".safetensors":
        return _safetensors_fault(path, size)
    return _json_fault(path, size) if path.suffix == ".json" else None


def _json_fault(path: Path, size: int) -> str | None:
    if size > MAX_JSON:
        return None
    try:
        json.loads(path.read_bytes())
    except json.JSONDecodeError as error:
        # Several documents in one file are no cut one.
        return None if error.msg == "Extra data" else f"is cut or no JSON: {error}"
    except (ValueError, RecursionError) as error:
        return f"cannot be read: {error}"[:200]
    return None


def _index_fault(path: Path) -> str | None:
    """A sharded checkpoint (Hugging Face) lists its files."""
    try:
        index = json.loads(path.read_bytes())
        files = set(index["weight_map"].values())
    except (ValueError, RecursionError, KeyError, TypeError, AttributeError):
        return "is an index that cannot be read"
    for name in sorted(map(str, files)):
        if Path(name).is_absolute() or ".." in Path(name).parts:
            return f"names {name[:200]!r}, outside of the checkpoint"
        if not (path.parent / name).is_file():
            return f"names {name[:200]!r}, which is not there"
    return None


def _safetensors_fault(path: Path, size: int) -> str | None:
    with path.open("rb") as stream:
        length = int.from_bytes(stream.read(8), "little")
        if not 0 < length <= size - 8:
            return "is cut: the header is longer than the file"
        try:
            tensors = json.loads(stream.read(length))
            ends = [t["data_offsets"][1] for n, t in tensors.items() if n != "__metadata__"]
            whole = max(ends, default=0) + 8 + length <= size
        except (ValueError, RecursionError, KeyError, TypeError, IndexError, AttributeError):
            return "has a header that cannot be read"
    return None if whole else "is cut: a tensor ends behind the file"


def _checkpoint(folder: Path, result: Mapping[str, object], at: float, checked: str) -> Checkpoint:
    given = result.get("metrics")
    metrics = {
        str(k): float(v)
        for k, v in (given.items() if isinstance(given, dict) else ())
        if isinstance(v, (int, float)) and not isinstance(v, bool) and abs(v) < _HUGE
    }
    step = next((int(metrics[k]) for k in STEP_KEYS if k in metrics), None)
    path = folder / str(result["checkpoint_dir_name"])
    return Checkpoint(
        str(path), step, whole=True, checked=f"{checked}; every file whole", at=at, metrics=metrics
    )
