"""Labeling images: shards, the workers that label them, pools of workers, the schedule, and the job."""
