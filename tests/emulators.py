"""Object stores on loopback, each in a separate process: moto for S3, Azurite, and gcp-storage-emulator.

The last two have environments of their own, which `make test-tools-setup` makes.
"""

from __future__ import annotations

import itertools
import os
import random
import shutil
import socket
import subprocess
import time
import urllib.request
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.s3 import S3Server
from tests.tools.environment import missing

ROOT = Path(__file__).parents[1]
AZURITE = ROOT / ".azurite" / "node_modules" / "azurite" / "dist" / "src" / "blob" / "main.js"
GCS = ROOT / ".venv-emulators" / "bin" / "gcp-storage-emulator"

# The default account and key of Azurite.
_ACCOUNT = "devstoreaccount1"
_KEY = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="


@dataclass
class Emulator:
    """An object store: the options of `Storage` for it, and direct access for tests."""

    name: str
    protocol: str
    options: dict[str, Any]
    environment: dict[str, str] = field(default_factory=dict)
    knows_conditions: bool = True
    _numbers: Iterator[int] = field(default_factory=lambda: itertools.count(1))
    _s3: S3Server | None = None

    def new_bucket(self) -> str:
        """The URL of a new, empty bucket."""
        if self._s3 is not None:
            return f"s3://{self._s3.new_bucket()}"
        name = f"bucket-{os.getpid()}-{next(self._numbers)}"
        if self.protocol == "abfs":
            self.azure().create_container(name)
        else:
            request = urllib.request.Request(  # noqa: S310
                f"{self.options['gs']['endpoint_url']}/storage/v1/b?project=p",
                data=b'{"name": "%s"}' % name.encode(),
                headers={"Content-Type": "application/json"},
            )
            urllib.request.urlopen(request).close()  # noqa: S310
        return f"{self.protocol}://{name}"

    def azure(self) -> Any:
        """The SDK's own client."""
        from azure.storage.blob import BlobServiceClient

        return BlobServiceClient.from_connection_string(self.options["abfs"]["connection_string"])


def free_port() -> int:
    """A port on which nothing listens right now.

    It is below those that the system gives to programs that ask for any port: one of them could take it meanwhile.
    """
    while True:
        port = random.randrange(20_000, 32_000)
        try:
            with socket.create_server(("127.0.0.1", port)):
                return port
        except OSError:
            continue


@contextmanager
def _serving(command: list[str], port: int) -> Iterator[None]:
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE)
    try:
        deadline = time.monotonic() + 60
        while True:
            try:
                socket.create_connection(("127.0.0.1", port), 1).close()
                break
            except OSError:
                assert process.poll() is None, process.stderr and process.stderr.read().decode()[-500:]
                assert time.monotonic() < deadline, f"{command[0]} does not listen"
                time.sleep(0.1)
        yield
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait(10)
        assert process.stderr is not None
        process.stderr.close()


@contextmanager
def running_azurite() -> Iterator[Emulator]:
    """Azurite's blob service, in memory, without telemetry."""
    if not AZURITE.exists() or shutil.which("node") is None:
        missing("Azurite is not installed: make test-tools-setup")
    port = free_port()
    options = ["--blobHost", "127.0.0.1", "--blobPort", str(port), "--inMemoryPersistence", "--disableTelemetry"]
    with _serving(["node", str(AZURITE), *options, "--skipApiVersionCheck", "--silent"], port):
        text = (
            f"DefaultEndpointsProtocol=http;AccountName={_ACCOUNT};AccountKey={_KEY};"
            f"BlobEndpoint=http://127.0.0.1:{port}/{_ACCOUNT};"
        )
        yield Emulator("azure", "abfs", {"abfs": {"connection_string": text}})


@contextmanager
def running_gcs(port: int = 0) -> Iterator[Emulator]:
    """gcp-storage-emulator, in memory; it ignores preconditions and returns every listing as one page."""
    if not GCS.exists():
        missing("gcp-storage-emulator is not installed: make test-tools-setup")
    port = port or free_port()
    with _serving([str(GCS), "start", "--host", "127.0.0.1", "--port", str(port), "--in-memory", "--quiet"], port):
        address = f"http://127.0.0.1:{port}"
        yield Emulator(
            "gcs",
            "gs",
            {"gs": {"endpoint_url": address, "token": "anon"}},
            environment={"STORAGE_EMULATOR_HOST": address},
            knows_conditions=False,
        )


def of_s3(server: S3Server) -> Emulator:
    """The S3 server of the other tests, with the same interface."""
    return Emulator("s3", "s3", {"s3": server.options}, _s3=server)
