"""Detectors that differ in one thing only: what they reach for. Built by a process of its own."""

from __future__ import annotations

import sys
from pathlib import Path

import tensorflow as tf

folder = Path(sys.argv[1])
words = folder / "words.txt"
words.write_text("dog\ncat\n")
spec = tf.TensorSpec([1, None, None, 3], tf.uint8, name="input_tensor")


def answer(image, extra):
    boxes = tf.zeros([1, 100, 4]) + extra
    ones = tf.ones([1, 100]) * tf.cast(tf.shape(image)[0], tf.float32)
    return {"detection_boxes": boxes, "detection_classes": ones, "detection_scores": ones, "num_detections": ones[:, 0]}


def build(name, work, also=None, table=None):
    class Model(tf.Module):
        def __init__(self):
            super().__init__()
            self.one = tf.Variable(0.0)
            self.table = table() if table else None

        @tf.function(input_signature=[spec])
        def __call__(self, input_tensor):
            return answer(input_tensor, self.one + work(self))

    model = Model()
    signatures = {"serving_default": model.__call__}
    if also:
        signatures["also"] = tf.function(also, input_signature=[tf.TensorSpec([], tf.string)])
    tf.saved_model.save(model, str(folder / name), signatures=signatures)


def from_file(path):
    return tf.cast(tf.strings.length(tf.io.read_file(path)), tf.float32)


def static_table():
    fill = tf.lookup.TextFileInitializer(
        str(words), tf.string, tf.lookup.TextFileIndex.WHOLE_LINE, tf.int64, tf.lookup.TextFileIndex.LINE_NUMBER
    )
    return tf.lookup.StaticHashTable(fill, -1)


def looked_up(model):
    return tf.cast(model.table.lookup(tf.constant("dog")), tf.float32)


def in_a_branch(model):
    return tf.cond(model.one > 0, lambda: from_file("/etc/hostname"), lambda: tf.constant(0.0))


def in_a_loop(model):
    return tf.while_loop(lambda x: x < 0.0, lambda x: [x + from_file("/etc/hostname")], [model.one + 1.0])[0]


@tf.function
def inner(path):
    return from_file(path)


def printing(where):
    def work(model):
        tf.print("seen", output_stream=where)
        return 0.0

    return work


def calls_python(model):
    return tf.reshape(tf.numpy_function(lambda: 1.0, [], tf.double), [])


build("plain", lambda model: 0.0)
build("elsewhere", lambda model: 0.0, also=lambda path: {"length": from_file(path)})
build("reads", lambda model: from_file("/etc/hostname"))
build("branch", in_a_branch)
build("loop", in_a_loop)
build("called", lambda model: inner(tf.constant("/etc/hostname")))
build("vocabulary", looked_up, table=static_table)
build("prints", printing("file:///tmp/seen-by-a-model"))
build("says", printing(sys.stderr))
build("python", lambda model: tf.cast(calls_python(model), tf.float32))
build(
    "saves",
    lambda model: [
        tf.raw_ops.SaveV2(prefix="x", tensor_names=["x"], shape_and_slices=[""], tensors=[tf.constant(1.0)]),
        0.0,
    ][1],
)

v1 = tf.compat.v1
for name in ("v1-vocabulary", "v1-reads"):
    with v1.Graph().as_default(), v1.Session() as session:
        image = v1.placeholder(tf.uint8, [1, None, None, 3], name="image")
        variable = v1.get_variable("one", initializer=0.0, use_resource=False)
        if name == "v1-reads":
            extra = from_file("/etc/hostname")
        else:
            extra = tf.cast(static_table().lookup(tf.constant("dog")), tf.float32)
        unused = tf.io.write_file("x", "y")
        signature = v1.saved_model.predict_signature_def({"images": image}, answer(image, variable + extra))
        session.run(v1.global_variables_initializer())
        builder = v1.saved_model.Builder(str(folder / name))
        builder.add_meta_graph_and_variables(
            session,
            tags=["serve"],
            signature_def_map={"serving_default": signature},
            assets_collection=v1.get_collection(v1.GraphKeys.ASSET_FILEPATHS),
            main_op=v1.tables_initializer(),
        )
        builder.save()
