//! Every decoder beside its formulas in f64, a prompt at once and then token by token.

use serde_json::{Value, json};
use whit::{Model, Options, Session};

use super::oracle::{gelu, gelu_tanh};
use super::{Folder, Parameters, Random};
use crate::evaluate::AlignedBytes;
use crate::import::{ImportOptions, KvCache, import_file};
use crate::pipeline::{ConvertOptions, convert};

/// f32 sums over two layers of numbers around 1, and keys and values in f16.
const TOLERANCE: f64 = 4e-3;

/// Where keys and values are f32, too, sums are all that is rounded.
const FLOAT_TOLERANCE: f64 = 2e-5;

/// The same with keys and values in q8, whose steps are 8 times those of f16 at the largest of a group, and more below.
const Q8_TOLERANCE: f64 = 6e-2;

const VOCAB: usize = 18;
const WIDTH: usize = 12;
const INNER: usize = 20;
const LAYERS: usize = 2;
const TOKENS: [usize; 7] = [3, 17, 0, 5, 5, 11, 8];

/// A decoder as its papers describe it.
struct Decoder {
    config: Value,
    heads: usize,
    kv_heads: usize,
    size: usize,
    /// Parameters of layers that differ from Llama's: of queries, keys and values together; of gates and values together.
    fused: bool,
    qkv_bias: bool,
    qk_norm: bool,
    /// Norms behind each branch, scales that are short of 1, embeddings times the root of the width.
    gemma: bool,
    softcaps: [f64; 2],
    /// What a layer sees, and the base of its angles; 0 for none.
    layers: [(usize, f64); LAYERS],
    rotated: usize,
    tied: bool,
    scale: f64,
}

fn silu(x: f64) -> f64 {
    x / (1.0 + (-x).exp())
}

fn decoders() -> Vec<Decoder> {
    let llama = || Decoder {
        config: json!({"model_type": "llama"}),
        heads: 4,
        kv_heads: 2,
        size: 3 * 2,
        fused: false,
        qkv_bias: false,
        qk_norm: false,
        gemma: false,
        softcaps: [0.0; 2],
        layers: [(usize::MAX, 10000.0); 2],
        rotated: 6,
        tied: false,
        scale: 1.0 / 6f64.sqrt(),
    };
    vec![
        Decoder {
            config: json!({"model_type": "llama", "rope_theta": 500.0}),
            layers: [(usize::MAX, 500.0); 2],
            ..llama()
        },
        Decoder {
            config: json!({"model_type": "llama", "tie_word_embeddings": true, "partial_rotary_factor": 0.67}),
            rotated: 4,
            tied: true,
            ..llama()
        },
        Decoder {
            config: json!({"model_type": "mistral", "sliding_window": 3}),
            layers: [(3, 10000.0); 2],
            ..llama()
        },
        Decoder { config: json!({"model_type": "qwen2"}), qkv_bias: true, ..llama() },
        Decoder { config: json!({"model_type": "qwen3"}), qk_norm: true, ..llama() },
        Decoder {
            config: json!({"model_type": "smollm3", "no_rope_layers": [1, 0]}),
            layers: [(usize::MAX, 10000.0), (usize::MAX, 0.0)],
            ..llama()
        },
        Decoder { config: json!({"model_type": "phi3"}), fused: true, ..llama() },
        Decoder {
            config: json!({"model_type": "gemma2", "sliding_window": 4, "attn_logit_softcapping": 2.0,
                "final_logit_softcapping": 3.0, "query_pre_attn_scalar": 9, "hidden_activation": "gelu_pytorch_tanh"}),
            gemma: true,
            softcaps: [2.0, 3.0],
            layers: [(4, 10000.0), (usize::MAX, 10000.0)],
            tied: true,
            scale: 1.0 / 3.0,
            ..llama()
        },
        Decoder {
            config: json!({"model_type": "gemma3_text", "sliding_window": 3, "hidden_activation": "gelu_pytorch_tanh",
                "layer_types": ["full_attention", "sliding_attention"], "rope_parameters": {
                    "full_attention": {"rope_type": "default", "rope_theta": 800.0},
                    "sliding_attention": {"rope_type": "default", "rope_theta": 30.0}}}),
            gemma: true,
            qk_norm: true,
            layers: [(usize::MAX, 800.0), (3, 30.0)],
            tied: true,
            ..llama()
        },
        Decoder {
            config: json!({"model_type": "gemma3_text", "sliding_window": 3, "sliding_window_pattern": 2, "rope_theta": 1e6,
                "rope_local_base_freq": 100.0, "hidden_activation": "gelu_pytorch_tanh"}),
            gemma: true,
            qk_norm: true,
            layers: [(3, 100.0), (usize::MAX, 1e6)],
            tied: true,
            ..llama()
        },
    ]
}

