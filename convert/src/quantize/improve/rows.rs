//! What a layer multiplies with its weights: rows of its input, one for each place of its output.

use crate::graph::{Graph, Node, Op};
use crate::quantize::numbers::weights_of;

/// How a convolution or a fully connected layer reads its input. A row has the elements under the kernel in the order
/// kernel row, kernel column, channel; those of padding are 0.
#[derive(PartialEq)]
pub(super) struct Reads {
    /// Elements of a row, of all groups.
    pub(super) row_elems: usize,
    /// Channels of the input.
    pub(super) channels: usize,
    /// Groups of channels.
    pub(super) groups: usize,
    /// The input's axes but the last; at most one is unknown until it is run.
    outer: Vec<Option<usize>>,
    /// Kernel, stride, dilation, padding before and after, by spatial axis.
    axes: Vec<[usize; 5]>,
}

impl Reads {
    /// How a node reads; `None` when it packs no weights, or several sizes of its input are known only when it is
    /// run.
    pub(super) fn of(graph: &Graph, node: &Node) -> Option<Reads> {
        let weights = weights_of(graph, node)?;
        match &node.op {
            Op::Conv(conv) => {
                let shape = &graph.value(node.inputs[0]?).shape;
                let channels = weights.shape.last()? * conv.groups;
                let axes: Vec<[usize; 5]> = (0..conv.kernel.len())
                    .map(|axis| {
                        let (k, s, d) = (conv.kernel[axis], conv.stride[axis], conv.dilation[axis]);
                        [k, s, d, conv.pad_before[axis], conv.pad_after[axis]]
                    })
                    .collect();
                let outer: Vec<Option<usize>> = shape[..shape.len().checked_sub(1)?]
                    .iter()
                    .map(|dim| dim.as_const().and_then(|dim| usize::try_from(dim).ok()))
                    .collect();
                let unknown = outer.iter().filter(|dim| dim.is_none()).count();
                let fits = outer.len() == axes.len() + 1 && unknown <= 1 && channels > 0;
                let row_elems = conv.kernel.iter().product::<usize>() * channels;
                let groups = conv.groups;
                fits.then_some(Reads { row_elems, channels, groups, outer, axes })
            }
            Op::MatMul(matmul) => {
                let channels = weights.shape[usize::from(matmul.transpose_b)];
                let (outer, axes) = (vec![None], Vec::new());
                let reads = Reads { row_elems: channels, channels, groups: 1, outer, axes };
                (channels > 0).then_some(reads)
            }
            _ => None,
        }
    }

    /// The input's axes but the last, of an input with so many elements.
    fn outer(&self, elements: usize) -> Vec<usize> {
        let known: usize = self.outer.iter().flatten().product();
        let rest = elements / self.channels / known.max(1);
        self.outer.iter().map(|dim| dim.unwrap_or(rest)).collect()
    }

    /// Places of the output along each axis.
    fn places(&self, outer: &[usize]) -> Vec<usize> {
        let mut places = outer.to_vec();
        for (size, [kernel, stride, dilation, before, after]) in
            places.iter_mut().skip(1).zip(&self.axes)
        {
            let reach = dilation * kernel.saturating_sub(1) + 1;
            *size = match (*size + before + after).checked_sub(reach) {
                Some(room) => room / (*stride).max(1) + 1,
                None => 0,
            };
        }
        places
    }

    /// Number of rows of an input with so many elements.
    pub(super) fn count(&self, elements: usize) -> usize {
        self.places(&self.outer(elements)).iter().product()
    }

    /// Puts a row at the end of `to`.
    pub(super) fn push(&self, input: &[f32], row: usize, to: &mut Vec<f32>) {
        let outer = self.outer(input.len());
        let places = self.places(&outer);
        // The place along each axis, from the last.
        let mut rest = row;
        let mut place = vec![0; places.len()];
        for axis in (0..places.len()).rev() {
            place[axis] = rest % places[axis].max(1);
            rest /= places[axis].max(1);
        }
        let taps: usize = self.axes.iter().map(|axis| axis[0]).product();
        for tap in 0..taps {
            let mut rest = tap;
            let mut at = vec![Some(place[0]); 1];
            let mut indices = vec![None; self.axes.len()];
            for (axis, [kernel, stride, dilation, before, _]) in self.axes.iter().enumerate().rev()
            {
                let along = place[axis + 1] * stride + rest % kernel * dilation;
                rest /= kernel;
                indices[axis] = along.checked_sub(*before).filter(|i| *i < outer[axis + 1]);
            }
            at.extend(indices);
            let index = at
                .iter()
                .zip(&outer)
                .try_fold(0, |index, (at, size)| at.map(|at| index * size + at));
            match index
                .and_then(|index| input.get(index * self.channels..(index + 1) * self.channels))
            {
                Some(elements) => to.extend_from_slice(elements),
                None => to.resize(to.len() + self.channels, 0.0),
            }
        }
    }
}

/// Whole numbers below a limit, in an order that a seed decides: Marsaglia's xorshift64*, started by splitmix64.
pub(super) struct Draw(u64);

impl Draw {
    pub(super) fn new(seed: u64) -> Draw {
        let mut z = seed.wrapping_add(0x9E37_79B9_7F4A_7C15);
        z = (z ^ (z >> 30)).wrapping_mul(0xBF58_476D_1CE4_E5B9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94D0_49BB_1331_11EB);
        Draw((z ^ (z >> 31)) | 1)
    }

    pub(super) fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        ((self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 11) % (limit.max(1) as u64)) as usize
    }

    /// At most `most` of so many, ascending; all of them where there are no more.
    pub(super) fn some(&mut self, count: usize, most: usize) -> Vec<usize> {
        if count <= most {
            return (0..count).collect();
        }
        // One of each of `most` stretches.
        (0..most)
            .map(|at| {
                let (from, to) = (at * count / most, (at + 1) * count / most);
                from + self.below(to - from)
            })
            .collect()
    }
}

/// Sum of products, in a fixed order that vectorises.
pub(super) fn dot(a: &[f32], b: &[f32]) -> f32 {
    const LANES: usize = 16; // four SSE registers, to hide the latency of an addition
    let mut sums = [0f32; LANES];
    let (a_chunks, b_chunks) = (a.chunks_exact(LANES), b.chunks_exact(LANES));
    let rest: f32 = a_chunks.remainder().iter().zip(b_chunks.remainder()).map(|(a, b)| a * b).sum();
    for (a, b) in a_chunks.zip(b_chunks) {
        for ((sum, a), b) in sums.iter_mut().zip(a).zip(b) {
            *sum += a * b;
        }
    }
    sums.iter().sum::<f32>() + rest
}
