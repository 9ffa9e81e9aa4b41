"""A push to a server in memory: what is created, replaced or left unchanged, and what happens after lost requests."""

from __future__ import annotations

import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

import prelabel.label_studio.push as subject
from prelabel.errors import ConfigError, ExportError, PushError
from prelabel.export.base import Rows
from prelabel.label_studio.client import Project, read_token
from prelabel.label_studio.options import PushOptions
from prelabel.label_studio.push import PushReport, push, push_run
from prelabel.label_studio.storages import TITLE, credentials
from prelabel.processes import Processes
from prelabel.storage.files import Storage
from prelabel.store.run import open_run
from tests.label_studio.fake_server import FakeServer
from tests.messages import facts, tells, told
from tests.rows import INFO, failed_row, found, row, rows
from tests.runs import write_run

TOKEN = "abc123"
DOGS = '<View><Image name="im" value="$photo"/><RectangleLabels name="box" toName="im"><Label value="Dog"/>{}</View>'
TEAM = DOGS.format("</RectangleLabels>")
PHOTOS = [row(f"{i}.jpg", found(score=0.5 + i / 100)) for i in range(5)]


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> FakeServer:
    """The server of the next push, whatever its URL; pauses after lost requests are skipped."""
    fake = FakeServer()
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", TOKEN)
    monkeypatch.setattr(subject, "Server", lambda url, token: fake)
    monkeypatch.setattr("prelabel.label_studio.sending._WAITS_S", (0.0, 0.0))
    return fake


def pushed(image_rows: Rows | None = None, **options: Any) -> PushReport:
    info = options.pop("info", INFO)
    return push(
        info,
        image_rows or rows(*PHOTOS),
        PushOptions.of(**{"url": "http://fake", "project": "dogs", **options}),
        Storage(),
    )


def counts(report: PushReport) -> tuple[int, int, int, int]:
    return report.sent.new_tasks, report.sent.added, report.sent.replaced, report.sent.unchanged


def versions(server: FakeServer) -> list[list[str]]:
    return [[prediction.model_version for prediction in task.predictions] for _, task in sorted(server.held.items())]


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
    with pytest.raises(ExportError, match=r"project 1 .*document type"):
        pushed()
    assert server.opened.label_config == config


def test_tasks_are_created_in_the_order_of_a_list_of_images(server: FakeServer, tmp_path: Path) -> None:
    run = open_run(write_run(tmp_path / "run", [PHOTOS[:3], PHOTOS[3:]]), Storage())
    (tmp_path / "list.txt").write_text("3.jpg\n0.jpg\n4.jpg\n")
    options = {"url": "http://fake", "project": "dogs", "images": str(tmp_path / "list.txt")}
    done: list[tuple[int, int]] = []
    report = push_run(run, PushOptions.of(**options), lambda *counts: done.append(counts))
    assert counts(report) == (3, 0, 0, 0)
    assert done == [(1, 3), (2, 3), (3, 3)]
    assert [task.data["image_id"] for _, task in sorted(server.held.items())] == ["3.jpg", "0.jpg", "4.jpg"]
    again = push_run(run, PushOptions.of(**options), lambda *counts: None)
    assert counts(again) == (0, 0, 0, 3)


