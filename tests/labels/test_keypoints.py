"""The names of keypoints in label maps, in COCO datasets and built in."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from prelabel.detections import ClassName
from prelabel.errors import ConfigError
from prelabel.keypoints import COCO_PERSON, KeypointSet
from prelabel.labels.keypoints import read_keypoints, resolve_keypoints
from prelabel.labels.maps import parse_label_map

FACE = {"name": "Face", "keypoints": ["nose", "left_eye", "right_eye"], "skeleton": [[1, 2], [1, 3]]}


def pbtxt(*keypoints: str) -> bytes:
    lines = ["item {", '  id: 3  name: "/m/01g317"  display_name: "person"', *keypoints, "}"]
    return "\n".join([*lines, 'item { id: 4  display_name: "car" }']).encode()


def written(folder: Path, name: str, content: Any) -> str:
    path = folder / name
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())
    return str(path)


def test_a_label_map_names_the_keypoints_of_its_classes():
    data = pbtxt(
        'keypoints { id: 0 label: "nose" }', 'keypoints { id: 5 label: "left_" "eye" }', "keypoints {", "id: 7"
    )
    data = data.replace(b"id: 7", b"id: 7 label: 'right_eye' }")
    labels = parse_label_map("map.pbtxt", data)
    assert labels.keypoints == KeypointSet(("nose", "left_eye", "right_eye"), (), ((1, 2),), classes=(3,))
    assert [named.name for named in labels.classes.values()] == ["person", "car"]


def test_classes_share_the_keypoints_of_equal_ids():
    data = b"""
      item { id: 1 name: 'face' keypoints { id: 0 label: "nose" } keypoints { id: 2 label: "right_eye" } }
      item { id: 2 name: 'person' keypoints { id: 0 label: "nose" } keypoints { id: 1 label: "left_eye" } }
    """
    assert parse_label_map("map.pbtxt", data).keypoints == KeypointSet.named(
        ["nose", "left_eye", "right_eye"], classes=(1, 2)
    )


def test_a_label_map_without_keypoints_has_none():
    assert parse_label_map("map.pbtxt", pbtxt()).keypoints is None
    assert parse_label_map("map.txt", b"person\n").keypoints is None


@pytest.mark.parametrize(
    ("keypoints", "about"),
    [
        (['keypoints { label: "nose" }'], "line 3"),
        (["keypoints { id: 1 }"], "line 3"),
        (['keypoints { id: 1 label: "a" }', 'keypoints { id: 0 label: "b" }'], "'b' has the id 0 after 1"),
        (['keypoints { id: 1 label: "a" }', 'keypoints { id: 1 label: "b" }'], "ascend"),
        (['keypoints { id: 0 label: "a" }', 'keypoints { id: 1 label: "a" }'], "'a'"),
        (['keypoints { id: 0 id: 1 label: "a" }'], "two values for id"),
        (['keypoints { id: -1 label: "a" }'], "id and a label"),
    ],
)
def test_keypoints_of_unclear_order_or_name_are_refused(keypoints: list[str], about: str):
    with pytest.raises(ConfigError, match=about):
        parse_label_map("map.pbtxt", pbtxt(*keypoints))


def test_an_id_with_two_names_is_refused():
    data = b"""item { id: 1 name: 'a' keypoints { id: 0 label: "nose" } }
               item { id: 2 name: 'b' keypoints { id: 0 label: "beak" } }"""
    with pytest.raises(ConfigError, match="'nose' and 'beak'"):
        parse_label_map("map.pbtxt", data)


def test_keypoints_come_from_a_dataset_a_category_or_a_label_map(tmp_path: Path):
    expected = KeypointSet(("nose", "left_eye", "right_eye"), ((0, 1), (0, 2)), ((1, 2),))
    dataset = {"images": [], "annotations": [], "categories": [{"id": 1, "name": "car"}, {"id": 2, **FACE}]}
    for name, content in (("a.json", FACE), ("b.json", [FACE, FACE]), ("c.json", dataset)):
        assert read_keypoints(written(tmp_path, name, content)) == expected
    labels = pbtxt('keypoints { id: 0 label: "nose" }')
    assert read_keypoints(written(tmp_path, "d.pbtxt", labels)) == KeypointSet(("nose",), classes=(3,))


def test_pairs_can_be_stated(tmp_path: Path):
    url = written(tmp_path, "a.json", {"keypoints": ["nez", "oeil g", "oeil d"], "pairs": [[2, 3]]})
    assert read_keypoints(url) == KeypointSet(("nez", "oeil g", "oeil d"), (), ((1, 2),))
    none = written(tmp_path, "b.json", {"keypoints": ["front", "back"], "pairs": []})
    assert read_keypoints(none).mirrored_order == [0, 1]


def test_keypoints_belong_to_the_classes_of_the_same_name(tmp_path: Path):
    classes = [ClassName(1, "Person"), ClassName(7, "face"), ClassName(8, "Face")]
    assert read_keypoints("coco-person", classes).classes == (1,)
    assert read_keypoints("coco-person", classes[1:]).classes is None
    assert read_keypoints(written(tmp_path, "a.json", FACE), classes).classes == (7, 8)


@pytest.mark.parametrize(
    ("content", "about"),
    [
        (b"{", "JSON"),
        (b"\xff", "UTF-8"),
        (b"3", "COCO dataset"),
        ({"keypoints": "nose"}, "list of names"),
        ({"keypoints": ["nose", 3]}, "list of names"),
        ({"keypoints": ["nose", "nose"]}, "'nose'"),
        ({"keypoints": ["nose", "tail"], "skeleton": [[0, 1]]}, "0 and 1"),
        ({"keypoints": ["nose", "tail"], "skeleton": [1, 2]}, "two numbers"),
        ({"keypoints": ["nose", "tail"], "pairs": [[1, "2"]]}, "two numbers"),
        ({"categories": [{"id": 1, "name": "car"}]}, "no keypoints"),
        ([FACE, {**FACE, "skeleton": []}], "different keypoints"),
    ],
)
def test_a_file_that_does_not_name_keypoints_is_refused_in_one_line(tmp_path: Path, content: Any, about: str):
    with pytest.raises(ConfigError, match=about) as caught:
        read_keypoints(written(tmp_path, "points.json", content))
    assert "points.json" in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_missing_file_is_refused_with_the_built_in_name(tmp_path: Path):
    with pytest.raises(ConfigError, match="coco-person"):
        read_keypoints(str(tmp_path / "none.json"))


def test_given_names_win_over_own_names_and_these_over_the_label_map():
    unnamed, own = KeypointSet.unnamed(17), KeypointSet.named([f"point {n}" for n in range(17)])
    assert resolve_keypoints(unnamed) == unnamed
    assert resolve_keypoints(unnamed, in_label_map=COCO_PERSON) == COCO_PERSON
    assert resolve_keypoints(own, in_label_map=COCO_PERSON) == own
    assert resolve_keypoints(own, given="coco-person", in_label_map=own) == COCO_PERSON


@pytest.mark.parametrize("source", [{"given": "coco-person"}, {"in_label_map": COCO_PERSON}])
def test_another_number_of_keypoints_is_refused(source: dict[str, Any]):
    with pytest.raises(ConfigError, match="17 keypoints, but the detector gives 5"):
        resolve_keypoints(KeypointSet.unnamed(5), **source)
