from __future__ import annotations

import errno
import re
import subprocess
import sys
import threading
import time
import uuid
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import ClassVar

import fsspec
import pytest
from botocore.exceptions import EndpointConnectionError, ProfileNotFound
from fsspec.implementations.memory import MemoryFileSystem
from google.auth.exceptions import TransportError
from s3fs import S3FileSystem

from prelabel.errors import ConfigError, StoreError
from prelabel.storage import publishing as whole
from prelabel.storage import retries
from prelabel.storage.address import absolute, describe, is_local, join, protocol_of, redact, without_secrets
from prelabel.storage.files import STORES, Storage
from tests.messages import telling
from tests.s3 import S3Server


@pytest.fixture
def memory() -> str:
    return f"memory://{uuid.uuid4().hex}"


def test_plain_path_is_local_whatever_it_contains() -> None:
    assert protocol_of("/photos/a::b.jpg") == "file"
    assert protocol_of("/photos/http://x.jpg") == "file"
    assert is_local("photos/s3:/x")
    assert protocol_of("S3://bucket/a::b.jpg") == "s3"


def test_absolute_addresses(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    assert absolute("a/b/") == f"{tmp_path}/a/b"
    assert absolute("file:///x/y") == "/x/y"
    assert absolute("~old/b") == f"{tmp_path}/~old/b"
    assert absolute("~/b") == str(Path.home() / "b")
    assert absolute("s3://bucket/") == "s3://bucket"
    assert absolute("s3://bucket/a/") == "s3://bucket/a"
    assert absolute("memory://") == "memory://"
    assert absolute("memory:///") == "memory:///"


def test_path_that_leads_out_of_its_base_is_refused() -> None:
    assert join("s3://b", "plan", "x") == "s3://b/plan/x"
    for part in ("../x", "/x", "a/../../x"):
        with pytest.raises(StoreError, match=telling(re.escape(part), "s3://b")):
            join("s3://b", part)


def test_secrets_of_addresses_are_not_shown() -> None:
    assert redact("https://me:pw@host/a.jpg?X-Amz-Signature=abc") == "https://***@host/a.jpg?***"
    assert redact("was it https://host/a.jpg?") == "was it https://host/a.jpg?"
    assert redact("https://me:p@w@host/a.jpg") == "https://***@host/a.jpg"
    assert redact("https://host/my photo.jpg?X-Amz-Signature=abc&a=1") == (
        "https://host/my photo.jpg?X-Amz-Signature=***&a=1"
    )
    assert redact("host/it's.jpg?se=1&sig=abc is gone") == "host/it's.jpg?se=1&sig=*** is gone"
    assert redact("s3://bucket/a@b?c.jpg") == "s3://bucket/a@b?c.jpg"
    assert redact("s3://b/new\nline\x1b[31m\u202e\udcff.jpg") == r"s3://b/new\nline\x1b[31m\u202e\udcff.jpg"
    error = OSError("403, message='Forbidden', url='https://host/a.jpg?X-Amz-Signature=abc'")
    assert describe(error) == "OSError: 403, message='Forbidden', url='https://host/a.jpg?***'"


def test_text_that_is_slow_to_redact_is_shortened() -> None:
    start = time.process_time()
    assert len(redact("http://" * 150_000)) <= 20_000
    assert time.process_time() - start < 5


@pytest.mark.parametrize(
    ("url", "stored"),
    [
        ("https://host/a.jpg?id=7&api_key=ab&security-token=c", "https://host/a.jpg?id=7"),
        ("https://me:pw@host/a.jpg?size=2&X-Amz-Signature=ab&X-Amz-Date=1", "https://host/a.jpg?size=2"),
        ("https://host/a.jpg?Signature=ab&Expires=1&Key-Pair-Id=k", "https://host/a.jpg"),
        ("https://host/a.jpg?sv=1&st=2&se=3&sr=b&sp=r&sig=ab#part", "https://host/a.jpg#part"),
        ("https://host/a.jpg?st=2&id=a%20b+c&id=&flag", "https://host/a.jpg?st=2&id=a%20b+c&id=&flag"),
        ("https://host/a@b.jpg?to=me@x", "https://host/a@b.jpg?to=me@x"),
        ("s3://key:secret@bucket/a@b?sig=1.jpg", "s3://bucket/a@b?sig=1.jpg"),
        ("abfs://photos@account.dfs.core.windows.net/a.jpg", "abfs://photos@account.dfs.core.windows.net/a.jpg"),
        ("abfss://photos@account.dfs.core.windows.net/a.jpg", "abfss://photos@account.dfs.core.windows.net/a.jpg"),
        ("az://photos@account.dfs.core.windows.net/a.jpg", "az://photos@account.dfs.core.windows.net/a.jpg"),
        ("/photos/a@b?token=1.jpg", "/photos/a@b?token=1.jpg"),
    ],
)
def test_stored_address_has_no_password_or_signature_but_all_the_rest(url: str, stored: str) -> None:
    assert without_secrets(url) == stored


@pytest.mark.parametrize("protocol", STORES["abfs"].protocols)
def test_container_in_an_azure_address_is_not_a_secret(protocol: str) -> None:
    url = f"{protocol}://photos@account.dfs.core.windows.net/a.jpg"
    assert redact(url) == without_secrets(url) == url


def test_options_apply_only_to_their_storage() -> None:
    flat = Storage({"key": "k", "secret": "planted"})
    assert "planted" not in repr(flat)
    assert "key" not in flat._options_for("https")
    assert flat._options_for("s3")["key"] == "k"
    assert flat._options_for("file") == flat._options_for("memory") == {}
    by_protocol = Storage({"s3": {"key": "k"}, "http": {"headers": {"X": "1"}}})
    assert by_protocol._options_for("s3a")["key"] == "k"
    assert by_protocol._options_for("https")["headers"] == {"X": "1"}
    assert "key" not in by_protocol._options_for("gs")


def test_unknown_protocol_and_invalid_options_are_reported() -> None:
    with pytest.raises(ConfigError, match=telling("nope://", "unknown|not known|kinds?")):
        Storage().filesystem("nope://x")
    with pytest.raises(ConfigError, match=telling("options?", "s3://")) as caught:
        Storage({"s3": {"endpoint_url": "http://a", "client_kwargs": {"endpoint_url": "planted"}, "nope": 1}}).names(
            "s3://b"
        )
    assert "planted" not in str(caught.value)


class Making:
    """Replaces the factory of s3:// file systems: raises an error a number of times, then creates one."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, error: Exception, times: int) -> None:
        self.calls = 0

        def make(url: str, options: dict[str, object]) -> object:
            self.calls += 1
            if self.calls <= times:
                raise error
            return MemoryFileSystem()

        monkeypatch.setattr(retries, "FIRST_PAUSE_S", 0.0)
        monkeypatch.setattr(STORES["s3"], "filesystem", make)


@pytest.mark.parametrize(
    "error", [ConnectionError("away"), OSError("HTTP 503"), TransportError("away", retryable=True)]
)
def test_transient_storage_errors_are_retried(error: Exception, monkeypatch: pytest.MonkeyPatch) -> None:
    making = Making(monkeypatch, error, 3)
    assert isinstance(Storage().filesystem("s3://bucket/a")[0], MemoryFileSystem)
    assert making.calls == 4
    # A permanent failure is an error of storage, not of the options.
    Making(monkeypatch, error, 100)
    with pytest.raises(OSError, match=r"away|HTTP 503"):
        Storage().read("s3://bucket/a")
    for write in (Storage().publish, Storage().create):
        with pytest.raises(StoreError, match=telling(r"writ\w+", "s3://bucket/a", "away|HTTP 503")):
            write("s3://bucket/a", b"")


@pytest.mark.parametrize(
    ("error", "text"),
    [
        (KeyError("refresh_token"), "refresh_token"),
        (TypeError("no such option"), "no such option"),
        (ValueError("odd"), "odd"),
        (FileNotFoundError(2, "No such file", "key.json"), "key.json"),
        (ProfileNotFound(profile="tomorrow"), "tomorrow"),
    ],
)
def test_invalid_options_are_reported_immediately(error: Exception, text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    making = Making(monkeypatch, error, 100)
    with pytest.raises(ConfigError, match=telling("options?", "s3://", text)):
        Storage().kind("s3://bucket/a")
    assert making.calls == 1


class Renames(MemoryFileSystem):
    """Another kind of storage, in which renaming to an existing name does what `when_taken` says."""

    protocol = "renames"
    cachable = False
    store: ClassVar[dict[str, object]] = {}
    pseudo_dirs: ClassVar[list[str]] = [""]
    when_taken = ""

    def mv(self, path1: str, path2: str, **_: object) -> None:
        if self.when_taken == "never":
            return
        if self.exists(path2):
            if self.when_taken == "silent":  # WebHDFS responds {"boolean": false}, which fsspec ignores
                return
            if self.when_taken == "number":
                raise OSError(errno.EEXIST, "File exists")  # becomes a FileExistsError
            error = OSError("taken")
            error.errno = errno.EEXIST
            raise error
        self.store[path2] = self.store.pop(path1)


@pytest.mark.parametrize("how", ["silent", "number", "plain", "never"])
def test_refused_rename_is_detected(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_PAUSE_S", 0.0)
    monkeypatch.setattr(whole, "MemoryFileSystem", type(None))  # ignore the base class
    monkeypatch.setattr(Renames, "when_taken", how)
    monkeypatch.setattr(Renames, "store", {})
    fsspec.register_implementation("renames", Renames, clobber=True)
    storage, url = Storage(), "renames://a/b.bin"
    if how == "never":
        with pytest.raises(StoreError, match=telling(r"writ\w+", r"renames://a/b\.bin", r"renam\w+")):
            storage.publish(url, b"new")
        assert Renames.store == {}
        return
    for data in (b"old", b"new"):
        storage.publish(url, data)
        assert storage.read(url) == data
    assert len(Renames.store) == 1


@pytest.mark.parametrize("where", ["disk", "memory", "s3"])
def test_published_objects_are_read_back_listed_and_deleted(
    where: str, tmp_path: Path, memory: str, s3_server: S3Server
) -> None:
    root = {"disk": str(tmp_path / "out"), "memory": memory, "s3": f"s3://{s3_server.new_bucket()}/out"}[where]
    storage = Storage(s3_server.options)
    url = join(root, "shards", "a b#1.bin")
    assert storage.kind(url) is None
    assert storage.names(join(root, "shards")) == {}
    storage.publish(url, b"first")
    storage.publish(url, b"second")
    assert storage.read(url) == b"second"
    assert storage.kind(url) == "file"
    assert storage.kind(join(root, "shards")) == "directory"
    assert storage.names(join(root, "shards")) == {"a b#1.bin": 6}
    with storage.open(url) as file:
        file.seek(3)
        assert file.read() == b"ond"
    with storage.publishing(url) as file:
        file.write(b"third")
    assert storage.read(url) == b"third"
    with pytest.raises(ZeroDivisionError), storage.publishing(url) as file:
        print(file.write(b"never") // 0)
    assert storage.read(url) == b"third"
    storage.delete(url)
    storage.delete(url)
    assert not storage.exists(url)
    with pytest.raises(FileNotFoundError):
        storage.read(url)


@pytest.mark.parametrize("where", ["disk", "memory", "s3"])
def test_file_is_created_only_if_it_does_not_exist(
    where: str, tmp_path: Path, memory: str, s3_server: S3Server
) -> None:
    root = {"disk": str(tmp_path / "out"), "memory": memory, "s3": f"s3://{s3_server.new_bucket()}/out"}[where]
    storage = Storage(s3_server.options)
    url = join(root, "lock.json")
    assert storage.create(url, b"first")
    assert not storage.create(url, b"second")
    assert storage.read(url) == b"first"
    storage.delete(url)
    assert storage.create(url, b"third")
    assert storage.read(url) == b"third"


def test_failed_creation_is_not_an_existing_file(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(StoreError, match=telling(r"writ\w+", f"{tmp_path}/taken/x")):
        Storage().create(str(tmp_path / "taken" / "x"), b"1")


def test_files_written_by_another_process_are_visible(s3_server: S3Server) -> None:
    bucket = s3_server.new_bucket()
    storage = Storage(s3_server.options)
    s3_server.put(bucket, "out/a", b"1")
    assert storage.names(f"s3://{bucket}/out") == {"a": 1}
    s3_server.put(bucket, "out/b", b"22")
    assert storage.names(f"s3://{bucket}/out") == {"a": 1, "b": 2}
    assert storage.exists(f"s3://{bucket}/out/b")


def test_unreachable_storage_is_not_a_missing_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_PAUSE_S", 0.001)
    options = {"key": "k", "secret": "s", "client_kwargs": {"endpoint_url": "http://127.0.0.1:9", "region_name": "x"}}
    storage = Storage({**options, "config_kwargs": {"retries": {"max_attempts": 0}}})
    with pytest.raises(OSError, match=r"127\.0\.0\.1:9"):
        storage.exists("s3://bucket/run.json")
    with pytest.raises(StoreError, match=telling(r"writ\w+", r"s3://bucket/run\.json")):
        storage.publish("s3://bucket/run.json", b"x")


def test_a_failed_write_leaves_the_old_file_and_no_temporary_one(tmp_path: Path) -> None:
    (tmp_path / "taken").write_bytes(b"")
    with pytest.raises(StoreError, match=telling(r"writ\w+", f"{tmp_path}/taken/x")):
        Storage().publish(str(tmp_path / "taken" / "x"), b"1")
    (tmp_path / "folder").mkdir()
    with pytest.raises(StoreError, match=telling(r"writ\w+", f"{tmp_path}/folder")):
        Storage().publish(str(tmp_path / "folder"), b"1")
    assert sorted(p.name for p in tmp_path.iterdir()) == ["folder", "taken"]


def test_a_long_name_can_be_published(tmp_path: Path) -> None:
    name = "é" * 125 + ".json"  # 255 bytes
    Storage().publish(str(tmp_path / name), b"1")
    assert [p.name for p in tmp_path.iterdir()] == [name]


def test_importing_storage_loads_no_cloud_library() -> None:
    cloud = ("botocore", "s3fs", "aiohttp", "ray")
    code = f"import sys, prelabel.storage.files; print([m for m in {cloud} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert out.stdout.strip() == "[]"


def test_bucket_url_with_password_is_refused() -> None:
    with pytest.raises(ConfigError, match=telling(r"s3://\*\*\*@bucket/a", r"passwords?|credentials")):
        Storage().read("s3://me:pw@bucket/a")


@pytest.mark.parametrize(
    ("status", "kind", "facts"),
    [
        (403, PermissionError, ("403", "credentials?", r"allow\w*|permi\w*|may")),
        (400, OSError, ("400", "credentials?", r"expir\w*", "region")),
    ],
)
def test_refusal_without_a_body_says_what_to_check(status: int, kind: type[OSError], facts: tuple[str, ...]) -> None:
    asked: list[str] = []

    class Refuses(BaseHTTPRequestHandler):
        def do_HEAD(self) -> None:
            asked.append(self.path)
            self.send_response(status)
            self.end_headers()

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        client = {"endpoint_url": f"http://127.0.0.1:{server.server_port}", "region_name": "us-east-1"}
        storage = Storage({"key": "k", "secret": "s", "client_kwargs": client})
        with pytest.raises(kind, match=telling(*facts)):
            storage.kind("s3://bucket/photos/a.jpg")
        server.shutdown()
    assert len(asked) <= 2  # s3fs may check that the bucket exists; nothing is retried


def _unreachable(*_: object, **__: object) -> None:
    raise EndpointConnectionError(endpoint_url="https://bucket.example")


def test_reads_of_an_open_file_are_retried(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_PAUSE_S", 0.0)
    bucket, data = s3_server.new_bucket(), bytes(range(256)) * 2000
    s3_server.put(bucket, "plan/a", data)
    real, bad = S3FileSystem._call_s3, iter(range(3))

    async def call(fs: S3FileSystem, method: str, *args: object, **kwargs: object) -> object:
        return _unreachable() if next(bad, None) is not None else await real(fs, method, *args, **kwargs)

    with Storage(s3_server.options).open(f"s3://{bucket}/plan/a", block_size=1 << 16) as file:
        begin = file.read(1000)
        monkeypatch.setattr(S3FileSystem, "_call_s3", call)
        assert begin + file.read() == data
        assert next(bad, None) is None
        file.seek(-3, 2)
        assert (file.tell(), file.read()) == (len(data) - 3, data[-3:])


def test_failed_read_of_an_open_file_is_a_storage_error(s3_server: S3Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_PAUSE_S", 0.0)
    bucket = s3_server.new_bucket()
    s3_server.put(bucket, "a", bytes(300_000))
    with Storage(s3_server.options).open(f"s3://{bucket}/a", block_size=1 << 16) as file:
        file.read(1000)
        monkeypatch.setattr(S3FileSystem, "_call_s3", _unreachable)
        with pytest.raises(OSError, match="EndpointConnectionError: Could not connect"):
            file.read()
