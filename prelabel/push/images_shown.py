"""Whether the project has the source storages without which its images are not shown."""

from __future__ import annotations

from collections.abc import Iterable

from prelabel.errors import PushError
from prelabel.export.image_url import LOCAL_FILES
from prelabel.push.server import Server

#: What the addresses of a kind of storage begin with.
_SCHEMES = {"s3://": "s3", "gs://": "gcs", "azure-blob://": "azure"}


def place_of(address: str) -> tuple[str, str] | None:
    """The kind of source storage that an image's address needs, and its bucket; None where it needs none."""
    if address.startswith(LOCAL_FILES):
        return "local", ""
    for scheme, kind in _SCHEMES.items():
        if address.startswith(scheme):
            return kind, address[len(scheme) :].partition("/")[0]
    return None


def missing_storages(
    server: Server, project: int, places: Iterable[tuple[str, str]], needs: Iterable[str]
) -> list[str]:
    """A line for each source storage that the images pushed need and the project does not have.

    Args:
        server: The server.
        project: The project.
        places: What `place_of` said of the images.
        needs: What the export says of them; of storages only those are said that are missing.
    """
    needs = list(needs)
    lines = [f"Label Studio needs {need}" for need in needs if "storage" not in need]
    for kind, bucket in places:
        try:
            served = server.storages(project, kind)
        except PushError:
            # Not everybody who may import tasks may see the storages.
            continue
        if kind == "local" and not served:
            local = [f"Label Studio needs {need}" for need in needs if "storage" in need]
            reasons = local or ["the project has no source storage for local files"]
            lines += [f"images are not shown yet: {reason}" for reason in reasons]
        elif kind != "local" and bucket not in served:
            lines.append(f"images are not shown yet: the project has no source storage for {kind} bucket {bucket}")
    return lines
