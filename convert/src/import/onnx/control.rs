//! Control flow, decided while importing: a condition that is known chooses its branch, a loop
//! whose length is known is unrolled.
//!
//! A branch on a condition that is only known at run time becomes both branches and a choice
//! between their results: a program has no jumps. Operators have no side effects, so nothing but
//! time is lost.

use super::attributes::Attributes;
use super::data::axis_of;
use super::failure::{FIX_THE_DIM, Failure, Stop, invalid, unsupported};
use super::node::OnnxNode;
use super::proto::{GraphProto, NodeProto, ValueInfoProto};
use super::shapes::Elem;
use super::tensor::dtype_of;
use super::{Import, Slot, dims};
use crate::dim::Dim;
use crate::graph::{Op, ValueId};
use crate::tensor::Tensor;
use whit::DType;

/// A node with subgraphs.
pub(super) struct ControlNode<'a, 'n> {
    pub(super) proto: &'a NodeProto,
    pub(super) name: &'n str,
    pub(super) attributes: Attributes<'a>,
    pub(super) slots: &'n [Slot],
}

type Outcome = Result<Vec<Slot>, Stop>;

/// Whether an operator has subgraphs.
pub(super) fn has_subgraphs(op_type: &str) -> bool {
    matches!(op_type, "If" | "Loop" | "Scan")
}

/// The values that a node with subgraphs makes.
pub(super) fn import<'a>(import: &mut Import<'a>, node: &ControlNode<'a, '_>) -> Outcome {
    match node.proto.op_type() {
        "If" => if_(import, node),
        "Loop" => loop_(import, node),
        _ => scan(import, node),
    }
}

impl ControlNode<'_, '_> {
    fn slot(&self, index: usize) -> Slot {
        self.slots.get(index).copied().unwrap_or(Slot::Absent)
    }

    fn poisoned(&self) -> Vec<Slot> {
        vec![Slot::Poisoned; self.proto.output.len()]
    }
}

fn is_poisoned(slots: &[Slot]) -> bool {
    slots.iter().any(|slot| matches!(slot, Slot::Poisoned))
}

/// A node of the graph that is emitted for a control node.
fn part(import: &Import<'_>, name: String) -> OnnxNode<'static> {
    OnnxNode {
        name,
        inputs: Vec::new(),
        outputs: &[],
        attributes: Attributes::new(&[]),
        opset: import.scope.opset,
    }
}

/// The one element of an integer or bool tensor, when it is known.
fn known(import: &Import<'_>, id: ValueId, what: &str) -> Result<Option<Dim>, Failure> {
    let value = import.builder.graph.value(id);
    let one = value.shape.iter().all(|dim| dim.is(1));
    if !one || value.dtype.is_float() {
        let text = import.builder.text(&value.shape);
        return Err(invalid(format!("{what} is {} {text}", value.dtype)));
    }
    Ok(match import.builder.known(id).as_ref().map(|known| known.elems.as_slice()) {
        Some([Elem::Int(dim)]) => Some(dim.clone()),
        _ => None,
    })
}

/// A condition: true, false, or not known before the model runs.
fn condition(import: &Import<'_>, slot: Slot) -> Result<Option<bool>, Failure> {
    let Slot::Value(id) = slot else {
        return Err(invalid("the condition is missing"));
    };
    if import.builder.dtype(id) != DType::Bool {
        return Err(invalid(format!("the condition is {}, not bool", import.builder.dtype(id))));
    }
    let known = known(import, id, "the condition")?;
    Ok(known.and_then(|dim| dim.as_const()).map(|value| value != 0))
}

fn if_<'a>(import: &mut Import<'a>, node: &ControlNode<'a, '_>) -> Outcome {
    let then_branch = node.attributes.graph("then_branch")?;
    let else_branch = node.attributes.graph("else_branch")?;
    node.attributes.check_all_read()?;
    if node.slots.len() > 1 {
        return Err(invalid(format!("{} inputs; it has one", node.slots.len())).into());
    }
    if is_poisoned(node.slots) {
        return Ok(node.poisoned());
    }
    let outputs = match condition(import, node.slot(0))? {
        Some(true) => import.import_subgraph(then_branch, Vec::new(), None)?,
        Some(false) => import.import_subgraph(else_branch, Vec::new(), None)?,
        None => {
            let a = import.import_subgraph(then_branch, Vec::new(), None)?;
            let b = import.import_subgraph(else_branch, Vec::new(), None)?;
            chosen(import, node, &a, &b)?
        }
    };
    match outputs.len() < node.proto.output.len() {
        true => Err(invalid(format!("a branch has {} outputs", outputs.len())).into()),
        false => Ok(outputs),
    }
}

