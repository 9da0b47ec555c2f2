//! Whisper beside its formulas in f64: a window of sound with a prompt, then token by token without the window.

use serde_json::{Value, json};
use whit::{Model, Options, Session};

use super::oracle::gelu;
use super::{Folder, Parameters, Random};
use crate::evaluate::AlignedBytes;
use crate::import::{ImportOptions, import_file};
use crate::pipeline::{ConvertOptions, convert};

/// f32 sums over two layers of numbers around 1, and keys and values in f16.
const TOLERANCE: f64 = 4e-3;

/// The encoder has no f16.
const ENCODER_TOLERANCE: f64 = 1e-5;

const VOCAB: usize = 18;
const WIDTH: usize = 12;
const INNER: usize = 20;
const LAYERS: usize = 2;
const MELS: usize = 4;
const ROWS: usize = 5;
const HEADS: [usize; 2] = [2, 3];
const TOKENS: [usize; 6] = [3, 17, 0, 5, 5, 11];

type Rows = Vec<Vec<f64>>;

fn config() -> Value {
    json!({
        "architectures": ["WhisperForConditionalGeneration"], "d_model": WIDTH, "encoder_layers": LAYERS, "decoder_layers": LAYERS,
        "encoder_attention_heads": HEADS[0], "decoder_attention_heads": HEADS[1], "encoder_ffn_dim": INNER,
        "decoder_ffn_dim": INNER, "num_mel_bins": MELS, "max_source_positions": ROWS, "max_target_positions": 8,
        "vocab_size": VOCAB,
    })
}

fn parameters() -> Parameters {
    let mut random = Random(41);
    let mut p = Parameters::new();
    let mut add = |name: String, shape: &[usize]| {
        p.insert(name, (shape.to_vec(), random.values(shape.iter().product())));
    };
    let mut module = |name: &str, shape: &[usize], has_bias: bool| {
        add(format!("model.{name}.weight"), shape);
        if has_bias {
            add(format!("model.{name}.bias"), &shape[..1]);
        }
    };
    module("encoder.conv1", &[WIDTH, MELS, 3], true);
    module("encoder.conv2", &[WIDTH, WIDTH, 3], true);
    module("encoder.embed_positions", &[ROWS, WIDTH], false);
    module("decoder.embed_tokens", &[VOCAB, WIDTH], false);
    module("decoder.embed_positions", &[8, WIDTH], false);
    for side in ["encoder", "decoder"] {
        module(&format!("{side}.layer_norm"), &[WIDTH], true);
        for layer in 0..LAYERS {
            let attentions: &[&str] =
                if side == "encoder" { &["self_attn"] } else { &["self_attn", "encoder_attn"] };
            for attention in attentions {
                for name in ["q_proj", "k_proj", "v_proj", "out_proj"] {
                    let of = format!("{side}.layers.{layer}.{attention}.{name}");
                    module(&of, &[WIDTH, WIDTH], name != "k_proj");
                }
                module(&format!("{side}.layers.{layer}.{attention}_layer_norm"), &[WIDTH], true);
            }
            module(&format!("{side}.layers.{layer}.final_layer_norm"), &[WIDTH], true);
            module(&format!("{side}.layers.{layer}.fc1"), &[INNER, WIDTH], true);
            module(&format!("{side}.layers.{layer}.fc2"), &[WIDTH, INNER], true);
        }
    }
    p
}

/// The formulas, row by row.
struct Oracle<'p>(&'p Parameters);

