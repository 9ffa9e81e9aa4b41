"""Push the predictions of a run into a Label Studio project; pushing twice has the same result as pushing once.

For each image of the run, in the order of the plan or of the list of images:

    the project                                         action
    has no task for the image                           a task with its prediction is created
    has a task without a prediction of this version     the prediction is added
    has a task with another prediction of this version  the prediction is replaced
    has a task with exactly this prediction             none

To resume an interrupted push, run it again: what has arrived is found and left unchanged. No state is kept on this
machine. After every request, what the server says it created is compared with what was sent.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import closing
from dataclasses import dataclass, field, replace
from functools import partial

from prelabel.errors import PushError
from prelabel.export.base import Rows, RunInfo, simplified_rows
from prelabel.export.display_copies import DisplayCopies
from prelabel.export.from_run import record_export, rows_of
from prelabel.export.parallel import SpreadRows, make_items
from prelabel.export.run_selection import KnownNames
from prelabel.frames import BROWSER
from prelabel.label_studio.client import Project, Server, read_token
from prelabel.label_studio.config import LabelConfig, config_for, has_tools, read_config
from prelabel.label_studio.image_url import ImageUrls
from prelabel.label_studio.list_order import in_list_order
from prelabel.label_studio.options import PushOptions
from prelabel.label_studio.preflight import Preflight
from prelabel.label_studio.sending import KnownTasks, Sender, Sent
from prelabel.label_studio.storages import provide_storages
from prelabel.label_studio.tasks import TaskPart, TaskSamples, add_tasks, require_possible_copies, rows_for_tasks
from prelabel.processes import Processes
from prelabel.storage.files import Storage
from prelabel.store.run import Run

#: Called with the number of images processed so far.
Progress = Callable[[int], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class PushReport:
    """The result of a push.

    Attributes:
        url: URL of the project.
        title: Title of the project.
        created_project: Whether the push created the project.
        images: Images of the run that did not fail.
        failed: Images of the run that failed; they have no task unless `include_failed` is set.
        sent: What happened to the images' tasks.
        detections: Detections in the predictions of the run.
        regions: Regions made from these detections.
        dropped: Detections without a region, by reason.
        simplified: Parts of masks and keypoints that are not drawn, by reason; their detections have a region.
        tasks: Tasks in the project now.
        predictions: Predictions in the project now, of all model versions.
        shown_version: Model version whose predictions the project shows now, or `""` if it shows none.
        shown_before: Model version whose predictions the project showed before this push.
        warnings: What the user should know, one line each.
    """

    url: str
    title: str
    created_project: bool = field(repr=False)
    images: int
    failed: int
    sent: Sent
    detections: int
    regions: int = field(repr=False)
    dropped: dict[str, int] = field(repr=False)
    simplified: dict[str, int] = field(repr=False)
    tasks: int = field(repr=False)
    predictions: int = field(repr=False)
    shown_version: str = field(repr=False)
    shown_before: str = field(repr=False)
    warnings: tuple[str, ...] = field(repr=False)

    def table(self) -> list[tuple[str, str]]:
        """The rows of the summary, as names and values."""
        new = " (new)" if self.created_project else ""
        counts = {
            "images": self.images,
            "failed images": self.failed,
            "detections": self.detections,
            "regions": self.regions,
            **{f"dropped: {reason}": count for reason, count in self.dropped.items()},
            "tasks created": self.sent.new_tasks,
            "predictions added": self.sent.added,
            "predictions replaced": self.sent.replaced,
            "unchanged": self.sent.unchanged,
            "without a task": self.sent.without_task,
            "tasks in the project": self.tasks,
            "predictions in the project": self.predictions,
        }
        always = ("images", "tasks created", "tasks in the project", "predictions in the project")
        rows = [(name, f"{count:,}") for name, count in counts.items() if count or name in always]
        rows += simplified_rows(self.simplified)
        if self.shown_version:
            replaced = self.shown_before not in ("", self.shown_version)
            before = f" (before this push: {self.shown_before})" if replaced else ""
            rows.append(("predictions shown", f"of {self.shown_version}{before}"))
        return [*rows, ("project", self.title + new), ("", self.url)]


def push_run(run: Run, options: PushOptions, progress: Callable[[int, int], None]) -> PushReport:
    """Push a finished run, the same for commands and for Python, and record with the run what was pushed.

    Args:
        run: The finished run.
        options: See `push`.
        progress: Called with the number of images processed so far and the total.
    """
    rows = rows_of(run, options)
    total = len(rows)
    with Processes.all_cores() as processes:
        spread = SpreadRows(rows, processes)
        report = push(RunInfo.of(run), spread, options, run.storage, lambda done: progress(done, total))
    notes = record_export(run, "push label-studio", report.url, options, report)
    return replace(report, warnings=(*report.warnings, *notes))


def push(
    info: RunInfo, rows: Rows, options: PushOptions, storage: Storage, progress: Progress | None = None
) -> PushReport:
    """Push the predictions of a run into a project, which is created if none has the title.

    Args:
        info: Facts about the run.
        rows: The rows of the run; they are read twice.
        options: Server, project, and how detections become regions.
        storage: Reads the labeling config and the images, and writes display copies.
        progress: Called after every image.

    Raises:
        ConfigError: The token is missing, or an option names a class that does not exist.
        ExportError: The project's labeling config lacks tools or classes, or a task would not be shown.
        PushError: The server refuses a request, does not answer, or creates something other than what was sent.
    """
    names = KnownNames(options.selection, info.classes, info.kept)
    require_possible_copies(info, options, new_tasks=options.new_tasks)
    with closing(Server(options.url, read_token(options.token_file))) as server:
        rows = rows_for_tasks(rows, info, options)
        project, config, is_new = _open_project(server, info, rows, options, storage)
        known = KnownTasks(config.data_key, info.model_version, by_number=info.task_numbers)
        known.read(server.tasks(project.id, predictions=project.predictions > 0))
        # A run of the project's own tasks is pushed back to these tasks. A missing task was deleted on purpose.
        create = options.new_tasks and not info.task_numbers
        sender = Sender(server, project, known, options, create=create)
        copies = DisplayCopies(options.display_copies, storage)
        part = TaskPart(
            names=names,
            urls=ImageUrls(options.image_url, options.document_root),
            copies=copies,
            samples=TaskSamples(Preflight(config, accepted=True)),
        )
        tally = part.tally
        tasks = make_items(rows, partial(add_tasks, info, config, options), part)
        for done, (_, task) in enumerate(in_list_order(tasks, rows.order), start=1):
            sender.add(json.loads(task))
            if progress is not None:
                progress(done)
        sender.finish()
        project_after = server.project(project.id)
        sent = sender.sent
        has_predictions = sent.new_tasks + sent.added + sent.replaced + sent.unchanged > 0
        shown_version = project_after.model_version
        if options.show and has_predictions and shown_version != info.model_version:
            server.set_model_version(project.id, info.model_version)
            shown_version = info.model_version
        storage_notes = provide_storages(server, project.id, part.urls, create=options.create_storage)
        return PushReport(
            url=f"{server.url}/projects/{project.id}",
            title=project.title,
            created_project=is_new,
            images=tally.images - tally.failed * options.include_failed,
            failed=tally.failed,
            sent=sent,
            detections=tally.detections,
            regions=tally.regions,
            dropped=dict(sorted(tally.dropped.items())),
            simplified=dict(tally.simplified),
            tasks=project_after.tasks,
            predictions=project_after.predictions,
            shown_version=shown_version,
            shown_before=project_after.model_version,
            warnings=(
                *names.warnings,
                *tally.crowded_note("tasks"),
                *tally.frame_notes(BROWSER, has_frame_option=False),
                *_warnings(sent, known),
                *copies.notes,
                *storage_notes,
            ),
        )


def _warnings(sent: Sent, known: KnownTasks) -> list[str]:
    lines = []
    if duplicates := len(known.duplicates):
        lines.append(f"{duplicates} tasks were left unchanged: they show an image that an older task also shows")
    if sent.shared:
        lines.append(f"{sent.shared} images were not sent: another image of the run has the same task")
    return lines


def _open_project(
    server: Server, info: RunInfo, rows: Rows, options: PushOptions, storage: Storage
) -> tuple[Project, LabelConfig, bool]:
    """Open or create the project that the options name.

    All rows are read, to compare their classes with the project's labeling config. A project without tools, as the
    server creates it by default, gets a config that fits the run.

    Returns:
        The project, its labeling config, and whether the project is new.

    Raises:
        ExportError: The project's config lacks tools or classes of the run; the message lists them.
        PushError: No project has the number, or several have the title.
    """
    project = _find(server, options.project.strip())
    if project is not None:
        name = f"the labeling config of project {project.id} ({project.title!r})"
        if has_tools(project.label_config, name):
            config = read_config(project.label_config, name)
            return project, config_for(info, rows, options, storage, given=config, given_by=name), False
    config = config_for(info, rows, options, storage)
    if project is None:
        return server.create_project(options.project.strip(), config.xml), config, True
    server.set_label_config(project.id, config.xml)
    return replace(project, label_config=config.xml), config, False


def _find(server: Server, name: str) -> Project | None:
    if name.isascii() and name.isdigit():
        return server.project(int(name))
    projects = server.projects_titled(name)
    if len(projects) > 1:
        numbers = ", ".join(str(project.id) for project in projects)
        raise PushError(f"several projects have the title {name!r}: give the number of one of them ({numbers})")
    return projects[0] if projects else None
