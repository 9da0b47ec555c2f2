# What the scripts know of QEMU's machines; to be sourced.

# Of a machine: Rust target, feature of whit-board-qemu, name in QEMU, address of the model.
machine() { # NAME
    case $1 in
        an385)    target=thumbv7m-none-eabi feature=mps2 board=mps2-an385 at=0x00100000 ;;
        an386)    target=thumbv7em-none-eabihf feature=mps2 board=mps2-an386 at=0x00100000 ;;
        an500)    target=thumbv7em-none-eabihf feature=mps2 board=mps2-an500 at=0x00100000 ;;
        an505)    target=thumbv8m.main-none-eabihf feature=an505 board=mps2-an505 at=0x10100000 ;;
        an547)    target=thumbv8m.main-none-eabihf feature=an547 board=mps3-an547 at=0x11000000 ;;
        microbit) target=thumbv6m-none-eabi feature=microbit board=microbit at=0x0001C000 ;;
        *) echo "no machine $1; there are an385 an386 an500 an505 an547 microbit" >&2; return 2 ;;
    esac
}

# Builds with the images' own profile, not what the environment says for the tool's.
build_package() { # FOLDER CARGO-ARGUMENTS...
    (
        while read -r name; do unset "$name"; done < <(compgen -e CARGO_PROFILE_ || true)
        cd "$boards"
        export CARGO_TARGET_DIR=$1/target
        # shellcheck disable=SC2086  # several words
        ${WHIT_FIRMWARE_CARGO:-cargo} build -q --release ${WHIT_FIRMWARE_FLAGS:-} --target "$target" "${@:2}"
    )
}

# Builds the images for a machine's operators and sets `images` to their folder. Needs target and
# feature. WHIT_OPERATORS is the file with the operator table.
build_images() { # FOLDER
    local table=${WHIT_OPERATORS:-$boards/qemu/src/operators_i8.rs}
    images=$1/$target-$feature-$(sha256sum < "$table" | cut -c 1-12)
    build_package "$1" -p whit-board-qemu --features "$feature"
    mkdir -p "$images"
    cp "$1/target/$target/release/"{infer,size} "$images"
}

# Runs a model in the folder that is the working directory: inputs.bin there, outputs.bin too.
run_image() { # IMAGE MODEL
    timeout "${WHIT_QEMU_TIMEOUT:-1200}" qemu-system-arm -M "$board" -display none -serial none \
        -monitor none -icount shift=0 -semihosting-config enable=on,target=native -kernel "$1" \
        -device "loader,file=$2,addr=$at,force-raw=on" < /dev/null
}
