"""The same tests on every object store: moto for S3, Azurite, gcp-storage-emulator."""

from __future__ import annotations

import gc
import importlib.util
import json
import os
import subprocess
import sys
import threading
import uuid
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from prelabel.errors import ConfigError, CredentialsError, FetchError, OutputInUseError, StoreError
from prelabel.image_ref import ImageRef
from prelabel.source.fetch import fetch
from prelabel.source.listing import list_images
from prelabel.storage import azure, base, gcs, retries
from prelabel.storage.address import Address, join
from prelabel.storage.base import Page
from prelabel.storage.files import STORES, Storage
from prelabel.storage.publishing import open_atomically
from prelabel.store.lock import Lock, read_lock
from tests.emulators import Emulator, of_s3, running_azurite, running_gcs
from tests.messages import CHANGED, MISSING, NO_PERMISSION, TRIES, telling
from tests.s3 import S3Server

MIB = 1 << 20
PART = 5 * MIB  # the minimum on S3
OTHERS = {"azure": running_azurite, "gcs": running_gcs}
ON_ALL = ["s3", *(pytest.param(name, marks=pytest.mark.tools) for name in OTHERS)]
# No backslash: Azure treats it as a slash.
NAMES = ["a b#1?.jpg", "50%25.jpg", "a+b&c=d.jpg", "what?", "é/e\u0301.jpg", "x@y:z.jpg", "'\"~.jpg", "a?versionid=1"]


@pytest.fixture(scope="module")
def emulators(s3_server: S3Server) -> Iterator[Callable[[str], Emulator]]:
    """An emulator by name, started when first requested."""
    with ExitStack() as stack:
        running = {"s3": of_s3(s3_server)}

        def get(name: str) -> Emulator:
            if name not in running:
                running[name] = stack.enter_context(OTHERS[name]())
            return running[name]

        yield get


@pytest.fixture
def emulator(request: pytest.FixtureRequest, emulators: Callable[[str], Emulator]) -> Emulator:
    return emulators(request.param)


on_all = pytest.mark.parametrize("emulator", ON_ALL, indirect=True)


@pytest.fixture(autouse=True)
def no_pauses(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "FIRST_PAUSE_S", 0.0)


@pytest.fixture
def small(monkeypatch: pytest.MonkeyPatch) -> None:
    """Make uploads use small parts."""
    monkeypatch.setattr(base, "PART_BYTES", PART)


@pytest.fixture
def no_older_objects() -> Iterator[None]:
    """Let the garbage collector look only at what the test makes, not at the million objects of tests before it."""
    gc.freeze()
    yield
    gc.unfreeze()


@on_all
@pytest.mark.parametrize("name", NAMES)
def test_published_objects_are_read_back_listed_and_deleted(emulator: Emulator, name: str) -> None:
    root, storage = f"{emulator.new_bucket()}/out", Storage(emulator.options)
    url = join(root, "shards", name)
    folder, _, bare = url.rpartition("/")
    assert storage.kind(url) is None
    assert storage.names(folder) == {}
    storage.publish(url, b"first")
    storage.publish(url, b"second")
    assert storage.read(url) == b"second"
    assert storage.kind(url) == "file"
    assert storage.kind(folder) == storage.kind(root) == "directory"
    assert storage.names(folder) == {bare: 6}
    assert storage.times(folder)[bare] is not None
    assert storage.info(url)["size"] == 6
    with storage.open(url) as file:
        file.seek(3)
        assert file.read() == b"ond"
    with storage.publishing(url) as stream:
        stream.write(b"third")
    assert storage.read(url) == b"third"
    storage.delete(url)
    storage.delete(url)
    assert not storage.exists(url)
    with pytest.raises(FileNotFoundError):
        storage.read(url)


@on_all
def test_names_are_unchanged_and_listed_objects_are_fetched(emulator: Emulator) -> None:
    root, storage = f"{emulator.new_bucket()}/photos", Storage(emulator.options)
    content = {f"{number}{name}.jpg": name.encode() for number, name in enumerate(NAMES)} | {"empty.jpg": b""}
    for name, data in content.items():
        storage.publish(f"{root}/{name}", data)
    refs = list(list_images([root], storage))
    assert [ref.image_id for ref in refs] == sorted(content, key=str.encode)
    assert {ref.image_id: fetch(ref, storage, MIB) for ref in refs} == content
    assert {ref.image_id: ref.size for ref in refs} == {name: len(data) for name, data in content.items()}


