"""Build the wheel and try it as a new user would, outside this checkout: `python3.13 tests/wheel.py [--oldest]`.

The Python that runs this script is the one that is tested; the script needs nothing but its standard library. It builds
the wheel and the source archive, has `twine` check them, installs the wheel into an empty environment without the lock
file and the development extras, runs `prelabel demo` there, and runs a few quick tests against the installed package.

`--oldest` takes the oldest version that each range in pyproject.toml allows, in place of the newest.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).parents[1]

#: About fifty tests that take a few seconds and need no development extra except `_TEST_PACKAGES`.
QUICK_TESTS = ("tests/masks/test_rle.py", "tests/export/test_voc.py")

_TEST_PACKAGES = ("hypothesis", "pycocotools", "pytest")

#: Files that the demo must write.
DEMO_FILES = (
    "coco.json",
    "evaluation/evaluation.html",
    "label-studio/label_config.xml",
    "label-studio/tasks-00000.json",
    "preview/index.html",
    "run/manifest.json",
)

#: Packages whose versions are printed at the end, since most differences depend on them.
REPORTED_PACKAGES = ("tensorflow", "tensorflow-hub", "ray", "numpy", "pyarrow", "fsspec", "pillow", "setuptools")


def run(*command: str | Path, cwd: Path = ROOT, quiet: bool = False) -> str:
    """Run a command to its end and return its output; without `quiet`, the output is shown as well."""
    print("$", " ".join(str(part) for part in command), flush=True)
    environment = {name: value for name, value in os.environ.items() if name != "PYTHONPATH"}
    result = subprocess.run(
        [str(part) for part in command], cwd=cwd, env=environment, stdout=subprocess.PIPE if quiet else None, text=True
    )
    if result.returncode:
        sys.exit(f"failed with exit code {result.returncode}: {' '.join(str(part) for part in command)}")
    return result.stdout or ""


def make_environment(folder: Path) -> Path:
    """Create an environment for this Python and return its interpreter."""
    run(sys.executable, "-m", "venv", folder)
    return folder / "bin" / "python"


def build(tools: Path, folder: Path) -> Path:
    """Build the wheel and the source archive, check both, and return the wheel's path."""
    # From a copy: a build writes into the folder it is made from, and others may build at the same time.
    source = folder.with_name("source")
    ignored = shutil.ignore_patterns(".*", "out", "build", "dist", "*.egg-info", "__pycache__")
    shutil.copytree(ROOT, source, ignore=ignored)
    run(tools, "-m", "build", "--outdir", folder, source, quiet=True)
    run(tools, "-m", "twine", "check", "--strict", *sorted(folder.iterdir()))
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(python: Path, tools: Path, wheel: Path, *, oldest: bool) -> None:
    """Install the wheel with the newest or the oldest versions that its ranges allow."""
    requirements = [f"{wheel}[evaluate]", *_TEST_PACKAGES]
    if not oldest:
        run(python, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", *requirements)
        return
    pins = wheel.parent / "oldest.txt"
    uv = (tools, "-m", "uv", "pip")
    run(
        *(*uv, "compile", "--quiet", "--python", python, "--resolution", "lowest-direct", "--extra", "evaluate"),
        *("--no-emit-index-url", "--output-file", pins, "pyproject.toml"),
        quiet=True,
    )
    run(*uv, "install", "--quiet", "--python", python, "--requirements", pins, *requirements)


def main() -> None:
    """Build, install, demonstrate, test; leaves nothing behind."""
    parser = argparse.ArgumentParser(description="Build the wheel and try it outside this checkout.")
    parser.add_argument("--oldest", action="store_true", help="Take the oldest versions that the ranges allow.")
    oldest = parser.parse_args().oldest
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="prelabel-wheel-") as name:
        folder = Path(name)
        tools = make_environment(folder / "tools")
        run(tools, "-m", "pip", "install", "--quiet", "--disable-pip-version-check", "build", "twine", "uv")
        wheel = build(tools, folder / "dist")
        python = make_environment(folder / "installed")
        install(python, tools, wheel, oldest=oldest)

        place = folder / "place"
        place.mkdir()
        run(python.with_name("prelabel"), "demo", "--images", "20", cwd=place)
        missing = [file for file in DEMO_FILES if not (place / "out/demo" / file).is_file()]
        if missing:
            sys.exit(f"the demonstration did not write {', '.join(missing)}")

        # -P keeps the current folder off the module path: the tests import the installed package, not this checkout.
        for part in ("tests", "schemas"):
            shutil.copytree(ROOT / part, place / part, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copy(ROOT / "pyproject.toml", place)
        (place / "conftest.py").write_text("import sys\nsys.path.append('.')\n", encoding="utf-8")
        run(python, "-P", "-m", "pytest", "-q", "-p", "no:cacheprovider", *QUICK_TESTS, cwd=place)
        where = run(python, "-P", "-c", "import prelabel; print(prelabel.__file__)", cwd=place, quiet=True)
        if "site-packages" not in where:
            sys.exit(f"not the installed package was tested, but {where}")

        listed = run(python, "-m", "pip", "list", "--format", "json", "--disable-pip-version-check", quiet=True)
        versions = {entry["name"].lower(): entry["version"] for entry in json.loads(listed)}
    packages = ", ".join(f"{package} {versions[package]}" for package in REPORTED_PACKAGES if package in versions)
    kind = "oldest" if oldest else "newest"
    print(
        f"the wheel works on Python {sys.version.split()[0]} with the {kind} versions: {packages} "
        f"({time.monotonic() - started:.0f} s)"
    )


if __name__ == "__main__":
    main()
