//! What can go wrong between text and a model, told so that its owner can act on it.

/// Why text didn't become tokens, or tokens text.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
#[allow(missing_docs, reason = "the messages say what the fields are")]
pub enum TextError {
    #[error(
        "the model has no metadata `{0}`: convert it from a GGUF file, or from a folder that has its tokenizer.json"
    )]
    NoMetadata(&'static str),

    #[error("the tokenizer can't be read as a tokenizer.json: {0}")]
    Tokenizer(String),

    #[error("metadata `{key}` names the token `{token}`, which the tokenizer doesn't have")]
    UnknownSpecial { key: &'static str, token: String },

    #[error("the tokenizer can't encode this text: {0}")]
    Encode(String),

    #[error("token {id} is not one of the tokenizer's, whose ids end at {last}")]
    UnknownToken { id: i32, last: i64 },

    #[error("the tokenizer adds {added} tokens to every text, and only {limit} are allowed")]
    TooShort { added: usize, limit: usize },

    #[error(
        "the tokenizer's decoder is {0}; text can be generated with ByteLevel, ByteFallback and Metaspace"
    )]
    Decoder(String),

    #[error("the chat template fails at line {line}: {problem}")]
    Template { line: usize, problem: String },

    #[error("{name} is {value}; it has to be {allowed}")]
    Sampling { name: &'static str, value: f32, allowed: &'static str },

    #[error("no token that is allowed has a finite logit")]
    NoToken,

    #[error("the grammar can't be used: {0}")]
    Grammar(String),

    #[error("the prompt is empty, and the model has no token that begins a text")]
    EmptyPrompt,

    #[error(
        "the prompt has {prompt} tokens, and the model's context is {context}, of which one is for the answer: shorten the prompt"
    )]
    Context { prompt: usize, context: usize },

    #[error(
        "token {id} is outside of the model's vocabulary of {vocabulary}: the tokenizer is another model's"
    )]
    Vocabulary { id: i32, vocabulary: usize },

    #[error(
        "{asked} texts at once, and the model was converted for {sequences} at most: convert it with --sequences {asked}"
    )]
    Sequences { asked: usize, sequences: usize },

    #[error("the text has {0} tokens, and a token can only be scored behind another one")]
    TooFewTokens(usize),

    #[error(
        "windows of {window} tokens every {stride}: a window has 2 to {context} tokens, the model's context, and the stride is from 1 to a window"
    )]
    Windows { window: usize, stride: usize, context: usize },

    #[error(
        "the models have vocabularies of {0} and {1} tokens, and only models with the same one can be compared"
    )]
    Vocabularies(usize, usize),

    #[error(
        "the logits for token {token} of the text aren't finite numbers, or give it no probability"
    )]
    NotFinite { token: usize },

    #[error("the tokenizers differ: token {id} is `{own}` in one and `{other}` in the other")]
    OtherTokens { id: i32, own: String, other: String },

    #[error("the tokenizers differ in the tokens that end a text")]
    OtherEnds,

    #[error("the session can't be restored: {0}")]
    NotSaved(&'static str),

    #[error("the session can't be restored: {0}")]
    Restore(whit::RestoreError<std::io::Error>),

    #[error("the model can't generate text: {0}")]
    NotDecoder(String),

    #[error("the model failed: {0}")]
    Session(#[from] whit::SessionError),
}
