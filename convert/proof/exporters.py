#!/usr/bin/env python3
"""Blocks as Keras (through tf2onnx) and PaddlePaddle (through paddle2onnx) really export them.

    pip install tensorflow-cpu tf2onnx onnxruntime     or     pip install paddlepaddle paddle2onnx onnxruntime
    python convert/proof/exporters.py --whit target/release/whit

Exports with whichever framework is installed. Each block has to match ONNX Runtime in every instruction
set, to run in int8, and to become the operator that it is: a layer norm one `normalize` and so on.
Exits with 1 when one doesn't.
"""

import argparse
import json
import os
import pathlib
import subprocess
import sys
import tempfile
import traceback

import numpy as np

from real_models import CALIBRATION_SAMPLES, SEED, Model, available_isas, check

# What a block must become: an operator that must be there, and the most steps that may remain.
EXPECTED = {
    "layernorm": ("normalize", 1), "rmsnorm": ("normalize", 1), "gelu_tanh": ("unary", 1), "gelu": ("unary", 1),
    "silu": ("unary", 1), "mish": ("unary", 1), "hardswish": ("unary", 1), "hard_silu": ("unary", 1), "hard_sigmoid": ("unary", 1),
    "mha": ("attention", 10), "lstm": ("lstm", 4), "bilstm": ("lstm", 4), "gru": ("gru", 4), "gru_unrolled": ("gru", 40),
    "se": ("fully_connected", 9),
}


def keras(folder):
    os.environ["TF_CPP_MIN_LOG_LEVEL"] = "3"
    import tensorflow as tf
    import tf2onnx

    layers = tf.keras.layers
    x = tf.keras.Input((10, 32), batch_size=1)
    image = tf.keras.Input((32, 32, 8), batch_size=1)
    squeezed = layers.Conv2D(16, 3, padding="same")(image)
    gate = layers.GlobalAveragePooling2D(keepdims=True)(squeezed)
    gate = layers.Conv2D(16, 1, activation="sigmoid")(layers.Conv2D(4, 1, activation="relu")(gate))
    blocks = {
        "layernorm": (x, layers.LayerNormalization()(x)),
        "rmsnorm": (x, layers.RMSNormalization()(x)),
        "gelu_tanh": (x, tf.keras.ops.gelu(x, approximate=True)),
        "silu": (x, layers.Activation("silu")(x)),
        "mish": (x, layers.Activation("mish")(x)),
        "hard_silu": (x, layers.Activation("hard_silu")(x)),
        "hard_sigmoid": (x, layers.Activation("hard_sigmoid")(x)),
        "mha": (x, layers.MultiHeadAttention(4, 8)(x, x)),
        "gru_unrolled": (x, layers.GRU(16, unroll=True)(x)),
        "se": (image, layers.Conv2D(8, 1)(layers.Multiply()([squeezed, gate]))),
    }
    for name, (inputs, outputs) in blocks.items():
        model = tf.keras.Model(inputs, outputs)
        signature = [tf.TensorSpec(inputs.shape, inputs.dtype, name="x")]
        function = tf.function(lambda v, m=model: m(v, training=False), input_signature=signature)
        path = folder / f"keras-{name}.onnx"
        tf2onnx.convert.from_function(function, input_signature=signature, opset=17, output_path=str(path))
        yield name, path


def paddle(folder):
    import paddle
    from paddle import nn

    class Squeeze(nn.Layer):
        def __init__(self):
            super().__init__()
            self.conv, self.pool, self.out = nn.Conv2D(8, 16, 3, padding=1), nn.AdaptiveAvgPool2D(1), nn.Conv2D(16, 8, 1)
            self.down, self.up = nn.Conv2D(16, 4, 1), nn.Conv2D(4, 16, 1)

        def forward(self, x):
            y = self.conv(x)
            gate = nn.functional.hardsigmoid(self.up(nn.functional.relu(self.down(self.pool(y)))))
            return self.out(y * gate)

    class RmsNorm(nn.Layer):
        def forward(self, x):
            return x * paddle.rsqrt(paddle.mean(x * x, -1, keepdim=True) + 1e-6)

    rows = [1, 10, 32]
    blocks = {
        "layernorm": (nn.LayerNorm(32), rows), "rmsnorm": (RmsNorm(), rows), "gelu": (nn.GELU(), rows), "gelu_tanh": (nn.GELU(True), rows),
        "silu": (nn.Silu(), rows), "mish": (nn.Mish(), rows), "hardswish": (nn.Hardswish(), rows),
        "mha": (nn.MultiHeadAttention(32, 4), rows), "lstm": (nn.LSTM(32, 16), rows),
        "bilstm": (nn.LSTM(32, 16, direction="bidirect"), rows), "gru": (nn.GRU(32, 16), rows), "se": (Squeeze(), [1, 8, 16, 16]),
    }
    for name, (layer, shape) in blocks.items():
        path = folder / f"paddle-{name}.onnx"
        # The exporter may crash the process after some models, so each has one of its own.
        child = os.fork()
        if child == 0:
            try:
                layer.eval()
                paddle.onnx.export(layer, str(path.with_suffix("")), input_spec=[paddle.static.InputSpec(shape, "float32", "x")], opset_version=15)
            finally:
                os._exit(0)
        os.waitpid(child, 0)
        yield name, path


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--whit", default="target/release/whit")
    whit = str(pathlib.Path(parser.parse_args().whit).resolve())
    import onnxruntime

    passed = failed = frameworks = 0
    with tempfile.TemporaryDirectory() as temporary:
        folder = pathlib.Path(temporary)
        for framework in (keras, paddle):
            try:
                exported = list(framework(folder))
            except ImportError:
                continue
            frameworks += 1
            for name, path in exported:
                label = f"{framework.__name__} {name}"
                try:
                    (source,) = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"]).get_inputs()
                    rng = np.random.default_rng(SEED)
                    feeds = [{source.name: rng.standard_normal(source.shape).astype(np.float32)} for _ in range(CALIBRATION_SAMPLES)]
                    with tempfile.TemporaryDirectory() as scratch:
                        row = check(whit, Model(label, path, feeds), available_isas(whit), pathlib.Path(scratch))
                        shown = subprocess.run([whit, "inspect", str(pathlib.Path(scratch) / "float.whit"), "--json"], capture_output=True, text=True, check=True)
                    steps = [step["op"] for step in json.loads(shown.stdout)["steps"]]
                    operator, most = EXPECTED[name]
                    if not any(operator in step for step in steps) or len(steps) > most:
                        raise RuntimeError(f"{operator} in at most {most} steps expected: {' '.join(steps)}")
                    passed += 1
                    print(f"{label:24} {max(row['errors'].values()):.0e}  {len(steps)} steps  int8 {row['int8']}")
                except Exception as error:
                    failed += 1
                    print(f"{label:24} MISSED: {str(error)[:300] or traceback.format_exc()}")
    if not frameworks:
        print("neither TensorFlow with tf2onnx nor PaddlePaddle is installed")
        return 1
    print(f"{passed} passed, {failed} failed")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
