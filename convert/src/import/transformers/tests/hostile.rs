//! Files that contradict themselves or each other.

use serde_json::{Value, json};

use super::{Folder, Parameters, import, safetensors, small_bert};
use crate::import::{DimChoice, ImportOptions, import_file};

fn one(name: &str, shape: &[usize]) -> Parameters {
    let count = shape.iter().product();
    Parameters::from([(name.to_owned(), (shape.to_vec(), vec![0.5; count]))])
}

/// The message of what goes wrong with a model of these files.
fn message(config: Option<&Value>, weights: &[u8]) -> String {
    let folder = Folder::new("hostile");
    if let Some(config) = config {
        folder.write("config.json", config.to_string());
    }
    let path = folder.write("model.safetensors", weights);
    import(&path).unwrap_err().to_string()
}

#[test]
fn headers_that_lie_are_refused() {
    let good = safetensors(&one("x", &[2, 2]));
    let header = |text: &str, data: usize| {
        let mut bytes = (text.len() as u64).to_le_bytes().to_vec();
        bytes.extend_from_slice(text.as_bytes());
        bytes.resize(bytes.len() + data, 0);
        bytes
    };
    let cases: [(&str, Vec<u8>); 10] = [
        ("empty", Vec::new()),
        ("no header", good[..12].to_vec()),
        ("half the data", good[..good.len() - 8].to_vec()),
        ("more data", [&good[..], &[0; 8]].concat()),
        ("a header of 2^62 bytes", [&(1u64 << 62).to_le_bytes()[..], &good[8..]].concat()),
        ("no JSON", header("{\"x\":", 0)),
        (
            "a shape that overflows",
            header(
                r#"{"x":{"dtype":"F32","shape":[4294967296,4294967296,4],"data_offsets":[0,16]}}"#,
                16,
            ),
        ),
        (
            "offsets beyond the file",
            header(r#"{"x":{"dtype":"F32","shape":[1000000],"data_offsets":[0,4000000]}}"#, 16),
        ),
        (
            "offsets the wrong way",
            header(r#"{"x":{"dtype":"F32","shape":[1],"data_offsets":[8,4]}}"#, 8),
        ),
        (
            "a type that doesn't exist",
            header(r#"{"x":{"dtype":"F33","shape":[1],"data_offsets":[0,4]}}"#, 4),
        ),
    ];
    for (name, bytes) in cases {
        let text = message(Some(&small_bert()), &bytes);
        assert!(text.contains("model.safetensors"), "{name}: {text}");
    }
}

#[test]
fn what_is_missing_or_wrong_is_named() {
    let with = |key: &str, value: Value| {
        let mut config = small_bert();
        config[key] = value;
        config
    };
    let word = "embeddings.word_embeddings.weight";
    let table = safetensors(&one(word, &[20, 8]));
    let wrong_table = safetensors(&one(word, &[20, 6]));
    struct Case<'c>(Option<Value>, &'c [u8], &'static str);
    let cases = [
        Case(None, &table, "there is no config.json beside"),
        Case(Some(json!([1])), &table, "it holds no JSON object"),
        Case(Some(json!({})), &table, "`model_type` is missing"),
        Case(
            Some(with("model_type", json!("mamba"))),
            &table,
            "`mamba` is not supported; known are albert, bert",
        ),
        Case(Some(with("num_attention_heads", json!(3))), &table, "which 8 isn't a multiple of"),
        Case(Some(with("hidden_size", json!(-8))), &table, "`hidden_size` is not a size"),
        Case(Some(with("position_embedding_type", json!("relative_key"))), &table, "only absolute"),
        Case(Some(with("is_decoder", json!(true))), &table, "only encoders"),
        Case(Some(small_bert()), &wrong_table, "shape [20, 6] in model.safetensors where"),
        Case(
            Some(small_bert()),
            &table,
            "`embeddings.token_type_embeddings.weight`: model.safetensors has no parameter of this name, of shape [2, 8]",
        ),
        Case(
            Some(with("hidden_size", json!(2_000_000_000))),
            &table,
            "where the configuration wants",
        ),
    ];
    for Case(config, weights, part) in cases {
        let text = message(config.as_ref(), weights);
        assert!(text.contains(part), "{text}");
    }
}

#[test]
fn folders_and_indices_are_checked() {
    let folder = Folder::new("folders");
    folder.write("config.json", small_bert().to_string());
    let text = || import(&folder.0).unwrap_err().to_string();
    assert!(
        text().contains("a folder without model.safetensors or pytorch_model.bin"),
        "{}",
        text()
    );
    folder.write("pytorch_model.bin", b"PK");
    assert!(
        text().contains("not a readable checkpoint of PyTorch: pytorch_model.bin"),
        "{}",
        text()
    );
    std::fs::remove_file(folder.0.join("pytorch_model.bin")).unwrap();

    let word = "embeddings.word_embeddings.weight";
    folder.write("part.safetensors", safetensors(&one(word, &[20, 8])));
    let cases = [
        (json!({"weights": {}}), "it isn't an index"),
        (json!({"weight_map": {word: "../part.safetensors"}}), "not the name of a file beside it"),
        (json!({"weight_map": {word: ".."}}), "not the name of a file beside it"),
        (json!({"weight_map": {"other": "part.safetensors"}}), "which lacks it"),
        (json!({"weight_map": {word: "absent.safetensors"}}), "cannot read"),
        // Found, and then what the file lacks is named.
        (
            json!({"weight_map": {word: "part.safetensors"}}),
            "`embeddings.token_type_embeddings.weight`",
        ),
    ];
    for (index, part) in cases {
        folder.write("model.safetensors.index.json", index.to_string());
        assert!(text().contains(part), "{}", text());
    }

    let bad = [
        (
            r#"[{"path": "../x", "type": "sentence_transformers.models.Pooling"}]"#,
            "not the name of a folder",
        ),
        (
            r#"[{"path": "1_P", "type": "sentence_transformers.models.Pooling"}]"#,
            "the file is missing",
        ),
        (
            r#"[{"path": "2_Dense", "type": "sentence_transformers.models.Dense"}]"#,
            "2_Dense/config.json: the file is missing",
        ),
        (
            r#"[{"path": "3_CNN", "type": "sentence_transformers.models.CNN"}]"#,
            "modules of type CNN",
        ),
        ("{}", "it isn't a list of modules"),
    ];
    for (modules, part) in bad {
        folder.write("modules.json", modules);
        assert!(text().contains(part), "{}", text());
    }
}

#[test]
fn sizes_beyond_the_table_of_positions_are_refused() {
    let folder = Folder::new("sizes");
    let word = "embeddings.word_embeddings.weight";
    let path = folder.write_model(&small_bert(), &one(word, &[20, 8]));
    let dims = vec![("seq".to_owned(), DimChoice::Range(1, 17))];
    let error = import_file(path, &ImportOptions { dims, ..ImportOptions::default() }).unwrap_err();
    assert!(error.to_string().contains("16 positions at most"), "{error}");
    let dims = vec![("tokens".to_owned(), DimChoice::Fixed(4))];
    let error = import_file(path, &ImportOptions { dims, ..ImportOptions::default() }).unwrap_err();
    assert!(error.to_string().contains("the model has batch, seq"), "{error}");
}
