"""Make a detector with its factory, and check that it is one. The only place that imports code of detectors.

Every problem becomes an error of one line that says what would be right.
"""

from __future__ import annotations

import difflib
import functools
import importlib
import inspect
from collections.abc import Callable, Mapping
from typing import Any, cast

from prelabel.detectors.base import Detector, DetectorInfo, whole_number
from prelabel.detectors.plugins.addresses import FactoryAddress
from prelabel.errors import ConfigError, DetectorError, PrelabelError
from prelabel.storage.address import describe

_MEMBERS = ("info", "batch_size", "detect")


def make_detector(address: FactoryAddress, options: Mapping[str, str]) -> Detector:
    """Import the factory and call it with the options as keywords.

    Raises:
        ConfigError: The module has no such factory, or the factory does not accept the options.
        DetectorError: The module cannot be imported, the factory fails, or what it returns is not a detector.
    """
    where = f"detector {str(address)!r}"
    module = _guarded(lambda: importlib.import_module(address.module), f"{where} cannot be imported")
    factory = _factory(module, address, where)
    _require_accepted(factory, options, where)
    made = _guarded(lambda: factory(**options), f"{where}: the factory failed")
    require_detector(made, where)
    return cast("Detector", made)


def _guarded(call: Callable[[], Any], what: str) -> Any:
    """The result of a call into other people's code, whose exceptions become one line."""
    try:
        return call()
    except PrelabelError as error:
        raise DetectorError(f"{what}: {error}") from error
    except (Exception, SystemExit) as error:
        raise DetectorError(f"{what}: {describe(error)}") from error


def _factory(module: Any, address: FactoryAddress, where: str) -> Callable[..., Any]:
    try:
        factory = functools.reduce(getattr, address.attribute.split("."), module)
    except AttributeError:
        offered = [name for name in vars(module) if not name.startswith("_") and callable(getattr(module, name, None))]
        near = difflib.get_close_matches(address.attribute, offered, n=1)
        hint = f"; did you mean {near[0]!r}?" if near else ""
        raise ConfigError(f"{where}: {address.module} has no {address.attribute!r}{hint}") from None
    if not callable(factory):
        raise ConfigError(
            f"{where}: {address.attribute} must be a function or class that returns a detector, but it is "
            f"{_kind_of(factory)}"
        )
    return cast("Callable[..., Any]", factory)


def _require_accepted(factory: Callable[..., Any], options: Mapping[str, str], where: str) -> None:
    """Raise ConfigError if the factory lacks a keyword for an option, or needs one that is not given."""
    try:
        parameters = inspect.signature(factory).parameters
    except (TypeError, ValueError):  # code without a readable signature
        return
    named = {n: p for n, p in parameters.items() if p.kind in (p.KEYWORD_ONLY, p.POSITIONAL_OR_KEYWORD)}
    accepts_all = any(p.kind is p.VAR_KEYWORD for p in parameters.values())
    unknown = [name for name in options if name not in named and not accepts_all]
    if unknown:
        accepted = f"it accepts {', '.join(named)}" if named else "it accepts none"
        raise ConfigError(f"{where} has no option {unknown[0]!r}: {accepted}")
    needed = [name for name, p in named.items() if p.default is p.empty and name not in options]
    if needed:
        raise ConfigError(f"{where} needs --detector-option {needed[0]}=VALUE")
    if positional := [n for n, p in parameters.items() if p.kind is p.POSITIONAL_ONLY and p.default is p.empty]:
        raise ConfigError(f"{where}: the factory needs {positional[0]!r} by position, but options are keywords")


def require_detector(made: object, where: str) -> None:
    """Raise DetectorError if an object is not a `Detector`."""
    missing = [name for name in _MEMBERS if not hasattr(made, name)]
    if missing:
        raise DetectorError(
            f"{where}: the factory must return an object with {', '.join(_MEMBERS)}, but {_kind_of(made)} has no "
            f"{', '.join(missing)}"
        )
    info, detect = getattr(made, "info"), getattr(made, "detect")  # noqa: B009 - of any class
    if not isinstance(info, DetectorInfo):
        raise DetectorError(f"{where}: info must be a prelabel.DetectorInfo, but it is {_kind_of(info)}")
    if not callable(detect):
        raise DetectorError(f"{where}: detect must be a method, but it is {_kind_of(detect)}")
    try:
        whole_number(getattr(made, "batch_size"), "batch_size")  # noqa: B009 - of any class
    except ValueError as error:
        raise DetectorError(f"{where}: {error}") from None


def _kind_of(value: object) -> str:
    """`a dict`, `the module os`, `None`: a value in a message about its type."""
    if value is None:
        return "None"
    if inspect.ismodule(value):
        return f"the module {value.__name__}"
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name = type(value).__name__
    return f"{'an' if name[0].lower() in 'aeiou' else 'a'} {name}"
