//! Attention over keys and values that earlier runs left: whole, and in parts, on every device beside the CPU's.

use super::Named;
use super::case_with;
use crate::backend::cuda::tests::{assert_close, devices, launches};
use crate::backend::cuda::{self, Device};
use crate::dtype::DType::{self, F16, F32, I8};
use crate::format::{CachedAttentionAttributes, Op};
use crate::isa::Isa;
use crate::model::Model;
use crate::ops::testing::{Case, Random, Tensor, shape, tensor};
use crate::session::{Options, Session};

/// A step on a device of four multiprocessors, which sixteen blocks keep at work.
struct Config {
    heads: u32,
    kv_heads: u32,
    size: u32,
    context: u32,
    window: u32,
    softcap: f32,
    positions: &'static [i32],
    /// The sequences of the tokens.
    sequences: &'static [i32],
    /// That the keys are cut into.
    parts: u32,
}

const SEQUENCES: u32 = 2;

/// What keys and values are kept in.
const KEPT: [DType; 3] = [F16, F32, I8];

const CONFIGS: &[Config] = &[
    // One head of keys for each head, and contexts around a part.
    Config::single(1, 1, 32, &[0]),
    Config::single(1, 1, 32, &[127]),
    Config::single(1, 1, 32, &[128]),
    Config::single(1, 1, 32, &[129]),
    Config::single(1, 1, 32, &[699]),
    // Four, three and five heads that share keys; sizes of eights and not, up to the largest.
    Config::single(4, 1, 64, &[600]),
    Config::single(3, 1, 20, &[383]),
    Config::single(5, 1, 36, &[384]),
    Config::single(8, 2, 128, &[511]),
    Config::single(4, 2, 256, &[300]),
    Config { softcap: 3.0, ..Config::single(2, 1, 8, &[500]) },
    // Windows below, at and above a part, and beyond what is there.
    Config { window: 100, parts: 1, ..Config::single(4, 1, 16, &[600]) },
    Config { window: 128, parts: 1, ..Config::single(4, 1, 16, &[600]) },
    Config { window: 129, parts: 2, ..Config::single(4, 1, 16, &[600]) },
    Config { window: 300, parts: 3, ..Config::single(4, 1, 16, &[77]) },
    // Several tokens, of two sequences; enough for a block each.
    Config { sequences: &[1, 0, 1], parts: 5, ..Config::single(4, 1, 40, &[690, 5, 130]) },
    Config { sequences: &[1, 1, 0, 0], parts: 2, ..Config::single(4, 2, 24, &[9, 10, 640, 641]) },
    Config { parts: 1, ..Config::single(4, 4, 16, &[3, 4, 5, 6, 7, 8, 9, 600]) },
    // A larger head than parts have room for.
    Config { parts: 1, ..Config::single(1, 1, 260, &[500]) },
];

impl Config {
    const fn single(heads: u32, kv_heads: u32, size: u32, positions: &'static [i32]) -> Config {
        Config {
            heads,
            kv_heads,
            size,
            context: 700,
            window: 0,
            softcap: 0.0,
            positions,
            sequences: &[],
            parts: 6,
        }
    }

    /// With keys and values in this type.
    fn case(&self, kept: DType) -> Case {
        let Config { heads, kv_heads, size, context, window, softcap, .. } = *self;
        let attributes = CachedAttentionAttributes {
            heads,
            kv_heads,
            size,
            window,
            scale: 0.3,
            softcap,
            reserved: [0; 2],
        };
        let tokens = self.positions.len() as u32;
        let width = (heads + 2 * kv_heads) * size;
        let x = tensor(&[tokens, width], &Random(5).f32s((tokens * width) as usize));
        let mut inputs = vec![x, tensor(&[tokens], self.positions)];
        if !self.sequences.is_empty() {
            inputs.push(tensor(&[tokens], self.sequences));
        }
        let y = shape(F32, &[tokens, heads * size]);
        let cache = |dtype, width| Some(shape(dtype, &[SEQUENCES, kv_heads, context, width]));
        let groups = size.div_ceil(32);
        let mut caches = vec![cache(kept, size); 2];
        let is_q8 = kept == I8;
        if is_q8 {
            caches.extend([cache(F16, groups), cache(F16, groups)]);
        }
        let variant = if is_q8 { I8 } else { F32 };
        let case = Case::new(Op::CachedAttention, Some(variant), attributes, &inputs, y);
        case_with(&case, &caches)
    }

    /// The kernel that goes over the keys.
    fn kernel(&self, kept: DType) -> &'static str {
        let [whole, part_1, part_4] = match kept {
            F32 => [
                "cached_attention_f32",
                "cached_attention_f32_part_1",
                "cached_attention_f32_part_4",
            ],
            I8 => {
                ["cached_attention_q8", "cached_attention_q8_part_1", "cached_attention_q8_part_4"]
            }
            _ => ["cached_attention", "cached_attention_part_1", "cached_attention_part_4"],
        };
        match (self.parts > 1, self.heads > self.kv_heads) {
            (false, _) => whole,
            (true, false) => part_1,
            (true, true) => part_4,
        }
    }
}