@on_all
def test_object_replaced_by_one_of_equal_size_is_reported_as_changed(emulator: Emulator) -> None:
    root, storage = emulator.new_bucket(), Storage(emulator.options)
    storage.publish(f"{root}/a.jpg", b"old")
    (ref,) = list_images([root], storage)
    assert ref.version
    assert fetch(ref, storage, MIB) == b"old"
    storage.publish(f"{root}/a.jpg", b"new")
    with pytest.raises(FetchError, match=telling(CHANGED, "version")):
        fetch(ref, storage, MIB)
    storage.publish(f"{root}/a.jpg", b"longer")
    with pytest.raises(FetchError, match=telling(CHANGED)):
        fetch(ref, storage, MIB)
    storage.delete(f"{root}/a.jpg")
    with pytest.raises(FetchError, match=telling(MISSING)):
        fetch(ref, storage, MIB)
    assert fetch(ImageRef("a", _put(storage, f"{root}/b.jpg", b"as it is now"), "a"), storage, MIB) == b"as it is now"


def _put(storage: Storage, url: str, data: bytes) -> str:
    storage.publish(url, data)
    return url


class BrokenError(Exception):
    pass


@on_all
@pytest.mark.parametrize("size", [0, 10, PART, PART + 1, 2 * PART + 5])
@pytest.mark.parametrize("there", [None, b"old"])
def test_half_written_object_is_never_visible(
    emulator: Emulator, size: int, there: bytes | None, small: None, no_older_objects: None
) -> None:
    root, storage = emulator.new_bucket(), Storage(emulator.options)
    url = f"{root}/out/big.bin"
    if there is not None:
        storage.publish(url, there)

    def look() -> None:
        gc.collect()
        assert (storage.read(url) if storage.exists(url) else None) == there

    def half(stream: Any) -> None:
        for start in range(0, size, 5 * MIB):
            stream.write(bytes(min(5 * MIB, size - start)))

    def raising(then_closed: bool = False) -> None:
        with storage.publishing(url) as stream:
            half(stream)
            look()
            if then_closed:
                stream.close()
            raise BrokenError

    # The writer raises, closes the file itself, or drops it, as a garbage-collected generator does.
    with pytest.raises(BrokenError):
        raising()
    look()
    with pytest.raises(BrokenError):
        raising(then_closed=True)
    look()
    fs, path = storage.filesystem(url)
    half(open_atomically(fs, path, storage.store(url)).__enter__())
    look()
    with storage.publishing(url) as stream:
        half(stream)
    assert storage.read(url) == bytes(size)


def test_parts_of_a_failed_upload_are_removed(s3_server: S3Server, small: None) -> None:
    bucket, storage = s3_server.new_bucket(), Storage(s3_server.options)

    def half() -> None:
        with storage.publishing(f"s3://{bucket}/a") as stream:
            stream.write(bytes(2 * PART))
            assert len(s3_server.client().list_multipart_uploads(Bucket=bucket)["Uploads"]) == 1
            raise BrokenError

    with pytest.raises(BrokenError):
        half()
    assert "Uploads" not in s3_server.client().list_multipart_uploads(Bucket=bucket)


@on_all
def test_large_file_is_assembled_from_writes_of_any_size(emulator: Emulator, small: None) -> None:
    root, storage = emulator.new_bucket(), Storage(emulator.options)
    data = os.urandom(MIB) * 12
    with storage.publishing(f"{root}/a.bin") as stream:
        for start, end in [(0, 1), (1, 8 * MIB), (8 * MIB, 8 * MIB), (8 * MIB, len(data))]:
            assert stream.write(memoryview(data)[start:end]) == end - start
            assert stream.tell() == end
    assert storage.read(f"{root}/a.bin") == data
    storage.publish(f"{root}/b.bin", data)
    assert storage.read(f"{root}/b.bin") == data


@on_all
def test_each_step_of_an_upload_is_retried(emulator: Emulator, small: None, monkeypatch: pytest.MonkeyPatch) -> None:
    root, storage = emulator.new_bucket(), Storage(emulator.options)
    store = STORES[emulator.protocol]
    data = os.urandom(MIB) * 12
    failed: list[str] = []
    for step in ("begin", "part", "commit"):
        real, bad = getattr(type(store), step), iter(range(2))

        async def broken(*args: Any, real: Any = real, bad: Any = bad, step: str = step) -> Any:
            answer = await real(*args)
            if next(bad, None) is not None:
                failed.append(step)
                raise ConnectionError("the answer was lost on the way")
            return answer

        monkeypatch.setattr(type(store), step, broken)
    with storage.publishing(f"{root}/a.bin") as stream:
        stream.write(data)
    assert failed == ["begin", "begin", "part", "part", "commit", "commit"]
    assert storage.read(f"{root}/a.bin") == data


