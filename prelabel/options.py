"""Options, defined once: a frozen dataclass serves the command line, job files and Python calls.

    @dataclass(frozen=True, kw_only=True)
    class CocoOptions(Options):
        segmentation: str = option("rle", "Write masks in this form.", choices=("rle", "polygon", "none"))
        polygon_tolerance: float = option(1.0, "Let polygons deviate from the mask by up to this.", min=0)

From the field `polygon_tolerance` the command line derives `--polygon-tolerance`, job files the key
`polygon-tolerance` (or `polygon_tolerance`), and Python the keyword. The allowed values are declared with the option
and checked when the object is created, so the command line, job files and Python report the same errors. A class
defines `__post_init__` only for rules that involve several options or cannot be declared.

Options that several classes share form their own class, and the other classes include it as a group:

        selection: Selection = group_of(Selection)

The names of grouped options stay flat (`--score-threshold`, `score_threshold=`), and code that needs only the selection
gets `options.selection`.

In `--help`, options with `first=True` are listed first, then the others under their headings, then the groups.
"""

from __future__ import annotations

import dataclasses
import difflib
import json
import math
import reprlib
import sys
import warnings
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from prelabel.errors import ConfigError
from prelabel.mapping_files import MAPPING_SUFFIXES, Bare, meaning, read_mapping

T = TypeVar("T", bound="Options")

# Properties of a model that `label` and `inspect` can set. They are here because `--help` must not import NumPy.

#: Pixel ranges of a model's input, with their bounds.
INPUT_RANGES: Mapping[str, tuple[float, float]] = {"0..1": (0.0, 1.0), "0..255": (0.0, 255.0), "-1..1": (-1.0, 1.0)}
#: Kinds of scores that a classifier returns, and how each is used.
ACTIVATIONS: Mapping[str, str] = {
    "softmax": "probabilities of mutually exclusive classes, which sum to 1: used unchanged",
    "sigmoid": "independent probabilities per class: used unchanged",
    "logits": "logits of mutually exclusive classes: softmax is applied",
    "multilabel-logits": "logits of independent classes: sigmoid is applied",
    "none": "other scores in 0..1: used unchanged",
}
#: Positions of the color channels in a model's input.
INPUT_LAYOUTS = ("channels-last", "channels-first")
#: Areas that a mask can cover: its box or the whole image.
MASK_FRAMES = ("box", "image")

#: Metavar of options whose value is a share, which may be given as a percentage (`10%`).
SHARE = "SHARE"

#: Metavars of options whose value is a path or a URL that shells complete as a path.
PATH_METAVARS = ("FILE", "DIR", "PATH", "OUT", "RUN", "DETECTOR")

#: The content of a file of keys and values, as plain JSON; the option accepts the path of the file, too.
Document = dict[str, Any]
_DOCUMENT_SUFFIXES = (".yaml", ".yml", ".toml", ".json")
#: Largest size of such a file, in bytes.
_LARGEST_DOCUMENT = 1 << 20
#: Keys of a document whose values are names: `no` and `1e3` are text in them.
_NAMES = ("labels",)

#: Shortens values in messages: a few lines of YAML can define a value of gigabytes.
_SHORT = reprlib.Repr()
_SHORT.maxstring = _SHORT.maxother = _SHORT.maxlong = 200
_SHORT.maxlevel = 2


def option(
    default: Any,
    help: str,
    *,
    metavar: str = "",
    heading: str = "",
    first: bool = False,
    choices: tuple[str, ...] = (),
    min: float | None = None,
    max: float | None = None,
    above: float | None = None,
    below: float | None = None,
    unit: str = "",
    missing: str = "",
    affects: str = "nothing",
    secret: bool = False,
    was: str = "",
    lenient: bool = False,
) -> Any:
    """A dataclass field with all that the command line, job files and the run's identity need to know about the option.

    The annotation of the field determines the form of its values; see `kind_of`.

    Args:
        default: The value if none is given.
        help: One sentence for `--help`, which starts with a verb.
        metavar: Placeholder for the value in `--help`.
        heading: Section of `--help` for this option and those that follow it.
        first: List this option before all headings in `--help`: one of the ten or so that matter most.
        choices: The allowed values of a str.
        min: The smallest allowed number; for `float-pairs`, of each number. A default of None is always allowed.
        max: The largest allowed number.
        above: Numbers must be greater than this.
        below: Numbers must be less than this.
        unit: Unit of the bounds, for messages.
        missing: The error message if a text or list is empty or blank, for options that need a value.
        affects: What a different value changes: `"rows"` (the contents of rows), `"plan"` (which image is in which
            shard), `"failures"` (a greater value lets images through that failed and leaves successful rows unchanged)
            or `"nothing"` (speed, messages). A run resumes only with equal `rows` and `plan` options; its failed images
            may be retried with greater `failures` options.
        secret: Never print, log or store the value.
        was: The option's former name, with underscores; it is still accepted, with a warning, and not in `--help`.
        lenient: For a str, also accept a whole number, and a list of texts, which are joined by commas.
    """
    metadata = {
        "help": help,
        "metavar": metavar,
        "heading": heading,
        "first": first,
        "choices": choices,
        "bounds": _Bounds(min, max, above, below, unit),
        "missing": missing,
        "affects": affects,
        "secret": secret,
        "was": was,
        "lenient": lenient,
    }
    if isinstance(default, dict):
        return dataclasses.field(default_factory=lambda: dict(default), metadata=metadata)
    return dataclasses.field(default=default, metadata=metadata)


