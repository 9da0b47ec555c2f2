use serde_json::Value;

use super::*;
use crate::import::gguf::file::tests::Writer;
use crate::import::gguf::{File, GgufError};

const ARRAY: u32 = 9;

/// Metadata entries of a file, then the file.
struct Entries(Vec<Vec<u8>>);

impl Entries {
    fn new(model: &str, tokens: &[&str], kinds: &[i32]) -> Entries {
        let mut entries = Entries(Vec::new());
        entries.text(MODEL, model).texts(TOKENS, tokens).numbers(TOKEN_TYPES, 5, kinds);
        entries
    }

    fn text(&mut self, key: &str, text: &str) -> &mut Entries {
        self.0.push(Writer::default().text_entry(key, text).bytes);
        self
    }

    fn texts(&mut self, key: &str, texts: &[&str]) -> &mut Entries {
        self.0.push(Writer::default().texts_entry(key, texts).bytes);
        self
    }

    /// i32 (5) or f32 (6).
    fn numbers(&mut self, key: &str, kind: u32, numbers: &[i32]) -> &mut Entries {
        let bytes = |number: &i32| match kind {
            6 => (*number as f32).to_le_bytes(),
            _ => number.to_le_bytes(),
        };
        let writer = Writer::default().text(key).u32(ARRAY).u32(kind).u64(numbers.len() as u64);
        self.0.push(writer.raw(&numbers.iter().flat_map(bytes).collect::<Vec<_>>()).bytes);
        self
    }

    fn id(&mut self, name: &str, id: u32) -> &mut Entries {
        let key = format!("tokenizer.ggml.{name}_token_id");
        self.0.push(Writer::default().entry(&key, 4, &id.to_le_bytes()).bytes);
        self
    }

    fn flag(&mut self, name: &str, flag: bool) -> &mut Entries {
        let key = format!("tokenizer.ggml.{name}");
        self.0.push(Writer::default().entry(&key, 7, &[flag.into()]).bytes);
        self
    }

    fn convert(&self) -> Result<HashMap<String, String>, GgufError> {
        let writer = Writer::new(3, 0, self.0.len() as u64);
        let writer = self.0.iter().fold(writer, |writer, entry| writer.raw(entry));
        let file = File::open(&writer.bytes).expect("a file");
        Ok(tokenizer_metadata(file.metadata())?.into_iter().collect())
    }

    fn json(&self) -> Value {
        serde_json::from_str(&self.convert().expect("a tokenizer")["tokenizer"]).expect("JSON")
    }

    fn fails(&self, expected: &str) {
        let error = self.convert().expect_err(expected).to_string();
        assert!(error.contains(expected), "`{error}` should contain `{expected}`");
    }
}

fn byte_pairs() -> Entries {
    let tokens = ["<|endoftext|>", "a", "b", "ab", "<|im_end|>", "<tool>", "Ġ"];
    let mut entries = Entries::new("gpt2", &tokens, &[3, 1, 1, 1, 3, 4, 1]);
    entries.texts("tokenizer.ggml.merges", &["a b"]).text("tokenizer.ggml.pre", "llama-bpe");
    entries.id("bos", 0).id("eos", 4);
    entries
}

fn sentence_pieces() -> Entries {
    let tokens = ["<unk>", "<s>", "</s>", "<0x0A>", "▁", "a", "b", "▁a", "ab", "▁ab"];
    let mut entries = Entries::new("llama", &tokens, &[2, 3, 3, 6, 1, 1, 1, 1, 1, 1]);
    entries.numbers(SCORES, 6, &[0, 0, 0, 0, -9, -8, -7, -1, -2, -3]);
    entries
}

fn word_pieces() -> Entries {
    let tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "▁a", "b", "▁["];
    let mut entries = Entries::new("bert", &tokens, &[3, 3, 3, 3, 1, 1, 1]);
    entries.id("bos", 2).id("eos", 3).id("unknown", 1);
    entries
}

