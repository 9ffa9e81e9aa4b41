from __future__ import annotations

import pytest

from prelabel.detectors.models.catalog import CATALOG, lookup


def test_names_are_unique_and_found() -> None:
    assert len({entry.name for entry in CATALOG}) == len(CATALOG) == 5
    for entry in CATALOG:
        assert lookup(entry.name) is entry


def test_every_address_leads_to_its_entry() -> None:
    for entry in CATALOG:
        for address in entry.addresses:
            assert lookup(address) is entry


@pytest.mark.parametrize(
    "address",
    [
        "https://tfhub.dev/google/openimages_v4/ssd/mobilenet_v2/1/",
        "http://tfhub.dev/google/openimages_v4/ssd/mobilenet_v2/1?tf-hub-format=compressed",
        "https://kaggle.com/models/google/mobilenet-v2/frameworks/tensorFlow1/variations/"
        "openimages-v4-ssd-mobilenet-v2/versions/1",
        "https://www.kaggle.com/models/google/mobilenet-v2/TensorFlow1/openimages-v4-ssd-mobilenet-v2/1",
    ],
)
def test_other_spellings_of_an_address_lead_to_the_same_entry(address: str) -> None:
    entry = lookup(address)
    assert entry is not None
    assert entry.name == "openimages-ssd-mobilenet-v2"


@pytest.mark.parametrize(
    "address",
    [
        "openimages",
        "",
        "https://tfhub.dev/google/openimages_v4/ssd/mobilenet_v2/2",
        "https://example.org/google/openimages_v4/ssd/mobilenet_v2/1",
        "/models/openimages-ssd-mobilenet-v2",
    ],
)
def test_anything_else_is_not_in_the_catalog(address: str) -> None:
    assert lookup(address) is None