/// Of two branches' results those that the condition chooses when the model runs.
fn chosen(
    import: &mut Import<'_>,
    node: &ControlNode<'_, '_>,
    a: &[Slot],
    b: &[Slot],
) -> Result<Vec<Slot>, Failure> {
    if a.len() != b.len() {
        return Err(invalid(format!("branches with {} and {} outputs", a.len(), b.len())));
    }
    let Slot::Value(mut condition) = node.slot(0) else {
        return Err(invalid("the condition is missing"));
    };
    import.note(
        "branches whose condition is computed at run time are both computed; \
         if it is known, give it with --input-value",
    );
    let part = part(import, node.name.to_owned());
    let builder = &mut import.builder;
    if builder.rank(condition) > 0 {
        condition = builder.reshape(&part, "condition", condition, Vec::new())?;
    }
    let mut outputs = Vec::with_capacity(a.len());
    for (index, (a, b)) in a.iter().zip(b).enumerate() {
        let (Slot::Value(a), Slot::Value(b)) = (a, b) else {
            outputs.push(Slot::Poisoned);
            continue;
        };
        if a == b {
            outputs.push(Slot::Value(*a));
            continue;
        }
        let (of_a, of_b) = (builder.shape(*a), builder.shape(*b));
        let same = of_a.len() == of_b.len()
            && of_a.iter().zip(&of_b).all(|(a, b)| dims::same(a, b, &builder.graph.symbols));
        let (type_a, type_b) = (builder.dtype(*a), builder.dtype(*b));
        if !same || type_a != type_b {
            return Err(unsupported(
                format!(
                    "its condition is computed at run time and output #{index} is {type_a} {} \
                     in one branch and {type_b} {} in the other",
                    builder.text(&of_a),
                    builder.text(&of_b)
                ),
                "give the input that decides the condition at conversion with --input-value \
                 NAME=FILE, or fix dimensions with --dim",
            ));
        }
        let name = format!("{index}");
        let inputs = [Some(condition), Some(*a), Some(*b)];
        let value = builder.emit(&part, &name, Op::Where, &inputs, type_a, of_a)?;
        outputs.push(Slot::Value(value));
    }
    Ok(outputs)
}

/// One after the other along a new axis.
fn stacked(
    import: &mut Import<'_>,
    name: &str,
    parts: &[Slot],
    axis: i64,
    declared: Option<&ValueInfoProto>,
) -> Result<Slot, Failure> {
    let mut values = Vec::with_capacity(parts.len());
    for slot in parts {
        match slot {
            Slot::Value(id) => values.push(*id),
            _ => return Ok(Slot::Poisoned),
        }
    }
    let one = Dim::from(1i64);
    let Some(first) = values.first().copied() else {
        return none_stacked(import, name, axis, declared);
    };
    let (dtype, shape) = (import.builder.dtype(first), import.builder.shape(first));
    let axis = axis_of(axis, shape.len() + 1)?;
    let mut grown = shape.clone();
    grown.insert(axis, one);
    let node = part(import, name.to_owned());
    let builder = &mut import.builder;
    let mut operands = Vec::with_capacity(values.len());
    for (index, id) in values.iter().enumerate() {
        let own = builder.shape(*id);
        let same = own.len() == shape.len()
            && own.iter().zip(&shape).all(|(a, b)| dims::same(a, b, &builder.graph.symbols));
        if !same || builder.dtype(*id) != dtype {
            return Err(unsupported(
                format!(
                    "a scan output is {dtype} {} at first and {} {} in step {index}",
                    builder.text(&shape),
                    builder.dtype(*id),
                    builder.text(&own)
                ),
                "",
            ));
        }
        operands.push(Some(builder.reshape(&node, &format!("{index}"), *id, grown.clone())?));
    }
    if let [operand] = operands.as_slice() {
        return Ok(operand.map_or(Slot::Absent, Slot::Value));
    }
    grown[axis] = Dim::from(values.len());
    let op = Op::Concat { axis };
    Ok(Slot::Value(builder.emit(&node, "", op, &operands, dtype, grown)?))
}

