//! Parameters of a model by name, wherever they are stored.

use crate::error::ImportError;
use crate::graph::Groups;
use crate::tensor::Tensor;

/// A parameter as it is stored.
#[derive(Clone, Debug)]
pub(crate) struct Weight {
    /// f32, f16 or bf16 in PyTorch's order, a linear layer's `[outputs, inputs]`; with groups i8.
    pub(crate) tensor: Tensor,
    /// How the integers of a block-quantized parameter stand for reals.
    pub(crate) groups: Option<Groups>,
}

impl Weight {
    /// The parameter as f32, `[outputs, inputs]` for one in groups.
    pub(crate) fn real(&self) -> Tensor {
        let mut values = self.tensor.to_f32();
        if let (Some(groups), [.., inputs]) = (&self.groups, self.tensor.shape.as_slice()) {
            let per_row = inputs.div_ceil(groups.size);
            for (row, values) in values.chunks_mut(*inputs).enumerate() {
                for (index, value) in values.iter_mut().enumerate() {
                    let group = row * per_row + index / groups.size;
                    *value *= groups.scale[group];
                    if let Some(min) = &groups.min {
                        *value += min[group];
                    }
                }
            }
        }
        Tensor::from_f32(self.tensor.shape.clone(), &values)
    }
}

impl From<Tensor> for Weight {
    fn from(tensor: Tensor) -> Weight {
        Weight { tensor, groups: None }
    }
}

/// Parameters under the names that Hugging Face's implementation of the architecture gives them.
pub(crate) trait Weights {
    /// What error messages call the file.
    fn source(&self) -> &str;

    /// Bytes of the file: bounds what the import may allocate.
    fn bytes(&self) -> usize;

    /// The shape of a parameter; `None` when there is none of this name.
    fn shape(&self, name: &str) -> Option<Vec<usize>>;

    /// A parameter that [`Weights::shape`] knows.
    fn tensor(&self, name: &str) -> Result<Weight, ImportError>;
}

/// A parameter of a given shape.
///
/// # Errors
/// [`ImportError::Tensor`] when there is none of this name or it has another shape.
pub(crate) fn expect(
    weights: &dyn Weights,
    name: &str,
    shape: &[usize],
) -> Result<Weight, ImportError> {
    let wrong = |problem: String| ImportError::Tensor { name: name.to_owned(), problem };
    let source = weights.source();
    match weights.shape(name) {
        None => Err(wrong(format!("{source} has no parameter of this name, of shape {shape:?}"))),
        Some(found) if found != shape => Err(wrong(format!(
            "it has shape {found:?} in {source} where the configuration wants {shape:?}"
        ))),
        Some(_) => weights.tensor(name),
    }
}
