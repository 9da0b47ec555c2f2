//! Metadata by key and type.

use super::{Array, DEFAULT_ALIGNMENT, Metadata, Numbers, Value};
use crate::import::gguf::GgufError;

impl Value<'_> {
    /// What it is, for messages.
    fn kind(&self) -> &'static str {
        match self {
            Value::Integer(_) => "an integer",
            Value::Float(_) => "a float",
            Value::Truth(_) => "a truth value",
            Value::Text(_) => "a text",
            Value::Array(Array::Numbers(_)) => "an array of numbers",
            Value::Array(Array::Texts(_)) => "an array of texts",
            Value::Array(Array::Arrays(_)) => "an array of arrays",
        }
    }
}

impl<'a> Numbers<'a> {
    /// Number of elements.
    pub fn len(&self) -> usize {
        self.bytes.len() / self.kind.size()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    /// The elements: [`Value::Integer`], [`Value::Float`] or [`Value::Truth`].
    pub fn iter(&self) -> impl ExactSizeIterator<Item = Value<'static>> + use<'a> {
        let kind = self.kind;
        self.bytes.chunks_exact(kind.size()).map(move |bytes| kind.value(bytes))
    }
}

impl<'a> Metadata<'a> {
    /// The value of a key.
    pub fn get(&self, key: &str) -> Option<&Value<'a>> {
        self.entries.get(key)
    }

    /// All keys and values, by key.
    pub fn iter(&self) -> impl Iterator<Item = (&'a str, &Value<'a>)> {
        self.entries.iter().map(|(key, value)| (*key, value))
    }

    /// What `read` makes of a value, if the key is there.
    fn typed<T>(
        &self,
        key: &str,
        expected: &'static str,
        read: impl FnOnce(&Value<'a>) -> Option<T>,
    ) -> Result<Option<T>, GgufError> {
        let Some(value) = self.get(key) else { return Ok(None) };
        let wrong = || GgufError::KeyType { key: key.to_owned(), found: value.kind(), expected };
        read(value).map(Some).ok_or_else(wrong)
    }

    /// A text; `None` when the key isn't there.
    ///
    /// # Errors
    /// As the others here, [`GgufError::KeyType`] when the value is of another type.
    pub fn text(&self, key: &str) -> Result<Option<&'a str>, GgufError> {
        self.typed(key, "a text", |value| match value {
            Value::Text(text) => Some(*text),
            _ => None,
        })
    }

    /// An integer from 0 on.
    pub fn unsigned(&self, key: &str) -> Result<Option<u64>, GgufError> {
        self.typed(key, "an integer from 0 on", |value| match value {
            Value::Integer(value) => u64::try_from(*value).ok(),
            _ => None,
        })
    }

    /// A real number; an integer counts as one.
    pub fn float(&self, key: &str) -> Result<Option<f64>, GgufError> {
        self.typed(key, "a number", |value| match value {
            Value::Float(value) => Some(*value),
            Value::Integer(value) => Some(*value as f64),
            _ => None,
        })
    }

    /// A truth value.
    pub fn truth(&self, key: &str) -> Result<Option<bool>, GgufError> {
        self.typed(key, "a truth value", |value| match value {
            Value::Truth(value) => Some(*value),
            _ => None,
        })
    }

    /// An array of texts.
    pub fn texts(&self, key: &str) -> Result<Option<&[&'a str]>, GgufError> {
        match self.get(key) {
            Some(Value::Array(Array::Texts(texts))) => Ok(Some(texts)),
            _ => self.typed(key, "an array of texts", |_| None),
        }
    }

    /// An array of numbers or truth values.
    pub fn numbers(&self, key: &str) -> Result<Option<Numbers<'a>>, GgufError> {
        self.typed(key, "an array of numbers", |value| match value {
            Value::Array(Array::Numbers(numbers)) => Some(*numbers),
            _ => None,
        })
    }

    /// Something that has to be there, given what one of the functions above returned.
    ///
    /// # Errors
    /// [`GgufError::MissingKey`] when it isn't.
    pub fn required<T>(&self, key: &str, value: Option<T>) -> Result<T, GgufError> {
        value.ok_or_else(|| GgufError::MissingKey { key: key.to_owned() })
    }

    /// What the data's and each tensor's first byte are multiples of.
    pub(super) fn alignment(&self) -> Result<usize, GgufError> {
        let Some(alignment) = self.unsigned("general.alignment")? else {
            return Ok(DEFAULT_ALIGNMENT);
        };
        let fits = alignment.is_power_of_two() && alignment <= 1 << 30;
        if fits { Ok(alignment as usize) } else { Err(GgufError::Alignment(alignment)) }
    }
}