/// The result of a loop that never ran: its type and shape are what the body declares.
fn none_stacked(
    import: &mut Import<'_>,
    name: &str,
    axis: i64,
    declared: Option<&ValueInfoProto>,
) -> Result<Slot, Failure> {
    let tensor = declared.and_then(|d| d.r#type.as_ref()).and_then(|t| t.tensor_type.as_ref());
    let dtype = tensor.and_then(|t| dtype_of(t.elem_type()));
    let sizes = tensor.and_then(|t| t.shape.as_ref()).and_then(|shape| {
        let sizes = shape.dim.iter().map(|d| d.dim_value.and_then(|v| usize::try_from(v).ok()));
        sizes.collect::<Option<Vec<usize>>>()
    });
    let (Some(dtype), Some(mut shape)) = (dtype, sizes) else {
        return Err(unsupported(
            "it never runs, and the body doesn't say which shape its scan output has",
            "",
        ));
    };
    let axis = axis_of(axis, shape.len() + 1)?;
    shape.insert(axis, 0);
    let dims = shape.iter().map(|size| Dim::from(*size)).collect();
    let id = import.builder.value(name.to_owned(), dtype, dims)?;
    let tensor = Tensor { dtype, shape, data: bytes::Bytes::new() };
    import.builder.graph.value_mut(id).constant = Some(std::sync::Arc::new(tensor));
    Ok(Slot::Value(id))
}

fn loop_<'a>(import: &mut Import<'a>, node: &ControlNode<'a, '_>) -> Outcome {
    let body = node.attributes.graph("body")?;
    node.attributes.check_all_read()?;
    if is_poisoned(node.slots) {
        return Ok(node.poisoned());
    }
    let mut states: Vec<Slot> = node.slots.get(2..).unwrap_or_default().to_vec();
    let arity = 2 + states.len();
    let (inputs, outputs) = (body.input.len(), body.output.len());
    if inputs != arity || outputs + 1 < arity {
        return Err(invalid(format!(
            "{} states, but its body has {inputs} inputs and {outputs} outputs",
            states.len()
        ))
        .into());
    }
    let mut turns = vec![Vec::new(); outputs + 1 - arity];

    let trips = match node.slot(0) {
        Slot::Value(id) => match known(import, id, "the trip count")? {
            Some(trips) => Some(trips.as_const().ok_or_else(|| {
                let text = import.builder.text(&[trips]);
                unsupported(format!("the trip count is {text}"), FIX_THE_DIM)
            })?),
            None => return Err(run_time("the trip count").into()),
        },
        _ => None,
    };
    let mut goes_on = match node.slot(1) {
        Slot::Absent => Some(true),
        slot => condition(import, slot)?,
    };
    let mut turn = 0i64;
    while trips.is_none_or(|trips| turn < trips) {
        match goes_on {
            Some(true) => {}
            Some(false) => break,
            None => return Err(run_time("whether it goes on").into()),
        }
        let name = format!("{}#{turn}", node.name);
        let builder = &mut import.builder;
        let index = builder.constant(format!("{name}/turn"), Tensor::from_i64([], &[turn]));
        let go = Tensor { dtype: DType::Bool, shape: Vec::new(), data: vec![1u8].into() };
        let go = builder.constant(format!("{name}/condition"), go);
        let mut inputs = vec![Slot::Value(index), Slot::Value(go)];
        inputs.append(&mut states);
        let mut outputs = import.import_subgraph(body, inputs, Some(&name))?;
        if is_poisoned(&outputs) {
            return Ok(node.poisoned());
        }
        let scanned = outputs.split_off(arity - 1);
        for (all, one) in turns.iter_mut().zip(scanned) {
            all.push(one);
        }
        states = outputs.split_off(1);
        goes_on = condition(import, outputs[0])?;
        turn += 1;
    }
    for (index, parts) in turns.iter().enumerate() {
        let declared = body.output.get(arity - 1 + index);
        let name = format!("{}/scan {index}", node.name);
        states.push(stacked(import, &name, parts, 0, declared)?);
    }
    Ok(states)
}

