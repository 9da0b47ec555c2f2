//! The tokenizer and templates beside a model's weights, as metadata.

use std::path::Path;

use serde_json::{Map, Value, json};

use super::config::Config;
use super::{optional_config, read_text};
use crate::error::ImportError;
use crate::import::llama2c_tokenizer;

/// Everything that text and a model's tokens need, under the keys of a `.whit` file.
pub(super) fn metadata(
    folder: &Path,
    config: &Config,
) -> Result<Vec<(String, String)>, ImportError> {
    if let Some(vocabulary) = llama2c_vocabulary(folder, config)? {
        return llama2c_tokenizer(&vocabulary);
    }
    let mut metadata = Vec::new();
    let mut add = |key: &str, value: String| metadata.push((key.to_owned(), value));
    let settings = optional_config(folder, "tokenizer_config.json")?;
    let tokenizer = tokenizer(folder, settings.as_ref())?;
    if let Some(settings) = &settings {
        if let Some(template) = chat_template(folder, settings)? {
            add("tokenizer.chat_template", template);
        }
        if let Some(bos) = special_token(settings, "bos_token")? {
            add("tokenizer.bos", bos);
        }
    }
    let mut ends: Vec<String> = Vec::new();
    if let Some(settings) = &settings {
        ends.extend(special_token(settings, "eos_token")?);
    }
    if let Some(tokenizer) = &tokenizer {
        // Models that end a turn otherwise than a text list more of them.
        let generation = optional_config(folder, "generation_config.json")?;
        for config in generation.iter().chain([config]) {
            for text in token_texts(tokenizer, config.get("eos_token_id")) {
                if !ends.contains(&text) {
                    ends.push(text);
                }
            }
        }
    }
    if !ends.is_empty() {
        add("tokenizer.eos", ends.join("\n"));
    }
    if let Some(tokenizer) = tokenizer {
        add("tokenizer", tokenizer.text);
    }
    Ok(metadata)
}

/// What llama2.c calls `tok512.json` for 512 tokens, where there is no other tokenizer.
fn llama2c_vocabulary(folder: &Path, config: &Config) -> Result<Option<String>, ImportError> {
    if ["tokenizer.json", "vocab.txt"].iter().any(|name| folder.join(name).is_file()) {
        return Ok(None);
    }
    let Some(tokens) = config.optional_size("vocab_size")? else { return Ok(None) };
    let path = folder.join(format!("tok{tokens}.json"));
    path.is_file().then(|| read_text(&path)).transpose()
}

/// A tokenizer's JSON, as text and parsed.
struct Tokenizer {
    text: String,
    json: Value,
}

/// `tokenizer.json`, or one made from `vocab.txt`.
fn tokenizer(folder: &Path, settings: Option<&Config>) -> Result<Option<Tokenizer>, ImportError> {
    let path = folder.join("tokenizer.json");
    if path.is_file() {
        let text = read_text(&path)?;
        let json = serde_json::from_str(&text).map_err(|error| ImportError::Config {
            file: "tokenizer.json".to_owned(),
            problem: format!("it isn't valid JSON: {error}"),
        })?;
        return Ok(Some(Tokenizer { text, json }));
    }
    let path = folder.join("vocab.txt");
    if !path.is_file() {
        return Ok(None);
    }
    let lower_case = settings.map_or(Ok(true), |s| s.flag_or("do_lower_case", true))?;
    let json = word_piece(&read_text(&path)?, lower_case)?;
    Ok(Some(Tokenizer { text: json.to_string(), json }))
}

/// BERT's tokenizer over a vocabulary of one token a line.
fn word_piece(vocab: &str, lower_case: bool) -> Result<Value, ImportError> {
    let ids: Map<String, Value> = vocab
        .lines()
        .enumerate()
        .map(|(id, token)| (token.trim_end().to_owned(), Value::from(id)))
        .collect();
    let mut added = Vec::new();
    for token in ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"] {
        let id = ids.get(token).ok_or_else(|| ImportError::Config {
            file: "vocab.txt".to_owned(),
            problem: format!("it lacks the token {token}"),
        })?;
        added.push(json!({
            "id": id, "content": token, "special": true, "single_word": false, "lstrip": false, "rstrip": false,
            "normalized": false,
        }));
    }
    let piece =
        |token: &str, segment: u32| json!({"SpecialToken": {"id": token, "type_id": segment}});
    let text = |name: &str, segment: u32| json!({"Sequence": {"id": name, "type_id": segment}});
    let (start, end) = (piece("[CLS]", 0), piece("[SEP]", 0));
    let special = |token: &str| json!({"id": token, "ids": [ids[token]], "tokens": [token]});
    Ok(json!({
        "version": "1.0",
        "truncation": null,
        "padding": null,
        "added_tokens": added,
        "normalizer": {
            "type": "BertNormalizer", "clean_text": true, "handle_chinese_chars": true, "strip_accents": null,
            "lowercase": lower_case,
        },
        "pre_tokenizer": {"type": "BertPreTokenizer"},
        "post_processor": {
            "type": "TemplateProcessing",
            "single": [start, text("A", 0), end],
            "pair": [start, text("A", 0), end, text("B", 1), piece("[SEP]", 1)],
            "special_tokens": {"[CLS]": special("[CLS]"), "[SEP]": special("[SEP]")},
        },
        "decoder": {"type": "WordPiece", "prefix": "##", "cleanup": true},
        "model": {
            "type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##",
            "max_input_chars_per_word": 100, "vocab": ids,
        },
    }))
}

/// A template as text, from a file of its own or among the settings; of several the one called `default`.
fn chat_template(folder: &Path, settings: &Config) -> Result<Option<String>, ImportError> {
    let path = folder.join("chat_template.jinja");
    if path.is_file() {
        return Ok(Some(read_text(&path)?));
    }
    let named = |template: &Value| {
        let is_default = template.get("name").and_then(Value::as_str) == Some("default");
        let text = template.get("template")?.as_str()?;
        is_default.then(|| text.to_owned())
    };
    Ok(match settings.get("chat_template") {
        None => None,
        Some(Value::String(template)) => Some(template.clone()),
        Some(Value::Array(templates)) => templates.iter().find_map(named),
        Some(_) => return Err(settings.wrong("chat_template", "is neither a text nor a list")),
    })
}

/// The text of a special token, which stands there by itself or in an object.
fn special_token(settings: &Config, key: &str) -> Result<Option<String>, ImportError> {
    let text = |value: &Value| value.as_str().map(str::to_owned);
    match settings.get(key) {
        None => Ok(None),
        Some(value) => match text(value).or_else(|| text(value.get("content")?)) {
            Some(text) => Ok(Some(text)),
            None => Err(settings.wrong(key, "is neither a text nor an object with a content")),
        },
    }
}

/// The texts of special tokens that are given by number: one, or a list.
fn token_texts(tokenizer: &Tokenizer, ids: Option<&Value>) -> Vec<String> {
    let ids: Vec<u64> = match ids {
        Some(Value::Array(ids)) => ids.iter().filter_map(Value::as_u64).collect(),
        Some(id) => id.as_u64().into_iter().collect(),
        None => Vec::new(),
    };
    let added = tokenizer.json.get("added_tokens").and_then(Value::as_array);
    let text = |id: &u64| {
        let is_this = |token: &&Value| token.get("id").and_then(Value::as_u64) == Some(*id);
        let token = added.into_iter().flatten().find(is_this)?;
        Some(token.get("content")?.as_str()?.to_owned())
    };
    ids.iter().filter_map(text).collect()
}
