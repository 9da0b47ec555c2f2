//! Chat templates: a conversation as the text that a model was trained on.

use std::time::{SystemTime, UNIX_EPOCH};

use minijinja::value::Kwargs;
use minijinja::{Environment, Error, ErrorKind, Value, context};
use serde::Serialize;
use whit::Model;

use crate::error::TextError;

mod calendar;
mod json;

/// Operations that a template may take, so that a hostile one ends.
const FUEL: u64 = 10_000_000;
const NAME: &str = "chat";

/// What one side of a conversation said.
#[derive(Clone, Debug, PartialEq, Eq, Serialize)]
pub struct Message {
    /// `system`, `user` or `assistant`.
    pub role: String,
    /// The text.
    pub content: String,
}

impl Message {
    /// A message of this role.
    pub fn new(role: &str, content: impl Into<String>) -> Message {
        Message { role: role.to_owned(), content: content.into() }
    }
}

/// A Jinja template with what Hugging Face's templates use beyond Jinja: `raise_exception`, `strftime_now` (UTC),
/// `tojson` as Python writes it, loop controls, `generation` blocks and Python's methods of strings, lists and maps.
pub struct ChatTemplate {
    environment: Environment<'static>,
    bos: String,
    eos: String,
}

impl ChatTemplate {
    /// Compiles a template; `bos` and `eos` are its variables `bos_token` and `eos_token`.
    ///
    /// # Errors
    /// [`TextError::Template`] with the line that isn't Jinja.
    pub fn new(template: &str, bos: &str, eos: &str) -> Result<ChatTemplate, TextError> {
        let mut environment = Environment::new();
        environment.set_trim_blocks(true);
        environment.set_lstrip_blocks(true);
        environment.set_fuel(Some(FUEL));
        environment.set_auto_escape_callback(|_| minijinja::AutoEscape::None);
        environment
            .set_unknown_method_callback(minijinja_contrib::pycompat::unknown_method_callback);
        environment.add_function("raise_exception", |message: String| -> Result<String, Error> {
            Err(Error::new(ErrorKind::InvalidOperation, message))
        });
        environment.add_function("strftime_now", strftime_now);
        environment
            .add_filter("tojson", |value: Value, options: Kwargs| json::python(&value, &options));
        environment.add_template_owned(NAME, without_generation(template)).map_err(failed)?;
        Ok(ChatTemplate { environment, bos: bos.to_owned(), eos: eos.to_owned() })
    }

    /// The template of a model's metadata, if there is one.
    pub fn of(model: &Model<'_>) -> Result<Option<ChatTemplate>, TextError> {
        let Some(template) = model.metadata_value("tokenizer.chat_template") else {
            return Ok(None);
        };
        let token = |key| model.metadata_value(key).unwrap_or_default().lines().next();
        let (bos, eos) = (token("tokenizer.bos"), token("tokenizer.eos"));
        ChatTemplate::new(template, bos.unwrap_or_default(), eos.unwrap_or_default()).map(Some)
    }

    /// The text of a conversation. With `generation_prompt`, it ends where the assistant's answer begins.
    ///
    /// The text names special tokens, bos too where the model wants it: encode it without adding any.
    ///
    /// # Errors
    /// [`TextError::Template`] with the line that failed, as when the template refuses a role.
    pub fn render(
        &self,
        messages: &[Message],
        generation_prompt: bool,
    ) -> Result<String, TextError> {
        let template = self.environment.get_template(NAME).map_err(failed)?;
        // Templates ask whether these are none.
        let (tools, documents) = ((), ());
        let variables = context! {
            tools, documents,
            messages, add_generation_prompt => generation_prompt, bos_token => self.bos, eos_token => self.eos,
        };
        template.render(variables).map_err(failed)
    }
}

/// A template's error with the innermost line that it names.
fn failed(error: Error) -> TextError {
    let problem = error.detail().map_or_else(|| error.kind().to_string(), str::to_owned);
    TextError::Template { line: error.line().unwrap_or(0), problem }
}

fn strftime_now(format: String) -> Result<String, Error> {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |since| since.as_secs());
    calendar::format(&format, now)
}

/// The tags `generation` and `endgeneration` mark the assistant's words for training; here they are an `if`
/// that is always true.
fn without_generation(template: &str) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some((before, after)) = rest.split_once("{%") {
        text.push_str(before);
        text.push_str("{%");
        let Some((tag, after)) = after.split_once("%}") else {
            rest = after;
            continue;
        };
        let name = tag.trim_matches(|c: char| c.is_whitespace() || c == '-' || c == '+');
        match name {
            "generation" => text.push_str(&tag.replacen(name, "if true", 1)),
            "endgeneration" => text.push_str(&tag.replacen(name, "endif", 1)),
            _ => text.push_str(tag),
        }
        text.push_str("%}");
        rest = after;
    }
    text.push_str(rest);
    text
}

#[cfg(test)]
mod tests;