/// What earlier runs left in a cache: numbers around 0, and scales that make them so.
fn left(seed: u32, cache: &Tensor) -> Vec<u8> {
    let count = cache.dims.iter().product::<u32>() as usize;
    let mut random = Random(seed);
    match cache.dtype {
        I8 => random.i8s(count).into_iter().map(|x| x.max(-127) as u8).collect(),
        F32 => random.f32s(count).into_iter().flat_map(f32::to_le_bytes).collect(),
        _ => {
            let by = if seed > 2 { 0.01 } else { 1.0 };
            let reals = random.f32s(count).into_iter();
            let reals = reals.map(|x| half::f16::from_f32(if seed > 2 { x.abs() } else { x } * by));
            reals.flat_map(half::f16::to_le_bytes).collect()
        }
    }
}

/// The caches of a case with their numbers among the outputs.
fn caches(case: &Case) -> impl Iterator<Item = (usize, Vec<u8>)> {
    let caches = case.more_outputs.iter().flatten().enumerate();
    caches.map(|(at, cache)| (at + 1, left(at as u32 + 1, cache)))
}

/// The result of the second run on the CPU, before which the caches are filled.
fn on_cpu(case: &Case, model: Model<'_>) -> Vec<u8> {
    let options = Options { isa: Some(Isa::Scalar), ..Options::default() };
    let mut session = Session::new(model, options).expect("a session");
    let feed = |session: &mut Session<'_>| {
        for (index, bytes) in case.fed().enumerate() {
            session.set_input_bytes(index, bytes).expect("an input");
        }
    };
    feed(&mut session);
    let filled = session.run_probed(|_, probe| {
        for (output, bytes) in caches(case) {
            let tensor = model.output(output).expect("a cache");
            probe.tensor_mut(tensor).expect("a cache").1.copy_from_slice(&bytes);
        }
    });
    filled.expect("a run");
    feed(&mut session);
    session.run().expect("a run");
    session.output_bytes(0).expect("a result").to_vec()
}

/// The same on a device, twice with the same bits, and the kernels that ran with their blocks along the first axis.
fn on_device(
    case: &Case,
    model: Model<'_>,
    device: &Device,
) -> (Vec<u8>, Vec<(&'static str, u32)>) {
    let mut session = cuda::Session::new(model, device, Default::default()).expect("a session");
    for (index, bytes) in case.fed().enumerate() {
        session.set_input_bytes(index, bytes).expect("an input");
    }
    session.run().expect("a run");
    for (output, bytes) in caches(case) {
        let address = session.output_address(output).expect("a cache");
        device.driver().write(address, &bytes).expect("written");
    }
    let mut results: Vec<Vec<u8>> = Vec::new();
    for _ in 0..2 {
        session.run().expect("a run");
        results.push(session.output_bytes(0).expect("a result").to_vec());
    }
    assert_eq!(results[0], results[1], "the same in every run");
    let launched = launches(&mut session).map(|launch| (launch.kernel.name, launch.grid[0]));
    let launched = launched.collect();
    (results.swap_remove(0), launched)
}

#[test]
fn parts_of_a_cache_are_joined() {
    let Some(devices) = devices() else { return };
    for (number, config) in CONFIGS.iter().enumerate() {
        for kept in KEPT {
            let case = config.case(kept);
            let file = case.file();
            let mut memory = vec![0u8; file.len() + 8];
            let start = memory.as_ptr().align_offset(8);
            memory[start..start + file.len()].copy_from_slice(&file);
            let model = Model::open(&memory[start..start + file.len()]).expect("a model");
            let expected = on_cpu(&case, model);
            for device in devices {
                let (found, launched) = on_device(&case, model, device);
                // A real device has more multiprocessors.
                if device.properties().multiprocessors == 4 {
                    let blocks = match config.parts {
                        1 => config.positions.len() as u32,
                        parts => parts,
                    };
                    let kernel = (config.kernel(kept), blocks);
                    assert!(launched.contains(&kernel), "{number}: {launched:?}");
                }
                assert_close(&found, &expected, &format!("configuration {number}, {launched:?}"));
            }
        }
    }
}

/// A case for each kernel of parts.
pub(super) fn parts(cases: &mut Vec<Named>) {
    for kept in KEPT {
        for heads in [1, 4] {
            let config = Config::single(heads, 1, 40, &[300]);
            for name in [config.kernel(kept), "cached_attention_join"] {
                cases.push((name, config.case(kept)));
            }
        }
    }
}
