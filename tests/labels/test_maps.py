from __future__ import annotations

from pathlib import Path

import pytest

from prelabel.detections import ClassName
from prelabel.errors import ConfigError
from prelabel.labels.maps import LabelMap, is_mid, parse_label_map, read_label_map
from prelabel.storage.files import Storage
from tests.detectors.models.hub_server import hub
from tests.messages import facts


def parsed(name: str, text: str) -> dict[int, tuple[str, str]]:
    return {number: (named.name, named.mid) for number, named in parse_label_map(name, text.encode()).classes.items()}


@pytest.mark.parametrize("text", ["/m/0bt9lr", "/g/11b7c7b1z0", "/t/dd0"])
def test_a_mid_is_recognized_by_its_prefix(text: str) -> None:
    assert is_mid(text)


@pytest.mark.parametrize("text", ["Dog", "", "m/0bt9lr", "/m/", "/x/123", "see /m/0bt9lr"])
def test_other_text_is_not_a_mid(text: str) -> None:
    assert not is_mid(text)


def test_pbtxt_reads_name_and_mid_from_either_field() -> None:
    text = """
    item { name: "/m/01g317" id: 1 display_name: "person" }
    item: <id: 2, name: 'cat'>  # the bare form
    item {
      id: 17; display_name: "/m/0bt9lr" name: "d\\"og \\303\\251"
      keypoints { id: 99 label: "nose" }
    }"""
    assert parsed("a.pbtxt", text) == {1: ("person", "/m/01g317"), 2: ("cat", ""), 17: ('d"og é', "/m/0bt9lr")}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('item {\n id: 1\n name: "a"', ("line 1", "item", "closed")),
        ('item {\n name: "a"\n}', ("line 1", "item", "id", "missing|no|without")),
        ('item { id: "x" name: "a" }', ("line 1", "item", "id x|id is x|id 'x'", "number")),
        ("item { id: 1 }", ("line 1", "class 1", "name")),
        ('item { id: 1 name: "a" }\nitem { id: 1 name: "b" }', ("line 2", "class 1", "'a'", "'b'")),
        ('\n\nitem { id: 1 name: "a }', ("line 3",)),
        ('node { id: 1 name: "a" }', ("line 1", "item {")),
        ("<html><body>404</body></html>", ("line 1", "item {")),
        ("}", ("line 1", "brace")),
        ("item", ("item {",)),
        ("id: 1", ("line 1", "item {")),
        ("", ("class|classes",)),
        ('item { id: 1 name: "\\377" }', ("line 1", "UTF-8")),
    ],
)
def test_invalid_pbtxt_is_refused_with_file_and_line(text: str, expected: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=facts("'x/a.pbtxt'", *expected)):
        parse_label_map("x/a.pbtxt", text.encode())


def test_csv_with_a_header_is_read_by_column_names() -> None:
    assert parsed("a.csv", "mid,display_name,id\n/m/01g317,person,1\n,cat,17\n") == {
        1: ("person", "/m/01g317"),
        17: ("cat", ""),
    }


def test_csv_without_a_header_is_number_name_mid() -> None:
    assert parsed("a.csv", '0,background\n3,"dog, small",/m/0bt9lr\n') == {
        0: ("background", ""),
        3: ("dog, small", "/m/0bt9lr"),
    }


def test_csv_of_mid_and_name_is_numbered_from_one() -> None:
    assert parsed("a.csv", "/m/011k07,Tortoise\n/m/011q46kg,Container\n") == {
        1: ("Tortoise", "/m/011k07"),
        2: ("Container", "/m/011q46kg"),
    }


def test_an_invalid_csv_line_is_reported_with_its_number() -> None:
    with pytest.raises(ConfigError, match=facts("line 3", "'x'")):
        parse_label_map("a.csv", b"id,name\n1,dog\nx,cat\n")


@pytest.mark.parametrize(
    "text",
    [
        '{"1": "person", "18": "dog"}',
        '{"person": 1, "dog": 18}',
        '[{"id": 1, "name": "person"}, {"id": "18", "display_name": "dog"}]',
        '{"categories": [{"id": 1, "name": "person", "supercategory": "x"}, {"id": 18, "name": "dog"}], "images": []}',
    ],
)
def test_all_forms_of_json_are_read(text: str) -> None:
    assert parsed("a.json", text) == {1: ("person", ""), 18: ("dog", "")}


def test_json_class_index_gives_the_readable_name() -> None:
    assert parsed("a.json", '{"0": ["n01440764", "tench"]}') == {0: ("tench", "")}


def test_a_json_list_is_numbered_like_lines() -> None:
    assert parsed("a.json", '["person", "dog"]') == {1: ("person", ""), 2: ("dog", "")}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("{", ("line 1",)),
        ("3", ('"name": "person"',)),
        ('{"a": "b"}', ("number", "'a'", "'b'")),
        ('[{"name": "a"}]', ("number", "{'name': 'a'}")),
    ],
)
def test_other_json_is_refused(text: str, expected: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=facts("'a.json'", *expected)):
        parse_label_map("a.json", text.encode())


