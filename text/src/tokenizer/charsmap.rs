//! SentencePiece's tables of normal forms, checked before the tokenizer looks characters up in them.

use base64::prelude::{BASE64_STANDARD, Engine as _};
use serde_json::Value;

/// Units of a block of a double array: children lie in the block that their parent's offset points into, at its place combined
/// with their byte by exclusive or.
const BLOCK: usize = 256;

/// Checks every table in a tokenizer.json's `normalizer`: `precompiled_charsmap`, in Base64.
///
/// # Errors
/// What is wrong with one, as text.
pub(super) fn check_all(normalizer: &Value) -> Result<(), String> {
    match normalizer {
        Value::Array(all) => all.iter().try_for_each(check_all),
        Value::Object(parts) => parts.iter().try_for_each(|(name, part)| match part.as_str() {
            Some(text) if name == "precompiled_charsmap" => {
                check(text).map_err(|problem| format!("`precompiled_charsmap`: {problem}"))
            }
            _ => check_all(part),
        }),
        _ => Ok(()),
    }
}

/// A table is the size of a double array in bytes, its units, and UTF-8 whose parts, each up to a NUL, its values point to.
/// All numbers are little-endian u32. Units are those of darts-clone: from bit 10 on the offset of the children, eight bits further
/// left when bit 9 is set; bit 8 says that the first child is a value; bit 31 marks values.
fn check(text: &str) -> Result<(), &'static str> {
    let bytes = BASE64_STANDARD.decode(text).map_err(|_| "it isn't Base64")?;
    let (size, rest) = bytes.split_first_chunk::<4>().ok_or("it is too short")?;
    let count = u32::from_le_bytes(*size) as usize / 4;
    let (units, normalized) = rest.split_at_checked(count * 4).ok_or("its trie is cut off")?;
    let normalized = str::from_utf8(normalized).map_err(|_| "its texts aren't UTF-8")?;
    let (units, _) = units.as_chunks::<4>();
    let unit = |at: usize| u32::from_le_bytes(units[at]);
    if units.is_empty() {
        return Err("its trie is empty");
    }
    for at in 0..units.len() {
        let node = unit(at);
        if at > 0 && node >> 31 == 1 {
            continue;
        }
        let offset = (node >> 10 << (node >> 6 & 8)) as usize;
        let children = at ^ offset;
        if children / BLOCK >= units.len() / BLOCK {
            return Err("its trie points beyond its end");
        }
        let value = (unit(children) & !(1 << 31)) as usize;
        if node >> 8 & 1 == 1 && !normalized.is_char_boundary(value) {
            return Err("its trie points to no text");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    /// A double array of two blocks in which the root's child `b` has the text at a place as its value.
    fn table(value: u32, texts: &[u8]) -> Vec<u8> {
        let mut units = vec![0u32; 2 * BLOCK];
        let b = u32::from(b'b');
        units[0] = 0x100 << 10;
        units[0x100 ^ b as usize] = (0x180 ^ 0x100 ^ b) << 10 | 0x100 | b;
        units[0x180] = 1 << 31 | value;
        let size = (units.len() as u32 * 4).to_le_bytes();
        let units = units.into_iter().flat_map(u32::to_le_bytes);
        size.into_iter().chain(units).chain(texts.iter().copied()).collect()
    }

    fn problem(bytes: &[u8]) -> Result<(), &'static str> {
        check(&BASE64_STANDARD.encode(bytes))
    }

    /// What passes is looked up in without a panic, by the crate that reads it.
    #[test]
    fn tables_that_pass_are_safe() {
        for value in 0..=4 {
            let bytes = table(value, "x\0a\0".as_bytes());
            assert_eq!(problem(&bytes), Ok(()));
        }
        let mut random = 0x9E37_79B9_7F4A_7C15u64;
        let mut passed = 0;
        for _ in 0..3000 {
            let mut bytes = table(2, "x\0a\0ä".as_bytes());
            for _ in 0..2 {
                random ^= random << 13;
                random ^= random >> 7;
                random ^= random << 17;
                // The units in use, or any.
                let at = match random % 4 {
                    0 => 4 + (random >> 8) as usize % 4,
                    1 => 4 + (0x100 ^ usize::from(b'b')) * 4 + (random >> 8) as usize % 4,
                    2 => 4 + 0x180 * 4 + (random >> 8) as usize % 4,
                    _ => (random >> 8) as usize % bytes.len(),
                };
                bytes[at] ^= (random >> 32) as u8;
            }
            let text = BASE64_STANDARD.encode(&bytes);
            let is_safe = check(&text).is_ok();
            let normalizer = json!({ "type": "Precompiled", "precompiled_charsmap": text });
            assert_eq!(check_all(&json!({ "normalizers": [normalizer] })).is_ok(), is_safe);
            if is_safe {
                passed += 1;
                let json = json!({
                    "version": "1.0", "truncation": null, "padding": null, "added_tokens": [],
                    "normalizer": normalizer, "pre_tokenizer": null, "post_processor": null, "decoder": null,
                    "model": { "type": "Unigram", "unk_id": 0, "byte_fallback": false, "vocab": [["?", 0.0], ["a", -1.0]] },
                });
                let tokenizer =
                    crate::Tokenizer::from_json(&json.to_string()).expect("a tokenizer");
                tokenizer.encode("abc b\u{1}ä\u{10ffff}漢", true).expect("ids");
            }
        }
        assert!((100..2900).contains(&passed), "{passed} passed");
    }

    #[test]
    fn what_points_nowhere_is_refused() {
        let good = table(2, b"x\0a\0");
        assert_eq!(check("?"), Err("it isn't Base64"));
        assert_eq!(problem(&good[..3]), Err("it is too short"));
        assert_eq!(problem(&good[..1000]), Err("its trie is cut off"));
        assert_eq!(problem(&u32::MAX.to_le_bytes()), Err("its trie is cut off"));
        assert_eq!(problem(&[0; 4]), Err("its trie is empty"));
        assert_eq!(problem(&table(2, b"\xff")), Err("its texts aren't UTF-8"));
        assert_eq!(problem(&table(5, b"x\0a\0")), Err("its trie points to no text"));
        assert_eq!(problem(&table(1, "ä".as_bytes())), Err("its trie points to no text"));
        let mut far = good.clone();
        far[4..8].copy_from_slice(&(0x200u32 << 10).to_le_bytes());
        assert_eq!(problem(&far), Err("its trie points beyond its end"));
        // An offset that is counted in blocks.
        far[4..8].copy_from_slice(&(2u32 << 10 | 1 << 9).to_le_bytes());
        assert_eq!(problem(&far), Err("its trie points beyond its end"));
        far[4..8].copy_from_slice(&(1u32 << 10 | 1 << 9).to_le_bytes());
        assert_eq!(problem(&far), Ok(()));

        let json = json!({
            "normalizer": { "type": "Sequence", "normalizers": [{ "type": "Precompiled", "precompiled_charsmap": "AAAA" }] },
            "model": { "type": "Unigram", "unk_id": null, "vocab": [] },
        });
        let error = crate::Tokenizer::from_json(&json.to_string()).err().expect("refused");
        assert!(error.to_string().contains("`precompiled_charsmap`: it is too short"), "{error}");
    }
}
