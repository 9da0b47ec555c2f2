//! Angles per position and factors of cosines beside those of `transformers` 5.23 (`ROPE_INIT_FUNCTIONS`).

use serde_json::{Value, json};

use crate::import::transformers::config::Config;
use crate::import::transformers::rope::{Layers, Rope};

/// `transformers` computes in f32 and prints seven digits.
const TOLERANCE: f64 = 2e-6;

const SIZE: usize = 12;
const POSITIONS: usize = 192;

struct Case {
    parameters: Value,
    angles: [f64; SIZE / 2],
    factor: f64,
}

fn cases() -> Vec<Case> {
    let case = |parameters, angles, factor| Case { parameters, angles, factor };
    let plain = [1.0, 0.2154434, 0.04641588, 0.01, 0.002154434, 0.0004641589];
    let yarn = [1.0, 0.1346522, 0.01160397, 0.0025, 0.0005386086, 0.0001160397];
    let long = [1.0, 0.1077217, 0.01547196, 0.0025, 0.0004308868, 7.735983e-05];
    let (short_factor, long_factor) = ([1.0, 1.1, 1.2, 1.3, 1.4, 1.5], [1, 2, 3, 4, 5, 6]);
    vec![
        case(json!({"rope_type": "default"}), plain, 1.0),
        case(json!({"rope_type": "dynamic", "factor": 4.0}), plain, 1.0),
        case(json!({"rope_type": "linear", "factor": 4.0}), plain.map(|angle| angle / 4.0), 1.0),
        case(
            json!({"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
                "original_max_position_embeddings": 64}),
            [1.0, 0.1019893, 0.005801986, 0.00125, 0.0002693043, 5.801987e-05],
            1.0,
        ),
        case(
            json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 48}),
            yarn,
            1.138629,
        ),
        // Without a factor: the ratio of lengths, which is the same.
        case(json!({"rope_type": "yarn", "original_max_position_embeddings": 48}), yarn, 1.138629),
        case(
            json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 48, "mscale": 1.0,
                "mscale_all_dim": 0.6}),
            yarn,
            1.051194,
        ),
        case(
            json!({"rope_type": "yarn", "factor": 4.0, "original_max_position_embeddings": 48, "beta_fast": 8.0,
                "beta_slow": 0.5, "truncate": false}),
            [1.0, 0.1244693, 0.01160397, 0.0025, 0.0005386086, 0.0001160397],
            1.138629,
        ),
        case(
            json!({"rope_type": "longrope", "original_max_position_embeddings": 64, "short_factor": short_factor,
                "long_factor": long_factor}),
            long,
            1.124349,
        ),
        case(
            json!({"rope_type": "longrope", "original_max_position_embeddings": 64, "short_factor": short_factor,
                "long_factor": long_factor, "factor": 2.0}),
            long,
            1.080123,
        ),
        // Phi-3's first name for it.
        case(
            json!({"rope_type": "yarn", "original_max_position_embeddings": 64, "short_factor": short_factor,
                "long_factor": long_factor}),
            long,
            1.124349,
        ),
    ]
}

fn rope(config: Value, layers: Layers) -> Result<Rope, String> {
    let config = Config::parse("config.json", config.to_string().as_bytes()).unwrap();
    let rope = Rope::new(&config, layers, 10000.0, SIZE, [POSITIONS; 2]);
    rope.map_err(|error| error.to_string())
}

/// Angles per position and the factor, out of cosines and sines at position 1.
fn read(rope: &Rope) -> (Vec<f64>, Vec<f64>) {
    let table = rope.table(2).to_f32();
    let (cosines, sines) = table[SIZE..].split_at(SIZE / 2);
    let pairs = cosines.iter().zip(sines).map(|(c, s)| (f64::from(*c), f64::from(*s)));
    pairs.map(|(c, s)| (s.atan2(c), s.hypot(c))).unzip()
}

#[test]
fn angles_are_those_of_transformers() {
    for Case { parameters, angles, factor } in cases() {
        // As versions 5 and 4 write them.
        for config in [json!({"rope_parameters": parameters}), json!({"rope_scaling": parameters})]
        {
            let (found, factors) = read(&rope(config, Layers::All).expect("a rope"));
            for ((found, angle), own) in found.iter().zip(angles).zip(factors) {
                let close = |a: f64, b: f64| (a - b).abs() <= TOLERANCE * b.abs().max(0.1);
                assert!(close(*found, angle), "{parameters}: {found}, {angle}");
                assert!(close(own, factor), "{parameters}: factor {own}, {factor}");
            }
        }
    }
}

#[test]
fn kinds_of_layers_have_angles_of_their_own() {
    let first = |config: Value, layers| {
        let (angles, _) = read(&rope(config, layers).expect("a rope"));
        angles[3]
    };
    let new = json!({"rope_parameters": {"full_attention": {"rope_type": "linear", "factor": 8.0, "rope_theta": 900.0},
        "sliding_attention": {"rope_type": "default", "rope_theta": 100.0}}});
    let old = json!({"rope_theta": 900.0, "rope_local_base_freq": 100.0,
        "rope_scaling": {"type": "linear", "factor": 8.0}});
    for config in [new.clone(), old] {
        let close = |a: f64, b: f64| assert!((a - b).abs() < 1e-6, "{config}: {a}, {b}");
        close(first(config.clone(), Layers::Full), 1.0 / 30.0 / 8.0);
        close(first(config.clone(), Layers::Sliding), 0.1);
    }
    let refused = rope(new, Layers::All).expect_err("kinds of layers");
    assert!(refused.contains("`rope_parameters` has parts for kinds of layers"), "{refused}");
    let other = json!({"rope_parameters": {"other_attention": {"rope_type": "default"}}});
    let refused = rope(other, Layers::Full).expect_err("an unknown kind");
    assert!(refused.contains("`full_attention` is missing"), "{refused}");
}
