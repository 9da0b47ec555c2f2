//! Every kernel family on shapes of real models, for every instruction set of this CPU.
//!
//! Throughput is in multiply-adds, or in elements where there are none: `cargo bench -p whit-benches --bench kernels`, and a
//! part of it with `-- conv_i8/ic`.

use std::collections::HashSet;
use std::time::Duration;

use criterion::{Criterion, Throughput, criterion_group, criterion_main};
use whit::Isa;
use whit_benches::calls::Call;

/// Families whose kernels are the same for all instruction sets: once is enough.
fn is_generic(family: &str) -> bool {
    family.starts_with("pool") || family == "softmax_i8"
}

/// Multiply-adds above which nobody waits for scalar code.
const MOST_SCALAR_WORK: u64 = 20_000_000;

fn kernels(criterion: &mut Criterion) {
    let mut seen = HashSet::new();
    for call in Call::all() {
        assert!(seen.insert(call.name()), "two calls are named {}", call.name());
        let mut group = criterion.benchmark_group(call.name());
        group.throughput(Throughput::Elements(call.work));
        for isa in Isa::available().take(if is_generic(call.family) { 1 } else { usize::MAX }) {
            if isa == Isa::Scalar && call.work > MOST_SCALAR_WORK {
                continue;
            }
            // Data is made only when the bench runs, so that a filter saves its time.
            group.bench_function(isa.name(), |bencher| {
                let mut run = (call.prepare)(isa);
                bencher.iter(&mut run);
            });
        }
    }
}

/// Short runs: a kernel's time varies little, and there are many.
fn config() -> Criterion {
    Criterion::default()
        .sample_size(10)
        .warm_up_time(Duration::from_millis(100))
        .measurement_time(Duration::from_millis(300))
}

criterion_group! { name = benches; config = config(); targets = kernels }
criterion_main!(benches);
