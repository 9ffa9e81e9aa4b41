"""Runs of archives of every kind, whose driver and worker are killed in the middle of each, equal the run of the files.

A kind of archives is an entry in `KINDS` (`tests/archives.py`).
"""

from __future__ import annotations

import io
import json
import signal
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from prelabel.storage.files import Storage
from prelabel.store.verify import verify
from tests.archives import KINDS
from tests.detectors.plugins.modules import GOOD, detector_code, write
from tests.e2e.command import Place, local_rows
from tests.s3 import S3Server

pytestmark = pytest.mark.slow

#: Images of an archive, and of a shard: some shards begin in one archive and end in the next.
IMAGES, SHARD = 10, 4

#: The image at which a process is killed, and those that are no images: text, and an empty file.
KILLS, TEXT, EMPTY = 5, 3, 7


#: The pixel at the top left tells archive and image. An order is a file, and is carried out once.
OBEYS = f"""
        order = ORDERS / "-".join(map(str, pixels[0, 0]))
        if order.exists():
            victim = order.read_text()
            order.unlink()
            os.kill(os.getppid() if victim == "driver" else os.getpid(), signal.SIGKILL)
            time.sleep(60)
        {GOOD}
"""


def add_photos(folder: Path) -> dict[str, dict[str, bytes]]:
    """Write a folder of files for each archive, and return their contents."""
    photos: dict[str, dict[str, bytes]] = {}
    for number, archive in enumerate(KINDS):
        (folder / archive).mkdir(parents=True)
        photos[archive] = {}
        for image in range(IMAGES):
            pixels = np.zeros((5, 9, 3), np.uint8)
            pixels[0, 0] = number, image, 0
            pixels[1 + number % 4, 1 + image % 8] = 255
            file = io.BytesIO()
            Image.fromarray(pixels).save(file, "PNG")
            data = {TEXT: b"no image", EMPTY: b""}.get(image, file.getvalue())
            photos[archive][f"{image}.png"] = data
            (folder / archive / f"{image}.png").write_bytes(data)
    return photos


def test_killed_runs_of_archives_equal_the_run_of_the_files(s3_server: S3Server, place: Place, tmp_path: Path) -> None:
    photos, orders = add_photos(tmp_path / "photos"), tmp_path / "orders"
    orders.mkdir()
    bucket = s3_server.new_bucket()
    for name, files in photos.items():
        data = KINDS[name](files)
        (tmp_path / name).write_bytes(data)
        s3_server.put(bucket, name, data)
    head = f"import os, signal, time\nfrom pathlib import Path\nORDERS = Path({str(orders)!r})\n"
    write(tmp_path / "modules", killer=head + detector_code(OBEYS, batch_size=1))
    detector = ("--detector", "killer:Found", "--trust-model", "--image-column", "image", "--shard-size", str(SHARD))
    usual = (*detector, "--runner", "local", "--workers", "1", "--storage-options", json.dumps(s3_server.options))
    env: dict[str, Any] = {"PYTHONPATH": str(tmp_path / "modules")}
    result = place.run("label", str(tmp_path / "photos"), *usual, "--output", str(tmp_path / "files"), **env)
    assert result.returncode == 0, result.stderr
    expected = local_rows(tmp_path / "files")

    for root, victims in (str(tmp_path), ("driver", "worker")), (f"s3://{bucket}", ("worker", "driver")):
        for number in range(len(KINDS)):
            (orders / f"{number}-{KILLS}-0").write_text(victims[number % 2])
        output, log = tmp_path / f"from-{victims[0]}", tmp_path / "log"
        command = ("label", *(f"{root}/{name}" for name in KINDS), *usual, "--output", str(output))
        codes: list[int] = []
        while len(codes) <= len(KINDS) and (not codes or codes[-1] == -signal.SIGKILL):
            codes.append(place.start(*command, log=log, **env).wait(120))
        assert codes == [-signal.SIGKILL] * len(list(KINDS)[victims.index("driver") :: 2]) + [0], log.read_text()
        assert list(orders.iterdir()) == []

        assert verify(str(output), Storage()).problems == ()
        rows = local_rows(output)
        assert rows["status"].to_pylist().count("failed") == 2 * len(KINDS)
        names = ["image_id", "uri", "file_name", "location"]
        assert rows.drop_columns(names).equals(expected.drop_columns(names))
        for image_id, file_id in zip(rows["image_id"].to_pylist(), expected["image_id"].to_pylist(), strict=True):
            assert image_id == (file_id.removesuffix(".png") if ".parquet/" in file_id else file_id)
