"""`prelabel push label-studio` against a real server, with its checks of predictions on."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest

from prelabel.errors import PushError
from prelabel.export.base import RunInfo
from prelabel.label_studio.options import PushOptions
from prelabel.label_studio.push import PushReport, push
from prelabel.storage.files import Storage
from prelabel.store.run import Run, open_run
from tests.rows import INFO, found, row, rows
from tests.tools.conftest import Photos
from tests.tools.label_studio import ROOT, Server


@pytest.fixture
def token(label_studio: Server, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", label_studio.token)
    return label_studio.token


def pushed(server: Server, run: Run, photos: Photos, title: str, **options: Any) -> PushReport:
    chosen = PushOptions.of(url=server.url, project=title, document_root=str(photos.root), **options)
    return push(RunInfo.of(run), run.rows, chosen, run.storage)


def counts(report: PushReport) -> tuple[int, int, int, int]:
    return report.sent.new_tasks, report.sent.added, report.sent.replaced, report.sent.unchanged


def number_of(report: PushReport) -> int:
    return int(report.url.rpartition("/")[2])


def test_both_detectors_go_into_one_project_twice_and_the_counts_stay(
    label_studio: Server, token: str, photos: Photos
) -> None:
    mask, ssd = photos.runs["mask"], photos.runs["ssd"]
    options = {"shape": "rectangle", "score_threshold": 0.3}
    team = {**options, "class_map": {"Airplane": "airplane"}}
    first = pushed(label_studio, mask, photos, "both", **options, labels="all")
    assert counts(first) == (80, 0, 0, 0)
    second = pushed(label_studio, ssd, photos, "both", **team, unlisted="drop")
    assert counts(second) == (0, 80, 0, 0)
    project = label_studio.api("GET", f"projects/{number_of(first)}/")
    assert project["model_version"] == ssd.record.detector.model_version
    before = label_studio.tasks(number_of(first))
    assert counts(pushed(label_studio, mask, photos, "both", **options)) == (0, 0, 0, 80)
    assert counts(pushed(label_studio, ssd, photos, "both", **team, unlisted="drop")) == (0, 0, 0, 80)
    after = label_studio.tasks(number_of(first))
    assert (len(after), second.tasks, second.predictions) == (80, 80, 160)
    assert [[prediction["id"] for prediction in task["predictions"]] for task in after] == [
        [prediction["id"] for prediction in task["predictions"]] for task in before
    ]


def test_another_threshold_replaces_what_it_changes(label_studio: Server, token: str, photos: Photos) -> None:
    run = photos.runs["mask"]
    first = pushed(label_studio, run, photos, "threshold", shape="brush", score_threshold=0.5)
    assert counts(first) == (80, 0, 0, 0)
    again = pushed(label_studio, run, photos, "threshold", shape="brush", score_threshold=0.7)
    assert again.sent.replaced > 20
    assert again.sent.replaced + again.sent.unchanged == 80
    assert (again.tasks, again.predictions) == (80, 80)
    tasks = label_studio.tasks(number_of(again))
    kept = sum(int((row.detections.score >= 0.7).sum()) for row in run.rows() if row.detections is not None)
    assert sum(len(task["predictions"][0]["result"]) for task in tasks) == kept == again.detections


def test_a_killed_push_resumes_without_duplicates(label_studio: Server, token: str, photos: Photos) -> None:
    command = [sys.executable, "-m", "prelabel", "push", "label-studio", photos.runs["mask"].output]
    command += ["--url", label_studio.url, "--project", "killed", "--shape", "rectangle", "--tasks-per-request", "7"]
    command += ["--document-root", str(photos.root)]
    environment = {**os.environ, "LABEL_STUDIO_API_KEY": token}

    def held() -> int:
        projects = label_studio.api("GET", "projects/?title=killed")["results"]
        return int(projects[0]["task_number"]) if projects else 0

    for enough in (7, 35):
        process = subprocess.Popen(command, cwd=ROOT, env=environment, stdout=subprocess.DEVNULL)
        while held() < enough and process.poll() is None:
            time.sleep(0.02)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert 0 < held() < 80
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert held() == 80
    assert token not in done.stdout + done.stderr
    (project,) = label_studio.api("GET", "projects/?title=killed")["results"]
    names = [task["data"]["image_id"] for task in label_studio.tasks(project["id"])]
    assert len(set(names)) == len(names) == 80
    again = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=True)
    assert "unchanged                   80" in again.stdout
    assert project["total_predictions_number"] == 80


def test_a_personal_access_token_opens_the_server_too(
    label_studio: Server, token: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    label_studio.api("POST", "jwt/settings", {"api_tokens_enabled": True, "legacy_api_tokens_enabled": True})
    personal = label_studio.api("POST", "token/", {})["token"]
    assert personal.count(".") == 2
    path = tmp_path / "token"
    path.write_text(personal + "\n")
    monkeypatch.delenv("LABEL_STUDIO_API_KEY")
    options = PushOptions(url=label_studio.url, project="personal", token_file=str(path))
    assert push(INFO, rows(row("a.jpg", found())), options, Storage()).sent.new_tasks == 1


def test_a_wrong_token_and_an_absent_server_are_one_clear_line(
    label_studio: Server, monkeypatch: pytest.MonkeyPatch
) -> None:
    image_rows = rows(row("a.jpg", found()))
    monkeypatch.setenv("LABEL_STUDIO_API_KEY", "0123456789abcdef0123456789abcdef01234567")
    with pytest.raises(PushError, match="answered 401: Invalid token") as caught:
        push(INFO, image_rows, PushOptions(url=label_studio.url, project="1"), Storage())
    assert "0123456789abcdef" not in str(caught.value)
    assert "\n" not in str(caught.value)
    with pytest.raises(PushError, match=r"http://127\.0\.0\.1:9 does not answer"):
        push(INFO, image_rows, PushOptions(url="http://127.0.0.1:9", project="1"), Storage())


def test_annotations_and_tasks_of_people_stay(label_studio: Server, token: str) -> None:
    image_rows = [row(f"{i}.jpg", found(score=0.5 + i / 10)) for i in range(3)]
    first = push(INFO, rows(*image_rows), PushOptions(url=label_studio.url, project="people"), Storage())
    project = number_of(first)
    task = label_studio.tasks(project)[0]
    result = task["predictions"][0]["result"]
    label_studio.api("POST", f"tasks/{task['id']}/annotations/", {"result": result})
    label_studio.api("POST", f"projects/{project}/import", [{"data": {"image": "s3://mine/x.jpg"}}])
    again = PushOptions.of(url=label_studio.url, project=str(project), score_threshold=0.65)
    assert counts(push(INFO, rows(*image_rows), again, Storage())) == (0, 0, 2, 1)
    tasks = label_studio.tasks(project)
    assert [len(task["annotations"]) for task in tasks] == [1, 0, 0, 0]
    assert tasks[0]["annotations"][0]["result"] == result
    assert [len(task["predictions"]) for task in tasks] == [1, 1, 1, 0]


def test_an_empty_project_gets_tools_and_an_unknown_number_is_refused(label_studio: Server, token: str) -> None:
    project = label_studio.api("POST", "projects/", {"title": "by hand"})["id"]
    report = push(INFO, rows(row("a.jpg", found())), PushOptions(url=label_studio.url, project="by hand"), Storage())
    assert (number_of(report), report.created_project) == (project, False)
    assert "RectangleLabels" in label_studio.api("GET", f"projects/{project}/")["label_config"]
    with pytest.raises(PushError, match=r"cannot open project 99999: .* answered 404"):
        push(INFO, rows(row("a.jpg")), PushOptions(url=label_studio.url, project="99999"), Storage())


def test_the_tasks_of_a_project_are_labelled_and_predictions_go_back_by_their_numbers(
    label_studio: Server, token: str, photos: Photos, tmp_path: Path, assets: Path
) -> None:
    """One image is a file of the server, one was uploaded; neither task says anything of an image id."""
    import urllib.request

    config = '<View><Image name="pic" value="$photo"/><RectangleLabels name="box" toName="pic">{}'
    config += "</RectangleLabels></View>"
    labels = ("person", "bowl", "pizza", "dining table")
    project = label_studio.project(config.format("".join(f'<Label value="{name}"/>' for name in labels)), "own")
    label_studio.serve(project, photos.root / "odd \u00fc")
    quoted = "odd%20%C3%BC/recurser__Portrait_6.jpg"
    label_studio.api("POST", f"projects/{project}/import", [{"data": {"photo": f"/data/local-files/?d={quoted}"}}])
    name, photo = "up load.jpg", (photos.root / "coco val" / "000000020992.jpg").read_bytes()
    body = b'--x\r\nContent-Disposition: form-data; name="f"; filename="%s"\r\n\r\n%s\r\n--x--\r\n'
    request = urllib.request.Request(  # noqa: S310 - the server started here
        f"{label_studio.url}/api/projects/{project}/import",
        data=body % (name.encode(), photo),
        headers={"Authorization": f"Token {token}", "Content-Type": "multipart/form-data; boundary=x"},
    )
    urllib.request.urlopen(request, timeout=60).close()  # noqa: S310
    before = label_studio.tasks(project)
    assert [len(task["predictions"]) for task in before] == [0, 0]
    models = assets / "models"
    source = label_studio.url.replace("http://", "label-studio://") + f"/{project}"
    command = [sys.executable, "-m", "prelabel", "label", source, "--detector", models / "maskrcnn-tf2"]
    command += ["--label-map", "coco", "--output", tmp_path / "run", "--ray-address", "local", "--workers", "1"]
    environment = {**os.environ, "LABEL_STUDIO_API_KEY": token}
    done = subprocess.run(list(map(str, command)), cwd=ROOT, env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert token not in done.stdout + done.stderr + (tmp_path / "run" / "run.json").read_text()
    run = open_run(str(tmp_path / "run"), Storage())
    assert [row.error for row in run.rows()] == [None, None]
    assert [row.image_id.partition("/")[0] for row in run.rows()] == [str(task["id"]) for task in before]
    options = PushOptions.of(url=label_studio.url, project=str(project), unlisted="drop", score_threshold=0.5)
    assert counts(push(RunInfo.of(run), run.rows, options, run.storage)) == (0, 2, 0, 0)
    after = label_studio.tasks(project)
    assert [task["data"] for task in after] == [task["data"] for task in before]
    for task in after:
        (prediction,) = task["predictions"]
        assert "person" in [region["value"]["rectanglelabels"][0] for region in prediction["result"]]
    assert counts(push(RunInfo.of(run), run.rows, options, run.storage)) == (0, 0, 0, 2)
