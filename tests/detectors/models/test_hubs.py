"""Mirrors, Kaggle's credentials, and what a refused download advises."""

from __future__ import annotations

import base64
import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from prelabel.detectors.models import cache, download, hubs
from prelabel.detectors.models.fetch import fetch_model
from prelabel.errors import ConfigError, DetectorError
from tests.detectors.models.hub_server import Hub, Page, Request, archive, hub
from tests.messages import facts, tells

FILES = {"./saved_model.pb": b"graph", "./variables/variables.index": b"index"}
TFHUB = "https://tfhub.dev/google/x/1"
KAGGLE = "https://www.kaggle.com/models/google/x/frameworks/TensorFlow2/variations/small/versions/3"
TOKEN = "KGAT_0123456789"


@pytest.fixture
def server() -> Iterator[Hub]:
    with hub() as running:
        yield running


@pytest.fixture(autouse=True)
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """An empty home and cache, and no credentials."""
    for name in [*os.environ]:
        if name.startswith(("KAGGLE", "TFHUB", "PRELABEL")):
            monkeypatch.delenv(name)
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.setenv("PRELABEL_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(download, "PAUSE_S", 0.001)
    monkeypatch.setattr(cache, "_compared", set())
    folder = tmp_path / "home/.kaggle"
    folder.mkdir(parents=True)
    return folder


# A mirror


@pytest.mark.parametrize(
    ("url", "asked"),
    [
        (TFHUB, "http://mirror/hub/google/x/1?tf-hub-format=compressed"),
        (KAGGLE, "http://mirror/hub/models/google/x/frameworks/TensorFlow2/variations/small/versions/3"),
        ("https://example.org/x/1", "https://example.org/x/1?tf-hub-format=compressed"),
        ("https://example.org/x.tar.gz", "https://example.org/x.tar.gz"),
    ],
)
def test_mirror_replaces_only_the_base_url_of_the_hubs(url: str, asked: str) -> None:
    (archive_url,) = hubs.archive_urls(url, hubs.mirror_base("http://mirror/hub/"))
    assert archive_url.removesuffix("?tf-hub-format=compressed") == asked.removesuffix("?tf-hub-format=compressed")


def test_model_from_the_mirror_is_cached_and_found_without_it(server: Hub) -> None:
    server.pages["/hub/google/x/1"] = Page(archive(FILES))
    model = fetch_model(TFHUB, mirror=server.url + "/hub/")
    assert (model.name, model.address) == ("x-1", TFHUB)
    assert fetch_model(TFHUB) == model
    assert [path for path, _ in server.requests] == ["/hub/google/x/1?tf-hub-format=compressed"]


def test_each_address_of_the_catalog_is_requested_from_the_mirror(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PRELABEL_MODEL_MIRROR", server.url)
    place = "/models/google/mobilenet-v2/frameworks/TensorFlow1/variations/openimages-v4-ssd-mobilenet-v2/versions/1"
    server.pages[place] = Page(archive(FILES))
    model = fetch_model("openimages-ssd-mobilenet-v2")
    assert model.entry is not None
    assert [path.partition("?")[0] for path, _ in server.requests] == [
        "/google/openimages_v4/ssd/mobilenet_v2/1",
        place,
    ]


def test_mirror_without_the_model_is_named(server: Hub) -> None:
    mirror = server.url.replace("//", "//me:SECRET@") + "/hub"
    with pytest.raises(DetectorError, match=facts("404", "mirror", "prelabel fetch")) as caught:
        fetch_model(TFHUB, mirror=mirror)
    assert "/hub/google/x/1" in str(caught.value)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize("mirror", ["s3://bucket/models", "/models", "https://", "https://host/x?y=1"])
def test_mirror_that_is_not_a_base_url_is_refused(mirror: str) -> None:
    with pytest.raises(ConfigError, match=facts("--model-mirror", "PRELABEL_MODEL_MIRROR")):
        fetch_model(TFHUB, mirror=mirror)


# Kaggle's credentials


def test_no_credentials() -> None:
    assert hubs.kaggle_credentials() is None
    assert hubs.archive_urls(KAGGLE) == [KAGGLE + "?tf-hub-format=compressed"]


def test_credentials_are_found_where_kaggles_client_looks_in_its_order(
    home: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    def header() -> str:
        credentials = hubs.kaggle_credentials()
        assert credentials is not None
        assert credentials.header not in repr(credentials)
        return credentials.header

    def basic(pair: bytes) -> str:
        return "Basic " + base64.b64encode(pair).decode()

    (home / "kaggle.json").write_text(json.dumps({"username": "me", "key": "file"}))
    assert header() == basic(b"me:file")
    monkeypatch.setenv("KAGGLE_USERNAME", "me")
    monkeypatch.setenv("KAGGLE_KEY", "variable")
    assert header() == basic(b"me:variable")
    (home / "access_token.txt").write_text("second\n")
    assert header() == "Bearer second"
    (home / "access_token").write_text("first\n")
    assert header() == "Bearer first"
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    assert header() == f"Bearer {TOKEN}"
    (tmp_path / "token").write_text("from a file of mine".replace(" ", "-"))
    monkeypatch.setenv("KAGGLE_API_TOKEN", str(tmp_path / "token"))
    assert header() == "Bearer from-a-file-of-mine"


def test_folder_of_kaggle_json_can_be_elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "kaggle.json").write_text('{"username": "me", "key": "k"}')
    monkeypatch.setenv("KAGGLE_CONFIG_DIR", str(tmp_path))
    credentials = hubs.kaggle_credentials()
    assert credentials is not None
    assert credentials.origin == str(tmp_path / "kaggle.json")


@pytest.mark.parametrize("text", ["", "{", "[]", '{"username": "me"}', "null"])
def test_broken_kaggle_json_counts_as_none(home: Path, text: str) -> None:
    (home / "kaggle.json").write_text(text)
    assert hubs.kaggle_credentials() is None


def test_token_that_would_break_the_request_is_refused_without_being_shown(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", "SECRET\r\nX-Other: 1")
    with pytest.raises(ConfigError, match="KAGGLE_API_TOKEN") as caught:
        hubs.authorization(KAGGLE)
    assert "SECRET" not in str(caught.value)


@pytest.mark.parametrize(
    ("url", "sent"),
    [
        (KAGGLE, True),
        ("https://kaggle.com/models/x", True),
        ("https://api.kaggle.com/v1", True),
        ("https://WWW.KAGGLE.COM:443/x", True),
        ("http://www.kaggle.com/models/x", False),
        ("https://www.kaggle.com.example.org/x", False),
        ("https://www.kaggle.com@example.org/x", False),
        ("https://notkaggle.com/x", False),
        ("https://storage.googleapis.com/kaggle.com/x", False),
        (TFHUB, False),
    ],
)
def test_credentials_are_for_kaggle_alone(url: str, sent: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    assert hubs.authorization(url) == (f"Bearer {TOKEN}" if sent else None)


def test_credentials_do_not_follow_a_redirect_to_another_host(
    server: Hub, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG")
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    monkeypatch.setattr(hubs, "is_kaggle", lambda url: url.startswith(server.url))
    (Path.home() / ".netrc").write_text("machine 127.0.0.1 login me password NETRC\n")
    (Path.home() / ".netrc").chmod(0o600)
    headers: dict[str, list[str | None]] = {"kaggle": [], "elsewhere": []}
    with hub() as elsewhere:
        page = Page(archive(FILES))

        def redirect(request: Request) -> None:
            headers["kaggle"].append(request.headers["Authorization"])
            request.answer(302, Location=elsewhere.url + "/signed?tf-hub-format=compressed")

        def send(request: Request) -> None:
            headers["elsewhere"].append(request.headers["Authorization"])
            page(request)

        server.pages["/models/x"] = redirect
        elsewhere.pages["/signed"] = send
        messages: list[str] = []
        fetch_model(server.url + "/models/x", say=messages.append)
    assert headers["kaggle"] == [f"Bearer {TOKEN}"]
    assert TOKEN not in str(headers["elsewhere"])
    assert TOKEN not in caplog.text + "".join(messages)


def test_with_credentials_kaggles_api_is_tried_after_the_page(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    api = "https://www.kaggle.com/api/v1/models/google/x/tensorFlow2/small/3/download"
    assert hubs.archive_urls(KAGGLE) == [KAGGLE + "?tf-hub-format=compressed", api]
    assert hubs.archive_urls("https://kaggle.com/models/google/x/tensorFlow2/small/3/")[1:] == [api]
    assert hubs.archive_urls("https://kaggle.com/models/google/x/tensorFlow2/small")[1:] == []
    assert hubs.archive_urls(KAGGLE, "https://mirror") == [
        KAGGLE.replace("https://www.kaggle.com", "https://mirror") + "?tf-hub-format=compressed"
    ]


# What to do


@pytest.mark.parametrize(
    ("urls", "status", "words"),
    [
        ([TFHUB, KAGGLE], 403, ["KAGGLE_API_TOKEN", "--model-mirror", "prelabel fetch", "demo-shapes"]),
        ([KAGGLE], 401, ["KAGGLE_API_TOKEN", "https://www.kaggle.com/settings/api"]),
        ([TFHUB], 404, ["version", "--model-mirror"]),
        ([TFHUB], None, ["network", "--model-mirror", "prelabel fetch", "demo-shapes"]),
        (["https://example.org/x.tar.gz"], 403, ["permission", "prelabel fetch"]),
        (["https://example.org/x.tar.gz"], None, ["network", "prelabel fetch"]),
    ],
)
def test_advice_fits_the_refusal(urls: list[str], status: int | None, words: list[str]) -> None:
    assert tells(hubs.download_advice(urls, [status]), *words)


def test_advice_names_the_credentials_that_were_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KAGGLE_API_TOKEN", TOKEN)
    text = hubs.download_advice([KAGGLE], [403])
    assert tells(text, "credentials", "KAGGLE_API_TOKEN")
    assert TOKEN not in text


def test_added_query_is_not_shown(server: Hub, monkeypatch: pytest.MonkeyPatch) -> None:
    server.pages["/google/x/1"] = lambda request: request.answer(403)
    for mirror in (None, server.url):
        with pytest.raises(DetectorError, match=facts("403", "denied")) as caught:
            fetch_model(server.url + "/google/x/1" if mirror is None else TFHUB, mirror=mirror)
        assert "?" not in str(caught.value)


# TensorFlow Hub's own resolver


def test_model_in_the_cache_of_tensorflow_hub_is_used(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    url = server.url + "/google/x/1"
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "hub"))
    server.pages["/google/x/1"] = Page(archive({"./saved_model.pb": b"graph"}))
    assert hubs.resolve_with_tensorflow_hub([TFHUB + ".invalid", url]).is_relative_to(tmp_path / "hub")
    server.pages.clear()
    messages: list[str] = []
    model = fetch_model(url, say=messages.append)
    assert (model.path / "saved_model.pb").read_bytes() == b"graph"
    assert model.path.is_relative_to(tmp_path / "cache")
    assert tells(messages[-1], "TFHUB_CACHE_DIR")


def test_failure_of_tensorflow_hub_is_reported_with_ours(
    server: Hub, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TFHUB_CACHE_DIR", str(tmp_path / "hub"))
    with pytest.raises(DetectorError, match=facts("404", "TensorFlow Hub", "HTTPError")):
        fetch_model(server.url + "/google/x/1")
