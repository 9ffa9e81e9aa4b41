"""A server with the real S3 protocol (moto's) on loopback, in a separate process.

def test_something(s3_server):
    bucket = s3_server.new_bucket()
    s3_server.put(bucket, "photos/a.jpg", b"...")
    storage = Storage(s3_server.options)
    assert storage.read(f"s3://{bucket}/photos/a.jpg") == b"..."
"""

from __future__ import annotations

import itertools
import json
import subprocess
import sys
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import pytest

# It ends when the test process ends, which closes its standard input. Until then, every line of its input names a
# bucket to fill, which takes a fraction of the time of as many requests.
_SERVER = """
import json, logging, sys
logging.getLogger("werkzeug").setLevel(logging.ERROR)
from moto.s3.models import s3_backends
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
for line in sys.stdin:
    bucket, keys, data = json.loads(line)
    for key in keys:
        s3_backends["123456789012"]["aws"].put_object(bucket, key, data.encode("latin-1"))
    print("filled", flush=True)
"""


@dataclass(frozen=True)
class S3Server:
    """The address of the server, and the options with which `Storage` and `s3fs` reach it."""

    endpoint: str
    _process: subprocess.Popen[bytes] = field(repr=False)
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1), repr=False)
    _clients: list[Any] = field(default_factory=list, repr=False)

    @property
    def options(self) -> dict[str, Any]:
        """Storage options, as given with `--storage-options`."""
        return {
            "key": "test",
            "secret": "test-secret",
            "client_kwargs": {"endpoint_url": self.endpoint, "region_name": "us-east-1"},
        }

    def client(self) -> Any:
        """A botocore client, with which a test accesses the server without the code that it tests."""
        import botocore.session

        if self._clients:
            return self._clients[0]
        client = botocore.session.get_session().create_client(
            "s3",
            endpoint_url=self.endpoint,
            region_name="us-east-1",
            aws_access_key_id="test",
            aws_secret_access_key="test-secret",
        )
        self._clients.append(client)
        return client

    def new_bucket(self) -> str:
        """The name of a new, empty bucket; tests do not share buckets."""
        name = f"bucket-{next(self._numbers)}"
        self.client().create_bucket(Bucket=name)
        return name

    def put(self, bucket: str, key: str, data: bytes) -> None:
        """Store one object."""
        self.client().put_object(Bucket=bucket, Key=key, Body=data)

    def fill(self, bucket: str, keys: Sequence[str], data: bytes) -> None:
        """Store many objects with the same content, without the protocol."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.write(json.dumps([bucket, list(keys), data.decode("latin-1")]).encode() + b"\n")
        self._process.stdin.flush()
        assert self._process.stdout.readline() == b"filled\n"


@contextmanager
def running_s3() -> Iterator[S3Server]:
    """A server on a free port of 127.0.0.1."""
    process = subprocess.Popen([sys.executable, "-c", _SERVER], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    assert process.stdin is not None
    assert process.stdout is not None
    try:
        port = process.stdout.readline().strip()
        assert port, f"the S3 server did not start (exit code {process.poll()})"
        yield S3Server(f"http://127.0.0.1:{int(port)}", process)
    finally:
        process.stdin.close()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        process.stdout.close()


@pytest.fixture(scope="session")
def s3_server() -> Iterator[S3Server]:
    """One server for the whole test run."""
    with running_s3() as server:
        yield server
