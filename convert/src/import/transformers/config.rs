//! A model's `config.json`, read key by key.

use serde_json::{Map, Value};

use crate::error::ImportError;

/// The largest number that a key may hold where sizes and counts stand.
const MAX_SIZE: u64 = i32::MAX as u64;

/// The keys of a model's configuration, under the names that Hugging Face's `config.json` has. A key that holds
/// `null` counts as absent.
#[derive(Clone, Debug)]
pub(crate) struct Config {
    /// What error messages call it.
    file: String,
    keys: Map<String, Value>,
}

impl Config {
    /// Parses JSON text; `file` is what error messages call it.
    pub(crate) fn parse(file: impl Into<String>, text: &[u8]) -> Result<Config, ImportError> {
        let file = file.into();
        let wrong = |problem: String| ImportError::Config { file: file.clone(), problem };
        match serde_json::from_slice(text) {
            Ok(Value::Object(keys)) => Ok(Config::new(file, keys)),
            Ok(_) => Err(wrong("it holds no JSON object".to_owned())),
            Err(error) => Err(wrong(format!("it isn't valid JSON: {error}"))),
        }
    }

    /// A configuration out of keys and values.
    pub(crate) fn new(file: impl Into<String>, keys: Map<String, Value>) -> Config {
        Config { file: file.into(), keys }
    }

    /// What a key holds, when it is there.
    pub(crate) fn get(&self, key: &str) -> Option<&Value> {
        self.keys.get(key).filter(|value| !value.is_null())
    }

    /// An error about a key: ``config.json: `hidden_size` …``.
    pub(crate) fn wrong(&self, key: &str, problem: impl std::fmt::Display) -> ImportError {
        ImportError::Config { file: self.file.clone(), problem: format!("`{key}` {problem}") }
    }

    fn missing(&self, key: &str) -> ImportError {
        self.wrong(key, "is missing")
    }

