//! Validates a graph: order, arity, and the shapes that follow from the operators.

use crate::dim::Dim;
use crate::graph::{Graph, Heads, Node, Op, PoolKind, RecurrentKind, ValueId};

use super::edit::product;

/// Checks that the graph is well-formed; the error names the node.
pub fn check(graph: &Graph) -> Result<(), String> {
    let in_range = |id: &ValueId| (id.0 as usize) < graph.values.len();
    let mut defined: Vec<bool> = graph.values.iter().map(|v| v.constant.is_some()).collect();
    for value in &graph.values {
        if let Some(tensor) = &value.constant
            && (value.const_shape().as_ref() != Some(&tensor.shape) || value.dtype != tensor.dtype)
        {
            return Err(format!("constant `{}` differs from its declaration", value.name));
        }
    }
    for id in &graph.inputs {
        if !in_range(id) {
            return Err("an input is out of range".to_owned());
        }
        defined[id.0 as usize] = true;
    }
    for state in &graph.states {
        let (read, next) = (state.read, state.next);
        if !in_range(&read) || !in_range(&next) {
            return Err(format!("state `{}` is out of range", state.name));
        }
        if std::mem::replace(&mut defined[read.0 as usize], true) {
            return Err(format!("state `{}` is read into a value that exists already", state.name));
        }
        let (from, to) = (graph.value(read), graph.value(next));
        let initial = state.initial.as_ref();
        let fits = initial.is_none_or(|tensor| {
            from.const_shape().as_ref() == Some(&tensor.shape) && from.dtype == tensor.dtype
        });
        if (from.dtype, &from.shape, &from.quant) != (to.dtype, &to.shape, &to.quant) || !fits {
            return Err(format!("state `{}` becomes something of another type", state.name));
        }
    }
    for node in &graph.nodes {
        let at = |what: &str| Err(format!("{:?} `{}`: {what}", node.op, node.name));
        let (least, most) = arity(&node.op);
        if node.inputs.len() < least || node.inputs.len() > most {
            return at(&format!("{} inputs", node.inputs.len()));
        }
        if node.inputs.iter().take(least).any(Option::is_none) {
            return at("a required input is absent");
        }
        let most = outputs(&node.op);
        if node.outputs.is_empty() || node.outputs.len() > most {
            return at(&format!("{} outputs", node.outputs.len()));
        }
        if !node.inputs.iter().flatten().chain(&node.outputs).all(in_range) {
            return at("a value is out of range");
        }
        if let Some(id) = node.inputs.iter().flatten().find(|id| !defined[id.0 as usize]) {
            return at(&format!("reads `{}` before it is made", graph.value(*id).name));
        }
        for output in &node.outputs {
            if std::mem::replace(&mut defined[output.0 as usize], true) {
                return at("makes a value that exists already");
            }
        }
        if let Err(what) = shapes(graph, node) {
            return at(&what);
        }
    }
    match graph.results().find(|id| !in_range(id) || !defined[id.0 as usize]) {
        Some(id) => Err(format!("result {} is never made", id.0)),
        None => Ok(()),
    }
}

/// Most outputs; fewer are fine, those that nobody reads may stay.
fn outputs(op: &Op) -> usize {
    match op {
        Op::Pool(pool) if pool.kind == PoolKind::Max => 2,
        Op::Recurrent(layer) if layer.kind == RecurrentKind::Lstm => 3,
        Op::QuantizedLstm(_) => 3,
        Op::CrossAttention(_) => 4,
        Op::CachedAttention(_) => 5,
        Op::Recurrent(_) => 2,
        Op::TopK { .. } => 2,
        _ => 1,
    }
}

