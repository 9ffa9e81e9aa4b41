"""The project that predictions go to: found by number or title, or created with the labelling config that fits them."""

from __future__ import annotations

from dataclasses import dataclass, replace

from prelabel.errors import PushError
from prelabel.export.label_config import LabelConfig, has_tools, read_config
from prelabel.export.label_studio_config import config_for
from prelabel.export.reading import Rows, RunInfo
from prelabel.push.options import PushOptions
from prelabel.push.server import Project, Server
from prelabel.storage import Storage


@dataclass(frozen=True, slots=True)
class OpenProject:
    """A project, its labelling config, and whether it was created just now."""

    project: Project
    config: LabelConfig
    created: bool


def open_project(server: Server, info: RunInfo, rows: Rows, options: PushOptions, storage: Storage) -> OpenProject:
    """The project that the options name; reads all rows, to hold their classes against its config.

    A project without tools, as the server makes it when nobody chose any, gets the config that fits the run.

    Raises:
        ExportError: The classes of the run do not fit the config of the project, as a list.
        PushError: There is no project of that number, or there are several of that title.
    """
    project = _find(server, options.project.strip())
    if project is not None:
        name = f"the labelling config of project {project.id} ({project.title!r})"
        if has_tools(project.label_config, name):
            config = read_config(project.label_config, name)
            return OpenProject(project, config_for(info, rows, options, storage, given=config, given_by=name), False)
    config = config_for(info, rows, options, storage)
    if project is None:
        return OpenProject(server.create_project(options.project.strip(), config.xml), config, True)
    server.set_label_config(project.id, config.xml)
    return OpenProject(replace(project, label_config=config.xml), config, False)


def _find(server: Server, name: str) -> Project | None:
    if name.isascii() and name.isdigit():
        return server.project(int(name))
    found = server.projects_titled(name)
    if len(found) > 1:
        numbers = ", ".join(str(one.id) for one in found)
        raise PushError(f"there are several projects titled {name!r}: give the number of one of them ({numbers})")
    return found[0] if found else None
