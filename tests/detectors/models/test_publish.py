"""Copies of models for machines that cannot download them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from click.testing import CliRunner

from prelabel.cli import main
from prelabel.detectors.inspect import inspect_model
from prelabel.detectors.models import publish
from prelabel.detectors.models.cache import fingerprint_of
from prelabel.detectors.models.fetch import LocalModel, fetch_model
from prelabel.detectors.models.publish import NOTE, publish_model
from prelabel.errors import ConfigError, DetectorError
from prelabel.storage.files import Storage
from tests.messages import facts, tells
from tests.models import Models
from tests.s3 import S3Server

FILES = {"saved_model.pb": b"graph", "variables/variables.index": b"index", "assets/labels.txt": b"dog\n"}


@pytest.fixture
def model(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> LocalModel:
    monkeypatch.setenv("PRELABEL_CACHE", str(tmp_path / "cache"))
    folder = tmp_path / "cached-0123"
    for name, data in FILES.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(data)
    return LocalModel(folder, fingerprint_of(folder), "imagenet-mobilenet-v2-035-128", "https://example.org/x")


@pytest.fixture(params=["disk", "s3"])
def place(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[str, Storage]:
    if request.param == "disk":
        return str(tmp_path / "models"), Storage()
    server: S3Server = request.getfixturevalue("s3_server")
    return f"s3://{server.new_bucket()}/models", Storage(server.options)


def test_copy_is_the_same_model_under_its_own_name(model: LocalModel, place: tuple[str, Storage]) -> None:
    to, storage = place
    address, is_new = publish_model(model, to, storage)
    assert (address, is_new) == (f"{to}/{model.name}", True)
    copy = fetch_model(address, storage)
    assert (copy.name, copy.fingerprint, copy.model_version) == (model.name, model.fingerprint, model.model_version)
    assert copy.entry is not None
    assert copy.entry.name == model.name
    assert publish_model(model, to, storage) == (address, False)


def test_note_of_other_files_is_ignored(model: LocalModel, tmp_path: Path) -> None:
    address, _ = publish_model(model, str(tmp_path / "models"), Storage())
    (Path(address) / "saved_model.pb").write_bytes(b"other")
    assert fetch_model(address).entry is None


@pytest.mark.parametrize("note", [b"", b"{", b"[]", b'{"name": "../x", "fingerprint": "1"}', b'{"name": 1}'])
def test_invalid_note_is_ignored(note: bytes) -> None:
    assert publish.read_note(note) is None


def test_interrupted_copy_is_not_a_model_and_the_next_copy_completes_it(
    model: LocalModel, place: tuple[str, Storage], monkeypatch: pytest.MonkeyPatch
) -> None:
    to, storage = place
    copy, copied = publish._copy, []

    def broken(source: Path, target: str, storage: Storage) -> None:
        if copied:
            raise OSError("the cable is out")
        copied.append(target)
        copy(source, target, storage)

    monkeypatch.setattr(publish, "_copy", broken)
    with pytest.raises(DetectorError, match=facts(f"{to}/{model.name}", "cable")):
        publish_model(model, to, storage)
    with pytest.raises(DetectorError, match=facts("saved_model.pb")):
        fetch_model(f"{to}/{model.name}", storage)
    monkeypatch.setattr(publish, "_copy", copy)
    assert publish_model(model, to, storage)[1]
    assert fetch_model(f"{to}/{model.name}", storage).fingerprint == model.fingerprint


def test_another_model_is_not_replaced(model: LocalModel, tmp_path: Path) -> None:
    address, _ = publish_model(model, str(tmp_path), Storage())
    (model.path / "saved_model.pb").write_bytes(b"newer")
    newer = LocalModel(model.path, fingerprint_of(model.path), model.name, model.address)
    with pytest.raises(ConfigError, match=facts(address, "another model")):
        publish_model(newer, str(tmp_path), Storage())
    assert (Path(address) / "saved_model.pb").read_bytes() == b"graph"


def test_folder_with_other_files_is_refused(model: LocalModel, tmp_path: Path) -> None:
    (tmp_path / model.name / "variables").mkdir(parents=True)
    (tmp_path / model.name / "variables/of-mine").write_bytes(b"")
    with pytest.raises(ConfigError, match=facts("variables/of-mine", "--to")):
        publish_model(model, str(tmp_path), Storage())


def test_web_url_is_refused(model: LocalModel) -> None:
    with pytest.raises(ConfigError, match=facts("--to")):
        publish_model(model, "https://example.org/models", Storage())


# The command


def run(*arguments: str) -> Any:
    return CliRunner().invoke(main, ["fetch", *arguments])


def test_fetch_prints_the_options_for_label(tmp_path: Path) -> None:
    result = run("demo-shapes", "--to", str(tmp_path / "my models"))
    assert (result.exit_code, result.stdout) == (0, f"--detector '{tmp_path}/my models/demo-shapes'\n")
    assert inspect_model(f"{tmp_path}/my models/demo-shapes").model.name == "demo-shapes"
    again = run("demo-shapes", "--to", str(tmp_path / "my models"))
    assert again.stdout == result.stdout
    assert tells(again.stderr, "already")


def test_fetch_without_a_target_leaves_the_model_in_the_cache() -> None:
    result = run("demo-shapes")
    assert (result.exit_code, result.stdout) == (0, "--detector demo-shapes\n")
    assert tells(result.stderr, "demo-shapes", "cache")


def test_fetch_does_not_copy_what_label_would_refuse(models: Models, tmp_path: Path) -> None:
    to = tmp_path / "to"
    result = run(str(models.classifier), "--to", str(to))
    assert result.exit_code == 1
    assert tells(result.stderr, "--activation", "not copied")
    assert not to.exists()
    result = run(str(models.classifier), "--to", str(to), "--activation", "softmax", "--input-range", "0..1")
    assert result.exit_code == 0, result.stderr
    assert result.stdout == f"--detector {to}/{models.classifier.name} --input-range 0..1 --activation softmax\n"


def test_note_is_plain_json(model: LocalModel, tmp_path: Path) -> None:
    address, _ = publish_model(model, str(tmp_path), Storage())
    assert json.loads((Path(address) / NOTE).read_text()) == {
        "name": model.name,
        "fingerprint": model.fingerprint,
        "address": model.address,
    }
