"""A whole daemon beside a job that is no Ray Train: a plain loop's output tells its step, and from where it goes on."""

import json
import subprocess
import sys
import zipfile

from tests.daemons import DaemonProcess, make_session, until
from tests.fakeray import FakeRay

CONFIG = """
[ray]
dashboard = "{url}"
[[run]]
name = "loop"
match = "raysubmit_*"
framework = "plain"
step = 'batch=(?P<step>\\d+)'
storage = "{storage}"
[[resume]]
run = "loop"
mode = "auto"
hook = {{kind = "command", argv = ["sh", "-c", "echo $RAYWATCH_RUN $RAYWATCH_STEP $RAYWATCH_CHECKPOINT >> $0", "{fired}"]}}
"""


def test_a_plain_loop_is_followed_and_started_again_from_its_checkpoint(tmp_path):
    """Its own expression gives the step; the file that a preset's line names is proved; the hook is told both."""
    logs, storage, fired = make_session(tmp_path / "ray"), tmp_path / "saved", tmp_path / "fired"
    storage.mkdir()
    with zipfile.ZipFile(storage / "step_40.pt", "w") as out:
        out.writestr("data.pkl", "weights")
    config = tmp_path / "raywatch.toml"
    with FakeRay() as ray:
        ray.job |= {"entrypoint": "horovodrun -np 1 python train.py"}
        config.write_text(CONFIG.format(url=ray.url, storage=storage, fired=fired))
        daemon = DaemonProcess(tmp_path / "ray", tmp_path / "state", "--config", str(config))

        def run():
            return next(iter(json.loads(daemon.get("/api/v1/runs")[1])["runs"]), {})

        try:
            until(lambda: run().get("name") == "loop", 20, "the job is the declared run")
            with (logs / "job-driver-raysubmit_1.log").open("a") as log:
                log.write("".join(f"[0]<stdout>:batch={n} loss 0.1\n" for n in range(500)))
                log.write("saved checkpoint to step_40.pt\nbatch=512 loss 0.1\nready\n")
            until(lambda: run()["step"] == 512, 20, "the newest step")
            until(lambda: (run()["checkpoint"] or {}).get("whole"), 20, "the file was proved")
            story = subprocess.run(
                [sys.executable, "-m", "raywatch", "runs", "loop", "--url", daemon.url],
                capture_output=True,
                check=False,
                timeout=60,
            ).stdout.decode()
            ray.job |= {"driver_exit_code": 1}  # the launcher gave up: its ranks have ended
            ray.fail(logs)
            until(fired.exists, 30, "the hook ran")
        finally:
            daemon.kill()

    assert fired.read_text() == f"loop 40 {storage}/step_40.pt\n"
    assert "472 steps since the checkpoint" in story
    assert "raywatch starts it again" in story