#[test]
fn byte_pairs_keep_merges_and_special_tokens() {
    let mut entries = byte_pairs();
    entries.text("tokenizer.chat_template", "{{ messages }}");
    let all = entries.convert().expect("a tokenizer");
    assert_eq!(all["tokenizer.bos"], "<|endoftext|>");
    assert_eq!(all["tokenizer.eos"], "<|im_end|>\n<|endoftext|>");
    assert_eq!(all["tokenizer.chat_template"], "{{ messages }}");
    let json = entries.json();
    assert_eq!(json["model"]["vocab"]["ab"], 3);
    assert_eq!(json["model"]["merges"], json!([["a", "b"]]));
    assert_eq!(json["model"]["ignore_merges"], true);
    let added = json["added_tokens"].as_array().expect("a list");
    let added: Vec<_> = added.iter().map(|token| (&token["id"], &token["special"])).collect();
    let expected = [(json!(0), json!(true)), (json!(4), json!(true)), (json!(5), json!(false))];
    assert!(added.into_iter().eq(expected.iter().map(|(id, special)| (id, special))));
    // Llama 3's texts begin with bos.
    assert_eq!(json["post_processor"]["single"][0]["SpecialToken"]["id"], "<|endoftext|>");
    assert_eq!(entries.flag("add_bos_token", false).json()["post_processor"], Value::Null);
}

/// Every way to cut text is read, and loses nothing of a text.
#[test]
fn every_pre_tokenizer_is_read() {
    // GPT-2's alphabet of bytes, in any order.
    let own = (0x21..=0x7e).chain(0xa1..=0xac).chain(0xae..=0x143u32).filter(|c| *c != 0xad);
    let alphabet: Vec<String> = own.filter_map(char::from_u32).map(String::from).collect();
    let alphabet: Vec<&str> = alphabet.iter().map(String::as_str).collect();
    let text = "It's  12345 naïve words_of\tCamelCase, 漢字 한국어 ÀÉ '\r\n\n  👩‍👩‍👧 end ";
    for name in pre_tokenizers::PRE_TOKENIZERS.iter().flat_map(|pre| pre.names) {
        let mut entries = Entries::new("gpt2", &alphabet, &vec![1; alphabet.len()]);
        entries.texts("tokenizer.ggml.merges", &[]).text("tokenizer.ggml.pre", name);
        let json = entries.json().to_string();
        let tokenizer = whit_text::Tokenizer::from_json(&json).expect(name);
        let ids = tokenizer.encode(text, false).expect(name);
        assert_eq!(ids.len(), text.len(), "{name}");
        assert_eq!(tokenizer.decode(&ids, false).expect(name), text, "{name}");
    }
}

#[test]
fn scores_become_merges() {
    let json = sentence_pieces().json();
    // The best result first; of two ways to make it, the longer left part.
    let merges = json!([["▁", "a"], ["a", "b"], ["▁a", "b"], ["▁", "ab"]]);
    assert_eq!(json["model"]["merges"], merges);
    assert_eq!(json["model"]["unk_token"], "<unk>");
    assert_eq!(json["normalizer"]["normalizers"][0]["type"], "Prepend");
    assert_eq!(json["post_processor"]["single"][0]["SpecialToken"]["id"], "<s>");
    let json = sentence_pieces().flag("add_space_prefix", false).json();
    assert_eq!(json["normalizer"]["normalizers"][0]["type"], "Replace");
    assert_eq!(json["decoder"]["decoders"].as_array().expect("a list").len(), 3);
}

#[test]
fn word_pieces_get_their_marks_back() {
    let json = word_pieces().json();
    assert_eq!(
        json["model"]["vocab"],
        json!({ "[PAD]": 0, "[UNK]": 1, "[CLS]": 2, "[SEP]": 3, "a": 4, "##b": 5, "[": 6 })
    );
    assert_eq!(json["post_processor"]["single"][2]["SpecialToken"]["id"], "[SEP]");
    assert_eq!(json["model"]["unk_token"], "[UNK]");
}

/// A table of normal forms that makes `a` of `b`: a double array of a block, in which the root's children are at their bytes,
/// then the texts.
fn normal_forms() -> Vec<i32> {
    const FIRST: usize = 0x100;
    let mut units = vec![0u32; 2 * 256];
    // Children of the root are at 0x100 and their byte; those of `b` at 0x80 and theirs, the first of them its value.
    units[0] = (FIRST as u32) << 10;
    units[FIRST ^ usize::from(b'b')] =
        ((0x180 ^ FIRST as u32 ^ u32::from(b'b')) << 10) | 0x100 | u32::from(b'b');
    units[0x180] = 1 << 31 | 2;
    let size = (units.len() as u32 * 4).to_le_bytes();
    let bytes = size.into_iter().chain(units.into_iter().flat_map(u32::to_le_bytes));
    bytes.chain(*b"x\0a\0").map(i32::from).collect()
}

