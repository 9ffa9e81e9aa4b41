"""Write `prelabel/__init__.pyi`, the typed signatures of the Python functions: `python -m tools.stub`.

Editors and type checkers read the stub in place of `prelabel/__init__.py`. It is made from the functions in
`prelabel/api.py` and the options that they accept: run this after a change to either. A test fails while it is stale.
"""

from __future__ import annotations

import inspect
import re
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import prelabel
from prelabel import api
from prelabel.signatures import docstring, signature

STUB = Path(prelabel.__file__).with_suffix(".pyi")

_WIDTH = 120

_HEAD = """\
# Written by `python -m tools.stub` from prelabel/api.py and the options of the commands. Do not edit.

import os
from collections.abc import Mapping, Sequence
from typing import Any, Literal

"""


def stub() -> str:
    """The text of the stub."""
    lines = [f"from prelabel.{module} import {name} as {name}" for name, module in classes().items()]
    names = "".join(f'    "{name}",\n' for name in sorted(prelabel.__all__))
    head = _HEAD + "\n".join(sorted(lines, key=_import_order)) + f"\n\n__all__ = [\n{names}]\n\n"
    head += "StrPath = str | os.PathLike[str]\n\n__version__: str\n"
    return head + "".join(f"\n{definition(getattr(api, name))}" for name in functions())


def functions() -> list[str]:
    """The names of the public functions, in the order of `__all__`."""
    return [name for name in prelabel.__all__ if hasattr(api, name) and inspect.isfunction(getattr(api, name))]


def classes() -> dict[str, str]:
    """The module of each public class, by name; the last is `Reporter`, which only annotations use."""
    public = {n: getattr(prelabel, n) for n in prelabel.__all__ if inspect.isclass(getattr(prelabel, n))}
    modules = {name: cls.__module__.removeprefix("prelabel.") for name, cls in public.items()}
    return {**modules, "Reporter": "engine.progress"}


def definition(function: Callable[..., Any]) -> str:
    """The definition of a function in the stub: one parameter per line, and the docstring."""
    full = signature(function)
    lines = [f"def {function.__name__}("]
    keyword_only = False
    for parameter in full.parameters.values():
        if parameter.kind is parameter.KEYWORD_ONLY and not keyword_only:
            keyword_only = True
            lines.append("    *,")
        lines.append(f"    {_parameter(parameter)},")
    lines.append(f") -> {full.return_annotation}:")
    return "\n".join([*lines, *_docstring_lines(docstring(function))]) + "\n"


def _parameter(parameter: inspect.Parameter) -> str:
    text = f"{parameter.name}: {parameter.annotation}"
    if parameter.default is parameter.empty:
        return text
    default = repr(parameter.default)
    return f"{text} = {re.sub(chr(39), chr(34), default)}"


def _docstring_lines(text: str) -> Iterator[str]:
    first, *rest = text.splitlines()
    yield f'    """{first}'
    for line in rest:
        indent = " " * (len(line) - len(line.lstrip()) + 4)
        wrapped = textwrap.wrap(
            line.strip(),
            _WIDTH,
            initial_indent=indent,
            subsequent_indent=indent + "    " * line.startswith("    "),
            break_long_words=False,
            break_on_hyphens=False,
        )
        yield from wrapped or [""]
    yield '    """'


def _import_order(line: str) -> tuple[str, str]:
    _, module, _, name, *_ = line.split()
    return module, name


if __name__ == "__main__":
    STUB.write_text(stub(), encoding="utf-8")
    print(f"wrote {STUB}")
