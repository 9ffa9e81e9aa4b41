"""What `prelabel inspect` and `prelabel detectors` show of detectors in Python."""

from __future__ import annotations

from prelabel.detectors.models.catalog import lookup
from prelabel.detectors.plugins.addresses import FactoryAddress, installed_factories
from prelabel.detectors.plugins.describe import PluginDescription
from prelabel.detectors.plugins.files import package_files
from prelabel.errors import first_of
from prelabel.storage.address import redact

#: Largest number of classes in the report.
_MOST_CLASSES = 10


def format_plugin(factory: FactoryAddress, description: PluginDescription | None) -> str:
    """The report as lines of text.

    Args:
        factory: The address of the factory.
        description: What the detector says about itself after a trial, or None if it must not be run.

    Raises:
        ConfigError: There is no such module.
        DetectorError: The package cannot be read.
    """
    files = package_files(factory)
    size = sum(path.stat().st_size for path in files.values())
    offered = f", which {factory.package} offers as {factory.name!r}" if factory.name else ""
    lines = [f"detector     {factory}{offered}"]
    lines.append(
        f"package      {_count(len(files), 'file')}, {size / 1e6:.1f} MB, such as {next(iter(files.values()))}"
    )
    if description is None:
        lines.append(
            "usable       only with --trust-model, if you trust its author: it is Python code, and was not run"
        )
        return "\n".join(map(redact, lines))
    info = description.info
    lines += [f"named file   {file}" for file in info.files]
    lines += [
        f"fingerprint  {description.fingerprint}",
        f"name         {info.name}, version {description.record.model_version}",
        f"classes      {_classes(description)}",
        f"masks        {'yes' if info.masks else 'no'}",
        f"keypoints    {'no' if info.keypoints is None else len(info.keypoints)}",
        "input size   "
        + ("unknown" if info.input_size is None else f"{info.input_size} pixels for the shorter side of an image"),
        f"batch size   {description.batch_size}",
        f"loading      {description.load_s:.1f} s, without a GPU",
    ]
    if description.trial_s is not None:
        lines.append(f"trial        {description.trial_s:.3f} s for a gray image of 480 x 640 pixels, without a GPU")
    lines += [f"warning      {note}" for note in info.notes]
    lines.append("usable       yes: `label` can run this detector")
    return "\n".join(map(redact, lines))


def _classes(description: PluginDescription) -> str:
    classes = description.info.classes
    if classes is None:
        return "known only while it runs"
    return f"{len(classes)}: {first_of([f'{known.id} {known.name}' for known in classes], _MOST_CLASSES)}"


def _count(count: int, noun: str) -> str:
    return f"{count:,} {noun}{'s' * (count != 1)}"


def installed_table(keys: list[str]) -> list[dict[str, str]]:
    """One row of text per detector that installed packages offer by name, with these columns."""
    rows = []
    for factory in installed_factories():
        known = {
            "name": factory.name,
            "what": f"a detector in Python, of {factory.package}",
            "format": "Python code; needs --trust-model",
            "address": str(factory),
        }
        if lookup(factory.name):
            known["note"] = f"a model has the same name: write {factory}"
        rows.append({key: redact(known.get(key, "")) for key in keys})
    return rows
