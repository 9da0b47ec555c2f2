#!/usr/bin/env bash
# Checks and measures the CUDA backend on a machine with a GPU; writes one JSON object.
#
#   runtime/src/backend/cuda/check.sh OUTPUT.json [MODEL.whit...]
#
# Runs on device 0: the cases of every kernel and of the operators' suites beside the CPU; the MLPerf Tiny models and decoders of
# WHIT_SHARED_MODELS (default ../shared/models), where they are; then MODELs. Exit status 1 when something differs.
set -euo pipefail
cd "$(dirname "$0")/../../../.."
output=${1:?OUTPUT.json}
shift
shared=${WHIT_SHARED_MODELS:-../shared/models}
seconds=${WHIT_CHECK_SECONDS:-1}
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
status=0

export WHIT_CUDA_DEVICE=0
# One at a time: the device is shared, and so is what it leaves behind when it is lost.
cargo test --release -p whit --features cuda --lib -- --test-threads 1 cuda:: ops:: 2>&1 | tee "$work/operators.log" || status=1
cargo test --release -p whit-convert --features whit/cuda --test cuda -- --test-threads 1 --nocapture 2>&1 |
    tee "$work/models.log" || status=1

cargo build --release -p whit-cli
whit=$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')/release/whit
models=()
for name in ad ic kws sww vww; do
    for kind in int8.tflite float.onnx; do
        [[ -f $shared/mlperf-tiny/$name/$kind ]] || continue
        to=$work/$name-${kind%%.*}.whit
        "$whit" convert "$shared/mlperf-tiny/$name/$kind" -o "$to" > /dev/null && models+=("$to")
    done
done
for numbers in float w8 w4; do
    [[ -d $shared/stories260k ]] || continue
    to=$work/stories260k-$numbers.whit
    quantize=()
    [[ $numbers == float ]] || quantize=(--quantize "$numbers")
    "$whit" convert "$shared/stories260k" -o "$to" "${quantize[@]}" > /dev/null && models+=("$to")
done
models+=("$@")

cargo run --release -q -p whit --features cuda --example cuda_check -- "$seconds" "${models[@]}" \
    > "$work/results" 2> >(tee "$work/errors" >&2) || status=1

passed() { grep -o 'test result: .* passed; [0-9]* failed' "$1" | tail -1; }
python3 - "$work" "$status" "$(passed "$work/operators.log")" "$(passed "$work/models.log")" > "$output" <<'PYTHON'
import json, pathlib, platform, subprocess, sys
work, status, operators, models = sys.argv[1:]
work = pathlib.Path(work)
query = ["nvidia-smi", "--query-gpu=name,driver_version,memory.total,clocks.max.sm", "--format=csv,noheader"]
gpu = subprocess.run(query, capture_output=True, text=True).stdout.splitlines()
commit = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True).stdout.strip()
print(json.dumps({
    "ok": status == "0",
    "commit": commit,
    "machine": {"gpu": gpu, "system": platform.platform(), "processor": platform.processor()},
    "operators": operators,
    "models": models,
    "results": [json.loads(line) for line in (work / "results").read_text().splitlines()],
    "errors": (work / "errors").read_text().splitlines(),
}, indent=1))
PYTHON
cat "$output"
exit "$status"
