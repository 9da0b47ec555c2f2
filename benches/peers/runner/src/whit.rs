//! Whit, on a file that `whit convert` made.

use anyhow::{Result, bail};
use whit::{DType, ModelFile, Options, Session};

use crate::Engine;
use crate::job::{Input, Numbers, Output};

pub(crate) struct Whit<'a> {
    session: Session<'a>,
    inputs: &'a [Input],
    sample: usize,
}

impl<'a> Whit<'a> {
    pub(crate) fn new(
        file: &'a ModelFile,
        threads: usize,
        inputs: &'a [Input],
    ) -> Result<Whit<'a>> {
        let model = file.model()?;
        let session = Session::new(model, Options { threads, ..Options::default() })?;
        Ok(Whit { session, inputs, sample: 0 })
    }
}

impl Engine for Whit<'_> {
    fn select(&mut self, sample: usize) -> Result<()> {
        self.sample = sample;
        self.session.reset_state();
        Ok(())
    }

    /// Copies the inputs in: their place in the arena may serve other tensors later in a run. Peers keep theirs.
    fn run(&mut self) -> Result<()> {
        for (index, input) in self.inputs.iter().enumerate() {
            match &input.numbers {
                // Converted from a model that begins by quantizing its input: the session does that here.
                Numbers::F32(values) => {
                    self.session.set_input_f32(index, &values[input.range(self.sample)])?
                }
                _ => self.session.set_input_bytes(index, input.sample_bytes(self.sample))?,
            }
        }
        Ok(self.session.run()?)
    }

    fn outputs(&mut self) -> Result<Vec<Output>> {
        let count = self.session.model().outputs().len();
        (0..count)
            .map(|index| {
                let slot = self.session.output_slot(index)?;
                let real = |q: f32| (q - slot.zero_point() as f32) * slot.scale();
                let (values, scale) = match slot.dtype() {
                    DType::F32 => (self.session.output::<f32>(index)?.to_vec(), 0.0),
                    DType::I8 => {
                        let values = self.session.output::<i8>(index)?;
                        (values.iter().map(|&q| real(f32::from(q))).collect(), slot.scale())
                    }
                    DType::U8 => {
                        let values = self.session.output::<u8>(index)?;
                        (values.iter().map(|&q| real(f32::from(q))).collect(), slot.scale())
                    }
                    other => bail!("an output of type {} is not compared", other.name()),
                };
                let shape = slot.dims().iter().map(|&dim| dim as usize).collect();
                Ok(Output { shape, values, scale })
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
