"""Pages of the site that are generated from the code at every build, so that they cannot disagree with it.

A Sphinx extension. It writes Markdown below `docs/`, in files that git ignores:

    reference/commands/*.md     a page per command: its help, its usage, every option under its heading
    project/*.md                ARCHITECTURE.md, CHANGELOG.md and others, with links that lead to pages of the site
    _generated/detectors.md     the catalog of detectors
    _generated/adapter.md       the keys of an adapter, from prelabel/detectors/conventions/adapter_schema.py
    _generated/columns.md       the columns of the shards, from schemas/shard.arrow.json
    _generated/plan.md          the columns of the plan, from schemas/plan.arrow.json
    _generated/extracted.md     the columns of the record of extracted images, from schemas/extracted.arrow.json
    _generated/errors.md        the tree of exceptions, from prelabel/errors.py
    _generated/python.md        every name of `prelabel.__all__`, for autodoc
"""

from __future__ import annotations

import inspect
import json
import re
import shutil
import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import click
from sphinx.application import Sphinx

DOCS = Path(__file__).parent
ROOT = DOCS.parent
SCHEMAS = ROOT / "schemas"

#: Documents at the root of the repository that are pages of the site as well.
PROJECT = ("ARCHITECTURE.md", "CHANGELOG.md", "CONTRIBUTING.md", "SECURITY.md")


def setup(app: Sphinx) -> dict[str, bool]:
    """Register the extension with Sphinx."""
    app.connect("builder-inited", lambda _: generate(DOCS))
    app.connect("autodoc-process-docstring", escape_markup, priority=100)  # before Napoleon
    return {"parallel_read_safe": True, "parallel_write_safe": True}


def generate(docs: Path) -> None:
    """Write all generated pages below a folder."""
    pages = {f"reference/commands/{name}": text for name, text in command_pages().items()}
    pages |= {f"project/{name.lower()}": project_page(name) for name in PROJECT}
    pages |= {
        "_generated/detectors.md": detectors_table(),
        "_generated/adapter.md": adapter_table(),
        "_generated/columns.md": columns_table("shard"),
        "_generated/plan.md": columns_table("plan"),
        "_generated/extracted.md": columns_table("extracted"),
        "_generated/errors.md": errors_tree(),
        "_generated/python.md": python_names(),
    }
    for folder in ("reference/commands", "project", "_generated"):
        shutil.rmtree(docs / folder, ignore_errors=True)
        (docs / folder).mkdir(parents=True)
    for name, text in pages.items():
        (docs / name).write_text(text, encoding="utf-8")


# -- the commands ------------------------------------------------------------------------------------------------------


class HelpRecorder(click.HelpFormatter):
    """Takes what a command writes as its help, by heading, instead of laying it out."""

    def __init__(self) -> None:
        super().__init__()
        self.heading = ""
        self.sections: dict[str, list[tuple[str, str]]] = {}

    @contextmanager
    def section(self, name: str) -> Iterator[None]:
        """Begin a heading."""
        self.heading = name
        yield

    def write_dl(self, rows: Iterable[tuple[str, str]], *_: Any, **__: Any) -> None:
        """Take the entries below a heading."""
        self.sections.setdefault(self.heading, []).extend(rows)


def recorded(write: Callable[[click.Context, click.HelpFormatter], None], context: click.Context) -> HelpRecorder:
    """What one part of a command's help has, by heading and in the order of the help."""
    recorder = HelpRecorder()
    write(context, recorder)
    return recorder


