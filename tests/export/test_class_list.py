"""The classes of a dataset that are settled before anything is written."""

from __future__ import annotations

from dataclasses import replace

from prelabel.export.class_list import ClassListOptions, closed_categories
from prelabel.storage import Storage
from tests.rows import INFO, found, row, rows


def test_classes_beyond_the_list_that_share_a_number_get_theirs_in_the_order_of_their_names() -> None:
    names = list("hcfaegbd")
    every = rows(row("a.jpg", *(found(name, category_id=5, mid="") for name in names)))
    info = replace(INFO, classes=INFO.classes[:1] if INFO.classes else None)
    _, listed = closed_categories(info, every, ClassListOptions(), Storage(), "present")
    assert listed[5] == "a"
    assert sorted(listed.values()) == sorted(names)
