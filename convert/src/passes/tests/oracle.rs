//! The naive evaluator that says what a graph means: f64 throughout, one loop per operator.

use crate::dim::Dim;
use crate::graph::*;

/// A dense tensor.
#[derive(Clone, Debug)]
pub(super) struct Array {
    pub(super) shape: Vec<usize>,
    pub(super) data: Vec<f64>,
}

impl Array {
    fn build(shape: Vec<usize>, f: impl Fn(&[usize]) -> f64) -> Array {
        let data = indices(&shape).iter().map(|index| f(index)).collect();
        Array { shape, data }
    }

    fn at(&self, index: &[usize]) -> f64 {
        self.data[index.iter().zip(&self.shape).fold(0, |at, (i, size)| at * size + i)]
    }

    /// The element that broadcasting to a larger shape puts at `index`.
    fn broadcast_at(&self, index: &[usize]) -> f64 {
        let index = &index[index.len() - self.shape.len()..];
        let own: Vec<usize> = index
            .iter()
            .zip(&self.shape)
            .map(|(i, size)| if *size == 1 { 0 } else { *i })
            .collect();
        self.at(&own)
    }
}

/// Every index of a shape, in row-major order.
fn indices(shape: &[usize]) -> Vec<Vec<usize>> {
    let mut all = vec![vec![]];
    for size in shape {
        all = all
            .iter()
            .flat_map(|head| (0..*size).map(move |i| [head.as_slice(), &[i]].concat()))
            .collect();
    }
    all
}

/// The outputs of a graph for these inputs and values of the symbols.
pub(super) fn run(graph: &Graph, inputs: &[Array], symbols: &[i64]) -> Vec<Array> {
    let mut values: Vec<Option<Array>> = vec![None; graph.values.len()];
    for (value, slot) in graph.values.iter().zip(&mut values) {
        *slot = value.constant.as_ref().map(|tensor| Array {
            shape: tensor.shape.clone(),
            data: if tensor.dtype.is_float() {
                tensor.to_f32().into_iter().map(f64::from).collect()
            } else {
                tensor.to_i64().into_iter().map(|v| v as f64).collect()
            },
        });
    }
    for (id, array) in graph.inputs.iter().zip(inputs) {
        values[id.0 as usize] = Some(array.clone());
    }
    for node in &graph.nodes {
        let operands: Vec<Option<Array>> = node
            .inputs
            .iter()
            .map(|id| id.map(|id| values[id.0 as usize].clone().expect("made before")))
            .collect();
        let shapes = node.outputs.iter().map(|y| evaluated(&graph.value(*y).shape, symbols));
        let shapes: Vec<Vec<usize>> = shapes.collect();
        let results = match &node.op {
            Op::TopK { axis, smallest } => {
                let x = operands[0].as_ref().expect("first operand");
                top_k(x, *axis, *smallest, &shapes[0]).to_vec()
            }
            Op::Recurrent(layer) => {
                let operands: Vec<Option<&Array>> = operands.iter().map(Option::as_ref).collect();
                recurrent(layer, &operands).to_vec()
            }
            _ => vec![eval(graph, node, &operands, shapes[0].clone(), symbols)],
        };
        for ((y, result), shape) in node.outputs.iter().zip(results).zip(shapes) {
            assert_eq!(result.shape, shape, "{:?} {}", node.op, node.name);
            values[y.0 as usize] = Some(result);
        }
    }
    graph.outputs.iter().map(|id| values[id.0 as usize].clone().expect("made")).collect()
}

pub(super) fn evaluated(dims: &[Dim], symbols: &[i64]) -> Vec<usize> {
    dims.iter().map(|d| d.eval(symbols).expect("known") as usize).collect()
}

