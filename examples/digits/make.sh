#!/bin/sh
# Makes digits.onnx, digits-calib.npz and digits-test.npz again, from scikit-learn's copy of the data.
# PYTHON must have numpy, scikit-learn, onnx and onnxruntime.
set -eu
cd "$(dirname "$0")/../.."
python="${PYTHON:-python3}"
train="$(mktemp -d)"
trap 'rm -rf "$train"' EXIT
"$python" examples/digits/data.py split "$train/train.npz"
# One thread, so that sums are added in one order and the weights come out the same.
RAYON_NUM_THREADS=1 cargo run --release -q -p whit-examples --example train_digits -- \
    "$train/train.npz" examples/digits/digits.onnx
"$python" examples/digits/data.py check
