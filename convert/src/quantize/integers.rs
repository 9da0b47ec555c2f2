//! Turns nodes between dequantize and quantize into nodes on integers.

use std::collections::HashMap;
use std::sync::Arc;

use bytes::Bytes;
use whit::DType;

use crate::graph::{BinaryKind, Clamp, Graph, Node, Op, PadMode, Quant, ValueId};
use crate::quantize::{
    clamp_of, integer_inputs, is_quantized_type, keeps_scale, limits, lut, moves_elements,
    representable,
};
use crate::tensor::Tensor;

/// Rewrites the graph: u8 becomes i8, clamps become saturation, nodes become integer nodes, real
/// inputs and outputs that are only quantized become integers, residual adds are fused.
pub fn lower(graph: &mut Graph) {
    unsigned_to_signed(graph);
    quantize_before_moving(graph);
    absorb_clamps(graph);
    crate::passes::remove_dead_code(graph);
    move_integers(graph);
    integer_nodes(graph);
    requantize(graph);
    integer_states(graph);
    integer_interface(graph);
    drop_detours(graph);
    crate::passes::remove_dead_code(graph);
    fuse_residuals(graph);
    crate::passes::remove_dead_code(graph);
}

/// Shifts u8 tensors by 128: the same reals, the same steps, in i8. Those that something else reads
/// or makes, such as inputs and outputs of the model, get an i8 beside them.
fn unsigned_to_signed(graph: &mut Graph) {
    let mut shifts: Vec<bool> =
        graph.values.iter().map(|v| v.dtype == DType::U8 && v.quant.is_some()).collect();
    for id in graph.sources().chain(graph.results()) {
        shifts[id.0 as usize] = false;
    }
    // Whatever moves elements has one type for all that it moves.
    loop {
        let mut changed = false;
        for node in &graph.nodes {
            let ids = || node.inputs.iter().flatten().chain(&node.outputs);
            let of_u8 = |id: &&ValueId| graph.value(**id).dtype == DType::U8;
            let all = match &node.op {
                Op::Quantize | Op::Dequantize => true,
                op if moves_elements(op) => ids().filter(of_u8).all(|id| shifts[id.0 as usize]),
                _ => false,
            };
            if !all {
                for id in ids() {
                    changed |= std::mem::replace(&mut shifts[id.0 as usize], false);
                }
            }
        }
        if !changed {
            break;
        }
    }
    for (value, _) in graph.values.iter_mut().zip(shifts).filter(|(_, shifts)| *shifts) {
        let Some(quant) = value.quant.as_mut() else { continue };
        shift(quant);
        value.dtype = DType::I8;
        if let Some(constant) = value.constant.take() {
            let data: Vec<u8> = constant.data.iter().map(|byte| byte ^ 0x80).collect();
            let shape = constant.shape.clone();
            value.constant =
                Some(Arc::new(Tensor { dtype: DType::I8, shape, data: Bytes::from(data) }));
        }
    }
    let mut at = 0;
    while at < graph.nodes.len() {
        at += 1 + beside_unsigned(graph, at);
    }
}

fn shift(quant: &mut Quant) {
    for zero_point in &mut quant.zero_point {
        *zero_point -= 128;
    }
}

/// Node `at`, if it quantizes to a u8 or dequantizes one, by way of the i8 with the same reals: how
/// many nodes were added.
fn beside_unsigned(graph: &mut Graph, at: usize) -> usize {
    let node = graph.nodes[at].clone();
    let (Some(x), y) = (node.inputs.first().copied().flatten(), node.outputs[0]) else { return 0 };
    let unsigned = match node.op {
        Op::Quantize => y,
        Op::Dequantize => x,
        _ => return 0,
    };
    let value = graph.value(unsigned);
    let Some(mut quant) = value.quant.clone().filter(|_| value.dtype == DType::U8) else {
        return 0;
    };
    shift(&mut quant);
    let (name, shape) = (value.name.clone(), value.shape.clone());
    let signed = graph.add_value(format!("{name}/i8"), DType::I8, shape.clone());
    graph.value_mut(signed).quant = Some(quant);
    let real = graph.add_value(format!("{name}/real"), DType::F32, shape);
    let make = |op: Op, from: ValueId, to: ValueId| Node {
        name: format!("{name}/{}", if op == Op::Quantize { "quantize" } else { "dequantize" }),
        op,
        inputs: vec![Some(from)],
        outputs: vec![to],
    };
    let nodes = match node.op {
        Op::Quantize => [
            make(Op::Quantize, x, signed),
            make(Op::Dequantize, signed, real),
            make(Op::Quantize, real, unsigned),
        ],
        _ => [
            make(Op::Dequantize, unsigned, real),
            make(Op::Quantize, real, signed),
            make(Op::Dequantize, signed, y),
        ],
    };
    graph.nodes.splice(at..=at, nodes);
    2
}

