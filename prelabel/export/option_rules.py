"""Rules that the options of several exports share; each raises ConfigError with the option's name and value."""

from __future__ import annotations

import os
import posixpath
import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import fields
from typing import Any

from prelabel.frames import DISPLAY, FRAMES
from prelabel.options import option, require
from prelabel.storage import Storage, absolute, is_local, redact


def frame_option() -> Any:
    """Of the formats that tools of all kinds read."""
    return option(
        DISPLAY,
        "The picture that boxes and masks lie on: upright, as viewers show it that apply the orientation in the file "
        "(display); with its pixels as they stand in the file (stored); as browsers show it (browser).",
        choices=FRAMES,
        group="Frame",
    )


def require_choices(options: Any) -> None:
    """Every option that has choices is one of them."""
    for field in fields(options):
        choices, value = field.metadata["choices"], getattr(options, field.name)
        require(
            not choices or value in choices, f"{_said(field.name)} must be one of {', '.join(choices)}, got {value!r}"
        )


def require_positive(options: Any, *names: str) -> None:
    """These options are above 0."""
    for name in names:
        value = getattr(options, name)
        require(value > 0, f"{_said(name)} must be above 0, got {value}")


def require_not_negative(options: Any, *names: str) -> None:
    """These options are 0 or more."""
    for name in names:
        value = getattr(options, name)
        require(value >= 0, f"{_said(name)} must be 0 or more, got {value}")


def require_distinct_files(
    options: Any,
    written: Mapping[str, str],
    *,
    read: Iterable[str] = (),
    numbered: str = "",
    run: str = "",
) -> None:
    """No file that an export writes is another one that it writes, one that it reads, or one of the run's own.

    Files are compared as a disk without regard to upper and lower case would, links and `..` followed, since nothing is
    to be lost there either; in object stores letters count.

    Args:
        options: Of the export.
        written: The files, by what they are called in messages; one that is not written has no address.
        read: Names of options that may hold the address of a file that is read.
        numbered: The one of `written` that is written in numbered parts; what its parts may be called is theirs.
        run: Where the run is, if known.
    """
    # Only where an export runs: options are declared without what reads and writes runs.
    from prelabel.export.coco_files import numbered_name
    from prelabel.export.image_ids import SEQUENTIAL, STEM
    from prelabel.labels.maps import BUILT_IN
    from prelabel.store.exports import EXPORTS
    from prelabel.store.run import MANIFEST, RUN

    files = {name: url for name, url in written.items() if url}
    words: Mapping[str, Iterable[str]] = {"image_ids": (SEQUENTIAL, STEM), "categories": BUILT_IN}
    inputs = {
        name: url for name in read for url in _addresses(getattr(options, name)) if url not in words.get(name, ())
    }
    for place, (name, url) in enumerate(files.items()):
        for other, address in [*list(files.items())[:place], *inputs.items()]:
            require(
                not _are_same(url, address),
                f"{_said(name)} and {_said(other)} are the same file {redact(absolute(url))!r}",
            )
        if run:
            below = [_same_file(posixpath.join(run, folder)) for folder in ("plan", "shards")]
            below.append(_same_file(posixpath.join(run, EXPORTS)))
            own = [_same_file(posixpath.join(run, file)) for file in (RUN, MANIFEST, "lock.json")]
            inside = any(_same_file(url).startswith((f"{folder}/", f"{folder}-")) for folder in below)
            require(
                not (inside or _same_file(url) in [*own, *below]),
                f"{_said(name)} {redact(url)!r} is one of the run's own files: choose another address",
            )
    if numbered:
        # The number is what comes last but for the ending.
        before, _, after = _same_file(numbered_name(files[numbered], 0)).rpartition("-00000")
        part = re.compile(rf"{re.escape(before)}-\d{{5,}}{re.escape(after)}")
        for name, url in {**files, **inputs}.items():
            require(
                part.fullmatch(_same_file(url)) is None,
                f"{_said(name)} {redact(url)!r} has the name of a part of {_said(numbered)}: choose another one",
            )


def _addresses(value: Any) -> list[str]:
    return [value] if isinstance(value, str) and value else list(value) if isinstance(value, tuple) else []


def _are_same(url: str, other: str) -> bool:
    accounts = {store.place(each)[1] for each in (url, other) if (store := Storage.store(each)) is not None}
    # An address without an account may be of any that another one names.
    return _same_file(url) == _same_file(other) and len(accounts - {None}) < 2


def _same_file(url: str) -> str:
    """The same text for every way to write one file's address, but for the account of a store."""
    if is_local(url):
        return unicodedata.normalize("NFC", os.path.realpath(absolute(url))).casefold()
    store = Storage.store(url)
    scheme, _, path = (store.place(absolute(url))[0] if store else absolute(url)).partition("://")
    return f"{scheme.lower()}://{posixpath.normpath(path)}"


def _said(name: str) -> str:
    return name.replace("_", "-")