def command_pages() -> dict[str, str]:
    """The pages of all commands by file name, and `index.md`, which lists them."""
    from prelabel.cli import main

    context = click.Context(main, info_name="prelabel")
    pages: dict[str, str] = {}
    parts = [
        "# Commands",
        "Every command and option, generated from the code. `prelabel COMMAND --help` shows the same on a terminal.",
    ]
    for heading, rows in recorded(main.format_commands, context).sections.items():
        entries = []
        for padded, summary in rows:
            name = padded.strip()
            command = main.commands[name]
            group = command.commands if isinstance(command, click.Group) else {"": command}
            for below, leaf in group.items():
                path = f"prelabel {name} {below}".rstrip()
                page = f"{name}-{below}".rstrip("-")
                pages[page] = command_page(path, leaf)
                entries.append((f"[`{path}`]({page}.md)", prose(leaf.get_short_help_str(200) if below else summary)))
        parts += [f"## {heading}", table(("command", "what it does"), entries)]
    listing = "\n".join(pages)
    parts.append(f"```{{toctree}}\n:hidden:\n\n{listing}\n```")
    return {f"{name}.md": text for name, text in pages.items()} | {"index.md": "\n\n".join(parts) + "\n"}


def command_page(path: str, command: click.Command) -> str:
    """One command: what it does, an example, its usage, its options by heading."""
    context = _context(path, command)
    parts = [f"# {path}", paragraphs(command.help or "")]
    if examples := getattr(command, "examples", ()):
        parts.append("```bash\n" + "\n".join(examples) + "\n```")
    usage = " ".join([path, *command.collect_usage_pieces(context)])
    parts += [f"```text\n{usage}\n```", f"```{{program}} {path}\n```"]
    for heading, records in recorded(command.format_options, context).sections.items():
        parts.append(f"## {heading}")
        entry = argument_entry if heading == "Arguments" else option_entry
        parts += [entry(names, text) for names, text in records if "--help" not in names]
    return "\n\n".join(parts) + "\n"


def _context(path: str, command: click.Command) -> click.Context:
    """A context in which click shows the command under its full name."""
    parent = None
    for name in path.split(" ")[:-1]:
        parent = click.Context(click.Group(name), info_name=name, parent=parent)
    return click.Context(command, info_name=path.split(" ")[-1], parent=parent)


def option_entry(names: str, text: str) -> str:
    """An option as Sphinx's directive, so that it can be searched for and linked to."""
    return f":::{{option}} {names.replace(' / ', ', ')}\n{prose(text)}\n:::"


def argument_entry(name: str, text: str) -> str:
    """An argument as an entry of a definition list."""
    return f"`{name}`\n: {prose(text)}"


# -- documents of the repository ---------------------------------------------------------------------------------------


def project_page(name: str) -> str:
    """A document at the root of the repository, with its links rewritten for `docs/project/`."""

    def rewrite(match: re.Match[str]) -> str:
        path, fragment = match[1], match[2] or ""
        if "://" in path:
            return match[0]
        if path in PROJECT:
            return f"]({path.lower()}{fragment})"
        return (
            f"](../{path.removeprefix('docs/')}{fragment})"
            if path.startswith("docs/")
            else f"](../../{path}{fragment})"
        )

    text = (ROOT / name).read_text(encoding="utf-8")
    return re.sub(r"\]\(([^)#\s]+)(#[^)]*)?\)", rewrite, text)


# -- the tables --------------------------------------------------------------------------------------------------------


def detectors_table() -> str:
    """The catalog, as `prelabel detectors` prints it."""
    from prelabel.detectors.inspect import catalog_table

    keys = {"name": "name", "gives": "gives", "classes": "classes", "input": "input", "published": "published accuracy"}
    keys["license"] = "license"
    rows = [
        tuple(f"`{entry[key]}`" if key == "name" else prose(entry[key]) for key in keys) for entry in catalog_table()
    ]
    return table(tuple(keys.values()), rows) + "\n"


