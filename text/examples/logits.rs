//! The logits behind each token of a sequence, computed in pieces: `logits MODEL.whit PIECE ID…` writes them to
//! standard output, f32 in the machine's byte order. The model needs as many rows as a piece has tokens
//! (`whit convert --dim rows=1..N`). `convert/proof/decoders.py` compares them with other implementations.

use std::error::Error;
use std::io::Write;

use whit::{ModelFile, Options, Session};
use whit_text::{Decoder, SessionDecoder};

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [path, piece, ids @ ..] = &arguments[..] else {
        return Err("logits MODEL.whit PIECE ID…".into());
    };
    let piece: usize = piece.parse()?;
    let ids = ids.iter().map(|id| id.parse()).collect::<Result<Vec<i32>, _>>()?;

    let file = ModelFile::open(path)?;
    let session = Session::new(file.model()?, Options::default())?;
    let mut decoder = SessionDecoder::new(Box::new(session))?;
    let mut out = std::io::stdout().lock();
    let mut position = 0;
    for tokens in ids.chunks(piece.max(1)) {
        let positions: Vec<i32> = (position..).take(tokens.len()).collect();
        let rows: Vec<i32> = (0..).take(tokens.len()).collect();
        for logit in decoder.forward(tokens, &positions, &rows)? {
            out.write_all(&logit.to_ne_bytes())?;
        }
        position += tokens.len() as i32;
    }
    Ok(())
}
