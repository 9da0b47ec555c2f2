//! Every encoder beside the formulas in f64.

use serde_json::{Value, json};
use whit::{Model, Options, Session};

use super::oracle::{Encoder, gelu, gelu_tanh};
use super::{Folder, Parameters, Random, safetensors, small_bert};
use crate::evaluate::AlignedBytes;
use crate::graph::Graph;
use crate::import::gguf::Writer;
use crate::import::gguf::import_gguf;
use crate::import::{ImportOptions, Pooling, import_file};
use crate::pipeline::{ConvertOptions, convert};

/// f32 sums of a dozen terms over two layers of numbers around 1.
const TOLERANCE: f64 = 2e-5;

const BERT: [&str; 8] = [
    "encoder.layer.{}.attention.self.query",
    "encoder.layer.{}.attention.self.key",
    "encoder.layer.{}.attention.self.value",
    "encoder.layer.{}.attention.output.dense",
    "encoder.layer.{}.attention.output.LayerNorm",
    "encoder.layer.{}.intermediate.dense",
    "encoder.layer.{}.output.dense",
    "encoder.layer.{}.output.LayerNorm",
];

const PLAIN: Encoder = Encoder {
    prefix: "",
    modules: BERT,
    shared: false,
    layers: 2,
    heads: 2,
    padding: None,
    projection: None,
    activation: gelu,
    epsilon: 1e-12,
};

struct Case {
    encoder: Encoder,
    /// Keys that differ from those of the small BERT; `null` takes a key away.
    config: Value,
    /// Width of the embeddings.
    embedded: usize,
    /// Rows of the table of segments; 0 for none.
    segments: usize,
}

fn cases() -> Vec<Case> {
    let case = |encoder, config, embedded, segments| Case { encoder, config, embedded, segments };
    vec![
        case(PLAIN, json!({}), 8, 2),
        case(
            Encoder { prefix: "bert.", activation: gelu_tanh, ..PLAIN },
            json!({"hidden_act": "gelu_new", "architectures": ["BertForMaskedLM"]}),
            8,
            2,
        ),
        case(
            Encoder { padding: Some(1), prefix: "roberta.", epsilon: 1e-5, ..PLAIN },
            json!({"model_type": "roberta", "type_vocab_size": 1, "pad_token_id": 1, "layer_norm_eps": 1e-5}),
            8,
            1,
        ),
        case(
            Encoder { projection: Some("embeddings_project"), prefix: "electra.", ..PLAIN },
            json!({"model_type": "electra", "embedding_size": 6}),
            6,
            2,
        ),
        case(
            Encoder {
                modules: [
                    "transformer.layer.{}.attention.q_lin",
                    "transformer.layer.{}.attention.k_lin",
                    "transformer.layer.{}.attention.v_lin",
                    "transformer.layer.{}.attention.out_lin",
                    "transformer.layer.{}.sa_layer_norm",
                    "transformer.layer.{}.ffn.lin1",
                    "transformer.layer.{}.ffn.lin2",
                    "transformer.layer.{}.output_layer_norm",
                ],
                ..PLAIN
            },
            json!({
                "model_type": "distilbert", "dim": 8, "n_layers": 2, "n_heads": 2, "hidden_dim": 12,
                "activation": "gelu", "hidden_size": null,
            }),
            8,
            0,
        ),
        case(
            Encoder {
                modules: [
                    "encoder.albert_layer_groups.{}.albert_layers.0.attention.query",
                    "encoder.albert_layer_groups.{}.albert_layers.0.attention.key",
                    "encoder.albert_layer_groups.{}.albert_layers.0.attention.value",
                    "encoder.albert_layer_groups.{}.albert_layers.0.attention.dense",
                    "encoder.albert_layer_groups.{}.albert_layers.0.attention.LayerNorm",
                    "encoder.albert_layer_groups.{}.albert_layers.0.ffn",
                    "encoder.albert_layer_groups.{}.albert_layers.0.ffn_output",
                    "encoder.albert_layer_groups.{}.albert_layers.0.full_layer_layer_norm",
                ],
                shared: true,
                projection: Some("encoder.embedding_hidden_mapping_in"),
                ..PLAIN
            },
            json!({"model_type": "albert", "embedding_size": 4}),
            4,
            2,
        ),
        case(
            Encoder {
                modules: [
                    "encoder.layer.{}.attention.attn.q",
                    "encoder.layer.{}.attention.attn.k",
                    "encoder.layer.{}.attention.attn.v",
                    "encoder.layer.{}.attention.attn.o",
                    "encoder.layer.{}.attention.LayerNorm",
                    "encoder.layer.{}.intermediate.dense",
                    "encoder.layer.{}.output.dense",
                    "encoder.layer.{}.output.LayerNorm",
                ],
                padding: Some(1),
                ..PLAIN
            },
            json!({"model_type": "mpnet", "relative_attention_num_buckets": 32}),
            8,
            0,
        ),
    ]
}

