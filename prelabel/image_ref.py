"""`ImageRef`: which image, and where; what a listing finds, a plan stores and a worker fetches."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One image of a source.

    Attributes:
        image_id: The image's name in everything that is written: the path below the source root, or what a list says.
        uri: Its full address.
        file_name: The path below the source root (COCO's `file_name`), also where a list gives an `image_id`.
        size: Bytes, where the listing tells.
        version: What identifies the content: the ETag of an object, `mtime_ns-<nanoseconds>` of a file on a disk.
    """

    image_id: str
    uri: str
    file_name: str
    size: int | None = None
    version: str | None = None
