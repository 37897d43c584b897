"""A real cluster with a real autoscaler, v1 or v2, on one machine: its cloud is a class that starts raylets, or refuses."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Literal

from tests.ray.cluster import Cluster, start_head

WORKER = "cpu-worker"
_HEAD_ID = "f" * 51 + "00000"  # what the provider calls the head
_STARTS = "ray.autoscaler._private.fake_multi_node.node_provider.FakeMultiNodeProvider"
_REFUSES = """
from ray.autoscaler._private.fake_multi_node.node_provider import FakeMultiNodeProvider
from ray.autoscaler.node_launch_exception import NodeLaunchException


class Refusing(FakeMultiNodeProvider):
    def create_node_with_resources_and_labels(self, *_args):
        raise NodeLaunchException("{code}", "{words}", None)
"""


def start_autoscaled(
    temp_dir: Path,
    autoscaler: Literal["v1", "v2"],
    *,
    refuses: tuple[str, str] | None = None,
    max_workers: int = 3,
    environ: Mapping[str, str] | None = None,
) -> Cluster:
    """Start a head of one CPU, whose autoscaler may add workers of two.

    `refuses`: the code and the words with which the cloud refuses every launch.
    """
    told = {"AUTOSCALER_UPDATE_INTERVAL_S": "1", "RAY_FAKE_CLUSTER": "1", **(environ or {})}
    told |= {"RAY_OVERRIDE_NODE_ID_FOR_TESTING": _HEAD_ID}
    module = _STARTS
    if refuses:
        folder = temp_dir.with_name(temp_dir.name + "-cloud")
        folder.mkdir()
        code, words = refuses
        (folder / "refusing_cloud.py").write_text(_REFUSES.format(code=code, words=words))
        told["PYTHONPATH"] = str(folder)
        module = "refusing_cloud.Refusing"
    if autoscaler == "v2":
        told |= {"RAY_enable_autoscaler_v2": "1", "RAY_CLOUD_INSTANCE_ID": _HEAD_ID}
        told["RAY_NODE_TYPE_NAME"] = "ray.head.default"
    types = {
        "ray.head.default": {"resources": {"CPU": 1}, "node_config": {}, "max_workers": 0},
        WORKER: {
            "resources": {"CPU": 2, "object_store_memory": 80_000_000},
            "node_config": {},
            "min_workers": 0,
            "max_workers": max_workers,
        },
    }
    config: dict[str, object] = {
        "provider": {
            "type": "external",
            "module": module,
            "launch_multiple": autoscaler == "v2",
            "use_node_id_as_ip": True,
            "head_node_id": _HEAD_ID,
        },
        "available_node_types": types,
        **_PLAIN,
    }
    return start_head(temp_dir, num_cpus=1, environ=told, autoscaling=config)


_PLAIN: dict[str, object] = {
    "cluster_name": "autoscaled",
    "max_workers": 8,
    "head_node_type": "ray.head.default",
    "idle_timeout_minutes": 0.5,
    "upscaling_speed": 1.0,
    "auth": {},
    "docker": {},
    "initialization_commands": [],
    "setup_commands": [],
    "head_setup_commands": [],
    "worker_setup_commands": [],
    "head_start_ray_commands": [],
    "worker_start_ray_commands": [],
    "file_mounts": {},
    "cluster_synced_files": [],
    "file_mounts_sync_continuously": False,
    "rsync_exclude": [],
    "rsync_filter": [],
}
