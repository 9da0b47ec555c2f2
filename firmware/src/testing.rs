//! The digits model for the tests.

use whit_convert::emit::{Golden, emit};
use whit_convert::evaluate::{self, AlignedBytes, Program};
use whit_convert::import::{ImportOptions, import_file};
use whit_convert::passes;
use whit_convert::plan::PlanOptions;

/// A float .whit file of the digits with two golden vectors, edited.
pub(crate) fn digits(edit: impl FnOnce(&mut Vec<Golden>)) -> AlignedBytes {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/digits/digits.onnx");
    let mut graph = import_file(path, &ImportOptions::default()).expect("digits.onnx");
    passes::run_all(&mut graph, &[], &mut |_, _| ());
    let program = Program::new(&graph, &PlanOptions::default()).expect("a plan");
    let mut golden = evaluate::golden(&program, None, 2).expect("golden vectors");
    edit(&mut golden);
    AlignedBytes::new(&emit(&program.plan, &golden))
}
