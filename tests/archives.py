"""Archives made in tests, and a web server that serves ranges, counts requests and answers late."""

from __future__ import annotations

import gzip
import io
import re
import tarfile
import threading
import time
import zipfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from urllib.parse import unquote, urlsplit

import pyarrow as pa
import pyarrow.parquet as pq

from tests.tfrecords import tfrecord_of


def tar_of(members: Mapping[str, bytes], form: int = tarfile.GNU_FORMAT) -> bytes:
    """A tar archive with these files, in this order, written by the standard library."""
    stream = io.BytesIO()
    with tarfile.open(fileobj=stream, mode="w", format=form) as archive:
        for name, data in members.items():
            header = tarfile.TarInfo(name)
            header.size = len(data)
            archive.addfile(header, io.BytesIO(data))
    return stream.getvalue()


def compressed(data: bytes, compression: str) -> bytes:
    """The data compressed, in two parts that follow each other, as parallel compressors write them."""
    half = len(data) // 2
    if compression == "gzip":
        return gzip.compress(data[:half]) + gzip.compress(data[half:])
    codec = pa.Codec(compression)
    return b"".join(codec.compress(part, asbytes=True) for part in (data[:half], data[half:]))


def zip_of(files: Mapping[str, bytes], method: int = zipfile.ZIP_DEFLATED, comment: bytes = b"") -> bytes:
    """A ZIP archive with these files, in this order, written by the standard library."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", method) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
        archive.comment = comment
    return stream.getvalue()


def _parquet_of(column: pa.Array, **others: pa.Array) -> bytes:
    stream = io.BytesIO()
    pq.write_table(pa.table({"image": column, **others}), stream, row_group_size=3)
    return stream.getvalue()


def _structs_of(files: Mapping[str, bytes]) -> bytes:
    """As Hugging Face's `datasets` writes images."""
    return _parquet_of(pa.array([{"bytes": data, "path": name} for name, data in files.items()]))


def _columns_of(files: Mapping[str, bytes]) -> bytes:
    """Two columns of images, of which `--image-column` names one."""
    return _parquet_of(pa.array(files.values()), thumbnail=pa.array([b""] * len(files)))


#: Names of archives of every kind, and what packs files into them. `image` is the column with the images.
KINDS: dict[str, Callable[[Mapping[str, bytes]], bytes]] = {
    "0.tar": tar_of,
    "1.tar.gz": lambda files: compressed(tar_of(files), "gzip"),
    "2.tar.zst": lambda files: compressed(tar_of(files), "zstd"),
    "3.zip": zip_of,
    "4.parquet": _structs_of,
    "5.parquet": _columns_of,
    "6.tfrecord": lambda files: tfrecord_of(files, ("image", "image/filename")),
}


class RangedWeb:
    """Serves a folder with ranges and ETags.

    Attributes:
        url: Address of the folder.
        requests: Path and `Range` of each request.
        delay_s: Seconds before each response.
        ranges: Whether ranges are served; otherwise every response is the complete file.
        cut: Bytes after which a response breaks off, the next one only.
    """

    def __init__(self, folder: Path) -> None:
        self.requests: list[tuple[str, str]] = []
        self.delay_s = 0.0
        self.ranges = True
        self.cut: int | None = None
        web = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_HEAD(self) -> None:
                self._answer(with_body=False)

            def do_GET(self) -> None:
                self._answer(with_body=True)

            def _answer(self, with_body: bool) -> None:
                web.requests.append((self.path, self.headers.get("Range", "")))
                time.sleep(web.delay_s)
                path = folder / unquote(urlsplit(self.path).path).lstrip("/")
                if not path.is_file():
                    self.send_error(404)
                    return
                data = path.read_bytes()
                match = re.fullmatch(r"bytes=(\d+)-(\d*)", self.headers.get("Range", ""))
                start, end = 0, len(data)
                if match and web.ranges:
                    start, end = int(match[1]), min(end, int(match[2] or end) + 1)
                self.send_response(206 if match and web.ranges else 200)
                self.send_header("Content-Length", str(end - start))
                self.send_header("ETag", f'"{path.stat().st_mtime_ns}"')
                self.end_headers()
                cut, web.cut = web.cut, None
                if with_body:
                    self.wfile.write(data[start:end][:cut])
                if cut is not None:
                    self.close_connection = True

            def log_message(self, *_: object) -> None:
                """Log nothing."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_port}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        """End it."""
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def ranged_web(folder: Path) -> Iterator[RangedWeb]:
    """A server on a free port of 127.0.0.1."""
    web = RangedWeb(folder)
    try:
        yield web
    finally:
        web.close()
