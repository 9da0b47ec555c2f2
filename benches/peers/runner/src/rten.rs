//! rten, on ONNX files, with weights packed when the model is loaded.

use std::sync::Arc;

use anyhow::{Context, Result, bail};
use rten::{Model, ModelOptions, NodeId, RunOptions, ThreadPool, Value, ValueOrView, ValueView};
use rten_tensor::prelude::*;

use crate::Engine;
use crate::job::{Input, Numbers, Output};

pub(crate) struct Rten {
    model: Model,
    pool: Arc<ThreadPool>,
    outputs: Vec<NodeId>,
    inputs: Vec<(NodeId, Input)>,
    sample: usize,
    values: Vec<Value>,
}

impl Rten {
    pub(crate) fn new(path: &str, threads: usize, inputs: Vec<Input>) -> Result<Rten> {
        let pool = Arc::new(ThreadPool::with_num_threads(threads));
        let model = ModelOptions::with_all_ops().prepack_weights(true).load_file(path)?;
        let mut bound = Vec::new();
        for (index, input) in inputs.into_iter().enumerate() {
            let node = match model.find_node(&input.name) {
                Some(node) => node,
                None => *model
                    .input_ids()
                    .get(index)
                    .with_context(|| format!("no input {}", input.name))?,
            };
            bound.push((node, narrow(input)));
        }
        let outputs = model.output_ids().to_vec();
        Ok(Rten { model, pool, outputs, inputs: bound, sample: 0, values: Vec::new() })
    }
}

/// rten holds 64-bit integers in 32 bits.
fn narrow(mut input: Input) -> Input {
    if let Numbers::I64(values) = &input.numbers {
        input.numbers = Numbers::I32(values.iter().map(|&value| value as i32).collect());
    }
    input
}

fn view(input: &Input, sample: usize) -> Result<ValueView<'_>> {
    let (range, shape) = (input.range(sample), &input.shape);
    let wrong = |error| anyhow::anyhow!("input {}: {error}", input.name);
    match &input.numbers {
        Numbers::F32(values) => {
            ValueView::from_shape(shape, &values[range]).map_err(|e| wrong(e.to_string()))
        }
        Numbers::I32(values) => {
            ValueView::from_shape(shape, &values[range]).map_err(|e| wrong(e.to_string()))
        }
        Numbers::I8(values) => {
            ValueView::from_shape(shape, &values[range]).map_err(|e| wrong(e.to_string()))
        }
        Numbers::U8(values) => {
            ValueView::from_shape(shape, &values[range]).map_err(|e| wrong(e.to_string()))
        }
        Numbers::I64(_) => bail!("input {} has 64-bit integers", input.name),
    }
}

impl Engine for Rten {
    fn select(&mut self, sample: usize) -> Result<()> {
        self.sample = sample;
        Ok(())
    }

    fn run(&mut self) -> Result<()> {
        let mut inputs: Vec<(NodeId, ValueOrView<'_>)> = Vec::with_capacity(self.inputs.len());
        for (node, input) in &self.inputs {
            inputs.push((*node, view(input, self.sample)?.into()));
        }
        let options = RunOptions::default().with_thread_pool(Some(self.pool.clone()));
        self.values = self.model.run(inputs, &self.outputs, Some(options))?;
        Ok(())
    }

    fn outputs(&mut self) -> Result<Vec<Output>> {
        self.values
            .iter()
            .map(|value| {
                let (shape, values) = match value {
                    Value::FloatTensor(tensor) => {
                        (tensor.shape().to_vec(), tensor.iter().copied().collect())
                    }
                    Value::Int32Tensor(tensor) => (
                        tensor.shape().to_vec(),
                        tensor.iter().map(|&value| value as f32).collect(),
                    ),
                    _ => bail!("an output of this type is not compared"),
                };
                Ok(Output { shape, values, scale: 0.0 })
            })
            .collect()
    }

    fn within(
        &mut self,
        body: &mut (dyn FnMut(&mut dyn Engine) -> Result<()> + Send),
    ) -> Result<()> {
        let pool = self.pool.clone();
        pool.run(|| body(self))
    }
}
