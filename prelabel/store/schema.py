"""The columns of a shard: one row per image, whatever became of it.

Every Parquet file is written with this explicit schema; without it a shard on which nothing was found would become
`list<null>` and could not be read together with the others.

Columns are added at the end, by name, as optional ones (`OPTIONAL_COLUMNS`): a file without them is read as if each row
held the default of `ImageRow`, and a file with columns that are not known here is read without those. The version goes
up only when the meaning of something changes, so that runs of every earlier release stay readable.
"""

from __future__ import annotations

import pyarrow as pa

#: Goes up when a reader of the previous version would misread a file.
SCHEMA_VERSION = 1

#: Stages of the work on one image, in order; each has its seconds in the row.
STAGES = ("read", "decode", "detect", "encode")

OK = "ok"
FAILED = "failed"

SHARD_SCHEMA = pa.schema(
    [
        pa.field("image_id", pa.string(), nullable=False),
        pa.field("uri", pa.string(), nullable=False),
        pa.field("file_name", pa.string(), nullable=False),
        pa.field("status", pa.string(), nullable=False),
        pa.field("error_type", pa.string()),
        pa.field("error", pa.string()),
        pa.field("error_stage", pa.string()),
        pa.field("height", pa.int32()),
        pa.field("width", pa.int32()),
        pa.field("exif_orientation", pa.int8()),
        pa.field("frames", pa.int32()),
        pa.field("bytes", pa.int64()),
        pa.field("sha256", pa.string()),
        pa.field("boxes", pa.list_(pa.list_(pa.float32(), 4)), nullable=False),
        pa.field("classes", pa.list_(pa.int32()), nullable=False),
        pa.field("labels", pa.list_(pa.string()), nullable=False),
        pa.field("mids", pa.list_(pa.string()), nullable=False),
        pa.field("scores", pa.list_(pa.float32()), nullable=False),
        pa.field("masks", pa.list_(pa.string())),
        pa.field("multiclass_scores", pa.list_(pa.list_(pa.float32()))),
        pa.field(
            "image_labels",
            pa.list_(
                pa.struct(
                    [
                        pa.field("class", pa.int32()),
                        pa.field("label", pa.string()),
                        pa.field("mid", pa.string()),
                        pa.field("score", pa.float32()),
                    ]
                )
            ),
        ),
        pa.field("detector", pa.string(), nullable=False),
        pa.field("model_version", pa.string(), nullable=False),
        pa.field("seconds", pa.struct([pa.field(stage, pa.float32()) for stage in STAGES])),
        pa.field("browser_orientation", pa.int8()),
        pa.field("dropped", pa.int32()),
    ]
)

#: Columns that came after the first release of the schema; nullable, null where a row has the default.
OPTIONAL_COLUMNS = frozenset({"browser_orientation", "dropped"})
