//! Inputs of the model: their types, shapes, and layouts.

use super::builder::MAX_RANK;
use super::failure::Failure;
use super::node::OnnxNode;
use super::proto::{ValueInfoProto, data_type};
use super::tensor::dtype_of;
use super::{Attributes, Import, Slot};
use crate::dim::Dim;
use crate::error::ImportError;
use crate::import::inputs::{Axis, Declared, Dynamic, MAX_DIM, given, sizes};
use crate::import::{ImportOptions, InputLayout};
use crate::tensor::Tensor;

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
    let mut declared: Vec<Declared> = Vec::new();
    for input in &inputs {
        let name = input.name().to_owned();
        declared.push(Declared { name, axes: axes(input, &mut dynamics)? });
    }
    let mut notes = Vec::new();
    let shapes = sizes(&mut import.builder, &declared, dynamics, options, &mut notes)?;
    for note in notes {
        import.note(note);
    }
    for (input, shape) in inputs.iter().zip(shapes) {
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
                    default: None,
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
                        default: None,
                    });
                    Axis::Dynamic(dynamics.len() - 1)
                }
            },
        });
    }
    Ok(axes)
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
    let tensor = given(&import.builder, name, dtype, shape, value)?;
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
