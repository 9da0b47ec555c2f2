//! CRC-32 (IEEE), as in the model file.

/// Checksum of the bytes: of a chunk on the serial line, of a slot's header, of a whole model file.
///
/// Without std it goes bit by bit, some forty cycles a byte, which only whole uploads notice.
pub fn crc32(bytes: &[u8]) -> u32 {
    whit::format::crc32(&[bytes])
}
