"""A real Label Studio server on loopback with SQLite, from a virtual environment of its own.

`make test-tools` makes that environment at `.venv-label-studio`; `LABEL_STUDIO_VENV` names another one.
"""

from __future__ import annotations

import json
import os
import secrets
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[2]

#: The server's own checks of predictions refuse an import with it, and only log without.
VALIDATION_FLAG = "fflag_feat_utc_210_prediction_validation_15082025"

_SECONDS_TO_START = 240


def venv() -> Path | None:
    """Where the server is installed, or None."""
    folder = Path(os.environ.get("LABEL_STUDIO_VENV", ROOT / ".venv-label-studio"))
    return folder if (folder / "bin" / "label-studio").exists() else None


@dataclass(frozen=True)
class Server:
    """A running server.

    Attributes:
        url: Its address.
        token: A legacy token of its only user.
        document_root: The folder below which it serves local files.
        user: E-mail address and password of its only user.
    """

    url: str
    token: str
    document_root: Path
    user: tuple[str, str]

    def api(self, method: str, path: str, body: Any = None) -> Any:
        """The answer to one request, decoded; raises urllib.error.HTTPError."""
        request = urllib.request.Request(  # noqa: S310 - the server started here
            f"{self.url}/api/{path}",
            method=method,
            data=None if body is None else json.dumps(body).encode(),
            headers={"Authorization": f"Token {self.token}", "Content-Type": "application/json"},
        )
        with urllib.request.urlopen(request, timeout=300) as answer:  # noqa: S310
            content = answer.read()
        return json.loads(content) if content else None

    def project(self, config: str, title: str = "test") -> int:
        """A new project with a labelling config."""
        return int(self.api("POST", "projects/", {"title": title, "label_config": config})["id"])

    def serve(self, project: int, folder: Path) -> None:
        """Let the project show the files of a folder below the document root."""
        self.api("POST", "storages/localfiles", {"project": project, "path": str(folder), "use_blob_urls": True})

    def tasks(self, project: int) -> list[dict[str, Any]]:
        """All tasks of a project with their predictions, by id."""
        tasks: list[dict[str, Any]] = []
        page = 1
        while True:
            answer = self.api("GET", f"tasks/?project={project}&fields=all&page={page}&page_size=200&resolve_uri=false")
            tasks += answer["tasks"]
            if len(tasks) >= answer["total"]:
                return sorted(tasks, key=lambda task: int(task["id"]))
            page += 1


@contextmanager
def running(folder: Path, document_root: Path, environment: Mapping[str, str] | None = None) -> Iterator[Server]:
    """A server with its data in `folder`; it is ended when the block ends.

    The migrations of an empty database take half a minute: the migrated database is kept in the environment.
    """
    place = venv()
    if place is None:
        raise RuntimeError("Label Studio is not installed: make test-tools")
    folder.mkdir(parents=True, exist_ok=True)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    user, token = ("annotator@example.com", secrets.token_hex(12)), secrets.token_hex(20)
    migrated, database = place / "migrated.sqlite3", folder / "label_studio.sqlite3"
    if migrated.exists():
        shutil.copy(migrated, database)
    else:
        _migrate(place, folder)
        shutil.copy(database, migrated)
    url = f"http://127.0.0.1:{port}"
    command = [str(place / "bin" / "label-studio"), "start", "--no-browser", "--internal-host", "127.0.0.1"]
    command += ["--port", str(port), "--enable-legacy-api-token"]
    with (folder / "server.log").open("ab") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=log,
            stdin=subprocess.DEVNULL,
            cwd=folder,
            env={
                **_environment(folder),
                "LABEL_STUDIO_HOST": url,
                "LABEL_STUDIO_USERNAME": user[0],
                "LABEL_STUDIO_PASSWORD": user[1],
                "LABEL_STUDIO_USER_TOKEN": token,
                "LABEL_STUDIO_LOCAL_FILES_SERVING_ENABLED": "true",
                "LABEL_STUDIO_LOCAL_FILES_DOCUMENT_ROOT": str(document_root),
                **(environment or {}),
            },
        )
    try:
        _wait(process, url, folder)
        yield Server(url, token, document_root, user)
    finally:
        process.terminate()
        try:
            process.wait(20)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


def _environment(folder: Path) -> dict[str, str]:
    passed = {name: os.environ[name] for name in ("PATH", "HOME", "LANG", "TMPDIR") if name in os.environ}
    return {
        **passed,
        "LABEL_STUDIO_BASE_DATA_DIR": str(folder),
        "LATEST_VERSION_CHECK": "false",
        "COLLECT_ANALYTICS": "false",
        "SENTRY_DSN": "",
        "FRONTEND_SENTRY_DSN": "",
        VALIDATION_FLAG: "true",
    }


def _migrate(place: Path, folder: Path) -> None:
    manage = next((place / "lib").glob("python3*/site-packages/label_studio/manage.py"))
    command = [str(place / "bin" / "python"), str(manage), "migrate", "--no-color", "-v", "0"]
    subprocess.run(command, env=_environment(folder), cwd=folder, check=True, capture_output=True, timeout=600)


def _wait(process: subprocess.Popen[bytes], url: str, folder: Path) -> None:
    end = time.monotonic() + _SECONDS_TO_START
    while time.monotonic() < end:
        if process.poll() is not None:
            break
        try:
            with urllib.request.urlopen(f"{url}/health", timeout=5) as answer:  # noqa: S310
                if answer.status == 200:
                    return
        except (urllib.error.URLError, OSError):
            time.sleep(0.3)
    log = (folder / "server.log").read_text(errors="replace")
    raise RuntimeError(f"Label Studio did not start:\n{log[-2000:]}")
