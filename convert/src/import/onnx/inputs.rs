//! Inputs of the model: their types, and what becomes of their dynamic dimensions.

use super::builder::OnnxNode;
use super::failure::Failure;
use super::proto::{ValueInfoProto, data_type};
use super::tensor::{MAX_RANK, dtype_of};
use super::{Attributes, Import, Slot};
use crate::dim::{Dim, Symbol};
use crate::error::{ImportError, UnspecifiedDim};
use crate::import::{DimChoice, ImportOptions, InputLayout};
use crate::tensor::Tensor;

/// The largest size that a dimension can be given.
const MAX_DIM: i64 = 1 << 40;

/// An axis of an input as the model declares it.
enum Axis {
    Size(i64),
    /// Index into the list of dynamic dimensions.
    Dynamic(usize),
}

/// A dynamic dimension: all axes with one name.
struct Dynamic {
    name: String,
    named: bool,
    /// (input, axis) of each occurrence.
    places: Vec<(String, usize)>,
    choice: Option<DimChoice>,
}

/// Adds the inputs of the model to the graph.
pub(super) fn add<'a>(import: &mut Import<'a>, options: &ImportOptions) -> Result<(), ImportError> {
    let graph = import.graph;
    // Up to IR version 3, initializers are listed among the inputs.
    let inputs: Vec<&'a ValueInfoProto> = graph
        .input
        .iter()
        .filter(|i| !import.scope.body.initializers.contains_key(i.name()))
        .collect();

    let mut dynamics: Vec<Dynamic> = Vec::new();
    let mut shapes: Vec<Vec<Axis>> = Vec::new();
    for input in &inputs {
        shapes.push(axes(input, &mut dynamics)?);
    }
    name_the_unnamed(&mut dynamics);
    apply_choices(&mut dynamics, &inputs, &shapes, options)?;
    for (name, value) in &options.input_values {
        let Some(index) = inputs.iter().position(|i| i.name() == name) else { continue };
        for (axis, size) in shapes[index].iter().zip(&value.shape) {
            if let (Axis::Dynamic(dynamic), Ok(size)) = (axis, i64::try_from(*size))
                && dynamics[*dynamic].choice.is_none()
            {
                dynamics[*dynamic].choice = Some(DimChoice::Fixed(size));
            }
        }
    }
    let dims = decide(import, &dynamics)?;

    let named = options.input_layouts.iter().map(|(name, _)| name);
    for name in named.chain(options.input_values.iter().map(|(name, _)| name)) {
        if !inputs.iter().any(|i| i.name() == name) {
            let names: Vec<&str> = inputs.iter().map(|i| i.name()).collect();
            return Err(ImportError::Input {
                input: name.clone(),
                problem: format!("no such input; the model has {}", names.join(", ")),
            });
        }
    }
    for (input, axes) in inputs.iter().zip(shapes) {
        let shape: Vec<Dim> = axes
            .iter()
            .map(|axis| match axis {
                Axis::Size(size) => Dim::from(*size),
                Axis::Dynamic(index) => dims[*index].clone(),
            })
            .collect();
        if let Some((_, value)) = options.input_values.iter().find(|(n, _)| n == input.name()) {
            set_input(import, input, &shape, value)?;
            continue;
        }
        let layout = options.input_layouts.iter().find(|(name, _)| name == input.name());
        add_input(import, input, shape, layout.is_some_and(|(_, l)| *l == InputLayout::Nhwc))?;
    }
    Ok(())
}

