//! Layers computed in bands of rows, so that less memory is needed: a band goes through all layers of a region before the next one
//! begins (depth first), and of what lies between them only a window is ever stored.
//!
//! The graph says all of it: a layer becomes one layer per band, over slices of its input, and its results are joined where
//! somebody reads them whole. Rows that the next band needs again, too, are copied to the top of its window. No row is computed
//! twice, and every element comes from the same numbers as without bands. The method is known from MCUNetV2 (Lin et al., 2021,
//! patches, which are computed twice where they overlap) and fused-layer accelerators (Alwani et al., 2016).

mod choose;
#[cfg(test)]
mod tests;

pub(super) use choose::shrink;

use std::collections::HashSet;
use std::ops::Range;

use crate::dim::Dim;
use crate::graph::{
    Conv, CoordinateMode, Graph, NearestRounding, Node, Op, Pool, ResizeMode, ValueId,
};

/// Behind the name of a value in the names of its parts.
const PART: &str = "/rows";

/// The axis of rows in NHWC.
const ROWS: usize = 1;

/// Which rows of an operand rows of the result need: row `r` those from `r / repeat * stride - before` on, `span` of them.
#[derive(Clone, Copy, Debug, PartialEq)]
struct Reach {
    /// Rows of the result that come from the same rows; pieces begin at multiples of it.
    repeat: usize,
    stride: usize,
    before: usize,
    span: usize,
}

impl Reach {
    const SAME: Reach = Reach { repeat: 1, stride: 1, before: 0, span: 1 };

    fn window(kernel: usize, stride: usize, dilation: usize, before: usize) -> Reach {
        Reach { stride, before, span: (kernel - 1) * dilation + 1, ..Reach::SAME }
    }

    /// First row that the result's rows from `row` on need.
    fn start(&self, row: usize) -> usize {
        (row / self.repeat * self.stride).saturating_sub(self.before)
    }

    /// Rows that `rows` of the result need of an operand with `height` rows, and how many are missing before and behind them.
    fn operand(&self, rows: &Range<usize>, height: usize) -> (Range<usize>, [usize; 2]) {
        let start = rows.start / self.repeat * self.stride;
        let end = (rows.end.div_ceil(self.repeat) - 1) * self.stride + self.span;
        let before = self.before.saturating_sub(start);
        let after = end.saturating_sub(self.before + height);
        (self.start(rows.start)..end.saturating_sub(self.before).min(height), [before, after])
    }
}

/// A node that can be computed in bands.
struct Banded {
    /// How each operand is read; `None`: whole, by every band.
    operands: Vec<Option<Reach>>,
    height: usize,
    /// Bytes of a row of the result.
    row_bytes: usize,
}