impl Decoder {
    fn config(&self) -> Value {
        let mut config = json!({
            "vocab_size": VOCAB, "hidden_size": WIDTH, "num_hidden_layers": LAYERS, "num_attention_heads": self.heads,
            "num_key_value_heads": self.kv_heads, "head_dim": self.size, "intermediate_size": INNER,
            "max_position_embeddings": 16, "rms_norm_eps": 1e-5,
        });
        for (key, value) in self.config.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    }

    fn parameters(&self, random: &mut Random) -> Parameters {
        let mut parameters = Parameters::new();
        let mut add = |name: String, shape: &[usize]| {
            let values = random.values(shape.iter().product());
            let values = values.into_iter().map(|v| v * 0.6).collect();
            parameters.insert(name, (shape.to_vec(), values));
        };
        let (q, kv) = (self.heads * self.size, self.kv_heads * self.size);
        add("model.embed_tokens.weight".into(), &[VOCAB, WIDTH]);
        add("model.norm.weight".into(), &[WIDTH]);
        if !self.tied {
            add("lm_head.weight".into(), &[VOCAB, WIDTH]);
        }
        for layer in 0..LAYERS {
            let of = |name: &str| format!("model.layers.{layer}.{name}.weight");
            let norms: &[&str] = match self.gemma {
                false => &["input_layernorm", "post_attention_layernorm"],
                true => &[
                    "input_layernorm",
                    "post_attention_layernorm",
                    "pre_feedforward_layernorm",
                    "post_feedforward_layernorm",
                ],
            };
            norms.iter().for_each(|norm| add(of(norm), &[WIDTH]));
            if self.fused {
                add(of("self_attn.qkv_proj"), &[q + 2 * kv, WIDTH]);
                add(of("mlp.gate_up_proj"), &[2 * INNER, WIDTH]);
            } else {
                for (name, outputs) in [("q", q), ("k", kv), ("v", kv)] {
                    add(of(&format!("self_attn.{name}_proj")), &[outputs, WIDTH]);
                    if self.qkv_bias {
                        let bias = format!("model.layers.{layer}.self_attn.{name}_proj.bias");
                        add(bias, &[outputs]);
                    }
                }
                add(of("mlp.gate_proj"), &[INNER, WIDTH]);
                add(of("mlp.up_proj"), &[INNER, WIDTH]);
            }
            if self.qk_norm {
                add(of("self_attn.q_norm"), &[self.size]);
                add(of("self_attn.k_norm"), &[self.size]);
            }
            add(of("self_attn.o_proj"), &[WIDTH, q]);
            add(of("mlp.down_proj"), &[WIDTH, INNER]);
        }
        parameters
    }

