"""A real S3 server on loopback for tests: moto's, in a process of its own."""

from __future__ import annotations

import subprocess
import sys
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import boto3

from tests.daemons import until
from tests.ray.cluster import free_ports

_DIRECT = urllib.request.build_opener(urllib.request.ProxyHandler({}))


class Server:
    """Buckets and objects; `environ` is what a client needs."""

    def __init__(self, port: int) -> None:
        self.url = f"http://127.0.0.1:{port}"
        self.environ = {
            "AWS_ENDPOINT_URL": self.url,
            "AWS_ACCESS_KEY_ID": "test",
            "AWS_SECRET_ACCESS_KEY": "test",
            "AWS_REGION": "us-east-1",
        }

        self._client = boto3.client(
            "s3",
            endpoint_url=self.url,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test",
        )

    def create(self, bucket: str) -> None:
        """Create a bucket."""
        self._client.create_bucket(Bucket=bucket)

    def put(self, path: str, data: bytes = b"") -> None:
        """Create or replace an object, `bucket/key`."""
        bucket, _, key = path.partition("/")
        self._client.put_object(Bucket=bucket, Key=key, Body=data)

    def put_folder(self, folder: Path, under: str) -> None:
        """Store every file of a folder."""
        for path in sorted(folder.rglob("*")):
            if path.is_file():
                self.put(f"{under}/{path.relative_to(folder)}", path.read_bytes())


@contextmanager
def s3_server(log: Path) -> Iterator[Server]:
    """Start one and end it."""
    (port,) = free_ports(1)
    server = Server(port)
    argv = [sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)]
    with log.open("wb") as out, subprocess.Popen(argv, stdout=out, stderr=out) as process:

        def answers() -> bool:
            assert process.poll() is None, log.read_text()
            try:
                _DIRECT.open(f"{server.url}/moto-api/", timeout=5).close()
            except OSError:
                return False
            return True

        try:
            until(answers, 60, "the S3 server answers")
            yield server
        finally:
            process.kill()
