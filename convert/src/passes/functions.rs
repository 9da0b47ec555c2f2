//! Recognises activation functions that exporters write as formulas: SiLU, hard swish, GELU, ….
//!
//! The same function is spelled in many ways (`0.5 * x * (1 + erf(x / √2))`, `x * (0.5 + 0.5 *
//! erf(…))`, cubes as powers or products), so formulas are compared by value: a group of
//! elementwise nodes with one input `x` and numbers besides is evaluated in f64 on a grid, and where
//! it agrees with a known function everywhere, it is that function.

use std::collections::BTreeSet;

use whit::DType;

use crate::graph::{BinaryKind, Graph, Node, Op, UnaryKind, ValueId};

use super::edit::{Editor, f32_scalar, input, output, same_kind};

/// Nodes of the longest formula (GELU by tanh with the cube as products has nine), and some room.
const MAX_NODES: usize = 14;

/// Numbers in models are f32, often rounded once more by the exporter (1.4142135, 0.16666667).
const MATCH_TOLERANCE: f64 = 4e-6;

/// What a formula may turn out to be. ReLU and clips come first: they fuse into layers.
const KNOWN: &[UnaryKind] = &[
    UnaryKind::Relu,
    UnaryKind::Clip { min: 0.0, max: 6.0 },
    UnaryKind::Sigmoid,
    UnaryKind::HardSigmoid { alpha: 1.0 / 6.0, beta: 0.5 },
    UnaryKind::HardSigmoid { alpha: 0.2, beta: 0.5 },
    UnaryKind::HardSwish,
    UnaryKind::Silu,
    UnaryKind::Mish,
    UnaryKind::Gelu,
    UnaryKind::GeluTanh,
    UnaryKind::Softplus,
    UnaryKind::Softsign,
];

/// Runs the pass.
pub(super) fn run(graph: &mut Graph) -> bool {
    let mut edit = Editor::new(graph);
    // From the last node to the first, so that the largest formula is found before its parts.
    for index in (0..edit.len()).rev() {
        if edit.is_alive(index) && recognise(&mut edit, index).is_none() {
            simpler_power(&mut edit, index);
        }
    }
    edit.finish()
}

/// Powers of 2, 1/2 and −1 as what computes them without logarithms.
fn simpler_power(edit: &mut Editor<'_>, index: usize) -> Option<()> {
    let node = edit.node(index);
    let (x, exponent, y) = (input(node, 0)?, input(node, 1)?, output(node)?);
    if node.op != Op::Binary(BinaryKind::Pow) || !same_kind(edit.graph, x, y) {
        return None;
    }
    let (op, inputs) = match f32_scalar(edit.graph, exponent)? {
        2.0 => (Op::Binary(BinaryKind::Mul), vec![Some(x); 2]),
        0.5 => (Op::Unary(UnaryKind::Sqrt), vec![Some(x)]),
        -1.0 => (Op::Unary(UnaryKind::Reciprocal), vec![Some(x)]),
        _ => return None,
    };
    let node = Node { op, inputs, ..node.clone() };
    edit.replace(index, node);
    Some(())
}

fn recognise(edit: &mut Editor<'_>, root: usize) -> Option<()> {
    let y = output(edit.node(root)).filter(|_| is_arithmetic(edit.graph, edit.node(root)))?;
    let mut group = BTreeSet::from([root]);
    loop {
        let open = open_inputs(edit, &group);
        if let [x] = open[..]
            && group.len() > 1
            && same_kind(edit.graph, x, y)
            && group.iter().all(|at| *at == root || used_inside(edit, *at, &group))
            && let Some(kind) = known(edit.graph, &group, x)
        {
            let mut node = edit.node(root).clone();
            node.op = Op::Unary(kind);
            node.inputs = vec![Some(x)];
            edit.replace(root, node);
            for at in group.into_iter().rev().filter(|at| *at != root) {
                edit.remove(at);
            }
            return Some(());
        }
        // Grow by the latest producer: it can't be an input of the others' inputs.
        let next = open.iter().filter_map(|id| edit.producer(*id)).max()?;
        if group.len() == MAX_NODES || !is_arithmetic(edit.graph, edit.node(next)) {
            return None;
        }
        group.insert(next);
    }
}

fn is_arithmetic(graph: &Graph, node: &Node) -> bool {
    let float = output(node).is_some_and(|y| graph.value(y).dtype == DType::F32);
    let kind = match &node.op {
        Op::Unary(kind) => eval_unary(*kind, 1.0).is_some(),
        Op::Binary(kind) => eval_binary(*kind, 1.0, 1.0).is_some(),
        _ => false,
    };
    float && kind
}

/// What the group reads besides numbers and its own results.
fn open_inputs(edit: &Editor<'_>, group: &BTreeSet<usize>) -> Vec<ValueId> {
    let mut open = Vec::new();
    for id in group.iter().flat_map(|at| edit.node(*at).inputs.iter().flatten()) {
        let inside = edit.producer(*id).is_some_and(|at| group.contains(&at));
        if !inside && f32_scalar(edit.graph, *id).is_none() && !open.contains(id) {
            open.push(*id);
        }
    }
    open
}

