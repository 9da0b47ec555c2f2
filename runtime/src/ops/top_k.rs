//! The k largest or smallest elements along an axis, best first, and where they are.

use core::cmp::Ordering;

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{Element, Op, TopKAttributes};
use crate::isa::Isa;
use crate::memory::{Context, Slot, typed, typed_mut};
use crate::ops::shape::{expect_apart, split};
use crate::ops::{Operator, Step};

macro_rules! operators {
    ($($(#[$meta:meta])* $NAME:ident = $dtype:ident $ty:ty;)*) => {$(
        $(#[$meta])*
        pub static $NAME: Operator = Operator {
            op: Op::TopK,
            dtype: Some(DType::$dtype),
            check: |step| check(step, DType::$dtype),
            select: |_| run::<$ty>,
            scratch_bytes,
        };
    )*};
}

operators! {
    /// Input: x. Outputs: values, indices (i64). NaN counts as larger than any number.
    TOP_K_F32 = F32 f32;
    /// Of integers.
    TOP_K_I8 = I8 i8;
    /// Of integers.
    TOP_K_I32 = I32 i32;
    /// Of integers.
    TOP_K_I64 = I64 i64;
}

/// Elements with an order.
trait Ordered: Element {
    fn order(self, other: Self) -> Ordering;
}

impl Ordered for f32 {
    fn order(self, other: f32) -> Ordering {
        match self.partial_cmp(&other) {
            Some(order) => order,
            None => self.is_nan().cmp(&other.is_nan()),
        }
    }
}

macro_rules! ordered {
    ($($ty:ty)*) => {$(
        impl Ordered for $ty {
            fn order(self, other: $ty) -> Ordering {
                self.cmp(&other)
            }
        }
    )*};
}
ordered!(i8 i32 i64);

/// The output that is there; both have one shape.
fn result(step: &Step<'_>) -> Result<Slot, StepErrorKind> {
    step.optional_output(0).or(step.optional_output(1)).ok_or(StepErrorKind::OperandCount)
}

fn check(step: &Step<'_>, dtype: DType) -> Result<(), StepErrorKind> {
    if step.input_count() != 1 || step.output_count() > 2 {
        return Err(StepErrorKind::OperandCount);
    }
    expect_apart(step)?;
    let attributes: TopKAttributes = step.expect_attributes()?;
    let x = step.input(0)?;
    split(&x, attributes.axis)?;
    if attributes.smallest > 1 {
        return Err(StepErrorKind::Attribute("smallest"));
    }
    result(step)?;
    for (number, expected) in [(0, dtype), (1, DType::I64)] {
        let Some(y) = step.optional_output(number) else { continue };
        let operand = 1 + number as u8;
        if y.dtype != expected || x.dtype != dtype {
            return Err(StepErrorKind::OperandType(operand));
        }
        let fits = y.rank() == x.rank()
            && y.dims().iter().zip(x.dims()).enumerate().all(|(axis, (y, x))| {
                if axis == attributes.axis as usize { y <= x } else { y == x }
            });
        if !fits {
            return Err(StepErrorKind::OperandShape(operand));
        }
    }
    match (step.optional_output(0), step.optional_output(1)) {
        (Some(values), Some(indices)) if values.dims() != indices.dims() => {
            Err(StepErrorKind::OperandShape(2))
        }
        _ => Ok(()),
    }
}

/// The heap: an index per element that is kept. Nothing for an empty tensor, whose other axes may be
/// of any size.
fn scratch_bytes(step: &Step<'_>, _: Isa) -> usize {
    let axis = step.attributes::<TopKAttributes>().axis as usize;
    let kept = result(step).map_or(0, |y| if y.elements() == 0 { 0 } else { y.dim(axis) });
    kept.saturating_mul(size_of::<u32>())
}

fn run<T: Ordered>(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let step = context.step;
    let TopKAttributes { axis, smallest, .. } = step.attributes();
    let (x, y) = (step.input(0)?, result(&step)?);
    if y.elements() == 0 {
        return Ok(());
    }
    let (x_split, kept) = (split(&x, axis)?, split(&y, axis)?.extent);
    let (extent, inner) = (x_split.extent, x_split.inner);
    let operands = context.operands_with_outputs::<1, 2>([0])?;
    let x: &[T] = typed(operands.inputs[0], 0)?;
    let [values, indices] = operands.outputs;
    let values: &mut [T] = typed_mut(values, 1)?;
    let indices: &mut [i64] = typed_mut(indices, 2)?;
    let heap =
        operands.scratch.get_mut(..kept * size_of::<u32>()).ok_or(StepErrorKind::TooLarge)?;
    let heap: &mut [u32] = typed_mut(heap, 0)?;
    for outer in 0..x_split.outer {
        for column in 0..inner {
            let first = outer * extent * inner + column;
            let at = |index: u32| x[first + index as usize * inner];
            // Whether element a comes before element b in the result: ties go by index.
            let before = |a: u32, b: u32| {
                let order = at(a).order(at(b));
                let order = if smallest == 1 { order } else { order.reverse() };
                order.then(a.cmp(&b)) == Ordering::Less
            };
            best(heap, extent as u32, before);
            for (rank, index) in heap.iter().enumerate() {
                let to = (outer * kept + rank) * inner + column;
                if let Some(value) = values.get_mut(to) {
                    *value = at(*index);
                }
                if let Some(place) = indices.get_mut(to) {
                    *place = i64::from(*index);
                }
            }
        }
    }
    Ok(())
}

/// The first of the numbers below `extent` in the order of `before`, in that order, as many as there
/// is room for. A heap with the last of them at its root: O(extent · log room), in place.
pub(crate) fn best(heap: &mut [u32], extent: u32, before: impl Fn(u32, u32) -> bool) {
    let room = heap.len().min(extent as usize);
    for (index, slot) in heap.iter_mut().enumerate().take(room) {
        *slot = index as u32;
    }
    for root in (0..room / 2).rev() {
        sift_down(&mut heap[..room], root, &before);
    }
    for index in room as u32..extent {
        if room > 0 && before(index, heap[0]) {
            heap[0] = index;
            sift_down(&mut heap[..room], 0, &before);
        }
    }
    sort(&mut heap[..room], &before);
}

/// Sorts a heap that has the last element at its root.
fn sort(heap: &mut [u32], before: &impl Fn(u32, u32) -> bool) {
    for end in (1..heap.len()).rev() {
        heap.swap(0, end);
        sift_down(&mut heap[..end], 0, before);
    }
}

fn sift_down(heap: &mut [u32], mut root: usize, before: &impl Fn(u32, u32) -> bool) {
    loop {
        let mut child = 2 * root + 1;
        if child >= heap.len() {
            return;
        }
        if child + 1 < heap.len() && before(heap[child], heap[child + 1]) {
            child += 1;
        }
        if !before(heap[root], heap[child]) {
            return;
        }
        heap.swap(root, child);
        root = child;
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ops::testing::{Case, Random, Tensor, shape, tensor};

    fn case(axis: u32, smallest: u32, x: Tensor, y: &[u32]) -> Case {
        let attributes = TopKAttributes { axis, smallest, reserved: [0; 2] };
        let variant = Some(x.dtype);
        let y = shape(x.dtype, y);
        Case::new(Op::TopK, variant, attributes, &[x], y)
    }

    #[test]
    fn values_of_each_type() {
        let x = tensor(&[2, 4], &[3f32, 1.0, f32::NAN, 2.0, -1.0, -3.0, -2.0, -4.0]);
        let largest = case(1, 0, x.clone(), &[2, 2]).run::<f32>();
        assert!(largest[0].is_nan());
        assert_eq!(largest[1..], [3.0, -1.0, -2.0]);
        assert_eq!(case(1, 1, x, &[2, 2]).run::<f32>(), [1.0, 2.0, -4.0, -3.0]);
        let x = tensor(&[3, 2], &[5i64, 1, 7, 1, 6, 2]);
        assert_eq!(case(0, 0, x.clone(), &[2, 2]).run::<i64>(), [7, 2, 6, 1]);
        assert_eq!(case(0, 1, x, &[1, 2]).run::<i64>(), [5, 1]);
        let x = tensor(&[4], &[-128i8, 127, 0, 127]);
        assert_eq!(case(0, 0, x.clone(), &[4]).run::<i8>(), [127, 127, 0, -128]);
        assert_eq!(case(0, 0, x, &[0]).run::<i8>(), []);
    }

    #[test]
    fn selection_agrees_with_a_stable_sort() {
        let mut random = Random(5);
        for _ in 0..300 {
            let extent = random.below(40);
            let values: Vec<u32> = (0..extent).map(|_| random.below(12)).collect();
            let mut want: Vec<u32> = (0..extent).collect();
            want.sort_by_key(|index| values[*index as usize]);
            let room = random.below(extent + 1) as usize;
            let mut heap = vec![0; room];
            best(&mut heap, extent, |a, b| (values[a as usize], a) < (values[b as usize], b));
            assert_eq!(heap, want[..room], "{values:?}");
        }
    }

    #[test]
    fn hostile_steps_are_refused() {
        let x = || tensor(&[2, 3], &[1f32; 6]);
        let mut other = case(1, 0, x(), &[2, 2]);
        other.output.dtype = DType::I32;
        let mut short = case(1, 0, x(), &[2, 2]);
        short.attributes.truncate(8);
        // Memory is only taken for elements that there are.
        let huge = tensor(&[0, i32::MAX as u32], &[0f32; 0]);
        assert_eq!(case(1, 0, huge, &[0, i32::MAX as u32]).run::<f32>(), []);
        let refused = [
            case(2, 0, x(), &[2, 3]),
            case(1, 2, x(), &[2, 3]),
            case(1, 0, x(), &[2, 4]),
            case(1, 0, x(), &[3, 3]),
            case(1, 0, x(), &[2]),
            case(1, 0, x(), &[2, 2]).sharing(0, 0),
            other,
            short,
        ];
        for case in refused {
            assert!(case.run_bytes().is_err(), "{:?}", case.attributes);
        }
    }
}