def group_of(cls: type[Options]) -> Any:
    """A dataclass field that includes the options of another class; their names stay flat."""
    return dataclasses.field(default_factory=cls, metadata={"group_of": cls})


@dataclass(frozen=True, slots=True)
class _Bounds:
    min: float | None
    max: float | None
    above: float | None
    below: float | None
    unit: str

    def admit(self, number: float) -> bool:
        """Whether a number is within the bounds; NaN never is."""
        return (
            (self.min is None or number >= self.min)
            and (self.max is None or number <= self.max)
            and (self.above is None or number > self.above)
            and (self.below is None or number < self.below)
        )

    def describe(self, kind: str) -> str:
        """The bounds in words, for numbers of this kind of option: `between 0 and 1`."""
        ends = [end for end in (self.min, self.above, self.below, self.max) if end is not None]
        if (self.min is None) == (self.max is None) and len(ends) == 2:
            text = f"{ends[0]} to {ends[1]}" if kind == "int" else f"between {ends[0]} and {ends[1]}"
        elif len(ends) == 1 and self.min is not None:
            text = f"{self.min} or more"
        else:
            named = {"at least": self.min, "above": self.above, "at most": self.max, "below": self.below}
            text = " and ".join(f"{name} {end}" for name, end in named.items() if end is not None)
        return f"{text} {self.unit}".rstrip()


@dataclass(frozen=True, kw_only=True)
class Options:
    """Base class of all options classes; creating an object rejects values that are not allowed.

    Raises:
        ConfigError: A required value is missing, or a value is not among the choices or out of bounds. The message
            names the option, the value and the allowed values.
    """

    def __post_init__(self) -> None:
        for field in dataclasses.fields(self):
            if "help" in field.metadata:
                _require_allowed(field, getattr(self, field.name))

    @classmethod
    def of(cls: type[T], **values: Any) -> T:
        """An object with these values, given by their flat names. Raises ConfigError like `from_mapping`."""
        return from_mapping(cls, values, cls.__name__)

    @property
    def notes(self) -> tuple[str, ...]:
        """Remarks about these values for the user, one line each."""
        groups = [getattr(self, field.name) for field in dataclasses.fields(self) if "group_of" in field.metadata]
        return tuple(note for group in groups for note in group.notes)


def _require_allowed(field: dataclasses.Field[Any], value: Any) -> None:
    """Raise ConfigError if an option must not have this value, which already has the option's type."""
    meta, name = field.metadata, flag_of(field.name)
    choices, bounds = meta["choices"], meta["bounds"]
    if meta["missing"]:
        require(bool(value.strip() if isinstance(value, str) else value), meta["missing"])
    if value is None:
        return
    require(not choices or value in choices, f"{name} must be one of {', '.join(choices)}, got {value!r}")
    kind = kind_of(field)
    if kind in ("int", "float", "float-pairs", "numbers"):
        if kind == "float-pairs":
            numbers = [(f" {key}", number) for key, number in value.items()]
        else:
            numbers = [("", number) for number in (value if kind == "numbers" else [value])]
        for key, number in numbers:
            require(bounds.admit(number), f"{name}{key} must be {bounds.describe(kind)}, got {number}")


def flag_of(name: str) -> str:
    """An option's spelling on the command line and in messages: `--score-threshold`."""
    return "--" + name.replace("_", "-")


