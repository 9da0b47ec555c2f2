//! Runs an ONNX model in rten a number of times: `whit-bench-peer MODEL.onnx RUNS`.
//!
//! The difference of the instructions of 2N and of N runs, over N, is one inference. One thread: set `RTEN_NUM_THREADS=1`.
//! Dimensions that the model leaves open are 1. Prints sums of the outputs, to compare with another run of the same model.

use rten::{DataType, Dimension, ModelOptions, Value, ValueOrView, ValueType};
use rten_tensor::{AsView, Layout, Tensor};
use std::error::Error;

fn main() -> Result<(), Box<dyn Error>> {
    let mut args = std::env::args().skip(1);
    let (Some(path), Some(runs), None) = (args.next(), args.next(), args.next()) else {
        return Err("usage: whit-bench-peer MODEL.onnx RUNS".into());
    };
    let runs: usize = runs.parse()?;
    let model = ModelOptions::with_all_ops().prepack_weights(true).load_file(&path)?;

    let mut inputs: Vec<(_, Value)> = Vec::new();
    for &id in model.input_ids() {
        let info = model.node_info(id).ok_or("an input without a node")?;
        let shape: Vec<usize> = info
            .shape()
            .ok_or("an input without a shape")?
            .into_iter()
            .map(|dimension| match dimension {
                Dimension::Fixed(size) => size,
                Dimension::Symbolic(_) => 1,
            })
            .collect();
        let len = shape.iter().product();
        let number = |i: usize| ((i * 37 + 11) & 0xff) as i32 - 128;
        let value = match info.dtype() {
            Some(ValueType::Tensor(DataType::Float)) => Tensor::from_data(
                &shape,
                (0..len).map(|i| number(i) as f32 / 128.0).collect::<Vec<_>>(),
            )
            .into(),
            Some(ValueType::Tensor(DataType::Int32)) => {
                Tensor::from_data(&shape, (0..len).map(|i| number(i) & 1).collect::<Vec<_>>())
                    .into()
            }
            other => return Err(format!("an input of type {other:?}").into()),
        };
        inputs.push((id, value));
    }

    for run in 0..runs {
        let borrowed = inputs.iter().map(|(id, value)| (*id, ValueOrView::from(value))).collect();
        let outputs = model.run(borrowed, model.output_ids(), None)?;
        if run + 1 < runs {
            continue;
        }
        for output in outputs {
            match output {
                Value::FloatTensor(tensor) => {
                    let sum: f64 = tensor.iter().map(|x| f64::from(x.abs())).sum();
                    println!("{:?}: sum of sizes {sum:.6}", tensor.shape());
                }
                _ => println!("an output that isn't f32"),
            }
        }
    }
    Ok(())
}
