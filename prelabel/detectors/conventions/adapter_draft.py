"""A first adapter for a model: what is known is filled in, what must be answered is marked."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping
from typing import Any

from prelabel.detectors.conventions.adapter import UNITS, usual_signature
from prelabel.detectors.conventions.adapter_schema import SCHEMA, UNANSWERED, form_of
from prelabel.detectors.conventions.convention import FLOATS, Convention, ImageInput
from prelabel.detectors.conventions.graph import enter
from prelabel.detectors.conventions.input_range import Evidence, range_in
from prelabel.detectors.conventions.protos import Graph, Signature, Tensor, chosen_meta_graph, open_saved_model
from prelabel.detectors.conventions.recognize import image_input, signatures_in_words
from prelabel.detectors.conventions.resolve_model import PreparedModel
from prelabel.detectors.models.fetch import LocalModel
from prelabel.errors import DetectorError
from prelabel.options import INPUT_LAYOUTS
from prelabel.storage.address import redact

#: Words that YAML takes for something else than text.
_WORDS = frozenset(("y", "n", "yes", "no", "on", "off", "true", "false", "null"))

#: Column in which comments begin.
_COMMENT = 30


def draft_adapter(local: LocalModel, graph: Graph, prepared: PreparedModel | None) -> str:
    """The text of a first adapter, in YAML with comments.

    Args:
        local: The files of the model.
        graph: Its signatures.
        prepared: The model as it is recognized without an adapter, or None.

    Raises:
        DetectorError: No signature accepts an image, several do, or the model is a classifier.
    """
    if prepared is not None and prepared.convention.kind == "classification":
        raise DetectorError("--write-adapter: the model is an image classifier, and adapters are for detectors")
    convention = None if prepared is None or prepared.convention.decode is not None else prepared.convention
    name = None if prepared is None else prepared.convention.signature
    signature = next((other for other in graph.signatures if other.name == name), None) or _only_signature(graph)
    image = image_input(signature, None)
    layout = None
    if isinstance(image, str):  # the layout may be open
        image, layout = image_input(signature, INPUT_LAYOUTS[0]), UNANSWERED
    if isinstance(image, str):
        raise DetectorError(f"--write-adapter: the signature {signature.name} {image}")
    evidence = Evidence(None, "")
    if prepared is not None and "input range" in prepared.decisions:
        decision = prepared.decisions["input range"]
        evidence = Evidence(decision.value, decision.why)
    elif image.input.dtype in FLOATS:
        with open_saved_model(local.path) as data:
            entry = enter(chosen_meta_graph(data)[1], signature)
            evidence = range_in(entry) if entry else evidence
    lines = [
        f"# Adapter of {local.name}, fingerprint {local.fingerprint[:12]}.",
        f"# Replace every {UNANSWERED}; remove a # where a key applies.",
        "",
        _line("signature", signature.name),
        "",
        f"# The input is {image.input}.",
        "input:",
        *_input_lines(image, layout, evidence, prepared.convention if prepared else None),
        "",
        "# The outputs are:",
        *(f"#   {output}" for output in signature.outputs),
        "outputs:",
        *(_outputs_of(convention) if convention else _open_outputs(signature.outputs)),
        "",
        _line("suppression", "none" if convention else UNANSWERED, f"{form_of(SCHEMA['properties']['suppression'])}"),
        *_commented({"iou": 0.5, "classes": "separate"}, "suppression"),
        "",
        "# labels: coco               # or a list in the order of the network's classes, or numbers with names",
    ]
    # Text from the model must not begin another line.
    return "\n".join(map(redact, lines)) + "\n"


def _only_signature(graph: Graph) -> Signature:
    usual = usual_signature(graph.signatures)
    with_image = [other for other in graph.signatures if not isinstance(image_input(other, INPUT_LAYOUTS[0]), str)]
    if usual is None and len(with_image) == 1:
        (usual,) = with_image
    if usual is None:
        raise DetectorError(
            "--write-adapter: it is unclear which signature is to be called. Found: "
            f"{signatures_in_words(graph.signatures)}"
        )
    return usual


def _input_lines(
    image: ImageInput, layout: str | None, evidence: Evidence, convention: Convention | None
) -> Iterator[str]:
    known = SCHEMA["properties"]["input"]["properties"]

    def line(key: str, value: Any, comment: str = "") -> str:
        return _line(key, value, comment or form_of(known[key]), 1)

    bgr = convention.bgr if convention else None
    yield line("colors", UNANSWERED if bgr is None else "bgr" if bgr else "rgb")
    if layout or image.channels_first:
        yield line("layout", layout or INPUT_LAYOUTS[1])
    if image.input.dtype in FLOATS:
        yield line("range", evidence.range or UNANSWERED, evidence.why if evidence.range else "")
        yield "  # mean: [0.485, 0.456, 0.406]       # in the unit of range, in the order of colors"
        yield "  # deviation: [0.229, 0.224, 0.225]"
    fit = convention.fit if convention else None
    if image.size is None:
        yield line("fit", "keep" if convention else UNANSWERED)
        if not convention:
            yield "  # size: [640, 640]          # height and width, unless fit is keep"
    else:
        # An adapter has no `pad`; with `letterbox`, the image lies less than a pixel elsewhere.
        mode = "letterbox" if fit and fit.mode == "pad" else fit.mode if fit else UNANSWERED
        yield line("fit", mode, "stretch, letterbox or corner")
    if fit is not None and fit.mode != "stretch":
        yield line("fill", fit.fill)
    elif fit is None:
        yield "  # fill: 114                  # for letterbox and corner"


def _outputs_of(convention: Convention) -> Iterator[str]:
    """The outputs of a recognized model with one output per role."""
    roles, form = convention.outputs, convention.box_form
    unit = next(name for name, unit in UNITS.items() if unit == form.unit)
    yield from _mapping("boxes", {"tensor": roles["boxes"], "order": form.order, "unit": unit})
    yield from _mapping("scores", {"tensor": roles["scores"], "activation": "none"})
    yield from _mapping("classes", {"tensor": roles["numbers"] if "numbers" in roles else convention.strings[0]})
    if "count" in roles:
        yield from _mapping("count", {"tensor": roles["count"]})
    if "masks" in roles:
        frame = UNANSWERED if convention.mask_frame == "by-size" else convention.mask_frame
        yield from _mapping("masks", {"tensor": roles["masks"], "frame": frame, "activation": "none"})


def _open_outputs(outputs: Iterable[Tensor]) -> Iterator[str]:
    """The outputs of a model that is not recognized."""
    tensors = list(outputs)
    only = tensors[0].name if len(tensors) == 1 else UNANSWERED
    columns = {"columns": UNANSWERED} if len(tensors) == 1 else {}
    of_four = [tensor for tensor in tensors if tensor.dtype in FLOATS and tensor.last == 4]
    of_boxes = [tensor.name for tensor in of_four if tensor.rank == max(other.rank or 0 for other in of_four)]
    hint = f"4 numbers per row: {', '.join(of_boxes)}" if of_boxes else ""
    boxes = {"tensor": only, **columns, "order": UNANSWERED, "unit": UNANSWERED}
    yield from _mapping("boxes", boxes, {"tensor": hint})
    yield from _mapping("scores", {"tensor": only, **columns, "activation": UNANSWERED})
    yield "  # Without classes, scores have a column per class."
    yield from _commented({"tensor": UNANSWERED, "offset": 0}, "classes", 1)
    yield from _commented({"tensor": UNANSWERED}, "count", 1)
    yield from _commented({"tensor": UNANSWERED, "frame": "box", "activation": "none"}, "masks", 1)


def _mapping(name: str, values: Mapping[str, Any], comments: Mapping[str, str] | None = None) -> Iterator[str]:
    known = SCHEMA["properties"]["outputs"]["properties"][name]["properties"]
    yield f"  {name}:"
    for key, value in values.items():
        comment = (comments or {}).get(key) or ("" if key == "tensor" else form_of(known[key]))
        yield _line(key, value, comment, 2)


def _commented(values: Mapping[str, Any], name: str, indent: int = 0) -> Iterator[str]:
    inner = ", ".join(f"{key}: {value}" for key, value in values.items())
    yield f"{'  ' * indent}# {name}: {{{inner}}}"


def _line(key: str, value: Any, comment: str = "", indent: int = 0) -> str:
    text = f"{'  ' * indent}{key}: {_scalar(value)}"
    return f"{text:{_COMMENT}}# {comment}" if comment else text


def _scalar(value: Any) -> str:
    """A value in YAML; names of tensors may need quotes."""
    if isinstance(value, float):
        return f"{value:g}"
    text = str(value)
    is_plain = text == UNANSWERED or re.fullmatch(r"[A-Za-z_][\w-]*|-?\d+(\.\.\d*)?", text, re.ASCII)
    return text if is_plain and text.lower() not in _WORDS else "'" + text.replace("'", "''") + "'"
