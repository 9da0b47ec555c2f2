#!/usr/bin/env bash
# Runs models on QEMU's Cortex-M machines: are their outputs the laptop's, bit for bit, and what do
# they take?
#
#     firmware/test.sh [--write README.md] [--no-marks | --allow code] [--quick] [--models "kws ad"] [--machines "an386"]
#
# The models are MLPerf Tiny's in ../shared/models, where that folder is, and this repository's
# digits; each runs on the machines listed in `plan` below. Fails when an output differs, when a
# self-test fails, when an image has formatting or an allocator in it, or when a figure is over its mark
# (report.py has the marks; --no-marks only prints them, --allow those of instructions, arena or code). --write refreshes the table in a file,
# --quick takes a tenth of the vectors.
#
# Sets up what it needs as root on Debian: QEMU, numpy, rustup's targets. WHIT names a built tool.
set -euo pipefail
cd "$(dirname "$0")/.."
export DEBIAN_FRONTEND=noninteractive
exec < /dev/null

boards=$PWD/firmware/boards
# shellcheck source=firmware/boards/machines.sh
source "$boards/machines.sh"
shared=$(realpath -m "${WHIT_SHARED_MODELS:-../shared/models}")/mlperf-tiny
write=() marks=() quick=1 models='' machines=''
while (( $# > 0 )); do
    case $1 in
        --write) write=(--write "$(realpath "$2")"); shift ;;
        --no-marks) marks=(--no-marks) ;;
        --allow) marks+=(--allow "$2"); shift ;;
        --quick) quick=10 ;;
        --models) models=$2; shift ;;
        --machines) machines=$2; shift ;;
        *) sed -n '2,/^set/{/^set/d;s/^# \{0,1\}//;p}' "$0" >&2; exit 2 ;;
    esac
    shift
done

# apt-get install, of the packages that are missing.
install() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f '${Status}' "$package" 2> /dev/null | grep 'ok installed' > /dev/null || missing+=("$package")
    done
    (( ${#missing[@]} == 0 )) && return
    apt-get -qq update
    apt-get -qq install --no-install-recommends "${missing[@]}" > /dev/null
}

target_dir=$(cargo metadata --no-deps --format-version 1 | sed 's/.*"target_directory":"\([^"]*\)".*/\1/')
work=$target_dir/firmware-test
rm -rf "$work"
mkdir -p "$work"

set_up() {
    command -v qemu-system-arm > /dev/null || install qemu-system-arm
    command -v readelf > /dev/null || install binutils
    python=$target_dir/firmware-venv/bin/python
    if ! "$python" -c 'import numpy' 2> /dev/null; then
        install python3 python3-venv
        python3 -m venv "$target_dir/firmware-venv"
        "$python" -m pip install --quiet --disable-pip-version-check numpy
    fi
    whit=${WHIT:-}
    if [[ -z $whit ]]; then
        cargo build --release -q -p whit-cli
        whit=$target_dir/release/whit
    fi
}

# rustup's target, or else core from Debian's source package of the standard library.
use_target() { # TARGET
    unset WHIT_FIRMWARE_FLAGS WHIT_FIRMWARE_CARGO
    if rustup target list --installed 2> /dev/null | grep -x "$1" > /dev/null \
        || rustup target add "$1" 2> /dev/null; then
        return
    fi
    echo "rustup has no $1; building core from rust-web-src"
    install rustc-web rust-web-src lld
    local linker=CARGO_TARGET_${1^^}_LINKER
    linker=${linker//[-.]/_}
    WHIT_FIRMWARE_CARGO="env RUSTC=/usr/bin/rustc RUSTC_BOOTSTRAP=1 $linker=ld.lld cargo"
    WHIT_FIRMWARE_FLAGS=-Zbuild-std=core
}

# Which machines a model runs on, and how many of its vectors at most: all of the evaluation subset
# on M4 and M7, enough to see a kernel go wrong on the others, which share their code.
plan() { # MODEL
    case $1 in
        kws | ic) echo an386:1000 an500:1000 an505:20 an547:20 ;;
        vww)      echo an386:200 an500:200 an505:10 an547:10 ;;
        ad)       echo an386:200 an500:200 an505:200 an547:200 an385:50 ;;
        sww)      echo an386:200 an500:200 an505:200 an547:200 an385:50 microbit:10 ;;
        digits)   echo an386:200 an500:200 an505:200 an547:200 an385:50 microbit:50 ;;
    esac
}

convert() { # MODEL OUT.whit
    case $1 in
        digits)
            "$whit" convert examples/digits/digits.onnx -o "$2" --target cortex-m --quantize int8 \
                --calibrate examples/digits/digits-calib.npz ;;
        *) "$whit" convert "$shared/$1/int8.tflite" -o "$2" --target cortex-m ;;
    esac
}

