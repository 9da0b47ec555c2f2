//! Text to token ids and back, as a tokenizer.json says.

use std::collections::HashSet;
use std::str::FromStr;

use serde::Deserialize;
use serde_json::Value;
use tokenizers::models::bpe::BPE;
use tokenizers::models::unigram::Unigram;
use tokenizers::models::wordlevel::WordLevel;
use tokenizers::models::wordpiece::WordPiece;
use tokenizers::{
    DecoderWrapper, NormalizerWrapper, PostProcessorWrapper, PreTokenizerWrapper, TokenizerImpl,
};
use whit::Model;

use crate::error::TextError;
use crate::stream::TextStream;

mod charsmap;

/// A tokenizer, with what a model's metadata says about its special tokens.
///
/// Text may name special tokens (`<|im_end|>`), which then become one token each; chat templates rely on that.
///
/// ```no_run
/// # fn main() -> Result<(), Box<dyn std::error::Error>> {
/// let file = whit::ModelFile::open("model.whit")?;
/// let tokenizer = whit_text::Tokenizer::of(&file.model()?)?;
/// let ids = tokenizer.encode("The capital of France is", true)?;
/// println!("{ids:?} {}", tokenizer.decode(&ids, false)?);
/// # Ok(())
/// # }
/// ```
pub struct Tokenizer {
    inner: tokenizers::Tokenizer,
    /// Ids that stand for no text.
    special: HashSet<i32>,
    pieces: Pieces,
    bos: Option<i32>,
    eos: Vec<i32>,
    add_bos: bool,
}

/// How a token's text in the vocabulary becomes bytes.
#[derive(Clone, Debug)]
enum Pieces {
    /// Each character stands for a byte, as in GPT-2.
    Bytes,
    /// A character stands for a space, and `<0x0A>` for a byte when the flag is set, as in SentencePiece.
    Spaces { space: String, bytes: bool },
    /// A decoder that has to see all tokens; its name.
    Whole(String),
}

impl Tokenizer {
    /// Reads the text of a tokenizer.json. Truncation and padding that it asks for are left out: the caller
    /// decides about lengths.
    ///
    /// # Errors
    /// [`TextError::Tokenizer`] when it can't be read.
    pub fn from_json(json: &str) -> Result<Tokenizer, TextError> {
        let invalid = |error: tokenizers::Error| TextError::Tokenizer(error.to_string());
        let mut inner = read(json).map_err(invalid)?;
        inner.with_truncation(None).map_err(invalid)?;
        inner.with_padding(None);
        let special = inner.get_added_tokens_decoder().into_iter();
        let special = special.filter(|(_, token)| token.special).map(|(id, _)| to_i32(id));
        let special = special.collect::<Result<_, _>>()?;
        let decoder = serde_json::to_value(inner.get_decoder())
            .map_err(|error| TextError::Tokenizer(error.to_string()))?;
        let pieces = Pieces::of(&decoder);
        Ok(Tokenizer { inner, special, pieces, bos: None, eos: Vec::new(), add_bos: false })
    }

    /// The tokenizer of a model: its metadata `tokenizer` and `tokenizer.bos`, `tokenizer.eos`,
    /// `tokenizer.add_bos`.
    ///
    /// # Errors
    /// [`TextError::NoMetadata`] when the model has none, [`TextError::UnknownSpecial`] when the two don't
    /// match, and as [`Tokenizer::from_json`].
    pub fn of(model: &Model<'_>) -> Result<Tokenizer, TextError> {
        Tokenizer::from_metadata(|key| model.metadata_value(key))
    }