    /// Logits behind every token.
    fn run(&self, p: &Parameters) -> Vec<Vec<f64>> {
        let get = |name: &str| -> Vec<f64> { p[name].1.iter().map(|v| f64::from(*v)).collect() };
        let product = |x: &[f64], w: &[f64]| -> Vec<f64> {
            w.chunks(x.len()).map(|row| row.iter().zip(x).map(|(w, x)| w * x).sum()).collect()
        };
        let offset = if self.gemma { 1.0 } else { 0.0 };
        let normalized = |x: &[f64], name: &str| -> Vec<f64> {
            let square = x.iter().map(|v| v * v).sum::<f64>() / x.len() as f64;
            let factor = 1.0 / (square + 1e-5).sqrt();
            x.iter().zip(get(name)).map(|(v, s)| v * factor * (s + offset)).collect()
        };
        let bend = |x: f64, cap: f64| if cap > 0.0 { cap * (x / cap).tanh() } else { x };
        let size = self.size;
        let (q_len, kv_len) = (self.heads * size, self.kv_heads * size);
        let table = get("model.embed_tokens.weight");
        let factor = if self.gemma { (WIDTH as f64).sqrt() } else { 1.0 };
        let embed = |id: &usize| table[id * WIDTH..][..WIDTH].iter().map(|v| v * factor).collect();
        let mut x: Vec<Vec<f64>> = TOKENS.iter().map(embed).collect();
        for (layer, (window, base)) in self.layers.iter().enumerate() {
            let of = |name: &str| format!("model.layers.{layer}.{name}.weight");
            let mut qkv = Vec::new();
            for (at, x) in x.iter().enumerate() {
                let h = normalized(x, &of("input_layernorm"));
                let mut row = Vec::new();
                if self.fused {
                    row = product(&h, &get(&of("self_attn.qkv_proj")));
                } else {
                    for name in ["q", "k", "v"] {
                        let mut part = product(&h, &get(&of(&format!("self_attn.{name}_proj"))));
                        if self.qkv_bias {
                            let bias = format!("model.layers.{layer}.self_attn.{name}_proj.bias");
                            part.iter_mut().zip(get(&bias)).for_each(|(p, b)| *p += b);
                        }
                        row.extend(part);
                    }
                }
                for head in 0..self.heads + self.kv_heads {
                    let part = &mut row[head * size..][..size];
                    if self.qk_norm {
                        let name = if head < self.heads { "q" } else { "k" };
                        let by = normalized(part, &of(&format!("self_attn.{name}_norm")));
                        part.copy_from_slice(&by);
                    }
                    let half = self.rotated / 2;
                    for pair in 0..if *base > 0.0 { half } else { 0 } {
                        let angle = at as f64 * base.powf(-2.0 * pair as f64 / self.rotated as f64);
                        let (a, b) = (part[pair], part[pair + half]);
                        part[pair] = a * angle.cos() - b * angle.sin();
                        part[pair + half] = b * angle.cos() + a * angle.sin();
                    }
                }
                qkv.push(row);
            }
            for (at, x) in x.iter_mut().enumerate() {
                let mut mixed = Vec::new();
                for head in 0..self.heads {
                    let kv = head / (self.heads / self.kv_heads);
                    let first = (at + 1).saturating_sub(*window);
                    let q = &qkv[at][head * size..][..size];
                    let score = |key: &Vec<f64>| {
                        let k = &key[q_len + kv * size..][..size];
                        let dot: f64 = q.iter().zip(k).map(|(q, k)| q * k).sum();
                        bend(dot * self.scale, self.softcaps[0]).exp()
                    };
                    let weights: Vec<f64> = qkv[first..=at].iter().map(score).collect();
                    let sum: f64 = weights.iter().sum();
                    mixed.extend((0..size).map(|i| {
                        let values = qkv[first..=at].iter();
                        let value = |row: &Vec<f64>| row[q_len + kv_len + kv * size + i];
                        values.zip(&weights).map(|(row, w)| value(row) * w / sum).sum::<f64>()
                    }));
                }
                let mut y = product(&mixed, &get(&of("self_attn.o_proj")));
                if self.gemma {
                    y = normalized(&y, &of("post_attention_layernorm"));
                }
                x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
                let before = if self.gemma { "pre_feedforward" } else { "post_attention" };
                let h = normalized(x, &of(&format!("{before}_layernorm")));
                let both = match self.fused {
                    true => product(&h, &get(&of("mlp.gate_up_proj"))),
                    false => {
                        let gate = product(&h, &get(&of("mlp.gate_proj")));
                        [gate, product(&h, &get(&of("mlp.up_proj")))].concat()
                    }
                };
                let f = if self.gemma { gelu_tanh } else { silu };
                let h: Vec<f64> = (0..INNER).map(|i| f(both[i]) * both[INNER + i]).collect();
                let mut y = product(&h, &get(&of("mlp.down_proj")));
                if self.gemma {
                    y = normalized(&y, &of("post_feedforward_layernorm"));
                }
                x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
            }
        }
        let head = if self.tied { table.clone() } else { get("lm_head.weight") };
        let logits = |x: &Vec<f64>| {
            let logits = product(&normalized(x, "model.norm.weight"), &head);
            logits.into_iter().map(|l| bend(l, self.softcaps[1])).collect()
        };
        x.iter().map(logits).collect()
    }
}

