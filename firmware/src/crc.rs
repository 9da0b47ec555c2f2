//! CRC-32 (IEEE), as in the model file.

use crc::{CRC_32_ISO_HDLC, Crc, NoTable};

/// Without a table: some forty cycles a byte, which only whole uploads notice, and no kilobyte of
/// constants.
const CRC: Crc<u32, NoTable> = Crc::<u32, NoTable>::new(&CRC_32_ISO_HDLC);

/// Checksum of the bytes: of a chunk on the serial line, of a slot's header, of a whole model file.
pub fn crc32(bytes: &[u8]) -> u32 {
    CRC.checksum(bytes)
}
