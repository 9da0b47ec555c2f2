//! Text of tokens as they come: characters may lie across the borders of tokens.

use crate::error::TextError;
use crate::tokenizer::Tokenizer;

/// Decodes one id after another, holding back the bytes of a character that isn't complete.
///
/// The text continues another: a token's leading space stays. Bytes that can't be UTF-8 become U+FFFD, as many
/// as [`String::from_utf8_lossy`] makes of them, so the text is the same wherever tokens end.
pub struct TextStream<'t> {
    tokenizer: &'t Tokenizer,
    /// The bytes of a character that isn't complete, three at most between calls.
    held: Vec<u8>,
}

impl<'t> TextStream<'t> {
    pub(crate) fn new(tokenizer: &'t Tokenizer) -> TextStream<'t> {
        TextStream { tokenizer, held: Vec::new() }
    }

    /// Appends to `text` what is now certain.
    ///
    /// # Errors
    /// [`TextError::UnknownToken`] for an id that isn't the tokenizer's; the stream is as before.
    pub fn push(&mut self, id: i32, text: &mut String) -> Result<(), TextError> {
        self.tokenizer.piece(id, &mut self.held)?;
        let kept = join(&self.held, text);
        self.held.drain(..self.held.len() - kept);
        Ok(())
    }

    /// Appends what was held back, and starts anew.
    pub fn finish(&mut self, text: &mut String) {
        text.push_str(&String::from_utf8_lossy(&self.held));
        self.held.clear();
    }
}

/// Appends bytes as text, but for a character at their end that more bytes may complete, and returns how many
/// bytes that is.
fn join(bytes: &[u8], text: &mut String) -> usize {
    let mut rest = bytes;
    loop {
        match std::str::from_utf8(rest) {
            Ok(valid) => {
                text.push_str(valid);
                return 0;
            }
            Err(error) => {
                let (valid, after) = rest.split_at(error.valid_up_to());
                text.push_str(&String::from_utf8_lossy(valid));
                match error.error_len() {
                    None => return after.len(),
                    Some(length) => {
                        text.push(char::REPLACEMENT_CHARACTER);
                        rest = &after[length..];
                    }
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::join;

    /// However bytes are cut, the text is that of all of them.
    #[test]
    fn cuts_dont_change_text() {
        let cases: [&[u8]; 7] = [
            b"plain",
            "é 漢字 👩‍👩‍👧 e\u{301} \t\n".as_bytes(),
            &[0xff, 0xfe, b'a', 0xe6, 0xbc],
            &[0xf0, 0x9f, 0xf0, 0x9f, 0x98, 0x80],
            &[0xed, 0xa0, 0x80, 0xc0, 0x80],
            &[0xe6, 0xe6, 0xe6, b'x'],
            &[0x80; 9],
        ];
        for bytes in cases {
            let expected = String::from_utf8_lossy(bytes);
            for size in 1..=bytes.len() {
                let (mut text, mut held) = (String::new(), Vec::new());
                for part in bytes.chunks(size) {
                    held.extend_from_slice(part);
                    let kept = join(&held, &mut text);
                    assert!(kept < 4, "{bytes:x?} in parts of {size}");
                    held.drain(..held.len() - kept);
                }
                text.push_str(&String::from_utf8_lossy(&held));
                assert_eq!(text, expected, "{bytes:x?} in parts of {size}");
            }
        }
    }
}
