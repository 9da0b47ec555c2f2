//! Which layers are computed in bands, and in how many: as few as bring the arena below a goal.
//!
//! Regions don't touch each other's memory, so for a bound on bytes alive a walk over the nodes finds regions that keep to it at the
//! least cost, if there are any (dynamic programming). What is alive is estimated there, and each choice is planned in full to
//! know its arena. Bounds fall by a fortieth at a time, from what the program needs without bands.

use std::collections::HashMap;
use std::ops::Range;

use crate::graph::{Graph, Op, ValueId};
use crate::plan::fuse::Fused;
use crate::plan::{ArenaGoal, Plan, PlanError};

use super::Layers;

/// Bounds tried at most.
const MOST_BOUNDS: usize = 120;

/// Bands of a region at most.
const MOST_BANDS: usize = 256;

/// More memory than this share of the best is no better.
const BETTER: f64 = 0.99;

/// A region's nodes, and its bands.
type Choice = (Range<usize>, usize);

/// The plan whose arena comes up to the goal with the fewest bands. `whole` is the one without.
///
/// # Errors
/// [`PlanError::Arena`] if none does.
pub(in crate::plan) fn shrink(
    graph: &Graph,
    fused: &Fused,
    whole: Plan,
    goal: ArenaGoal,
    plan: impl Fn(&Graph) -> Result<Plan, PlanError>,
) -> Result<Plan, PlanError> {
    let wanted = match goal {
        ArenaGoal::Smallest => 0,
        ArenaGoal::AtMost(bytes) => bytes,
    };
    let mut best = whole;
    if best.arena_bytes <= wanted {
        return Ok(best);
    }
    let layers = Layers::of(graph);
    let mut search = Search::new(&layers, fused);
    let mut bound = search.alive.iter().copied().max().unwrap_or(0);
    let mut before: Vec<Choice> = Vec::new();
    for _ in 0..MOST_BOUNDS {
        bound = bound / 40 * 39;
        let Some(choice) = search.within(bound) else { break };
        if choice == before {
            continue;
        }
        let made = plan(&layers.cut(&choice))?;
        before = choice;
        if (made.arena_bytes as f64) < BETTER * best.arena_bytes as f64 {
            best = made;
        }
        if best.arena_bytes <= wanted {
            return Ok(best);
        }
    }
    match goal {
        ArenaGoal::Smallest => Ok(best),
        ArenaGoal::AtMost(wanted) => Err(PlanError::Arena { wanted, least: best.arena_bytes }),
    }
}

struct Search<'l, 'g> {
    layers: &'l Layers<'g>,
    /// Whether a region may begin, and another end, before a node: functions stay with their layers.
    borders: Vec<bool>,
    /// Bytes alive while each node runs.
    alive: Vec<usize>,
    /// Bytes made before each node that it or a later one reads.
    through: Vec<usize>,
    /// Bytes alive within regions in so many bands.
    inside: HashMap<(usize, usize), Vec<(usize, usize)>>,
}

impl<'l, 'g> Search<'l, 'g> {
    fn new(layers: &'l Layers<'g>, fused: &Fused) -> Search<'l, 'g> {
        let count = layers.graph.nodes.len();
        let (alive, through) = lifetimes(layers);
        let borders = (0..=count).map(|node| !fused.absorbed.contains(&node)).collect();
        Search { layers, borders, alive, through, inside: HashMap::new() }
    }

    /// The cheapest regions with which at most `bound` bytes are alive.
    fn within(&mut self, bound: usize) -> Option<Vec<Choice>> {
        let count = self.alive.len();
        // Cost up to each node, the node where the last step there began, and its bands.
        let mut reached: Vec<Option<(usize, usize, usize)>> = vec![None; count + 1];
        reached[0] = Some((0, 0, 1));
        for first in 0..count {
            let Some((cost, ..)) = reached[first] else { continue };
            let mut relax = |end: usize, bands: usize, cost: usize| {
                if reached[end].is_none_or(|(least, ..)| cost < least) {
                    reached[end] = Some((cost, first, bands));
                }
            };
            if self.alive[first] <= bound {
                relax(first + 1, 1, cost);
            }
            if !self.borders[first] {
                continue;
            }
            let run = self.layers.banded[first..].iter().take_while(|node| node.is_some()).count();
            for end in (first + 2..=first + run).filter(|end| self.borders[*end]) {
                if self.alive[first..end].iter().all(|bytes| *bytes <= bound) {
                    continue;
                }
                let options = self.inside.entry((first, end)).or_insert_with(|| {
                    let through = self.through[first];
                    options(self.layers, first..end, through)
                });
                if let Some((bands, _)) = options.iter().find(|(_, bytes)| *bytes <= bound) {
                    relax(end, *bands, cost + bands * (end - first));
                }
            }
        }
        let mut choice = Vec::new();
        let mut at = count;
        while at > 0 {
            let (_, first, bands) = reached[at]?;
            if bands > 1 {
                choice.push((first..at, bands));
            }
            at = first;
        }
        choice.reverse();
        Some(choice)
    }
}