    /// The same of metadata that isn't in a file yet: the value of a key, if there is one.
    ///
    /// # Errors
    /// As [`Tokenizer::of`].
    pub fn from_metadata<'m>(
        value: impl Fn(&str) -> Option<&'m str>,
    ) -> Result<Tokenizer, TextError> {
        const BOS: &str = "tokenizer.bos";
        const EOS: &str = "tokenizer.eos";
        let json = value("tokenizer").ok_or(TextError::NoMetadata("tokenizer"))?;
        let mut tokenizer = Tokenizer::from_json(json)?;
        let id = |key: &'static str, token: &str| {
            let unknown = || TextError::UnknownSpecial { key, token: token.to_owned() };
            tokenizer.id(token).ok_or_else(unknown)
        };
        let bos = value(BOS).map(|token| id(BOS, token)).transpose()?;
        let eos = value(EOS).unwrap_or_default().lines();
        let eos = eos.map(|token| id(EOS, token)).collect::<Result<Vec<_>, _>>()?;
        tokenizer.add_bos = value("tokenizer.add_bos") == Some("1");
        if tokenizer.add_bos && bos.is_none() {
            return Err(TextError::NoMetadata(BOS));
        }
        (tokenizer.bos, tokenizer.eos) = (bos, eos);
        Ok(tokenizer)
    }

    /// The ids of a text; with `special`, with the tokens that begin and end every text of this model.
    pub fn encode(&self, text: &str, special: bool) -> Result<Vec<i32>, TextError> {
        let encoding = self.inner.encode_fast(text, special);
        let encoding = encoding.map_err(|error| TextError::Encode(error.to_string()))?;
        let mut ids = Vec::with_capacity(encoding.len() + 1);
        if let Some(bos) = self.bos.filter(|_| special && self.add_bos)
            && encoding.get_ids().first().is_none_or(|first| i64::from(*first) != i64::from(bos))
        {
            ids.push(bos);
        }
        for id in encoding.get_ids() {
            ids.push(to_i32(*id)?);
        }
        Ok(ids)
    }

    /// The ids of several texts, each with special tokens and no longer than `limit`: text is cut at its end,
    /// special tokens stay.
    ///
    /// # Errors
    /// [`TextError::TooShort`] when the special tokens alone are more than `limit`.
    pub fn encode_batch(&self, texts: &[&str], limit: usize) -> Result<Vec<Vec<i32>>, TextError> {
        use tokenizers::{PostProcessor, TruncationDirection};
        let added = self.inner.get_post_processor().map_or(0, |p| p.added_tokens(false));
        let too_short = TextError::TooShort { added, limit };
        let room = limit.checked_sub(added).ok_or(too_short)?;
        let failed = |error: tokenizers::Error| TextError::Encode(error.to_string());
        let one = |text: &&str| {
            let mut encoding = self.inner.encode_fast(*text, false).map_err(failed)?;
            encoding.truncate(room, 0, TruncationDirection::Right);
            let encoding = self.inner.post_process(encoding, None, true).map_err(failed)?;
            encoding.get_ids().iter().map(|id| to_i32(*id)).collect()
        };
        texts.iter().map(one).collect()
    }

    /// The text of whole sequences of ids; special tokens are left out unless `keep_special`.
    ///
    /// # Errors
    /// [`TextError::UnknownToken`] for an id that isn't the tokenizer's.
    pub fn decode(&self, ids: &[i32], keep_special: bool) -> Result<String, TextError> {
        let mut known = Vec::with_capacity(ids.len());
        for id in ids {
            self.token(*id).ok_or_else(|| self.unknown(*id))?;
            known.push(*id as u32);
        }
        let text = self.inner.decode(&known, !keep_special);
        text.map_err(|error| TextError::Tokenizer(error.to_string()))
    }

    /// Decodes one id after another.
    ///
    /// # Errors
    /// [`TextError::Decoder`] when the tokenizer's decoder has to see all tokens at once, as WordPiece's.
    pub fn stream(&self) -> Result<TextStream<'_>, TextError> {
        match &self.pieces {
            Pieces::Whole(name) => Err(TextError::Decoder(name.clone())),
            _ => Ok(TextStream::new(self)),
        }
    }

    /// Appends the bytes that a token stands for, which needn't be whole characters; none for a special token.
    ///
    /// # Errors
    /// [`TextError::UnknownToken`] for an id that isn't the tokenizer's.
    pub fn piece(&self, id: i32, bytes: &mut Vec<u8>) -> Result<(), TextError> {
        if self.special.contains(&id) {
            return Ok(());
        }
        let token = self.token(id).ok_or_else(|| self.unknown(id))?;
        match &self.pieces {
            Pieces::Bytes => {
                let start = bytes.len();
                for c in token.chars() {
                    match byte_of(c) {
                        Some(byte) => bytes.push(byte),
                        // An added token is written as it is.
                        None => {
                            bytes.truncate(start);
                            bytes.extend_from_slice(token.as_bytes());
                            break;
                        }
                    }
                }
            }
            Pieces::Spaces { space, bytes: fallback } => match fallback_byte(&token) {
                Some(byte) if *fallback => bytes.push(byte),
                _ => bytes.extend_from_slice(token.replace(space.as_str(), " ").as_bytes()),
            },
            Pieces::Whole(_) => bytes.extend_from_slice(token.as_bytes()),
        }
        Ok(())
    }

    /// The id of a token by its text in the vocabulary, `<|im_end|>` or `[CLS]`.
    pub fn id(&self, token: &str) -> Option<i32> {
        i32::try_from(self.inner.token_to_id(token)?).ok()
    }

    /// A token's text in the vocabulary.
    pub fn token(&self, id: i32) -> Option<String> {
        self.inner.id_to_token(u32::try_from(id).ok()?)
    }

    /// Checks that another model's tokens are the same: equal ids stand for equal text, and the same tokens end a text.
    ///
    /// # Errors
    /// [`TextError::OtherTokens`] with the first token that differs.
    pub fn check_same(&self, other: &Tokenizer) -> Result<(), TextError> {
        let last = self.tokens().max(other.tokens());
        let differs = |id: &i32| self.token(*id) != other.token(*id);
        if let Some(id) = (0..i32::try_from(last).unwrap_or(i32::MAX)).find(differs) {
            let text = |tokenizer: &Tokenizer| tokenizer.token(id).unwrap_or_default();
            return Err(TextError::OtherTokens { id, own: text(self), other: text(other) });
        }
        match self.eos == other.eos {
            true => Ok(()),
            false => Err(TextError::OtherEnds),
        }
    }

    /// Number of tokens, added ones included.
    pub fn tokens(&self) -> usize {
        self.inner.get_vocab_size(true)
    }

    /// Whether a token stands for no text.
    pub fn is_special(&self, id: i32) -> bool {
        self.special.contains(&id)
    }

    /// The token that begins a text, when the model's metadata names one.
    pub fn bos(&self) -> Option<i32> {
        self.bos
    }

    /// The tokens that end a generated text.
    pub fn eos(&self) -> &[i32] {
        &self.eos
    }

    fn unknown(&self, id: i32) -> TextError {
        TextError::UnknownToken { id, last: self.tokens() as i64 - 1 }
    }
}