# Bytes of the sections that lie in flash: code, constants, initial values.
code_bytes() { # IMAGE
    local total=0 bytes
    for bytes in $(readelf -SW "$1" | sed -n 's/^ *\[ *[0-9]*\] \.\(vector_table\|text\|rodata\|data\|gnu.sgstubs\|ARM[^ ]*\) *[A-Z_]* *[0-9a-f]* *[0-9a-f]* *\([0-9a-f]*\) .*/\2/p'); do
        total=$((total + 16#$bytes))
    done
    echo "$total"
}

# An image without input and output has neither formatting nor an allocator.
expect_lean() { # IMAGE
    local found
    found=$(readelf -sW "$1" | grep -E 'FUNC|OBJECT' |
            grep -E 'core3fmt|core..fmt|alloc5alloc|__rust_alloc|__rg_alloc|__rust_no_alloc' || true)
    [[ -z $found ]] || { printf '%s: formatting or an allocator is linked:\n%s\n' "$1" "$found" >&2; return 1; }
}

run_model() { # MODEL
    local model=$1 data count entry name folder=$work/$1
    mkdir -p "$folder"
    convert "$model" "$folder/model.whit" &> "$folder/convert.log" || { cat "$folder/convert.log" >&2; return 1; }
    "$whit" inspect "$folder/model.whit" --json > "$folder/inspect.json"
    "$whit" inspect "$folder/model.whit" --operators > "$folder/operators.rs"
    mkdir -p "$target_dir/boards"
    local table
    # Named by its content: models with the same operators share an image.
    table=$target_dir/boards/operators-$(sha256sum < "$folder/operators.rs" | cut -c 1-12).rs
    cmp -s "$folder/operators.rs" "$table" || cp "$folder/operators.rs" "$table"
    data=$shared/$model/eval.npz expected=()
    if [[ $model == digits ]]; then
        data=examples/digits/digits-test.npz
    else
        expected=(--expected "$shared/$model/expected.npz")
    fi
    for entry in $(plan "$model"); do
        name=${entry%%:*} count=$((${entry##*:} / quick))
        [[ -z $machines || " $machines " == *" $name "* ]] || continue
        machine "$name"
        use_target "$target"
        # Where code is measured or scarce only the model's operators are linked; the other machines
        # have one image for all models.
        case $name in
            an386 | an500 | microbit) export WHIT_OPERATORS=$table ;;
            *) export WHIT_OPERATORS=$boards/qemu/src/operators_i8.rs ;;
        esac
        build_images "$target_dir/boards"
        expect_lean "$images/size"
        # The same vectors here and there; the laptop's only once for each number of them.
        if [[ ! -d $folder/$count ]]; then
            local input
            input=$("$python" firmware/report.py samples "$folder/inspect.json" "$data" "$count" "$folder/$count")
            "$whit" run "$folder/model.whit" --input "$input=$folder/$count/input.npy" --raw \
                --output "$folder/$count/laptop" > /dev/null
        fi
        local start=$SECONDS run=$work/$name-$model.run
        (cd "$folder/$count" && run_image "$images/infer" "$folder/model.whit") > "$run" ||
            { cat "$run" >&2; echo "$model on $name failed" >&2; return 1; }
        {
            echo "macs $(sed -n 's/^  "macs": \([0-9]*\),*$/\1/p' "$folder/inspect.json")"
            [[ $WHIT_OPERATORS != "$table" ]] || echo "code_bytes $(code_bytes "$images/size")"
            "$python" firmware/report.py compare "$folder/$count" "$folder/$count/outputs.bin" "${expected[@]}"
        } >> "$run"
        printf '%-8s %-8s %4d vectors, %d golden: equal, %d s\n' "$model" "$name" \
            "$(sed -n 's/^runs //p' "$run")" "$(sed -n 's/^self_test_cases //p' "$run")" $((SECONDS - start))
    done
}

# The application for a real board, with the digits as its factory model: built for the board, and
# run in QEMU's model of it.
device() {
    local folder=$work/digits/device
    export WHIT_OPERATORS=$work/digits/operators.rs WHIT_MODEL=$work/digits/model.whit
    target=thumbv7em-none-eabihf
    use_target "$target"
    build_device() { # FEATURES
        build_package "$target_dir/boards" -p whit-board-stm32f405 --features "$1"
    }
    build_device ''
    cp "$target_dir/boards/target/$target/release/device" "$folder-stm32f405"
    build_device qemu
    "$python" firmware/report.py samples "$work/digits/inspect.json" examples/digits/digits-test.npz 2 "$folder" > /dev/null
    "$whit" run "$work/digits/model.whit" --input "image=$folder/input.npy" --output "$folder/real" > /dev/null
    "$python" firmware/report.py device "$target_dir/boards/target/$target/release/device" "$folder"
    printf 'device   stm32f405: %d bytes of flash, %d of them the model and %d those of Whit\n' \
        "$(code_bytes "$folder-stm32f405")" "$(stat -c %s "$WHIT_MODEL")" \
        "$(sed -n 's/^code_bytes //p' "$work"/an386-digits.run)"
}

set_up
if [[ -z $models ]]; then
    models=digits
    if [[ -d $shared ]]; then
        models='ad kws vww ic sww digits'
    else
        echo "$shared isn't there: only this repository's own model runs"
    fi
fi
for model in $models; do run_model "$model"; done
[[ " $models " != *' digits '* || -n $machines ]] || device
# The DSP kernels beside the scalar ones, on random layers; `kernels.sh` alone takes every machine.
[[ -n $machines ]] || CARGO_TARGET_DIR=$target_dir firmware/boards/kernels.sh an386 | sed -n 's/ equal / runs equal: /p'
echo
"$python" firmware/report.py table "$work" "${write[@]}" "${marks[@]}"