/// All readers of the node's result are in the group.
fn used_inside(edit: &Editor<'_>, at: usize, group: &BTreeSet<usize>) -> bool {
    let Some(y) = output(edit.node(at)) else { return false };
    let inside = group.iter().flat_map(|at| edit.node(*at).inputs.iter().flatten());
    inside.filter(|id| **id == y).count() == edit.uses(y)
}

/// The known function that the group agrees with everywhere on the grid.
fn known(graph: &Graph, group: &BTreeSet<usize>, x: ValueId) -> Option<UnaryKind> {
    let grid = grid();
    let values: Vec<f64> =
        grid.iter().map(|at| eval(graph, group, x, *at)).collect::<Option<_>>()?;
    KNOWN.iter().copied().find(|kind| {
        grid.iter().zip(&values).all(|(at, value)| {
            eval_unary(*kind, *at)
                .is_some_and(|y| (y - value).abs() <= MATCH_TOLERANCE * y.abs().max(1.0))
        })
    })
}

/// Every sixteenth in −16..=16, where all of the functions bend, and powers of two around zero and
/// far out.
fn grid() -> Vec<f64> {
    let dense = (-256..=256).map(|i| f64::from(i) / 16.0);
    let wide = (-12..=8).flat_map(|e| [1.1, -1.1].map(|sign| sign * 2f64.powi(e)));
    dense.chain(wide).collect()
}

fn eval(graph: &Graph, group: &BTreeSet<usize>, x: ValueId, at: f64) -> Option<f64> {
    let mut known: Vec<(ValueId, f64)> = vec![(x, at)];
    let mut last = None;
    for index in group {
        let node = &graph.nodes[*index];
        let operand = |k: usize| {
            let id = input(node, k)?;
            let made = known.iter().find(|(made, _)| *made == id).map(|(_, v)| *v);
            made.or_else(|| f32_scalar(graph, id).map(f64::from))
        };
        let value = match &node.op {
            Op::Unary(kind) => eval_unary(*kind, operand(0)?)?,
            Op::Binary(kind) => eval_binary(*kind, operand(0)?, operand(1)?)?,
            _ => return None,
        };
        known.push((output(node)?, value));
        last = Some(value);
    }
    last
}

fn eval_binary(kind: BinaryKind, a: f64, b: f64) -> Option<f64> {
    Some(match kind {
        BinaryKind::Add => a + b,
        BinaryKind::Sub => a - b,
        BinaryKind::Mul => a * b,
        BinaryKind::Div => a / b,
        BinaryKind::Pow => a.powf(b),
        BinaryKind::Min => a.min(b),
        BinaryKind::Max => a.max(b),
        _ => return None,
    })
}

/// The functions that formulas are made of, and those they are compared with.
pub(super) fn eval_unary(kind: UnaryKind, x: f64) -> Option<f64> {
    let sigmoid = |x: f64| 1.0 / (1.0 + (-x).exp());
    let softplus = |x: f64| x.max(0.0) + (-x.abs()).exp().ln_1p();
    Some(match kind {
        UnaryKind::Relu => x.max(0.0),
        UnaryKind::Clip { min, max } => x.max(f64::from(min)).min(f64::from(max)),
        UnaryKind::Sigmoid => sigmoid(x),
        UnaryKind::HardSigmoid { alpha, beta } => {
            (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0)
        }
        UnaryKind::HardSwish => x * (x + 3.0).clamp(0.0, 6.0) / 6.0,
        UnaryKind::Silu => x * sigmoid(x),
        UnaryKind::Mish => x * softplus(x).tanh(),
        UnaryKind::Gelu => 0.5 * x * (1.0 + erf(x / std::f64::consts::SQRT_2)),
        UnaryKind::GeluTanh => {
            let inner = (2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x);
            0.5 * x * (1.0 + inner.tanh())
        }
        UnaryKind::Softplus => softplus(x),
        UnaryKind::Softsign => x / (1.0 + x.abs()),
        UnaryKind::Tanh => x.tanh(),
        UnaryKind::Erf => erf(x),
        UnaryKind::Exp => x.exp(),
        UnaryKind::Log => x.ln(),
        UnaryKind::Sqrt => x.sqrt(),
        UnaryKind::Reciprocal => 1.0 / x,
        UnaryKind::Neg => -x,
        UnaryKind::Abs => x.abs(),
        _ => return None,
    })
}

/// The error function to about 1e-15: Maclaurin series (Abramowitz and Stegun 7.1.6) near zero, where
/// all terms are positive, and ±1 beyond 6, where f64 can't tell the difference.
fn erf(x: f64) -> f64 {
    if x.abs() > 6.0 {
        return x.signum();
    }
    let (mut term, mut sum) = (x, x);
    let mut n = 0.0;
    while term.abs() > 1e-17 * sum.abs() {
        n += 1.0;
        term *= 2.0 * x * x / (2.0 * n + 1.0);
        sum += term;
    }
    2.0 / std::f64::consts::PI.sqrt() * (-x * x).exp() * sum
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn erf_agrees_with_tables() {
        // Abramowitz and Stegun, table 7.1.
        for (x, y) in [(0.0, 0.0), (0.5, 0.5204998778), (1.0, 0.8427007929), (2.0, 0.9953222650)] {
            assert!((erf(x) - y).abs() < 1e-10 && (erf(-x) + y).abs() < 1e-10, "{x}");
        }
    }
}
