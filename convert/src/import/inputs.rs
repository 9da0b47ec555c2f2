//! Dynamic dimensions of a model's inputs, and what the caller makes of them.

use super::builder::Builder;
use super::{DimChoice, ImportOptions};
use whit::DType;

use crate::dim::{Dim, Symbol};
use crate::error::{ImportError, UnspecifiedDim};
use crate::tensor::Tensor;

/// The largest size that a dimension can be given.
pub(crate) const MAX_DIM: i64 = 1 << 40;

/// An axis of an input as the model declares it.
pub(crate) enum Axis {
    Size(i64),
    /// Index into the list of dynamic dimensions.
    Dynamic(usize),
}

/// A dynamic dimension: all axes with one name.
pub(crate) struct Dynamic {
    pub name: String,
    pub named: bool,
    /// (input, axis) of each occurrence.
    pub places: Vec<(String, usize)>,
    pub choice: Option<DimChoice>,
    /// What it is when the caller chooses nothing.
    pub default: Option<DimChoice>,
}

/// An input as the model declares it.
pub(crate) struct Declared {
    pub name: String,
    pub axes: Vec<Axis>,
}

/// The sizes of the inputs' axes. `notes` gets a remark on what was chosen without being asked for.
pub(crate) fn sizes(
    builder: &mut Builder,
    inputs: &[Declared],
    mut dynamics: Vec<Dynamic>,
    options: &ImportOptions,
    notes: &mut Vec<String>,
) -> Result<Vec<Vec<Dim>>, ImportError> {
    name_the_unnamed(&mut dynamics);
    apply_choices(&mut dynamics, inputs, options)?;
    for (name, value) in &options.input_values {
        let Some(input) = inputs.iter().find(|i| i.name == *name) else { continue };
        for (axis, size) in input.axes.iter().zip(&value.shape) {
            if let (Axis::Dynamic(dynamic), Ok(size)) = (axis, i64::try_from(*size))
                && dynamics[*dynamic].choice.is_none()
            {
                dynamics[*dynamic].choice = Some(DimChoice::Fixed(size));
            }
        }
    }
    let dims = decide(builder, &dynamics, notes)?;

    let named = options.input_layouts.iter().map(|(name, _)| name);
    for name in named.chain(options.input_values.iter().map(|(name, _)| name)) {
        if !inputs.iter().any(|i| i.name == *name) {
            let names: Vec<&str> = inputs.iter().map(|i| i.name.as_str()).collect();
            return Err(ImportError::Input {
                input: name.clone(),
                problem: format!("no such input; the model has {}", names.join(", ")),
            });
        }
    }
    let size = |axis: &Axis| match axis {
        Axis::Size(size) => Dim::from(*size),
        Axis::Dynamic(index) => dims[*index].clone(),
    };
    Ok(inputs.iter().map(|input| input.axes.iter().map(size).collect()).collect())
}

/// `INPUT_AXIS`, made different from every other name.
fn name_the_unnamed(dynamics: &mut [Dynamic]) {
    for index in 0..dynamics.len() {
        if dynamics[index].named {
            continue;
        }
        let (input, axis) = &dynamics[index].places[0];
        let mut name = format!("{input}_{axis}");
        while dynamics.iter().any(|d| d.name == name) {
            name.push('_');
        }
        dynamics[index].name = name;
    }
}