impl Banded {
    fn of(graph: &Graph, node: &Node) -> Option<Banded> {
        let [made] = node.outputs[..] else { return None };
        let value = graph.value(made);
        let [1, height, width, channels] = value.const_shape()?[..] else { return None };
        let window = match &node.op {
            Op::Conv(conv) if conv.kernel.len() == 2 => {
                Reach::window(conv.kernel[0], conv.stride[0], conv.dilation[0], conv.pad_before[0])
            }
            Op::Pool(Pool { kernel, stride, dilation, pad_before, .. }) if kernel.len() == 2 => {
                Reach::window(kernel[0], stride[0], dilation[0], pad_before[0])
            }
            Op::Unary(_) | Op::Lut { .. } | Op::Quantize | Op::Dequantize | Op::Cast => Reach::SAME,
            Op::Binary(_) | Op::Concat { axis: 3 } => Reach::SAME,
            Op::Softmax { axis: 3, .. } => Reach::SAME,
            Op::Resize { mode: ResizeMode::Nearest(rounding), coordinates, scales } => {
                use NearestRounding::{Floor, RoundPreferCeil, RoundPreferFloor};
                let x = graph.value(node.inputs[0]?).const_shape()?;
                let repeat = height / x.get(ROWS)?.max(&1);
                // Row `r` is row `r / repeat` of x, which bands keep, for a scale that is a whole number.
                let repeats = match coordinates {
                    CoordinateMode::HalfPixel | CoordinateMode::PytorchHalfPixel => {
                        matches!(rounding, RoundPreferFloor | RoundPreferCeil)
                    }
                    CoordinateMode::Asymmetric => *rounding == Floor,
                    CoordinateMode::AlignCorners => false,
                };
                let is_whole = repeat > 0 && *scales.get(ROWS)? == repeat as f32;
                (repeats && is_whole).then_some(Reach { repeat, ..Reach::SAME })?
            }
            _ => return None,
        };
        let operand = |(index, id): (usize, &Option<ValueId>)| {
            let Some(id) = *id else { return Some(None) };
            let is_constant = graph.constant(id).is_some();
            if matches!(node.op, Op::Conv(_)) && (1..=2).contains(&index) {
                return is_constant.then_some(None);
            }
            let shape = &graph.value(id).shape;
            if matches!(node.op, Op::Binary(_)) && has_no_rows(shape) {
                return Some(None);
            }
            let [1, rows, ..] = graph.value(id).const_shape()?[..] else { return None };
            let is_state = graph.states.iter().any(|state| state.read == id);
            // The residual of a convolution has the result's rows.
            let reach = if index == 0 { window } else { Reach::SAME };
            let fits = match reach {
                Reach { repeat, stride: 1, before: 0, span: 1 } => rows * repeat == height,
                _ => (0..height).all(|row| !reach.operand(&(row..row + 1), rows).0.is_empty()),
            };
            (shape.len() == 4 && fits && !is_constant && !is_state).then_some(Some(reach))
        };
        let operands = node.inputs.iter().enumerate().map(operand).collect::<Option<Vec<_>>>()?;
        let row_bytes = width * channels * value.dtype.size();
        operands.iter().any(Option::is_some).then_some(Banded { operands, height, row_bytes })
    }

    fn bytes(&self) -> usize {
        self.height * self.row_bytes
    }
}

/// Whether a tensor is the same for all rows of the NHWC tensor that it broadcasts to.
fn has_no_rows(shape: &[Dim]) -> bool {
    shape.len() < 3 || shape[shape.len() - 3].is(1)
}

/// Consecutive nodes that are computed together.
struct Region<'b> {
    /// The first node.
    first: usize,
    nodes: Vec<&'b Banded>,
    /// By node: the nodes of the region that read its result, and how.
    readers: Vec<Vec<(usize, Reach)>>,
    /// By node: whether the result is read outside.
    is_result: Vec<bool>,
}

impl Region<'_> {
    /// Rows that are there of each node's result after each band.
    fn ends(&self, bands: usize) -> Vec<Vec<usize>> {
        let count = self.nodes.len();
        let after = |band: usize| {
            let mut ends = vec![0; count];
            for node in (0..count).rev() {
                let height = self.nodes[node].height;
                let wanted =
                    if self.is_result[node] { (height * (band + 1)).div_ceil(bands) } else { 0 };
                let needed = self.readers[node].iter().filter(|(reader, _)| ends[*reader] > 0);
                let needed =
                    needed.map(|(reader, reach)| reach.operand(&(0..ends[*reader]), height).0.end);
                let repeat = self.nodes[node].operands.iter().flatten().map(|reach| reach.repeat);
                let end = needed.fold(wanted, usize::max);
                ends[node] = end.next_multiple_of(repeat.max().unwrap_or(1)).min(height);
            }
            ends
        };
        (0..bands).map(after).collect()
    }

    /// The first row of a node's result that a reader still needs, after so many rows of the others.
    fn kept_from(&self, node: usize, ends: &[usize], last: &[usize]) -> Option<usize> {
        let unfinished =
            self.readers[node].iter().filter(|(reader, _)| ends[*reader] < last[*reader]);
        unfinished.map(|(reader, reach)| reach.start(ends[*reader])).min()
    }

    /// Rows of each node's result that a band computes, and from where on older ones are kept.
    fn windows(&self, before: &[usize], after: &[usize], last: &[usize]) -> Vec<Range<usize>> {
        let of = |node: usize| {
            let kept = self.kept_from(node, before, last).unwrap_or(usize::MAX);
            kept.min(before[node])..after[node]
        };
        (0..self.nodes.len()).map(of).collect()
    }

    /// Bytes of all windows, the largest of each, given the rows after each band. A window that begins with rows of the one
    /// before is there twice while they are copied.
    fn window_bytes(&self, ends: &[Vec<usize>]) -> usize {
        let last = &ends[ends.len() - 1];
        let mut before = &vec![0; self.nodes.len()];
        let mut most = vec![0; self.nodes.len()];
        for after in ends {
            let windows = self.windows(before, after, last);
            for (node, rows) in
                windows.into_iter().enumerate().filter(|(node, _)| !self.is_result[*node])
            {
                let times = if rows.start < before[node] { 2 } else { 1 };
                most[node] = most[node].max(times * rows.len() * self.nodes[node].row_bytes);
            }
            before = after;
        }
        most.iter().sum()
    }
}

