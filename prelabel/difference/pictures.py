"""Reads the images that changed most again, for the page."""

from __future__ import annotations

import os
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace

import numpy as np

from prelabel.difference.tally import ChangedImage
from prelabel.errors import PrelabelError
from prelabel.export.from_run import rows_to_fetch
from prelabel.frames import BROWSER
from prelabel.gallery.renditions import renditions_of
from prelabel.storage.address import redact
from prelabel.store.run import Run
from prelabel.words import counted

#: Longer side of a picture in pixels: two are shown side by side.
PICTURE_SIDE = 640


def read_pictures(
    images: Sequence[ChangedImage], run: Run, links: Sequence[str]
) -> tuple[Mapping[str, bytes | str], tuple[str, ...]]:
    """Read images of B again, in threads.

    Args:
        images: The images.
        run: B.
        links: Lists of signed URLs, see `rows_to_fetch`.

    Returns:
        By image id, a JPEG as browsers show the file, or one line that says why the image cannot be read; and notes for
        the user.
    """
    if not images:
        return {}, ()
    rows, notes = rows_to_fetch(run, run.rows, links)
    starts = np.cumsum([0, *(count for _, count in rows.shards)])

    def read(image: ChangedImage) -> bytes | str:
        facts = image.facts
        number = int(np.searchsorted(starts, image.position_in_b, side="right")) - 1
        if rows.links is not None:
            uris = rows.links.of(rows.shards[number][0])
            facts = replace(facts, uri=uris.get(image.position_in_b - int(starts[number]), facts.uri))
        try:
            renditions = renditions_of(facts.in_frame(BROWSER), PICTURE_SIDE, PICTURE_SIDE, run.storage)
        except PrelabelError as error:  # the figures are worth more than a picture
            renditions = str(error)
        return redact(renditions) if isinstance(renditions, str) else renditions[0]

    with ThreadPoolExecutor(max(4, os.cpu_count() or 1), thread_name_prefix="diff") as executor:
        pictures = {
            image.facts.image_id: picture for image, picture in zip(images, executor.map(read, images), strict=True)
        }
    unreadable = sum(isinstance(picture, str) for picture in pictures.values())
    if unreadable:
        notes.append(f"{counted(unreadable, 'image')} cannot be read again: the page says why")
    return pictures, tuple(notes)
