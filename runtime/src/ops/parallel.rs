//! How many parts the work of a step is cut into.
//!
//! A step is cut when it takes so long on one thread that waking another pays whatever happens: the
//! time is estimated from its products or bytes, at rates that no step exceeds on a fast core.
//! What it is cut along is the operator's business.

use crate::dtype::DType;
use crate::format::Op;
use crate::isa::Isa;
use crate::memory::Slot;
use crate::ops::{
    Operator, Step, attention, cached_attention, concat, conv, conv_parts, cross_attention,
    elementwise, gated, matmul, normalize, pool, resize, softmax, strided,
};
use crate::tables::Tables;
use crate::threads::{MAX_THREADS, SHARE_ALIGN};

/// Steps of less time stay whole. A job for workers that are awake costs 0.2 to 1 µs
/// (`threads::tests::what_a_job_costs`); the caches of another core have to be filled, too.
const STEP_NS: f32 = 2_000.0;

/// The least time of a part.
const PART_NS: f32 = 1_000.0;

/// [`STEP_NS`] of float convolutions along rows or pixels: whole, one between two others that are cut would fetch half of its input from another core,
/// and the one behind it again (64 bytes in 7 ns on a Zen 4). With these, VWW in f32 takes 103 µs on two threads, else 107.
const ROWS_STEP_NS: f32 = 1_000.0;

/// [`PART_NS`] of such a step.
const ROWS_PART_NS: f32 = 500.0;

/// Workers that sleep are woken only when the cut steps from here to the end of the run take this long on one
/// thread: it costs the caller up to 5 µs, and they come 10 µs later. So a run of less never has workers.
const WAKE_NS: f32 = 16_000.0;

/// Parts per thread at most: with more parts than threads, one that is interrupted or slow holds the others up less.
const PARTS_PER_THREAD: usize = 2;

/// The least units of a part when there are more parts than threads.
const UNITS_PER_PART: usize = 4;

/// The least time of a part when there are more parts than threads.
const ROUND_NS: f32 = 20_000.0;

/// Weights of a program that a core keeps in its own cache, or nearly, from run to run.
const CACHED_BYTES: usize = 2 << 20;

/// Bytes that are read from that cache.
const CACHE_BYTES_PER_NS: f32 = 40.0;

/// Bytes that are read once from the last cache or memory.
const MEMORY_BYTES_PER_NS: f32 = 12.0;

/// Bytes of an output that are only moved, not computed: no step is faster.
const MOVED_BYTES_PER_NS: f32 = 16.0;

/// Work per nanosecond of one thread, as scalar code, with AVX2 or NEON, with AVX-512: a little above what was measured, so that
/// steps take at least the time that follows.
#[derive(Clone, Copy)]
pub(super) struct Rates([f32; 3]);

impl Rates {
    /// Products.
    pub(super) const CONV_F32: Rates = Rates([2.0, 40.0, 72.0]);
    /// Products.
    pub(super) const DEPTHWISE_F32: Rates = Rates([1.0, 16.0, 32.0]);
    /// Products.
    pub(super) const CONV_I8: Rates = Rates([2.0, 64.0, 200.0]);
    /// Products of pairs of i16.
    pub(super) const PAIRS: Rates = Rates([1.0, 32.0, 100.0]);
    /// Products.
    pub(super) const DEPTHWISE_I8: Rates = Rates([1.0, 24.0, 48.0]);
    /// Elements of windows in a pooling.
    pub(super) const POOL: Rates = Rates([1.0, 8.0, 16.0]);
    /// The same of i8.
    pub(super) const POOL_I8: Rates = Rates([1.0, 24.0, 48.0]);
    /// Elements of a function such as exp.
    pub(super) const FUNCTION_F32: Rates = Rates([0.2, 1.5, 3.0]);
    /// Elements that are read, computed with simply, and written.
    pub(super) const ELEMENTS: Rates = Rates([1.0, 4.0, 4.0]);