def test_several_processes_send_the_same_tasks(
    server: FakeServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    photos = [row(f"{i:02d}.jpg", found(score=0.5 + i / 100)) for i in range(20)]
    run = open_run(write_run(tmp_path / "run", [photos[i : i + 2] for i in range(0, 20, 2)]), Storage())
    options = PushOptions.of(url="http://fake", project="dogs")
    monkeypatch.setattr(Processes, "all_cores", lambda: Processes(2, at_once=True))
    assert counts(push_run(run, options, lambda *counts: None)) == (20, 0, 0, 0)
    assert [task.data["image_id"] for _, task in sorted(server.held.items())] == [photo.image_id for photo in photos]
    monkeypatch.setattr(Processes, "all_cores", Processes)
    # One process makes the same predictions: none is replaced.
    assert counts(push_run(run, options, lambda *counts: None)) == (0, 0, 0, 20)


def test_pushing_twice_changes_nothing(server: FakeServer) -> None:
    pushed()
    before = dict(server.held)
    report = pushed()
    assert counts(report) == (0, 0, 0, 5)
    assert server.held == before
    assert len(server.imports) == 1


def test_changed_predictions_are_replaced_and_equal_predictions_left_unchanged(server: FakeServer) -> None:
    pushed()
    report = pushed(score_threshold=0.53)
    assert counts(report) == (0, 0, 3, 2)
    assert versions(server) == [[INFO.model_version]] * 5
    assert [len(task.predictions[0].result) for _, task in sorted(server.held.items())] == [0, 0, 0, 1, 1]


def test_predictions_of_other_models_are_kept(server: FakeServer) -> None:
    pushed()
    newer = replace(INFO, model_version="newer-1")
    second = pushed(info=newer)
    assert counts(second) == (0, 5, 0, 0)
    assert (second.shown_before, second.shown_version) == (INFO.model_version, "newer-1")
    assert dict(second.table())["predictions shown"] == f"of newer-1 (before this push: {INFO.model_version})"
    unshown = pushed(score_threshold=0.53, show=False)
    assert counts(unshown) == (0, 0, 3, 2)
    assert dict(unshown.table())["predictions shown"] == "of newer-1"
    assert sorted(map(sorted, versions(server))) == [["newer-1", INFO.model_version]] * 5


def test_new_images_become_tasks_unless_they_failed(server: FakeServer) -> None:
    pushed(rows(*PHOTOS[:2]))
    report = pushed(rows(*PHOTOS, failed_row()))
    assert counts(report) == (3, 0, 0, 2)
    assert (report.images, report.failed, report.tasks) == (5, 1, 5)
    report = pushed(rows(*PHOTOS, failed_row()), include_failed=True)
    assert counts(report) == (1, 0, 0, 5)
    assert (report.images, report.tasks, report.predictions) == (5, 6, 5)


def test_without_new_tasks_only_existing_tasks_get_predictions(server: FakeServer) -> None:
    server.create_project("dogs", "<View></View>")
    server.hold({"image": "s3://bucket/photos/1.jpg"})
    report = pushed(new_tasks=False)
    assert counts(report) == (0, 1, 0, 0)
    assert (report.sent.without_task, report.tasks) == (4, 1)


@pytest.mark.parametrize(
    "data",
    [
        {"image": "s3://bucket/photos/1.jpg"},
        {"image": "s3://bucket/photos/%31.jpg"},
        {"image": "https://elsewhere/x", "image_id": "1.jpg"},
        {"image": "https://elsewhere/x", "file_name": "1.jpg"},
    ],
)
def test_tasks_are_matched_by_url_or_name(server: FakeServer, data: dict[str, str]) -> None:
    server.create_project("dogs", "<View></View>")
    server.hold({"image": "s3://bucket/photos/other.jpg", "image_id": "other.jpg"})
    number = server.hold(data)
    assert counts(pushed()) == (4, 1, 0, 0)
    assert len(server.held[number].predictions) == 1


def test_the_older_of_two_tasks_of_an_image_is_used_with_a_note(server: FakeServer) -> None:
    server.create_project("dogs", "<View></View>")
    numbers = [server.hold({"image": "s3://bucket/photos/1.jpg"}) for _ in range(2)]
    report = pushed()
    assert [len(server.held[number].predictions) for number in numbers] == [1, 0]
    assert report.warnings[0].startswith("1 tasks ")


def test_a_run_of_the_tasks_of_the_project_is_matched_by_task_number(server: FakeServer) -> None:
    server.create_project("dogs", TEAM)
    numbers = [server.hold({"photo": "/data/upload/1/x.jpg"}) for _ in range(2)]
    own = replace(INFO, task_numbers=True)
    image_rows = [row(f"{number}/x.jpg", found(), uri="https://fake/data/upload/1/x.jpg") for number in (*numbers, 99)]
    report = pushed(rows(*image_rows), info=own, project="1")
    assert counts(report) == (0, 2, 0, 0)
    assert (report.sent.without_task, len(server.held)) == (1, 2)


def test_an_existing_config_decides_names_and_missing_labels_are_refused(server: FakeServer) -> None:
    server.create_project("dogs", TEAM)
    pushed(rows(PHOTOS[0]))
    (task,) = server.held.values()
    assert task.data["photo"] == "s3://bucket/photos/0.jpg"
    assert {region["from_name"] for region in task.predictions[0].result} == {"box"}
    cat = row("cat.jpg", found("Cat", category_id=2, mid="/m/01yrx"))
    with pytest.raises(ExportError, match=r"project 1 \('dogs'\).*<RectangleLabels> .*Cat\b") as caught:
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


def test_a_missing_tool_is_reported_with_the_shape_that_would_fit(server: FakeServer) -> None:
    labels = '<Label value="Dog"/>'
    polygons = f'<PolygonLabels name="area" toName="photo">{labels}</PolygonLabels>'
    server.create_project("dogs", f'<View><Image name="photo" value="$photo"/>{polygons}</View>')
    with pytest.raises(ExportError, match=facts("<PolygonLabels>", "no <RectangleLabels>", "Dog")) as caught:
        pushed()
    assert "--shape" not in str(caught.value)  # without masks there are no polygons
    with pytest.raises(ExportError, match=facts("<PolygonLabels>", "no <RectangleLabels>", "--shape polygon")):
        pushed(info=replace(INFO, masks=True), shape="rectangle")


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


@pytest.mark.parametrize("loss", ["before", "after"])
def test_after_a_lost_response_only_missing_tasks_are_sent_again(server: FakeServer, loss: str) -> None:
    server.lose = ["", loss]
    assert counts(pushed(tasks_per_request=2)) == (5, 0, 0, 0)
    assert len(server.held) == 5
    server.lose = [loss]
    newer = replace(INFO, model_version="newer-1")
    assert counts(pushed(info=newer)) == (0, 5, 0, 0)
    server.lose = [loss]
    assert counts(pushed(info=newer, score_threshold=0.53)) == (0, 0, 3, 2)
    assert sorted(map(sorted, versions(server))) == [["newer-1", INFO.model_version]] * 5


def test_a_request_that_the_server_executes_late_leaves_no_duplicate_tasks(server: FakeServer) -> None:
    server.lose = ["late"]
    assert counts(pushed()) == (5, 0, 0, 0)
    assert sorted(task.data["image_id"] for task in server.held.values()) == [f"{i}.jpg" for i in range(5)]
    assert counts(pushed()) == (0, 0, 0, 5)


def test_an_unreachable_server_ends_the_push_and_the_next_push_resumes(server: FakeServer) -> None:
    server.lose = ["", "before", "before", "before"]
    with pytest.raises(PushError, match="the same command"):
        pushed(tasks_per_request=2)
    assert len(server.held) == 2
    assert counts(pushed()) == (3, 0, 0, 2)


def test_predictions_that_the_server_silently_drops_are_an_error(server: FakeServer) -> None:
    server.drop = 1
    with pytest.raises(PushError, match=r"5 tasks.* 5 predictions.* created 5 with 0"):
        pushed()
    with pytest.raises(PushError, match=r"5 predictions.* created 4"):
        pushed()


def test_missing_storages_are_reported(server: FakeServer) -> None:
    (warning,) = pushed().warnings
    assert "not shown" in warning
    assert tells(warning, "S3 bucket bucket", "--create-storage")
    local = row("a.jpg", found(), uri="/photos/a.jpg")
    assert "LOCAL_FILES_SERVING_ENABLED=true" in pushed(rows(local), project="1").warnings[0]
    server.local_storages = ["/photos"]
    assert pushed(rows(local), project="1").warnings == ()


def test_a_web_server_with_storage_in_its_name_must_allow_the_origin(server: FakeServer) -> None:
    image_rows = rows(row("a.jpg", found(), uri="https://storage.googleapis.com/bucket/a.jpg"))
    for create in (False, True):
        (warning,) = pushed(image_rows, create_storage=create).warnings
        assert tells(warning, "storage.googleapis.com", "CORS")


def test_a_storage_is_created_once_and_its_credentials_are_never_shown(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "AKIAXYZ")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s3cr3t")
    monkeypatch.setenv("AWS_ENDPOINT_URL", "http://minio:9000")
    for variable in ("AWS_SESSION_TOKEN", "AWS_REGION", "AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL_S3"):
        monkeypatch.delenv(variable, raising=False)
    report = pushed(create_storage=True)
    (created,) = server.created["s3"]
    assert created == {
        "bucket": "bucket",
        "presign": False,
        "aws_access_key_id": "AKIAXYZ",
        "aws_secret_access_key": "s3cr3t",
        "s3_endpoint": "http://minio:9000",
        "title": TITLE,
        "regex_filter": "(?!)",
        "use_blob_urls": False,
    }
    assert told(report.warnings, "S3 bucket bucket", "Sync")
    assert not any("not shown" in warning for warning in report.warnings)
    assert "s3cr3t" not in repr(report)
    assert pushed(create_storage=True).warnings == ()
    assert len(server.created["s3"]) == 1


def test_the_local_storage_is_the_folder_that_holds_all_images(server: FakeServer) -> None:
    image_rows = rows(*(row(name, found(), uri=f"/photos/{name}") for name in ("a/1.jpg", "a/b/2.jpg")))
    pushed(image_rows, create_storage=True)
    assert [fields["path"] for fields in server.created["local"]] == ["/photos/a"]
    server.created.clear()
    pushed(image_rows, create_storage=True, document_root="/photos")
    assert [fields["path"] for fields in server.created["local"]] == ["/photos/a"]
    # Without a common folder there is a storage per folder, since the document root itself is never served.
    apart = rows(*(row(name, found(), uri=f"/photos/{name}") for name in ("a/1.jpg", "c/2.jpg")))
    pushed(apart, create_storage=True, document_root="/photos")
    assert [fields["path"] for fields in server.created["local"]] == ["/photos/a", "/photos/c"]
    # The folder on another machine is known only if it is given.
    template = "/data/local-files/?d=shared/photos/"
    with pytest.raises(ConfigError, match=facts("--create-storage", "--document-root")):
        pushed(image_rows, create_storage=True, image_url=template)
    pushed(image_rows, create_storage=True, image_url=template, document_root="/data")
    assert server.created["local"][-1]["path"] == "/data/shared/photos/a"


AWS = (
    *("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_SESSION_TOKEN", "AWS_PROFILE", "AWS_REGION"),
    *("AWS_DEFAULT_REGION", "AWS_ENDPOINT_URL", "AWS_ENDPOINT_URL_S3"),
)


@pytest.fixture
def aws_files(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with AWS's two files, which the environment names; nothing else is set."""
    for variable in AWS:
        monkeypatch.delenv(variable, raising=False)
    monkeypatch.setenv("AWS_SHARED_CREDENTIALS_FILE", str(tmp_path / "credentials"))
    monkeypatch.setenv("AWS_CONFIG_FILE", str(tmp_path / "config"))
    return tmp_path


def test_credentials_of_aws_come_from_the_environment_and_from_profiles(
    aws_files: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert credentials("s3") == {}
    (aws_files / "credentials").write_text(
        "[default]\naws_access_key_id = d\naws_secret_access_key = e\n"
        "[team]\naws_access_key_id = t\naws_secret_access_key = s%\n"
    )
    assert credentials("s3") == {"aws_access_key_id": "d", "aws_secret_access_key": "e"}
    monkeypatch.setenv("AWS_PROFILE", "team")
    (aws_files / "config").write_text("[profile team]\nregion = eu-west-1\n")
    keys = {"aws_access_key_id": "t", "aws_secret_access_key": "s%"}
    assert credentials("s3") == {**keys, "region_name": "eu-west-1"}
    monkeypatch.setenv("AWS_REGION", "eu-west-2")
    assert credentials("s3") == {**keys, "region_name": "eu-west-2"}


def test_a_profile_with_a_credential_process_is_understood(aws_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    answer = '{"Version": 1, "AccessKeyId": "k", "SecretAccessKey": "s", "SessionToken": "t"}'
    (aws_files / "answer").write_text(answer)
    (aws_files / "config").write_text(f"[default]\ncredential_process = cat {aws_files / 'answer'}\n")
    expected = {"aws_access_key_id": "k", "aws_secret_access_key": "s", "aws_session_token": "t"}
    assert credentials("s3") == expected
    monkeypatch.setenv("AWS_PROFILE", "missing")
    with pytest.raises(ConfigError, match=facts("AWS", "missing")):
        credentials("s3")


def test_without_botocore_only_the_environment_counts(aws_files: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for module in ("botocore", "botocore.exceptions", "botocore.session"):
        monkeypatch.setitem(sys.modules, module, None)
    monkeypatch.setenv("AWS_PROFILE", "team")
    with pytest.raises(ConfigError, match=facts("AWS_PROFILE", "prelabel[s3]")):
        credentials("s3")
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", "k")
    monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", "s")
    assert credentials("s3") == {"aws_access_key_id": "k", "aws_secret_access_key": "s"}


def test_credentials_of_google_and_azure_come_from_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for variable in ("ACCOUNT_NAME", "ACCOUNT", "ACCOUNT_KEY", "KEY"):
        monkeypatch.delenv(f"AZURE_STORAGE_{variable}", raising=False)
    connection = "DefaultEndpointsProtocol=https;AccountName=a;AccountKey=k=="
    monkeypatch.setenv("AZURE_STORAGE_CONNECTION_STRING", connection)
    assert credentials("azure") == {"account_name": "a", "account_key": "k=="}
    file = tmp_path / "key.json"
    file.write_text('{"type": "service_account", "private_key": "x"}')
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    assert credentials("gcs") == {"google_application_credentials": file.read_text()}
    for text in ('{"type": "authorized_user", "refresh_token": "x-secret"}', "x-secret", "[]"):
        file.write_text(text)
        with pytest.raises(ConfigError, match=facts("GOOGLE_APPLICATION_CREDENTIALS", str(file))) as caught:
            credentials("gcs")
        assert "x-secret" not in str(caught.value)
    assert credentials("local") == {}


def test_a_storage_that_the_server_refuses_is_an_error_after_the_tasks_are_pushed(
    server: FakeServer, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any) -> None:
        raise PushError("cannot create the storage for s3 bucket: no such bucket")

    monkeypatch.setattr(server, "create_storage", refuse)
    with pytest.raises(PushError, match=facts("s3 bucket", "no such bucket", "tasks are pushed", "same command")):
        pushed(create_storage=True)
    assert len(server.held) == 5


def test_invalid_options_are_refused() -> None:
    for options, message in [
        ({"project": "x"}, facts("--url", "no")),
        ({"url": "host:8080", "project": "x"}, facts("--url", "'host:8080'")),
        ({"url": "http://host"}, facts("--project", "no")),
        (
            {"url": "http://host", "project": "x", "create_storage": True, "image_url": "/data/local-files/?d=a/"},
            facts("--create-storage", "--document-root"),
        ),
        ({"url": "http://host", "project": "x", "tasks_per_request": 0}, facts("tasks-per-request", "0")),
    ]:
        with pytest.raises(ConfigError, match=message):
            PushOptions.of(**options)


def test_the_token_comes_from_the_file_or_the_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    path = tmp_path / "token"
    monkeypatch.delenv("LABEL_STUDIO_API_KEY", raising=False)
    with pytest.raises(ConfigError, match="LABEL_STUDIO_API_KEY"):
        read_token("")
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", " from-environment\n")
    assert read_token("") == "from-environment"
    path.write_text("a.b-c_d\n")
    assert read_token(str(path)) == "a.b-c_d"
    path.write_text("secret words")
    with pytest.raises(ConfigError, match=r"token-file .*access token") as caught:
        read_token(str(path))
    assert "secret" not in str(caught.value)
    with pytest.raises(ConfigError, match=r"token-file .*none"):
        read_token(str(tmp_path / "none"))


def test_regions_are_in_the_browser_frame(server: FakeServer) -> None:
    # A dog on the left half of the displayed 4 x 6 pixels (height x width). Browsers ignore orientation 6 here: they
    # show 6 x 4 pixels, with the dog in the lower half.
    rotated = replace(row("a.webp", found()), exif_orientation=6, browser_orientation=1)
    report = pushed(rows(rotated, PHOTOS[0]), score_threshold=0.3)
    ((region,), _) = [task.predictions[0].result for _, task in sorted(server.held.items())]
    assert (region["original_width"], region["original_height"]) == (4, 6)
    assert {name: region["value"][name] for name in ("x", "y", "width", "height")} == {
        **{"x": 0.0, "y": 50.0, "width": 100.0, "height": 50.0}
    }
    assert any("1 of 2 images" in note and "'a.webp'" in note for note in report.warnings)
    assert counts(pushed(rows(rotated, PHOTOS[0]), score_threshold=0.3)) == (0, 0, 0, 2)
