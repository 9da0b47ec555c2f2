//! Assigns arena offsets so that tensors alive at the same time never overlap.
//!
//! Every group of tensors that share memory is a buffer with a size and a first and last step.
//! Buffers are placed one after the other, each into the lowest gap left by those placed before
//! that are alive at the same time; the order decides how well that goes. Three orders are tried
//! (largest first, longest-lived × largest first, by time), then a seeded local search swaps
//! buffers until the height reaches the liveness bound (below which no placement can go) or a
//! fixed effort is spent. Placement problems of this kind are known as dynamic storage allocation.

use std::collections::HashMap;

use whit::format::Storage;

use crate::plan::Plan;
use crate::plan::alias::Aliases;

/// Offsets are multiples of this: enough for every element type, and for 128-bit loads.
const ALIGN: usize = 16;

/// Placements tried by the local search, divided by the number of buffers.
const SEARCH_EFFORT: usize = 200_000;

/// A group of tensors that share memory.
#[derive(Clone, Debug)]
pub struct Buffer {
    /// Root tensor of the group.
    pub root: usize,
    /// Bytes.
    pub bytes: usize,
    /// First step that writes it; 0 for inputs, which are alive before the first step.
    pub first: usize,
    /// Last step that reads it; one past the last step for outputs.
    pub last: usize,
}

/// All buffers of a program.
#[derive(Clone, Debug, Default)]
pub struct Lifetimes {
    /// In the order of their first use.
    pub buffers: Vec<Buffer>,
}

impl Lifetimes {
    /// The largest sum of bytes alive at one step.
    pub fn bound(&self) -> usize {
        let end = self.buffers.iter().map(|buffer| buffer.last + 1).max().unwrap_or(0);
        let mut change = vec![0i64; end + 1];
        for buffer in &self.buffers {
            change[buffer.first] += buffer.bytes as i64;
            change[buffer.last + 1] -= buffer.bytes as i64;
        }
        let mut sum = 0;
        change
            .iter()
            .map(|c| {
                sum += c;
                sum
            })
            .max()
            .unwrap_or(0) as usize
    }
}

/// When each group of arena tensors is alive.
pub fn lifetimes(plan: &Plan, aliases: &Aliases) -> Lifetimes {
    let mut at: HashMap<usize, usize> = HashMap::new();
    let mut lifetimes = Lifetimes::default();
    let mut touch = |tensor: usize, step: usize| {
        if plan.tensors[tensor].storage != Storage::Arena {
            return;
        }
        let root = aliases.root(tensor).0;
        let index = *at.entry(root).or_insert_with(|| {
            let bytes = plan.tensors[root].bytes;
            lifetimes.buffers.push(Buffer { root, bytes, first: step, last: step });
            lifetimes.buffers.len() - 1
        });
        lifetimes.buffers[index].last = step;
    };
    for input in &plan.inputs {
        touch(*input, 0);
    }
    for (index, step) in plan.steps.iter().enumerate() {
        for tensor in step.inputs.iter().flatten() {
            touch(*tensor, index);
        }
        for tensor in step.outputs.iter().flatten() {
            touch(*tensor, index);
        }
    }
    for output in &plan.outputs {
        touch(*output, plan.steps.len());
    }
    lifetimes
}

/// Gives every arena tensor its offset, and the plan its arena size and bound.
pub fn assign(plan: &mut Plan, aliases: &Aliases) {
    let lifetimes = lifetimes(plan, aliases);
    plan.liveness_bound_bytes = lifetimes.bound();
    let offsets = place(&lifetimes);
    let by_root: HashMap<usize, usize> = lifetimes
        .buffers
        .iter()
        .zip(offsets)
        .map(|(buffer, offset)| (buffer.root, offset))
        .collect();
    let mut end = 0;
    for index in 0..plan.tensors.len() {
        if plan.tensors[index].storage != Storage::Arena {
            continue;
        }
        let (root, within) = aliases.root(index);
        // A tensor that no step touches (an unread input is touched) has no bytes to protect.
        let start = by_root.get(&root).copied().unwrap_or(0);
        plan.tensors[index].offset = start + within;
        end = end.max(start + within + plan.tensors[index].bytes);
    }
    plan.arena_bytes = end;
}