def arguments_of(cls: type[Options], values: Mapping[str, Any]) -> list[str]:
    """Values as arguments of the command line, in the order of the options.

    Args:
        cls: The class of the options.
        values: Values by option name, as in a recorded export; defaults and unknown names are left out.
    """
    arguments: list[str] = []
    for name, field in fields_of(cls).items():
        value, default = values.get(name), default_of(field)
        if value is None or value == (list(default) if isinstance(default, tuple) else default):
            continue
        flag = flag_of(name)
        if isinstance(value, bool):
            arguments.append(flag if value else flag_of(f"no_{name}"))
        elif isinstance(value, Mapping):
            arguments += [text for key, entry in value.items() for text in (flag, f"{key}={entry}")]
        elif isinstance(value, list):
            arguments += [text for entry in value for text in (flag, str(entry))]
        else:
            arguments += [flag, str(value)]
    return arguments


def fields_of(cls: Any) -> dict[str, dataclasses.Field[Any]]:
    """The options of a class (or object) by name, in order of declaration, including those of its groups."""
    fields: dict[str, dataclasses.Field[Any]] = {}
    for field in dataclasses.fields(cls):
        fields |= fields_of(field.metadata["group_of"]) if "group_of" in field.metadata else {field.name: field}
    return fields


def former_names(cls: Any) -> dict[str, str]:
    """The current name of each renamed option, by its former name."""
    return {field.metadata["was"]: name for name, field in fields_of(cls).items() if field.metadata["was"]}


def fields_for_help(cls: Any) -> dict[str, tuple[str, dataclasses.Field[Any]]]:
    """The heading and field of each option by name, in the order of `--help`; `first` options have no heading."""
    own: dict[str, tuple[str, dataclasses.Field[Any]]] = {}
    grouped: dict[str, tuple[str, dataclasses.Field[Any]]] = {}
    heading = ""
    for field in dataclasses.fields(cls):
        if "group_of" in field.metadata:
            grouped |= fields_for_help(field.metadata["group_of"])
        else:
            heading = field.metadata["heading"] or heading
            own[field.name] = ("" if field.metadata["first"] else heading, field)
    ordered = own | grouped
    return dict(sorted(ordered.items(), key=lambda item: item[1][0] != ""))


def is_required(field: dataclasses.Field[Any]) -> bool:
    """Whether an option has no usable default: a value must be given."""
    return bool(field.metadata["missing"]) and not default_of(field)


def values_of(options: Options) -> dict[str, Any]:
    """The values of all options by flat name, in the order of `fields_of`."""
    values: dict[str, Any] = {}
    for field in dataclasses.fields(options):
        value = getattr(options, field.name)
        values |= values_of(value) if isinstance(value, Options) else {field.name: value}
    return values


def kind_of(field: dataclasses.Field[Any]) -> str:
    """The form of an option's values.

    `int`, ..., `numbers` (joined by commas on the command line), `pairs` (`NAME=VALUE`) or `float-pairs` (numbers from
    0 to 1).
    """
    annotation = str(field.type).removesuffix(" | None")
    maps = {"dict[str, str]": "pairs", "dict[str, float]": "float-pairs", "dict[str, Any]": "json"}
    others = {"tuple[str, ...]": "list", "tuple[float, ...]": "numbers", "Document": "document"}
    return {"bool": "flag", **others, **maps}.get(annotation, annotation)


def default_of(field: dataclasses.Field[Any]) -> Any:
    """The value of an option if none is given."""
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def from_mapping(cls: type[T], values: Mapping[str, Any], where: str) -> T:
    """An options object from the keys of a job file or keyword arguments.

    Args:
        cls: Class of the object.
        values: Values by option name, with `-` or `_`. Former names are accepted with a `RenamedOptionWarning`.
        where: The command or file that the values come from; error messages start with it.

    Raises:
        ConfigError: A key is unknown (the message suggests the nearest known one), or a value has the wrong type or is
            out of bounds.
    """
    return _build(cls, convert_all(cls, values, where))


def convert_all(cls: type[Options], values: Mapping[str, Any], where: str) -> dict[str, Any]:
    """The values by option name, converted to the types of their options; bounds are not checked.

    Raises:
        ConfigError: A key is unknown or given twice, or a value has the wrong type.
    """
    known, renamed = fields_of(cls), former_names(cls)
    clean: dict[str, Any] = {}
    for key, value in values.items():
        name = str(key).replace("-", "_")
        if name in renamed:
            former, name = name, renamed[name]
            text = (
                f"{where}: {flag_of(former)} is now {flag_of(name)}; the old name will be removed in the next version"
            )
            warnings.warn(text, RenamedOptionWarning, stacklevel=_level_of_caller())
        if name not in known:
            near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
            # Spell the suggestion like the key: Python's keywords have underscores.
            nearest = [name if "_" in str(key) else name.replace("_", "-") for name in near]
            hint = f"; did you mean {nearest[0]!r}?" if near else ""
            raise ConfigError(f"{where}: unknown option {str(key)!r}{hint}")
        if name in clean:
            raise ConfigError(f"{where}: option {flag_of(name)} is given twice")
        clean[name] = convert(known[name], value, where)
    return clean