/// Takes back what `unsigned_to_signed` put beside a u8 where no integer node uses it: reals that are
/// quantized and dequantized at once, on the way to or from the same integers.
fn drop_detours(graph: &mut Graph) {
    let producers = graph.producers();
    for at in 0..graph.nodes.len() {
        let node = &graph.nodes[at];
        let made = |id: ValueId, op: &Op| source(graph, &producers, id, op);
        // The i8 in the middle and what it is the i8 of.
        let shortcut = match node.op {
            Op::Dequantize => (|| {
                let signed = node.inputs[0]?;
                let real = made(signed, &Op::Quantize)?.inputs[0]?;
                let unsigned = made(real, &Op::Dequantize)?.inputs[0]?;
                same_reals(graph, unsigned, signed).then_some(unsigned)
            })(),
            Op::Quantize => (|| {
                let signed = made(node.inputs[0]?, &Op::Dequantize)?.inputs[0]?;
                let real = made(signed, &Op::Quantize)?.inputs[0]?;
                let fits = same_reals(graph, node.outputs[0], signed);
                (fits && graph.value(real).dtype == DType::F32).then_some(real)
            })(),
            _ => None,
        };
        if let Some(from) = shortcut {
            graph.nodes[at].inputs[0] = Some(from);
        }
    }
}

/// Whether an i8 is a u8 shifted by 128.
fn same_reals(graph: &Graph, unsigned: ValueId, signed: ValueId) -> bool {
    let (u, s) = (graph.value(unsigned), graph.value(signed));
    let mut quant = u.quant.clone();
    if let Some(quant) = &mut quant {
        shift(quant);
    }
    u.dtype == DType::U8 && s.dtype == DType::I8 && quant.is_some() && quant == s.quant
}

/// The node that makes a value, if it is of this kind.
fn source<'g>(
    graph: &'g Graph,
    producers: &[Option<usize>],
    id: ValueId,
    op: &Op,
) -> Option<&'g Node> {
    let node = &graph.nodes[producers.get(id.0 as usize).copied().flatten()?];
    (node.op == *op).then_some(node)
}

/// The i8 or i16 value behind a dequantize node, if it has one scale.
fn integers_behind(graph: &Graph, producers: &[Option<usize>], id: ValueId) -> Option<ValueId> {
    let integer = source(graph, producers, id, &Op::Dequantize)?.inputs[0]?;
    is_integer(graph, integer).then_some(integer)
}

/// An i8 or i16 value with one scale.
fn is_integer(graph: &Graph, id: ValueId) -> bool {
    let value = graph.value(id);
    let per_tensor = value.quant.as_ref().is_some_and(|quant| quant.axis.is_none());
    is_quantized_type(value.dtype) && per_tensor
}

/// Input → move → quantize becomes input → quantize → move, so that the input itself can be i8.
fn quantize_before_moving(graph: &mut Graph) {
    let producers = graph.producers();
    let consumers = graph.consumers();
    for at in 0..graph.nodes.len() {
        if let Some((mover_at, from)) = moved_input(graph, &producers, &consumers, at) {
            let result = graph.nodes[at].outputs[0];
            let (name, shape) = (graph.value(from).name.clone(), graph.value(from).shape.clone());
            let dtype = graph.value(result).dtype;
            let integer = graph.add_value(format!("{name}/q"), dtype, shape);
            graph.value_mut(integer).quant = graph.value(result).quant.clone();
            // Nobody else reads what is moved, so the two change places.
            graph.nodes.swap(mover_at, at);
            graph.nodes[mover_at].inputs[0] = Some(from);
            graph.nodes[mover_at].outputs[0] = integer;
            graph.nodes[at].inputs[0] = Some(integer);
            graph.nodes[at].outputs[0] = result;
        }
    }
}

