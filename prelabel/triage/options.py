"""The options that every command has that can work on some images of a run. Imports nothing heavy, for `--help`."""

from __future__ import annotations

from dataclasses import dataclass

from prelabel.options import Options, option, require

#: Files that lists of images may be.
LIST_FORMATS = (".txt", ".csv", ".jsonl", ".parquet")


def require_list_name(path: str, flag: str = "--images") -> None:
    """Raise ConfigError unless the name of a list of images says how it is written."""
    require(
        path.lower().endswith(LIST_FORMATS),
        f"{flag} must be a list of images ({', '.join(LIST_FORMATS)}), got {path!r}",
    )


@dataclass(frozen=True, kw_only=True)
class ImageListOptions(Options):
    """Which images of a run a command works on.

    Raises:
        ConfigError: The list has another extension, or a part is given without a list.
    """

    images: str = option(
        "",
        "Use only the images in this list: a .txt file of ids, or a .csv, .jsonl or .parquet file with a column "
        "`image_id`. `prelabel select` writes such lists.",
        metavar="LIST",
        first=True,
    )
    part: str = option(
        "", "Use only the entries of --images whose column `part` has this value.", metavar="NAME", first=True
    )

    def __post_init__(self) -> None:
        super().__post_init__()
        require(not self.part or bool(self.images), "--part needs --images, the list that it is a part of")
        if self.images:
            require_list_name(self.images)
