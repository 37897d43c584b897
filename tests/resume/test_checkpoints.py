"""Which checkpoint a run goes on from, and whether it is whole."""

import io
import json
import os
import zipfile
from pathlib import Path

import pytest

from raywatch.model import Checkpoint, CheckpointProblem
from raywatch.resume.checkpoints import SNAPSHOT, look, newest_whole

INDEX = "model.safetensors.index.json"
HEADER = json.dumps({"w": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
TENSORS = len(HEADER).to_bytes(8, "little") + HEADER + b"1234"
SHARDS = {"metadata": {}, "weight_map": {"a": "model-1.safetensors", "b": "model-2.safetensors"}}


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
        (
            {"trainer_state.json": b'{"global_step": 9, "log_history": [{"lo'},
            "trainer_state.json: is cut",
        ),
        ({"trainer_state.json": b""}, "no bytes"),
        ({"a.json": b'{"x": "\xc3'}, "cannot be read"),
        ({"a.json": b"[" * 100_000}, "a.json: "),
        (
            {INDEX: json.dumps(SHARDS).encode(), "model-1.safetensors": TENSORS},
            "'model-2.safetensors', which is not there",
        ),
        (
            {INDEX: json.dumps({"weight_map": {"w": "/etc/passwd"}}).encode()},
            "outside of the checkpoint",
        ),
        ({INDEX: json.dumps({"weight_map": {"w": "../x"}}).encode()}, "outside of the checkpoint"),
        ({INDEX: b'{"weight_map": {"w": "model-1.sa'}, "an index that cannot be read"),
        ({"__0_0.distcp": b"x"}, "has shards and no .metadata"),
        ({"__0_0.distcp": b"", ".metadata": b"x"}, "no bytes"),
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


@pytest.mark.parametrize(
    "files",
    [
        {"metrics.json": b'{"loss": NaN, "best": -Infinity}'},
        {"log.json": b'{"step": 1}\n{"step": 2}\n'},  # a document a line
        {"config.json": b"\xef\xbb\xbf{}", "vocab.txt": b"", ".lock": b""},
        {"huge.json": b"[" + b"1," * (9 << 20)},  # too large to be parsed every time: believed
        {
            INDEX: json.dumps(SHARDS).encode(),
            "model-1.safetensors": TENSORS,
            "model-2.safetensors": TENSORS,
        },
        {"shard/__0_0.distcp": b"x", "shard/.metadata": b"x"},
    ],
)
def test_what_is_whole_is_not_called_corrupt(tmp_path, files):
    """A checkpoint that is refused wrongly costs the work since the one before."""
    make_run(tmp_path, [9])
    for name, data in files.items():
        path = tmp_path / "run" / "checkpoint_2026-11-23_07-42-09.000001" / name
        path.parent.mkdir(exist_ok=True)
        path.write_bytes(data)

    assert isinstance(newest_whole(str(tmp_path), "run"), Checkpoint)


def test_a_file_that_changes_is_read_anew(tmp_path):
    """Proofs are remembered as long as the file stays what it is."""
    make_run(tmp_path, [9], files={"a.json": b"[1]"})
    assert isinstance(newest_whole(str(tmp_path), "run"), Checkpoint)
    path = tmp_path / "run" / "checkpoint_2026-11-23_07-42-09.000001" / "a.json"
    path.write_bytes(b"[1,")
    assert isinstance(newest_whole(str(tmp_path), "run"), CheckpointProblem)
    path.write_bytes(b"[1,2]")
    assert isinstance(newest_whole(str(tmp_path), "run"), Checkpoint)


def older_step(folder):
    """The step of the checkpoint before the newest."""
    older = look(str(folder), "run").older
    return older.step if older else None


def test_the_newest_whole_one_before_the_latest_is_found_at_the_first_look(tmp_path):
    """Whether the latest itself is whole or not."""
    make_run(tmp_path, [1, 2, 3, 4])
    (tmp_path / "run" / "checkpoint_2026-11-23_07-42-03.000001" / "state.pt").write_bytes(b"")
    assert older_step(tmp_path) == 2
    (tmp_path / "run" / "checkpoint_2026-11-23_07-42-04.000001" / "state.pt").write_bytes(b"")
    found = look(str(tmp_path), "run")

    assert isinstance(found.newest, CheckpointProblem)
    assert older_step(tmp_path) == 2


def test_before_the_latest_is_what_was_registered_before_it(tmp_path):
    """The list is sorted by score where the user asked for it; the report indices are not."""
    make_run(tmp_path, [1, 2, 3, 4], latest=1)
    path = tmp_path / "run" / SNAPSHOT
    found = json.loads(path.read_text())
    path.write_text(json.dumps(found | {"checkpoint_report_indices": [9, 40, 30, 20]}))
    assert older_step(tmp_path) == 3
    path.write_text(json.dumps(found | {"checkpoint_report_indices": [1, "x", 3, 2]}))
    assert older_step(tmp_path) == 4  # as listed


def test_the_first_checkpoint_has_none_before_it(tmp_path):
    """Nothing is made up."""
    make_run(tmp_path, [4])
    assert older_step(tmp_path) is None


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"latest_checkpoint_result": ' + '{"a":' * 50_000,
        '{"checkpoint_report_indices": 3, "checkpoint_results": {}, "latest_checkpoint_result": {}}',
        '{"latest_checkpoint_result": {"checkpoint_dir_name": "a\\u0000b"}}',
        '{"latest_checkpoint_result": {"checkpoint_dir_name": "' + "x" * 5000 + '"}}',
    ],
)
def test_no_snapshot_whatever_raises(tmp_path, text):
    """It is text of others, on a disk of others."""
    make_run(tmp_path, [4])
    (tmp_path / "run" / SNAPSHOT).write_text(text)
    found = look(str(tmp_path), "run", pause=lambda _: None).newest

    assert isinstance(found, CheckpointProblem)
    assert found.reason in ("torn", "corrupt")  # both keep the run from being resumed by itself


def test_no_number_whatever_raises(tmp_path):
    """One that no float can hold is left out."""
    make_run(tmp_path, [4])
    path = tmp_path / "run" / SNAPSHOT
    path.write_text(path.read_text().replace('"loss": null', '"loss": 1' + "0" * 400))
    found = newest_whole(str(tmp_path), "run")

    assert isinstance(found, Checkpoint)
    assert found.metrics == {"step": 4.0}


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
    (trial / "checkpoint_000000").mkdir()
    (trial / "checkpoint_000000" / "state.pt").write_bytes(torch_file())
    rows = [
        {"training_iteration": i, "checkpoint_dir_name": f"checkpoint_{i:06}"} for i in range(3)
    ]
    (trial / "result.json").write_text("\n".join(map(json.dumps, rows)) + '\n{"training_it')
    found, older = look(f"file://{tmp_path}", "run")

    assert isinstance(found, Checkpoint)
    assert older is not None
    assert (found.step, older.step) == (1, 0)


@pytest.mark.parametrize(
    ("storage", "reason"),
    [
        ("s3://bucket/x", "remote"),
        ("/does/not/exist", "missing"),
        ("~nobody-of-that-name/x", "unreadable"),
    ],
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


def test_a_path_that_a_log_line_names_is_no_walk_over_a_disk(tmp_path, monkeypatch):
    """A pipe would hold who opens it, a disk full of files who counts them."""
    monkeypatch.setattr("raywatch.resume.checkpoints.MAX_FILES", 3)
    os.mkfifo(tmp_path / "pipe.pt")
    many = tmp_path / "many"
    many.mkdir()
    for number in range(4):
        (many / f"{number}.pt").write_bytes(torch_file())

    for path in (tmp_path / "pipe.pt", Path("/dev/zero"), many):
        found, _ = look(str(path), "")
        assert isinstance(found, CheckpointProblem), path
        assert found.reason == "unreadable"