@on_all
def test_one_of_several_concurrent_creators_succeeds(emulator: Emulator) -> None:
    storage, url = Storage(emulator.options), f"{emulator.new_bucket()}/out/lock.json"
    assert storage.create(url, b"first")
    assert storage.create(url, b"second") is not emulator.knows_conditions
    assert storage.read(url) == (b"first" if emulator.knows_conditions else b"second")
    storage.delete(url)
    assert storage.create(url, b"third")
    assert storage.read(url) == b"third"


@on_all
def test_output_is_locked_by_one_job(emulator: Emulator) -> None:
    storage, out = Storage(emulator.options), f"{emulator.new_bucket()}/out"
    with Lock(out, storage, lambda text: None, threading.Event()) as lock:
        held = read_lock(out, storage)
        assert held is not None
        assert held.owner == lock.owner
        with pytest.raises(OutputInUseError, match=telling(out, "(an)?other", "jobs?|process|writer")):
            Lock(out, storage, lambda text: None, threading.Event()).__enter__()
        lock.require()
    assert read_lock(out, storage) is None


@on_all
def test_listing_by_pages_is_complete_and_in_order(emulator: Emulator, monkeypatch: pytest.MonkeyPatch) -> None:
    root, storage = emulator.new_bucket(), Storage(emulator.options)
    names = [f"{n % 7}/{n:03d}.jpg" for n in range(150)]
    for name in [*names, "5/", "a-b.jpg", "a.jpg", "a/x.jpg", ".hid/x.jpg", "5-no.txt"]:
        storage.publish(f"{root}/photos/{name}", b"x")
    storage.publish(f"{root}/photos-not/x.jpg", b"x")
    expected = sorted([*names, "a-b.jpg", "a.jpg", "a/x.jpg"])
    assert [ref.image_id for ref in list_images([f"{root}/photos"], storage)] == expected
    assert [ref.image_id for ref in list_images([f"{root}/photos/3/*5.jpg"], storage)] == [
        name[2:] for name in sorted(names) if name.startswith("3/") and name.endswith("5.jpg")
    ]
    assert len(list(list_images([root], storage))) == len(expected) + 1
    with pytest.raises(Exception, match=telling(MISSING)):
        list(list_images([f"{root}-nowhere/x"], storage))


@pytest.mark.parametrize("protocol", ["s3", "gs", "abfs"])
def test_listing_holds_at_most_two_pages(protocol: str, monkeypatch: pytest.MonkeyPatch) -> None:
    pages, size, ahead = 200, 1000, []
    taken = 0
    bad = iter(range(3))

    async def page(self: Any, fs: Any, bucket: str, prefix: str, token: str | None) -> Page:
        number = int(token or 0)
        if number == 100 and next(bad, None) is not None:
            raise ConnectionError("away")
        ahead.append(number * size - taken)
        objects = [base.StoredObject(f"{prefix}{number * size + n:07d}.jpg", 1, "v") for n in range(size)]
        return Page(objects, str(number + 1) if number + 1 < pages else None)

    monkeypatch.setattr(type(STORES[protocol]), "page", page)
    monkeypatch.setattr(Storage, "kind", lambda self, url: "directory")
    options: dict[str, Any] = {
        "s3": {"key": "k", "secret": "s"},
        "gs": {"token": "anon"},
        "abfs": {"account_name": "a", "account_key": "a2V5"},
    }
    for ref in list_images([f"{protocol}://bucket/photos"], Storage({protocol: options[protocol]})):
        assert ref.image_id == f"{taken:07d}.jpg"
        taken += 1
    assert taken == pages * size
    assert max(ahead) <= 2 * size


@pytest.mark.tools
@pytest.mark.slow
@pytest.mark.parametrize("emulator", ["azure"], indirect=True)
def test_a_listing_of_several_real_pages_is_complete(emulator: Emulator) -> None:
    root, storage, count = emulator.new_bucket(), Storage(emulator.options), 5100
    client = emulator.azure().get_container_client(root.partition("://")[2])
    names = [f"{n % 3}/{n:05d}.jpg" for n in range(count)]
    with ThreadPoolExecutor(16) as pool:
        list(pool.map(lambda name: client.upload_blob(f"photos/{name}", b"x"), names))
    assert [ref.image_id for ref in list_images([f"{root}/photos"], storage)] == sorted(names)
    fs, path = storage.filesystem(root)
    first = base.run_coroutine(fs, STORES["abfs"].page(fs, path, "photos/", None))
    assert len(first.objects) == 5000
    second = base.run_coroutine(fs, STORES["abfs"].page(fs, path, "photos/", first.token))
    assert (len(second.objects), second.token) == (100, None)


