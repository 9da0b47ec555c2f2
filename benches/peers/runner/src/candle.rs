//! candle, on ONNX files, through candle-onnx's evaluator.
//!
//! The evaluator decodes the model's constants in every run. Here they are decoded once and given to it as further
//! inputs, which it doesn't mind: how a model written in candle would hold them.

use std::collections::HashMap;

use anyhow::{Context, Result};
use candle_core::{DType, Device, Tensor};
use candle_onnx::eval::get_tensor;
use candle_onnx::onnx::ModelProto;

use crate::Engine;
use crate::job::{Input, Numbers, Output};

pub(crate) struct Candle {
    model: ModelProto,
    names: Vec<String>,
    /// Constants and, by sample, the inputs.
    constants: HashMap<String, Tensor>,
    samples: Vec<Vec<(String, Tensor)>>,
    selected: usize,
    values: HashMap<String, Tensor>,
}

impl Candle {
    pub(crate) fn new(path: &str, inputs: Vec<Input>) -> Result<Candle> {
        let mut model = candle_onnx::read_file(path)?;
        let graph = model.graph.as_mut().context("no graph")?;
        let mut constants = HashMap::new();
        for tensor in std::mem::take(&mut graph.initializer) {
            constants.insert(tensor.name.clone(), get_tensor(&tensor, &tensor.name)?);
        }
        let mut nodes = std::mem::take(&mut graph.node);
        for node in nodes.extract_if(.., |node| node.op_type == "Constant") {
            let value = node.attribute.iter().find(|attribute| attribute.name == "value");
            let tensor = value
                .and_then(|attribute| attribute.t.as_ref())
                .context("a Constant without `value`")?;
            constants.insert(node.output[0].clone(), get_tensor(tensor, &node.name)?);
        }
        graph.node = nodes;
        graph.input.retain(|input| !constants.contains_key(&input.name));
        let names: Vec<String> = graph.output.iter().map(|output| output.name.clone()).collect();
        let mut named = Vec::new();
        for (index, input) in inputs.into_iter().enumerate() {
            let known = graph.input.iter().any(|wanted| wanted.name == input.name);
            let wanted = graph.input.get(index).context("too many inputs")?;
            named.push((if known { input.name.clone() } else { wanted.name.clone() }, input));
        }
        let samples = named.first().map_or(0, |(_, input)| input.bytes.len() / input.sample_bytes);
        let samples = (0..samples)
            .map(|sample| {
                named
                    .iter()
                    .map(|(name, input)| Ok((name.clone(), tensor(input, sample)?)))
                    .collect()
            })
            .collect::<Result<_>>()?;
        Ok(Candle { model, names, constants, samples, selected: 0, values: HashMap::new() })
    }
}

fn tensor(input: &Input, sample: usize) -> Result<Tensor> {
    let (range, shape, device) = (input.range(sample), input.shape.as_slice(), &Device::Cpu);
    let tensor = match &input.numbers {
        Numbers::F32(values) => Tensor::from_slice(&values[range], shape, device)?,
        Numbers::U8(values) => Tensor::from_slice(&values[range], shape, device)?,
        Numbers::I64(values) => Tensor::from_slice(&values[range], shape, device)?,
        Numbers::I32(values) => Tensor::from_slice(&values[range], shape, device)?,
        Numbers::I8(_) => anyhow::bail!("candle has no i8"),
    };
    Ok(tensor)
}

impl Engine for Candle {
    fn select(&mut self, sample: usize) -> Result<()> {
        self.selected = sample;
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        let mut values = self.constants.clone();
        values.extend(self.samples[self.selected].iter().cloned());
        self.values = candle_onnx::simple_eval(&self.model, values)?;
        Ok(())
    }

    fn outputs(&mut self) -> Result<Vec<Output>> {
        self.names
            .iter()
            .map(|name| {
                let output = self.values.get(name).with_context(|| format!("no output {name}"))?;
                let real = output.to_dtype(DType::F32)?;
                Ok(Output {
                    shape: real.dims().to_vec(),
                    values: real.flatten_all()?.to_vec1()?,
                    scale: 0.0,
                })
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
