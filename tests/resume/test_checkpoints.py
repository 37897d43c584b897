"""Which checkpoint a run goes on from, and whether it is whole."""

import io
import json
import zipfile

import pytest

from raywatch.model import Checkpoint, CheckpointProblem
from raywatch.resume.checkpoints import SNAPSHOT, newest_whole


def torch_file(cut: bool = False) -> bytes:
    """What torch.save writes is a zip archive."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        archive.writestr("archive/data.pkl", b"x" * 1000)
    return out.getvalue()[:500] if cut else out.getvalue()


def make_run(folder, steps, *, latest=None, files=None):
    """A Ray Train v2 experiment folder as 2.60 writes it."""
    rows = []
    for step in steps:
        name = f"checkpoint_2026-11-23_07-42-{step:02}.000001"
        (folder / "run" / name).mkdir(parents=True)
        for file, data in (files or {"state.pt": torch_file()}).items():
            (folder / "run" / name / file).write_bytes(data)
        rows.append(
            {"version": 0, "checkpoint_dir_name": name, "metrics": {"step": step, "loss": None}}
        )
    found = {
        "ray_version": "2.60.0",
        "checkpoint_results": rows,
        "latest_checkpoint_result": rows[-1 if latest is None else latest] if rows else None,
    }
    (folder / "run").mkdir(exist_ok=True)
    (folder / "run" / SNAPSHOT).write_text(json.dumps(found))
    return rows


def test_the_snapshot_decides_and_not_the_newest_folder(tmp_path):
    """A newer folder that is not listed is an orphan."""
    make_run(tmp_path, [4, 9])
    (tmp_path / "run" / "checkpoint_2026-11-23_08-00-00.000001").mkdir()
    found = newest_whole(str(tmp_path), "run")

    assert isinstance(found, Checkpoint)
    assert (found.step, found.whole) == (9, True)


def test_a_torn_snapshot_is_read_again(tmp_path):
    """It is written in place: a half of it is not corruption."""
    make_run(tmp_path, [4])
    path = tmp_path / "run" / SNAPSHOT
    whole = path.read_text()
    path.write_text(whole[:50])

    assert isinstance(
        newest_whole(str(tmp_path), "run", pause=lambda _: path.write_text(whole)), Checkpoint
    )


def test_a_snapshot_that_stays_torn_is_a_problem_and_is_left_alone(tmp_path):
    """raywatch never rewrites it."""
    make_run(tmp_path, [4])
    path = tmp_path / "run" / SNAPSHOT
    path.write_text(path.read_text()[:50])
    before = path.read_bytes()
    found = newest_whole(str(tmp_path), "run", pause=lambda _: None)

    assert isinstance(found, CheckpointProblem)
    assert found.reason == "torn"
    assert path.read_bytes() == before


@pytest.mark.parametrize(
    ("files", "why"),
    [
        ({"state.pt": torch_file(cut=True)}, "is cut"),
        ({"state.pt": b""}, "no bytes"),
        ({"m.safetensors": (10**6).to_bytes(8, "little") + b"{}"}, "is cut"),
        ({"m.safetensors": (2).to_bytes(8, "little") + b"[]"}, "cannot be read"),
    ],
)
def test_a_cut_file_makes_a_checkpoint_corrupt(tmp_path, files, why):
    """And it says which file, and that the one before is whole."""
    make_run(tmp_path, [4, 9])
    for name, data in files.items():
        (tmp_path / "run" / "checkpoint_2026-11-23_07-42-09.000001" / name).write_bytes(data)
    found = newest_whole(str(tmp_path), "run")

    assert isinstance(found, CheckpointProblem)
    assert found.reason == "corrupt"
    assert why in found.detail
    assert "07-42-04.000001 before it is whole" in found.detail


def test_a_listed_folder_that_is_gone_or_empty_is_corrupt(tmp_path):
    """Listed is not enough."""
    make_run(tmp_path, [4], files={})
    for file in (tmp_path / "run" / "checkpoint_2026-11-23_07-42-04.000001").iterdir():
        file.unlink()

    assert newest_whole(str(tmp_path), "run").reason == "corrupt"  # type: ignore[union-attr]


def test_whole_safetensors_pass(tmp_path):
    """A header that fits its file."""
    header = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    make_run(
        tmp_path, [4], files={"m.safetensors": len(header).to_bytes(8, "little") + header + b"1234"}
    )

    assert isinstance(newest_whole(str(tmp_path), "run"), Checkpoint)


def test_train_v1_lists_its_checkpoints_in_result_json(tmp_path):
    """The last row may be half written, the last listed folder may be gone."""
    trial = tmp_path / "run" / "TorchTrainer_ab_00000_0"
    (trial / "checkpoint_000001").mkdir(parents=True)
    (trial / "checkpoint_000001" / "state.pt").write_bytes(torch_file())
    rows = [{"training_iteration": i, "checkpoint_dir_name": f"checkpoint_{i:06}"} for i in (1, 2)]
    (trial / "result.json").write_text("\n".join(map(json.dumps, rows)) + '\n{"training_it')
    found = newest_whole(f"file://{tmp_path}", "run")

    assert isinstance(found, Checkpoint)
    assert found.step == 1


@pytest.mark.parametrize(
    ("storage", "reason"), [("s3://bucket/x", "remote"), ("/does/not/exist", "missing")]
)
def test_what_cannot_be_read_is_said(storage, reason):
    """Never a guess."""
    assert newest_whole(storage, "run").reason == reason  # type: ignore[union-attr]


def test_a_folder_name_from_the_snapshot_never_leaves_the_run(tmp_path):
    """The snapshot is text of others."""
    make_run(tmp_path, [4])
    path = tmp_path / "run" / SNAPSHOT
    path.write_text(path.read_text().replace("checkpoint_2026-11-23_07-42-04.000001", "../../etc"))

    assert newest_whole(str(tmp_path), "run").reason == "corrupt"  # type: ignore[union-attr]
