//! Sequences of tensors and optional tensors, followed at import: what they hold is known by its
//! place, so nothing of them is left in the graph.

use whit::DType;

use super::builder::{Builder, Outcome};
use super::compose::Compose;
use super::data::axis_of;
use super::failure::{FIX_THE_DIM, Failure, invalid, unsupported};
use super::node::OnnxNode;
use super::proto::data_type;
use super::shapes::{Elem, Known};
use super::tensor::dtype_of;
use crate::dim::Dim;
use crate::graph::ValueId;

pub(super) const OPERATORS: &[(&str, super::Importer)] = &[
    ("SequenceConstruct", construct),
    ("SequenceEmpty", empty),
    ("SequenceAt", at),
    ("SequenceInsert", insert),
    ("SequenceErase", erase),
    ("SequenceLength", length),
    ("SplitToSequence", split),
    ("ConcatFromSequence", concat),
    ("Optional", optional),
    ("OptionalHasElement", has_element),
    ("OptionalGetElement", element),
];

/// Whether an operator takes sequences.
pub(super) fn takes_sequences(op_type: &str) -> bool {
    op_type == "Identity" || OPERATORS.iter().any(|(name, _)| *name == op_type)
}

/// Tensors in a sequence: lists of layers or time steps.
const MAX_LENGTH: usize = 1 << 14;

fn made(b: &mut Builder, node: &OnnxNode<'_>, elements: Vec<ValueId>) -> Outcome {
    if elements.len() > MAX_LENGTH {
        return Err(unsupported(format!("a sequence of {} tensors", elements.len()), ""));
    }
    if let Some(first) = elements.first() {
        let dtype = b.dtype(*first);
        if elements.iter().any(|id| b.dtype(*id) != dtype || b.sequence(*id).is_some()) {
            return Err(invalid("elements of different types"));
        }
    }
    Ok(vec![b.add_sequence(node.name.clone(), elements)?])
}

fn sequence(b: &Builder, node: &OnnxNode<'_>) -> Result<Vec<ValueId>, Failure> {
    let id = node.required(0, "the sequence")?;
    let elements = b.sequence(id).ok_or_else(|| invalid("the first input is not a sequence"))?;
    Ok(elements.to_vec())
}

fn tensor(b: &Builder, node: &OnnxNode<'_>, index: usize, what: &str) -> Result<ValueId, Failure> {
    let id = node.required(index, what)?;
    match b.sequence(id) {
        None => Ok(id),
        Some(_) => Err(invalid(format!("input #{index} ({what}) is a sequence"))),
    }
}

/// A position that may count from the end; `last` is the largest one.
fn position(b: &Builder, id: ValueId, length: usize, last: usize) -> Result<usize, Failure> {
    let position = b.int(id, "the position")?;
    let counted = if position < 0 {
        usize::try_from(position.unsigned_abs()).ok().and_then(|back| length.checked_sub(back))
    } else {
        usize::try_from(position).ok()
    };
    let counted = counted.filter(|counted| *counted <= last && *counted <= length);
    counted.ok_or_else(|| invalid(format!("position {position} in a sequence of {length}")))
}

fn construct(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    let elements = (0..node.inputs.len()).map(|index| tensor(b, node, index, "an element"));
    let elements = elements.collect::<Result<Vec<_>, _>>()?;
    made(b, node, elements)
}

fn empty(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(0)?;
    let onnx = node.attributes.int("dtype", i64::from(data_type::FLOAT))?;
    let onnx = i32::try_from(onnx).unwrap_or(0);
    match dtype_of(onnx) {
        Some(_) => made(b, node, Vec::new()),
        None => Err(unsupported(format!("a sequence of {}", data_type::name(onnx)), "")),
    }
}

fn at(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(2)?;
    let elements = sequence(b, node)?;
    let last = elements.len().checked_sub(1).ok_or_else(|| invalid("the sequence is empty"))?;
    let at = position(b, node.required(1, "position")?, elements.len(), last)?;
    Ok(vec![elements[at]])
}

fn insert(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(3)?;
    let mut elements = sequence(b, node)?;
    let new = tensor(b, node, 1, "tensor")?;
    let length = elements.len();
    let at = match node.input(2) {
        Some(id) => position(b, id, length, length)?,
        None => length,
    };
    elements.insert(at, new);
    made(b, node, elements)
}

