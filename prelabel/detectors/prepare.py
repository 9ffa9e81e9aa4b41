"""From an address to a model that can be loaded: fetched, recognised, its classes named. No TensorFlow.

A driver learns here what it must know of a detector; a worker goes on to load it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from prelabel.detectors.base import DetectorInfo
from prelabel.detectors.convention import Convention, recognise
from prelabel.detectors.fetch import LocalModel, fetch_model
from prelabel.detectors.graph import Graph, read_graph
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
    """A model that can be loaded: its files, its graph, what it follows and how its classes are called."""

    local: LocalModel
    graph: Graph
    convention: Convention
    labels: LabelMap | None

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
        )


def prepare(
    address: str,
    storage: Storage | None = None,
    *,
    label_map: str | None = None,
    cache_dir: str | None = None,
    say: Callable[[str], None] = lambda text: None,
) -> PreparedModel:
    """Fetch a model, recognise it and find the names of its classes. No TensorFlow; a second where it is cached.

    Args:
        address: See `fetch.py`.
        storage: Opens object storage.
        label_map: A built-in one, or a file; else one inside the model, else the catalogue's.
        cache_dir: See `cache_root`.
        say: Hears what is being fetched.

    Raises:
        ConfigError: No such detector or label map.
        DetectorError: It cannot be had or is not recognised.
    """
    local = fetch_model(address, storage, cache_dir=cache_dir, say=say)
    graph = read_graph(local.path)
    convention = recognise(graph.signatures)
    labels = find_labels(local, label_map, storage)
    if labels and convention.classes:
        labels = labels.fitted_to(convention.classes)
    return PreparedModel(local, graph, convention, labels)


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
