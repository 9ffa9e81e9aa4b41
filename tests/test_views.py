"""Which views of an image a detector sees."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import pytest

from prelabel.config import label_options
from prelabel.errors import ConfigError
from prelabel.options import flag_of, from_mapping
from prelabel.views import View, ViewOptions, views_of


def test_whole_mirrored_and_four_tiles_that_overlap_by_a_third():
    views = views_of(600, 1000, ViewOptions(views="tiles,flip,whole"), None)
    assert views == [
        View("whole", 0, 0, 1000, 600),
        View("flip", 0, 0, 1000, 600),
        View("tiles", 0, 0, 600, 360),
        View("tiles", 400, 0, 1000, 360),
        View("tiles", 0, 240, 600, 600),
        View("tiles", 400, 240, 1000, 600),
    ]


def test_the_order_of_views_makes_no_other_run():
    assert ViewOptions(views="tiles, whole").views == ViewOptions(views="whole,tiles").views == "whole,tiles"


@pytest.mark.parametrize(
    ("height", "width", "tiles"),
    [
        (640, 640, 0),  # as large as the input
        (640, 1280, 0),  # a wide input would show it at full size
        (641, 641, 4),
        (300, 1281, 3),
        (1920, 2560, 20),
    ],
)
def test_auto_takes_tiles_of_images_larger_than_the_input(height: int, width: int, tiles: int):
    views = views_of(height, width, ViewOptions(views="auto"), 640)
    assert [view.kind for view in views] == ["whole"] + ["tiles"] * tiles


@pytest.mark.parametrize("size", ["640", "33%", "auto"])
@pytest.mark.parametrize("overlap", [0.0, 0.2, 0.5, 0.9])
@pytest.mark.parametrize("sides", [(481, 641), (1, 5000), (31, 33), (3000, 4001)])
def test_tiles_cover_the_image_and_overlap_as_asked(size: str, overlap: float, sides: tuple[int, int]):
    options = ViewOptions(views="tiles", tile_size=size, tile_overlap=overlap)
    height, width = sides
    views = views_of(height, width, options, 500)
    assert len({(view.x2 - view.x1, view.y2 - view.y1) for view in views}) == 1
    for low, high, side in (("x1", "x2", width), ("y1", "y2", height)):
        spans = sorted({(getattr(view, low), getattr(view, high)) for view in views})
        assert spans[0][0] == 0
        assert spans[-1][1] == side
        for (start, end), (following, _) in pairwise(spans):
            assert end - following > overlap * (end - start) - 1
            assert following <= end
    assert len(views) == len(set(views))


def test_an_image_within_one_tile_is_seen_once():
    options = ViewOptions(views="whole,tiles", tile_size="640")
    assert views_of(480, 640, options, None) == [View("whole", 0, 0, 640, 480)]
    assert len(views_of(480, 640, ViewOptions(views="tiles", tile_size="640"), None)) == 1


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("job.yaml", "views: [tiles, whole]\ntile-size: 640"),
        ("job.yaml", "views: tiles,whole\ntile-size: '640'"),
        ("job.toml", "views = ['whole', 'tiles']\ntile_size = 640"),
    ],
)
def test_a_job_file_may_list_views_and_give_the_size_as_a_number(tmp_path: Path, name: str, text: str):
    (tmp_path / name).write_text(text, encoding="utf-8")
    needed = {"source": "photos", "detector": "d", "output": "out"}
    options = label_options(needed, config=str(tmp_path / name)).view_options
    assert (options.views, options.tile_size, options.tile_pixels) == ("whole,tiles", "640", 640)
    python = label_options({**needed, "views": ["tiles", "whole"], "tile_size": 640})
    assert python.view_options == options


@pytest.mark.parametrize(
    ("name", "value"),
    [("views", 640), ("views", [["whole"]]), ("views", ["whole", 1]), ("tile_size", 640.0), ("tile_size", True)],
)
def test_other_kinds_of_values_are_refused(name: str, value: object):
    with pytest.raises(ConfigError, match=flag_of(name)):
        from_mapping(ViewOptions, {"views": "tiles", name: value}, "test")


@pytest.mark.parametrize(
    ("values", "option"),
    [
        ({"views": "whole,whole"}, "--views"),
        ({"views": "auto,flip"}, "--views"),
        ({"views": ""}, "--views"),
        ({"tile_size": "0%"}, "--tile-size"),
        ({"tile_size": "101%"}, "--tile-size"),
        ({"tile_size": "10"}, "--tile-size"),
        ({"tile_size": "-640"}, "--tile-size"),
        ({"tile_overlap": 0.95}, "--tile-overlap"),
        ({"merge_iou": 0.0}, "--merge-iou"),
        ({"views": "whole,flip", "merge_iou": 1.0}, "--merge-iou"),
        ({"tile_size": "640"}, "--tile-size needs --views"),
        ({"views": "whole,flip", "tile_overlap": 0.4}, "--tile-overlap needs --views"),
        ({"merge": "nms"}, "--merge needs several --views"),
        ({"merge_iou": 0.4}, "--merge-iou needs several --views"),
        ({"views": "tiles", "tile_size": "0.5%"}, "--tile-size"),
        ({"merge": "mean"}, "--merge"),
    ],
)
def test_wrong_values_are_refused_by_name(values: dict[str, object], option: str):
    with pytest.raises(ConfigError, match=option):
        ViewOptions(**values)
