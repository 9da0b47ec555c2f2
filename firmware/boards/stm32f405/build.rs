//! Puts the memory map where the linker finds it, and the operator table and the factory model where
//! `main.rs` does.

use std::path::PathBuf;
use std::{env, fs};

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    fs::copy("memory.x", out.join("memory.x")).expect("the memory map");
    println!("cargo:rerun-if-changed=memory.x");
    println!("cargo:rustc-link-search={}", out.display());
    println!("cargo:rustc-link-arg-bins=-Tlink.x");
    println!("cargo:rustc-link-arg-bins=--nmagic");

    // A .whit file that is part of the firmware, and its `whit inspect MODEL --operators`. Without
    // them all int8 operators are linked, and the first model comes over the serial port.
    println!("cargo:rerun-if-env-changed=WHIT_MODEL");
    println!("cargo:rerun-if-env-changed=WHIT_OPERATORS");
    let table = env::var_os("WHIT_OPERATORS")
        .map_or_else(|| PathBuf::from("../qemu/src/operators_i8.rs"), PathBuf::from);
    copy(&table, out.join("operators.rs"));
    let model = out.join("factory.whit");
    match env::var_os("WHIT_MODEL").map(PathBuf::from) {
        Some(path) => copy(&path, model),
        None => fs::write(model, []).expect("OUT_DIR is writable"),
    }
}

fn copy(from: &PathBuf, to: PathBuf) {
    println!("cargo:rerun-if-changed={}", from.display());
    fs::copy(from, to).unwrap_or_else(|error| panic!("{}: {error}", from.display()));
}