/// The node between an input and a quantize node, and that input.
fn moved_input(
    graph: &Graph,
    producers: &[Option<usize>],
    consumers: &[Vec<usize>],
    at: usize,
) -> Option<(usize, ValueId)> {
    let node = &graph.nodes[at];
    if node.op != Op::Quantize || !is_quantized_type(graph.value(node.outputs[0]).dtype) {
        return None;
    }
    let moved = node.inputs[0]?;
    let mover_at = producers[moved.0 as usize]?;
    let mover = &graph.nodes[mover_at];
    let plain = matches!(mover.op, Op::Reshape | Op::Transpose { .. } | Op::Slice { .. });
    let from = mover.inputs[0]?;
    let sole = consumers[moved.0 as usize].len() == 1 && !graph.is_result(moved);
    let per_tensor = graph.value(node.outputs[0]).quant.as_ref()?.axis.is_none();
    (plain && sole && per_tensor && graph.inputs.contains(&from)).then_some((mover_at, from))
}

/// A Relu or Clip between a node and its quantize node is dropped where saturation does the same,
/// and gets a quantization of its own on both sides where it doesn't.
fn absorb_clamps(graph: &mut Graph) {
    let producers = graph.producers();
    let consumers = graph.consumers();
    let mut inserted: Vec<(usize, Vec<Node>)> = Vec::new();
    for at in 0..graph.nodes.len() {
        let node = &graph.nodes[at];
        let Some((min, max)) = clamp_of(&node.op) else { continue };
        let (Some(x), y) = (node.inputs[0], node.outputs[0]) else { continue };
        let Some((dtype, quant)) = only_quantized(graph, &consumers, y) else { continue };
        let made_by = producers[x.0 as usize].map(|maker| &graph.nodes[maker]);
        let computes = made_by.is_some_and(|maker| {
            maker.op != Op::Dequantize && integer_inputs(graph, maker).is_some()
        });
        if !computes || consumers[x.0 as usize].len() != 1 || graph.is_result(x) {
            continue;
        }
        let (low, high) = representable(dtype, &quant);
        let half_step = f64::from(quant.scale[0]) / 2.0;
        if min <= low + half_step && max >= high - half_step {
            graph.replace_uses(y, x);
            continue;
        }
        // Rounding first and clamping then gives the same, as both bounds or their saturation are
        // whole steps.
        let (name, shape) = (node.name.clone(), graph.value(x).shape.clone());
        let integer = graph.add_value(format!("{name}/q"), dtype, shape.clone());
        graph.value_mut(integer).quant = Some(quant);
        let real = graph.add_value(format!("{name}/dq"), DType::F32, shape);
        graph.nodes[at].inputs[0] = Some(real);
        let make = |name: String, op: Op, from: ValueId, to: ValueId| Node {
            name,
            op,
            inputs: vec![Some(from)],
            outputs: vec![to],
        };
        inserted.push((
            at,
            vec![
                make(format!("{name}/quantize"), Op::Quantize, x, integer),
                make(format!("{name}/dequantize"), Op::Dequantize, integer, real),
            ],
        ));
    }
    for (at, nodes) in inserted.into_iter().rev() {
        graph.nodes.splice(at..at, nodes);
    }
}

/// The type and quantization of a value whose readers are all quantize nodes to the same integers, if
/// that is so.
fn only_quantized(graph: &Graph, consumers: &[Vec<usize>], id: ValueId) -> Option<(DType, Quant)> {
    if graph.is_result(id) {
        return None;
    }
    let mut common: Option<(DType, &Quant)> = None;
    for reader in &consumers[id.0 as usize] {
        let node = &graph.nodes[*reader];
        let result = graph.value(*node.outputs.first()?);
        if node.op != Op::Quantize || !is_quantized_type(result.dtype) {
            return None;
        }
        let quant = result.quant.as_ref().filter(|quant| quant.axis.is_none())?;
        let own = (result.dtype, quant);
        if common.is_some_and(|common| common != own) {
            return None;
        }
        common = Some(own);
    }
    common.map(|(dtype, quant)| (dtype, quant.clone()))
}

