//! `Session::run` and `Session::set_dimension` allocate nothing, on every instruction set present.

mod common;

use stats_alloc::{INSTRUMENTED_SYSTEM, Region, StatsAlloc};
use whit::{Isa, Model, Options, Session};
use whit_convert::evaluate::AlignedBytes;
use whit_convert::quantize::numbers::Numbers;

#[global_allocator]
static ALLOCATOR: &StatsAlloc<std::alloc::System> = &INSTRUMENTED_SYSTEM;

/// Allocations, reallocations and deallocations while `work` runs.
fn allocations(work: impl FnOnce()) -> usize {
    let region = Region::new(ALLOCATOR);
    work();
    let change = region.change();
    change.allocations + change.reallocations + change.deallocations
}

/// One test alone in its process: other tests' allocations would count as well.
#[test]
fn runs_allocate_nothing() {
    assert!(allocations(|| drop(std::hint::black_box(vec![1u8]))) > 0, "the counter counts");
    let mut files = vec![("state".to_owned(), common::with_state())];
    files.extend(common::with_memory());
    files.extend(common::with_groups());
    for source in common::sources() {
        for numbers in [Numbers::Float, Numbers::F16, Numbers::Int8] {
            let fits = match source.name {
                "qdq" => numbers == Numbers::Float,
                // Made of integers: there is nothing to calibrate.
                "integers" => numbers != Numbers::Int8,
                _ => true,
            };
            if fits {
                files.push((format!("{} {}", source.name, numbers), source.convert(numbers)));
            }
        }
    }
    assert_eq!(files.len(), 22);
    for (name, file) in &files {
        let bytes = AlignedBytes::new(file);
        let mut opened = None;
        assert_eq!(allocations(|| opened = Model::open(bytes.as_slice()).ok()), 0, "{name}: open");
        let model = opened.expect(name);
        for isa in Isa::available() {
            let mut session =
                Session::new(model, Options { isa: Some(isa), ..Options::default() }).expect(name);
            let mut random = common::Random::new(5);
            let symbols: Vec<(&str, u32, u32)> = model
                .symbols()
                .map(|symbol| (model.text(symbol.name), symbol.min, symbol.max))
                .collect();
            let dynamic = match name.split(' ').next() {
                Some("sequence") => 1,
                Some("recurrent") => 2,
                _ => 0,
            };
            assert_eq!(symbols.len(), dynamic, "{name}");
            for round in 0..4u32 {
                for (symbol, min, max) in &symbols {
                    let value = min + round % (max - min + 1);
                    let mut result = Ok(());
                    let count = allocations(|| result = session.set_dimension(symbol, value));
                    result.expect(name);
                    assert_eq!(count, 0, "{name} on {isa}: set_dimension {symbol}={value}");
                }
                common::fill_inputs(&mut session, &mut random).expect(name);
                let mut result = Ok(());
                let count = allocations(|| result = session.run());
                result.expect(name);
                assert_eq!(count, 0, "{name} on {isa}: run {round}");
                assert_eq!(
                    allocations(|| session.reset_state()),
                    0,
                    "{name} on {isa}: reset_state"
                );
            }
        }
    }
}