/// Reads a tokenizer.json with the type of its model known beforehand. Without that the library makes values of the whole vocabulary
/// and copies them, which takes more than twice the time and memory.
fn read(json: &str) -> tokenizers::Result<tokenizers::Tokenizer> {
    #[derive(Deserialize)]
    struct Kinds<'j> {
        #[serde(borrow)]
        model: Kind<'j>,
        #[serde(default)]
        normalizer: Value,
    }
    #[derive(Deserialize)]
    struct Kind<'j> {
        #[serde(borrow, rename = "type")]
        name: Option<&'j str>,
    }
    let kinds: Kinds<'_> = serde_json::from_str(json)?;
    charsmap::check_all(&kinds.normalizer)?;
    Ok(match kinds.model.name {
        Some("BPE") => Of::<BPE>::from_str(json)?.into(),
        Some("WordPiece") => Of::<WordPiece>::from_str(json)?.into(),
        Some("WordLevel") => Of::<WordLevel>::from_str(json)?.into(),
        Some("Unigram") => Of::<Unigram>::from_str(json)?.into(),
        // Others are refused by name, and old files have no type.
        _ => tokenizers::Tokenizer::from_str(json)?,
    })
}

/// A tokenizer with a model of one type.
type Of<Model> = TokenizerImpl<
    Model,
    NormalizerWrapper,
    PreTokenizerWrapper,
    PostProcessorWrapper,
    DecoderWrapper,
>;

impl Pieces {
    /// What a tokenizer.json's `decoder` does to one token.
    fn of(decoder: &Value) -> Pieces {
        let mut steps = Vec::new();
        match &decoder["decoders"] {
            Value::Array(all) => steps.extend(all),
            _ => steps.push(decoder),
        }
        let named = |name: &str| steps.iter().find(|step| step["type"] == name);
        if named("ByteLevel").is_some() {
            return Pieces::Bytes;
        }
        let bytes = named("ByteFallback").is_some();
        if let Some(replace) = named("Replace").filter(|step| step["content"] == " ")
            && let Some(space) = replace["pattern"]["String"].as_str().filter(|s| !s.is_empty())
        {
            return Pieces::Spaces { space: space.to_owned(), bytes };
        }
        if let Some(space) = named("Metaspace").and_then(|step| step["replacement"].as_str()) {
            return Pieces::Spaces { space: space.to_owned(), bytes };
        }
        Pieces::Whole(decoder["type"].as_str().unwrap_or("missing").to_owned())
    }
}

/// The byte that a character stands for in GPT-2's vocabulary: printable Latin-1 stands for itself, the other
/// bytes follow from U+0100 on in their order.
fn byte_of(c: char) -> Option<u8> {
    match u32::from(c) {
        own @ (0x21..=0x7e | 0xa1..=0xac | 0xae..=0xff) => Some(own as u8),
        code @ 0x100..=0x120 => Some((code - 0x100) as u8),
        code @ 0x121..=0x142 => Some((code - 0x121 + 0x7f) as u8),
        0x143 => Some(0xad),
        _ => None,
    }
}

/// The byte of `<0x0A>`.
fn fallback_byte(token: &str) -> Option<u8> {
    let digits = token.strip_prefix("<0x")?.strip_suffix('>')?;
    (digits.len() == 2).then(|| u8::from_str_radix(digits, 16).ok()).flatten()
}

fn to_i32(id: u32) -> Result<i32, TextError> {
    i32::try_from(id).map_err(|_| TextError::Tokenizer(format!("token id {id} is above 2^31 - 1")))
}

#[cfg(test)]
pub(crate) mod tests;