/// An offset for every buffer.
fn place(lifetimes: &Lifetimes) -> Vec<usize> {
    let buffers = &lifetimes.buffers;
    let bound = lifetimes.bound();
    let mut orders: Vec<Vec<usize>> = vec![(0..buffers.len()).collect(); 3];
    orders[0].sort_by_key(|b| std::cmp::Reverse(buffers[*b].bytes));
    orders[1].sort_by_key(|b| {
        std::cmp::Reverse(
            buffers[*b].bytes.saturating_mul(buffers[*b].last - buffers[*b].first + 1),
        )
    });
    let mut best: Option<(usize, Vec<usize>, Vec<usize>)> = None;
    let consider = |order: Vec<usize>, best: &mut Option<(usize, Vec<usize>, Vec<usize>)>| {
        let lowest = best.as_ref().map_or(usize::MAX, |(lowest, ..)| *lowest);
        if let Some((height, offsets)) = place_in_order(buffers, &order, lowest) {
            *best = Some((height, offsets, order));
        }
    };
    for order in orders {
        consider(order, &mut best);
    }
    let mut random = Xorshift(0x9E37_79B9_7F4A_7C15);
    let attempts = SEARCH_EFFORT / buffers.len().max(1);
    for _ in 0..attempts.min(4000) {
        let Some((height, _, order)) = &best else { break };
        if *height <= bound || buffers.len() < 2 {
            break;
        }
        let mut order = order.clone();
        for _ in 0..1 + random.below(3) {
            let (a, b) = (random.below(order.len()), random.below(order.len()));
            order.swap(a, b);
        }
        consider(order, &mut best);
    }
    best.map(|(_, offsets, _)| offsets).unwrap_or_default()
}

/// Places buffers one by one into the lowest gap that fits. Returns the height and the offsets if it is below `limit`.
fn place_in_order(
    buffers: &[Buffer],
    order: &[usize],
    limit: usize,
) -> Option<(usize, Vec<usize>)> {
    struct Placed {
        start: usize,
        /// A multiple of [`ALIGN`].
        end: usize,
        first: usize,
        last: usize,
    }
    let mut offsets = vec![0usize; buffers.len()];
    // By offset.
    let mut placed: Vec<Placed> = Vec::with_capacity(buffers.len());
    let mut height = 0;
    for index in order {
        let buffer = &buffers[*index];
        let mut at = 0usize;
        for other in &placed {
            if other.last < buffer.first || buffer.last < other.first {
                continue;
            }
            if other.start >= at + buffer.bytes {
                break;
            }
            at = at.max(other.end);
        }
        offsets[*index] = at;
        height = height.max(at + buffer.bytes);
        if height >= limit {
            return None;
        }
        let position = placed.partition_point(|other| other.start <= at);
        let end = (at + buffer.bytes).next_multiple_of(ALIGN);
        placed.insert(position, Placed { start: at, end, first: buffer.first, last: buffer.last });
    }
    Some((height, offsets))
}

/// A small generator of pseudo-random numbers (Marsaglia's xorshift), the same on every machine.
struct Xorshift(u64);

impl Xorshift {
    fn below(&mut self, n: usize) -> usize {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        (self.0 % n.max(1) as u64) as usize
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn buffer(bytes: usize, first: usize, last: usize) -> Buffer {
        Buffer { root: 0, bytes, first, last }
    }

    #[test]
    fn never_overlaps_and_reaches_the_bound_of_chains() {
        let mut random = Xorshift(7);
        for round in 0..200 {
            let chain = round % 2 == 0;
            let count = 2 + random.below(20);
            let buffers: Vec<Buffer> = (0..count)
                .map(|i| {
                    let first = if chain { i } else { random.below(20) };
                    let last = if chain { i + 1 } else { first + random.below(6) };
                    buffer(16 * (1 + random.below(64)), first, last)
                })
                .collect();
            let lifetimes = Lifetimes { buffers };
            let offsets = place(&lifetimes);
            let mut height = 0;
            for (i, a) in lifetimes.buffers.iter().enumerate() {
                height = height.max(offsets[i] + a.bytes);
                for (j, b) in lifetimes.buffers.iter().enumerate().skip(i + 1) {
                    let together = a.first <= b.last && b.first <= a.last;
                    let apart =
                        offsets[i] + a.bytes <= offsets[j] || offsets[j] + b.bytes <= offsets[i];
                    assert!(
                        !together || apart,
                        "{a:?} at {} and {b:?} at {}",
                        offsets[i],
                        offsets[j]
                    );
                }
            }
            assert!(height >= lifetimes.bound());
            if chain {
                assert_eq!(height, lifetimes.bound(), "a chain always fits its bound");
            }
        }
    }
}
