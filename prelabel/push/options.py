"""What `push label-studio` can be told."""

from __future__ import annotations

from dataclasses import dataclass

from prelabel.export.label_studio_options import TaskOptions
from prelabel.export.option_rules import require_positive
from prelabel.options import option, require

_GROUP = "Server"


@dataclass(frozen=True, kw_only=True)
class PushOptions(TaskOptions):
    """Which server and project, and how much is sent at a time."""

    url: str = option("", "Address of the Label Studio server.", metavar="URL", group=_GROUP)
    project: str = option(
        "",
        "Number or title of the project; a title that does not exist yet is created.",
        metavar="ID|TITLE",
        group=_GROUP,
    )
    token_file: str = option(
        "",
        "File that holds the access token, of either kind; by default it is taken from LABEL_STUDIO_API_KEY.",
        metavar="FILE",
        group=_GROUP,
    )
    new_tasks: bool = option(True, "Create tasks for images that the project does not have yet.", group=_GROUP)
    show: bool = option(True, "Make these the predictions that the project's annotators see.", group=_GROUP)
    tasks_per_request: int = option(1000, "Tasks a request at most.", group=_GROUP)
    max_request_mb: float = option(20.0, "Megabytes a request at most.", metavar="MB", group=_GROUP)

    def __post_init__(self) -> None:
        super().__post_init__()
        require(
            self.url.startswith(("http://", "https://")),
            f"url must be the address of a server (https://...), got {self.url!r}"
            if self.url
            else "url is missing: say where the Label Studio server is",
        )
        require(bool(self.project.strip()), "project is missing: give its number or a title")
        require_positive(self, "tasks_per_request", "max_request_mb")
