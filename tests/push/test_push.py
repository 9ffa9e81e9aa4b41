"""A push against a server in memory: what is created, replaced and left alone, and what happens to lost requests."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import prelabel.push.label_studio as subject
from prelabel.errors import ConfigError, ExportError, PushError
from prelabel.export.reading import Rows
from prelabel.push.label_studio import PushReport, push
from prelabel.push.options import PushOptions
from prelabel.push.server import Project
from prelabel.push.token import read_token
from prelabel.storage import Storage
from tests.push.fake_server import FakeServer
from tests.rows import INFO, failed_row, found, row, rows

TOKEN = "abc123"
DOGS = '<View><Image name="im" value="$photo"/><RectangleLabels name="box" toName="im"><Label value="Dog"/>{}</View>'
TEAM = DOGS.format("</RectangleLabels>")
PHOTOS = [row(f"{i}.jpg", found(score=0.5 + i / 100)) for i in range(5)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """What the next push meets, whatever address it is given; lost requests are not waited for."""
    fake = FakeServer()
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)
    monkeypatch.setattr(subject, "Server", lambda url, token: fake)
    monkeypatch.setattr("prelabel.push.sending._WAITS_S", (0.0, 0.0))
    return fake


def pushed(every: Rows | None = None, **options: Any) -> PushReport:
    info = options.pop("info", INFO)
    return push(
        info, every or rows(*PHOTOS), PushOptions(**{"url": "http://fake", "project": "dogs", **options}), Storage()
    )


def counts(report: PushReport) -> tuple[int, int, int, int]:
    return report.new_tasks, report.added, report.replaced, report.unchanged


def versions(server: FakeServer) -> list[list[str]]:
    return [[one.model_version for one in task.predictions] for _, task in sorted(server.held.items())]


def test_a_project_is_created_with_its_config_and_shows_the_predictions(server: FakeServer) -> None:
    report = pushed()
    assert counts(report) == (5, 0, 0, 0)
    assert (report.created_project, report.tasks, report.predictions) == (True, 5, 5)
    assert server.opened is not None
    assert server.opened.title == "dogs"
    assert server.opened.model_version == INFO.model_version
    assert '<Label value="Dog"' in server.opened.label_config


def test_a_config_with_a_document_type_is_neither_read_nor_replaced(server: FakeServer) -> None:
    config = '<!DOCTYPE x [<!ENTITY a "b">]><View>&a;</View>'
    server.opened = Project(1, "dogs", config, "", 0, 0)
    with pytest.raises(ExportError, match=r"^the labelling config of project 1 .* has no document type declaration$"):
        pushed()
    assert server.opened.label_config == config


def test_pushing_twice_changes_nothing(server: FakeServer) -> None:
    pushed()
    before = dict(server.held)
    report = pushed()
    assert counts(report) == (0, 0, 0, 5)
    assert server.held == before
    assert len(server.imports) == 1


def test_changed_predictions_are_replaced_and_equal_ones_left(server: FakeServer) -> None:
    pushed()
    report = pushed(score_threshold=0.53)
    assert counts(report) == (0, 0, 3, 2)
    assert versions(server) == [[INFO.model_version]] * 5
    assert [len(task.predictions[0].result) for _, task in sorted(server.held.items())] == [0, 0, 0, 1, 1]


def test_predictions_of_other_models_stay(server: FakeServer) -> None:
    pushed()
    newer = replace(INFO, model_version="newer-1")
    assert counts(pushed(info=newer)) == (0, 5, 0, 0)
    assert counts(pushed(score_threshold=0.53)) == (0, 0, 3, 2)
    assert sorted(map(sorted, versions(server))) == [["newer-1", INFO.model_version]] * 5


def test_new_images_become_tasks_and_images_that_failed_do_not(server: FakeServer) -> None:
    pushed(rows(*PHOTOS[:2]))
    report = pushed(rows(*PHOTOS, failed_row()))
    assert counts(report) == (3, 0, 0, 2)
    assert (report.images, report.failed, report.tasks) == (5, 1, 5)
    report = pushed(rows(*PHOTOS, failed_row()), include_failed=True)
    assert counts(report) == (1, 0, 0, 5)
    assert (report.images, report.tasks, report.predictions) == (5, 6, 5)


def test_without_new_tasks_only_tasks_that_exist_get_predictions(server: FakeServer) -> None:
    server.create_project("dogs", "<View></View>")
    server.hold({"image": "s3://bucket/photos/1.jpg"})
    report = pushed(new_tasks=False)
    assert counts(report) == (0, 1, 0, 0)
    assert (report.without_task, report.tasks) == (4, 1)


@pytest.mark.parametrize(
    "data",
    [
        {"image": "s3://bucket/photos/1.jpg"},
        {"image": "s3://bucket/photos/%31.jpg"},
        {"image": "https://elsewhere/x", "image_id": "1.jpg"},
        {"image": "https://elsewhere/x", "file_name": "1.jpg"},
    ],
)
def test_tasks_are_matched_by_address_or_name(server: FakeServer, data: dict[str, str]) -> None:
    server.create_project("dogs", "<View></View>")
    server.hold({"image": "s3://bucket/photos/other.jpg", "image_id": "other.jpg"})
    number = server.hold(data)
    assert counts(pushed()) == (4, 1, 0, 0)
    assert len(server.held[number].predictions) == 1


def test_of_two_tasks_of_one_image_the_older_is_used_and_it_is_said(server: FakeServer) -> None:
    server.create_project("dogs", "<View></View>")
    numbers = [server.hold({"image": "s3://bucket/photos/1.jpg"}) for _ in range(2)]
    report = pushed()
    assert [len(server.held[number].predictions) for number in numbers] == [1, 0]
    assert report.warnings[0] == "1 tasks show an image that an older task shows too: they are left as they are"


def test_a_run_of_the_projects_own_tasks_goes_back_by_their_numbers(server: FakeServer) -> None:
    server.create_project("dogs", TEAM)
    numbers = [server.hold({"photo": "/data/upload/1/x.jpg"}) for _ in range(2)]
    own = replace(INFO, task_numbers=True)
    every = [row(f"{number}/x.jpg", found(), uri="https://fake/data/upload/1/x.jpg") for number in (*numbers, 99)]
    report = pushed(rows(*every), info=own, project="1")
    assert counts(report) == (0, 2, 0, 0)
    assert (report.without_task, len(server.held)) == (1, 2)


def test_an_existing_config_decides_names_and_refuses_what_it_lacks(server: FakeServer) -> None:
    server.create_project("dogs", TEAM)
    pushed(rows(PHOTOS[0]))
    (task,) = server.held.values()
    assert task.data["photo"] == "s3://bucket/photos/0.jpg"
    assert {region["from_name"] for region in task.predictions[0].result} == {"box"}
    cat = row("cat.jpg", found("Cat", category_id=2, mid="/m/01yrx"))
    with pytest.raises(
        ExportError, match=r"config of project 1 \('dogs'\) does not fit: <RectangleLabels> lacks Cat"
    ) as caught:
        pushed(rows(*PHOTOS, cat))
    for way in (
        "Settings, Labeling Interface",
        "--class-map",
        "--exclude-class",
        "--score-threshold",
        "--unlisted drop",
    ):
        assert way in str(caught.value)
    assert len(server.held) == 1


def test_a_project_without_tools_gets_the_config(server: FakeServer) -> None:
    server.create_project("dogs", "<View></View>")
    assert not pushed().created_project
    assert server.opened is not None
    assert "RectangleLabels" in server.opened.label_config


def test_requests_are_bounded_in_tasks_and_bytes(server: FakeServer) -> None:
    pushed(tasks_per_request=2)
    assert server.imports == [2, 2, 1]
    server.held.clear()
    pushed(max_request_mb=0.001)
    assert sum(server.imports[3:]) == 5
    assert len(server.imports) > 5


@pytest.mark.parametrize("fate", ["before", "after"])
def test_a_lost_request_is_looked_after(server: FakeServer, fate: str) -> None:
    server.lose = ["", fate]
    assert counts(pushed(tasks_per_request=2)) == (5, 0, 0, 0)
    assert len(server.held) == 5
    server.lose = [fate]
    newer = replace(INFO, model_version="newer-1")
    assert counts(pushed(info=newer)) == (0, 5, 0, 0)
    server.lose = [fate]
    assert counts(pushed(info=newer, score_threshold=0.53)) == (0, 0, 3, 2)
    assert sorted(map(sorted, versions(server))) == [["newer-1", INFO.model_version]] * 5


def test_a_request_that_the_server_carries_out_late_leaves_no_doubled_tasks(server: FakeServer) -> None:
    server.lose = ["late"]
    assert counts(pushed()) == (5, 0, 0, 0)
    assert sorted(task.data["image_id"] for task in server.held.values()) == [f"{i}.jpg" for i in range(5)]
    assert counts(pushed()) == (0, 0, 0, 5)


def test_a_server_that_stays_away_ends_the_push_and_the_next_one_goes_on(server: FakeServer) -> None:
    server.lose = ["", "before", "before", "before"]
    with pytest.raises(PushError, match="the same command goes on where this one stopped"):
        pushed(tasks_per_request=2)
    assert len(server.held) == 2
    assert counts(pushed()) == (3, 0, 0, 2)


def test_what_the_server_drops_without_a_word_is_an_error(server: FakeServer) -> None:
    server.drop = 1
    with pytest.raises(PushError, match=r"5 tasks with 5 predictions were sent and the server created 5 with 0"):
        pushed()
    with pytest.raises(PushError, match=r"5 predictions were sent and the server created 4"):
        pushed()


def test_storages_that_are_missing_are_named(server: FakeServer) -> None:
    (warning,) = pushed().warnings
    assert warning == "images are not shown yet: the project has no source storage for s3 bucket bucket"
    local = row("a.jpg", found(), uri="/photos/a.jpg")
    assert "LOCAL_FILES_SERVING_ENABLED=true" in pushed(rows(local), project="1").warnings[0]
    server.local_storages = ["/photos"]
    assert pushed(rows(local), project="1").warnings == ()


def test_options_are_checked() -> None:
    for options, message in [
        ({"project": "x"}, "url is missing"),
        ({"url": "host:8080", "project": "x"}, "url must be the address of a server"),
        ({"url": "http://host"}, "project is missing"),
        ({"url": "http://host", "project": "x", "tasks_per_request": 0}, "tasks-per-request must be above 0"),
    ]:
        with pytest.raises(ConfigError, match=message):
            PushOptions(**options)


def test_the_token_comes_from_the_file_or_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "token"
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="LABEL_STUDIO_API_KEY is not set"):
        read_token("")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", " from-environment\n")
    assert read_token("") == "from-environment"
    path.write_text("a.b-c_d\n")
    assert read_token(str(path)) == "a.b-c_d"
    path.write_text("secret words")
    with pytest.raises(ConfigError, match="holds no access token") as caught:
        read_token(str(path))
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match="cannot be read"):
        read_token(str(tmp_path / "none"))


def test_regions_lie_on_what_browsers_show(server: FakeServer) -> None:
    # Upright 4 x 6 pixels, found on its left half; orientation 6 stands where no browser looks: 6 x 4, the lower half.
    turned = replace(row("a.webp", found()), exif_orientation=6, browser_orientation=1)
    report = pushed(rows(turned, PHOTOS[0]), score_threshold=0.3)
    ((region,), _) = [task.predictions[0].result for _, task in sorted(server.held.items())]
    assert (region["original_width"], region["original_height"]) == (4, 6)
    assert {name: region["value"][name] for name in ("x", "y", "width", "height")} == {
        **{"x": 0.0, "y": 50.0, "width": 100.0, "height": 50.0}
    }
    assert any("1 of 2 images" in note and "'a.webp'" in note for note in report.warnings)
    assert counts(pushed(rows(turned, PHOTOS[0]), score_threshold=0.3)) == (0, 0, 0, 2)