/// Fewest and most inputs.
fn arity(op: &Op) -> (usize, usize) {
    match op {
        Op::Conv(_) | Op::MatMul(_) => (2, 4),
        Op::BatchNorm { .. } => (5, 5),
        Op::Binary(_) | Op::Compare(_) | Op::Gather { .. } => (2, 2),
        Op::Where | Op::Interpolate { .. } => (3, 3),
        Op::Normalize { .. } => (1, 3),
        Op::GatherElements { .. } | Op::GatherNd { .. } => (2, 2),
        Op::GridSample(_) | Op::NonMaxSuppression(_) | Op::ReverseSequence { .. } => (2, 2),
        Op::ScatterElements { .. } | Op::ScatterNd { .. } | Op::RoiAlign(_) => (3, 3),
        Op::Recurrent(_) => (2, 6),
        Op::QuantizedLstm(_) => (9, 9),
        Op::Attention(_) => (3, 4),
        Op::Embedding { .. } => (2, 2),
        Op::Rotary(_) => (3, 5),
        Op::CachedAttention(_) => (4, 7),
        Op::CrossAttention(_) => (4, 5),
        Op::Concat { .. } => (1, usize::MAX),
        _ => (1, 1),
    }
}

fn shapes(graph: &Graph, node: &Node) -> Result<(), String> {
    let shape = |id: ValueId| graph.value(id).shape.as_slice();
    let inputs: Vec<&[Dim]> = node.inputs.iter().flatten().map(|id| shape(*id)).collect();
    let (x, y) = (inputs[0], shape(node.outputs[0]));
    let found = || -> Vec<String> { inputs.iter().map(|s| graph.shape_text(s)).collect() };
    let expect = |ok: bool| {
        let text = || format!("shapes {} -> {}", found().join(", "), graph.shape_text(y));
        if ok { Ok(()) } else { Err(text()) }
    };
    let axis_ok = |axis: usize| expect(axis < x.len());
    match &node.op {
        Op::Unary(_) | Op::Lut { .. } | Op::Cast | Op::BitCast | Op::BatchNorm { .. } => {
            expect(x == y)
        }
        Op::Quantize => {
            let described = graph.value(node.outputs[0]).quant.is_some();
            expect(x == y && described)
        }
        Op::Dequantize => {
            let read = node.inputs[0].is_some_and(|id| graph.value(id).quant.is_some());
            expect(x == y && read)
        }
        Op::Softmax { axis, .. } => axis_ok(*axis).and(expect(x == y)),
        Op::Transpose { perm } => {
            let mut sorted = perm.clone();
            sorted.sort_unstable();
            expect(sorted.iter().copied().eq(0..x.len()))?;
            expect(perm.iter().map(|p| &x[*p]).eq(y))
        }
        Op::Reshape => expect(compatible(&product(x), &product(y))),
        Op::Binary(_) | Op::Compare(_) | Op::Where => {
            let mut all = Vec::new();
            for input in &inputs {
                all = broadcast(&all, input).ok_or_else(|| format!("broadcast {:?}", found()))?;
            }
            expect(all.len() == y.len() && all.iter().zip(y).all(|(a, b)| compatible(a, b)))
        }
        Op::Expand => {
            let all = broadcast(x, y).ok_or_else(|| "cannot expand".to_owned())?;
            expect(all.iter().zip(y).all(|(a, b)| compatible(a, b)))
        }
        Op::Concat { axis } => {
            axis_ok(*axis)?;
            expect(inputs.iter().all(|s| s.len() == y.len()) && x.len() == y.len())?;
            let sum = inputs.iter().fold(Dim::default(), |sum, s| sum.add(&s[*axis]));
            expect(compatible(&sum, &y[*axis]))
        }
        Op::Slice { starts, steps } => {
            expect(starts.len() == x.len() && steps.len() == x.len() && y.len() == x.len())
        }
        Op::Pad { before, after, .. } => {
            expect(before.len() == x.len() && after.len() == x.len() && y.len() == x.len())?;
            let grown = |i: usize| x[i].add(&Dim::from(before[i])).add(&Dim::from(after[i]));
            expect((0..x.len()).all(|i| compatible(&grown(i), &y[i])))
        }
        Op::Resize { scales, .. } => expect(scales.len() == x.len() && y.len() == x.len()),
        Op::Normalize { axis, .. } => {
            let trailing = x.get(*axis..);
            let fits = |id: &ValueId| trailing == Some(graph.value(*id).shape.as_slice());
            expect(x == y && node.inputs[1..].iter().flatten().all(fits))
        }
        Op::Interpolate { axis } => {
            axis_ok(*axis)?;
            let resized = |at: usize| if at == *axis { &inputs[1][0] } else { &x[at] };
            expect(inputs[1].len() == 2 && inputs[2] == inputs[1] && x.len() == y.len())?;
            expect((0..x.len()).all(|at| compatible(resized(at), &y[at])))
        }
        Op::Gather { axis } => axis_ok(*axis).and(expect(y.len() + 1 == x.len() + inputs[1].len())),
        Op::Reduce { axes, keep_dims, .. } => {
            expect(axes.iter().all(|a| *a < x.len()) && axes.is_sorted())?;
            expect(y == reduced(x, axes, *keep_dims))
        }
        Op::ArgReduce { axis, keep_dims, .. } => {
            axis_ok(*axis)?;
            expect(y == reduced(x, &[*axis], *keep_dims))
        }
        Op::Pool(p) => {
            let positions = node.outputs.get(1).is_none_or(|id| shape(*id) == y);
            expect(x.len() == p.kernel.len() + 2 && y.len() == x.len() && positions)
        }
        Op::Recurrent(layer) => {
            let (directions, gates) = (layer.backwards.len(), layer.kind.gates());
            let weights = inputs[1];
            expect(x.len() == 3 && weights.len() == 3 && y.len() == 4)?;
            expect(layer.functions.len() == 3 * directions)?;
            let wide = weights[1].mul(&Dim::from(directions * gates));
            expect(compatible(&x[2], &wide) && compatible(&weights[0], &Dim::from(directions)))?;
            let state = [&weights[0], &x[1], &weights[1]];
            expect(y[0] == x[0] && y[1..].iter().zip(state).all(|(y, s)| compatible(y, s)))
        }
        Op::GatherElements { axis } => {
            axis_ok(*axis)?;
            expect(inputs[1].len() == x.len() && y == inputs[1])
        }
        Op::GatherNd { batch_axes } => {
            let tuple = inputs[1].last().and_then(Dim::as_const).unwrap_or(-1);
            let indexed = usize::try_from(tuple).unwrap_or(usize::MAX).saturating_add(*batch_axes);
            let Some(rest) = x.get(indexed..) else { return expect(false) };
            expect(*batch_axes < inputs[1].len())?;
            expect(y.len() == inputs[1].len() - 1 + rest.len() && y.ends_with(rest))
        }
        Op::ScatterElements { axis, .. } => {
            axis_ok(*axis)?;
            expect(inputs[1].len() == x.len() && inputs[2] == inputs[1] && y == x)
        }
        Op::ScatterNd { .. } => {
            let tuple = inputs[1].last().and_then(Dim::as_const).unwrap_or(-1);
            let rest = usize::try_from(tuple).ok().and_then(|tuple| x.get(tuple..));
            let Some(rest) = rest else { return expect(false) };
            expect(inputs[2].len() == inputs[1].len() - 1 + rest.len() && y == x)
        }
        Op::TopK { axis, .. } => {
            axis_ok(*axis)?;
            expect(y.len() == x.len() && node.outputs.iter().all(|id| shape(*id) == y))
        }
        Op::Cumulative { axis, .. } => axis_ok(*axis).and(expect(x == y)),
        Op::GridSample(_) => {
            let grid = inputs[1];
            expect((3..=5).contains(&x.len()) && grid.len() == x.len() && y.len() == x.len())?;
            expect(grid[grid.len() - 1].is(x.len() as i64 - 2) && y[2..] == grid[1..x.len() - 1])
        }
        Op::RoiAlign(_) => {
            expect(x.len() == 4 && y.len() == 4 && inputs[1].len() == 2 && inputs[2].len() == 1)?;
            expect(inputs[1][1].is(4) && compatible(&x[1], &y[1]))
        }
        Op::NonMaxSuppression(_) => {
            expect(x.len() == 3 && inputs[1].len() == 3 && y.len() == 2 && y[1].is(3))
        }
        Op::ReverseSequence { time_axis } => {
            expect(*time_axis < 2 && x.len() >= 2 && inputs[1].len() == 1 && x == y)
        }
        Op::QuantizedLstm(_) => {
            let (state, ranks) = (inputs[4], x.len() == 3 && inputs[4].len() == 2);
            expect(ranks && inputs[5] == state && y.len() == 3 && y[..2] == x[..2])?;
            expect(y[2] == state[1])
        }
        Op::Embedding { .. } => {
            expect(x.len() == 2 && y.len() == inputs[1].len() + 1)?;
            expect(y.ends_with(&x[1..]) && y.starts_with(inputs[1]))
        }
        Op::Rotary(rotary) => {
            expect(of_heads(x, &rotary.heads) && x == y && inputs[1] == &x[..1])?;
            expect(inputs[2].len() == 2 && inputs[2][1].is(rotary.rotated as i64))
        }
        Op::CachedAttention(attention) => {
            let Heads { heads, size, .. } = attention.heads;
            expect(of_heads(x, &attention.heads) && inputs[1] == &x[..1] && inputs[2].len() == 4)?;
            expect(y.len() == 2 && y[0] == x[0] && y[1].is((heads * size) as i64))?;
            // Keys and values, and in q8 their scales.
            let kept = node.outputs.len() - 1;
            expect(matches!(kept, 2 | 4) && inputs.len() >= 2 + kept)?;
            let caches = node.outputs[1..].iter().zip(&inputs[2..]);
            expect(inputs[2] == inputs[3] && caches.into_iter().all(|(id, x)| shape(*id) == *x))?;
            let rows = |x: &[Dim]| x.len() == 4 && x[..3] == inputs[2][..3];
            expect(inputs[2..2 + kept].iter().all(|x| rows(x)))
        }
        Op::CrossAttention(attention) => {
            let Heads { heads, kv_heads, size } = attention.heads;
            let (new, cache) = (inputs[1], inputs[2]);
            expect(x.len() == 2 && x[1].is((heads * size) as i64) && y == x && new.len() == 3)?;
            expect(new[2].is((2 * kv_heads * size) as i64) && cache.len() == 4)?;
            expect(new[1] == cache[2] && cache[1].is(kv_heads as i64) && cache[3].is(size as i64))?;
            // Chosen heads and their weights come together.
            expect(node.outputs.len() == inputs.len() - 1)?;
            let caches = node.outputs[1..3].iter().all(|id| shape(*id) == cache);
            expect(inputs[3] == cache && caches)?;
            let Some(chosen) = inputs.get(4) else { return Ok(()) };
            let weights = shape(node.outputs[3]);
            expect(chosen.len() == 1 && weights.len() == 3 && weights[0] == x[0])?;
            expect(weights[1] == chosen[0] && weights[2] == cache[2])
        }
        Op::Gated { .. } => {
            let (Some((n, before)), Some((wide, before_x))) = (y.split_last(), x.split_last())
            else {
                return expect(false);
            };
            expect(before == before_x && compatible(wide, &n.add(n)))
        }
        Op::Attention(_) => {
            let (k, v) = (inputs[1], inputs[2]);
            expect(inputs[..3].iter().all(|s| s.len() == 4) && y.len() == 4)?;
            let heads = x[1].as_const().zip(k[1].as_const());
            expect(heads.is_none_or(|(heads, kv)| kv > 0 && heads % kv == 0))?;
            expect(k[..3].iter().zip(v).all(|(a, b)| compatible(a, b)))?;
            expect(compatible(&x[0], &k[0]) && compatible(&x[3], &k[3]))?;
            expect(
                x[..3].iter().zip(y).all(|(a, b)| compatible(a, b)) && compatible(&v[3], &y[3]),
            )?;
            if let Some(mask) = inputs.get(3) {
                let scores = [&x[..3], &k[2..3]].concat();
                let all = broadcast(&scores, mask).ok_or_else(|| "mask".to_owned())?;
                expect(all.len() == 4 && all.iter().zip(&scores).all(|(a, b)| compatible(a, b)))?;
            }
            Ok(())
        }
        Op::Conv(conv) => {
            let w = inputs[1];
            expect(w.len() == conv.kernel.len() + 2 && x.len() == w.len() && y.len() == w.len())?;
            let in_channels = w[w.len() - 1].mul(&Dim::from(conv.groups));
            expect(compatible(&in_channels, &x[x.len() - 1]) && w[0] == y[y.len() - 1])?;
            extras(graph, node, y).and_then(expect)
        }
        Op::MatMul(matmul) => {
            let b = inputs[1];
            if x.len() >= 2 && b.len() >= 2 {
                let (xr, br) = (x.len(), b.len());
                let k = if matmul.transpose_a { &x[xr - 2] } else { &x[xr - 1] };
                let (bk, n) = if matmul.transpose_b {
                    (&b[br - 1], &b[br - 2])
                } else {
                    (&b[br - 2], &b[br - 1])
                };
                expect(compatible(k, bk) && y.last().is_some_and(|y| compatible(n, y)))?;
            }
            extras(graph, node, y).and_then(expect)
        }
    }
}

