"""Names in files are their text, values have a meaning, and duplicates are refused."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from click.testing import CliRunner

from prelabel.cli import main
from prelabel.config import label_options
from prelabel.errors import ConfigError
from prelabel.export.coco import CocoOptions
from prelabel.mapping_files import read_mapping
from prelabel.options import from_mapping
from tests.messages import TWICE, is_told, telling

#: Words that YAML reads as booleans, numbers, dates, sexagesimal numbers and null.
ODD = ["no", "on", "yes", "y", "True", "null", "~", "1", "1.0", "1e3", "1_000", "0x10", "010", "0o7", "2024-01-01"]
ODD += ["12:30", "1:30:15", ".5", ".inf", "-1", "=", "2024-01-01 10:00:00"]

NEEDED = {"source": ["photos"], "detector": "d", "output": "out"}


def written(tmp_path: Path, name: str, text: str) -> str:
    path = tmp_path / name
    path.write_text(text)
    return str(path)


def thresholds(path: str) -> dict[str, float]:
    return from_mapping(CocoOptions, {"class_threshold": [path]}, "test").selection.class_threshold


@pytest.mark.parametrize("quote", ["", '"', "'"])
def test_every_name_in_a_yaml_file_is_its_text(tmp_path: Path, quote: str) -> None:
    text = "".join(f"{quote}{name}{quote}: 0.25\n" for name in ODD)
    assert thresholds(written(tmp_path, "t.yaml", text)) == dict.fromkeys(ODD, 0.25)


def test_every_label_of_a_class_map_is_its_text(tmp_path: Path) -> None:
    path = written(tmp_path, "m.yaml", "".join(f"c{n}: {name}\n" for n, name in enumerate(ODD)))
    made = from_mapping(CocoOptions, {"class_map": [path]}, "test").selection.class_map
    assert made == {f"c{n}": name for n, name in enumerate(ODD)}
    assert {type(label) for label in made.values()} == {str}


def test_every_class_in_a_job_file_is_its_text(tmp_path: Path) -> None:
    flow = ", ".join(name for name in ODD if name not in ("=",))
    lines = [
        f"include-class: [{flow}]",
        "exclude-class: off",
        "class-threshold: {no: 0.5, 0x10: .25, ~: 1e-1, 12:30: 1}",
        "class-map: {on: yes, 1e3: 2024-01-01}",
        "optimize: off",
        "detector: 2024-01-01",
        "quiet: yes",
        "workers: 0x2",
        "storage-options: {anon: no, port: 0x10, key: abc}",
    ]
    options = label_options({"source": "a", "output": "o"}, config=written(tmp_path, "job.yaml", "\n".join(lines)))
    assert options.selection.include_class == tuple(name for name in ODD if name != "=")
    assert options.selection.exclude_class == ("off",)
    assert options.selection.class_threshold == {"no": 0.5, "0x10": 0.25, "~": 0.1, "12:30": 1.0}
    assert options.selection.class_map == {"on": "yes", "1e3": "2024-01-01"}
    assert (options.optimize, options.detector, options.quiet, options.workers) == ("off", "2024-01-01", True, 2)
    assert options.storage_options == {"anon": False, "port": 16, "key": "abc"}
    assert {type(value) for value in options.settings()["include_class"]} == {str}


def test_json_csv_and_toml_keep_names_as_they_are(tmp_path: Path) -> None:
    names = [name for name in ODD if '"' not in name]
    json_text = "{" + ", ".join(f'"{name}": 0.25' for name in names) + "}"
    csv_text = "".join(f"{name},0.25\n" for name in names)
    toml_text = "".join(f'"{name}" = 0.25\n' for name in names)
    for name, text in (("t.json", json_text), ("t.csv", csv_text), ("t.toml", toml_text)):
        assert thresholds(written(tmp_path, name, text)) == dict.fromkeys(names, 0.25)
    assert thresholds(written(tmp_path, "bare.toml", "no = 0.25\n1 = 0.5\n")) == {"no": 0.25, "1": 0.5}
    path = written(tmp_path, "m.json", '{"a": 1, "b": 1e3, "c": "no"}')
    assert from_mapping(CocoOptions, {"class_map": [path]}, "test").selection.class_map == {
        "a": "1",
        "b": "1e3",
        "c": "no",
    }


def test_toml_values_whose_spelling_is_lost_must_be_quoted(tmp_path: Path) -> None:
    for value in ("0x10", "true", "2024-01-01"):
        path = written(tmp_path, "m.toml", f"Dog = {value}\n")
        with pytest.raises(ConfigError, match=telling(r"m\.toml", "Dog", r"quot\w+")):
            from_mapping(CocoOptions, {"class_map": [path]}, "test")
        job = written(tmp_path, "job.toml", f"include-class = [{value}]\n")
        with pytest.raises(ConfigError, match=telling(r"job\.toml", "include-class", r"quot\w+")):
            label_options(NEEDED, config=job)


@pytest.mark.parametrize(
    ("name", "text", "facts"),
    [
        ("t.yaml", "Dog: 0.5\nCat: 0.1\nDog: 0.6\n", (r"t\.yaml", "line 3", "Dog", TWICE, "line 1|1")),
        ("t.yaml", '{no: 0.5, "no": 0.6}', (r"t\.yaml", "line 1", "'no'", TWICE)),
        ("t.yaml", "Dog: {<<: {? [1] : 2}}\n", (r"t\.yaml", "line 1", "names?", "text")),
        ("t.yaml", "<<: {? [1] : 2}\n", (r"t\.yaml", "line 1", "names?", "text")),
        ("t.yaml", "<<:\n- a: 0.1\n- {? {a: 1} : 0.2}\n", (r"t\.yaml", "line 3", "names?", "text")),
        ("t.json", '{"Dog": 0.5, "Dog": 0.5}', (r"t\.json", "Dog", TWICE)),
        ("t.csv", "Dog,0.5\nDog,0.6\n", (r"t\.csv", "Dog", TWICE)),
        ("t.toml", "Dog = 0.5\nDog = 0.6\n", (r"t\.toml",)),
        ("t.yaml", "Dog: high\n", (r"t\.yaml", "Dog", "0", "1", "'high'")),
        ("t.yaml", "Dog: yes\n", (r"t\.yaml", "Dog", "0", "1", "'yes'")),
        ("t.yaml", "Dog: 0:30\n", (r"t\.yaml", "Dog", "0", "1", "'0:30'")),
        ("t.yaml", "Dog:\n", (r"t\.yaml", "Dog", "0", "1", "''|empty|nothing|no value")),
        ("t.yaml", "Dog: [0.5]\n", (r"t\.yaml", "Dog", "0", "1", r"\['0\.5'\]")),
        ("t.yaml", "Dog: 0_1\n", (r"t\.yaml", "Dog", "0", "1", "'0_1'")),
        ("t.csv", "class,threshold\nDog,0.5\n", (r"t\.csv", "class", "0", "1", "'threshold'")),
        ("t.json", '{"Dog": 1.5}', (r"t\.json", "Dog", "0", "1", r"1\.5")),
        ("t.json", '{"Dog": NaN}', (r"t\.json", "Dog", "0", "1", "nan")),
        ("t.toml", "Dog = true\n", (r"t\.toml", "Dog", "0", "1", "True")),
        ("t.yaml", "[a, b]: 0.5\n", (r"t\.yaml", "line 1", "names?", "text")),
        ("t.yaml", "*: 0.5\n", (r"t\.yaml", r"quot\w+", r'"\*": 0\.3')),
        ("t.yaml", "Dog: \x01\n", (r"t\.yaml", "characters?")),
        ("t.yaml", "12\n", (r"t\.yaml", "names?", "values?", "int|12|number")),
    ],
)
def test_an_invalid_value_is_reported_with_its_file_and_the_expected_value(
    tmp_path: Path, name: str, text: str, facts: tuple[str, ...]
) -> None:
    with pytest.raises(ConfigError, match=telling(*facts)):
        thresholds(written(tmp_path, name, text))


def test_numbers_may_be_written_with_or_without_quotes(tmp_path: Path) -> None:
    path = written(tmp_path, "t.yaml", "a: .5\nb: 1e-1\nc: 1\nd: 0.25\ne: '0.5'\nf: 0\n")
    assert thresholds(path) == {"a": 0.5, "b": 0.1, "c": 1.0, "d": 0.25, "e": 0.5, "f": 0.0}


def test_own_names_of_a_mapping_override_merged_ones(tmp_path: Path) -> None:
    path = written(tmp_path, "t.yaml", "base: &base {no: 0.1, on: 0.2}\nmine: {<<: *base, on: 0.3}\n")
    assert read_mapping(Path(path))["mine"] == {"no": "0.1", "on": "0.3"}


def test_an_empty_file_names_nothing(tmp_path: Path) -> None:
    for name, text in (
        ("a.yaml", ""),
        ("b.yaml", "# nothing\n"),
        ("c.yaml", "null\n"),
        ("d.json", "null"),
        ("e.csv", ""),
    ):
        assert read_mapping(Path(written(tmp_path, name, text))) == {}


def test_a_duplicate_name_is_refused_and_a_name_after_a_file_overrides_it(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=telling("Dog", TWICE)):
        from_mapping(CocoOptions, {"class_threshold": ["Dog=0.5", "Dog=0.6"]}, "test")
    path = written(tmp_path, "t.yaml", "Dog: 0.5\nCat: 0.4\n")
    made = from_mapping(CocoOptions, {"class_threshold": [path, "Dog=0.6"]}, "test")
    assert made.selection.class_threshold == {"Dog": 0.6, "Cat": 0.4}


def test_a_file_whose_path_has_an_equals_sign_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "lr=0.1").mkdir()
    assert thresholds(written(tmp_path / "lr=0.1", "t.yaml", "Dog: 0.5\n")) == {"Dog": 0.5}


def test_a_note_reports_that_score_threshold_overrides_the_default_of_a_file(tmp_path: Path) -> None:
    path = written(tmp_path, "t.yaml", '"*": 0.9\n')
    run = str(shutil.copytree(Path(__file__).parent / "data" / "runs" / "finished", tmp_path / "run"))
    command = ["export", "coco", run, "--to", str(tmp_path / "c.json"), "--class-threshold", path]
    by_file = CliRunner().invoke(main, command)
    assert by_file.exit_code == 0, by_file.output
    assert is_told(by_file.output, r"0\.9")
    assert not is_told(by_file.output, "score-threshold")
    given = CliRunner().invoke(main, [*command, "--score-threshold", "0.5"])
    assert given.exit_code == 0, given.output
    (note,) = (line for line in given.output.splitlines() if is_told(line, "score-threshold"))
    assert is_told(note, r"0\.5", r"0\.9")
    assert is_told(given.output.replace(note, ""), r"0\.5")
