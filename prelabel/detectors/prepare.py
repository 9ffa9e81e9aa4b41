"""From an address to a model that can be loaded: fetched, recognised, its classes named. No TensorFlow.

A driver learns here what it must know of a detector; a worker goes on to load it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prelabel.detectors.base import DetectorInfo
from prelabel.detectors.convention import Convention
from prelabel.detectors.fetch import LocalModel, fetch_model
from prelabel.detectors.graph import Graph, read_graph
from prelabel.detectors.reading import NOTHING_STATED, Reading, Stated, read_network, require_readable
from prelabel.labels.maps import LabelMap, parse_label_map, read_label_map
from prelabel.storage import Storage

#: Input size for a classifier that states none and is not in the catalogue: what ImageNet networks are made for.
_USUAL_SIZE = (224, 224)

#: Label maps that are found by themselves inside a model.
_OWN_LABEL_MAPS = tuple(
    f"assets/{stem}.{ending}" for stem in ("label_map", "labels") for ending in ("pbtxt", "csv", "json", "txt")
)


@dataclass(frozen=True, slots=True)
class PreparedModel:
    """A model that can be loaded: its files, its graph, how its numbers are read and how its classes are called."""

    local: LocalModel
    graph: Graph
    reading: Reading
    labels: LabelMap | None

    @property
    def convention(self) -> Convention:
        """How the network is called and what its outputs mean."""
        return self.reading.convention

    @property
    def input_size(self) -> tuple[int, int] | None:
        """Height and width that a picture is brought to before the network gets it; None where it takes any."""
        if self.convention.size or self.convention.kind != "classification":
            return self.convention.size
        return (self.local.entry.input_size if self.local.entry else None) or _USUAL_SIZE

    @property
    def info(self) -> DetectorInfo:
        """What goes into `run.json`."""
        return DetectorInfo(
            name=self.local.name,
            model_version=self.local.model_version,
            fingerprint=self.local.fingerprint,
            convention=self.convention.why,
            masks=self.convention.masks,
            reading={about: (one.value, one.why) for about, one in self.reading.decisions.items()},
            notes=self.reading.notes,
        )


def prepare(
    address: str,
    storage: Storage | None = None,
    *,
    label_map: str | None = None,
    stated: Stated = NOTHING_STATED,
    cache_dir: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> PreparedModel:
    """Fetch a model, recognise it and find the names of its classes. No TensorFlow; a second where it is cached.

    Args:
        address: See `fetch.py`.
        storage: Opens object storage.
        label_map: A built-in one, or a file; else one inside the model, else the catalogue's.
        stated: What the user says of how its numbers are read.
        cache_dir: See `cache_root`.
        say: Hears what is being fetched.

    Raises:
        ConfigError: No such detector or label map.
        DetectorError: It cannot be had, is not recognised, or nothing says how its numbers are read.
    """
    local = fetch_model(address, storage, cache_dir=cache_dir, say=say)
    model = look_at(local, find_labels(local, label_map, storage), stated)
    require_readable(model.reading, model.local.address)
    return model


def look_at(local: LocalModel, labels: LabelMap | None, stated: Stated = NOTHING_STATED) -> PreparedModel:
    """Recognise a model that is here, whether or not it can be run.

    Raises:
        DetectorError: It cannot be read or is of no known kind.
    """
    graph = read_graph(local.path)
    reading = read_network(local, graph, labels, stated)
    classes = reading.convention.classes
    return PreparedModel(local, graph, reading, labels.fitted_to(classes) if labels and classes else labels)


def find_labels(model: LocalModel, label_map: str | None, storage: Storage | None = None) -> LabelMap | None:
    """The label map stated, else one found inside the model, else the one the catalogue names, else None."""
    if label_map:
        return read_label_map(label_map, storage)
    for name in _OWN_LABEL_MAPS:
        path = model.path / name
        if path.is_file():
            return parse_label_map(name, path.read_bytes())
    if model.entry and model.entry.label_map:
        return read_label_map(model.entry.label_map)
    return None