    /// The same of i8.
    pub(super) const ELEMENTS_I8: Rates = Rates([0.5, 8.0, 12.0]);
    /// Elements that a table is looked up for.
    pub(super) const LOOKED_UP: Rates = Rates([1.0, 8.0, 16.0]);

    pub(super) fn of(self, isa: Isa) -> f32 {
        let [scalar, avx2, avx512] = self.0;
        match isa {
            Isa::Avx512 => avx512,
            Isa::Scalar | Isa::CortexM => scalar,
            _ => avx2,
        }
    }
}

/// What of a step can be shared.
#[derive(Clone, Copy)]
pub(super) struct Work {
    /// Stretches that can't be cut further.
    pub(super) units: usize,
    /// Time on one thread.
    pub(super) ns: f32,
    /// Whether parts read, but for their borders, what the same part of a convolution before wrote.
    pub(super) is_by_rows: bool,
}

/// How a step is cut.
pub(crate) struct Share {
    /// At least 2.
    pub(crate) parts: usize,
    /// Time on one thread, or a little less.
    pub(crate) ns: f32,
    /// For all threads.
    pub(crate) scratch_bytes: usize,
}

/// Who shares the steps of a program.
#[derive(Clone, Copy)]
pub(crate) struct Sharing {
    pub(super) isa: Isa,
    threads: usize,
    /// How fast weights are read.
    pub(super) weight_bytes_per_ns: f32,
}

impl Sharing {
    pub(crate) fn of(tables: &Tables<'_>, isa: Isa, threads: usize) -> Sharing {
        let stay_cached = tables.constant_bytes <= CACHED_BYTES;
        Sharing {
            isa,
            threads: threads.min(MAX_THREADS),
            weight_bytes_per_ns: if stay_cached { CACHE_BYTES_PER_NS } else { MEMORY_BYTES_PER_NS },
        }
    }

    /// How a step that `check` accepted is cut; `None` when it stays whole.
    pub(crate) fn share(self, operator: &Operator, step: &Step<'_>) -> Option<Share> {
        if self.threads < 2 {
            return None;
        }
        let work = work(operator, step, self)?;
        let parts = parts(work, self.threads);
        if parts < 2 {
            return None;
        }
        let share_bytes =
            share_bytes(operator, step, self.isa, parts).checked_next_multiple_of(SHARE_ALIGN)?;
        Some(Share { parts, ns: work.ns, scratch_bytes: share_bytes.checked_mul(self.threads)? })
    }
}

/// Whether cut steps that take so long on one thread are reason to wake workers that sleep.
pub(crate) fn pays_waking(ns: f32) -> bool {
    #[cfg(test)]
    if tests::EAGER.get() {
        return ns > 0.0;
    }
    ns >= WAKE_NS
}

/// Whole rounds of all threads while parts stay long enough.
fn parts(work: Work, threads: usize) -> usize {
    #[cfg(test)]
    if tests::EAGER.get() {
        return (2 * threads).min(work.units).min(MAX_THREADS);
    }
    let [step_ns, part_ns] = match work.is_by_rows {
        true => [ROWS_STEP_NS, ROWS_PART_NS],
        false => [STEP_NS, PART_NS],
    };
    if work.ns < step_ns {
        return 1;
    }
    // Saturates.
    let longest = (work.ns / part_ns) as usize;
    let rounds = ((work.ns / ROUND_NS) as usize / threads).clamp(1, PARTS_PER_THREAD);
    // Of few units, more parts are less even ones.
    let rounds = if work.units < UNITS_PER_PART * rounds * threads { 1 } else { rounds };
    (rounds * threads).min(longest).min(work.units).min(MAX_THREADS)
}

/// Nanoseconds that one thread takes at least to write a tensor without computing.
pub(super) fn moved_ns(y: &Slot) -> f32 {
    y.bytes() as f32 / MOVED_BYTES_PER_NS
}

