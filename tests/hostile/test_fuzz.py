"""A short round of what `make fuzz` does for longer: damaged files are refused with errors of our own, and cheaply."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from prelabel.source.decode import decode
from tests.hostile import decoding, readers
from tests.hostile.mutants import mutant, sound_files


def test_mutants_are_reproducible() -> None:
    files = [b"0123456789" * 50, b"abcdefgh" * 64]
    mutants = [mutant("a", number, files) for number in range(50)]
    assert mutants == [mutant("a", number, files) for number in range(50)]
    assert len({data for _, data in mutants}) > 40
    assert [source for source, _ in mutants[:4]] == [0, 1, 0, 1]


def test_the_originals_of_mutants_are_valid() -> None:
    for data in sound_files().values():
        decode(data)


def test_damaged_pictures_are_refused_by_our_own_errors_and_no_process_dies() -> None:
    totals = decoding.run("test", 300, 1, real=decoding.REAL.is_dir())
    assert (totals.foreign, totals.died, totals.hung) == ({}, {}, [])
    assert totals.outcomes["ok"] > 30
    assert totals.outcomes["CorruptImageError"] > 30
    assert totals.peak_mb < 1000


def test_a_process_that_dies_or_hangs_is_accounted_for(monkeypatch: pytest.MonkeyPatch) -> None:
    deeds = "{3: os.abort, 7: lambda: os._exit(0), 9: lambda: time.sleep(60)}"
    code = (
        "import os, time; from tests.hostile import decoding; real = decoding.outcome_of; calls = []\n"
        "def outcome_of(*args):\n"
        f"    number = FIRST + len(calls); calls.append(0); {deeds}.get(number, lambda: 0)(); return real(*args)\n"
        "decoding.outcome_of = outcome_of; decoding.work"
    )
    monkeypatch.setattr(decoding, "WORK", code)
    monkeypatch.setattr(decoding, "HANG_S", 8.0)
    totals = decoding.run("test", 12, 1, real=False)
    assert totals.died == {3: "exit code -6", 7: "exit code 0"}
    assert totals.hung == [9]
    assert totals.mutants == 12


def test_damaged_lists_label_maps_job_files_outputs_models_and_archives_are_refused_by_our_own_errors() -> None:
    totals = readers.run("test", 8 * len(readers.TARGETS))
    assert totals.foreign == {}
    assert totals.slowest[0] < readers.SECONDS
    assert totals.outcomes["read"] > 20


@pytest.mark.parametrize("name", [name for name in readers.TARGETS if name not in ("model", "shard", "plan")])
@settings(max_examples=25, deadline=None, suppress_health_check=list(HealthCheck))
@given(data=st.one_of(st.binary(max_size=200), st.text(max_size=100).map(lambda text: text.encode("utf-8", "replace"))))
def test_any_bytes_are_read_or_refused(name: str, data: bytes, tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("any")
    assert not readers.outcome_of(readers.TARGETS[name], data, folder).startswith("foreign")


#: What parsers are known to stumble over.
HARD = {
    "deep": b"[" * 200_000,
    "deep objects": b'{"a":' * 100_000,
    "deep tasks": b'[{"data":' + b"[" * 100_000,
    "deep images": b'{"images":[' + b"[" * 100_000,
    "long number": b"1" * 5_000,
    "long number in JSON": b'{"images": [{"file_name": "a", "id": ' + b"1" * 5_000 + b'}], "categories": []}',
    "long id": b'{"uri": ' + b"9" * 5_000 + b"}",
    "superscript": "²,dog\n".encode(),
    "superscript id": b"item { id: \xc2\xb2 name: 'a' }",
    "not a number": b'{"images": [], "annotations": [{"bbox": [NaN, 0, 1, Infinity], "image_id": 1}]}',
    "carriage returns": b"uri\r\r\ra\rb",
    "NUL": b"uri,image_id\n\0,\0\n",
    "half a surrogate": b'{"uri": "\\ud800", "image_id": "\\udfff"}',
    "quotes": b'uri\n"' + b'""' * 50_000,
    "fields": b"," * 300_000,
    "not UTF-8": b"\xff\xfe\xff" * 100,
    "byte order": b"\xef\xbb\xbfuri\na\n",
    "separators": "uri\na\u2028b\x85c\x1cd\n".encode(),
    "gzip": b"\x1f\x8b\x08" + bytes(40),
}


@pytest.mark.parametrize("case", HARD)
@pytest.mark.parametrize("name", readers.TARGETS)
def test_hard_cases_are_read_or_refused(name: str, case: str, tmp_path: Path) -> None:
    outcome = readers.outcome_of(readers.TARGETS[name], HARD[case], tmp_path)
    assert not outcome.startswith("foreign"), outcome


def test_valid_files_are_read(tmp_path: Path) -> None:
    for name, target in readers.TARGETS.items():
        for number, data in enumerate(target.sound()):
            (tmp_path / f"{name}-{number}").mkdir()
            wanted = "SourceError" if name == "list.tasks" else "read"
            assert readers.outcome_of(target, data, tmp_path / f"{name}-{number}") == wanted, name
