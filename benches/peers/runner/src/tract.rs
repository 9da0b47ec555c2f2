//! tract, on ONNX and TFLite files: optimized for fixed shapes, one state for all runs.

use anyhow::{Context, Result, ensure};
use tract_linalg::multithread::{Executor, set_default_executor};
use tract_onnx::prelude::*;

use crate::Engine;
use crate::job::{Input, Numbers, Output};

pub(crate) struct Tract {
    state: TypedSimpleState,
    /// By sample, then by input.
    samples: Vec<TVec<TValue>>,
    selected: usize,
    outputs: TVec<TValue>,
}

impl Tract {
    pub(crate) fn new(path: &str, threads: usize, inputs: Vec<Input>) -> Result<Tract> {
        if threads > 1 {
            set_default_executor(Executor::multithread(threads));
        }
        let model = if path.ends_with(".tflite") {
            tract_tflite::tflite().model_for_path(path)?.into_optimized()?
        } else {
            let mut model = tract_onnx::onnx().model_for_path(path)?;
            for (input, outlet) in model.input_outlets()?.to_vec().into_iter().enumerate() {
                let name = model.node(outlet.node).name.clone();
                let given = find(&inputs, input, &name)?;
                let fact = InferenceFact::dt_shape(datum_type(&given.numbers), given.shape.clone());
                model.set_input_fact(input, fact)?;
            }
            model.into_optimized()?
        };
        let mut order = Vec::new();
        for (input, outlet) in model.input_outlets()?.iter().enumerate() {
            let given = find(&inputs, input, &model.node(outlet.node).name)?;
            order.push((given, model.outlet_fact(*outlet)?.datum_type));
        }
        let samples = order.first().map_or(0, |(given, _)| given.bytes.len() / given.sample_bytes);
        let samples = (0..samples)
            .map(|sample| {
                order.iter().map(|(given, wanted)| value(given, sample, *wanted)).collect()
            })
            .collect::<Result<_>>()?;
        let state = model.into_runnable()?.spawn()?;
        Ok(Tract { state, samples, selected: 0, outputs: tvec![] })
    }
}

/// By name; a model of one input may call it differently.
fn find<'a>(inputs: &'a [Input], index: usize, name: &str) -> Result<&'a Input> {
    let by_name = inputs.iter().find(|input| input.name == name);
    by_name.or(inputs.get(index)).with_context(|| format!("no input {name}"))
}

fn datum_type(numbers: &Numbers) -> DatumType {
    match numbers {
        Numbers::F32(_) => DatumType::F32,
        Numbers::I8(_) => DatumType::I8,
        Numbers::U8(_) => DatumType::U8,
        Numbers::I32(_) => DatumType::I32,
        Numbers::I64(_) => DatumType::I64,
    }
}

fn value(input: &Input, sample: usize, wanted: DatumType) -> Result<TValue> {
    let (range, shape) = (input.range(sample), &input.shape);
    let tensor = match &input.numbers {
        Numbers::F32(values) => Tensor::from_shape(shape, &values[range])?,
        // A quantized type is reached through the real numbers that the integers stand for.
        Numbers::I8(values) if wanted.is_quantized() => {
            let (zero_point, scale) = wanted.zp_scale();
            let real: Vec<f32> =
                values[range].iter().map(|&q| (i32::from(q) - zero_point) as f32 * scale).collect();
            Tensor::from_shape(shape, &real)?.cast_to_dt(wanted)?.into_owned()
        }
        Numbers::I8(values) => Tensor::from_shape(shape, &values[range])?,
        Numbers::U8(values) => Tensor::from_shape(shape, &values[range])?,
        Numbers::I32(values) => Tensor::from_shape(shape, &values[range])?,
        Numbers::I64(values) => Tensor::from_shape(shape, &values[range])?,
    };
    ensure!(tensor.datum_type() == wanted, "input {} is {wanted:?}", input.name);
    Ok(TValue::from(tensor))
}

impl Engine for Tract {
    fn select(&mut self, sample: usize) -> Result<()> {
        self.selected = sample;
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        self.outputs = self.state.run(self.samples[self.selected].clone())?;
        Ok(())
    }

    fn outputs(&mut self) -> Result<Vec<Output>> {
        self.outputs
            .iter()
            .map(|output| {
                let kind = output.datum_type();
                let scale = if kind.is_quantized() { kind.zp_scale().1 } else { 0.0 };
                let real = output.cast_to::<f32>()?;
                let values = real.try_as_plain_ram()?.as_slice::<f32>()?.to_vec();
                Ok(Output { shape: output.shape().to_vec(), values, scale })
            })
            .collect()
    }

    fn within(
        &mut self,
        body: &mut (dyn FnMut(&mut dyn Engine) -> Result<()> + Send),
    ) -> Result<()> {
        body(self)
    }
}
