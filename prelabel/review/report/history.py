"""What was made of a run before its report: the commands to do it again with better thresholds, and the preview.

A run records its exports, pushes and previews (`store.exports`). A report offers the push that the run had before and
an export in the format that it had before, each with the same images, selection and shapes. Images in a report lead to
the preview.
"""

from __future__ import annotations

import os
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import PurePath
from urllib.parse import quote

from prelabel.errors import PrelabelError
from prelabel.export.coco import CocoOptions
from prelabel.export.cvat import CvatOptions
from prelabel.export.voc import VocOptions
from prelabel.export.yolo import YoloOptions
from prelabel.label_studio.options import LabelStudioOptions, PushOptions
from prelabel.options import Options, arguments_of
from prelabel.storage.address import Address, redact
from prelabel.storage.files import Storage
from prelabel.store.exports import PREVIEW, ExportRecord

#: The kind of records of pushes.
_PUSH = "push label-studio"

#: By kind of export: what it writes, in words; a name for it; the class of its options.
_FORMATS: dict[str, tuple[str, str, type[Options]]] = {
    "label-studio": ("Label Studio tasks", "tasks", LabelStudioOptions),
    "coco": ("a COCO dataset", "coco.json", CocoOptions),
    "cvat": ("CVAT annotations", "cvat.xml", CvatOptions),
    "yolo": ("a YOLO dataset", "yolo", YoloOptions),
    "voc": ("a Pascal VOC dataset", "voc", VocOptions),
}

#: Rules that the suggested thresholds replace.
_REPLACED = ("score_threshold", "class_threshold")


@dataclass(frozen=True, slots=True)
class History:
    """What was made of a run before.

    Attributes:
        exports: The recorded exports, pushes and previews of the run, the latest last.
        preview: URL of the latest preview, relative to the folder of the report, or `""`.
    """

    exports: Sequence[ExportRecord] = ()
    preview: str = ""

    @classmethod
    def of(cls, exports: Sequence[ExportRecord], to: str, storage: Storage) -> History:
        """The history of a run, for a report in the folder `to`; previews that no longer exist are ignored."""
        pages = (Address.of_folder(record.to).join("index.html") for record in exports if record.kind == PREVIEW)
        for page in reversed(list(pages)):
            if (url := relative_url(page, Address.of_folder(to))) and _is_file(page, storage):
                return cls(exports, url)
        return cls(exports)


#: For a report without a run's folder.
NO_HISTORY = History()


def _is_file(address: Address, storage: Storage) -> bool:
    try:
        return storage.kind(address) == "file"
    except (OSError, PrelabelError):
        return False


def relative_url(page: Address, folder: Address) -> str:
    """The URL of a page relative to a folder of the same disk or bucket; `""` if they have none in common."""
    if page.protocol != folder.protocol or (not page.is_local and page.bucket != folder.bucket):
        return ""
    return quote(PurePath(os.path.relpath(page.url, folder.url)).as_posix(), errors="surrogateescape")


def next_commands(run: str, thresholds: str, exports: Sequence[ExportRecord]) -> list[tuple[str, str]]:
    """Commands that use the suggested thresholds, each after its purpose; a push comes first if there was one.

    Args:
        run: Path or URL of the run.
        thresholds: Path or URL of thresholds.yaml.
        exports: The recorded exports of the run, the latest last.
    """
    pushes = [record for record in exports if record.kind == _PUSH]
    files = [record for record in exports if record.kind in _FORMATS]
    push = _push(run, thresholds, pushes[-1] if pushes else None)
    export = _export(run, thresholds, files[-1] if files else None)
    return [push, export] if pushes else [export, push]


def _push(run: str, thresholds: str, record: ExportRecord | None) -> tuple[str, str]:
    url, _, project = record.to.rpartition("/projects/") if record is not None else ("", "", "")
    if record is None or not url:
        purpose = "Push to Label Studio; replace URL by that of your server, and PROJECT by a number or title:"
        return purpose, _command("push label-studio", run, thresholds, ["--url", "URL", "--project", "PROJECT"])
    purpose = f"Replace the predictions that were pushed to {record.to}; add other options of that push, if it had any:"
    target = ["--url", url, "--project", project]
    return purpose, _command("push label-studio", run, thresholds, [*target, *_arguments(PushOptions, record)])


def _export(run: str, thresholds: str, record: ExportRecord | None) -> tuple[str, str]:
    kind = "label-studio" if record is None else record.kind
    words, name, options = _FORMATS[kind]
    same = [] if record is None else _arguments(options, record)
    return f"Export {words}:", _command(f"export {kind}", run, thresholds, ["--to", name, *same])


def _arguments(options: type[Options], record: ExportRecord) -> list[str]:
    values = {**record.selection, **record.shapes, **record.listed}
    return arguments_of(options, {name: value for name, value in values.items() if name not in _REPLACED})


def _command(command: str, run: str, thresholds: str, arguments: Sequence[str]) -> str:
    words = ["prelabel", *command.split(), redact(run) or "RUN", *arguments]
    return shlex.join([*words, "--class-threshold", redact(thresholds)])