fn eval(
    graph: &Graph,
    node: &Node,
    x: &[Option<Array>],
    shape: Vec<usize>,
    symbols: &[i64],
) -> Array {
    let operand = |k: usize| x.get(k).and_then(Option::as_ref);
    let a = operand(0).expect("first operand");
    let b = || operand(1).expect("second operand");
    let quant = |id: ValueId| graph.value(id).quant.clone().expect("quantized");
    let scale_at = |q: &Quant, index: &[usize]| {
        let k = q.axis.map_or(0, |axis| index[axis]);
        (f64::from(q.scale[k]), f64::from(q.zero_point[k]))
    };
    match &node.op {
        Op::Conv(conv) => {
            let (w, bias, residual) = (b(), operand(2), operand(3));
            let per_group = w.shape[w.shape.len() - 1];
            Array::build(shape.clone(), |at| {
                let o = at[at.len() - 1];
                let group = o / (shape[shape.len() - 1] / conv.groups);
                let mut sum = bias.map_or(0.0, |b| b.data[o]);
                for k in indices(&w.shape[1..]) {
                    let Some(place) = window(conv, a, at, &k) else { continue };
                    let channel = group * per_group + k[k.len() - 1];
                    let from = [&[at[0]], place.as_slice(), &[channel]].concat();
                    sum += a.at(&from) * w.at(&[&[o], k.as_slice()].concat());
                }
                sum += residual.map_or(0.0, |r| r.at(at));
                clamped(sum, conv.clamp)
            })
        }
        Op::MatMul(m) => Array::build(shape, |at| {
            let (row, column) = (at[at.len() - 2], at[at.len() - 1]);
            let inner = a.shape[a.shape.len() - if m.transpose_a { 2 } else { 1 }];
            let mut sum = operand(2).map_or(0.0, |b| b.data[column]);
            for k in 0..inner {
                let swap = |flip: bool, i, j| if flip { [j, i] } else { [i, j] };
                let head = &at[..at.len() - 2];
                let left = a.broadcast_at(&[head, &swap(m.transpose_a, row, k)].concat());
                sum += left * b().broadcast_at(&[head, &swap(m.transpose_b, k, column)].concat());
            }
            sum += operand(3).map_or(0.0, |r| r.at(at));
            clamped(sum, m.clamp)
        }),
        Op::Pool(p) => Array::build(shape, |at| {
            assert_eq!(p.kind, PoolKind::Max);
            indices(&p.kernel).iter().fold(f64::NEG_INFINITY, |max, k| {
                let place = [at[0], at[1] * p.stride[0] + k[0], at[2] * p.stride[1] + k[1], at[3]];
                max.max(a.at(&place))
            })
        }),
        Op::BatchNorm { epsilon } => Array::build(shape, |at| {
            let c = at[at.len() - 1];
            let vector = |k: usize| operand(k).expect("statistics").data[c];
            let (scale, bias, mean, var) = (vector(1), vector(2), vector(3), vector(4));
            (a.at(at) - mean) / (var + f64::from(*epsilon)).sqrt() * scale + bias
        }),
        Op::Binary(kind) => Array::build(shape, |at| {
            let (a, b) = (a.broadcast_at(at), b().broadcast_at(at));
            match kind {
                BinaryKind::Add => a + b,
                BinaryKind::Sub => a - b,
                BinaryKind::Mul => a * b,
                BinaryKind::Div => a / b,
                BinaryKind::Pow => a.powf(b),
                BinaryKind::Min => a.min(b),
                BinaryKind::Max => a.max(b),
                other => unimplemented!("{other:?}"),
            }
        }),
        Op::Compare(kind) => Array::build(shape, |at| {
            let (a, b) = (a.broadcast_at(at), b().broadcast_at(at));
            f64::from(match kind {
                CompareKind::Equal => a == b,
                CompareKind::Less => a < b,
                CompareKind::LessOrEqual => a <= b,
                CompareKind::Greater => a > b,
                CompareKind::GreaterOrEqual => a >= b,
            })
        }),
        Op::Unary(kind) => Array::build(shape, |at| {
            super::super::functions::eval_unary(*kind, a.at(at)).expect("known function")
        }),
        Op::Cast => a.clone(),
        Op::Softmax { axis, log } => Array::build(shape.clone(), |at| {
            let row: Vec<f64> = (0..shape[*axis]).map(|i| a.at(&moved(at, *axis, i))).collect();
            let sum: f64 = row.iter().map(|x| x.exp()).sum();
            if *log { a.at(at) - sum.ln() } else { a.at(at).exp() / sum }
        }),
        Op::Interpolate { axis } => Array::build(shape, |at| {
            let (indices, weights) = (b(), operand(2).expect("weights"));
            let tap = |t: usize| {
                let from = indices.at(&[at[*axis], t]) as usize;
                weights.at(&[at[*axis], t]) * a.at(&moved(at, *axis, from))
            };
            (0..indices.shape[1]).map(tap).sum()
        }),
        Op::GatherElements { axis } => {
            Array::build(shape, |at| a.at(&moved(at, *axis, counted(b().at(at), a.shape[*axis]))))
        }
        Op::ScatterElements { axis, reduction } => {
            let (places, updates) = (b(), operand(2).expect("updates"));
            Array::build(shape, |at| {
                // Every update in order, of which most go elsewhere.
                indices(&places.shape).iter().fold(a.at(at), |y, from| {
                    let to = counted(places.at(from), a.shape[*axis]);
                    if moved(from, *axis, to) != at {
                        return y;
                    }
                    let update = updates.at(from);
                    match reduction {
                        ScatterReduction::Replace => update,
                        ScatterReduction::Add => y + update,
                        ScatterReduction::Mul => y * update,
                        ScatterReduction::Max => y.max(update),
                        ScatterReduction::Min => y.min(update),
                    }
                })
            })
        }
        Op::Normalize { kind, axis, epsilon } => {
            let rows = indices(&a.shape[*axis..]);
            Array::build(shape, |at| {
                let (head, tail) = at.split_at(*axis);
                let row: Vec<f64> = rows.iter().map(|i| a.at(&[head, i].concat())).collect();
                let mean_of = |values: &[f64]| values.iter().sum::<f64>() / values.len() as f64;
                let mean = if *kind == NormKind::Layer { mean_of(&row) } else { 0.0 };
                let squares: Vec<f64> = row.iter().map(|x| (x - mean) * (x - mean)).collect();
                let root = (mean_of(&squares) + f64::from(*epsilon)).sqrt();
                let scale = operand(1).map_or(1.0, |scale| scale.at(tail));
                (a.at(at) - mean) / root * scale + operand(2).map_or(0.0, |bias| bias.at(tail))
            })
        }
        Op::Where => Array::build(shape, |at| {
            let chosen = if a.broadcast_at(at) != 0.0 { b() } else { operand(2).expect("third") };
            chosen.broadcast_at(at)
        }),
        Op::Attention(attention) => {
            let (k, v, mask) = (b(), operand(2).expect("values"), operand(3));
            let offset = attention.causal.as_ref().map(|dim| dim.eval(symbols).expect("known"));
            let group = a.shape[1] / k.shape[1];
            let keys = k.shape[2];
            Array::build(shape, |at| {
                let [n, head, i, c] = at else { unreachable!("four axes") };
                let score = |j: usize| {
                    let dot: f64 = (0..a.shape[3])
                        .map(|c| a.at(&[*n, *head, *i, c]) * k.at(&[*n, head / group, j, c]))
                        .sum();
                    let cap = f64::from(attention.softcap);
                    let scaled = dot * f64::from(attention.scale);
                    let bent = if cap > 0.0 { cap * (scaled / cap).tanh() } else { scaled };
                    let hidden = offset.is_some_and(|offset| j as i64 > *i as i64 + offset);
                    let added = mask.map_or(0.0, |mask| mask.broadcast_at(&[*n, *head, *i, j]));
                    if hidden { f64::NEG_INFINITY } else { bent + added }
                };
                let scores: Vec<f64> = (0..keys).map(score).collect();
                if attention.zero_rows && scores.iter().all(|s| *s == f64::NEG_INFINITY) {
                    return 0.0;
                }
                let sum: f64 = scores.iter().map(|s| s.exp()).sum();
                let value = |j: usize| scores[j].exp() / sum * v.at(&[*n, head / group, j, *c]);
                (0..keys).map(value).sum()
            })
        }
        Op::Concat { axis } => Array::build(shape, |at| {
            let mut i = at[*axis];
            for part in x.iter().flatten() {
                if i < part.shape[*axis] {
                    return part.at(&[&at[..*axis], &[i], &at[axis + 1..]].concat());
                }
                i -= part.shape[*axis];
            }
            unreachable!("the sizes add up")
        }),
        Op::Slice { starts, steps } => Array::build(shape, |at| {
            let from = |i: usize| {
                let start = starts[i].eval(symbols).expect("known");
                (start + steps[i] * at[i] as i64) as usize
            };
            a.at(&(0..at.len()).map(from).collect::<Vec<_>>())
        }),
        Op::Transpose { perm } => Array::build(shape, |at| {
            let mut from = vec![0; at.len()];
            for (i, p) in perm.iter().enumerate() {
                from[*p] = at[i];
            }
            a.at(&from)
        }),
        Op::Reshape => Array { shape, data: a.data.clone() },
        Op::Expand => Array::build(shape, |at| a.broadcast_at(at)),
        Op::Pad { before, mode: PadMode::Constant(value), .. } => Array::build(shape, |at| {
            let from: Option<Vec<usize>> = (0..at.len())
                .map(|i| at[i].checked_sub(before[i]).filter(|from| *from < a.shape[i]))
                .collect();
            from.map_or(f64::from(*value), |from| a.at(&from))
        }),
        Op::Gather { axis } => Array::build(shape, |at| {
            let (head, rest) = at.split_at(*axis);
            let (index, tail) = rest.split_at(b().shape.len());
            a.at(&[head, &[counted(b().at(index), a.shape[*axis])], tail].concat())
        }),
        Op::Quantize => {
            let q = quant(node.outputs[0]);
            Array::build(shape, |at| {
                let (scale, zero) = scale_at(&q, at);
                ((a.at(at) / scale).round_ties_even() + zero).clamp(-128.0, 127.0)
            })
        }
        Op::Dequantize => {
            let q = quant(node.inputs[0].expect("input"));
            Array::build(shape, |at| {
                let (scale, zero) = scale_at(&q, at);
                scale * (a.at(at) - zero)
            })
        }
        Op::Reduce { kind, axes, keep_dims } => {
            let sizes: Vec<usize> = axes.iter().map(|axis| a.shape[*axis]).collect();
            Array::build(shape, |at| {
                let mut full = at.to_vec();
                if !keep_dims {
                    axes.iter().for_each(|axis| full.insert(*axis, 0));
                }
                let all = indices(&sizes);
                let elements = all.iter().map(|index| {
                    axes.iter().zip(index).for_each(|(axis, i)| full[*axis] = *i);
                    a.at(&full)
                });
                match kind {
                    ReduceKind::Sum => elements.sum(),
                    ReduceKind::Mean => elements.sum::<f64>() / all.len() as f64,
                    ReduceKind::Max => elements.fold(f64::NEG_INFINITY, f64::max),
                    ReduceKind::Min => elements.fold(f64::INFINITY, f64::min),
                    ReduceKind::Prod => elements.product(),
                    ReduceKind::L1 => elements.map(f64::abs).sum(),
                    ReduceKind::L2 => elements.map(|x| x * x).sum::<f64>().sqrt(),
                    ReduceKind::SumSquare => elements.map(|x| x * x).sum(),
                    ReduceKind::LogSum => elements.sum::<f64>().ln(),
                    ReduceKind::LogSumExp => elements.map(f64::exp).sum::<f64>().ln(),
                }
            })
        }
        other => unimplemented!("{other:?}"),
    }
}

