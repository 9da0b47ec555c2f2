#!/usr/bin/env bash
# Counts the instructions of kernels on AArch64, for every instruction set of Whit but scalar, in QEMU's user mode:
#
#     benches/aarch64/count_calls.sh [NAME...]
#
# A NAME is that of a call in benches/src/calls; without any, weights in groups times 64 rows. Prints a Markdown table of multiply-adds
# for each instruction: those of two calls less those of one.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
root=$(cd "$here/../.." && pwd)
work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
cd "$root"

.ci/aarch64 cargo build --quiet --release -p whit-benches --bin run-call
program=${CARGO_TARGET_DIR:-$root/target}/aarch64-unknown-linux-gnu/release/run-call
cc -O2 -shared -fPIC -o "$work/count.so" "$here/count.c"

# executed NAME RUNS ISA: the number of instructions to stdout, that of multiply-adds to $work/output.
executed() {
    qemu-aarch64 -cpu max -L /usr/aarch64-linux-gnu -plugin "$work/count.so" -d plugin -D "$work/log" "$program" "$@" > "$work/output"
    sed -n 's/^instructions: //p' "$work/log"
}

names=("$@")
if (( ${#names[@]} == 0 )); then
    for kind in 'w8 g32' 'w8 g128' 'w4 g32' 'w4 g32 min' 'w4 g128' 'w4 g32 i8 scales, min' 'w5 g32' 'w5 g32 i8 scales, min' 'w6 g16 i8 scales' 'w4nl g32' 'w4nl g32 i8 scales'; do
        names+=("$kind/decoder/64x512-512")
    done
fi
isas=(neon dotprod i8mm)
printf '| call |'
printf ' %s |' "${isas[@]}"
printf '\n|---|'
printf -- '---:|%.0s' "${isas[@]}"
printf '\n'
for name in "${names[@]}"; do
    printf '| %s |' "$name"
    for isa in "${isas[@]}"; do
        once=$(executed "$name" 1 "$isa")
        twice=$(executed "$name" 2 "$isa")
        awk -v work="$(cat "$work/output")" -v n="$((twice - once))" 'BEGIN { printf " %.2f |", work / n }'
    done
    printf '\n'
done