def _level_of_caller() -> int:
    """The `stacklevel` with which this function's caller names the line of the user, outside of the package."""
    package = __name__.partition(".")[0]
    level, frame = 1, sys._getframe(1)
    while frame.f_back is not None and frame.f_globals.get("__name__", "").partition(".")[0] == package:
        level, frame = level + 1, frame.f_back
    return level


class RenamedOptionWarning(FutureWarning):
    """An option was given by its former name."""


def _build(cls: type[T], values: Mapping[str, Any]) -> T:
    own: dict[str, Any] = {}
    for field in dataclasses.fields(cls):
        if "group_of" in field.metadata:
            own[field.name] = _build(field.metadata["group_of"], values)
        elif field.name in values:
            own[field.name] = values[field.name]
    return cls(**own)


#: The values that an option accepts, for messages, by the kind of the option.
_EXPECTED = {
    "flag": "true or false",
    "int": "a whole number",
    "float": "a number",
    "str": "text",
    "list": "text or a list of texts",
    "numbers": "numbers joined by commas",
    "json": "a JSON object",
    "document": "a .yaml, .toml or .json file, or its content",
    "pairs": "NAME=VALUE or a file",
    "float-pairs": "NAME=NUMBER or a file",
}


def convert(field: dataclasses.Field[Any], value: Any, where: str) -> Any:
    """The value converted to its option's type. Raises ConfigError that names the given and the expected value."""
    if value is None or (isinstance(value, Bare) and value.value is None):
        require(default_of(field) is None, f"{where}: {flag_of(field.name)} has no value")
        return None
    meta = field.metadata
    kind, choices = kind_of(field), meta["choices"]
    detail = ""
    try:
        given = _number_of_percent(value) if meta["metavar"] == SHARE else value
        converted = _converted(kind, _as_text(given) if meta["lenient"] else given)
        wrong = bool(choices) and converted not in choices
    except _EntryError as error:
        wrong, detail = True, f"; {error}"
    except (TypeError, ValueError, OverflowError, RecursionError):
        wrong = True
    if wrong:
        expected = f"one of {', '.join(choices)}" if choices else _EXPECTED[kind]
        if meta["metavar"] == SHARE:
            expected += " or a percentage (0.1, 10%)"
        shown = value
        if kind in ("pairs", "float-pairs"):
            expected += f" ({', '.join(MAPPING_SUFFIXES)})"
            # The command line makes a list of an option that may be repeated.
            shown = value[0] if isinstance(value, list) and len(value) == 1 else value
        shown_text = "" if meta["secret"] else f", got {_SHORT.repr(shown)}"
        raise ConfigError(f"{where}: {flag_of(field.name)} must be {expected}{shown_text}{detail}")
    return converted


def _number_of_percent(value: Any) -> Any:
    """`"10%"` as 0.1; any other value as it is."""
    return float(value[:-1]) / 100 if isinstance(value, str) and value.endswith("%") else value


def _converted(kind: str, value: Any) -> Any:
    """The value converted to this kind. Raises TypeError, ValueError or OverflowError if it is of another kind."""
    if kind == "flag":
        return _expect(meaning(value), bool)
    if kind in ("int", "float"):
        value = meaning(value)
        number = float(_expect(value, int | float | str, but=bool))
        if kind == "float":
            # Python reads 0_1 as 1, but the user may mean 0.1.
            if not math.isfinite(number) or (isinstance(value, str) and "_" in value):
                raise ValueError
            return number
        return int(value) if isinstance(value, int | str) or number == int(number) else _expect(value, int)
    if kind == "str":
        return str(value) if isinstance(value, Path) else _text(value)
    if kind == "list":
        values = [value] if isinstance(value, str | Path) else _expect(value, list | tuple)
        return tuple(str(item) if isinstance(item, Path) or type(item) is int else _text(item) for item in values)
    if kind == "numbers":
        texts = value.split(",") if isinstance(value, str) else _expect(value, list | tuple)
        return tuple(_converted("float", number) for number in texts)
    if kind == "json":
        return _expect(json.loads(value) if isinstance(value, str) else meaning(value), dict)
    if kind == "document":
        return _document(value)
    return dict(_pairs(kind, value))


