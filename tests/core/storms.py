"""Lines as they come in storms, for tests: every format, copies of several processes, tracebacks, lines that go on."""

from hypothesis import strategies as st

GCS = (
    "[2026-11-24 12:00:0{n},123 W 10 10] (gcs_server) gcs_worker_manager.cc:70: Reporting worker exit, worker id = "
    "{n:056x}, node id = aa, address = 127.0.0.1, exit_type = SYSTEM_ERROR, exit_detail = Worker unexpectedly exits"
)
OOM = "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate {n}.00 GiB."
PIECES = [
    OOM,
    OOM,
    "rank {n}: " + OOM,
    GCS,
    GCS + " with a connection error code 2.",
    GCS.replace("Worker unexpectedly exits", "Worker exits with an exit code {n}."),
    "[2026-11-24 12:00:0{n},5 I 10 10] (raylet) main.cc:1: healthy",
    "2026-11-24 12:00:0{n},007\tINFO worker.py:1 -- healthy",
    "2026-11-24 12:00:0{n},007\tERROR worker.py:1 -- " + OOM,
    "healthy {n}",
    "  indented",
    "",
    "\ttab",
    "Traceback (most recent call last):",
    '  File "x.py", line {n}, in f',
    "ValueError: {n}",
    "RuntimeError: " + OOM,
    "During handling of the above exception, another exception occurred:",
    "The above exception was the direct cause of the following exception:",
    '{{"asctime": "2026-11-24 12:00:0{n},123", "levelname": "ERROR", "message": "'
    + OOM
    + '", "world_rank": {n}}}',
    '{{"levelname": "INFO", "message": "healthy"}}',
    "(RayTrainWorker pid=1{n}, ip=10.0.0.{n}) " + OOM,
    "(RayTrainWorker pid=1{n}, ip=10.0.0.{n}) healthy",
    "(RayTrainWorker pid=1{n}, ip=10.0.0.{n})   File x",
    "(RayTrainWorker pid=1{n}, ip=10.0.0.{n}) Traceback (most recent call last):",
    "\x1b[36m(train pid={n})\x1b[0m [rank{n}]: " + OOM,
    "\x1b[31m" + OOM + "\x1b[0m",
    "[rank{n}]: Traceback (most recent call last):",
    "[rank{n}]:   File x",
    "[rank{n}]: " + OOM,
    "ray.exceptions.RayTaskError(OutOfMemoryError): ray::f() (pid={n}, ip=10.0.0.{n})",
    "ray::f() (pid={n}, ip=10.0.0.{n})",
    "[Rank {n} Error Snippet]:",
    "  + Exception Group Traceback (most recent call last):",
    "  | " + OOM,
    "    +------------------------------------",
    "[1,{n}]<stderr>: " + OOM,
    "[1,{n}]<stderr>:Traceback (most recent call last):",
    "(Map(f, x=[{n}])->Write pid={n}, ip=10.0.0.{n}) " + OOM,
    "(train pid={n}) 2026-11-24 12:00:0{n},007\tERROR worker.py:1 -- " + OOM,
    "Memory cgroup out of memory: Killed process {n} (python)",
    "cut\r\tin the middle\r",
    "\ufffd\x00 odd",
]


def _texts(pieces: list[str]) -> st.SearchStrategy[bytes]:
    lines = st.builds(
        lambda piece, n, times: [piece.format(n=n)] * times,
        st.sampled_from(pieces),
        st.integers(0, 3),
        st.sampled_from([1, 1, 1, 2, 5]),
    )
    return st.lists(lines, max_size=25).map(
        lambda parts: "".join(f"{line}\n" for part in parts for line in part).encode()
    )


TEXTS = _texts(PIECES)
# Where several processes share a file, a record that another one's line follows is taken as whole at a block's end.
TEXTS_OF_ONE = _texts([p for p in PIECES if not p.startswith(("(", "[rank", "[1,", "\x1b[36m"))])
NAMES = [
    "gcs_server.out",
    "raylet.out",
    f"worker-{7:056x}-ffffffff-12.err",
    "job-driver-raysubmit_1.log",
    "train/ray-train-app-worker-" + "a" * 56 + ".log",
    "driver.log",
    "pasted.txt",
]
