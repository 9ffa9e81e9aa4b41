"""What a cluster runs: the same command, with the same options, as `prelabel label`.

    ray job submit --working-dir . --runtime-env-json '{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "30"}}' \
      -- python jobs/label_images.py s3://bucket/photos --detector openimages-ssd-mobilenet-v2 --output s3://bucket/run

With `--config jobs/job.yaml` the options stand in a file.
"""

import sys
from pathlib import Path

# A job's working directory is uploaded, not installed; Python looks for packages beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prelabel.cli import label

if __name__ == "__main__":
    label(prog_name="label_images.py")