fn work(operator: &Operator, step: &Step<'_>, sharing: Sharing) -> Option<Work> {
    use conv::{conv_geometry, matrix_geometry};
    use conv_parts::{work_depthwise_f32, work_f32, work_i8};
    let isa = sharing.isa;
    let dtype = match operator.op {
        Op::Concat => return concat::work(step),
        Op::Expand => return strided::work(step, strided::expanded),
        Op::Slice => return strided::work(step, strided::sliced),
        Op::Transpose => return strided::work(step, strided::transposed),
        Op::Resize => return resize::work(step, isa),
        _ => operator.dtype?,
    };
    match (operator.op, dtype) {
        (Op::Conv2d, DType::F32) => work_f32(step, sharing, conv_geometry),
        (Op::Conv2d, DType::I8) => work_i8(step, sharing, conv_geometry, false),
        (Op::DepthwiseConv2d, DType::F32) => work_depthwise_f32(step, isa, conv_geometry),
        (Op::DepthwiseConv2d, DType::I8) => work_i8(step, sharing, conv_geometry, true),
        (Op::FullyConnected, DType::F32) => work_f32(step, sharing, matrix_geometry),
        (Op::FullyConnected, DType::I8) => work_i8(step, sharing, matrix_geometry, false),
        (Op::MatMul, DType::F32) => matmul::work(step, isa),
        (Op::Attention, DType::F32) => attention::work(step, isa, Rates::CONV_F32),
        (Op::Attention, DType::I8) => attention::work(step, isa, Rates::PAIRS),
        (Op::CachedAttention, DType::F32 | DType::I8) => cached_attention::work(step, isa),
        (Op::CrossAttention, DType::F32) => cross_attention::work(step, isa),
        (Op::Gated, DType::F32) => gated::work(step, isa),
        (Op::Softmax, DType::F32 | DType::I8) => softmax::work(step, isa),
        (Op::Normalize, DType::F32) => normalize::work(step, isa),
        (Op::Pool2d, DType::I8) => pool::work(step, Rates::POOL_I8, isa),
        (Op::Pool2d, _) => pool::work(step, Rates::POOL, isa),
        (Op::Unary, DType::F32) => elementwise::work_of_one(step, Rates::FUNCTION_F32.of(isa)),
        (Op::Binary, DType::F32) => elementwise::work(step, Rates::ELEMENTS.of(isa)),
        (Op::Binary, DType::I8) => elementwise::work(step, Rates::ELEMENTS_I8.of(isa)),
        (Op::Lut, DType::I8) => elementwise::work_of_one(step, Rates::LOOKED_UP.of(isa)),
        _ => None,
    }
}

/// Bytes of scratch that each thread needs when there are so many parts.
fn share_bytes(operator: &Operator, step: &Step<'_>, isa: Isa, parts: usize) -> usize {
    use conv::{conv_geometry, matrix_geometry};
    use conv_parts::{share_bytes_f32, share_bytes_i8};
    match (operator.op, operator.dtype) {
        (Op::Conv2d, Some(DType::F32)) => share_bytes_f32(step, isa, conv_geometry, parts),
        (Op::Conv2d, Some(DType::I8)) => share_bytes_i8(step, isa, conv_geometry, false, parts),
        (Op::DepthwiseConv2d, Some(DType::I8)) => {
            share_bytes_i8(step, isa, conv_geometry, true, parts)
        }
        (Op::FullyConnected, Some(DType::F32)) => {
            share_bytes_f32(step, isa, matrix_geometry, parts)
        }
        (Op::FullyConnected, Some(DType::I8)) => {
            share_bytes_i8(step, isa, matrix_geometry, false, parts)
        }
        _ => (operator.scratch_bytes)(step, isa),
    }
}

#[cfg(test)]
#[path = "parallel_tests.rs"]
mod tests;