/// Logits of the tokens at `positions`, fed in one run.
fn feed(session: &mut Session<'_>, tokens: &[usize], first: usize) -> Vec<Vec<f32>> {
    session.set_dimension("tokens", tokens.len() as u32).unwrap();
    session.set_dimension("rows", tokens.len() as u32).unwrap();
    let inputs: [Vec<i32>; 3] = [
        tokens.iter().map(|id| *id as i32).collect(),
        (first..first + tokens.len()).map(|at| at as i32).collect(),
        (0..tokens.len() as i32).collect(),
    ];
    for (at, input) in inputs.iter().enumerate() {
        session.input_mut::<i32>(at).unwrap().copy_from_slice(input);
    }
    session.run().unwrap();
    session.output::<f32>(0).unwrap().chunks(VOCAB).map(<[f32]>::to_vec).collect()
}

fn check(name: &str, folder: &Folder, want: &[Vec<f64>]) {
    check_kept(name, folder, want, KvCache::F32, FLOAT_TOLERANCE);
    check_kept(name, folder, want, KvCache::F16, TOLERANCE);
    check_kept(name, folder, want, KvCache::Q8, Q8_TOLERANCE);
}

fn check_kept(name: &str, folder: &Folder, want: &[Vec<f64>], kv_cache: KvCache, tolerance: f64) {
    let options = ImportOptions { kv_cache, ..ImportOptions::default() };
    let graph = import_file(&folder.0, &options).unwrap_or_else(|e| panic!("{name}: {e}"));
    let file = convert(graph, None, &ConvertOptions::default(), &mut ()).unwrap().file;
    let file = AlignedBytes::new(&file);
    let model = Model::open(file.as_slice()).unwrap();
    assert_eq!(model.metadata_value("model.context"), Some("16"));
    let mut session = Session::new(model, Options::default()).unwrap();
    // All at once; a prompt, then one by one; and over what is there already.
    for cuts in [&[0, 7][..], &[0, 4, 5, 6, 7], &[0, 2, 7], &[0, 7]] {
        let mut got = Vec::new();
        for cut in cuts.windows(2) {
            got.extend(feed(&mut session, &TOKENS[cut[0]..cut[1]], cut[0]));
        }
        for (at, (got, want)) in got.iter().zip(want).enumerate() {
            let largest = want.iter().fold(1.0f64, |most, v| most.max(v.abs()));
            for (got, want) in got.iter().zip(want) {
                let off = (f64::from(*got) - want).abs() / largest;
                let case = format!("{name} {kv_cache:?} {cuts:?}, token {at}");
                assert!(off <= tolerance, "{case}: {got}, not {want}");
            }
        }
    }
}

