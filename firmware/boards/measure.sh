#!/usr/bin/env bash
# Builds the image `infer` for a machine, runs a model on it and prints what it measured:
#
#     firmware/boards/measure.sh MACHINE MODEL.whit INPUTS.bin [OUTPUTS.bin]
#
# MACHINE is one of an385 an386 an500 an505 an547 microbit. INPUTS.bin holds the samples' bytes, in the
# inputs' own types, one behind the other. WHIT_OPERATORS names a file with the operator table, as
# `whit inspect MODEL.whit --operators` prints it. CARGO_TARGET_DIR says where to build.
set -euo pipefail
here=$(cd "$(dirname "$0")" && pwd)
machine=$1 model=$(realpath "$2") inputs=$(realpath "$3") outputs=$(realpath -m "${4:-/dev/null}")

case $machine in
    an385)    target=thumbv7m-none-eabi board=mps2-an385 at=0x00100000 ;;
    an386)    target=thumbv7em-none-eabihf board=mps2-an386 at=0x00100000 ;;
    an500)    target=thumbv7em-none-eabihf board=mps2-an500 at=0x00100000 ;;
    an505)    target=thumbv8m.main-none-eabihf board=mps2-an505 at=0x10100000 ;;
    an547)    target=thumbv8m.main-none-eabihf board=mps3-an547 at=0x11000000 ;;
    microbit) target=thumbv6m-none-eabi board=microbit at=0x0000C000 ;;
    *) echo "no machine $machine" >&2; exit 2 ;;
esac

# The images' own profile counts, not what the environment says for the tool's.
while read -r name; do unset "$name"; done < <(compgen -e CARGO_PROFILE_ || true)
target_dir=${CARGO_TARGET_DIR:-$here/target}/boards/$machine
(cd "$here" && CARGO_TARGET_DIR=$target_dir cargo build -q --release -p whit-board-qemu \
    --bin infer --target "$target" --features "$machine")

work=$(mktemp -d)
trap 'rm -r "$work"' EXIT
cp "$inputs" "$work/inputs.bin"
cd "$work"
timeout "${WHIT_QEMU_TIMEOUT:-600}" qemu-system-arm -M "$board" -display none -serial none -monitor none \
    -icount shift=0 -semihosting-config enable=on,target=native \
    -kernel "$target_dir/$target/release/infer" \
    -device "loader,file=$model,addr=$at,force-raw=on" < /dev/null
[[ $outputs == /dev/null ]] || cp outputs.bin "$outputs"