@on_all
@pytest.mark.slow
def test_small_run_reads_from_and_writes_to_storage(emulator: Emulator, tmp_path: Path) -> None:
    root = emulator.new_bucket()
    scenes, run = f"{root}/scenes", f"{root}/run"
    environment = {**os.environ, **emulator.environment}
    options = json.dumps(emulator.options)
    if emulator.environment:  # the emulator's variable alone must suffice
        options = "{}"

    def prelabel(*arguments: str) -> str:
        done = subprocess.run(
            [sys.executable, "-m", "prelabel", *arguments, "--storage-options", options],
            capture_output=True,
            text=True,
            env=environment,
            timeout=300,
        )
        assert done.returncode == 0, done.stderr
        assert "Traceback" not in done.stderr
        return done.stdout + done.stderr

    prelabel("synth", "--images", "6", "--seed", "1", "--to", scenes)
    prelabel("label", scenes, "--detector", "demo-shapes", "--output", run, "--runner", "local")
    prelabel("verify", run)
    prelabel("export", "coco", run, "--to", f"{root}/coco.json")
    storage = Storage(emulator.options)
    assert len(json.loads(storage.read(f"{root}/coco.json"))["images"]) == 6
    assert not storage.exists(f"{run}/lock.json")
    assert storage.kind(f"{run}/manifest.json") == "file"


# Tests without a server.


def test_azure_address_names_its_account_and_container() -> None:
    for url, account, host, path in [
        ("abfs://c/a/b", None, None, "c/a/b"),
        ("az://c", None, None, "c"),
        ("abfss://c@acc.dfs.core.windows.net/a b#1?.jpg", "acc", "acc.blob.core.windows.net", "c/a b#1?.jpg"),
        ("abfs://c@acc.dfs.core.chinacloudapi.cn/x@y", "acc", "acc.blob.core.chinacloudapi.cn", "c/x@y"),
        ("abfs://acc.blob.core.windows.net/c/x", "acc", "acc.blob.core.windows.net", "c/x"),
        ("c/what?", None, None, "c/what?"),
    ]:
        assert azure._account(Address.of(url)) == (account, host)
        assert azure._path(url) == path


def test_account_in_an_azure_address_is_used() -> None:
    storage = Storage({"abfs": {"account_key": "a2V5"}})
    fs, path = storage.filesystem("abfs://c@one.dfs.core.windows.net/a")
    assert (fs.account_name, path) == ("one", "c/a")
    assert fs.service_client.url.startswith("https://one.blob.core.windows.net")
    with pytest.raises(ConfigError, match=telling("storage-options", "account", "two", ".*one.*")):
        Storage({"abfs": {"account_name": "two", "account_key": "a2V5"}}).filesystem(
            "abfs://c@one.dfs.core.windows.net/a"
        )


def test_missing_azure_account_is_reported(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_CONNECTION_STRING"):
        monkeypatch.delenv(name, raising=False)
    with pytest.raises(ConfigError, match=telling("abfs://c/a", "account", "abfs://CONTAINER@ACCOUNT")):
        Storage().filesystem("abfs://c/a")


def test_gcs_is_never_anonymous_by_accident(monkeypatch: pytest.MonkeyPatch) -> None:
    import google.auth
    from google.auth.exceptions import DefaultCredentialsError

    def none(**_: object) -> None:
        raise DefaultCredentialsError("none")

    monkeypatch.delenv("STORAGE_EMULATOR_HOST", raising=False)
    monkeypatch.setattr(google.auth, "default", none)
    with pytest.raises(CredentialsError, match=telling("no|none|not|without", "Google", "credentials")):
        Storage({"gs": {"project": uuid.uuid4().hex}}).filesystem("gs://bucket/a")
    fs, _ = Storage({"gs": {"token": "anon"}}).filesystem("gs://bucket/a")
    assert fs.credentials.credentials is None


def test_gcs_is_used_without_grpc_unless_enabled() -> None:
    code = (
        "import os, sys; from prelabel.storage.files import Storage; "
        "fs, _ = Storage({'token': 'anon'}).filesystem('gs://b/a'); "
        f"print(type(fs).__mro__[1].__module__, 'gcsfs.extended_gcsfs' in sys.modules, os.environ.get('{gcs.ZONAL}'))"
    )
    has_grpc = importlib.util.find_spec("gcsfs.extended_gcsfs") is not None
    for stated, expected in [(None, "gcsfs.core False None"), ("true", f"gcsfs.core {has_grpc} true")]:
        env = {**os.environ, **({gcs.ZONAL: stated} if stated else {})}
        out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=env)
        assert out.stdout.split()[1:] == expected.split()[1:]