/// The first elements along an axis in order of size, as many as `shape` has, and their indices.
fn top_k(x: &Array, axis: usize, smallest: bool, shape: &[usize]) -> [Array; 2] {
    let ranked = |at: &[usize]| {
        let mut row: Vec<(f64, usize)> =
            (0..x.shape[axis]).map(|i| (x.at(&moved(at, axis, i)), i)).collect();
        // A stable sort leaves equals in the order of their indices.
        row.sort_by(|(a, _), (b, _)| if smallest { a.total_cmp(b) } else { b.total_cmp(a) });
        row[at[axis]]
    };
    [
        Array::build(shape.to_vec(), |at| ranked(at).0),
        Array::build(shape.to_vec(), |at| ranked(at).1 as f64),
    ]
}

/// The index with another position along one axis.
fn moved(at: &[usize], axis: usize, to: usize) -> Vec<usize> {
    [&at[..axis], &[to], &at[axis + 1..]].concat()
}

/// An index that may count from the end.
fn counted(index: f64, size: usize) -> usize {
    (if index < 0.0 { index + size as f64 } else { index }) as usize
}

/// One direction of an LSTM or GRU from its first time step on, sequence by sequence, as the formulas
/// of the ONNX operator reference.
fn recurrent(layer: &Recurrent, operands: &[Option<&Array>]) -> [Array; 3] {
    assert_eq!(layer.backwards, [false]);
    assert_eq!(layer.clip, f32::INFINITY);
    let operand = |k: usize| operands.get(k).copied().flatten();
    assert!(operand(2).is_none(), "lengths");
    let (x, weights) = (operand(0).expect("gates"), operand(1).expect("weights"));
    let (time, batch, hidden) = (x.shape[0], x.shape[1], weights.shape[1]);
    let function = |index: usize, x: f64| match layer.functions[index] {
        Some((whit::format::RecurrentFunction::Sigmoid, ..)) => 1.0 / (1.0 + (-x).exp()),
        Some((whit::format::RecurrentFunction::HardSigmoid, alpha, beta)) => {
            (f64::from(alpha) * x + f64::from(beta)).clamp(0.0, 1.0)
        }
        Some((whit::format::RecurrentFunction::Tanh, ..)) => x.tanh(),
        other => unimplemented!("{other:?}"),
    };
    let zeros = || Array { shape: vec![1, batch, hidden], data: vec![0.0; batch * hidden] };
    let mut every =
        Array { shape: vec![time, 1, batch, hidden], data: vec![0.0; time * batch * hidden] };
    let mut state = operand(3).cloned().unwrap_or_else(zeros);
    let lstm = layer.kind == RecurrentKind::Lstm;
    let mut cell = operand(4).filter(|_| lstm).cloned().unwrap_or_else(zeros);
    for t in 0..time {
        for row in 0..batch {
            let h: Vec<f64> = (0..hidden).map(|k| state.at(&[0, row, k])).collect();
            let product = |weights: &Array, column: usize, h: &[f64]| -> f64 {
                (0..hidden).map(|k| h[k] * weights.at(&[0, k, column])).sum()
            };
            let gate = |gate: usize, j: usize| x.at(&[t, row, gate * hidden + j]);
            let sum = |at: usize, j: usize| gate(at, j) + product(weights, at * hidden + j, &h);
            let reset: Vec<f64> = match lstm {
                true => vec![],
                false => (0..hidden).map(|j| function(0, sum(1, j))).collect(),
            };
            for j in 0..hidden {
                let new = if lstm {
                    assert!(!layer.variant && operand(5).is_none());
                    let [i, o, f] = [0, 1, 2].map(|at| function(0, sum(at, j)));
                    let c = &mut cell.data[row * hidden + j];
                    *c = f * *c + i * function(1, sum(3, j));
                    o * function(2, *c)
                } else {
                    let z = function(0, sum(0, j));
                    let candidate = operand(4).expect("candidate");
                    let bias = operand(5).map_or(0.0, |bias| bias.at(&[0, j]));
                    let share = match layer.variant {
                        true => reset[j] * (product(candidate, j, &h) + bias),
                        false => {
                            let seen: Vec<f64> = h.iter().zip(&reset).map(|(h, r)| h * r).collect();
                            product(candidate, j, &seen) + bias
                        }
                    };
                    (1.0 - z) * function(1, gate(2, j) + share) + z * h[j]
                };
                state.data[row * hidden + j] = new;
                every.data[(t * batch + row) * hidden + j] = new;
            }
        }
    }
    [every, state, cell]
}