impl Case {
    fn config(&self) -> Value {
        let mut config = small_bert();
        for (key, value) in self.config.as_object().unwrap() {
            config[key] = value.clone();
        }
        config
    }

    fn parameters(&self) -> Parameters {
        let mut random = Random(0x9E37_79B9_7F4A_7C15);
        let mut all = Parameters::new();
        let mut add = |name: String, shape: &[usize]| {
            let values = random.values(shape.iter().product());
            all.insert(format!("{}{name}", self.encoder.prefix), (shape.to_vec(), values));
        };
        let embedded = self.embedded;
        add("embeddings.word_embeddings.weight".to_owned(), &[20, embedded]);
        add("embeddings.position_embeddings.weight".to_owned(), &[16, embedded]);
        if self.segments > 0 {
            add("embeddings.token_type_embeddings.weight".to_owned(), &[self.segments, embedded]);
        }
        let mut module = |name: &str, shape: &[usize]| {
            add(format!("{name}.weight"), shape);
            add(format!("{name}.bias"), &shape[..1]);
        };
        module("embeddings.LayerNorm", &[embedded]);
        if let Some(projection) = self.encoder.projection {
            module(projection, &[8, embedded]);
        }
        let shapes: [&[usize]; 8] =
            [&[8, 8], &[8, 8], &[8, 8], &[8, 8], &[8], &[12, 8], &[8, 12], &[8]];
        for layer in 0..self.encoder.layers {
            for (name, shape) in self.encoder.modules.iter().zip(shapes) {
                module(&name.replace("{}", &layer.to_string()), shape);
            }
        }
        if self.config["model_type"] == "mpnet" {
            add("encoder.relative_attention_bias.weight".to_owned(), &[32, 2]);
        }
        all
    }
}

/// Two texts, the second of which is padded.
const TEXTS: [&[usize]; 2] = [&[2, 7, 19, 4, 3], &[2, 5, 3]];

/// The converted graph run on [`TEXTS`], padded with token 1: the first output's shape and elements.
fn run(graph: Graph) -> (Vec<u32>, Vec<f32>) {
    let options = ConvertOptions { golden_cases: 1, ..ConvertOptions::default() };
    let converted = convert(graph, None, &options, &mut ()).unwrap();
    let file = AlignedBytes::new(&converted.file);
    let model = Model::open(file.as_slice()).unwrap();
    let mut session = Session::new(model, Options::default()).unwrap();
    session.set_dimension("batch", 2).unwrap();
    session.set_dimension("seq", 5).unwrap();
    for index in 0..model.inputs().len() {
        let values: Vec<i32> = TEXTS
            .iter()
            .flat_map(|text| {
                (0..5).map(move |at| match index {
                    0 => text.get(at).map_or(1, |id| *id as i32),
                    1 => i32::from(at < text.len()),
                    _ => (at % 2) as i32,
                })
            })
            .collect();
        session.input_mut::<i32>(index).unwrap().copy_from_slice(&values);
    }
    session.run().unwrap();
    let shape = session.output_slot(0).unwrap().dims().to_vec();
    (shape, session.output::<f32>(0).unwrap().to_vec())
}

