"""The check of command lines that cannot be run finds what a reader would stumble over."""

from __future__ import annotations

import pytest

from tests.docs import lines


@pytest.mark.parametrize(
    "text",
    [
        "prelabel label s3://bucket/photos --detector d --output s3://bucket/run --score-threshold 0.2",
        "export A=b  # a comment with --no-option\nprelabel verify out/run | cat > file",
        "prelabel export coco out/run \\\n  --to coco.json",
        "ray job submit --working-dir . -- python jobs/label_images.py photos --detector d --output out",
        "python -m pip install '.[s3,evaluate]'",
    ],
)
def test_valid_lines_pass(text: str):
    lines.check(text)


@pytest.mark.parametrize(
    ("text", "names"),
    [
        ("prelabel lable photos", "lable"),
        ("prelabel label photos --detector d --output o --score-treshold 0.2", "--score-treshold"),
        ("prelabel label photos --detector d --output o --score-threshold 2", "--score-threshold"),
        ("prelabel label photos --detector d --output o --optimize best", "best"),
        ("prelabel label photos --detector d", "--output"),
        ("A=b prelabel verify out | prelabel status", "RUN"),
        ("ray job submit --workingdir . -- python jobs/label_images.py photos --detector d --output o", "--workingdir"),
        ("ray job submit -- python jobs/label_images.py photos --detector d --outptu o", "--outptu"),
        ("kubectl apply -f jobs/missing.yaml", "jobs/missing.yaml"),
        ("pip install 'prelabel[s4]'", "s4"),
        ("unheard-of --option", "unheard-of"),
    ],
)
def test_invalid_lines_are_reported(text: str, names: str):
    with pytest.raises((AssertionError, lines.click.ClickException), match=names):
        lines.check(text)