def _as_text(value: Any) -> Any:
    """A whole number as text, a list of texts as one text, and any other value unchanged."""
    if isinstance(value, list | tuple):
        return ",".join(_text(item) for item in value)
    if isinstance(value, Bare) and not value.exact:
        value = value.value
    return str(value) if type(value) is int else value


def read_document(flag: str, path: str) -> Document:
    """The content of a file that an option names. Raises ConfigError that names the option or the file."""
    try:
        return _document(path)
    except (TypeError, ValueError):
        raise ConfigError(f"{flag} must be a {', '.join(_DOCUMENT_SUFFIXES)} file, got {_SHORT.repr(path)}") from None


def _document(value: Any) -> Document:
    """The content of a file, given by its path or directly, as plain JSON. Raises ConfigError that names the file."""
    if isinstance(value, str | Path):
        path = Path(str(value))
        if path.suffix.lower() not in _DOCUMENT_SUFFIXES:
            raise ValueError
        if path.is_file() and path.stat().st_size > _LARGEST_DOCUMENT:
            raise ConfigError(f"{path}: the file has more than {_LARGEST_DOCUMENT:,} bytes")
        value = read_mapping(path)
    return {
        str(name): _plain(_with_names(inner) if name in _NAMES else meaning(inner))
        for name, inner in _expect(value, Mapping).items()
    }


def _plain(value: Any) -> Any:
    """A value as plain JSON. Raises TypeError if it cannot be one."""
    if isinstance(value, Mapping):
        return {str(name): _plain(inner) for name, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(inner) for inner in value]
    if isinstance(value, str):
        return str(value)
    return _expect(value, bool | int | float | None)


def _with_names(value: Any) -> Any:
    """A value whose unquoted parts are the text that is written, not what it means."""
    if isinstance(value, Bare):
        return str(value)
    if isinstance(value, Mapping):
        return {name: _with_names(inner) for name, inner in value.items()}
    return [_with_names(inner) for inner in value] if isinstance(value, list) else value


def _expect(value: Any, types: Any, but: Any = ()) -> Any:
    if not isinstance(value, types) or isinstance(value, but):
        raise TypeError
    return value


def _text(value: Any) -> str:
    """Text exactly as the user wrote it, quoted or not. Raises _EntryError if the parser lost the original spelling."""
    if not isinstance(value, str):
        raise TypeError
    if isinstance(value, Bare) and not value.exact:
        raise _EntryError(f"{value} needs quotes: unquoted, its spelling is lost")
    return str(value)


class _EntryError(ValueError):
    """An error in one entry of a list or mapping; the message names the entry."""


def _pairs(kind: str, value: Any) -> Iterator[tuple[str, Any]]:
    """Yield names with texts (`pairs`) or with numbers from 0 to 1 (`float-pairs`), in the order given.

    Raises:
        ConfigError: A file is invalid; the message names the file, the entry and the expected value.
    """
    if isinstance(value, Mapping):
        yield from ((str(name), _pair_value(kind, str(name), written)) for name, written in value.items())
        return
    given: dict[str, Any] = {}
    for item in [value] if isinstance(value, str | Path) else _expect(value, list | tuple):
        text = str(_expect(item, str | Path))
        path = Path(text)
        name, equals, written = text.rpartition("=")
        if path.suffix.lower() in MAPPING_SUFFIXES and (not equals or path.is_file()):
            for name, written in read_mapping(path).items():
                try:
                    yield name, _pair_value(kind, name, written)
                except _EntryError as error:
                    raise ConfigError(f"{path}: {error}") from None
        elif equals and name:
            converted = _pair_value(kind, name, written)
            if given.setdefault(name, converted) != converted:
                raise _EntryError(f"{name} is given twice")
            yield name, converted
        else:
            raise TypeError


def _pair_value(kind: str, name: str, value: Any) -> Any:
    """The converted value of a pair. Raises _EntryError."""
    if kind == "pairs":
        try:
            return _text(value)
        except (TypeError, _EntryError):
            raise _EntryError(f"{name} must be text in quotes, got {_SHORT.repr(meaning(value))}") from None
    try:
        number = _converted("float", value)
        wrong = not 0 <= number <= 1
    except (TypeError, ValueError, OverflowError):
        wrong = True
    if wrong:
        raise _EntryError(f"{name} must be a number from 0 to 1, got {_SHORT.repr(value)}")
    return number


def require(condition: bool, message: str) -> None:
    """Raise ConfigError with the message unless the condition holds."""
    if not condition:
        raise ConfigError(message)
