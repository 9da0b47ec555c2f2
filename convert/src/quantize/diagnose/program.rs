//! A program whose steps can be looked at and fed: which tensors they make, what they stand for.

use std::collections::{BTreeMap, BTreeSet};

use whit::format::{Field, NO_OPERAND, Op, UnaryAttributes, UnaryOp};
use whit::{DType, Model, Options, Session, Slot};

use crate::evaluate::{EvaluateError, Samples, describe, feed, to_reals};
use crate::quantize::limits;

/// A tensor that a step makes, or an input.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Made {
    /// Index of the tensor.
    pub(super) tensor: usize,
    /// The step; `None` for an input.
    pub(super) step: Option<usize>,
    /// Its name.
    pub(super) name: String,
    pub(super) dtype: DType,
    pub(super) scale: f32,
    pub(super) zero_point: i32,
    /// Elements at the largest dimensions.
    pub(super) elements: u64,
}

impl Made {
    /// Whether the elements are integers that stand for reals.
    pub(super) fn is_quantized(&self) -> bool {
        self.dtype != DType::F32 && self.scale != 0.0
    }

    /// The grid, of what is quantized.
    pub(super) fn grid(&self) -> Option<Grid> {
        self.is_quantized().then(|| Grid::new(self.dtype, self.scale, self.zero_point))
    }
}

/// Gets what a step made, by its index in `Steps::made`; what it returns replaces it.
pub(super) type Meet<'a> = dyn FnMut(usize, &Slot, &[f32]) -> Option<Vec<f32>> + 'a;

/// A model with what its steps make.
pub(super) struct Steps<'m> {
    pub(super) model: Model<'m>,
    /// Every input and every result of a step that holds reals.
    pub(super) made: Vec<Made>,
    /// Results of each step, as indices of `made`.
    by_step: Vec<Vec<usize>>,
    /// Inputs of the model, as indices of `made`.
    by_input: Vec<Option<usize>>,
}

impl<'m> Steps<'m> {
    pub(super) fn new(model: Model<'m>) -> Steps<'m> {
        let mut steps =
            Steps { model, made: Vec::new(), by_step: Vec::new(), by_input: Vec::new() };
        for tensor in model.inputs() {
            let at = steps.add(tensor, None);
            steps.by_input.push(at);
        }
        for (index, step) in model.steps().enumerate() {
            let outputs: Vec<u32> =
                model.operands(&step).skip(usize::from(step.input_count)).collect();
            let made = outputs
                .into_iter()
                .filter(|tensor| *tensor != NO_OPERAND)
                .filter_map(|tensor| steps.add(tensor as usize, Some(index)))
                .collect();
            steps.by_step.push(made);
        }
        steps
    }

    fn add(&mut self, tensor: usize, step: Option<usize>) -> Option<usize> {
        let record = self.model.tensor(tensor)?;
        let dtype = DType::from_number(record.dtype)?;
        let holds_reals = dtype == DType::F32
            || (record.scale != 0.0 && matches!(dtype, DType::I8 | DType::U8 | DType::I16));
        if !holds_reals {
            return None;
        }
        self.made.push(Made {
            tensor,
            step,
            name: self.model.text(record.name).to_owned(),
            dtype,
            scale: record.scale,
            zero_point: record.zero_point,
            elements: record.bytes / dtype.size() as u64,
        });
        Some(self.made.len() - 1)
    }

    /// What is made under a name, by names that only one result has; the names that several have.
    pub(super) fn by_name(&self) -> (BTreeMap<&str, usize>, BTreeSet<&str>) {
        let (mut once, mut often) = (BTreeMap::new(), BTreeSet::new());
        for (at, made) in self.made.iter().enumerate() {
            if once.insert(made.name.as_str(), at).is_some() {
                often.insert(made.name.as_str());
            }
        }
        once.retain(|name, _| !often.contains(name));
        (once, often)
    }

    /// The clamp (Relu or Clip) that alone reads a result, as the index of what it makes.
    pub(super) fn sole_clamp(&self, made: usize) -> Option<usize> {
        let tensor = self.made[made].tensor;
        let mut readers = self.model.steps().enumerate().filter(|(_, step)| {
            let inputs = self.model.operands(step).take(usize::from(step.input_count));
            inputs.into_iter().any(|input| input as usize == tensor)
        });
        let (index, step) = readers.next()?;
        if readers.next().is_some() || self.model.outputs().any(|output| output == tensor) {
            return None;
        }
        let kind = UnaryAttributes::read(self.model.attributes(&step)).kind;
        let clamps = [UnaryOp::Relu as u32, UnaryOp::Clip as u32].contains(&kind);
        let is_clamp = Op::from_number(step.op) == Some(Op::Unary) && clamps;
        is_clamp.then(|| self.by_step[index].first().copied()).flatten()
    }

    /// Whether all that reads a result of floats makes integers of it.
    pub(super) fn is_only_quantized(&self, made: usize) -> bool {
        let made = &self.made[made];
        if self.model.outputs().any(|output| output == made.tensor) {
            return false;
        }
        // A view of a tensor has its name.
        let of = |tensor: u32| {
            let record = self.model.tensor(tensor as usize);
            record.is_some_and(|record| self.model.text(record.name) == made.name)
        };
        let mut readers = self
            .model
            .steps()
            .filter(|step| self.model.operands(step).take(usize::from(step.input_count)).any(of));
        readers.all(|step| Op::from_number(step.op) == Some(Op::Quantize))
    }

    /// A session, its state reset.
    pub(super) fn session(&self) -> Result<Session<'m>, EvaluateError> {
        let mut session = Session::new(self.model, Options::default())
            .map_err(|error| EvaluateError::Invalid(describe(&self.model, error)))?;
        session.reset_state();
        Ok(session)
    }

