"""Write numbers, JSON, XML and YAML strings.

    shortest([0.9, 0.25])                      ->  [0.9, 0.25], not 0.8999999761581421
    rounded([0.125, 2.675], 2)                 ->  [0.12, 2.67], as Python's round
    strict_json({"name": "é"})                  ->  {"name":"\\u00e9"}
    json_numbers([[0.9, 2.0], [0.1, 1.0]])      ->  ["0.9,2.0", "0.1,1.0"]
    tag("box", {"label": 'a "b"'}, "x < y")    ->  <box label='a "b"'>x &lt; y</box>

XML is written element by element: its files are too large for a tree.
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from typing import Any
from xml.sax.saxutils import escape, quoteattr

import numpy as np
import numpy.typing as npt
import orjson

from prelabel.detections import FloatArray


def shortest(values: FloatArray) -> list[float]:
    """Convert float32 numbers to floats with as few digits as identify them: 0.9 and not 0.8999999761581421.

    Raises:
        ValueError: A number is not finite.
    """
    if not np.isfinite(values).all():
        raise ValueError("a number is not finite")
    text = orjson.dumps(np.ascontiguousarray(values, np.float32), option=orjson.OPT_SERIALIZE_NUMPY)
    numbers: list[float] = orjson.loads(text)
    return numbers


def rounded(values: npt.NDArray[np.float64], decimals: int) -> npt.NDArray[np.float64]:
    """Round like Python's `round`: to the float nearest to the decimal number that is nearest to the value."""
    scale = 10.0**decimals
    scaled = values * scale
    nearest = np.rint(scaled)
    result: npt.NDArray[np.float64] = nearest / scale
    # The product is inexact: almost halfway between two whole numbers, or if it is large, its rounding may be wrong.
    doubtful = np.flatnonzero(~((np.abs(np.abs(scaled - nearest) - 0.5) > 1e-6) & (np.abs(scaled) < 2**31)))
    for n in doubtful.tolist():
        result.flat[n] = round(float(values.flat[n]), decimals)
    return result


def strict_json(value: Any) -> bytes:
    """Compact JSON that all readers accept: ASCII, without NaN. Raises ValueError for NaN and infinity."""
    try:
        data: bytes = orjson.dumps(value)
    except TypeError:  # orjson refuses some values that json can write, such as an unpaired surrogate in a name
        return _JSON.encode(value).encode("ascii")
    # orjson does not escape non-ASCII letters, and writes null for NaN.
    if data.isascii() and b"null" not in data:
        return data
    return _JSON.encode(value).encode("ascii")


def json_array(values: npt.NDArray[Any] | Sequence[float]) -> str:
    """An array of numbers as compact JSON. Raises ValueError if a number is not finite."""
    text: str = orjson.dumps(values, option=orjson.OPT_SERIALIZE_NUMPY).decode("ascii")
    if "null" in text:
        raise ValueError("a number is not finite")
    return text


def json_numbers(values: npt.NDArray[Any] | Sequence[float]) -> list[str]:
    """Each number of a column, or the numbers of each row of an array, as compact JSON without brackets.

    Raises:
        ValueError: A number is not finite.
    """
    text = json_array(values)
    if text == "[]":
        return []
    return text[2:-2].split("],[") if text.startswith("[[") else text[1:-1].split(",")


_JSON = json.JSONEncoder(allow_nan=False, separators=(",", ":"))


HEAD = '<?xml version="1.0" encoding="utf-8"?>\n'

_ILLEGAL = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1f\ud800-\udfff\ufffe\uffff]")


def fits_xml(text: str) -> bool:
    """Whether XML can contain the text. Control characters and undecodable bytes are impossible even when escaped."""
    return _ILLEGAL.search(text) is None


def start_tag(name: str, attributes: Mapping[str, object]) -> str:
    """`<name key="value">`; line ends and tabs in values survive the reader's normalization."""
    pairs = "".join(f" {key}={quoteattr(str(value))}" for key, value in attributes.items())
    return f"<{name}{pairs}>"


def tag(name: str, attributes: Mapping[str, object] | None = None, text: str = "") -> str:
    """An element that contains escaped text."""
    return f"{start_tag(name, attributes or {})}{escape(text, _LINE_ENDS)}</{name}>"


#: A reader turns a bare carriage return into a line feed.
_LINE_ENDS = {"\r": "&#13;"}


def escaped_yaml(text: str) -> str:
    """Escape text for a double-quoted YAML string, including characters that are not printable."""
    return "".join(f"\\{c}" if c in '"\\' else c if c.isprintable() else f"\\U{ord(c):08x}" for c in text)
