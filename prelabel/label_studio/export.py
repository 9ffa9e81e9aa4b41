"""Write Label Studio task files from finished shards, with the labeling config that fits them.

One image of 4 x 6 pixels (height x width) with a dog on its left half becomes this task in `tasks-00000.json`:

    {"data": {"image": "s3://bucket/photos/a.jpg", "image_id": "a.jpg", "file_name": "a.jpg"},
     "predictions": [{"model_version": "ssd-0123abcd", "score": 0.9, "result": [{"type": "rectanglelabels", ...}]}]}

Every image has one prediction with all its regions; the prediction is empty if nothing was detected. Failed images are
counted, or become tasks without a prediction with `include_failed`. `preflight` refuses what would not be shown before
a file is published.

The layouts are those that Label Studio reads:

    import       tasks-00000.json, ...        JSON arrays for the import page and API, limited in tasks and bytes
    sync         tasks/5ebc....json           one task per file, for a source storage that syncs the prefix `tasks/`
    sync-jsonl   tasks/tasks-00000.jsonl      one task per line, for such a storage, too
    predictions  predictions-00000.json, ...  predictions for existing tasks, by task number; for the import API of
                                              predictions

A sync reads all files under its prefix and fails on any other format, so nothing else is written there. It never reads
a key twice. A task's file is therefore named after its `image_id`, and a later export adds only the new images' files.
"""

from __future__ import annotations

import contextlib
import hashlib
import re
from collections.abc import Iterator
from functools import partial

from prelabel.errors import ExportError
from prelabel.export.base import ExportReport, Rows, RunInfo, require_distinct_files
from prelabel.export.display_copies import DisplayCopies
from prelabel.export.folder import FolderWriter, folder_writer
from prelabel.export.parallel import make_items
from prelabel.export.run_selection import KnownNames
from prelabel.frames import BROWSER
from prelabel.label_studio.config import config_for
from prelabel.label_studio.image_url import ImageUrls
from prelabel.label_studio.list_order import in_list_order
from prelabel.label_studio.options import LabelStudioOptions
from prelabel.label_studio.preflight import Preflight
from prelabel.label_studio.tasks import Batch, TaskPart, TaskSamples, add_tasks, require_possible_copies, rows_for_tasks
from prelabel.options import require
from prelabel.storage.address import absolute, describe, join, redact
from prelabel.storage.files import Storage

CONFIG_NAME = "label_config.xml"


def export_label_studio(
    info: RunInfo, rows: Rows, to: str, options: LabelStudioOptions, storage: Storage
) -> ExportReport:
    """Write task files (`tasks-00000.json`, ... or another layout) and `label_config.xml` into the folder `to`.

    The rows are read twice: first for the classes and tools that occur, then for the tasks. Tasks are in the order of
    the plan or of the list of images, and regions by descending score. Task files of an earlier export into the folder
    are replaced or deleted.

    Raises:
        ConfigError: An option names a class that the detector does not have, or `image_url` an unknown placeholder.
        ExportError: Classes do not fit the given config, an image has no URL or cannot be copied, a mask does not fit
            its image, a task would not be shown, or a file cannot be written.
    """
    if options.layout == "predictions" and not info.task_numbers:
        raise ExportError("--layout predictions needs a run that was made from the tasks of a Label Studio project")
    written = {"to": to, "display_copies": options.display_copies}
    require_distinct_files(options, written, read=("images",), run=info.output)
    require_possible_copies(info, options, new_tasks=options.layout != "predictions")
    tasks_folder = absolute(join(to, "tasks")) + "/"
    require(
        options.layout not in ("sync", "sync-jsonl")
        or not f"{absolute(options.display_copies)}/".startswith(tasks_folder),
        f"--display-copies must not lie in {redact(tasks_folder)}: a sync fails on images there",
    )
    rows = rows_for_tasks(rows, info, options)
    names = KnownNames(options.selection, info.classes, info.kept)
    urls = ImageUrls(options.image_url, options.document_root)
    config = config_for(info, rows, options, storage)
    whole = TaskPart(
        names=names,
        urls=urls,
        copies=DisplayCopies(options.display_copies, storage),
        samples=TaskSamples(Preflight(config)),
    )
    tally = whole.tally
    if not any(control.labels for control in config.controls):
        tally.warnings.append("the config has no labels: nothing was detected, and the detector has no list of classes")
    largest = 0
    try:
        with task_files(to, storage, options) as files:
            work = partial(add_tasks, info, config, options, for_existing=options.layout == "predictions")
            tasks = make_items(rows, work, whole)
            # A sync lists the files of single tasks by their names.
            for image_id, task in in_list_order(tasks, None if options.layout == "sync" else rows.order):
                files.add(image_id, task)
                largest = max(largest, len(task))
        storage.publish(join(to, CONFIG_NAME), config.xml.encode("utf-8"))
    except OSError as error:
        raise ExportError(f"cannot write to {redact(to)}: {describe(error)}") from error
    copies = [f"{whole.copies.folder}/"] if whole.copies.written else []
    tally.files = [*files.urls, *copies, join(to, CONFIG_NAME)]
    tally.warnings += [
        *names.warnings,
        *tally.crowded_note("tasks"),
        *tally.frame_notes(BROWSER, has_frame_option=False),
    ]
    tally.warnings += whole.copies.notes
    tally.warnings += [f"Label Studio needs {need}" for need in whole.urls.needs]
    if largest > options.max_file_mb * 1e6:
        tally.warnings.append(f"the largest task has {largest / 1e6:.1f} MB, more than --max-file-mb")
    return tally.report()


