"""`prelabel ARGUMENTS...` on a cluster whose workers hold the stub.

python -m tests.chaos.driver ADDRESS ARGUMENTS...
"""

from __future__ import annotations

import functools
import sys
from pathlib import Path

import ray

from prelabel.cli import main

ROOT = Path(__file__).parents[2]

if __name__ == "__main__":
    address, *arguments = sys.argv[1:]
    # The run joins the cluster by itself, as every other does; only its workers are told what to do first.
    ray.init = functools.partial(
        ray.init,
        runtime_env={
            "worker_process_setup_hook": "tests.chaos.stub.install",
            "env_vars": {"PYTHONPATH": str(ROOT)},
        },
    )
    main([*arguments, "--ray-address", address], prog_name="prelabel")