/// Dequantize → move becomes move → dequantize: what is only moved is moved as integers, and what
/// comes behind still finds its dequantize node. A concatenation needs one scale for all its parts,
/// so [`integer_form`] has it.
fn move_integers(graph: &mut Graph) {
    let nodes = std::mem::take(&mut graph.nodes);
    // The integers behind each real, as far as the walk has come.
    let mut behind: HashMap<ValueId, ValueId> = HashMap::new();
    for mut node in nodes {
        let movable = moves_elements(&node.op) && !matches!(node.op, Op::Concat { .. });
        let from = node.inputs.first().copied().flatten();
        let integer = from.filter(|_| movable).and_then(|id| behind.get(&id).copied());
        let Some(integer) = integer else {
            if let (Op::Dequantize, Some(x)) = (&node.op, from)
                && is_integer(graph, x)
            {
                behind.insert(node.outputs[0], x);
            }
            graph.nodes.push(node);
            continue;
        };
        let y = node.outputs[0];
        let (name, shape) = (graph.value(y).name.clone(), graph.value(y).shape.clone());
        let dtype = graph.value(integer).dtype;
        let moved = graph.add_value(name.clone(), dtype, shape);
        let quant = graph.value(integer).quant.clone();
        if let (Op::Pad { mode: PadMode::Constant(real), .. }, Some(quant)) = (&mut node.op, &quant)
        {
            let q = (f64::from(*real) / f64::from(quant.scale[0])).round_ties_even()
                + f64::from(quant.zero_point[0]);
            let [low, high] = limits(dtype).map(f64::from);
            *real = q.clamp(low, high) as f32;
        }
        node.inputs[0] = Some(integer);
        node.outputs[0] = moved;
        graph.nodes.push(node);
        graph.value_mut(moved).quant = quant;
        graph.nodes.push(Node {
            name: format!("{name}/dequantize"),
            op: Op::Dequantize,
            inputs: vec![Some(moved)],
            outputs: vec![y],
        });
        behind.insert(y, moved);
    }
}

/// Gives every node between dequantize and quantize its integer form.
fn integer_nodes(graph: &mut Graph) {
    // Neither list goes out of date: dequantize nodes stay where they are, and a result's readers are
    // looked at before anything of theirs changes.
    let producers = graph.producers();
    let consumers = graph.consumers();
    let mut before: Vec<Vec<Node>> = Vec::with_capacity(graph.nodes.len());
    for at in 0..graph.nodes.len() {
        let form = integer_form(graph, &producers, &consumers, at);
        before.push(match form {
            Some((node, extra)) => {
                graph.nodes[at] = node;
                extra
            }
            None => Vec::new(),
        });
    }
    let nodes = std::mem::take(&mut graph.nodes);
    for (node, extra) in nodes.into_iter().zip(before) {
        graph.nodes.extend(extra);
        graph.nodes.push(node);
    }
}

/// The integer form of a node, and the nodes that must come before it.
fn integer_form(
    graph: &mut Graph,
    producers: &[Option<usize>],
    consumers: &[Vec<usize>],
    at: usize,
) -> Option<(Node, Vec<Node>)> {
    let node = graph.nodes[at].clone();
    let operands = integer_inputs(graph, &node)?;
    let y = node.outputs[0];
    let (dtype, y_quant) = only_quantized(graph, consumers, y)?;
    let mut result = node.clone();
    let mut extra = Vec::new();
    for operand in &operands {
        let integer = integers_behind(graph, producers, node.inputs[*operand]?)?;
        if graph.value(integer).dtype != dtype {
            return None;
        }
        result.inputs[*operand] = Some(integer);
    }
    if let (Op::Attention(_), DType::I16) = (&node.op, dtype) {
        return None;
    }
    if let (Op::Unary(kind), DType::I16) = (&node.op, dtype) {
        // Where a table isn't exact enough, the function stays float.
        let x_quant = graph.value(result.inputs[0]?).quant.as_ref()?;
        if lut::is_curved(*kind) && lut::table_i16(x_quant, &y_quant, *kind).is_none() {
            return None;
        }
    }
    if let Op::Conv(_) | Op::MatMul(_) = node.op {
        // Weights per channel or per tensor, i8; the bias stays as it is, the planner reads both
        // integers with scales and reals.
        let weights = source(graph, producers, node.inputs[1]?, &Op::Dequantize)?.inputs[0]?;
        let value = graph.value(weights);
        let symmetric =
            value.quant.as_ref().is_some_and(|quant| quant.zero_point.iter().all(|z| *z == 0));
        if value.dtype != DType::I8 || value.constant.is_none() || !symmetric {
            return None;
        }
        result.inputs[1] = Some(weights);
        if let Some(bias) = node.inputs.get(2).copied().flatten()
            && let Some(dequantize) = source(graph, producers, bias, &Op::Dequantize)
        {
            result.inputs[2] = dequantize.inputs[0];
        }
    }
    let own_quant = match node.op {
        Op::Concat { .. } => {
            for operand in &operands {
                let part = result.inputs[*operand]?;
                if graph.value(part).quant.as_ref() != Some(&y_quant) {
                    let (name, shape) =
                        (graph.value(part).name.clone(), graph.value(part).shape.clone());
                    let rescaled = graph.add_value(format!("{name}/rescaled"), dtype, shape);
                    graph.value_mut(rescaled).quant = Some(y_quant.clone());
                    extra.push(Node {
                        name: format!("{name}/rescale"),
                        op: Op::Quantize,
                        inputs: vec![Some(part)],
                        outputs: vec![rescaled],
                    });
                    result.inputs[*operand] = Some(rescaled);
                }
            }
            y_quant
        }
        ref op if keeps_scale(op) => graph.value(result.inputs[0]?).quant.clone()?,
        _ => y_quant,
    };
    let (name, shape) = (graph.value(y).name.clone(), graph.value(y).shape.clone());
    let integer = graph.add_value(name, dtype, shape);
    graph.value_mut(integer).quant = Some(own_quant);
    result.outputs[0] = integer;
    // The quantize nodes behind read integers from now on, and are resolved by `requantize`.
    for reader in &consumers[y.0 as usize] {
        graph.nodes[*reader].inputs[0] = Some(integer);
    }
    Some((result, extra))
}

