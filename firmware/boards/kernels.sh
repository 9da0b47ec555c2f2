#!/usr/bin/env bash
# Tests the kernels with DSP instructions on QEMU's machines, and prints what they cost by layer:
#
#     firmware/boards/kernels.sh [MACHINE]...
#
# By default on the Cortex-M4, M7, M33 and M55. Fails when a bit differs from the scalar kernels.
set -euo pipefail
boards=$(cd "$(dirname "$0")" && pwd)
# shellcheck source=firmware/boards/machines.sh
source "$boards/machines.sh"
(( $# > 0 )) || set -- an386 an500 an505 an547
# The images' own profile counts, not what the environment says for the tool's.
while read -r name; do unset "$name"; done < <(compgen -e CARGO_PROFILE_ || true)
CARGO_TARGET_DIR=$(realpath -m "${CARGO_TARGET_DIR:-$boards/target}/boards")/target
export CARGO_TARGET_DIR
cd "$boards"
for name in "$@"; do
    machine "$name"
    # shellcheck disable=SC2086  # several words
    ${WHIT_FIRMWARE_CARGO:-cargo} build -q --release ${WHIT_FIRMWARE_FLAGS:-} -p whit-board-qemu \
        --bin kernel_tests --target "$target" --features "$feature,kernel-tests"
    echo "$name"
    timeout "${WHIT_QEMU_TIMEOUT:-1200}" qemu-system-arm -M "$board" -display none -serial none -monitor none \
        -icount shift=0 -semihosting-config enable=on,target=native \
        -kernel "$CARGO_TARGET_DIR/$target/release/kernel_tests" < /dev/null
done
