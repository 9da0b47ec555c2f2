use super::*;
use crate::sampler::{Sampler, Sampling};
use crate::tokenizer::tests::byte_level;

const EOS: i32 = 263;
const VOCABULARY: usize = 280;

fn tokenizer() -> Tokenizer {
    Tokenizer::from_json(&byte_level().to_string()).expect("a tokenizer").with_eos(EOS)
}

/// What chance says under a grammar, until it ends.
fn babble(grammar: Grammar<'_>, seed: u64) -> String {
    let tokenizer = tokenizer();
    let mut constraint = Constraint::new(&tokenizer, VOCABULARY, grammar).expect("a grammar");
    let sampling = Sampling {
        seed,
        temperature: 1.0,
        top_k: 0,
        top_p: 1.0,
        min_p: 0.0,
        ..Sampling::default()
    };
    let mut sampler = Sampler::new(sampling, VOCABULARY).expect("a sampler");
    let mut ids = Vec::new();
    while !constraint.is_complete() && ids.len() < 500 {
        let mask = constraint.mask().expect("a mask");
        let id = sampler.sample(&[0.0; VOCABULARY], Some(mask)).expect("a token");
        if id == EOS {
            break;
        }
        constraint.accept(id).expect("an allowed token");
        ids.push(id);
    }
    tokenizer.decode(&ids, true).expect("text")
}

#[test]
fn whatever_is_said_is_allowed() {
    for seed in 0..20 {
        let text = babble(Grammar::Regex("(yes|no|hello)[0-9]{1,3}"), seed);
        let digits = text.trim_start_matches(['y', 'e', 's', 'n', 'o', 'h', 'l']);
        assert!((1..=3).contains(&digits.len()) && digits.parse::<u32>().is_ok(), "{text}");

        let schema = r#"{ "type": "object", "properties": { "ok": { "type": "boolean" }, "n": { "enum": [1, 2] } },
            "required": ["ok", "n"], "additionalProperties": false }"#;
        let text = babble(Grammar::JsonSchema(schema), seed);
        let value: serde_json::Value = serde_json::from_str(&text).expect("JSON");
        assert!(
            value["ok"].is_boolean() && [1, 2].contains(&value["n"].as_u64().expect("n")),
            "{text}"
        );

        let text = babble(Grammar::Lark("start: \"(\" start \")\" | \"x\""), seed);
        let depth = text.find('x').expect("an x");
        assert_eq!(text, format!("{}x{}", "(".repeat(depth), ")".repeat(depth)));
    }
}

#[test]
fn grammars_that_arent_are_refused() {
    let tokenizer = tokenizer();
    let cases = [
        Grammar::JsonSchema("{"),
        Grammar::JsonSchema(r#"{ "type": "thing" }"#),
        Grammar::JsonSchema("[1]"),
        Grammar::JsonSchema("false"),
        Grammar::JsonSchema(r#"{ "$ref": "https://example.com/schema" }"#),
        Grammar::Regex("(a"),
        Grammar::Lark("begin: \"a\""),
        Grammar::Lark("start: missing"),
    ];
    for grammar in cases {
        let error = Constraint::new(&tokenizer, VOCABULARY, grammar).err();
        assert!(matches!(error, Some(TextError::Grammar(_))), "{grammar:?}: {error:?}");
    }
    let mut constraint = Constraint::new(&tokenizer, VOCABULARY, Grammar::Regex("a")).expect("a");
    assert!(constraint.accept(i32::from(b'b')).is_err());
    let plain = Tokenizer::from_json(&byte_level().to_string()).expect("a tokenizer");
    let error = Constraint::new(&plain, VOCABULARY, Grammar::Regex("a")).err().expect("no eos");
    assert!(error.to_string().contains("no token that ends a text"), "{error}");
}
