"""Which operations of a model are taken for dangerous: those that run and reach for files that are not its own."""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
from click.testing import CliRunner

from prelabel.cli import main
from prelabel.detectors.conventions.op_audit import find_unsafe_operations, require_safe
from prelabel.detectors.conventions.resolve_model import ReadingOptions, prepare
from prelabel.detectors.inspect import format_report, inspect_model
from prelabel.errors import ConfigError, DetectorError
from tests.messages import tells
from tests.models import Models

ROOT = Path(__file__).parents[3]


@pytest.fixture(scope="module")
def built(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("reach")
    subprocess.run(
        [sys.executable, "-m", "tests.detectors.conventions.unsafe_models", folder],
        cwd=ROOT,
        check=True,
        capture_output=True,
    )
    return folder


def reached(folder: Path, signature: str | None = "serving_default") -> Mapping[str, int]:
    return {unsafe.operation: unsafe.count for unsafe in find_unsafe_operations(folder, signature) if unsafe.runs}


@pytest.mark.parametrize(
    ("name", "operations"),
    [
        ("plain", {}),
        ("elsewhere", {}),
        ("vocabulary", {}),
        ("v1-vocabulary", {}),
        ("says", {}),
        ("reads", {"ReadFile": 1}),
        ("branch", {"ReadFile": 1}),
        ("loop", {"ReadFile": 1}),
        ("called", {"ReadFile": 1}),
        ("v1-reads", {"ReadFile": 1}),
        ("prints", {"PrintV2": 1}),
        ("saves", {"SaveV2": 1}),
        ("python", {"PyFunc": 1}),
    ],
)
def test_unsafe_operations_that_run_are_listed(name: str, operations: Mapping[str, int], built: Path) -> None:
    assert reached(built / name) == operations


def test_unsafe_operations_of_other_signatures_are_listed_but_allowed(built: Path) -> None:
    assert reached(built / "elsewhere", None) == {"ReadFile": 1}
    assert "WriteFile" in {
        unsafe.operation for unsafe in find_unsafe_operations(built / "v1-reads", None) if not unsafe.runs
    }
    text = format_report(inspect_model(str(built / "v1-reads")))
    assert "warning      ReadFile reads files (the main graph, 1 x)" in text
    assert "never run    WriteFile writes files (the main graph, 1 x)" in text
    assert tells(text, "usable", "--trust-model")


def test_a_table_from_a_file_outside_the_model_is_refused(built: Path, tmp_path: Path) -> None:
    # The same models, whose asset is now said to lie outside of their folder.
    for name in ("vocabulary", "v1-vocabulary"):
        data = (built / name / "saved_model.pb").read_bytes()
        assert data.count(b"\x12\x09words.txt")
        (tmp_path / name).mkdir()
        (tmp_path / name / "saved_model.pb").write_bytes(data.replace(b"\x12\x09words.txt", b"\x12\x09../../etc"))
        assert list(reached(tmp_path / name)) == ["InitializeTableFromTextFileV2"]


def field(number: int, content: bytes) -> bytes:
    """A field of bytes as it lies in a file; contents below 128 bytes."""
    return bytes([number << 3 | 2, len(content)]) + content


def test_split_messages_are_joined_and_duplicate_entries_are_refused(tmp_path: Path) -> None:
    def reads(*graphs: bytes) -> Mapping[str, int]:
        output = field(1, b"o") + field(2, field(1, b"r"))
        signature = field(5, field(1, b"s") + field(2, field(2, output)))
        meta = b"".join(field(2, graph) for graph in graphs) + signature
        (tmp_path / "saved_model.pb").write_bytes(field(2, meta))
        return reached(tmp_path, "s")

    read = field(1, field(1, b"r") + field(2, b"ReadFile"))
    harmless = field(1, field(1, b"n") + field(2, b"NoOp"))
    assert reads(read) == reads(harmless, read) == reads(read, harmless) == {"ReadFile": 1}
    assert reads(harmless) == {}
    with pytest.raises(DetectorError, match="'r'"):
        reads(read, field(1, field(1, b"r") + field(2, b"NoOp")))


def test_real_models_are_harmless(models: Models) -> None:
    for path in (models.hub_module, models.mask_rcnn, "demo-shapes"):
        require_safe(prepare(str(path)))
    require_safe(prepare(str(models.classifier), reading=ReadingOptions(activation="logits")))


def test_published_models_are_harmless(assets: Path) -> None:
    for path in (assets / "models").iterdir():
        require_safe(prepare(str(path)))


def test_a_refusal_is_one_line_that_names_operation_place_and_option(built: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        require_safe(prepare(str(built / "reads")))
    message = str(caught.value)
    assert tells(message, f"{built}/reads", "ReadFile reads files", "--trust-model")
    assert re.search(r"\(__inference_\S+, 1 x\)", message)
    assert "\n" not in message


@pytest.mark.parametrize(("name", "code"), [("reads", 1), ("elsewhere", 0)])
def test_inspect_exits_as_label_would(name: str, code: int, built: Path) -> None:
    result = CliRunner().invoke(main, ["inspect", str(built / name)])
    assert result.exit_code == code
    refusals = [line for line in result.output.splitlines() if line.startswith("prelabel: ")]
    assert len(refusals) == code
    assert all("ReadFile reads files" in line and line.endswith("--trust-model") for line in refusals)
    assert CliRunner().invoke(main, ["inspect", str(built / name), "--trust-model"]).exit_code == 0