/// Numbers of bands that a region may have, and the bytes alive with each.
fn options(layers: &Layers<'_>, nodes: Range<usize>, through: usize) -> Vec<(usize, usize)> {
    let Some(region) = layers.region(nodes.clone()) else { return Vec::new() };
    let results = (0..nodes.len()).filter(|node| region.is_result[*node]);
    let whole: usize = results.map(|node| region.nodes[node].bytes()).sum();
    let height = region.nodes.last().map_or(0, |last| last.height);
    let mut bands: Vec<usize> = (1..=height).map(|rows| height.div_ceil(rows)).collect();
    bands.dedup();
    bands.retain(|bands| (2..=MOST_BANDS).contains(bands));
    let bytes = |bands: usize| through + whole + region.window_bytes(&region.ends(bands));
    bands.into_iter().rev().map(|bands| (bands, bytes(bands))).collect()
}

/// Bytes alive while each node runs, and of these the ones that were there before it.
fn lifetimes(layers: &Layers<'_>) -> (Vec<usize>, Vec<usize>) {
    let graph = layers.graph;
    let count = graph.nodes.len();
    // Values in one another's memory, as their first one.
    let mut root: Vec<ValueId> = (0..graph.values.len() as u32).map(ValueId).collect();
    let mut life: HashMap<ValueId, Range<usize>> =
        graph.inputs.iter().map(|id| (*id, 0..0)).collect();
    for (at, node) in graph.nodes.iter().enumerate() {
        for id in node.inputs.iter().flatten() {
            if let Some(life) = life.get_mut(&root[id.0 as usize]) {
                life.end = at;
            }
        }
        let taken =
            taken_over(layers, at).filter(|(id, is_view)| *is_view || root[id.0 as usize] == *id);
        for (index, made) in node.outputs.iter().enumerate() {
            match taken.filter(|_| index == 0) {
                Some((operand, _)) => root[made.0 as usize] = root[operand.0 as usize],
                None => drop(life.insert(*made, at..at)),
            }
        }
    }
    for id in &layers.results {
        if let Some(life) = life.get_mut(&root[id.0 as usize]) {
            life.end = count;
        }
    }
    let (mut alive, mut through) = (vec![0; count], vec![0; count]);
    for (id, life) in life {
        let bytes = bytes(graph, id);
        let is_input = graph.inputs.contains(&id);
        for at in (life.start..=life.end).take_while(|at| *at < count) {
            alive[at] += bytes;
            if at > life.start || is_input {
                through[at] += bytes;
            }
        }
    }
    (alive, through)
}

/// The operand whose memory a node's first result takes over, and whether it is only another name for it.
fn taken_over(layers: &Layers<'_>, at: usize) -> Option<(ValueId, bool)> {
    let (graph, node) = (layers.graph, &layers.graph.nodes[at]);
    let (candidates, is_view) = match &node.op {
        Op::Reshape | Op::BitCast => (0..1, true),
        Op::Unary(_) | Op::Binary(_) | Op::Lut { .. } => (0..node.inputs.len(), false),
        // The residual.
        Op::Conv(_) => (3..node.inputs.len(), false),
        _ => return None,
    };
    let fits = |id: &ValueId| {
        let is_last = layers.consumers[id.0 as usize].iter().max() == Some(&at);
        let is_state = graph.states.iter().any(|state| state.read == *id);
        let is_free = is_view || is_last && !layers.results.contains(id);
        let is_alike = bytes(graph, *id) == bytes(graph, node.outputs[0]);
        is_free && is_alike && !is_state && graph.constant(*id).is_none()
    };
    let operand = node.inputs.get(candidates)?.iter().copied().flatten().find(fits)?;
    Some((operand, is_view))
}

/// Bytes of a value of fixed size; others aren't counted.
fn bytes(graph: &Graph, id: ValueId) -> usize {
    let value = graph.value(id);
    let elements = value.const_shape().map(|shape| shape.iter().product::<usize>());
    elements.unwrap_or(0) * value.dtype.size()
}
