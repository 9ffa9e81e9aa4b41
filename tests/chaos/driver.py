"""`prelabel ARGUMENTS...` on a cluster whose workers hold the stub.

python -m tests.chaos.driver ADDRESS ARGUMENTS...
"""

from __future__ import annotations

import sys
from pathlib import Path

import ray

from prelabel.cli import main

ROOT = Path(__file__).parents[2]

if __name__ == "__main__":
    address, *arguments = sys.argv[1:]
    ray.init(
        address=address,
        log_to_driver=False,
        logging_level="ERROR",
        runtime_env={
            "worker_process_setup_hook": "tests.chaos.stub.install",
            "env_vars": {"PYTHONPATH": str(ROOT)},
        },
    )
    main(arguments, prog_name="prelabel")