impl Oracle<'_> {
    fn get(&self, name: &str) -> Vec<f64> {
        let values = self.0.get(&format!("model.{name}")).map(|(_, values)| values.as_slice());
        values.unwrap_or_default().iter().map(|v| f64::from(*v)).collect()
    }

    fn linear(&self, x: &[f64], name: &str) -> Vec<f64> {
        let (w, b) = (self.get(&format!("{name}.weight")), self.get(&format!("{name}.bias")));
        let rows = w.chunks(x.len()).enumerate();
        rows.map(|(at, row)| {
            row.iter().zip(x).map(|(w, x)| w * x).sum::<f64>() + b.get(at).copied().unwrap_or(0.0)
        })
        .collect()
    }

    fn norm(&self, x: &[f64], name: &str) -> Vec<f64> {
        let (w, b) = (self.get(&format!("{name}.weight")), self.get(&format!("{name}.bias")));
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64;
        let by = (variance + 1e-5).sqrt();
        (0..x.len()).map(|i| (x[i] - mean) / by * w[i] + b[i]).collect()
    }

    /// A convolution of three frames, with one of zeros on either side.
    fn convolution(&self, x: &Rows, name: &str, stride: usize) -> Rows {
        let (w, b) = (self.get(&format!("{name}.weight")), self.get(&format!("{name}.bias")));
        let inputs = x[0].len();
        let at = |centre: usize, output: usize| {
            let mut sum = b[output];
            for (input, tap) in (0..inputs).flat_map(|input| (0..3).map(move |tap| (input, tap))) {
                let frame = (centre + tap).checked_sub(1).and_then(|frame| x.get(frame));
                let value = frame.map_or(0.0, |frame| frame[input]);
                sum += w[(output * inputs + input) * 3 + tap] * value;
            }
            gelu(sum)
        };
        let centres = (0..x.len()).step_by(stride);
        centres.map(|centre| (0..b.len()).map(|output| at(centre, output)).collect()).collect()
    }

    /// Adds attention of every row to `to`, or to the rows up to itself, with its norm before it.
    fn attend(&self, x: &mut Rows, to: Option<&Rows>, name: &str, heads: usize, causal: bool) {
        let size = WIDTH / heads;
        let h: Rows = x.iter().map(|x| self.norm(x, &format!("{name}_layer_norm"))).collect();
        let of = |rows: &Rows, part: &str| -> Rows {
            rows.iter().map(|row| self.linear(row, &format!("{name}.{part}_proj"))).collect()
        };
        let other = to.unwrap_or(&h);
        let (q, k, v) = (of(&h, "q"), of(other, "k"), of(other, "v"));
        for (at, x) in x.iter_mut().enumerate() {
            let seen = if causal { at + 1 } else { k.len() };
            let mut mixed = vec![0.0; WIDTH];
            for head in 0..heads {
                let range = head * size..(head + 1) * size;
                let score = |k: &Vec<f64>| {
                    let dot: f64 = range.clone().map(|c| q[at][c] * k[c]).sum();
                    (dot / (size as f64).sqrt()).exp()
                };
                let weights: Vec<f64> = k[..seen].iter().map(score).collect();
                let sum: f64 = weights.iter().sum();
                for c in range.clone() {
                    mixed[c] = weights.iter().zip(&v).map(|(w, v)| w * v[c]).sum::<f64>() / sum;
                }
            }
            let y = self.linear(&mixed, &format!("{name}.out_proj"));
            x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
        }
    }

    fn feed_forward(&self, x: &mut Rows, layer: &str) {
        for x in x {
            let h = self.norm(x, &format!("{layer}.final_layer_norm"));
            let h: Vec<f64> =
                self.linear(&h, &format!("{layer}.fc1")).into_iter().map(gelu).collect();
            let y = self.linear(&h, &format!("{layer}.fc2"));
            x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
        }
    }

    fn encode(&self, mel: &Rows) -> Rows {
        let x = self.convolution(mel, "encoder.conv1", 1);
        let mut x = self.convolution(&x, "encoder.conv2", 2);
        let positions = self.get("encoder.embed_positions.weight");
        for (x, position) in x.iter_mut().zip(positions.chunks(WIDTH)) {
            x.iter_mut().zip(position).for_each(|(x, p)| *x += p);
        }
        for layer in 0..LAYERS {
            let name = format!("encoder.layers.{layer}");
            self.attend(&mut x, None, &format!("{name}.self_attn"), HEADS[0], false);
            self.feed_forward(&mut x, &name);
        }
        x.iter().map(|x| self.norm(x, "encoder.layer_norm")).collect()
    }

    /// Logits behind every token.
    fn decode(&self, encoded: &Rows) -> Rows {
        let table = self.get("decoder.embed_tokens.weight");
        let positions = self.get("decoder.embed_positions.weight");
        let embed = |(at, id): (usize, &usize)| -> Vec<f64> {
            (0..WIDTH).map(|i| table[id * WIDTH + i] + positions[at * WIDTH + i]).collect()
        };
        let mut x: Rows = TOKENS.iter().enumerate().map(embed).collect();
        for layer in 0..LAYERS {
            let name = format!("decoder.layers.{layer}");
            self.attend(&mut x, None, &format!("{name}.self_attn"), HEADS[1], true);
            self.attend(&mut x, Some(encoded), &format!("{name}.encoder_attn"), HEADS[1], false);
            self.feed_forward(&mut x, &name);
        }
        let logits = |x: &Vec<f64>| {
            let x = self.norm(x, "decoder.layer_norm");
            table.chunks(WIDTH).map(|row| row.iter().zip(&x).map(|(w, x)| w * x).sum()).collect()
        };
        x.iter().map(logits).collect()
    }
}