def test_lines_are_numbered_from_one_unless_the_first_is_the_background() -> None:
    assert parsed("a.txt", "person\ndog\n\n") == {1: ("person", ""), 2: ("dog", "")}
    assert parsed("a.txt", "Background\ntench\n") == {0: ("Background", ""), 1: ("tench", "")}


def test_names_of_a_classifier_without_background_are_numbered_from_zero() -> None:
    lines = parse_label_map("a.txt", b"tench\ngoldfish\n")
    assert lines.fitted_to(2).get(0) == ClassName(0, "tench", "")
    assert lines.fitted_to(3) is lines
    numbered = parse_label_map("a.csv", b"1,tench\n2,goldfish\n")
    assert numbered.fitted_to(2) is numbered


def test_number_of_finds_label_and_mid() -> None:
    label_map = LabelMap({18: ClassName(18, "dog", "/m/0bt9lr")})
    assert (label_map.number_of("dog"), label_map.number_of("/m/0bt9lr"), label_map.number_of("cat")) == (18, 18, None)


@pytest.mark.parametrize(
    ("name", "data", "message"),
    [
        ("a.yaml", b"", r"\.pbtxt"),
        ("a.txt", b"\xff\xfe", "UTF-8"),
        ("a.txt", b"x" * (17 << 20), "bytes"),
        ("a.txt", b"a\n\nb", "class 2"),
        ("https://h/a.csv?X-Amz-Signature=SECRET", b"1,\n", "a.csv"),
    ],
)
def test_other_files_are_refused(name: str, data: bytes, message: str) -> None:
    with pytest.raises(ConfigError, match=message) as caught:
        parse_label_map(name, data)
    assert "SECRET" not in str(caught.value)


def test_file_is_read_through_storage(tmp_path: Path) -> None:
    storage = Storage()
    storage.publish("memory://maps/classes.csv", b"7,owl\n")
    assert read_label_map("memory://maps/classes.csv", storage).get(7) == ClassName(7, "owl", "")
    with pytest.raises(ConfigError, match=facts("none.txt", "no", "file", "coco")):
        read_label_map(str(tmp_path / "none.txt"))


def test_file_is_read_from_a_web_server() -> None:
    with hub() as server:
        server.pages["/data/ImageNetLabels.txt"] = lambda request: request.answer(200, b"background\ntench\n")
        assert read_label_map(f"{server.url}/data/ImageNetLabels.txt").get(1) == ClassName(1, "tench", "")
        with pytest.raises(ConfigError, match=facts(f"{server.url}/none.txt", "no", "file", "coco")):
            read_label_map(f"{server.url}/none.txt")


def test_coco_has_80_classes_with_the_original_gaps() -> None:
    coco = read_label_map("coco")
    assert len(coco) == 80
    assert min(coco.classes) == 1
    assert max(coco.classes) == 90
    assert coco.get(18) == ClassName(18, "dog", "/m/0bt9lr")
    assert coco.get(12) is None
    assert coco.source == "coco"


def test_coco_equals_the_published_label_map(assets: Path) -> None:
    assert read_label_map("coco").classes == read_label_map(str(assets / "labels/mscoco-91.pbtxt")).classes


def test_open_images_label_map(assets: Path) -> None:
    label_map = read_label_map(str(assets / "labels/openimages-v4-601.pbtxt"))
    assert len(label_map) == 601
    assert label_map.get(446) == ClassName(446, "Dog", "/m/0bt9lr")


PERSON_AND_DOG = {5: ("person", ""), 7: ("dog", "")}


@pytest.mark.parametrize(
    "text",
    [
        *(
            f"{number},{name}\n5,person\n7,dog\n"
            for number, name in (
                *(("label_id", "label"), ("ClassID", "ClassName"), ("class id", "class"), ("idx", "label")),
                *(("number", "title"), ("# id", "name"), ("class_index", "class_name"), ("id", "category")),
                *(("class", "name"), ("label", "name"), ("index", "class")),
            )
        ),
        "name,id,count\nperson,5,900\ndog,7,3\n",
        "person,5\ndog,7\n",
        "5;person\n7;dog\n",
        "id;name\n5;person\n7;dog\n",
        "5\tperson\n7\tdog\n",
        "5|person\n7|dog\n",
        "5.0,person\n7.0,dog\n",
    ],
)
def test_numbers_of_a_csv_are_found_by_header_or_column(text: str) -> None:
    assert parsed("a.csv", text) == PERSON_AND_DOG


