//! ReLU and clip behind a convolution or matrix product become its clamp, also several in a row and where
//! data is only moved in between.

use whit::DType;

use crate::graph::{Clamp, Graph, Op};

use super::edit::{Editor, input, output};
use super::identity::{clip_behind, clip_bounds};

/// Runs the pass.
pub(super) fn run(graph: &mut Graph) -> bool {
    let mut edit = Editor::new(graph);
    for index in 0..edit.len() {
        if edit.is_alive(index) {
            absorb(&mut edit, index);
        }
    }
    edit.finish()
}

fn absorb(edit: &mut Editor<'_>, index: usize) -> Option<()> {
    let bounds = clip_bounds(&edit.node(index).op).filter(|(min, max)| min <= max)?;
    let at = edit.sole_origin(index, 0, |_, _| true)?;
    // The clamp of a layer is in reals.
    let integers = [DType::I32, DType::I64];
    if output(edit.node(at)).is_some_and(|y| integers.contains(&edit.graph.value(y).dtype)) {
        return None;
    }
    let mut layer = edit.node(at).clone();
    let clamp = match &mut layer.op {
        Op::Conv(conv) => &mut conv.clamp,
        Op::MatMul(matmul) => &mut matmul.clamp,
        _ => return None,
    };
    let (min, max) = clip_behind((clamp.min, clamp.max), bounds);
    *clamp = Clamp { min, max };
    if edit.sole_source(index, 0) != Some(at) {
        let moved = input(edit.node(index), 0)?;
        if edit.forward(index, moved) {
            edit.replace(at, layer);
        }
        return Some(());
    }
    layer.outputs = edit.node(index).outputs.clone();
    edit.remove(at);
    edit.replace(index, layer);
    Some(())
}
