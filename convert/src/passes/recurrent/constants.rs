//! Weights and biases of cells, put in the order of the operator once for all time steps.

use std::collections::BTreeMap;
use std::collections::btree_map::Entry;

use crate::graph::{Graph, ValueId};
use crate::tensor::Tensor;

use super::super::edit::{f32_constant, rounded};
use super::terms::{Block, Window};

/// Elements read and written, per element of the model's constants: twice is usual, and a model that
/// takes its weights in ever new orders must not make this slow or large.
const MAX_WORK: usize = 8;

/// Work that no model is too small for.
const SMALL_WORK: usize = 1 << 20;

/// Constants made so far.
pub(super) struct Constants {
    matrices: BTreeMap<(Vec<Block>, bool), ValueId>,
    biases: BTreeMap<(Vec<Vec<Window>>, bool), ValueId>,
    finite: BTreeMap<ValueId, bool>,
    left: usize,
}

impl Constants {
    pub(super) fn new(graph: &Graph) -> Constants {
        let all = graph.values.iter().filter_map(|value| value.constant.as_ref());
        let elements = all.fold(0usize, |sum, tensor| sum.saturating_add(tensor.len()));
        let left = elements.saturating_mul(MAX_WORK).saturating_add(SMALL_WORK);
        Constants {
            matrices: BTreeMap::new(),
            biases: BTreeMap::new(),
            finite: BTreeMap::new(),
            left,
        }
    }

    fn charge(&mut self, elements: usize) -> Option<()> {
        self.left = self.left.checked_sub(elements)?;
        Some(())
    }

    /// Blocks side by side, `[rows, gates × hidden]`, or `[1, rows, gates × hidden]`.
    pub(super) fn matrix(
        &mut self,
        graph: &mut Graph,
        blocks: &[Block],
        hidden: usize,
        with_direction: bool,
    ) -> Option<ValueId> {
        let key = (blocks.to_vec(), with_direction);
        if let Some(known) = self.matrices.get(&key) {
            return Some(*known);
        }
        let rows = blocks.first()?.rows;
        let columns = blocks.len() * hidden;
        let elements = rows.checked_mul(columns)?;
        self.charge(elements)?;
        let mut values = vec![0.0; elements];
        let mut read: BTreeMap<ValueId, Vec<f32>> = BTreeMap::new();
        for (gate, block) in blocks.iter().enumerate() {
            let tensor = f32_constant(graph, block.matrix)?;
            let [outer, inner] = tensor.shape[..] else { return None };
            let (depth, width) = if block.transposed { (inner, outer) } else { (outer, inner) };
            let fits = block.rows == rows
                && block.row.checked_add(rows)? <= depth
                && block.column.checked_add(hidden)? <= width;
            if !fits {
                return None;
            }
            let from = match read.entry(block.matrix) {
                Entry::Occupied(known) => known.into_mut(),
                Entry::Vacant(new) => {
                    self.charge(tensor.len())?;
                    new.insert(tensor.to_f32())
                }
            };
            for row in 0..rows {
                let to = &mut values[row * columns + gate * hidden..][..hidden];
                for (column, to) in to.iter_mut().enumerate() {
                    let (row, column) = (block.row + row, block.column + column);
                    *to = match block.transposed {
                        true => from[column * inner + row],
                        false => from[row * inner + column],
                    };
                }
            }
        }
        let shape = match with_direction {
            true => vec![1, rows, columns],
            false => vec![rows, columns],
        };
        let name = graph.value(blocks[0].matrix).name.clone();
        let id = graph.add_constant(name, Tensor::from_f32(shape, &values));
        self.matrices.insert(key, id);
        Some(id)
    }

    /// The sums of biases side by side, `[gates × hidden]`, or `[1, gates × hidden]`.
    pub(super) fn bias(
        &mut self,
        graph: &mut Graph,
        windows: &[Vec<Window>],
        hidden: usize,
        with_direction: bool,
    ) -> Option<ValueId> {
        let key = (windows.to_vec(), with_direction);
        if let Some(known) = self.biases.get(&key) {
            return Some(*known);
        }
        let columns = windows.len() * hidden;
        self.charge(columns)?;
        let mut sums = vec![0.0; columns];
        for (gate, (id, start)) in
            windows.iter().enumerate().flat_map(|(gate, of)| of.iter().map(move |w| (gate, *w)))
        {
            let tensor = f32_constant(graph, id)?;
            self.charge(tensor.len())?;
            let values = tensor.to_f32();
            let single = values.len() == 1;
            for (j, sum) in sums[gate * hidden..][..hidden].iter_mut().enumerate() {
                *sum += f64::from(*values.get(if single { 0 } else { start + j })?);
            }
        }
        let shape = if with_direction { vec![1, columns] } else { vec![columns] };
        let name = windows.iter().flatten().next().map(|(id, _)| graph.value(*id).name.clone());
        let id = graph.add_constant(name.unwrap_or_default(), rounded(&shape, &sums));
        self.biases.insert(key, id);
        Some(id)
    }

    pub(super) fn is_finite(&mut self, graph: &Graph, id: ValueId) -> bool {
        *self.finite.entry(id).or_insert_with(|| {
            f32_constant(graph, id).is_some_and(|t| t.to_f32().iter().all(|v| v.is_finite()))
        })
    }
}