#[track_caller]
fn assert_rows(got: &[f32], want: &[Vec<f64>], tolerance: f64) {
    let want: Vec<f64> = want.iter().flatten().copied().collect();
    assert_eq!(got.len(), want.len());
    let largest = want.iter().fold(1.0f64, |most, v| most.max(v.abs()));
    for (at, (got, want)) in got.iter().zip(&want).enumerate() {
        let off = (f64::from(*got) - want).abs() / largest;
        assert!(off <= tolerance, "{at}: {got}, not {want}");
    }
}

#[test]
fn whisper_computes_its_formula() {
    let (folder, p) = (Folder::new("whisper"), parameters());
    folder.write_model(&config(), &p);
    folder
        .write("generation_config.json", r#"{"suppress_tokens": [1, 2], "is_multilingual": true}"#);
    folder.write("preprocessor_config.json", r#"{"hop_length": 80, "feature_size": 4}"#);
    let graph = import_file(&folder.0, &ImportOptions::default()).unwrap();
    let file = convert(graph, None, &ConvertOptions::default(), &mut ()).unwrap().file;
    let file = AlignedBytes::new(&file);
    let model = Model::open(file.as_slice()).unwrap();
    for (key, value) in [
        ("model.architecture", "whisper"),
        ("model.context", "8"),
        ("audio.sample_rate", "16000"),
        ("audio.fft", "400"),
        ("audio.hop", "80"),
        ("audio.mels", "4"),
        ("audio.frames", "10"),
        ("speech.multilingual", "1"),
        ("speech.suppress", "1 2"),
    ] {
        assert_eq!(model.metadata_value(key), Some(value), "{key}");
    }

    let mut session = Session::new(model, Options::default()).unwrap();
    let mut random = Random(5);
    // The second window takes the place of the first.
    for cuts in [&[0, 6][..], &[0, 3, 4, 6]] {
        let sound = random.values(2 * ROWS * MELS);
        let mel: Rows =
            sound.chunks(MELS).map(|row| row.iter().map(|v| f64::from(*v)).collect()).collect();
        let encoded = Oracle(&p).encode(&mel);
        let want = Oracle(&p).decode(&encoded);
        for (run, cut) in cuts.windows(2).enumerate() {
            let (first, tokens) = (cut[0], &TOKENS[cut[0]..cut[1]]);
            for (name, size) in [
                ("tokens", tokens.len()),
                ("rows", tokens.len()),
                ("windows", usize::from(run == 0)),
            ] {
                session.set_dimension(name, size as u32).unwrap();
            }
            let inputs: [Vec<i32>; 3] = [
                tokens.iter().map(|id| *id as i32).collect(),
                (first..first + tokens.len()).map(|at| at as i32).collect(),
                (0..tokens.len() as i32).collect(),
            ];
            for (at, input) in inputs.iter().enumerate() {
                session.input_mut::<i32>(at).unwrap().copy_from_slice(input);
            }
            if run == 0 {
                session.input_mut::<f32>(3).unwrap().copy_from_slice(&sound);
            }
            session.run().unwrap();
            assert_rows(session.output(0).unwrap(), &want[cut[0]..cut[1]], TOLERANCE);
            let rows = if run == 0 { &encoded[..] } else { &[] };
            assert_rows(session.output(1).unwrap(), rows, ENCODER_TOLERANCE);
        }
    }
}

#[test]
fn what_is_wrong_is_named() {
    struct Case(&'static str, &'static str, Value, &'static str);
    let cases = [
        Case("config.json", "encoder_attention_heads", json!(5), "which 12 isn't a multiple of"),
        Case("config.json", "scale_embedding", json!(true), "isn't supported"),
        Case("config.json", "decoder_layers", json!(3_000_000), "`decoder_layers` is 3000000"),
        Case("config.json", "decoder_layers", json!(3), "model.decoder.layers.2"),
        Case("config.json", "num_mel_bins", json!(5), "model.encoder.conv1.weight"),
        Case("config.json", "max_source_positions", json!(6), "model.encoder.embed_positions"),
        Case("config.json", "architectures", json!(["ParrotForCausalLM"]), "parrot"),
        Case("preprocessor_config.json", "feature_size", json!(128), "the model has 4 mel bins"),
        Case(
            "generation_config.json",
            "suppress_tokens",
            json!([-1]),
            "`suppress_tokens` is not a list",
        ),
    ];
    for Case(file, key, value, part) in cases {
        let folder = Folder::new("whisper");
        folder.write_model(&config(), &parameters());
        let mut changed = if file == "config.json" { config() } else { json!({}) };
        changed[key] = value;
        folder.write(file, changed.to_string());
        let error = import_file(&folder.0, &ImportOptions::default()).unwrap_err().to_string();
        assert!(error.contains(part), "{key}: {error}");
    }
}