def test_private_interfaces_still_exist() -> None:
    from adlfs import AzureBlobFileSystem
    from fsspec import AbstractFileSystem
    from gcsfs.core import GCSFileSystem
    from gcsfs.retry import retry_request, validate_response
    from s3fs import S3FileSystem

    assert callable(AbstractFileSystem._strip_protocol)
    s3 = S3FileSystem(anon=True, skip_instance_cache=True)
    assert s3._s3 is None, "s3fs connects when it is made"
    for name in ("_call_s3", "connect", "split_path", "req_kw"):
        assert hasattr(s3, name), f"s3fs has moved {name}"
    for name in ("_call", "_set_session", "_get_headers", "_get_params", "_location", "_request"):
        assert hasattr(GCSFileSystem, name), f"gcsfs has moved {name}"
    assert callable(GCSFileSystem._request.__wrapped__)
    assert callable(retry_request)
    assert callable(validate_response)
    for name in ("do_connect", "_container_exists", "_strip_protocol", "split_path"):
        assert hasattr(AzureBlobFileSystem, name), f"adlfs has moved {name}"


def test_missing_package_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    for protocol, extra in [("abfs", "azure"), ("gs", "gcs"), ("s3", "s3")]:

        def missing(self: Any, url: str, options: dict[str, Any]) -> Any:
            raise ImportError

        monkeypatch.setattr(type(STORES[protocol]), "filesystem", missing)
        with pytest.raises(ConfigError, match=telling(f"{protocol}://", rf"prelabel\[{extra}\]")):
            Storage().filesystem(f"{protocol}://b/a")


def test_writing_to_other_storage_is_atomic(tmp_path: Path) -> None:
    from fsspec.implementations.dirfs import DirFileSystem
    from fsspec.implementations.local import LocalFileSystem

    fs = DirFileSystem(str(tmp_path), LocalFileSystem())

    def half() -> None:
        with open_atomically(fs, "out/a.bin", None) as stream:
            stream.write(bytes(MIB))
            raise BrokenError

    with pytest.raises(BrokenError):
        half()
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    for data in (b"first", b"second"):
        with open_atomically(fs, "out/a.bin", None) as stream:
            stream.write(data)
        assert [path.name for path in (tmp_path / "out").iterdir()] == ["a.bin"]
        assert (tmp_path / "out/a.bin").read_bytes() == data


def test_unreachable_storage_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(retries, "PATIENT_ATTEMPTS", 2)
    text = "DefaultEndpointsProtocol=http;AccountName=a;AccountKey=a2V5;BlobEndpoint=http://127.0.0.1:9/a;"
    with pytest.raises(StoreError, match=telling(r"writ\w+", "abfs://c/a", r"127\.0\.0\.1:9")):
        Storage({"abfs": {"connection_string": text}}).publish("abfs://c/a", b"x")


@pytest.mark.parametrize(
    ("status", "code", "kind", "facts"),
    [
        (403, "AuthenticationFailed", CredentialsError, ("credentials",)),
        (401, "InvalidAuthenticationInfo", CredentialsError, ("credentials",)),
        (403, "AuthorizationPermissionMismatch", FetchError, (NO_PERMISSION,)),
        (404, "BlobNotFound", FetchError, (MISSING,)),
        (400, "InvalidUri", FetchError, ("read", "InvalidUri|400")),
        (503, "ServerBusy", FetchError, ("2", TRIES)),
    ],
)
def test_azure_errors_are_reported_on_one_line(
    status: int, code: str, kind: type[Exception], facts: tuple[str, ...]
) -> None:
    class Refuses(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            body = f"<Error><Code>{code}</Code><Message>{code} it is\nRequestId:1</Message></Error>".encode()
            self.send_response(status)
            for name, value in {"x-ms-error-code": code, "Content-Length": str(len(body))}.items():
                self.send_header(name, value)
            self.send_header("Content-Type", "application/xml")
            self.end_headers()
            self.wfile.write(body)

        def log_message(self, *_: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Refuses) as server:
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        text = f"DefaultEndpointsProtocol=http;AccountName=a;AccountKey=a2V5;BlobEndpoint=http://127.0.0.1:{server.server_port}/a;"
        storage = Storage({"abfs": {"connection_string": text}})
        with pytest.raises(kind, match=telling(*facts)) as caught:
            fetch(ImageRef("a", "abfs://c/a", "a"), storage, MIB, attempts=2)
        assert "\n" not in str(caught.value)
        assert "RequestId" not in str(caught.value)
        server.shutdown()