/// Where a kernel position reads, when that is inside the input.
fn window(conv: &Conv, x: &Array, at: &[usize], k: &[usize]) -> Option<Vec<usize>> {
    (0..conv.kernel.len())
        .map(|i| {
            let place = at[i + 1] * conv.stride[i] + k[i] * conv.dilation[i];
            place.checked_sub(conv.pad_before[i]).filter(|place| *place < x.shape[i + 1])
        })
        .collect()
}

fn clamped(value: f64, clamp: Clamp) -> f64 {
    value.max(f64::from(clamp.min)).min(f64::from(clamp.max))
}

#[test]
fn indexed_elements() {
    // [[1, 5, 3], [4, 2, 4]], and numbers by hand for what is selected from it.
    let x = Array { shape: vec![2, 3], data: vec![1.0, 5.0, 3.0, 4.0, 2.0, 4.0] };
    let [values, places] = top_k(&x, 1, false, &[2, 2]);
    assert_eq!((values.data, places.data), (vec![5.0, 3.0, 4.0, 4.0], vec![1.0, 2.0, 0.0, 2.0]));
    let [values, places] = top_k(&x, 0, true, &[1, 3]);
    assert_eq!((values.data, places.data), (vec![1.0, 2.0, 3.0], vec![0.0, 1.0, 0.0]));

    struct Case {
        op: Op,
        indices: [f64; 4],
        third: [f64; 4],
        expected: &'static [f64],
    }
    let scatter = |reduction| Op::ScatterElements { axis: 1, reduction };
    #[rustfmt::skip]
    let cases = [
        Case { op: Op::GatherElements { axis: 1 }, indices: [2.0, -2.0, 0.0, 0.0], third: [0.0; 4],
            expected: &[3.0, 5.0, 4.0, 4.0] },
        Case { op: scatter(ScatterReduction::Replace), indices: [0.0, 0.0, -1.0, 1.0],
            third: [7.0, 8.0, 9.0, 6.0], expected: &[8.0, 5.0, 3.0, 4.0, 6.0, 9.0] },
        Case { op: scatter(ScatterReduction::Add), indices: [0.0, 0.0, -1.0, 1.0],
            third: [7.0, 8.0, 9.0, 6.0], expected: &[16.0, 5.0, 3.0, 4.0, 8.0, 13.0] },
        Case { op: Op::Interpolate { axis: 1 }, indices: [0.0, 1.0, 2.0, 2.0],
            third: [0.5, 0.5, 2.0, 1.0], expected: &[3.0, 9.0, 3.0, 12.0] },
    ];
    for Case { op, indices, third, expected } in cases {
        let square = |data: [f64; 4]| Some(Array { shape: vec![2, 2], data: data.to_vec() });
        let shape = vec![2, expected.len() / 2];
        let node = Node { name: "n".into(), op, inputs: vec![], outputs: vec![] };
        let operands = [Some(x.clone()), square(indices), square(third)];
        let y = eval(&Graph::default(), &node, &operands, shape, &[]);
        assert_eq!(y.data, expected, "{:?}", node.op);
    }
}