/// Resolves quantize nodes that read integers: the same scale is the same value, another scale
/// stays as a table.
fn requantize(graph: &mut Graph) {
    let producers = graph.producers();
    for at in 0..graph.nodes.len() {
        if graph.nodes[at].op != Op::Quantize {
            continue;
        }
        let (Some(x), y) = (graph.nodes[at].inputs[0], graph.nodes[at].outputs[0]) else {
            continue;
        };
        let from = if is_quantized_type(graph.value(x).dtype) {
            Some(x)
        } else {
            integers_behind(graph, &producers, x)
        };
        let Some(from) = from else { continue };
        if graph.value(from).dtype != graph.value(y).dtype {
            continue;
        }
        if graph.value(from).quant == graph.value(y).quant {
            graph.replace_uses(y, from);
        } else {
            graph.nodes[at].inputs[0] = Some(from);
        }
    }
}

/// States that are only quantized at the start of a run and dequantized at its end become i8.
fn integer_states(graph: &mut Graph) {
    crate::passes::remove_dead_code(graph);
    let producers = graph.producers();
    let consumers = graph.consumers();
    for index in 0..graph.states.len() {
        let (read, next) = (graph.states[index].read, graph.states[index].next);
        let Some((dtype, quant)) = only_quantized(graph, &consumers, read) else { continue };
        if dtype != DType::I8 {
            continue;
        }
        let integer = integers_behind(graph, &producers, next);
        let Some(integer) = integer.filter(|id| graph.value(*id).quant.as_ref() == Some(&quant))
        else {
            continue;
        };
        let initial = graph.states[index].initial.as_ref().map(|tensor| {
            let quantized: Vec<i8> = tensor.to_f32().iter().map(|x| nearest(*x, &quant)).collect();
            Arc::new(Tensor::from_i8(tensor.shape.clone(), &quantized))
        });
        graph.states[index].initial = match initial {
            // Zero bytes stand for a real number that is 0 only if the zero point is.
            None if quant.zero_point[0] != 0 => {
                let Some(shape) = graph.value(read).const_shape() else { continue };
                let zeros = vec![quant.zero_point[0] as i8; shape.iter().product()];
                Some(Arc::new(Tensor::from_i8(shape, &zeros)))
            }
            initial => initial,
        };
        graph.states[index].next = integer;
        let value = graph.value_mut(read);
        value.dtype = DType::I8;
        value.quant = Some(quant);
        for reader in &consumers[read.0 as usize] {
            let result = graph.nodes[*reader].outputs[0];
            graph.replace_uses(result, read);
        }
    }
}

/// The i8 nearest to a real number.
fn nearest(real: f32, quant: &Quant) -> i8 {
    let q = (f64::from(real) / f64::from(quant.scale[0])).round_ties_even();
    (q + f64::from(quant.zero_point[0])).clamp(-128.0, 127.0) as i8
}

