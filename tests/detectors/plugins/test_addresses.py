"""What `--detector` names: a model, a factory, or the entry point of an installed package."""

from __future__ import annotations

from pathlib import Path

import pytest

from prelabel.detectors.plugins.addresses import FactoryAddress, find_factory, installed_factories, require_model
from prelabel.errors import ConfigError
from tests.detectors.plugins.modules import install
from tests.messages import facts


@pytest.fixture
def packages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder on Python's path; the working folder is another one."""
    folder = tmp_path / "packages"
    folder.mkdir()
    monkeypatch.syspath_prepend(str(folder))
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "here").mkdir()
    monkeypatch.chdir(tmp_path / "here")
    return folder


@pytest.mark.parametrize(
    "model",
    [
        *(
            "demo-shapes",
            "models/mine",
            "./mine",
            "models/mine.tar.gz",
            "s3://bucket/models:v2/mine",
            "https://example.org/a:b",
        ),
        *("C:\\models\\mine", "gs://bucket/mine", "mine", "a.b:", ":make", "a b:make", "2d.models:make"),
    ],
)
def test_everything_else_is_a_model(model: str, packages: Path) -> None:
    assert find_factory(model) is None


@pytest.mark.parametrize("text", ["blobs:make", "blobs.detector:Blobs", "a.b_c.d:Maker.make", "größe:mache"])
def test_a_factory_is_a_module_and_an_attribute(text: str, packages: Path) -> None:
    factory = find_factory(text)
    assert factory is not None
    assert str(factory) == text
    assert (factory.module, factory.attribute) == tuple(text.split(":"))


def test_a_folder_that_looks_like_a_factory_is_a_model(packages: Path) -> None:
    Path("models:v2").mkdir()
    assert find_factory("models:v2") is None


def test_an_installed_package_offers_detectors_by_name(packages: Path) -> None:
    install(packages, "blobs", "1.2", blobs="blobs.detector:Blobs", more="blobs.more:make [extra]")
    blobs = FactoryAddress("blobs.detector", "Blobs", "blobs", "blobs 1.2")
    assert find_factory("blobs") == blobs
    assert str(find_factory("more")) == "blobs.more:make"
    assert [address for address in installed_factories() if address.package == "blobs 1.2"] == [
        blobs,
        FactoryAddress("blobs.more", "make", "more", "blobs 1.2"),
    ]


def test_an_ambiguous_name_is_refused_with_the_choices(packages: Path) -> None:
    install(packages, "blobs", blobs="blobs.detector:Blobs")
    install(packages, "others", blobs="others:Blobs")
    with pytest.raises(ConfigError, match=facts("blobs.detector:Blobs", "others:Blobs", "blobs 1.0", "others 1.0")):
        find_factory("blobs")


def test_a_name_that_is_also_a_folder_is_refused(packages: Path) -> None:
    install(packages, "blobs", blobs="blobs.detector:Blobs")
    Path("blobs").mkdir()
    with pytest.raises(ConfigError, match=facts("blobs.detector:Blobs", "./blobs")):
        find_factory("blobs")
    assert find_factory("./blobs") is None


def test_an_entry_point_without_a_factory_is_refused(packages: Path) -> None:
    install(packages, "blobs", blobs="blobs.detector")
    with pytest.raises(ConfigError, match=facts("blobs 1.0", "package.module:factory", "blobs.detector")):
        find_factory("blobs")


def test_the_name_of_a_catalog_model_is_always_that_model(packages: Path) -> None:
    install(packages, "evil", **{"demo-shapes": "evil:Detector"})
    assert find_factory("demo-shapes") is None


def test_an_unknown_name_lists_what_is_installed(packages: Path) -> None:
    install(packages, "blobs", blobs="blobs.detector:Blobs", spots="blobs.detector:Spots")
    with pytest.raises(ConfigError, match=facts("'spot'", "did you mean 'spots'")):
        require_model("spot")
    with pytest.raises(ConfigError, match=facts("xyz", "blobs", "spots", "demo-shapes", "prelabel detectors")):
        require_model("xyz")
    for model in ("demo-shapes", "models/xyz", "s3://bucket/xyz", "here"):
        require_model(model)