fn unigram(prefix: bool, table: &[i32]) -> Entries {
    let tokens = ["<s>", "<pad>", "</s>", "<unk>", "▁", "a", "▁a", "aa", "c"];
    let mut entries = Entries::new("t5", &tokens, &[3, 3, 3, 2, 1, 1, 1, 1, 1]);
    entries.numbers(SCORES, 6, &[0, 0, 0, 0, -4, -3, -2, -4, -5]);
    entries.id("cls", 0).id("seperator", 2).id("unknown", 3);
    entries.flag("add_space_prefix", prefix).flag("remove_extra_whitespaces", true);
    entries.flag("add_bos_token", true);
    entries.numbers("tokenizer.ggml.precompiled_charsmap", 5, table);
    entries
}

#[test]
fn unigrams_keep_scores_and_normal_forms() {
    let all = unigram(true, &normal_forms()).convert().expect("a tokenizer");
    assert_eq!((&*all["tokenizer.bos"], &*all["tokenizer.eos"]), ("<s>", "</s>"));
    let tokenizer = whit_text::Tokenizer::from_json(&all["tokenizer"]).expect("a tokenizer");
    // Each text as the pieces whose scores add up to most. `b` is another way to write `a`; `d` is unknown.
    let cases: [(&str, &[i32]); 6] = [
        ("", &[]),
        ("a", &[6]),
        ("b", &[6]),
        ("  aaa   c ", &[6, 7, 4, 8]),
        ("ad", &[6, 3]),
        ("</s>b", &[2, 6]),
    ];
    for (text, pieces) in cases {
        let expected: Vec<i32> = [0].iter().chain(pieces).chain(&[2]).copied().collect();
        assert_eq!(tokenizer.encode(text, true).expect(text), expected, "{text}");
    }
    let bare = unigram(false, &[]).json();
    assert_eq!(bare["pre_tokenizer"]["prepend_scheme"], "never");
    // Without metadata, as T5: no token before a text, the second behind it.
    let json = Entries::new("t5", &["<pad>", "</s>", "<unk>"], &[3, 3, 2])
        .numbers(SCORES, 6, &[0, 0, 0])
        .json();
    assert_eq!(json["normalizer"]["normalizers"], json!([]));
    assert_eq!(json["post_processor"]["single"][1]["SpecialToken"]["id"], "</s>");
}

#[test]
fn what_doesnt_fit_is_refused() {
    let tokens = &["a", "b"][..];
    let with = |model, tokens: &[&str], kinds: &[i32]| Entries::new(model, tokens, kinds);
    Entries(Vec::new()).fails("`tokenizer.ggml.model` is missing");
    with("rwkv", tokens, &[1, 1]).fails("`rwkv` can't be imported; gpt2, llama, bert, t5 can");
    with("gpt2", &["a", "a"], &[1, 1]).fails("tokens 0 and 1 are both `a`");
    with("gpt2", &[], &[]).fails("there are 0 tokens");
    with("gpt2", tokens, &[1]).fails("there are 1 for 2 tokens");
    with("gpt2", tokens, &[1, 7]).fails("no token type");
    with("gpt2", tokens, &[1, 1]).fails("`tokenizer.ggml.merges` is missing");
    with("llama", tokens, &[1, 1]).fails("`tokenizer.ggml.scores` is missing");
    with("bert", tokens, &[1, 1]).fails("unknown_token_id` is missing");
    with("gpt2", tokens, &[1, 1]).id("eos", 2).fails("2 is no token; there are 2");
    let pre = with("gpt2", tokens, &[1, 1]).text("tokenizer.ggml.pre", "mine").convert();
    let message = pre.expect_err("unknown").to_string();
    assert!(message.contains("`mine` isn't known; default, gpt-2,"), "{message}");
    for merge in ["a", "a b", "a  b", " ", "b a c"] {
        with("gpt2", tokens, &[1, 1])
            .texts("tokenizer.ggml.merges", &[merge])
            .fails("isn't of two tokens");
    }
    with("llama", tokens, &[1, 1]).numbers(SCORES, 6, &[0]).fails("there are 1 for 2 tokens");
    with("llama", tokens, &[1, 1]).numbers(SCORES, 5, &[0, 0]).fails("is no score");
    let long = "x".repeat(1 << 16);
    with("llama", &[&long, "x"], &[1, 1]).numbers(SCORES, 6, &[0, 0]).fails("too long");
    with("t5", tokens, &[1, 1]).numbers(SCORES, 6, &[0, 0]).fails("unknown_token_id` is missing");
    unigram(true, &[]).flag("treat_whitespace_as_suffix", true).fails("isn't supported");
    unigram(true, &[256]).fails("is no byte");
    with("bert", &["▁##a", "a", "[UNK]"], &[1, 1, 1]).id("unknown", 2).fails("there twice");
}