/// Inputs that are only quantized and outputs that are only dequantized become integers.
fn integer_interface(graph: &mut Graph) {
    crate::passes::remove_dead_code(graph);
    let consumers = graph.consumers();
    for index in 0..graph.inputs.len() {
        let input = graph.inputs[index];
        let Some((dtype, quant)) = only_quantized(graph, &consumers, input) else { continue };
        let readers = consumers[input.0 as usize].clone();
        if readers.is_empty() {
            continue;
        }
        let value = graph.value_mut(input);
        value.dtype = dtype;
        value.quant = Some(quant);
        for reader in readers {
            let result = graph.nodes[reader].outputs[0];
            graph.replace_uses(result, input);
        }
    }
    let producers = graph.producers();
    for index in 0..graph.outputs.len() {
        let output = graph.outputs[index];
        let Some(integer) = integers_behind(graph, &producers, output) else { continue };
        // A constant or an input as a result keeps its own name and stays as it is.
        if graph.value(integer).constant.is_some() || graph.is_source(integer) {
            continue;
        }
        if !graph.outputs.contains(&integer) {
            graph.value_mut(integer).name =
                graph.value(output).name.trim_end_matches("/dq").to_owned();
        }
        graph.outputs[index] = integer;
    }
}

/// Fuses `layer → add` into the layer, keeping the rounding of the layer's own result.
fn fuse_residuals(graph: &mut Graph) {
    let mut fused: HashMap<usize, Node> = HashMap::new();
    let producers = graph.producers();
    let consumers = graph.consumers();
    let mut taken = vec![false; graph.nodes.len()];
    for (at, node) in graph.nodes.iter().enumerate() {
        if node.op != Op::Binary(BinaryKind::Add) || graph.value(node.outputs[0]).dtype != DType::I8
        {
            continue;
        }
        let (Some(a), Some(b)) = (node.inputs[0], node.inputs[1]) else { continue };
        if a == b || graph.value(a).shape != graph.value(b).shape {
            continue;
        }
        // The later of two layers takes the other as its residual.
        let candidates = [(a, b), (b, a)];
        let best = candidates
            .into_iter()
            .filter_map(|(layer, residual)| {
                let maker = producers[layer.0 as usize]?;
                let fits = match &graph.nodes[maker].op {
                    Op::Conv(conv) => conv.clamp == Clamp::NONE,
                    Op::MatMul(matmul) => matmul.clamp == Clamp::NONE,
                    _ => false,
                };
                let free = !taken[maker]
                    && graph.nodes[maker].inputs.get(3).copied().flatten().is_none()
                    && consumers[layer.0 as usize].len() == 1
                    && !graph.is_result(layer)
                    && graph.constant(residual).is_none();
                (fits && free).then_some((maker, layer, residual))
            })
            .max_by_key(|(maker, ..)| *maker);
        let Some((maker, layer, residual)) = best else { continue };
        let mut result = graph.nodes[maker].clone();
        result.inputs.resize(4, None);
        result.inputs[3] = Some(residual);
        result.outputs = node.outputs.clone();
        let inner = graph.value(layer).quant.clone();
        match &mut result.op {
            Op::Conv(conv) => conv.inner_quant = inner,
            Op::MatMul(matmul) => matmul.inner_quant = inner,
            _ => continue,
        }
        taken[maker] = true;
        fused.insert(at, result);
    }
    for (at, node) in fused {
        graph.nodes[at] = node;
    }
}

/// Dequantized constants that float nodes read become float constants.
pub fn fold_dequantized(graph: &mut Graph) {
    for at in 0..graph.nodes.len() {
        let node = &graph.nodes[at];
        if node.op != Op::Dequantize {
            continue;
        }
        let (Some(x), y) = (node.inputs[0], node.outputs[0]) else { continue };
        let value = graph.value(x);
        let (Some(constant), Some(quant)) = (&value.constant, &value.quant) else { continue };
        let inner: usize = quant.axis.map_or(1, |axis| constant.shape[axis + 1..].iter().product());
        let count = quant.scale.len().max(1);
        let reals: Vec<f32> = constant
            .to_i64()
            .into_iter()
            .enumerate()
            .map(|(index, q)| {
                let channel = index / inner.max(1) % count;
                // As ONNX defines it: one subtraction of integers, one product in f32.
                (q - i64::from(quant.zero_point[channel])) as f32 * quant.scale[channel]
            })
            .collect();
        let tensor = Tensor::from_f32(constant.shape.clone(), &reals);
        let name = graph.value(y).name.clone();
        let real = graph.add_constant(name, tensor);
        graph.replace_uses(y, real);
    }
    crate::passes::remove_dead_code(graph);
}
