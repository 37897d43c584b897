"""Which file systems hide what others write: by the table of mounts (proc(5))."""

import pytest

from raywatch.collect.mounts import mounts, shared_type
from raywatch.collect.wake import Waker

TABLE = r"""22 1 254:0 / / rw,relatime shared:1 - ext4 /dev/vda rw
30 22 0:25 / /tmp rw - tmpfs tmpfs rw
31 30 0:26 / /tmp/ray rw,relatime shared:9 master:1 - nfs4 server:/ray rw,vers=4.2
32 31 0:27 / /tmp/ray/local\040disk rw - xfs /dev/vdb rw
33 22 0:28 / /mnt/s3 rw - fuse.s3fs s3fs rw
34 22 0:29 / /over rw - overlay overlay rw
35 22 0:30 / /twice rw - ext4 /dev/vdc rw
36 22 0:31 / /twice rw - 9p share rw
no mount at all
"""


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        ("/tmp/ray/session_1/logs", "nfs4"),
        ("/tmp/ray", "nfs4"),
        ("/tmp/rays", ""),
        ("/tmp/ray/local disk/logs", ""),
        ("/mnt/s3/logs", "fuse.s3fs"),
        ("/over/logs", ""),
        ("/twice/logs", "9p"),
        ("/home", ""),
    ],
)
def test_the_mount_that_holds_a_path_decides(path, kind):
    """The longest one above it, of equal ones the last."""
    assert shared_type(path, TABLE) == kind


def test_this_machine_has_mounts():
    """The table is where it is looked for, and has the root."""
    assert " / " in mounts()


def test_a_shared_file_system_is_polled_and_said(tmp_path):
    """What is written here still wakes at once."""
    table = f"22 1 0:25 / {tmp_path} rw - nfs4 server:/ray rw\n"
    waker = Waker(mounts=lambda: table)
    try:
        waker.watch([tmp_path])
        (tmp_path / "a.out").write_text("one\n")

        assert (waker.mode, waker.reason) == ("poll", "nfs4 does not tell what others write")
        assert str(tmp_path / "a.out") in waker.wait(3.0).paths()
    finally:
        waker.close()
