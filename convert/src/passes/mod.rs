//! Rewrites the imported graph into fewer, fused nodes; [`PASSES`] is the whole story in order.
//!
//! Every pass keeps what the graph computes, for every value of its symbolic dimensions. A pass
//! that fuses nodes puts the result where the last of them was, which keeps the order valid, and
//! leaves the others to `dead_code`.

mod absorb;
mod activation;
mod attention;
mod batch_norm;
mod bias;
mod broadcast;
mod check;
mod cse;
mod dead_code;
mod edit;
mod fold;
mod functions;
mod gather;
mod identity;
mod layout;
mod norm;
mod pointwise;
mod recurrent;
mod regroup;
mod reshape;
mod residual;
mod scale_shift;
pub(crate) mod widen;

#[cfg(test)]
pub(crate) mod tests;

pub use check::check;
pub use fold::fold_with;

use crate::graph::Graph;

/// One rewrite.
pub struct Pass {
    /// Name in reports and on the command line.
    pub name: &'static str,
    /// What it does, in one line.
    pub about: &'static str,
    /// Runs it; true when the graph changed.
    pub run: fn(&mut Graph) -> bool,
}

/// Every pass, in the order of a round.
///
/// Layout comes before the fusions, so that per-channel constants lie along the last axis and
/// producers and consumers meet; a residual is fused before the activation behind it.
pub const PASSES: &[Pass] = &[
    Pass { name: "dead-code", about: "drops what no output needs", run: dead_code::run },
    Pass { name: "fold", about: "moves the data of constants", run: fold::run },
    Pass { name: "identity", about: "drops nodes that change nothing", run: identity::run },
    Pass { name: "cse", about: "computes equal things once", run: cse::run },
    Pass { name: "gather", about: "one-hot products and successive indices", run: gather::run },
    Pass { name: "broadcast", about: "drops an expand before broadcasting", run: broadcast::run },
    Pass { name: "reshape", about: "merges reshapes", run: reshape::run },
    Pass { name: "attention", about: "products around a softmax", run: attention::run },
    Pass { name: "recurrent", about: "recurrent cells written out", run: recurrent::run },
    Pass { name: "layout", about: "moves transposes together and cancels them", run: layout::run },
    Pass { name: "absorb", about: "flattening order into weight rows", run: absorb::run },
    Pass { name: "pointwise", about: "convolutions of one pixel", run: pointwise::run },
    Pass { name: "norm", about: "recognises layer and RMS normalisation", run: norm::run },
    Pass { name: "functions", about: "recognises activation formulas", run: functions::run },
    Pass {
        name: "batch-norm",
        about: "into the layer beside it, else multiply-add",
        run: batch_norm::run,
    },
    Pass {
        name: "scale-shift",
        about: "per-channel arithmetic into weights",
        run: scale_shift::run,
    },
    Pass { name: "bias", about: "an added vector becomes the bias", run: bias::run },
    Pass { name: "residual", about: "an added tensor becomes the residual", run: residual::run },
    Pass { name: "activation", about: "clamps into the layer before", run: activation::run },
];

/// Rounds over [`PASSES`] at most. Each round finishes the patterns that it sees, so real models
/// settle in three or four; the bound is for models made to keep two passes busy.
const MAX_ROUNDS: usize = 16;

/// Runs every pass until none changes the graph, or `MAX_ROUNDS` is reached.
///
/// The graph must satisfy [`check`], which importers run on what they made of untrusted bytes.
///
/// Passes named in `skip` are left out: a graph that will be quantized keeps its residual adds
/// until they are integers. `seen` is shown the graph after each pass that changed it.
pub fn run_all(graph: &mut Graph, skip: &[&str], seen: &mut dyn FnMut(&str, &Graph)) {
    debug_check(graph, "import");
    for _ in 0..MAX_ROUNDS {
        let mut changed = false;
        for pass in PASSES {
            if !skip.contains(&pass.name) && (pass.run)(graph) {
                changed = true;
                debug_check(graph, pass.name);
                seen(pass.name, graph);
            }
        }
        if !changed {
            break;
        }
    }
    dead_code::run(graph);
}

/// Drops the nodes that no output needs.
pub fn remove_dead_code(graph: &mut Graph) {
    dead_code::run(graph);
}

/// In debug builds, a pass that breaks the graph is named at once.
pub(crate) fn debug_check(graph: &Graph, pass: &str) {
    if cfg!(debug_assertions)
        && let Err(error) = check(graph)
    {
        panic!("pass {pass} broke the graph: {error}");
    }
}