@contextlib.contextmanager
def task_files(to: str, storage: Storage, options: LabelStudioOptions) -> Iterator[_NumberedFiles | _SingleFiles]:
    """Write task files into the folder `to`; if the block succeeds, delete the rest of an earlier export."""
    if options.layout == "sync":
        folder = join(to, "tasks")
        with folder_writer(folder, storage) as writer:
            files = _SingleFiles(folder, writer)
            yield files
        _delete_others(storage, folder, r"[0-9a-f]{32}\.json", files.names)  # of images that the run no longer has
        return
    numbered = _NumberedFiles(to, storage, options)
    yield numbered
    numbered.finish()


class _NumberedFiles:
    """Collects tasks and publishes them in numbered files."""

    def __init__(self, to: str, storage: Storage, options: LabelStudioOptions) -> None:
        lines = options.layout == "sync-jsonl"
        self._folder = join(to, "tasks") if lines else to
        self._stem = "predictions" if options.layout == "predictions" else "tasks"
        self._extension = "jsonl" if lines else "json"
        self._storage = storage
        # The array's brackets also count.
        self._waiting: Batch[bytes] = Batch(options.tasks_per_file, int(options.max_file_mb * 1e6) - 4, self._publish)
        self.urls: list[str] = []

    def add(self, image_id: str, data: bytes) -> None:
        """Add a task as JSON. A task larger than the limit gets its own file."""
        self._waiting.add(data, len(data) + 2)

    def finish(self) -> None:
        """Publish the remaining tasks, and delete later files of an earlier export."""
        self._waiting.send()
        if not self.urls:
            self._publish([])
        written = {url.rpartition("/")[2] for url in self.urls}
        _delete_others(self._storage, self._folder, rf"{self._stem}-\d{{5,}}\.{self._extension}", written)

    def _publish(self, tasks: list[bytes]) -> None:
        url = join(self._folder, f"{self._stem}-{len(self.urls):05d}.{self._extension}")
        if self._extension == "json":
            data = b"[\n" + b",\n".join(tasks) + b"\n]\n"
        else:
            data = b"".join(task + b"\n" for task in tasks)
        self._storage.publish(url, data)
        self.urls.append(url)


class _SingleFiles:
    """Publishes every task as its own file."""

    def __init__(self, folder: str, writer: FolderWriter) -> None:
        self._writer = writer
        self.names: set[str] = set()
        self.urls = [folder + "/"]

    def add(self, image_id: str, data: bytes) -> None:
        """Add a task as JSON."""
        name = task_file_name(image_id)
        self.names.add(name)
        self._writer.add(name, data + b"\n")


def task_file_name(image_id: str) -> str:
    """The name of an image's task file in the layout `sync`; it is the same in every export."""
    digest = hashlib.blake2b(image_id.encode("utf-8", "surrogatepass"), digest_size=16)
    return f"{digest.hexdigest()}.json"


def _delete_others(storage: Storage, folder: str, pattern: str, written: set[str]) -> None:
    for name in storage.names(folder):
        if name not in written and re.fullmatch(pattern, name):
            storage.delete(join(folder, name))