@pytest.mark.parametrize("header", ["LabelName,DisplayName", "mid,display_name"])
def test_a_header_of_mids_and_names_is_not_a_class(header: str) -> None:
    rows = "/m/01g317,Person\n/m/0bt9lr,Dog\n"
    assert parsed("a.csv", f"{header}\n{rows}") == parsed("a.csv", rows)
    assert parsed("a.csv", rows) == {1: ("Person", "/m/01g317"), 2: ("Dog", "/m/0bt9lr")}


def test_a_delimiter_inside_a_name_belongs_to_the_name() -> None:
    assert parsed("a.csv", "1;person, standing\n2;dog\n") == {1: ("person, standing", ""), 2: ("dog", "")}
    assert parsed("a.csv", "1,person; standing\n") == {1: ("person; standing", "")}


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("name,freq\nperson,100\ndog,7\n", ("line 1", "header", "id")),
        ("name\nperson\ndog\n", ("line 1", "header", "id")),
        ("Klasse,Name der Klasse\n1,person\n", ("line 1", "'Klasse,Name der Klasse'")),
        ("# by hand\n1,person\n", ("line 1", "'# by hand'")),
        ("person\ndog\n", ("line 1", "'person'")),
        ("-1,person\n0,dog\n", ("line 1", "'-1,person'")),
        ("1,5,person\n2,7,dog\n", ("line 1", "two|2", "columns", "numbers", "differ|different")),
        ("id,index,name\n1,0,person\n", ("line 2", "two|2", "columns", "numbers", "differ|different")),
        ("1,n01440764,tench\n", ("line 1", "column", "name", "comma")),
        ("1,person, standing\n", ("line 1", "column", "name", "comma")),
        ("id,name\n1,person, standing\n", ("line 2", "3 columns", "2", "comma")),
        ("id,name,Name\n1,a,b\n", ("line 1", "header", "two|2", "columns", "name")),
    ],
)
def test_csv_with_ambiguous_numbers_or_names_is_refused(text: str, expected: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=facts("'a.csv'", *expected)):
        parse_label_map("a.csv", text.encode())


@pytest.mark.parametrize(
    "text", ["0 person\n1 dog\n", "1: person\n2: dog\n", "id name\n1 person\n2 dog\n", "person,1\ndog,2\n", "1\tdog\n"]
)
def test_numbers_in_a_list_of_names_are_refused(text: str) -> None:
    with pytest.raises(ConfigError, match=facts("numbers", ".csv")):
        parse_label_map("a.txt", text.encode())


def test_names_may_contain_numbers() -> None:
    assert parsed("a.txt", "Boeing 737\n747\n2 wheeler\n") == {
        1: ("Boeing 737", ""),
        2: ("747", ""),
        3: ("2 wheeler", ""),
    }


@pytest.mark.parametrize("inside", ["\u2028", "\x85", "\x0c", "\x0b", "\x1c"])
def test_lines_end_at_newlines_only(inside: str) -> None:
    assert parsed("a.txt", f"per{inside}son\ndog\r\ncat\rowl") == {
        1: (f"per{inside}son", ""),
        2: ("dog", ""),
        3: ("cat", ""),
        4: ("owl", ""),
    }


@pytest.mark.parametrize("text", ['{"1": "person", "1": "dog"}', '[{"id": 1, "name": "person", "id": 2}]'])
def test_json_with_a_duplicate_key_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="twice"):
        parse_label_map("a.json", text.encode())


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        (r'id: 1 name: "caf\xc3\xa9"', {1: ("café", "")}),
        (r'id: 1 name: "caf\303\xa9"', {1: ("café", "")}),
        (r'id: 1 name: "\u00e9\U0001f600"', {1: ("é\U0001f600", "")}),
        ("id: 1 name: \"per\" 'son'", {1: ("person", "")}),
        ('id: 010 name: "a"', {8: ("a", "")}),
        ('id: 0x10 name: "a"', {16: ("a", "")}),
        ('id: 0 name: "a"', {0: ("a", "")}),
    ],
)
def test_pbtxt_is_read_as_protobuf_reads_it(fields: str, expected: dict[int, tuple[str, str]]) -> None:
    assert parsed("a.pbtxt", f"item {{ {fields} }}") == expected


@pytest.mark.parametrize(
    ("fields", "expected"),
    [
        ('id: 1 id: 2 name: "a"', ("two|twice|2", "id")),
        ('id: 1 name: "a" name: "b"', ("two|twice|2", "name")),
        ('id: 08 name: "a"', ("id", "08")),
        (r'id: 1 name: "\q"', (r"'\\q'", "escape")),
        (r'id: 1 name: "\ud800"', (r"'\\ud800'", "UTF-8")),
    ],
)
def test_pbtxt_that_protobuf_refuses_is_refused(fields: str, expected: tuple[str, ...]) -> None:
    with pytest.raises(ConfigError, match=facts("line 1", *expected)):
        parse_label_map("a.pbtxt", f"item {{ {fields} }}".encode())