#[test]
fn decoders_compute_their_formulas() {
    for (at, decoder) in decoders().into_iter().enumerate() {
        let parameters = decoder.parameters(&mut Random(at as u64 + 7));
        let folder = Folder::new("decoder");
        let config = decoder.config();
        folder.write_model(&config, &parameters);
        check(config["model_type"].as_str().unwrap(), &folder, &decoder.run(&parameters));
    }
}

/// GPT-2 has little in common with the others.
#[test]
fn gpt2_computes_its_formula() {
    let heads = 3;
    let mut random = Random(99);
    let mut p = Parameters::new();
    let mut add = |name: String, shape: &[usize]| {
        p.insert(name, (shape.to_vec(), random.values(shape.iter().product())));
    };
    add("transformer.wte.weight".into(), &[VOCAB, WIDTH]);
    add("transformer.wpe.weight".into(), &[16, WIDTH]);
    for layer in 0..LAYERS {
        for (name, shape) in [
            ("ln_1", &[WIDTH][..]),
            ("attn.c_attn", &[WIDTH, 3 * WIDTH]),
            ("attn.c_proj", &[WIDTH, WIDTH]),
            ("ln_2", &[WIDTH]),
            ("mlp.c_fc", &[WIDTH, 4 * WIDTH]),
            ("mlp.c_proj", &[4 * WIDTH, WIDTH]),
        ] {
            add(format!("transformer.h.{layer}.{name}.weight"), shape);
            add(format!("transformer.h.{layer}.{name}.bias"), &shape[shape.len() - 1..]);
        }
    }
    add("transformer.ln_f.weight".into(), &[WIDTH]);
    add("transformer.ln_f.bias".into(), &[WIDTH]);

    let get = |name: &str| -> Vec<f64> {
        p[&format!("transformer.{name}")].1.iter().map(|v| f64::from(*v)).collect()
    };
    let linear = |x: &[f64], name: &str| -> Vec<f64> {
        let (w, b) = (get(&format!("{name}.weight")), get(&format!("{name}.bias")));
        let n = b.len();
        (0..n)
            .map(|o| b[o] + x.iter().enumerate().map(|(i, x)| x * w[i * n + o]).sum::<f64>())
            .collect()
    };
    let norm = |x: &[f64], name: &str| -> Vec<f64> {
        let (w, b) = (get(&format!("{name}.weight")), get(&format!("{name}.bias")));
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|v| (v - mean).powi(2)).sum::<f64>() / x.len() as f64;
        let factor = 1.0 / (variance + 1e-5).sqrt();
        (0..x.len()).map(|i| (x[i] - mean) * factor * w[i] + b[i]).collect()
    };
    let (wte, wpe) = (get("wte.weight"), get("wpe.weight"));
    let mut x: Vec<Vec<f64>> = Vec::new();
    for (at, id) in TOKENS.iter().enumerate() {
        x.push((0..WIDTH).map(|i| wte[id * WIDTH + i] + wpe[at * WIDTH + i]).collect());
    }
    let size = WIDTH / heads;
    for layer in 0..LAYERS {
        let of = |name: &str| format!("h.{layer}.{name}");
        let qkv: Vec<Vec<f64>> =
            x.iter().map(|x| linear(&norm(x, &of("ln_1")), &of("attn.c_attn"))).collect();
        for (at, x) in x.iter_mut().enumerate() {
            let mut mixed = Vec::new();
            for head in 0..heads {
                let part =
                    |row: &[f64], which: usize| row[which * WIDTH + head * size..][..size].to_vec();
                let q = part(&qkv[at], 0);
                let score = |row: &Vec<f64>| {
                    let dot: f64 = q.iter().zip(part(row, 1)).map(|(q, k)| q * k).sum();
                    (dot / (size as f64).sqrt()).exp()
                };
                let weights: Vec<f64> = qkv[..=at].iter().map(score).collect();
                let sum: f64 = weights.iter().sum();
                for i in 0..size {
                    let of = qkv[..=at].iter().zip(&weights);
                    mixed.push(of.map(|(row, w)| part(row, 2)[i] * w / sum).sum::<f64>());
                }
            }
            let y = linear(&mixed, &of("attn.c_proj"));
            x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
            let h = linear(&norm(x, &of("ln_2")), &of("mlp.c_fc"));
            let h: Vec<f64> = h.into_iter().map(gelu_tanh).collect();
            let y = linear(&h, &of("mlp.c_proj"));
            x.iter_mut().zip(y).for_each(|(x, y)| *x += y);
        }
    }
    let want: Vec<Vec<f64>> = x
        .iter()
        .map(|x| {
            let x = norm(x, "ln_f");
            wte.chunks(WIDTH).map(|row| row.iter().zip(&x).map(|(w, x)| w * x).sum()).collect()
        })
        .collect();
    assert!((gelu(0.5) - gelu_tanh(0.5)).abs() > 1e-5, "the two are told apart");
    let config = json!({
        "model_type": "gpt2", "vocab_size": VOCAB, "n_embd": WIDTH, "n_head": heads, "n_layer": LAYERS, "n_positions": 16,
    });
    let folder = Folder::new("gpt2");
    folder.write_model(&config, &p);
    check("gpt2", &folder, &want);
}

