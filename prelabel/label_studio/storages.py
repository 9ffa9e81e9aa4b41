"""Source storages of a Label Studio project, through which annotators' browsers get the images.

Tasks point to images by `s3://`, `gs://` and `azure-blob://` URLs or by paths of local files. Label Studio shows such
an image only if the project has a source storage for its bucket, container or folder. `provide_storages` finds what is
missing, and creates it or says so.

Such a storage only serves images; it must not be synced. Label Studio's Sync knows only the keys that it has synced
itself, not the tasks of the project: it would create a second task, without predictions, for each image that was
pushed. Storages that are created here therefore have a file filter that no key matches, so that Sync finds nothing, and
the import method for JSON files, so that Sync fails instead of duplicating tasks if somebody removes the filter.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from prelabel.errors import ConfigError, PushError
from prelabel.label_studio.client import Server
from prelabel.label_studio.image_url import ImageUrls
from prelabel.storage.s3 import aws_settings

TITLE = "Images for prelabel's tasks (Sync adds nothing)"

#: A regular expression that matches no key.
_NO_KEY = r"(?!)"

_NAMES = {"s3": "S3 bucket", "gcs": "GCS bucket", "azure": "Azure container", "local": "local folder"}


def provide_storages(server: Server, project: int, urls: ImageUrls, *, create: bool) -> list[str]:
    """Find the source storages that the images need and the project does not have; create them or say so.

    Credentials are read from the environment and the files that it names, and sent to the server alone.

    Args:
        server: The server.
        project: Number of the project.
        urls: Has given the images and display copies their URLs in the tasks.
        create: Whether to create the storages.

    Returns:
        What the user should know, one line each.

    Raises:
        ConfigError: Credentials cannot be read.
        PushError: The server refuses to create a storage, most often because it cannot open the bucket or folder.
    """
    notes = [f"Label Studio needs {need}" for need in urls.needs if need not in urls.storage_needs]
    for kind, name in urls.places:
        try:
            served = server.storages(project, kind)
        except PushError:
            if create:
                raise
            # Some users may import tasks but not list storages.
            continue
        if any(_serves(kind, other, name) for other in served):
            continue
        if create:
            notes += _create(server, project, kind, name)
        else:
            notes.append(
                f"images are not shown yet: {_missing(kind, name, urls)}. --create-storage creates it. Do not sync a "
                "storage of the images: Sync would duplicate the pushed tasks"
            )
    return notes


def _create(server: Server, project: int, kind: str, name: str) -> list[str]:
    fields = {**_location_fields(kind, name), **credentials(kind)}
    fixed = {"title": TITLE, "regex_filter": _NO_KEY, "use_blob_urls": False}
    try:
        server.create_storage(project, kind, {**fields, **fixed})
    except PushError as error:
        raise PushError(
            f"{error}. The tasks are pushed, but their images are not shown: fix this and run the same command"
        ) from None
    notes = [
        f"created a source storage for {_NAMES[kind]} {name}. It only shows images: its Sync adds no tasks, since that "
        "would duplicate the pushed ones"
    ]
    if fields.get("aws_session_token"):
        notes.append("its AWS credentials are temporary: images disappear when they expire")
    return notes


def _missing(kind: str, name: str, urls: ImageUrls) -> str:
    if kind != "local":
        return f"the project has no source storage for {_NAMES[kind]} {name}"
    local = [f"Label Studio needs {need}" for need in urls.storage_needs]
    return "; ".join(local) or "the project has no source storage for local files"


def credentials(kind: str) -> dict[str, str]:
    """The credentials for a kind of storage from the environment, as fields of Label Studio's API.

    Args:
        kind: `s3`, `gcs`, `azure` or `local`.

    Returns:
        The fields, without those that are not set: Label Studio then uses its own credentials.

    Raises:
        ConfigError: A file that the environment names cannot be used; its content is not quoted.
    """
    fields = {"s3": _s3, "gcs": _gcs, "azure": _azure}.get(kind, dict)()
    return {name: value for name, value in fields.items() if value}


def _s3() -> dict[str, str]:
    return {
        **aws_settings(),
        "s3_endpoint": os.environ.get("AWS_ENDPOINT_URL_S3") or os.environ.get("AWS_ENDPOINT_URL", ""),
    }


def _gcs() -> dict[str, str]:
    file = os.environ.get("GOOGLE_APPLICATION_CREDENTIALS", "")
    if not file:
        return {}
    try:
        text = Path(file).expanduser().read_text(encoding="utf-8")
        kind = json.loads(text).get("type")
    except (OSError, UnicodeDecodeError, ValueError, AttributeError):
        raise ConfigError(f"GOOGLE_APPLICATION_CREDENTIALS names {file}, which cannot be read as a JSON key") from None
    if kind != "service_account":
        raise ConfigError(
            f"GOOGLE_APPLICATION_CREDENTIALS names {file}, which is not the key of a service account, as Label Studio "
            "needs it. Name one, or unset the variable if the server has its own credentials"
        )
    return {"google_application_credentials": text}


def _azure() -> dict[str, str]:
    parts = os.environ.get("AZURE_STORAGE_CONNECTION_STRING", "").split(";")
    connection = dict(part.split("=", 1) for part in parts if "=" in part)
    names = ("AZURE_STORAGE_ACCOUNT_NAME", "AZURE_STORAGE_ACCOUNT")
    keys = ("AZURE_STORAGE_ACCOUNT_KEY", "AZURE_STORAGE_KEY")
    return {
        "account_name": _first(names) or connection.get("AccountName", ""),
        "account_key": _first(keys) or connection.get("AccountKey", ""),
    }


def _first(names: Sequence[str]) -> str:
    return next((value for name in names if (value := os.environ.get(name))), "")


def _location_fields(kind: str, name: str) -> dict[str, Any]:
    if kind == "local":
        return {"path": name}
    # Without presigned URLs the images come through the server itself, and the bucket needs no CORS rule.
    return {"container" if kind == "azure" else "bucket": name, "presign": False}


def _serves(kind: str, served: str, needed: str) -> bool:
    """Whether a storage of the project serves what the images need; any local one may, if their folder is unknown."""
    if kind == "local":
        return not needed or f"{needed}/".startswith(served.rstrip("/") + "/")
    return needed == served
