"""The image, the workflow and the lock files agree with pyproject.toml."""

from __future__ import annotations

import re
import shlex
import tomllib
from pathlib import Path

import pytest
import yaml

from prelabel.words import install_hint

ROOT = Path(__file__).parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
DOCKERFILE = (ROOT / "Dockerfile").read_text(encoding="utf-8")
WORKFLOW = yaml.safe_load((ROOT / ".github/workflows/ci.yml").read_text(encoding="utf-8"))
PYTHONS = ["3.11", "3.12", "3.13"]


def pins(name: str) -> dict[str, set[str]]:
    """Pinned versions by package; several if they depend on the version of Python."""
    versions: dict[str, set[str]] = {}
    for line in (ROOT / name).read_text(encoding="utf-8").splitlines():
        if match := re.match(r"([\w.-]+)(?:\[[\w,-]+\])?==(\S+)", line):
            versions.setdefault(match[1], set()).add(match[2])
    return versions


def instructions() -> list[tuple[str, str]]:
    """Instructions of the Dockerfile with their arguments, continued lines joined and comments dropped."""
    lines = re.sub(r"^#.*\n", "", DOCKERFILE, flags=re.MULTILINE).replace("\\\n", " ").splitlines()
    return [(name, rest.strip()) for name, _, rest in (line.partition(" ") for line in lines if line.strip())]


def test_the_supported_pythons_are_the_same_everywhere():
    assert PROJECT["requires-python"] == ">=3.11,<3.14"
    prefix = "Programming Language :: Python :: 3."
    assert [f"3.{line.removeprefix(prefix)}" for line in PROJECT["classifiers"] if line.startswith(prefix)] == PYTHONS
    assert [entry["python"] for entry in WORKFLOW["jobs"]["wheel"]["strategy"]["matrix"]["include"]] == PYTHONS
    assert "(3, 11) <= sys.version_info[:2] <= (3, 13)" in (ROOT / "Makefile").read_text(encoding="utf-8")


@pytest.mark.parametrize("extra", sorted({*PROJECT["optional-dependencies"]} - {"dev", "docs", "label-studio"}))
def test_the_hint_for_an_extra_names_the_package_that_it_installs(extra: str):
    """uvx cannot add an extra to a package, only packages, so the hint names the package itself."""
    (requirement,) = PROJECT["optional-dependencies"][extra]
    (package,) = shlex.split(re.findall(r"`--with (.*?)`", install_hint(extra))[0])
    assert re.split("[<>=]", requirement)[0] == package
    assert f"'prelabel[{extra}]'" in install_hint(extra)


def test_the_workflow_runs_what_continuous_integration_runs():
    steps = [step.get("run", "") for step in WORKFLOW["jobs"]["all"]["steps"]]
    assert ".ci/run" in steps
    assert (ROOT / ".ci/run").is_file()


def test_the_image_copies_only_files_that_exist_and_that_the_context_holds():
    lines = (ROOT / ".dockerignore").read_text(encoding="utf-8").splitlines()
    allowed = {line[1:] for line in lines if line.startswith("!")}
    for name, rest in instructions():
        if name == "COPY" and not rest.startswith("--from="):
            *sources, _ = rest.split()
            assert all((ROOT / source).exists() for source in sources), rest
            assert set(sources) <= allowed, rest


def test_the_image_runs_as_a_user_that_is_not_root():
    users = [rest for name, rest in instructions() if name == "USER"]
    assert users
    assert users[-1] not in {"root", "0"}
    assert any(name == "RUN" and users[-1] in rest and "useradd" in rest for name, rest in instructions())


def test_the_image_installs_extras_that_exist_from_locks_that_pin_everything():
    (extras,) = re.findall(r"\.whl\)\[(.*?)\$\{GPU:\+,(gpu)\}\]", DOCKERFILE)
    assert set(",".join(extras).split(",")) <= set(PROJECT["optional-dependencies"])
    assert 'requirements${GPU:+-gpu}.lock"' in DOCKERFILE
    cpu, gpu = pins("requirements.lock"), pins("requirements-gpu.lock")
    wanted = list(PROJECT["dependencies"])
    for extra in ("s3", "gcs", "azure", "heif", "evaluate"):
        wanted += PROJECT["optional-dependencies"][extra]
    for requirement in wanted:
        package = re.split(r"[\[<>=!~; ]", requirement)[0]
        assert package in cpu, package
        assert cpu[package] == gpu[package], package
    assert "nvidia-cudnn-cu12" in gpu


@pytest.mark.parametrize("name", ["requirements.lock", "requirements-gpu.lock"])
def test_lock_files_name_no_registry(name: str):
    text = (ROOT / name).read_text(encoding="utf-8")
    assert "://" not in text
    assert "--index" not in text


def test_the_oldest_hub_package_meets_a_setuptools_that_has_pkg_resources():
    (requirement,) = (line for line in PROJECT["dependencies"] if line.startswith("setuptools"))
    assert requirement.endswith("<82")


def test_the_notice_names_third_party_data_and_is_distributed():
    notice = (ROOT / "NOTICE").read_text(encoding="utf-8")
    assert {"LICENSE", "NOTICE"} <= set(PROJECT["license-files"])
    assert (ROOT / "prelabel/labels/openimages-tree.csv").is_file()
    assert "prelabel/labels/openimages-tree.csv" in notice
    assert "Creative Commons Attribution 4.0" in notice
