"""`ImageRef`: the identity and location of an image.

Listing a source finds the images, the plan stores them, and workers fetch them. The class has its own module because
`source`, `store` and `engine` all use it.
"""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class ImageRef:
    """One image of a source.

    Attributes:
        image_id: The image's name in all output: the path below the source root, or the name that a list gives it.
        uri: The full URL or path; `tar://KEY::ARCHIVE` for an image inside an archive, see `address.member_url`.
        file_name: The path below the source root (COCO's `file_name`), even if a list gives an `image_id`.
        size: Bytes, or None if the listing does not report them.
        version: Identifies the content: the ETag of an object, or `mtime_ns-<nanoseconds>` of a file on disk. For an
            image inside an archive, the version of the archive.
        location: Where the image lies inside its archive, in the terms of the archive's format (`source/archives/`);
            None for a file of its own.
        revision: How often the image has changed since it was first planned; the row of each revision is another.
        is_gone: Whether its row is a failed one because the image is no longer in the source.
    """

    image_id: str
    uri: str
    file_name: str
    size: int | None = None
    version: str | None = None
    location: str | None = None
    revision: int = 0
    is_gone: bool = False
