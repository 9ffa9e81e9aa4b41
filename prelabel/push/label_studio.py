"""Predictions of a run into a Label Studio project, so that doing it twice is the same as doing it once.

For each image of the run, in plan order:

    the project                                         what is done
    has no task for the image                           a task with its prediction is created
    has a task without a prediction of this version     the prediction is added
    has a task with another prediction of this version  the prediction is replaced
    has a task with exactly this prediction             nothing

So a push that broke off is continued by repeating it: what arrived is found and left alone. Nothing is written down on
this side. What the server says it created is compared with what was sent, after every request.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass

from prelabel.export.image_url import ImageUrls
from prelabel.export.known_names import KnownNames
from prelabel.export.parts import in_frame
from prelabel.export.preflight import Preflight
from prelabel.export.reading import Rows, RunInfo, Tally
from prelabel.export.tasks import tasks_of
from prelabel.frames import BROWSER
from prelabel.push.images_shown import missing_storages
from prelabel.push.known_tasks import KnownTasks
from prelabel.push.options import PushOptions
from prelabel.push.project import open_project
from prelabel.push.sending import Sender
from prelabel.push.server import Server
from prelabel.push.token import read_token
from prelabel.storage import Storage

#: Called with the number of images dealt with so far.
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PushReport:
    """What a push did.

    Attributes:
        url: Of the project.
        title: Of the project.
        created_project: Whether it is new.
        images: Images of the run that have detections or none, that is: did not fail.
        failed: Images of the run that failed; they are left out unless `include_failed` was said.
        tasks_before: Tasks that the project had.
        new_tasks: Tasks created.
        added: Predictions added to tasks that were there.
        replaced: Predictions replaced by others of the same model version.
        unchanged: Images whose task had exactly this prediction already.
        without_task: Images left out because the project has no task for them.
        detections: Detections in the predictions of the run.
        regions: What people get for them.
        left_out: How many detections were left out, by reason.
        tasks: Tasks of the project now.
        predictions: Predictions of the project now, of all model versions.
        warnings: What the user should know, one line each.
    """

    url: str
    title: str
    created_project: bool
    images: int
    failed: int
    tasks_before: int
    new_tasks: int
    added: int
    replaced: int
    unchanged: int
    without_task: int
    detections: int
    regions: int
    left_out: dict[str, int]
    tasks: int
    predictions: int
    warnings: tuple[str, ...]

    def table(self) -> list[tuple[str, str]]:
        """What a person wants to know, as names and values."""
        new = " (new)" if self.created_project else ""
        counts = {
            "images": self.images,
            "failed images": self.failed,
            "detections": self.detections,
            "regions": self.regions,
            **{f"left out: {reason}": count for reason, count in self.left_out.items()},
            "tasks created": self.new_tasks,
            "predictions added": self.added,
            "predictions replaced": self.replaced,
            "unchanged": self.unchanged,
            "without a task": self.without_task,
            "tasks in the project": self.tasks,
            "predictions in the project": self.predictions,
        }
        always = ("images", "tasks created", "tasks in the project", "predictions in the project")
        rows = [(name, f"{count:,}") for name, count in counts.items() if count or name in always]
        return [*rows, ("project", self.title + new), ("", self.url)]


def push(
    info: RunInfo, rows: Rows, options: PushOptions, storage: Storage, progress: Progress | None = None
) -> PushReport:
    """Bring the predictions of a run into a project, which is created where there is none of that title.

    Args:
        info: About the run.
        rows: Its rows; read twice.
        options: Server, project, and how detections become regions.
        storage: Where a labelling config given by the options is.
        progress: Told how far it is, after every image.

    Raises:
        ConfigError: The token is missing, the SDK is not installed, or an option names a class that does not exist.
        ExportError: Classes that the project's labelling config does not have, or a task that would not be shown.
        PushError: The server refuses something, created something else than what was sent, or is away.
    """
    names = KnownNames(info, options)
    with closing(Server(options.url, read_token(options.token_file))) as server:
        return _push(server, info, rows, options, storage, names, progress)


def _push(
    server: Server,
    info: RunInfo,
    rows: Rows,
    options: PushOptions,
    storage: Storage,
    names: KnownNames,
    progress: Progress | None,
) -> PushReport:
    rows = in_frame(rows, BROWSER)
    opened = open_project(server, info, rows, options, storage)
    project = opened.project
    known = KnownTasks(opened.config.data_key, info.model_version, by_number=info.task_numbers)
    known.read(server.tasks(project.id, predictions=project.predictions > 0))
    before = len(known)
    # A run of the project's own tasks is pushed back to them: one that is gone was deleted by somebody.
    create = options.new_tasks and not info.task_numbers
    sender = Sender(server, project, known, opened.config.data_key, options, create=create)
    tally = Tally()
    urls = ImageUrls(options.image_url, options.document_root)
    preflight = Preflight(opened.config, accepted=True)
    for done, task in enumerate(tasks_of(info, rows, urls, opened.config, options, tally, names), start=1):
        preflight.require_showable(task)
        sender.take(task)
        if progress is not None:
            progress(done)
    sender.finish()
    now = server.project(project.id)
    if options.show and sender.predictions and now.model_version != info.model_version:
        server.set_model_version(project.id, info.model_version)
    return PushReport(
        url=f"{server.url}/projects/{project.id}",
        title=project.title,
        created_project=opened.created,
        images=tally.images - tally.failed * options.include_failed,
        failed=tally.failed,
        tasks_before=before,
        new_tasks=sender.new_tasks,
        added=sender.added,
        replaced=sender.replaced,
        unchanged=sender.unchanged,
        without_task=sender.without_task,
        detections=tally.detections,
        regions=tally.regions,
        left_out=dict(sorted(tally.left_out.items())),
        tasks=now.tasks,
        predictions=now.predictions,
        warnings=(
            *names.warnings,
            *tally.crowded_note("tasks"),
            *tally.frame_notes(BROWSER, choosable=False),
            *_warnings(sender, known),
            *missing_storages(server, project.id, sorted(sender.places), urls.needs),
        ),
    )


def _warnings(sender: Sender, known: KnownTasks) -> list[str]:
    lines = []
    if known.doubled:
        lines.append(f"{known.doubled} tasks show an image that an older task shows too: they are left as they are")
    if sender.shared:
        lines.append(f"{sender.shared} images were left out: another image of the run has their task")
    return lines