    /// Runs a sample. `meet` gets every input and every result of a step as reals.
    pub(super) fn run(
        &self,
        session: &mut Session<'m>,
        samples: &dyn Samples,
        sample: usize,
        meet: &mut Meet<'_>,
    ) -> Result<(), EvaluateError> {
        let mut reals = Vec::new();
        feed(session, samples, sample)?;
        for (input, made) in self.by_input.iter().enumerate() {
            let Some(made) = *made else { continue };
            let failed = |e: whit::SessionError| EvaluateError::Invalid(e.to_string());
            let slot = session.input_slot(input).map_err(failed)?;
            let bytes = crate::evaluate::input_bytes(session, input)?;
            to_reals(slot.dtype(), slot.scale(), slot.zero_point(), &bytes, &mut reals);
            if let Some(other) = meet(made, &slot, &reals) {
                session.set_input_f32(input, &other).map_err(failed)?;
            }
        }
        let mut bad = None;
        session
            .run_probed(|step, memory| {
                for made in &self.by_step[step] {
                    let Some((slot, bytes)) = memory.tensor_mut(self.made[*made].tensor) else {
                        continue;
                    };
                    to_reals(slot.dtype(), slot.scale(), slot.zero_point(), bytes, &mut reals);
                    if bad.is_none() && reals.iter().any(|real| !real.is_finite()) {
                        bad = Some(*made);
                    }
                    if let Some(other) = meet(*made, &slot, &reals) {
                        write_reals(&slot, &other, bytes);
                    }
                }
            })
            .map_err(|error| EvaluateError::Run { sample, why: describe(&self.model, error) })?;
        match bad {
            None => Ok(()),
            Some(made) => Err(EvaluateError::Sample(format!(
                "sample {sample} gives a value that isn't finite in `{}`: remove or repair the sample",
                self.made[made].name
            ))),
        }
    }
}

/// The integers that stand for reals, and the reals that they stand for.
#[derive(Clone, Copy, Debug, PartialEq)]
pub(super) struct Grid {
    scale: f64,
    zero_point: f64,
    low: f64,
    high: f64,
}

impl Grid {
    pub(super) fn new(dtype: DType, scale: f32, zero_point: i32) -> Grid {
        let [low, high] = match dtype {
            DType::U8 => [0, 255],
            dtype => limits(dtype),
        };
        Grid {
            scale: f64::from(scale),
            zero_point: f64::from(zero_point),
            low: f64::from(low),
            high: f64::from(high),
        }
    }

    pub(super) fn step(&self) -> f64 {
        self.scale
    }

    /// Number of integers.
    pub(super) fn levels(&self) -> f64 {
        self.high - self.low + 1.0
    }

    /// The smallest and the largest real.
    pub(super) fn ends(&self) -> [f64; 2] {
        [self.scale * (self.low - self.zero_point), self.scale * (self.high - self.zero_point)]
    }

    pub(super) fn integer(&self, real: f32) -> f64 {
        let q = (f64::from(real) / self.scale).round_ties_even() + self.zero_point;
        q.clamp(self.low, self.high)
    }

    /// The nearest real on the grid.
    pub(super) fn nearest(&self, real: f32) -> f32 {
        ((self.integer(real) - self.zero_point) as f32) * self.scale as f32
    }
}

/// Writes reals into a tensor, as its integers when it has a scale.
fn write_reals(slot: &Slot, reals: &[f32], bytes: &mut [u8]) {
    let grid = Grid::new(slot.dtype(), slot.scale(), slot.zero_point());
    match slot.dtype() {
        DType::F32 => {
            for (to, real) in bytes.chunks_exact_mut(4).zip(reals) {
                to.copy_from_slice(&real.to_le_bytes());
            }
        }
        DType::I16 => {
            for (to, real) in bytes.chunks_exact_mut(2).zip(reals) {
                to.copy_from_slice(&(grid.integer(*real) as i16).to_le_bytes());
            }
        }
        DType::U8 => {
            for (to, real) in bytes.iter_mut().zip(reals) {
                *to = grid.integer(*real) as u8;
            }
        }
        _ => {
            for (to, real) in bytes.iter_mut().zip(reals) {
                *to = grid.integer(*real) as i8 as u8;
            }
        }
    }
}
