"""The files in `jobs/` fit Ray's cluster launcher, KubeRay, `prelabel label`, the image and the lock files."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path
from typing import Any

import click
import jsonschema
import pytest
import ray
import yaml

from prelabel.cli import main
from tests.test_packaging import DOCKERFILE, PROJECT, pins

ROOT = Path(__file__).parents[1]


def load(name: str) -> Any:
    return yaml.safe_load((ROOT / "jobs" / name).read_text(encoding="utf-8"))


CLUSTER, RAYJOB = load("cluster.yaml"), load("rayjob.yaml")


def containers() -> list[dict[str, Any]]:
    spec = RAYJOB["spec"]["rayClusterSpec"]
    groups = [spec["headGroupSpec"], *spec["workerGroupSpecs"]]
    return [container for group in groups for container in group["template"]["spec"]["containers"]]


def test_the_cluster_has_the_fields_of_rays_launcher():
    schema = json.loads((Path(ray.__file__).parent / "autoscaler/ray-schema.json").read_text())
    jsonschema.validate(CLUSTER, schema)
    assert CLUSTER["head_node_type"] in CLUSTER["available_node_types"]


def test_the_cluster_installs_the_wheel_with_extras_that_exist_from_a_lock_that_pins_ray():
    mounted = {remote: local for remote, local in CLUSTER["file_mounts"].items() if (ROOT / local).exists()}
    assert mounted == {"/home/ubuntu/requirements-gpu.lock": "requirements-gpu.lock"}  # dist/ is built by the user
    home = f"/home/{CLUSTER['auth']['ssh_user']}/"
    (install,) = [command for command in CLUSTER["setup_commands"] if "pip install" in command]
    words = shlex.split(install.replace("~/", home).replace("$(echo ", "").replace(".whl)", ".whl"))
    assert words[words.index("--constraint") + 1] in CLUSTER["file_mounts"]
    (wheel,) = [word for word in words if ".whl" in word]
    assert wheel.rpartition("/")[0] in CLUSTER["file_mounts"]
    assert wheel.rpartition("/")[2].startswith(f"{PROJECT['name']}-*.whl")
    extras = re.fullmatch(r".*\[(.*)\]", wheel)
    assert extras is not None
    assert set(extras[1].split(",")) <= set(PROJECT["optional-dependencies"])
    (python,) = [command for command in CLUSTER["setup_commands"] if "uv venv" in command]
    assert "--python 3.11 " in python
    assert "ray" in pins("requirements-gpu.lock")


def test_the_rayjob_has_the_fields_of_kuberay():
    schema = json.loads((ROOT / "tests/data/rayjob.schema.json").read_text())
    jsonschema.validate(RAYJOB, schema)
    jsonschema.Draft7Validator.check_schema(schema)
    for path in (("spec", "entrypont"), ("spec", "rayClusterSpec", "headGroupSpecs")):
        broken = json.loads(json.dumps(RAYJOB))
        target = broken
        for name in path[:-1]:
            target = target[name]
        target[path[-1]] = "x"
        with pytest.raises(jsonschema.ValidationError, match=path[-1]):
            jsonschema.validate(broken, schema)


def test_the_rayjob_runs_the_image_and_the_version_of_ray_that_the_image_has():
    images = {container["image"] for container in containers()}
    assert images == {"prelabel:latest"}
    assert "--tag prelabel:latest" in DOCKERFILE
    assert {RAYJOB["spec"]["rayClusterSpec"]["rayVersion"]} == pins("requirements-gpu.lock")["ray"]


def test_the_rayjob_gives_each_container_what_its_workers_need():
    options = shlex.split(RAYJOB["spec"]["entrypoint"])
    gpus, cpus = (float(options[options.index(name) + 1]) for name in ("--gpus-per-worker", "--cpus-per-worker"))
    requests = containers()[-1]["resources"]["requests"]
    assert float(requests["cpu"]) >= cpus * float(requests["nvidia.com/gpu"]) / gpus
    for container in containers():
        assert container["resources"]["requests"] == container["resources"]["limits"]


def test_the_commands_and_the_options_of_the_jobs_exist():
    program, command, *arguments = shlex.split(RAYJOB["spec"]["entrypoint"])
    assert program == "prelabel"
    label = main.commands["label"]
    flags = {flag for parameter in label.get_params(click.Context(label)) for flag in parameter.opts}
    assert command == "label"
    assert {word for word in arguments if word.startswith("--")} <= flags
    assert {f"--{name}" for name in load("job.yaml") if name != "source"} <= flags
