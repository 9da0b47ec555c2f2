//! Puts the machine's memory map where the linker finds it, and the operator table where
//! `operators.rs` does.

use std::path::PathBuf;
use std::{env, fs};

const MACHINES: [&str; 4] = ["mps2", "an505", "an547", "microbit"];

fn main() {
    let out = PathBuf::from(env::var_os("OUT_DIR").expect("cargo sets OUT_DIR"));
    let is_chosen =
        |name: &&str| env::var_os(format!("CARGO_FEATURE_{}", name.to_uppercase())).is_some();
    let chosen: Vec<&str> = MACHINES.into_iter().filter(is_chosen).collect();
    let [machine] = chosen[..] else {
        panic!("choose one machine with --features: {}", MACHINES.join(", "));
    };
    let map = format!("memory/{machine}.x");
    fs::copy(&map, out.join("memory.x")).expect("the machine's memory map");
    println!("cargo:rerun-if-changed={map}");
    // Where a device's handlers would have names; `vectors.rs` has the table.
    fs::write(out.join("device.x"), "").expect("the device's handlers");
    println!("cargo:rustc-link-search={}", out.display());
    println!("cargo:rustc-link-arg-bins=-Tlink.x");
    // Sections of the model's flash and of the code may lie anywhere, not just on pages.
    println!("cargo:rustc-link-arg-bins=--nmagic");

    // The output of `whit inspect MODEL --operators`; without it, a table of all int8 operators.
    println!("cargo:rerun-if-env-changed=WHIT_OPERATORS");
    let given = env::var_os("WHIT_OPERATORS").map(PathBuf::from);
    let table = given.unwrap_or_else(|| PathBuf::from("src/operators_i8.rs"));
    println!("cargo:rerun-if-changed={}", table.display());
    let copied = fs::copy(&table, out.join("operators.rs"));
    copied.unwrap_or_else(|error| panic!("{}: {error}", table.display()));
}
