//! Any bytes as a TFLite model: import and planning end, in time and memory, without a panic.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use whit_convert::error::ImportError;
use whit_convert::import::tflite::import_tflite;
use whit_convert::import::{DimChoice, ImportOptions};
use whit_convert::pipeline;

fuzz_target!(|data: &[u8]| {
    // The first byte chooses the sizes of dynamic dimensions; the rest is the model.
    let Some((choice, model)) = data.split_first() else { return };
    let model = Bytes::copy_from_slice(model);
    let mut options = ImportOptions::default();
    let mut result = import_tflite(model.clone(), &options);
    if let Err(ImportError::UnspecifiedDims(dims)) = &result {
        let choice = match choice % 2 {
            0 => DimChoice::Fixed(3),
            _ => DimChoice::Range(1, 5),
        };
        options.dims = dims.iter().map(|dim| (dim.name.clone(), choice)).collect();
        result = import_tflite(model, &options);
    }
    if let Ok(graph) = result {
        let _ = pipeline::check(graph);
    }
});
