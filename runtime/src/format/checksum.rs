//! CRC-32 (IEEE) of the pieces of a file.

/// The checksum of the pieces, one behind the other: with the CPU's carry-less multiplication where
/// it has one.
#[cfg(feature = "std")]
pub fn crc32(pieces: &[&[u8]]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    for piece in pieces {
        hasher.update(piece);
    }
    hasher.finalize()
}

/// The checksum of the pieces, one behind the other: bit by bit, since opening a model takes only
/// that of its directory, and tables would take 1 to 16 KB of flash.
#[cfg(not(feature = "std"))]
pub fn crc32(pieces: &[&[u8]]) -> u32 {
    use crc::{CRC_32_ISO_HDLC, Crc, NoTable};
    const CRC: Crc<u32, NoTable> = Crc::<u32, NoTable>::new(&CRC_32_ISO_HDLC);
    let mut digest = CRC.digest();
    for piece in pieces {
        digest.update(piece);
    }
    digest.finalize()
}