fn erase(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(2)?;
    let mut elements = sequence(b, node)?;
    let last = elements.len().checked_sub(1).ok_or_else(|| invalid("the sequence is empty"))?;
    let at = match node.input(1) {
        Some(id) => position(b, id, elements.len(), last)?,
        None => last,
    };
    elements.remove(at);
    made(b, node, elements)
}

fn length(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(1)?;
    let length = Dim::from(sequence(b, node)?.len());
    let known = Known { shape: Vec::new(), elems: vec![Elem::Int(length)] };
    Ok(vec![b.virtual_value(node.name.clone(), DType::I64, known)?])
}

fn split(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(2)?;
    let x = tensor(b, node, 0, "input")?;
    let shape = b.shape(x);
    let axis = axis_of(node.attributes.int("axis", 0)?, shape.len())?;
    let keeps_axis = node.attributes.flag("keepdims", true)? || node.input(1).is_some();
    let total = shape[axis].as_const().ok_or_else(|| {
        let total = shape[axis].display(&b.graph.symbols);
        unsupported(format!("{total} elements in as many tensors"), FIX_THE_DIM)
    })?;
    let parts = |total: i64, each: i64| -> Result<Vec<i64>, Failure> {
        if each < 1 || total / each > MAX_LENGTH as i64 {
            return Err(unsupported(format!("{total} elements in parts of {each}"), ""));
        }
        let mut sizes = vec![each; (total / each) as usize];
        sizes.extend((total % each != 0).then_some(total % each));
        Ok(sizes)
    };
    let sizes = match node.input(1) {
        None => parts(total, 1)?,
        Some(id) => {
            let stated = b.ints(id, "split")?;
            match (b.rank(id), &stated[..]) {
                (0, [each]) => parts(total, *each)?,
                _ => stated,
            }
        }
    };
    let sum = sizes.iter().try_fold(0i64, |sum, size| sum.checked_add(*size));
    if sizes.iter().any(|size| *size < 1) || sum != Some(total) || sizes.len() > MAX_LENGTH {
        return Err(invalid(format!("{total} elements in {} parts", sizes.len())));
    }
    // A value, a node and its attributes per part.
    b.charge(sizes.len() * 512)?;
    let mut elements = Vec::with_capacity(sizes.len());
    let mut start = 0;
    for (index, size) in sizes.iter().enumerate() {
        let (first, len) = (Dim::from(start), Dim::from(*size));
        let mut y = b.slice(node, &index.to_string(), x, axis, &first, &len)?;
        if !keeps_axis {
            let mut part = shape.clone();
            part.remove(axis);
            y = b.reshape(node, &format!("{index}/narrow"), y, part)?;
        }
        elements.push(y);
        start += size;
    }
    made(b, node, elements)
}

fn concat(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(1)?;
    let mut elements = sequence(b, node)?;
    let axis = node.attributes.required_int("axis")?;
    let stacks = node.attributes.flag("new_axis", false)?;
    let first = *elements.first().ok_or_else(|| invalid("the sequence is empty"))?;
    let axis = axis_of(axis, b.rank(first) + usize::from(stacks))?;
    if stacks {
        for (index, id) in elements.iter_mut().enumerate() {
            let mut shape = b.shape(*id);
            if axis > shape.len() {
                return Err(invalid("elements of different ranks"));
            }
            shape.insert(axis, Dim::from(1i64));
            *id = b.reshape(node, &format!("{index}"), *id, shape)?;
        }
    }
    Ok(vec![Compose::new(b, node).main().concat(&elements, axis)?])
}

/// One that holds something; an empty one has nothing that could be followed.
fn optional(_: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(1)?;
    node.attributes.ignore("type");
    match node.input(0) {
        Some(id) => Ok(vec![id]),
        None => Err(unsupported("an optional without an element", "leave the input away")),
    }
}

fn has_element(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(1)?;
    let has = node.input(0).is_some();
    let known = Known { shape: Vec::new(), elems: vec![Elem::Int(Dim::from(i64::from(has)))] };
    Ok(vec![b.virtual_value(node.name.clone(), DType::Bool, known)?])
}

fn element(_: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(1)?;
    Ok(vec![node.required(0, "input")?])
}