def adapter_table() -> str:
    """The keys of an adapter in order, with their values and meaning."""
    from prelabel.detectors.conventions.adapter_schema import SCHEMA, form_of

    def rows(schema: dict[str, Any], depth: int = 0) -> Iterator[tuple[str, ...]]:
        for name, part in schema["properties"].items():
            inner = [option for option in part.get("anyOf", [part]) if "properties" in option]
            needed = "yes" if name in schema["required"] else ""
            values = "" if "properties" in part else prose(form_of(part))
            yield f"{'&ndash; ' * depth}`{name}`", values, needed, prose(part["description"])
            for option in inner:
                yield from rows(option, depth + 1)

    return table(("key", "values", "required", "what it says"), list(rows(SCHEMA))) + "\n"


def columns_table(schema: str) -> str:
    """The columns of a Parquet file with type and meaning."""
    fields = json.loads((SCHEMAS / f"{schema}.arrow.json").read_text(encoding="utf-8"))["fields"]
    rows = [
        (f"`{field['name']}`", prose(field["type"]), "yes" if field["nullable"] else "", prose(field["description"]))
        for field in fields
    ]
    return table(("column", "type", "may be null", "what it holds"), rows) + "\n"


def errors_tree() -> str:
    """The tree of exceptions that the module's docstring draws."""
    import prelabel.errors

    doc = inspect.cleandoc(prelabel.errors.__doc__ or "")
    (tree,) = re.findall(r"^ +PrelabelError\n(?: .*\n)+", doc, re.MULTILINE)
    return f"```text\n{textwrap.dedent(tree).rstrip()}\n```\n"


def python_names() -> str:
    """Every public name of the package, for autodoc: the functions, then the classes of what they return."""
    import prelabel

    parts = {"Functions": "", "Classes": ""}
    for name in prelabel.__all__:
        value = getattr(prelabel, name)
        if isinstance(value, type) and not issubclass(value, Exception):
            parts["Classes"] += f"### {name}\n\n```{{eval-rst}}\n.. autoclass:: prelabel.{name}\n   :members:\n```\n\n"
        elif callable(value) and not isinstance(value, type):
            parts["Functions"] += f"### {name}\n\n```{{eval-rst}}\n.. autofunction:: prelabel.{name}\n```\n\n"
    return "".join(f"## {heading}\n\n{entries}" for heading, entries in parts.items())


def escape_markup(app: Sphinx, what: str, name: str, obj: object, options: object, lines: list[str]) -> None:
    """Keep `'*=0.4'` and `AWS_*` in docstrings literal: they begin no emphasis and are no links."""
    for number, line in enumerate(lines):
        pieces = line.split("`")
        pieces[::2] = [re.sub(r"(?<![\w*])\*(?![\s*])|(?<=\w)_(?!\w)", r"\\\g<0>", piece) for piece in pieces[::2]]
        lines[number] = "`".join(pieces)


# -- Markdown ----------------------------------------------------------------------------------------------------------


def table(header: tuple[str, ...], rows: list[tuple[str, ...]]) -> str:
    """A Markdown table; a `|` in a cell is escaped, in code as well."""
    lines = [header, tuple("---" for _ in header), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)


def prose(text: str) -> str:
    """Text of a help or a schema as Markdown: what is not between backticks is literal, and options become code."""
    pieces = " ".join(text.split()).split("`")
    escaped = [_literal(piece) if number % 2 == 0 else piece for number, piece in enumerate(pieces)]
    return "`".join(escaped)


def _literal(text: str) -> str:
    escaped = re.sub(r"([*_<\[\]#])", r"\\\1", text)
    return re.sub(r"(?<![\w-])--[a-z][a-z-]+", r"`\g<0>`", escaped)


def paragraphs(text: str) -> str:
    r"""The help of a command as Markdown; paragraphs that click is to keep as they are (`\b`) become code."""
    parts = []
    for paragraph in re.split(r"\n\s*\n", inspect.cleandoc(text)):
        if paragraph.startswith("\b"):
            parts.append(f"```text\n{textwrap.dedent(paragraph.removeprefix(chr(8)).strip(chr(10)))}\n```")
        else:
            parts.append(prose(paragraph))
    return "\n\n".join(parts)
