"""Which annotated image is which image of the run: by its id, by the end of its path, or by its bare name.

run: photos/a.jpg
annotated                                     found by
image_id photos/a.jpg                         id
https://host/set/photos/a.jpg                 end of the path
0001/a.png (as COCO has it)                   name without folder and ending, if nothing else is called a
"""

from __future__ import annotations

from collections.abc import Sequence

from prelabel.compare.annotated import AnnotatedImage
from prelabel.export.image_ids import stem
from prelabel.store.rows import ImageRow


class ImageFinder:
    """Finds the annotated image of each row; an image is found once."""

    def __init__(self, images: Sequence[AnnotatedImage]) -> None:
        self._images = images
        self._by_id = {one.image_id: number for number, one in enumerate(images) if one.image_id}
        self._by_name: dict[str, list[int]] = {}
        for number, one in enumerate(images):
            if not one.image_id:
                self._by_name.setdefault(stem(one.path), []).append(number)
        self._taken: set[int] = set()

    def find(self, row: ImageRow) -> AnnotatedImage | None:
        """The annotated image of a row, or None."""
        number = self._number(row)
        if number is None or number in self._taken:
            return None
        self._taken.add(number)
        return self._images[number]

    @property
    def left(self) -> list[AnnotatedImage]:
        """Annotated images that no row was."""
        return [one for number, one in enumerate(self._images) if number not in self._taken]

    def _number(self, row: ImageRow) -> int | None:
        for name in (row.image_id, row.file_name):
            if name in self._by_id:
                return self._by_id[name]
        for name in dict.fromkeys((row.file_name, row.image_id)):
            candidates = self._by_name.get(stem(name), [])
            at_end = [n for n in candidates if f"/{self._images[n].path}".endswith(f"/{name}")]
            # The longest path is no better than another: of several that end so none is surely the one.
            if len(at_end) == 1:
                return at_end[0]
            if len(candidates) == 1:
                return candidates[0]
        return None
