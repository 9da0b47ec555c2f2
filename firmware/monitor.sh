#!/usr/bin/env bash
# A device with a monitor, end to end on QEMU's Cortex-M4 and on the laptop: is its log the laptop's, bit for bit, and what
# does the monitor cost?
#
#     firmware/monitor.sh [--models "digits kws"] [--write docs/monitor.md]
#
# A model runs a stream that drifts, labels arrive late, power is cut in the middle of writes and erases; monitor.py says how
# it goes on. The models are this repository's digits and, where ../shared/models is, MLPerf Tiny's KWS (--models names
# others; ic, vww and ad only have their costs measured). Fails when a bit differs, when the log doesn't count what the
# stream holds, or when recording costs more than its mark. --write refreshes the table of costs in a file.
#
# Wants what firmware/test.sh wants, and sets nothing up: QEMU, a Python with numpy (PYTHON names it), rustup's target
# thumbv7em-none-eabihf. WHIT names a built tool.
set -euo pipefail
cd "$(dirname "$0")/.."
exec < /dev/null

boards=$PWD/firmware/boards
# shellcheck source=firmware/boards/machines.sh
source "$boards/machines.sh"
shared=$(realpath -m "${WHIT_SHARED_MODELS:-../shared/models}")/mlperf-tiny
models='' write=()
while (( $# > 0 )); do
    case $1 in
        --models) models=$2; shift ;;
        --write) write=(--write "$(realpath "$2")"); shift ;;
        *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2 ;;
    esac
    shift
done
if [[ -z $models ]]; then
    models=digits
    [[ ! -d $shared ]] || models='digits kws'
fi
target_dir=$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
work=$target_dir/firmware-monitor
mkdir -p "$work"
python=${PYTHON:-$target_dir/firmware-venv/bin/python}
"$python" -c 'import numpy' || { echo "no numpy in $python: firmware/test.sh sets it up" >&2; exit 1; }
whit=${WHIT:-}
if [[ -z $whit ]]; then
    cargo build --release -q -p whit-cli
    whit=$target_dir/release/whit
fi

# One image for all of these models.
machine an386
export WHIT_OPERATORS=$boards/qemu/src/operators_i8.rs
build_package "$target_dir/boards" -p whit-board-qemu --features "$feature,monitor" --bin monitor
image=$work/monitor
cp "$target_dir/boards/target/$target/release/monitor" "$image"
(
    while read -r name; do unset "$name"; done < <(compgen -e CARGO_PROFILE_ || true)
    cd "$boards"
    CARGO_TARGET_DIR=$target_dir/boards/target cargo build -q --release -p whit-board-laptop
)
laptop=$target_dir/boards/target/release/whit-board-laptop

# What the monitor and its log add to an image without output: code, constants, statics.
flash_bytes() { # IMAGE
    local total=0 bytes
    for bytes in $(readelf -SW "$1" | sed -n 's/^ *\[ *[0-9]*\] \.\(vector_table\|text\|rodata\|data\) *[A-Z_]* *[0-9a-f]* *[0-9a-f]* *\([0-9a-f]*\) .*/\2/p'); do
        total=$((total + 16#$bytes))
    done
    echo "$total"
}
build_package "$target_dir/boards" -p whit-board-qemu --features "$feature,monitor" --bin size --bin size_monitor --bin size_log
sizes=()
for name in size size_monitor size_log; do
    sizes+=("$(flash_bytes "$target_dir/boards/target/$target/release/$name")")
done
printf 'code_bytes %d\nmonitor_code_bytes %d\nlog_code_bytes %d\n' "${sizes[0]}" $((sizes[1] - sizes[0])) $((sizes[2] - sizes[1])) \
    | tee "$work/code"

folders=()
for model in $models; do
    file=$work/$model.whit runs=2400
    case $model in
        digits)
            runs=3000 calibration=examples/digits/digits-calib.npz data=examples/digits/digits-test.npz
            "$whit" convert examples/digits/digits.onnx -o "$file" --target cortex-m --quantize int8 \
                --calibrate "$calibration" --monitor default &> "$work/$model.log" ;;
        *)
            calibration=$shared/$model/calib.npz data=$shared/$model/eval.npz
            "$whit" convert "$shared/$model/int8.tflite" -o "$file" --target cortex-m \
                --calibrate "$calibration" --monitor default &> "$work/$model.log" ;;
    esac || { cat "$work/$model.log" >&2; exit 1; }
    "$python" firmware/monitor.py costs "$work/$model-costs" --model "$file" --image "$image" --whit "$whit" \
        --calibration "$calibration"
    folders+=("$work/$model-costs")
    case $model in
        digits | kws)
            "$python" firmware/monitor.py live "$work/$model" --model "$file" --image "$image" --laptop "$laptop" \
                --whit "$whit" --calibration "$calibration" --data "$data" --runs "$runs" ;;
    esac
done
"$python" firmware/monitor.py table "$work/code" "${folders[@]}" "${write[@]}"