/// Whether a shape is that of queries, keys and values of tokens.
fn of_heads(x: &[Dim], heads: &Heads) -> bool {
    let Heads { heads, kv_heads, size } = *heads;
    x.len() == 2 && x[1].is(((heads + 2 * kv_heads) * size) as i64)
}

/// Bias and residual of a layer fit its output.
fn extras(graph: &Graph, node: &Node, y: &[Dim]) -> Result<bool, String> {
    let shape = |k: usize| node.inputs.get(k).copied().flatten().map(|id| &graph.value(id).shape);
    let bias = shape(2).is_none_or(|bias| bias.len() == 1 && Some(&bias[0]) == y.last());
    Ok(bias && shape(3).is_none_or(|residual| residual == y))
}

/// The shape of a reduction's result.
pub(super) fn reduced(x: &[Dim], axes: &[usize], keep_dims: bool) -> Vec<Dim> {
    let one = Dim::from(1i64);
    let kept = |i: usize, dim: &Dim| match (axes.contains(&i), keep_dims) {
        (false, _) => Some(dim.clone()),
        (true, true) => Some(one.clone()),
        (true, false) => None,
    };
    x.iter().enumerate().filter_map(|(i, dim)| kept(i, dim)).collect()
}

/// False only when both are known and differ.
fn compatible(a: &Dim, b: &Dim) -> bool {
    match (a.as_const(), b.as_const()) {
        (Some(a), Some(b)) => a == b,
        _ => true,
    }
}

/// The common shape of two operands, as in NumPy; `None` when they are known not to fit.
pub(super) fn broadcast(a: &[Dim], b: &[Dim]) -> Option<Vec<Dim>> {
    let rank = a.len().max(b.len());
    let one = Dim::from(1i64);
    let at =
        |s: &[Dim], i: usize| (i + s.len()).checked_sub(rank).map_or(one.clone(), |i| s[i].clone());
    (0..rank)
        .map(|i| match (at(a, i), at(b, i)) {
            (a, b) if a == b || b.is(1) => Some(a),
            (a, b) if a.is(1) => Some(b),
            (a, b) if a.as_const().is_some() && b.as_const().is_some() => None,
            // One of them is symbolic and must turn out to be 1 or the other.
            (a, b) => Some(if a.as_const().is_some() { a } else { b }),
        })
        .collect()
}
