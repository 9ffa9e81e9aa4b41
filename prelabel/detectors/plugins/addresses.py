"""The addresses of factories: `package.module:factory`, or the name of an entry point. Nothing is imported here.

A package offers its detectors by name in its `pyproject.toml`:

    [project.entry-points."prelabel.detectors"]
    blobs = "blobs.detector:Blobs"
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path

from prelabel.class_rules import nearest_name
from prelabel.detectors.models.catalog import CATALOG, lookup
from prelabel.errors import ConfigError, first_of

#: The group of entry points.
GROUP = "prelabel.detectors"

#: Largest number of names in a message.
_MOST_NAMES = 20

_DOTTED = r"[^\W\d]\w*(?:\.[^\W\d]\w*)*"
_FACTORY = re.compile(rf"({_DOTTED}):({_DOTTED})")


@dataclass(frozen=True, slots=True)
class FactoryAddress:
    """Where a factory is.

    Attributes:
        module: Dotted name of its module.
        attribute: Its name in the module, possibly dotted.
        name: Name of the entry point, or `""`.
        package: The installed package with the entry point, with its version, or `""`.
    """

    module: str
    attribute: str
    name: str = ""
    package: str = ""

    def __str__(self) -> str:
        return f"{self.module}:{self.attribute}"


def find_factory(detector: str) -> FactoryAddress | None:
    """The factory that `--detector` names, or None if it names a model.

    A name of the catalog is always that of the model. `package.module:factory` is a model if there is such a file.

    Raises:
        ConfigError: Several installed packages have an entry point of this name, a file or folder has the same name, or
            the entry point names no factory.
    """
    match = _FACTORY.fullmatch(detector)
    if match:
        return None if Path(detector).exists() else FactoryAddress(match[1], match[2])
    if lookup(detector) or re.search(r"[/\\:]", detector):
        return None
    addresses = sorted({_address(entry) for entry in entry_points(group=GROUP, name=detector)}, key=str)
    if not addresses:
        return None
    if len(addresses) > 1:
        listed = " or ".join(f"{address} ({address.package})" for address in addresses)
        raise ConfigError(f"several installed packages have a detector named {detector!r}: choose --detector {listed}")
    (address,) = addresses
    if not address.attribute:
        raise ConfigError(
            f"the detector {detector!r} of {address.package} names no factory: its entry point must be "
            f"package.module:factory, got {address.module!r}"
        )
    if Path(detector).exists():
        raise ConfigError(
            f"detector {detector!r} is both a detector of {address.package} and a file or folder: write {address} for "
            f"the first, ./{detector} for the second"
        )
    return address


def require_model(detector: str) -> None:
    """Raise ConfigError, which names the detectors that exist, if a plain name can be no model."""
    if lookup(detector) or re.search(r"[/\\:]", detector) or Path(detector).expanduser().exists():
        return
    names = [entry.name for entry in CATALOG] + [address.name for address in installed_factories()]
    near = nearest_name(detector, names)
    hint = f"did you mean {near!r}?" if near else f"known names: {first_of(names, _MOST_NAMES)}"
    raise ConfigError(
        f"detector {detector!r} is neither a name from `prelabel detectors`, nor package.module:factory, nor a file or "
        f"folder; {hint}"
    )


def installed_factories() -> list[FactoryAddress]:
    """The factories that installed packages offer by name, in the order of their names."""
    addresses = {_address(entry) for entry in entry_points(group=GROUP)}
    return sorted(addresses, key=lambda address: (address.name, str(address)))


def _address(entry: EntryPoint) -> FactoryAddress:
    package = f"{entry.dist.name} {entry.dist.version}" if entry.dist else "an installed package"
    module, _, attribute = re.sub(r"\s|\[.*", "", entry.value).partition(":")
    return FactoryAddress(module, attribute, entry.name, package)