    /// The value behind a key, when it is there and `read` understands it.
    fn read<'v, T>(
        &'v self,
        key: &str,
        what: &str,
        read: impl FnOnce(&'v Value) -> Option<T>,
    ) -> Result<Option<T>, ImportError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let read = read(value);
        read.map(Some).ok_or_else(|| self.wrong(key, format!("is not {what}: {}", excerpt(value))))
    }

    /// A size or count, which is at least 1.
    pub(crate) fn size(&self, key: &str) -> Result<usize, ImportError> {
        self.optional_size(key)?.ok_or_else(|| self.missing(key))
    }

    /// The same, or `default` without the key.
    pub(crate) fn size_or(&self, key: &str, default: usize) -> Result<usize, ImportError> {
        Ok(self.optional_size(key)?.unwrap_or(default))
    }

    /// The same, or nothing.
    pub(crate) fn optional_size(&self, key: &str) -> Result<Option<usize>, ImportError> {
        let size = |value: &Value| value.as_u64().filter(|size| (1..=MAX_SIZE).contains(size));
        let size = self.read(key, "a size from 1 to 2147483647", size)?;
        Ok(size.map(|size| size as usize))
    }

    /// A number that may be 0, such as that of a token, or `default`.
    pub(crate) fn count_or(&self, key: &str, default: usize) -> Result<usize, ImportError> {
        let count = |value: &Value| value.as_u64().filter(|count| *count <= MAX_SIZE);
        let count = self.read(key, "a number from 0 to 2147483647", count)?;
        Ok(count.map_or(default, |count| count as usize))
    }

    /// A finite number.
    pub(crate) fn float(&self, key: &str) -> Result<f32, ImportError> {
        self.optional_float(key)?.ok_or_else(|| self.missing(key))
    }

    /// The same, or `default`.
    pub(crate) fn float_or(&self, key: &str, default: f32) -> Result<f32, ImportError> {
        Ok(self.optional_float(key)?.unwrap_or(default))
    }

    /// The same, or nothing.
    pub(crate) fn optional_float(&self, key: &str) -> Result<Option<f32>, ImportError> {
        let number =
            |value: &Value| value.as_f64().map(|number| number as f32).filter(|n| n.is_finite());
        self.read(key, "a number", number)
    }

    /// A list of finite numbers, or nothing.
    pub(crate) fn optional_floats(&self, key: &str) -> Result<Option<Vec<f32>>, ImportError> {
        let number = |value: &Value| value.as_f64().map(|n| n as f32).filter(|n| n.is_finite());
        let numbers = |value: &Value| value.as_array()?.iter().map(number).collect();
        self.read(key, "a list of numbers", numbers)
    }

    /// A list of numbers from 0 on, such as those of tokens; empty without the key.
    pub(crate) fn counts(&self, key: &str) -> Result<Vec<usize>, ImportError> {
        let count = |value: &Value| value.as_u64().filter(|count| *count <= MAX_SIZE);
        let counts = |value: &Value| -> Option<Vec<usize>> {
            value.as_array()?.iter().map(|value| count(value).map(|c| c as usize)).collect()
        };
        Ok(self.read(key, "a list of numbers from 0 to 2147483647", counts)?.unwrap_or_default())
    }

    /// `true` or `false`, or `default`.
    pub(crate) fn flag_or(&self, key: &str, default: bool) -> Result<bool, ImportError> {
        Ok(self.read(key, "true or false", Value::as_bool)?.unwrap_or(default))
    }

    /// A text.
    pub(crate) fn text(&self, key: &str) -> Result<&str, ImportError> {
        self.optional_text(key)?.ok_or_else(|| self.missing(key))
    }

    /// The same, or `default`.
    pub(crate) fn text_or<'t>(
        &'t self,
        key: &str,
        default: &'t str,
    ) -> Result<&'t str, ImportError> {
        Ok(self.optional_text(key)?.unwrap_or(default))
    }

    /// The same, or nothing.
    pub(crate) fn optional_text(&self, key: &str) -> Result<Option<&str>, ImportError> {
        self.read(key, "a text", Value::as_str)
    }

    /// A list of texts; empty without the key.
    pub(crate) fn texts(&self, key: &str) -> Result<Vec<&str>, ImportError> {
        let texts = |value: &'_ Value| -> Option<Vec<String>> {
            value.as_array()?.iter().map(|text| text.as_str().map(str::to_owned)).collect()
        };
        self.read(key, "a list of texts", texts)?;
        let list = self.get(key).and_then(Value::as_array);
        Ok(list.into_iter().flatten().filter_map(Value::as_str).collect())
    }

    /// Whether a key holds an object.
    pub(crate) fn has_sections(&self) -> bool {
        self.keys.values().any(Value::is_object)
    }

    /// The object behind a key, whose own keys are then read the same way.
    pub(crate) fn section(&self, key: &str) -> Result<Option<Config>, ImportError> {
        let section = self.read(key, "an object", Value::as_object)?;
        Ok(section.map(|keys| Config::new(format!("{}, `{key}`", self.file), keys.clone())))
    }
}

/// The beginning of a value as JSON.
fn excerpt(value: &Value) -> String {
    const MOST: usize = 60; // characters of a message's line
    let text = value.to_string();
    match text.char_indices().nth(MOST) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wrong_values_are_named() {
        let config = Config::parse(
            "config.json",
            br#"{"hidden_size": 0, "layers": null, "eps": "small", "act": 3, "names": ["a", 1],
                "rope": {"factor": []}, "large": 1e300, "heads": 4294967296}"#,
        )
        .unwrap();
        let text = |result: Result<_, ImportError>| result.map(|_: ()| ()).unwrap_err().to_string();
        struct Case(Result<(), ImportError>, &'static str);
        let cases = [
            Case(config.size("hidden_size").map(drop), "`hidden_size` is not a size"),
            Case(config.size("heads").map(drop), "`heads` is not a size"),
            Case(config.size("layers").map(drop), "`layers` is missing"),
            Case(config.float("eps").map(drop), "`eps` is not a number: \"small\""),
            Case(config.float("large").map(drop), "`large` is not a number"),
            Case(config.text("act").map(drop), "`act` is not a text: 3"),
            Case(config.texts("names").map(drop), "`names` is not a list of texts"),
            Case(config.section("act").map(drop), "`act` is not an object"),
            Case(
                config.section("rope").unwrap().unwrap().float("factor").map(drop),
                "config.json, `rope`: `factor` is not a number: []",
            ),
        ];
        for Case(result, part) in cases {
            let text = text(result);
            assert!(text.contains(part), "{text}");
        }
        assert_eq!(config.size_or("layers", 7).unwrap(), 7);
        for bad in [&b"[1]"[..], b"{", b""] {
            assert!(Config::parse("config.json", bad).is_err());
        }
    }
}