fn run_time(what: &str) -> Failure {
    unsupported(
        format!("{what} is computed from data at run time"),
        "a loop is unrolled, so give the input that decides it at conversion with --input-value \
         NAME=FILE, or end the model before the loop",
    )
}

/// What a Scan goes over and in which directions.
struct Scan<'a> {
    body: &'a GraphProto,
    input_axes: Vec<i64>,
    input_backwards: Vec<bool>,
    output_axes: Vec<i64>,
    output_backwards: Vec<bool>,
}

fn scan<'a>(import: &mut Import<'a>, node: &ControlNode<'a, '_>) -> Outcome {
    // Up to operator set 8 a Scan has a batch axis, lengths of sequences, and no axes.
    let batched = import.scope.opset < 9;
    let body = node.attributes.graph("body")?;
    let scanned = node.attributes.int("num_scan_inputs", 0)?;
    let own = if batched { node.slots.get(1..).unwrap_or_default() } else { node.slots };
    let scanned = usize::try_from(scanned).ok().filter(|n| (1..=own.len()).contains(n));
    let Some(scanned) = scanned else {
        return Err(invalid("`num_scan_inputs` is not a number of its inputs").into());
    };
    let state_count = own.len() - scanned;
    let Some(output_count) = body.output.len().checked_sub(state_count) else {
        return Err(invalid(format!("its body has {} outputs", body.output.len())).into());
    };
    if body.input.len() != own.len() {
        return Err(invalid(format!("its body has {} inputs", body.input.len())).into());
    }
    let list = |name: &str, count: usize| -> Result<Vec<i64>, Failure> {
        let list = node.attributes.ints(name)?.map_or(vec![0; count], <[i64]>::to_vec);
        match list.len() == count {
            true => Ok(list),
            false => Err(invalid(format!("`{name}` has {} entries, not {count}", list.len()))),
        }
    };
    let backwards = |name: &str, count: usize| -> Result<Vec<bool>, Failure> {
        let backwards = list(name, count)?.into_iter().map(|direction| match direction {
            0 => Ok(false),
            1 => Ok(true),
            other => Err(invalid(format!("`{name}` holds {other}, not 0 or 1"))),
        });
        backwards.collect()
    };
    let what = match batched {
        true => Scan {
            body,
            input_axes: vec![0; scanned],
            input_backwards: backwards("directions", scanned)?,
            output_axes: vec![0; output_count],
            output_backwards: vec![false; output_count],
        },
        false => Scan {
            body,
            input_axes: list("scan_input_axes", scanned)?,
            input_backwards: backwards("scan_input_directions", scanned)?,
            output_axes: list("scan_output_axes", output_count)?,
            output_backwards: backwards("scan_output_directions", output_count)?,
        },
    };
    node.attributes.check_all_read()?;
    if is_poisoned(node.slots) {
        return Ok(node.poisoned());
    }
    let mut values = Vec::with_capacity(own.len());
    for slot in own {
        values.push(slot.value().ok_or_else(|| invalid("an input is missing"))?);
    }
    if !batched {
        return scan_steps(import, node, &what, node.name, &values);
    }

    if !matches!(node.slot(0), Slot::Absent) {
        return Err(unsupported(
            "sequences of different lengths",
            "export it with operator set 9 or newer",
        )
        .into());
    }
    let mut results = vec![Vec::new(); body.output.len()];
    for index in 0..length(import, &values, &vec![0; values.len()])? {
        let name = format!("{}@{index}", node.name);
        let mut of_one = Vec::with_capacity(values.len());
        for (operand, id) in values.iter().enumerate() {
            of_one.push(taken(import, &format!("{name}/{operand}"), *id, 0, index)?);
        }
        let outputs = scan_steps(import, node, &what, &name, &of_one)?;
        if is_poisoned(&outputs) {
            return Ok(node.poisoned());
        }
        for (all, one) in results.iter_mut().zip(outputs) {
            all.push(one);
        }
    }
    let mut outputs = Vec::with_capacity(results.len());
    for (index, parts) in results.iter().enumerate() {
        let name = format!("{}/batch {index}", node.name);
        outputs.push(stacked(import, &name, parts, 0, None)?);
    }
    Ok(outputs)
}

