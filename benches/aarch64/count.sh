#!/usr/bin/env bash
# Counts the instructions of one inference on AArch64, for every instruction set of Whit, in QEMU's user mode:
#
#     benches/aarch64/count.sh [NAME=MODEL.whit[,PEER_MODEL]...]
#
# Without arguments it converts the int8 models of MLPerf Tiny, from ../shared/models/mlperf-tiny or the folder that
# WHIT_MLPERF_TINY names. Prints a Markdown table, and fails if a model of integers gives other outputs on some
# instruction set, this machine's own included.
#
# One inference is (count of 2N runs − count of N runs) / N: what a program does once cancels out.
#
# PEERS="NAME=PROGRAM ..." adds columns: programs for AArch64 Linux that are called with PEER_MODEL and a number of runs.
# Other settings: RUNS (N), WHIT (a `whit` to convert with), FLOAT=1 (outputs may differ).
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
runs=${RUNS:-2}
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
cd "$root"

.ci/aarch64 cargo build --quiet --release -p whit-benches --bin run-model
cargo build --quiet --release -p whit-benches --bin run-model
target=${CARGO_TARGET_DIR:-$root/target}
emulated=$target/aarch64-unknown-linux-gnu/release/run-model
native=$target/release/run-model
cc -O2 -shared -fPIC -o "$work/count.so" "$here/count.c"

# Runs a program in QEMU; its output goes to $work/output, the number of instructions to stdout.
executed() {
    qemu-aarch64 -cpu max -L /usr/aarch64-linux-gnu -plugin "$work/count.so" -d plugin -D "$work/log" "$@" > "$work/output"
    sed -n 's/^instructions: //p' "$work/log"
}

# per_inference PROGRAM MODEL [ARGUMENTS]
per_inference() {
    local once twice
    once=$(executed "$1" "$2" "$runs" "${@:3}")
    twice=$(executed "$1" "$2" $((2 * runs)) "${@:3}")
    echo $(((twice - once) / runs))
}

models=("$@")
if (( ${#models[@]} == 0 )); then
    folder=${WHIT_MLPERF_TINY:-$root/../shared/models/mlperf-tiny}
    if [[ ! -d $folder ]]; then
        echo "skipped: no models in $folder"
        exit 0
    fi
    whit=${WHIT:-$target/release/whit}
    [[ -x $whit ]] || cargo build --quiet --release -p whit-cli
    for name in ad kws ic vww sww; do
        "$whit" convert "$folder/$name/int8.tflite" -o "$work/$name.whit" > /dev/null 2> "$work/notes" || { cat "$work/notes" >&2; exit 1; }
        models+=("$name=$work/$name.whit,$folder/$name/int8.tflite")
    done
fi

isas=(scalar neon dotprod i8mm)
peers=()
read -r -a peers <<< "${PEERS:-}"
printf '| model |'
printf ' %s |' "${isas[@]}" "${peers[@]%%=*}"
printf '\n|---|'
printf -- '---:|%.0s' "${isas[@]}" "${peers[@]}"
printf '\n'
for model in "${models[@]}"; do
    name=${model%%=*} files=${model#*=}
    file=${files%%,*}
    # As many runs as were counted last: what a run leaves in its memory is the next one's input.
    expected=$("$native" "$file" $((2 * runs)) | cut -d ' ' -f 2)
    printf '| %s |' "$name"
    for isa in "${isas[@]}"; do
        printf ' %s |' "$(per_inference "$emulated" "$file" "$isa")"
        read -r _ checksum < "$work/output"
        if [[ $checksum != "$expected" && -z ${FLOAT:-} ]]; then
            printf '\n%s: other outputs on %s than on this machine\n' "$name" "$isa" >&2
            exit 1
        fi
    done
    for peer in "${peers[@]}"; do
        printf ' %s |' "$(per_inference "${peer#*=}" "${files#*,}")"
    done
    printf '\n'
done