fn apply_choices(
    dynamics: &mut [Dynamic],
    inputs: &[Declared],
    options: &ImportOptions,
) -> Result<(), ImportError> {
    for (name, choice) in &options.dims {
        let wrong = |problem: String| ImportError::DimChoice { name: name.clone(), problem };
        let (low, high) = match *choice {
            DimChoice::Fixed(size) => (size, size),
            DimChoice::Range(low, high) => (low, high),
        };
        if low < 1 || high < low || high > MAX_DIM {
            return Err(wrong(format!(
                "{low}..{high} is not a range of sizes from 1 to {MAX_DIM}"
            )));
        }
        let index = match dynamics.iter().position(|d| d.name == *name) {
            Some(index) => index,
            // INPUT:AXIS; the input's name may hold colons itself.
            None => {
                let place = name.rsplit_once(':').and_then(|(input, axis)| {
                    let input = inputs.iter().find(|i| i.name == input)?;
                    input.axes.get(axis.parse::<usize>().ok()?)
                });
                match place {
                    Some(Axis::Dynamic(index)) => *index,
                    Some(Axis::Size(size)) if low == *size && high == *size => continue,
                    Some(Axis::Size(size)) => {
                        return Err(wrong(format!("the model fixes this axis to {size}")));
                    }
                    None => {
                        let known = dynamics.iter().map(|d| d.name.clone()).collect();
                        return Err(ImportError::UnknownDim { name: name.clone(), known });
                    }
                }
            }
        };
        let choice = if low == high { DimChoice::Fixed(low) } else { DimChoice::Range(low, high) };
        if dynamics[index].choice.is_some_and(|earlier| earlier != choice) {
            return Err(wrong(format!("dimension `{}` is given twice", dynamics[index].name)));
        }
        dynamics[index].choice = Some(choice);
    }
    Ok(())
}

/// The size of each dynamic dimension: as chosen, 1 for a batch, and an error for the rest.
fn decide(
    builder: &mut Builder,
    dynamics: &[Dynamic],
    notes: &mut Vec<String>,
) -> Result<Vec<Dim>, ImportError> {
    let mut dims = Vec::new();
    let mut unspecified = Vec::new();
    for dynamic in dynamics {
        let Dynamic { name, places, choice, default, .. } = dynamic;
        let is_batch = places.iter().all(|(_, axis)| *axis == 0);
        dims.push(match choice.or(*default) {
            Some(DimChoice::Fixed(size)) => Dim::from(size),
            Some(DimChoice::Range(min, max)) => {
                let symbols = &mut builder.graph.symbols;
                let index =
                    u32::try_from(symbols.len()).expect("fewer symbols than bytes in the file");
                symbols.push(Symbol { name: name.clone(), min, max });
                Dim::symbol(index)
            }
            None => {
                if is_batch {
                    notes.push(format!("dimension `{name}` fixed to 1; choose with --dim"));
                } else {
                    let (input, axis) = &places[0];
                    let place = format!("axis {axis} of input `{input}`");
                    unspecified.push(UnspecifiedDim { name: name.clone(), place });
                }
                Dim::from(1i64)
            }
        });
    }
    match unspecified.is_empty() {
        true => Ok(dims),
        false => Err(ImportError::UnspecifiedDims(unspecified)),
    }
}

/// The value that the caller gave an input, in the type and shape that the model declares.
pub(crate) fn given(
    builder: &Builder,
    name: &str,
    dtype: DType,
    shape: &[Dim],
    value: &Tensor,
) -> Result<Tensor, ImportError> {
    let wrong = |problem: String| ImportError::Input { input: name.to_owned(), problem };
    let Some(mut tensor) = value.converted(dtype) else {
        return Err(wrong(format!(
            "the value given is of type {} and isn't exact in the model's {dtype}",
            value.dtype,
        )));
    };
    // A single number fits every shape of one element.
    if tensor.shape.is_empty() && shape.iter().all(|dim| dim.is(1)) {
        tensor = tensor.reshaped(vec![1; shape.len()]);
    }
    let fits = tensor.shape.len() == shape.len()
        && tensor.shape.iter().zip(shape).all(|(size, dim)| match dim.as_const() {
            Some(declared) => usize::try_from(declared) == Ok(*size),
            None => true,
        });
    if !fits {
        return Err(wrong(format!(
            "the value given has shape {:?}, the model declares {}",
            tensor.shape,
            builder.text(shape)
        )));
    }
    Ok(tensor)
}