/// What is known of a graph's nodes for computing some of them in bands.
struct Layers<'g> {
    graph: &'g Graph,
    banded: Vec<Option<Banded>>,
    producers: Vec<Option<usize>>,
    consumers: Vec<Vec<usize>>,
    results: HashSet<ValueId>,
}

impl<'g> Layers<'g> {
    fn of(graph: &'g Graph) -> Layers<'g> {
        Layers {
            graph,
            banded: graph.nodes.iter().map(|node| Banded::of(graph, node)).collect(),
            producers: graph.producers(),
            consumers: graph.consumers(),
            results: graph.results().collect(),
        }
    }

    /// Nodes as a region; `None` if one of them can't be in one.
    fn region(&self, nodes: Range<usize>) -> Option<Region<'_>> {
        let graph = self.graph;
        let mut readers = vec![Vec::new(); nodes.len()];
        for node in nodes.clone() {
            let operands = &self.banded[node].as_ref()?.operands;
            for (id, reach) in graph.nodes[node].inputs.iter().zip(operands) {
                let maker = id.and_then(|id| self.producers[id.0 as usize]);
                if let (Some(maker), Some(reach)) =
                    (maker.filter(|maker| nodes.contains(maker)), reach)
                {
                    readers[maker - nodes.start].push((node - nodes.start, *reach));
                }
            }
        }
        let is_result = nodes.clone().map(|node| {
            let made = graph.nodes[node].outputs[0];
            let is_outside = |reader: &usize| !nodes.contains(reader);
            self.results.contains(&made) || self.consumers[made.0 as usize].iter().any(is_outside)
        });
        Some(Region {
            first: nodes.start,
            nodes: self.banded[nodes.clone()].iter().map(Option::as_ref).collect::<Option<_>>()?,
            readers,
            is_result: is_result.collect(),
        })
    }

    /// The graph with regions in so many bands each. Regions are apart and in order.
    fn cut(&self, regions: &[(Range<usize>, usize)]) -> Graph {
        let mut cut = Graph { nodes: Vec::new(), ..self.graph.clone() };
        let mut done = 0;
        for (nodes, bands) in regions {
            let Some(region) = self.region(nodes.clone()) else { continue };
            cut.nodes.extend_from_slice(&self.graph.nodes[done..nodes.start]);
            region.write(self.graph, &region.ends(*bands), &mut cut);
            done = nodes.end;
        }
        cut.nodes.extend_from_slice(&self.graph.nodes[done..]);
        cut
    }
}

/// Rows of a value that are there.
#[derive(Clone)]
struct Window {
    value: ValueId,
    rows: Range<usize>,
}

