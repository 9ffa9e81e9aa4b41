"""Every way in which a factory or what it returns can be wrong is told in one line with what would be right."""

from __future__ import annotations

import itertools
import re
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from prelabel.detections import ClassName
from prelabel.detectors.base import DetectorInfo
from prelabel.detectors.plugins.addresses import FactoryAddress
from prelabel.detectors.plugins.factory import make_detector
from prelabel.errors import PrelabelError
from tests.detectors.plugins.modules import detector_code, write

_NUMBERS = itertools.count()


def make(folder: Path, code: str, attribute: str = "Found", **options: str) -> Any:
    """The detector of a module with this code, which has a name of its own in this process."""
    name = f"factory_module_{next(_NUMBERS)}"
    write(folder, **{name: code})
    try:
        return make_detector(FactoryAddress(name, attribute), options)
    finally:
        sys.modules.pop(name, None)


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.syspath_prepend(str(tmp_path))
    return tmp_path


def test_a_class_or_a_function_is_a_factory_and_gets_the_options_as_keywords(folder: Path) -> None:
    code = detector_code() + "\ndef make(*, level):\n    return Found(level)\n"
    assert make(folder, code).level == 1
    assert make(folder, code, level="0.5").level == 0.5
    assert make(folder, code, "make", level="0.25").level == 0.25


RETURNS = "def make(**options):\n    return {}\n"
PARTS = "import types\nfrom prelabel import DetectorInfo\ndef make():\n    return types.SimpleNamespace({})\n"
INFO = 'info=DetectorInfo("d")'
NOT_INFO = "info must be a prelabel.DetectorInfo, but it is a "
PROBLEMS: dict[str, tuple[str, dict[str, str], str]] = {
    "a missing library": ("import no_such_library", {}, r"cannot be imported: ModuleNotFoundError.*no_such_library"),
    "a typo in the code": ("def make(:", {}, "cannot be imported: SyntaxError"),
    "the end of the process": ("import sys; sys.exit(3)", {}, "cannot be imported: SystemExit: 3"),
    "no such factory": ("def makes(): pass\n_make = 1", {}, "has no 'make'; did you mean 'makes'?"),
    "no factory": ("make = {}", {}, "make must be a function or class that returns a detector, but it is a dict"),
    "an unknown option": ("def make(level='1'): pass", {"lvel": "2"}, "no option 'lvel': it accepts level"),
    "no options": ("def make(): pass", {"level": "2"}, "no option 'level': it accepts none"),
    "a missing option": ("def make(weights): pass", {}, "needs --detector-option weights=VALUE"),
    "a positional argument": ("def make(weights, /): pass", {}, "'weights' by position"),
    "a failure": (
        "def make():\n    raise OSError(2, 'no weights')",
        {},
        "the factory failed: FileNotFoundError: no weights",
    ),
    "nothing": (RETURNS.format("None"), {}, "info, batch_size, detect, but None has no info, batch_size, detect"),
    "a module": ("import json\n" + RETURNS.format("json"), {}, "but the module json has no info"),
    "no detect": (PARTS.format(f"{INFO}, batch_size=1"), {}, "has no detect"),
    "another info": (PARTS.format("info={}, batch_size=1, detect=print"), {}, NOT_INFO + "dict"),
    "a method as info": (
        detector_code().replace("info = Det", "no = Det") + "\n    def info(self): pass\nmake = Found",
        {},
        NOT_INFO + "method",
    ),
    "a batch of none": (PARTS.format(f"{INFO}, batch_size=0, detect=print"), {}, "batch_size must be .* got 0"),
    "half a batch": (PARTS.format(f"{INFO}, batch_size=1.5, detect=print"), {}, "at least 1, got 1.5"),
    "all batches": (PARTS.format(f"{INFO}, batch_size=True, detect=print"), {}, "at least 1, got True"),
    "a value as detect": (PARTS.format(f"{INFO}, batch_size=1, detect=3"), {}, "a method, but it is an int"),
    "wrong info": (
        "from prelabel import DetectorInfo\nmake = lambda: DetectorInfo('a b')",
        {},
        "ValueError: name must",
    ),
}


@pytest.mark.parametrize("name", PROBLEMS)
def test_a_problem_is_one_line_that_says_what_is_right(name: str, folder: Path) -> None:
    code, options, message = PROBLEMS[name]
    with pytest.raises(PrelabelError) as caught:
        make(folder, code, "make", **options)
    text = str(caught.value)
    assert re.search(message, text), text
    assert re.match(r"detector 'factory_module_\d+:make'", text)
    assert "\n" not in text


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"name": ""}, "name must consist of letters"),
        ({"name": "a/b"}, "name must consist of letters.*'a/b'"),
        ({"classes": "cat"}, "classes must be a list of ClassName objects, got 'cat'"),
        ({"classes": ["cat"]}, "classes must be a list of ClassName objects"),
        ({"classes": [ClassName(1, "a"), ClassName(1, "b")]}, r"must differ.*\[1, 1\]"),
        ({"classes": [ClassName(-1, "a")]}, r"at least 0, got \[-1\]"),
        ({"classes": [ClassName(1, " ")]}, "class 1 must have a name, got ' '"),
        ({"classes": [ClassName(1.5, "a")]}, r"must be whole, got \[1.5\]"),
        ({"files": "w.onnx"}, "files must be a list of paths, got 'w.onnx'"),
        ({"notes": "beware"}, "notes must be a list of texts"),
        ({"input_size": 0}, "input_size must be a whole number of at least 1, got 0"),
    ],
)
def test_info_refuses_what_cannot_be_right(values: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        DetectorInfo(**{"name": "d", **values})


def test_numbers_of_libraries_become_those_of_python() -> None:
    (known,) = DetectorInfo("d", classes=[ClassName(np.int64(3), "cat")]).classes or ()
    assert known == ClassName(3, "cat")
    assert type(known.id) is int
