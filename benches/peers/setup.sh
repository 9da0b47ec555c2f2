#!/bin/sh
# Makes target/peers-venv with the peers that run.py measures Whit against.
set -eu
cd "$(dirname "$0")/../.."
venv="target/peers-venv"
"${PYTHON:-python3}" -m venv "$venv"
"$venv/bin/python" -m pip install --quiet --disable-pip-version-check \
    "ai-edge-litert>=2.3" "onnxruntime>=1.31" flatbuffers numpy
echo "now: $venv/bin/python benches/peers/run.py --whit target/release/whit"
