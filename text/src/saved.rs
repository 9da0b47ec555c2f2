//! Sessions in files: the tokens that a generator's cache holds, and behind them the session's state.
//!
//! Numbers have their least byte first:
//!
//! | offset | type | meaning |
//! |---:|---|---|
//! | 0 | `[u8; 4]` | `WHTX` |
//! | 4 | `u32` | version, 1 |
//! | 8 | `u32` | count of tokens |
//! | 12 | `i32` × count | tokens, by position |
//! | 12 + 4 × count | `u32` | CRC-32 (IEEE) of all before |
//! | 16 + 4 × count | | saved state with as many positions (runtime/FORMAT.md) |

use std::io::{self, Read, Write};

use whit::format::Crc32;
use whit::{RestoreError, SaveError};

use crate::decoder::{Decoder, SessionDecoder};
use crate::error::TextError;
use crate::generator::Generator;

const MAGIC: [u8; 4] = *b"WHTX";
const VERSION: u32 = 1;

impl Generator<'_, SessionDecoder<'_>> {
    /// Writes what the cache holds, so that [`Generator::restore`] can go on from it.
    ///
    /// # Errors
    /// Those of `out`, and of the device that holds the cache.
    pub fn save(&self, out: &mut dyn Write) -> io::Result<()> {
        let count = u32::try_from(self.cached().len()).map_err(io::Error::other)?;
        let mut head = MAGIC.to_vec();
        head.extend(VERSION.to_le_bytes());
        head.extend(count.to_le_bytes());
        head.extend(self.cached().iter().flat_map(|token| token.to_le_bytes()));
        head.extend(whit::format::crc32(&[&head]).to_le_bytes());
        out.write_all(&head)?;
        let saved = self.decoder().session().save_state(count, |bytes| out.write_all(bytes));
        saved.map_err(|error| match error {
            SaveError::Write(error) => error,
            error => io::Error::other(error.to_string()),
        })
    }

    /// Reads what [`Generator::save`] wrote with the same model. A prompt that begins with the same tokens is then
    /// computed from where they part. Returns the number of tokens.
    ///
    /// # Errors
    /// [`TextError::NotSaved`] and [`TextError::Restore`] for bytes that are no saved session of this model, damaged or cut
    /// short ones among them; the cache is then empty.
    pub fn restore(&mut self, input: &mut dyn Read) -> Result<usize, TextError> {
        self.cached_mut().clear();
        let mut crc = Crc32::new();
        let mut take = |bytes: &mut [u8]| -> Result<(), TextError> {
            read(input, bytes)?;
            crc.update(bytes);
            Ok(())
        };
        let mut head = [0; 12];
        take(&mut head)?;
        let word =
            |at: usize| u32::from_le_bytes([head[at], head[at + 1], head[at + 2], head[at + 3]]);
        if head[..4] != MAGIC {
            return Err(TextError::NotSaved("it is no saved session"));
        }
        if word(4) != VERSION {
            return Err(TextError::NotSaved("it was saved by a version with another format"));
        }
        let count = word(8) as usize;
        if count > self.decoder().context() {
            return Err(TextError::NotSaved("it has more tokens than the model's context"));
        }
        let mut tokens = vec![0; 4 * count];
        take(&mut tokens)?;
        let mut stated = [0; 4];
        read(input, &mut stated)?;
        if u32::from_le_bytes(stated) != crc.finish() {
            return Err(TextError::NotSaved("its checksum is wrong: it is damaged"));
        }
        let tokens = tokens.chunks_exact(4).map(|b| i32::from_le_bytes([b[0], b[1], b[2], b[3]]));
        let tokens: Vec<i32> = tokens.collect();
        let session = self.decoder_mut().session_mut();
        let positions = session.restore_state(|bytes| input.read_exact(bytes)).map_err(named)?;
        if positions as usize != count {
            return Err(TextError::NotSaved("it has state for another number of tokens"));
        }
        self.cached_mut().extend(tokens);
        Ok(count)
    }
}

fn read(input: &mut dyn Read, bytes: &mut [u8]) -> Result<(), TextError> {
    input.read_exact(bytes).map_err(|error| named(RestoreError::Read(error)))
}

fn named(error: RestoreError<io::Error>) -> TextError {
    match error {
        RestoreError::Read(error) if error.kind() == io::ErrorKind::UnexpectedEof => {
            TextError::NotSaved("it is cut short")
        }
        error => TextError::Restore(error),
    }
}
