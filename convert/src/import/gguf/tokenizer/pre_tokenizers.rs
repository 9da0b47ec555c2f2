//! How text is cut into words before byte pairs are merged, by the names of `tokenizer.ggml.pre`.

/// A way to cut text. Each expression cuts what the ones before it left, at both ends of each match.
#[derive(Clone, Copy, Debug)]
pub(super) struct PreTokenizer {
    /// Its names in files.
    pub(super) names: &'static [&'static str],
    pub(super) expressions: &'static [&'static str],
    /// Words that are a token are never cut, whatever the merges.
    pub(super) whole_words: bool,
    /// Text begins with bos unless the metadata says otherwise.
    pub(super) adds_bos: bool,
    /// Text is composed first (Unicode NFC), as the models' own tokenizers do.
    pub(super) nfc: bool,
}

const PLAIN: PreTokenizer =
    PreTokenizer { names: &[], expressions: &[], whole_words: false, adds_bos: false, nfc: false };

const GPT2: &str = r"'s|'t|'re|'ve|'m|'ll|'d| ?\p{L}+| ?\p{N}+| ?[^\s\p{L}\p{N}]+|\s+(?!\S)|\s+";
const DIGIT: &str = r"\p{N}";
const THREE_DIGITS: &str = r"[0-9][0-9][0-9]";

/// As tiktoken's cl100k_base, with up to three digits in a word.
const LLAMA3: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// One digit in a word.
const QWEN2: &str = r"(?:'[sS]|'[tT]|'[rR][eE]|'[vV][eE]|'[mM]|'[lL][lL]|'[dD])|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+";
/// As tiktoken's o200k_base.
const GPT4O: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+(?i:'s|'t|'re|'ve|'m|'ll|'d)?|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*(?i:'s|'t|'re|'ve|'m|'ll|'d)?|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";
const TEKKEN: &str = r"[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]*[\p{Ll}\p{Lm}\p{Lo}\p{M}]+|[^\r\n\p{L}\p{N}]?[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]+[\p{Ll}\p{Lm}\p{Lo}\p{M}]*|\p{N}| ?[^\s\p{L}\p{N}]+[\r\n/]*|\s*[\r\n]+|\s+(?!\S)|\s+";

/// Every way that is known. Adding one means a row here.
pub(super) const PRE_TOKENIZERS: &[PreTokenizer] = &[
    PreTokenizer {
        names: &["default"],
        expressions: &[r"[\p{P}\$\+<=>\^~\|]+", GPT2, r"\p{N}+", THREE_DIGITS],
        ..PLAIN
    },
    PreTokenizer {
        names: &["gpt-2", "phi-2", "roberta-bpe", "jina-es", "jina-de", "gigachat"],
        expressions: &[GPT2],
        ..PLAIN
    },
    PreTokenizer { names: &["mpt", "olmo", "jais"], expressions: &[GPT2], nfc: true, ..PLAIN },
    PreTokenizer {
        names: &["smollm", "starcoder", "refact", "command-r", "codeshell", "exaone", "minerva-7b"],
        expressions: &[DIGIT, GPT2],
        ..PLAIN
    },
    PreTokenizer {
        names: &["falcon"],
        expressions: &[r"[\p{P}\$\+<=>\^~\|`]+", GPT2, THREE_DIGITS],
        ..PLAIN
    },
    PreTokenizer {
        names: &["llama-bpe", "llama3", "llama-v3", "falcon3", "falcon-h1", "pixtral"],
        expressions: &[LLAMA3],
        whole_words: true,
        adds_bos: true,
        ..PLAIN
    },
    PreTokenizer {
        names: &["dbrx", "smaug-bpe", "glm4", "chatglm-bpe"],
        expressions: &[LLAMA3],
        ..PLAIN
    },
    PreTokenizer {
        names: &["qwen2", "deepseek-r1-qwen", "megrez"],
        expressions: &[QWEN2],
        nfc: true,
        ..PLAIN
    },
    PreTokenizer { names: &["stablelm2"], expressions: &[QWEN2], ..PLAIN },
    PreTokenizer { names: &["gpt-4o", "llama4"], expressions: &[GPT4O], ..PLAIN },
    PreTokenizer {
        names: &["tekken"],
        expressions: &[TEKKEN],
        whole_words: true,
        adds_bos: true,
        ..PLAIN
    },
    PreTokenizer {
        names: &["deepseek-coder"],
        expressions: &[r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", r"[一-龥ࠀ-一가-퟿]+", DIGIT],
        ..PLAIN
    },
    PreTokenizer {
        names: &["deepseek-v3", "hunyuan-dense"],
        expressions: &[
            r"\p{N}{1,3}",
            r"[一-龥぀-ゟ゠-ヿ]+",
            r##"[!"#$%&'()*+,\-./:;<=>?@\[\\\]^_`{|}~][A-Za-z]+|[^\r\n\p{L}\p{P}\p{S}]?[\p{L}\p{M}]+| ?[\p{P}\p{S}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"##,
        ],
        ..PLAIN
    },
    PreTokenizer {
        names: &["bloom", "gpt3-finnish", "poro-chat"],
        expressions: &[r" ?[^(\s|.,!?…。，、।۔،)]+"],
        ..PLAIN
    },
];