fn axes(input: &ValueInfoProto, dynamics: &mut Vec<Dynamic>) -> Result<Vec<Axis>, ImportError> {
    let name = input.name();
    let wrong = |problem: String| ImportError::Input { input: name.to_owned(), problem };
    let Some(tensor) = input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()) else {
        return Err(wrong("it is not a tensor".to_owned()));
    };
    let Some(shape) = &tensor.shape else {
        return Err(wrong("its rank is not declared; export the model with shapes".to_owned()));
    };
    if shape.dim.len() > MAX_RANK {
        return Err(wrong(format!(
            "it has {} axes; at most {MAX_RANK} are supported",
            shape.dim.len()
        )));
    }
    let mut axes = Vec::new();
    for (axis, dim) in shape.dim.iter().enumerate() {
        let place = (name.to_owned(), axis);
        axes.push(match (dim.dim_value.filter(|v| *v > 0), dim.dim_param()) {
            (Some(size), _) if size <= MAX_DIM => Axis::Size(size),
            (Some(size), _) => return Err(wrong(format!("axis {axis} has size {size}"))),
            // A size of 0 or -1 is how some exporters say that they don't know.
            (None, "") => {
                dynamics.push(Dynamic {
                    name: String::new(),
                    named: false,
                    places: vec![place],
                    choice: None,
                });
                Axis::Dynamic(dynamics.len() - 1)
            }
            (None, symbol) => match dynamics.iter().position(|d| d.named && d.name == symbol) {
                Some(index) => {
                    dynamics[index].places.push(place);
                    Axis::Dynamic(index)
                }
                None => {
                    dynamics.push(Dynamic {
                        name: symbol.to_owned(),
                        named: true,
                        places: vec![place],
                        choice: None,
                    });
                    Axis::Dynamic(dynamics.len() - 1)
                }
            },
        });
    }
    Ok(axes)
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
    inputs: &[&ValueInfoProto],
    shapes: &[Vec<Axis>],
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
                    let input = inputs.iter().position(|i| i.name() == input)?;
                    shapes[input].get(axis.parse::<usize>().ok()?)
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
fn decide(import: &mut Import<'_>, dynamics: &[Dynamic]) -> Result<Vec<Dim>, ImportError> {
    let mut dims = Vec::new();
    let mut unspecified = Vec::new();
    for dynamic in dynamics {
        let Dynamic { name, places, choice, .. } = dynamic;
        let is_batch = places.iter().all(|(_, axis)| *axis == 0);
        dims.push(match choice {
            Some(DimChoice::Fixed(size)) => Dim::from(*size),
            Some(DimChoice::Range(min, max)) => {
                let symbols = &mut import.builder.graph.symbols;
                let index =
                    u32::try_from(symbols.len()).expect("fewer symbols than bytes in the file");
                symbols.push(Symbol { name: name.clone(), min: *min, max: *max });
                Dim::symbol(index)
            }
            None => {
                if is_batch {
                    import.note(format!("dimension `{name}` fixed to 1; choose with --dim"));
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

/// An input with a value that the caller gave: a constant.
fn set_input<'a>(
    import: &mut Import<'a>,
    input: &'a ValueInfoProto,
    shape: &[Dim],
    value: &Tensor,
) -> Result<(), ImportError> {
    let name = input.name();
    let wrong = |problem: String| ImportError::Input { input: name.to_owned(), problem };
    let declared =
        input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()).map_or(0, |t| t.elem_type());
    let Some(dtype) = dtype_of(declared) else {
        return Err(wrong(format!("element type {} is not supported", data_type::name(declared))));
    };
    let Some(mut tensor) = value.converted(dtype) else {
        return Err(wrong(format!(
            "the value given is of type {} and isn't exact in the model's {}",
            value.dtype,
            data_type::name(declared)
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
            import.builder.text(shape)
        )));
    }
    import.note(format!("input `{name}` fixed to the value given"));
    let id = import.builder.constant(name.to_owned(), tensor);
    import.builder.set_onnx_type(id, declared);
    match import.scope.values.insert(name, Slot::Value(id)) {
        Some(_) => Err(ImportError::Model(format!("input `{name}` occurs twice"))),
        None => Ok(()),
    }
}

fn add_input<'a>(
    import: &mut Import<'a>,
    input: &'a ValueInfoProto,
    shape: Vec<Dim>,
    channels_last: bool,
) -> Result<(), ImportError> {
    let name = input.name();
    let wrong = |problem: String| ImportError::Input { input: name.to_owned(), problem };
    let elem_type =
        input.r#type.as_ref().and_then(|t| t.tensor_type.as_ref()).map_or(0, |t| t.elem_type());
    let Some(dtype) = dtype_of(elem_type) else {
        return Err(wrong(format!("element type {} is not supported", data_type::name(elem_type))));
    };
    import.note_type(elem_type);
    let rank = shape.len();
    let fail = |failure: Failure| match failure {
        Failure::Unsupported { reason, .. } | Failure::Invalid(reason) => wrong(reason),
    };
    let id = if channels_last {
        if !(3..=4).contains(&rank) {
            return Err(wrong(format!("it has {rank} axes; only 3 or 4 can be channels last")));
        }
        let mut last: Vec<Dim> = shape.clone();
        last.remove(1);
        last.push(shape[1].clone());
        let id = import.builder.value(name.to_owned(), dtype, last).map_err(fail)?;
        import.builder.graph.inputs.push(id);
        let node = OnnxNode {
            name: format!("{name}/to_nchw"),
            inputs: vec![Some(id)],
            outputs: &[],
            attributes: Attributes::new(&[]),
            opset: import.scope.opset,
        };
        let perm = if rank == 4 { vec![0, 3, 1, 2] } else { vec![0, 2, 1] };
        import.builder.transpose(&node, "", id, &perm).map_err(fail)?
    } else {
        let id = import.builder.value(name.to_owned(), dtype, shape).map_err(fail)?;
        import.builder.graph.inputs.push(id);
        id
    };
    import.builder.set_onnx_type(id, elem_type);
    if import.scope.values.insert(name, Slot::Value(id)).is_some() {
        return Err(ImportError::Model(format!("input `{name}` occurs twice")));
    }
    Ok(())
}
