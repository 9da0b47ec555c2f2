#!/bin/sh
# Whit beside other runtimes: installs and builds what it takes, then measures. `run.sh --help` lists the options.
#
#     benches/peers/run.sh [--models DIR] [--onnx FILE…] [--only NAME,…] [--runtimes NAME,…] [--threads 1,2]
#                          [--rounds N] [--out DIR] [--write README.md]
#
# What it installs goes to target/peers (or $CARGO_TARGET_DIR/peers): some 1.5 GB, and ten minutes the first time.
set -eu
cd "$(dirname "$0")/../.."
work=${CARGO_TARGET_DIR:-target}/peers
needed=benches/peers/requirements.txt
mkdir -p "$work"
if ! cmp -s "$needed" "$work/installed.txt"; then
    echo "installing $needed into $work/venv" >&2
    "${PYTHON:-python3}" -m venv "$work/venv"
    "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check -r "$needed"
    cp "$needed" "$work/installed.txt"
fi
exec "$work/venv/bin/python" benches/peers/run.py "$@"