/// A GPT-2 of one layer, its parameters as `GPT2LMHeadModel` names them.
fn gpt2(head: bool) -> Parameters {
    let shapes: &[(&str, &[usize])] = &[
        ("transformer.wte.weight", &[VOCAB, 4]),
        ("transformer.wpe.weight", &[16, 4]),
        ("transformer.h.0.ln_1.weight", &[4]),
        ("transformer.h.0.attn.c_attn.weight", &[4, 12]),
        ("transformer.h.0.attn.c_attn.bias", &[12]),
        ("transformer.h.0.attn.c_proj.weight", &[4, 4]),
        ("transformer.h.0.attn.c_proj.bias", &[4]),
        ("transformer.h.0.ln_2.weight", &[4]),
        ("transformer.h.0.mlp.c_fc.weight", &[4, 16]),
        ("transformer.h.0.mlp.c_fc.bias", &[16]),
        ("transformer.h.0.mlp.c_proj.weight", &[16, 4]),
        ("transformer.h.0.mlp.c_proj.bias", &[4]),
        ("transformer.ln_f.weight", &[4]),
    ];
    let head = head.then_some(("lm_head.weight", &[VOCAB, 4][..]));
    let shapes = shapes.iter().copied().chain(head);
    let parameter = |(name, shape): (&str, &[usize])| {
        (name.to_owned(), (shape.to_vec(), vec![0.5; shape.iter().product()]))
    };
    shapes.map(parameter).collect()
}

/// The head of a model stands beside the module that has the other parameters.
#[test]
fn heads_of_their_own_are_taken() {
    let config = |tied: Value| {
        json!({"model_type": "gpt2", "vocab_size": VOCAB, "n_embd": 4, "n_head": 2, "n_layer": 1, "n_positions": 16,
            "tie_word_embeddings": tied})
    };
    let import = |tied: Value, head: bool| {
        let folder = Folder::new("gpt2");
        import_file(folder.write_model(&config(tied), &gpt2(head)), &ImportOptions::default())
    };
    let has = |graph: &crate::graph::Graph, name: &str| {
        graph.values.iter().any(|value| value.name == name && value.constant.is_some())
    };
    let own = import(json!(false), true).expect("a model");
    assert!(has(&own, "lm_head.weight") && has(&own, "transformer.wte.weight"));
    for tied in [json!(true), Value::Null] {
        let tied = import(tied, false).expect("a model");
        assert!(!has(&tied, "lm_head.weight"));
    }
    let missing = import(json!(false), false).expect_err("no head");
    assert!(missing.to_string().contains("lm_head.weight"), "{missing}");
}
