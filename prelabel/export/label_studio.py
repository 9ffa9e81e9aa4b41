"""Label Studio task files from finished shards, with the labelling config that fits them.

One image of 4 x 6 pixels (height x width) with a dog on its left half becomes this task in `tasks-00000.json`:

    {"data": {"image": "s3://bucket/photos/a.jpg", "image_id": "a.jpg", "file_name": "a.jpg"},
     "predictions": [{"model_version": "ssd-0123abcd", "score": 0.9, "result": [{"type": "rectanglelabels", ...}]}]}

Every image has one prediction with all its regions; one on which nothing was found has an empty prediction. Failed
images are left out and counted, or with `include_failed` become tasks without a prediction. Every task is checked by
the rules in `preflight` before its file is published.
"""

from __future__ import annotations

from prelabel.errors import ExportError
from prelabel.export.image_url import ImageUrls
from prelabel.export.known_names import KnownNames
from prelabel.export.label_studio_config import config_for
from prelabel.export.label_studio_options import LabelStudioOptions
from prelabel.export.option_rules import require_distinct_files
from prelabel.export.parts import UNUSED, each_part, in_frame, without
from prelabel.export.preflight import Preflight
from prelabel.export.reading import ExportReport, Rows, RunInfo, Tally
from prelabel.export.task_files import task_files
from prelabel.export.tasks import TasksOf
from prelabel.frames import BROWSER
from prelabel.storage import Storage, describe, join, redact

CONFIG_NAME = "label_config.xml"


def export_label_studio(
    info: RunInfo, rows: Rows, to: str, options: LabelStudioOptions, storage: Storage
) -> ExportReport:
    """Write task files (`tasks-00000.json`, ... or another layout) and `label_config.xml` into the folder `to`.

    The rows are read twice: once for the classes and tools that occur, then for the tasks. Tasks come in the order of
    the plan, regions by descending score. Task files of an earlier export into the folder are replaced or deleted.

    Raises:
        ConfigError: An option names a class that the detector does not have, or `image_url` an unknown placeholder.
        ExportError: Classes that do not fit the given config, images without an address, masks that do not fit their
            image, a task that would not be shown, or a file that cannot be written.
    """
    if options.layout == "predictions" and not info.task_numbers:
        raise ExportError("layout predictions needs a run that was made of the tasks of a Label Studio project")
    require_distinct_files(options, {"to": to}, run=info.output)
    rows = in_frame(without(rows, *UNUSED), BROWSER)
    if options.shape == "rectangle":
        rows = without(rows, "masks")
    names = KnownNames(info, options)
    tally = Tally()
    urls = ImageUrls(options.image_url, options.document_root)
    config = config_for(info, rows, options, storage)
    if not any(control.labels for control in config.controls):
        tally.warnings.append("nothing was found and the detector has no list of classes: the config has no label")
    Preflight(config)  # refuses a config; the tasks are checked where they are made
    made = TasksOf(info, urls, config, options, names, options.layout == "predictions")
    limits = (options.tasks_per_file, int(options.max_file_mb * 1e6))
    try:
        with task_files(to, storage, options.layout, *limits) as files:
            for part in each_part(rows, made):
                tally.add(part.tally)
                names.add(part.names)
                urls.add(part.urls)
                for image_id, task in part.tasks:
                    files.add(image_id, task)
        storage.publish(join(to, CONFIG_NAME), config.xml.encode("utf-8"))
    except OSError as error:
        raise ExportError(f"cannot write to {redact(to)}: {describe(error)}") from error
    tally.files = [*files.urls, join(to, CONFIG_NAME)]
    tally.warnings += [*names.warnings, *tally.crowded_note("tasks"), *tally.frame_notes(BROWSER, choosable=False)]
    tally.warnings += [f"Label Studio needs {need}" for need in urls.needs]
    if files.largest_task > options.max_file_mb * 1e6:
        tally.warnings.append(f"a single task has {files.largest_task / 1e6:.1f} MB, more than max-file-mb")
    return tally.report()
