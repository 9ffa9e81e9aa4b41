"""The photos that libraries and prelabel see, and the table at the end."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from prelabel.source.decode import decode
from tests.networks.comparison import COMPARISONS, HEADER

#: Wide and tall ones, of different sizes.
PHOTOS = 10


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        if Path(__file__).parent in item.path.parents and "photos" in getattr(item, "fixturenames", ()):
            item.add_marker("networks")


def pytest_terminal_summary(terminalreporter: Any) -> None:
    if COMPARISONS:
        terminalreporter.section("detectors compared with their libraries")
        terminalreporter.write_line("\n".join((HEADER, *(comparison.row for comparison in COMPARISONS))))


@pytest.fixture(scope="session")
def photos(assets: Path, tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Ten real photos that are not square, as PNGs, so that no decoder of JPEG makes a difference."""
    folder = tmp_path_factory.mktemp("photos")
    by_size: dict[tuple[int, int], Path] = {}
    for path in sorted((assets / "images" / "coco-val80").iterdir()):
        with Image.open(path) as image:
            if image.width != image.height:
                by_size.setdefault(image.size, path)
    chosen = sorted(by_size.values())[:PHOTOS]
    assert len(chosen) == PHOTOS
    for path in chosen:
        Image.fromarray(decode(path.read_bytes()).pixels).save(folder / f"{path.stem}.png")
    return sorted(folder.iterdir())