/// One sequence: `values` are the states and then what is gone over.
fn scan_steps<'a>(
    import: &mut Import<'a>,
    node: &ControlNode<'a, '_>,
    scan: &Scan<'a>,
    name: &str,
    values: &[ValueId],
) -> Outcome {
    let (states, inputs) = values.split_at(values.len() - scan.input_axes.len());
    let mut states: Vec<Slot> = states.iter().copied().map(Slot::Value).collect();
    let mut axes = Vec::with_capacity(inputs.len());
    for (id, axis) in inputs.iter().zip(&scan.input_axes) {
        axes.push(axis_of(*axis, import.builder.rank(*id))?);
    }
    let length = length(import, inputs, &axes)?;
    let mut steps: Vec<Vec<Slot>> = vec![Vec::new(); scan.output_axes.len()];
    for step in 0..length {
        let name = format!("{name}#{step}");
        let mut body_inputs = std::mem::take(&mut states);
        let state_count = body_inputs.len();
        for (operand, id) in inputs.iter().enumerate() {
            let at = if scan.input_backwards[operand] { length - 1 - step } else { step };
            let element = taken(import, &format!("{name}/{operand}"), *id, axes[operand], at)?;
            body_inputs.push(Slot::Value(element));
        }
        let mut outputs = import.import_subgraph(scan.body, body_inputs, Some(&name))?;
        if is_poisoned(&outputs) {
            return Ok(node.poisoned());
        }
        let scanned = outputs.split_off(state_count);
        for (all, one) in steps.iter_mut().zip(scanned) {
            all.push(one);
        }
        states = outputs;
    }
    let state_count = states.len();
    for (index, mut parts) in steps.into_iter().enumerate() {
        if scan.output_backwards[index] {
            parts.reverse();
        }
        let declared = scan.body.output.get(state_count + index);
        let name = format!("{name}/scan {index}");
        states.push(stacked(import, &name, &parts, scan.output_axes[index], declared)?);
    }
    Ok(states)
}

/// The common size of `values` along their axes.
fn length(import: &Import<'_>, values: &[ValueId], axes: &[usize]) -> Result<i64, Failure> {
    let builder = &import.builder;
    let mut lengths = Vec::with_capacity(values.len());
    for (id, axis) in values.iter().zip(axes) {
        let shape = builder.shape(*id);
        let size = shape.get(*axis).ok_or_else(|| invalid("an input is a scalar"))?.clone();
        let fixed = size.as_const().ok_or_else(|| {
            let text = builder.text(std::slice::from_ref(&size));
            unsupported(format!("it goes over {text} elements"), FIX_THE_DIM)
        })?;
        lengths.push(fixed);
    }
    match lengths.windows(2).all(|pair| pair[0] == pair[1]) {
        true => Ok(lengths.first().copied().unwrap_or(0)),
        false => Err(invalid(format!("its inputs have the lengths {lengths:?}"))),
    }
}

/// The element of `x` at `index` along an axis, without that axis.
fn taken(
    import: &mut Import<'_>,
    name: &str,
    x: ValueId,
    axis: usize,
    index: i64,
) -> Result<ValueId, Failure> {
    let node = part(import, name.to_owned());
    let builder = &mut import.builder;
    let slice = builder.slice(&node, "", x, axis, &Dim::from(index), &Dim::from(1i64))?;
    let mut shape = builder.shape(slice);
    shape.remove(axis);
    builder.reshape(&node, "element", slice, shape)
}
