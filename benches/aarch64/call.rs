//! Calls a kernel some times with the same data, for `count_calls.sh` to count instructions.
//!
//!     run-call NAME RUNS ISA
//!
//! Prints how many multiply-adds a call has.
#![forbid(unsafe_code)]

use std::error::Error;

use whit::Isa;
use whit_benches::calls::Call;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [name, runs, isa] = arguments.as_slice() else {
        return Err("usage: run-call NAME RUNS ISA".into());
    };
    let call = Call::all().into_iter().find(|call| call.name() == *name);
    let call = call.ok_or_else(|| format!("no call is named {name}"))?;
    let runs: usize = runs.parse()?;
    let isa = Isa::from_name(isa).filter(|isa| isa.is_available());
    let isa = isa.ok_or("an instruction set that this CPU doesn't have")?;
    let mut kernel = (call.prepare)(isa);
    for _ in 0..runs {
        kernel();
    }
    println!("{}", call.work);
    Ok(())
}