impl Region<'_> {
    /// Adds the region's nodes to `cut`, band by band.
    fn write(&self, graph: &Graph, ends: &[Vec<usize>], cut: &mut Graph) {
        let count = self.nodes.len();
        let last = &ends[ends.len() - 1];
        let mut windows: Vec<Option<Window>> = vec![None; count];
        let mut pieces: Vec<Vec<ValueId>> = vec![Vec::new(); count];
        let mut before = vec![0; count];
        for after in ends {
            for node in 0..count {
                let rows = before[node]..after[node];
                if rows.is_empty() {
                    continue;
                }
                let piece = self.write_piece(graph, node, &rows, &windows, cut);
                pieces[node].push(piece);
                let mut window = Window { value: piece, rows: rows.clone() };
                let kept = self.kept_from(node, &before, last).filter(|kept| *kept < rows.start);
                if let (Some(kept), Some(old)) = (kept, &windows[node]) {
                    let tail = old.slice(cut, &(kept..rows.start));
                    let rows = kept..rows.end;
                    let name = &graph.nodes[self.first + node].name;
                    let value = join(cut, name, &rows, &[tail, piece], None);
                    window = Window { value, rows };
                }
                windows[node] = Some(window);
            }
            before.clone_from(after);
        }
        for node in (0..count).filter(|node| self.is_result[*node]) {
            let made = graph.nodes[self.first + node].outputs[0];
            let name = &graph.nodes[self.first + node].name;
            join(cut, name, &(0..last[node]), &pieces[node], Some(made));
        }
    }

    /// Adds a node that computes rows of a node's result.
    fn write_piece(
        &self,
        graph: &Graph,
        node: usize,
        rows: &Range<usize>,
        windows: &[Option<Window>],
        cut: &mut Graph,
    ) -> ValueId {
        let whole = &graph.nodes[self.first + node];
        let made = whole.outputs[0];
        let mut op = whole.op.clone();
        let mut inputs = whole.inputs.clone();
        for (index, reach) in self.nodes[node].operands.iter().enumerate() {
            let (Some(id), Some(reach)) = (inputs[index], reach) else { continue };
            let height = height(graph, id);
            let (needed, pads) = reach.operand(rows, height);
            if index == 0 {
                set_pads(&mut op, pads);
            }
            let maker = (0..node).find(|maker| graph.nodes[self.first + maker].outputs[0] == id);
            let window = maker.and_then(|maker| windows[maker].clone());
            let window = window.unwrap_or(Window { value: id, rows: 0..height });
            inputs[index] = Some(window.slice(cut, &needed));
        }
        let piece = add_rows(cut, made, rows);
        cut.nodes.push(Node { name: whole.name.clone(), op, inputs, outputs: vec![piece] });
        piece
    }
}

impl Window {
    /// Some of the rows, as a value.
    fn slice(&self, cut: &mut Graph, rows: &Range<usize>) -> ValueId {
        if *rows == self.rows {
            return self.value;
        }
        let from = rows.start - self.rows.start;
        let slice = add_rows(cut, self.value, &(from..from + rows.len()));
        let starts = [0, from, 0, 0].map(Dim::from).to_vec();
        let op = Op::Slice { starts, steps: vec![1; 4] };
        let name = cut.value(slice).name.clone();
        cut.nodes.push(Node { name, op, inputs: vec![Some(self.value)], outputs: vec![slice] });
        slice
    }
}

fn height(graph: &Graph, id: ValueId) -> usize {
    graph.value(id).const_shape().map_or(0, |shape| shape[ROWS])
}

/// A value like `of` with some of its rows.
fn add_rows(cut: &mut Graph, of: ValueId, rows: &Range<usize>) -> ValueId {
    let of = cut.value(of).clone();
    let mut shape = of.shape;
    shape[ROWS] = Dim::from(rows.len());
    let name = if of.name.ends_with(PART) { of.name } else { of.name + PART };
    let id = cut.add_value(name, of.dtype, shape);
    cut.value_mut(id).quant = of.quant;
    id
}

/// Joins pieces into `made`, or into a new value.
fn join(
    cut: &mut Graph,
    name: &str,
    rows: &Range<usize>,
    pieces: &[ValueId],
    made: Option<ValueId>,
) -> ValueId {
    let joined = made.unwrap_or_else(|| add_rows(cut, pieces[0], rows));
    let inputs = pieces.iter().map(|piece| Some(*piece)).collect();
    cut.nodes.push(Node {
        name: name.to_owned(),
        op: Op::Concat { axis: ROWS },
        inputs,
        outputs: vec![joined],
    });
    joined
}

fn set_pads(op: &mut Op, [before, after]: [usize; 2]) {
    match op {
        Op::Conv(Conv { pad_before, pad_after, .. })
        | Op::Pool(Pool { pad_before, pad_after, .. }) => {
            pad_before[0] = before;
            // A pooling may reach beyond its padding, which is no part of an average.
            pad_after[0] = after.min(pad_after[0]);
        }
        _ => (),
    }
}
