//! Any bytes as an ONNX model: import and planning end, in time and memory, without a panic.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use whit_convert::import::onnx::import_onnx;
use whit_convert::import::{DimChoice, ImportOptions};
use whit_convert::pipeline;

fuzz_target!(|data: &[u8]| {
    // The first byte chooses among options; the rest is the model.
    let Some((choice, model)) = data.split_first() else { return };
    let mut options = ImportOptions::default();
    for name in ["batch", "N", "n", "seq", "x_1", "X_1"] {
        let size = match choice % 3 {
            0 => continue,
            1 => DimChoice::Fixed(3),
            _ => DimChoice::Range(1, 5),
        };
        options.dims.push((name.to_owned(), size));
    }
    if let Ok(graph) = import_onnx(Bytes::copy_from_slice(model), None, &options) {
        let _ = pipeline::check(graph);
    }
});
