#!/usr/bin/env bash
# Builds the image `infer` for a machine, runs a model on it and prints what it measured:
#
#     firmware/boards/measure.sh MACHINE MODEL.whit INPUTS.bin [OUTPUTS.bin]
#
# MACHINE is one of an385 an386 an500 an505 an547 microbit. INPUTS.bin holds the samples' bytes, in the
# inputs' own types, one behind the other. WHIT_OPERATORS names a file with the operator table, as
# `whit inspect MODEL.whit --operators` prints it; without it all int8 operators are linked.
# CARGO_TARGET_DIR says where to build.
set -euo pipefail
boards=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=firmware/boards/machines.sh
source "$boards/machines.sh"
machine "$1"
model=$(realpath "$2") inputs=$(realpath "$3") outputs=$(realpath -m "${4:-/dev/null}")
build_images "$(realpath -m "${CARGO_TARGET_DIR:-$boards/target}/boards")"
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
cp "$inputs" "$work/inputs.bin"
cd "$work"
run_image "$images/infer" "$model"
[[ $outputs == /dev/null ]] || cp outputs.bin "$outputs"
