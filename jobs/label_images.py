r"""The entry point of a submitted job: the same command, with the same options, as `prelabel label`.

    export RAY_AUTH_MODE=token
    ray job submit --working-dir . --runtime-env-json '{"env_vars": {"RAY_JOB_STOP_WAIT_TIME_S": "30"}}' \
      -- python jobs/label_images.py s3://bucket/photos --detector openimages-ssd-mobilenet-v2 --output s3://bucket/run

Without the first line, `ray job submit` does not send the token that clusters of Ray 2.60 may require. On a machine
other than the head, also set RAY_AUTH_TOKEN to the output of `ray get-auth-token` on the head.

To keep the options in a file, use `--config jobs/job.yaml`.
"""

import sys
from pathlib import Path

# A job's working directory is uploaded, not installed; Python looks for packages beside this file only.
sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from prelabel.cli import label

if __name__ == "__main__":
    label(prog_name="label_images.py")