fn assert_close(name: &str, found: &[f32], expected: &[f64]) {
    assert_eq!(found.len(), expected.len(), "{name}");
    for (index, (found, expected)) in found.iter().zip(expected).enumerate() {
        let error = (f64::from(*found) - expected).abs();
        assert!(error < TOLERANCE, "{name}, element {index}: {found} instead of {expected}");
    }
}

#[test]
fn encoders_compute_their_formulas() {
    for case in cases() {
        let (config, parameters) = (case.config(), case.parameters());
        let name = config["model_type"].to_string();
        let folder = Folder::new("encoder");
        let path = folder.write_model(&config, &parameters);
        let (shape, found) = run(import_file(path, &ImportOptions::default()).unwrap());
        assert_eq!(shape, [2, 5, 8], "{name}");
        for (text, found) in TEXTS.iter().zip(found.chunks(40)) {
            let segments: Vec<usize> = match case.segments {
                0 => Vec::new(),
                count => (0..5).map(|at| (at % 2).min(count - 1)).collect(),
            };
            let expected = case.encoder.run(&parameters, text, &segments).concat();
            assert_close(&name, &found[..expected.len()], &expected);
        }
    }
}

#[test]
fn sentences_are_pooled_as_their_files_or_the_caller_say() {
    let case = &cases()[0];
    let parameters = case.parameters();
    let hidden: Vec<Vec<Vec<f64>>> =
        TEXTS.iter().map(|text| case.encoder.run(&parameters, text, &[0, 1, 0, 1, 0])).collect();
    let over_tokens = |fold: &dyn Fn(&mut dyn Iterator<Item = f64>) -> f64| -> Vec<f64> {
        let column = |text: &Vec<Vec<f64>>, c: usize| fold(&mut text.iter().map(|row| row[c]));
        hidden.iter().flat_map(|text| (0..8).map(|c| column(text, c)).collect::<Vec<_>>()).collect()
    };
    let mean = over_tokens(&|tokens| {
        let (sum, count) = tokens.fold((0.0, 0.0), |(sum, count), x| (sum + x, count + 1.0));
        sum / count
    });
    let normalized: Vec<f64> = mean
        .chunks(8)
        .flat_map(|v| {
            let length = v.iter().map(|x| x * x).sum::<f64>().sqrt();
            v.iter().map(move |x| x / length)
        })
        .collect();
    let max = over_tokens(&|tokens| tokens.fold(f64::MIN, f64::max));
    let cls = over_tokens(&|tokens| tokens.next().unwrap());
    let last = over_tokens(&|tokens| tokens.last().unwrap());
    let mean_sqrt = over_tokens(&|tokens| {
        let (sum, count) = tokens.fold((0.0, 0.0f64), |(sum, count), x| (sum + x, count + 1.0));
        sum / count.sqrt()
    });
    let weighted = over_tokens(&|tokens| {
        let (mut sum, mut weights) = (0.0, 0.0);
        for (at, x) in tokens.enumerate() {
            sum += x * (at + 1) as f64;
            weights += (at + 1) as f64;
        }
        sum / weights
    });

    struct Files {
        /// The mode that the file of the module Pooling chooses, if there is one.
        mode: Option<&'static str>,
        normalize: bool,
        option: Option<Pooling>,
        expected: Vec<f64>,
    }
    let cases = [
        Files { mode: None, normalize: false, option: Some(Pooling::Mean), expected: mean.clone() },
        Files { mode: None, normalize: false, option: Some(Pooling::Max), expected: max },
        Files { mode: Some("mean_tokens"), normalize: true, option: None, expected: normalized },
        Files { mode: Some("cls_token"), normalize: false, option: None, expected: cls },
        Files { mode: Some("lasttoken"), normalize: false, option: None, expected: last },
        Files {
            mode: Some("mean_sqrt_len_tokens"),
            normalize: false,
            option: None,
            expected: mean_sqrt,
        },
        Files {
            mode: None,
            normalize: false,
            option: Some(Pooling::WeightedMean),
            expected: weighted.clone(),
        },
        Files {
            mode: Some("weightedmean_tokens"),
            normalize: false,
            option: None,
            expected: weighted,
        },
        Files {
            mode: Some("cls_token"),
            normalize: false,
            option: Some(Pooling::Mean),
            expected: mean,
        },
    ];
    for Files { mode, normalize, option, expected } in cases {
        let folder = Folder::new("pooling");
        let path = folder.write_model(&case.config(), &parameters);
        let mut modules =
            vec![json!({"path": "", "type": "sentence_transformers.models.Transformer"})];
        if let Some(mode) = mode {
            let key = format!("pooling_mode_{mode}");
            // As sentence-transformers 6 has it, and before.
            let chosen = match mode.contains('_') {
                true => json!({key: true}),
                false => json!({"pooling_mode": mode}),
            };
            folder.write("1_Pooling/config.json", chosen.to_string());
            folder.write("sentence_bert_config.json", r#"{"max_seq_length": 6}"#);
            modules
                .push(json!({"path": "1_Pooling", "type": "sentence_transformers.models.Pooling"}));
            if normalize {
                modules
                    .push(json!({"path": "2", "type": "sentence_transformers.models.Normalize"}));
            }
            folder.write("modules.json", Value::Array(modules).to_string());
        }
        let options = ImportOptions { pooling: option, ..ImportOptions::default() };
        let graph = import_file(path, &options).unwrap();
        let seq = graph.symbols.iter().find(|symbol| symbol.name == "seq").unwrap();
        assert_eq!(seq.max, if mode.is_some() { 6 } else { 16 });
        let (shape, found) = run(graph);
        assert_eq!(shape, [2, 8]);
        assert_close(mode.unwrap_or("option"), &found, &expected);
    }
}

/// The small BERT as llama.cpp's converter writes it, with more metadata and tensors.
fn gguf(parameters: &Parameters, entries: &[Writer], more: &[&str]) -> Vec<u8> {
    const NAMES: [(&str, &str); 12] = [
        ("embeddings.word_embeddings.", "token_embd."),
        ("embeddings.position_embeddings.", "position_embd."),
        ("embeddings.token_type_embeddings.", "token_types."),
        ("embeddings.LayerNorm.", "token_embd_norm."),
        ("attention.self.query.", "attn_q."),
        ("attention.self.key.", "attn_k."),
        ("attention.self.value.", "attn_v."),
        ("attention.output.dense.", "attn_output."),
        ("attention.output.LayerNorm.", "attn_output_norm."),
        ("intermediate.dense.", "ffn_up."),
        ("output.dense.", "ffn_down."),
        ("output.LayerNorm.", "layer_output_norm."),
    ];
    let named = |name: &str| {
        let (from, to) = NAMES.iter().find(|(from, _)| name.contains(from)).expect("a name");
        name.replace("encoder.layer", "blk").replace(from, to)
    };
    let head = (vec![8], vec![0.0; 8]);
    let tensors: Vec<_> = parameters
        .iter()
        .map(|(name, tensor)| (named(name), tensor))
        .chain(more.iter().map(|name| ((*name).to_owned(), &head)))
        .collect();
    let counts = [
        ("context_length", 16u32),
        ("embedding_length", 8),
        ("feed_forward_length", 12),
        ("block_count", 2),
        ("attention.head_count", 2),
    ];
    let keys = 2 + counts.len() + entries.len();
    let mut writer = Writer::new(3, tensors.len() as u64, keys as u64)
        .text_entry("general.architecture", "bert")
        .entry("bert.attention.layer_norm_epsilon", 6, &1e-12f32.to_le_bytes());
    for (key, count) in counts {
        writer = writer.entry(&format!("bert.{key}"), 4, &count.to_le_bytes());
    }
    writer = entries.iter().fold(writer, |writer, entry| writer.raw(&entry.bytes));
    let mut data = Vec::new();
    for (name, (shape, values)) in &tensors {
        let dims: Vec<u64> = shape.iter().rev().map(|size| *size as u64).collect();
        writer = writer.tensor(name, &dims, 0, data.len() as u64);
        data.extend(values.iter().flat_map(|value| value.to_le_bytes()));
        data.resize(data.len().next_multiple_of(32), 0);
    }
    writer.data(32, &data).bytes
}

#[test]
fn gguf_files_are_the_same_encoders() {
    let case = &cases()[0];
    let parameters = case.parameters();
    let folder = Folder::new("gguf");
    let path = folder.write_model(&case.config(), &parameters);
    let pooling =
        |number: u32| Writer::default().entry("bert.pooling_type", 4, &number.to_le_bytes());
    let import = |bytes: &[u8], pooling| {
        import_gguf(bytes, &ImportOptions { pooling, ..ImportOptions::default() })
    };
    let unit = |vectors: Vec<f32>| -> Vec<f64> {
        let vectors: Vec<f64> = vectors.into_iter().map(f64::from).collect();
        let length = |v: &[f64]| v.iter().map(|x| x * x).sum::<f64>().sqrt();
        vectors.chunks(8).flat_map(|v| v.iter().map(move |x| x / length(v))).collect()
    };
    for (number, mode) in [(1, Pooling::Mean), (2, Pooling::Cls), (3, Pooling::Last)] {
        let options = ImportOptions { pooling: Some(mode), ..ImportOptions::default() };
        let (_, expected) = run(import_file(path, &options).unwrap());
        let (shape, found) =
            run(import(&gguf(&parameters, &[pooling(number)], &[]), None).unwrap());
        assert_eq!(shape, [2, 8]);
        assert_close(mode.name(), &found, &unit(expected));
    }

    // Without a way of pooling, and beside a head that ranks, the vectors of all tokens, unless the caller chooses.
    let (_, hidden) = run(import_file(path, &ImportOptions::default()).unwrap());
    for (entries, head) in
        [(&[][..], &[][..]), (&[pooling(4)], &["cls.output.weight", "cls.weight"])]
    {
        let bytes = gguf(&parameters, entries, head);
        let graph = import(&bytes, None).unwrap();
        let notes = format!("{:?}", graph.metadata);
        assert_eq!(notes.contains("without its head"), !head.is_empty(), "{notes}");
        assert_eq!(run(graph).1, hidden);
        assert_eq!(run(import(&bytes, Some(Pooling::Cls)).unwrap()).0, [2, 8]);
    }

    let fails = |entry: Writer, more: &[&str], expected: &str| {
        let error = import(&gguf(&parameters, &[entry], more), None).unwrap_err().to_string();
        assert!(error.contains(expected), "`{error}` should contain `{expected}`");
    };
    fails(pooling(5), &[], "5 is no way of pooling");
    fails(Writer::default().entry("bert.attention.causal", 7, &[1]), &[], "only encoders");
    fails(pooling(1), &["blk.0.attn_q_norm.weight"], "has no such tensor");
}

#[test]
fn dense_layers_follow_the_pooling() {
    let case = &cases()[0];
    let parameters = case.parameters();
    let mut random = Random(31);
    let dense: Parameters = [
        ("linear.weight".to_owned(), (vec![3, 8], random.values(24))),
        ("linear.bias".to_owned(), (vec![3], random.values(3))),
    ]
    .into();
    let folder = Folder::new("dense");
    let path = folder.write_model(&case.config(), &parameters);
    folder.write("1_Pooling/config.json", json!({"pooling_mode_cls_token": true}).to_string());
    let module = |path: &str, kind: &str| json!({"path": path, "type": format!("sentence_transformers.models.{kind}")});
    let modules =
        [("", "Transformer"), ("1_Pooling", "Pooling"), ("2_Dense", "Dense"), ("3", "Normalize")];
    let modules = modules.map(|(path, kind)| module(path, kind));
    folder.write("modules.json", json!(modules).to_string());
    folder.write("2_Dense/model.safetensors", safetensors(&dense));
    let config = |activation: &str, has_bias: bool| {
        let config = json!({"in_features": 8, "out_features": 3, "bias": has_bias, "activation_function": activation});
        folder.write("2_Dense/config.json", config.to_string());
    };
    for (activation, has_bias, function) in [
        ("torch.nn.modules.activation.Tanh", true, f64::tanh as fn(f64) -> f64),
        ("torch.nn.modules.linear.Identity", false, |x| x),
        ("torch.nn.modules.activation.ReLU", true, |x| x.max(0.0)),
    ] {
        config(activation, has_bias);
        let (shape, found) = run(import_file(path, &ImportOptions::default()).unwrap());
        assert_eq!(shape, [2, 3]);
        let mut expected = Vec::new();
        for text in TEXTS {
            let hidden = case.encoder.run(&parameters, text, &[0, 1, 0, 1, 0]);
            let vector: Vec<f64> = (0..3)
                .map(|out| {
                    let row = &dense["linear.weight"].1[out * 8..][..8];
                    let sum: f64 = row.iter().zip(&hidden[0]).map(|(w, x)| f64::from(*w) * x).sum();
                    let bias = if has_bias { f64::from(dense["linear.bias"].1[out]) } else { 0.0 };
                    function(sum + bias)
                })
                .collect();
            let length = vector.iter().map(|x| x * x).sum::<f64>().sqrt();
            expected.extend(vector.into_iter().map(|x| x / length));
        }
        assert_close(activation, &found, &expected);
    }

    let refused = |part: &str| {
        let error = import_file(path, &ImportOptions::default()).unwrap_err().to_string();
        assert!(error.contains(part), "{error}");
    };
    config("torch.nn.modules.activation.Softplus", true);
    refused("known are Identity, Tanh");
    for (pooling, part) in [
        (json!({"pooling_mode": ["mean", "cls"]}), "not one of mean, cls, max"),
        (json!({"pooling_mode": "median"}), "not one of mean"),
        (json!({"pooling_mode_cls_token": true, "pooling_mode_lasttoken": true}), "2 ways"),
    ] {
        folder.write("1_Pooling/config.json", pooling.to_string());
        refused(part);
    }
    folder.write("1_Pooling/config.json", json!({"pooling_mode": "cls"}).to_string());
    for (changed, part) in [
        (json!({"in_features": 7, "out_features": 3}), "takes 7 numbers"),
        (json!({"in_features": 8, "out_features": 4}), "linear.weight"),
        (
            json!({"in_features": 8, "out_features": 3, "module_input_name": "token_embeddings"}),
            "module_input_name",
        ),
        (json!({"out_features": 3}), "in_features"),
    ] {
        folder.write("2_Dense/config.json", changed.to_string());
        refused(part);
    }
    std::fs::remove_file(folder.0.join("2_Dense/model.safetensors")).unwrap();
    config("torch.nn.modules.activation.Tanh", true);
    refused("without model.safetensors");
}

#[test]
fn a_vocabulary_of_lines_becomes_a_tokenizer() {
    let folder = Folder::new("vocab");
    let case = &cases()[0];
    let path = folder.write_model(&case.config(), &case.parameters());
    folder.write("vocab.txt", "[PAD]\n[UNK]\n[CLS]\n[SEP]\n[MASK]\nhel\n##lo\n");
    folder.write(
        "tokenizer_config.json",
        r#"{"do_lower_case": false, "eos_token": {"content": "[SEP]"}}"#,
    );
    let graph = import_file(path, &ImportOptions::default()).unwrap();
    let value = |key: &str| graph.metadata.iter().find(|(k, _)| k == key).map(|(_, v)| v.as_str());
    let tokenizer: Value = serde_json::from_str(value("tokenizer").unwrap()).unwrap();
    assert_eq!(tokenizer["model"]["vocab"]["##lo"], 6);
    assert_eq!(tokenizer["normalizer"]["lowercase"], false);
    assert_eq!(value("tokenizer.eos"), Some("[SEP]"));
    assert_eq!(value("model.context"), Some("16"));
    assert_eq!(value("model.architecture"), Some("bert"));

    // A tokenizer of its own goes before.
    folder.write("tokenizer.json", r#"{"model": {}}"#);
    let graph = import_file(path, &ImportOptions::default()).unwrap();
    assert!(graph.metadata.contains(&("tokenizer".to_owned(), r#"{"model": {}}"#.to_owned())));
}
