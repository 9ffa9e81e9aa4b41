"""Takes the screenshots of the tutorial anew: `python -m tests.docs.screenshots`, from the root of the repository.

It needs Label Studio in `.venv-label-studio`, Chromium and playwright (`make test-tools-setup`), and writes
`docs/images/*.png`. The photos are synthetic scenes; the corrections are made through the server's API.
"""

from __future__ import annotations

import copy
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from PIL import Image

from tests.docs.blocks import ROOT
from tests.tools.browser import signed_in
from tests.tools.label_studio import Server, running

#: As short as the paths of a tutorial are; the server shows it.
FOLDER = Path("/srv/tutorial")
IMAGES = ROOT / "docs" / "images"
SIZE = {"width": 1200, "height": 750}
TITLE = "My photos"


def main() -> None:
    """Take all screenshots."""
    shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True)
    prelabel("synth", "--images", "40", "--seed", "3", "--to", "photos")
    prelabel("label", "photos", "--detector", "demo-shapes", "--output", "out/run", "--runner", "local", "--quiet")
    prelabel("preview", "out/run", "--to", "out/preview")
    with tempfile.TemporaryDirectory() as data, running(Path(data), FOLDER) as server:
        os.environ["LABEL_STUDIO_API_KEY"] = server.token
        push = ("push", "label-studio", "out/run", "--url", server.url, "--project", TITLE)
        prelabel(*push, "--create-storage", "--score-threshold", "0.4")
        server.project("<View><Image name='image' value='$image'/></View>", "Other photos")
        with signed_in(server) as context:
            page = context.new_page()
            page.set_viewport_size(SIZE)
            page.goto((FOLDER / "out/preview/index.html").as_uri())
            page.wait_for_timeout(2000)
            take(page, "preview")
            page.goto(f"{server.url}/projects/1/settings/storage")
            page.get_by_role("button", name="Sync Storage").wait_for(timeout=60_000)
            page.wait_for_timeout(1000)
            take(page, "sync")
            show_tasks(page, server)
            connect_storage(page, server)
            correct(server)
            annotations = server.api("GET", "projects/1/export?exportType=JSON")
            (FOLDER / "annotations.json").write_text(json.dumps(annotations))
            prelabel("compare", "--predictions", "out/run", "--annotations", "annotations.json")
            page.goto((FOLDER / "out/run/comparison/comparison.html").as_uri())
            page.wait_for_timeout(1000)
            take(page, "comparison")


def prelabel(*arguments: str) -> None:
    """Run a command in the folder of the tutorial."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    subprocess.run([sys.executable, "-m", "prelabel", *arguments], cwd=FOLDER, env=environment, check=True)


def take(page: Any, name: str) -> None:
    """Save a screenshot with a palette, which is a third of the size and looks the same."""
    path = IMAGES / f"{name}.png"
    page.screenshot(path=path)
    with Image.open(path) as image:
        image.convert("RGB").quantize(256, dither=Image.Dither.NONE).save(path, optimize=True)
    print(f"{path.name}: {path.stat().st_size:,} bytes")


def connect_storage(page: Any, server: Server) -> None:
    """Add the folder of photos as a source storage of another project, without a sync."""
    page.goto(f"{server.url}/projects/2/settings/storage")
    page.wait_for_timeout(3000)
    _press(page, "Add Source Storage")
    page.locator("text=Local Files").locator("visible=true").first.click()
    _press(page, "Next")
    page.fill("input[name=title]", "Photos")
    page.fill("input[name=path]", str(FOLDER / "photos"))
    _press(page, "Test Connection")
    take(page, "storage")
    _press(page, "Next")
    _press(page, "Next")
    take(page, "save-not-sync")
    _press(page, "Save", exact=True)


def show_tasks(page: Any, server: Server) -> None:
    """The list of tasks, and one of them open."""
    page.goto(f"{server.url}/projects/1/data")
    page.wait_for_timeout(5000)
    take(page, "tasks")
    page.goto(f"{server.url}/projects/1/data?task=5")
    page.get_by_role("button", name="Submit").wait_for(timeout=60_000)
    page.wait_for_timeout(3000)
    take(page, "labeling")


def correct(server: Server) -> None:
    """Annotate every task as a person would: most regions stay, some are deleted, moved or relabeled."""
    chance = random.Random(0)
    for task in server.tasks(1):
        result = copy.deepcopy(task["predictions"][0]["result"])
        kept = [region for region in result if chance.random() > 0.12]
        for region in kept:
            if chance.random() < 0.15 and "points" in region["value"]:
                region["value"]["points"] = [[x + 0.8, y] for x, y in region["value"]["points"]]
        annotation = {"result": kept, "lead_time": round(chance.uniform(4, 30), 1)}
        server.api("POST", f"tasks/{task['id']}/annotations/", annotation)


def _press(page: Any, text: str, *, exact: bool = False) -> None:
    page.get_by_role("button", name=text, exact=exact).locator("visible=true").first.click()
    page.wait_for_timeout(2500)


if __name__ == "__main__":
    main()
