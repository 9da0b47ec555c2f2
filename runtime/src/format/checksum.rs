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
    let mut digest = CRC.digest();
    for piece in pieces {
        digest.update(piece);
    }
    digest.finalize()
}

/// The checksum of bytes that come piece by piece, the same as [`crc32`] of all of them.
#[cfg(feature = "std")]
#[derive(Clone, Default)]
pub struct Crc32(crc32fast::Hasher);

#[cfg(feature = "std")]
impl Crc32 {
    /// Of no bytes.
    pub fn new() -> Crc32 {
        Crc32::default()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum.
    pub fn finish(self) -> u32 {
        self.0.finalize()
    }
}

#[cfg(not(feature = "std"))]
static CRC: crc::Crc<u32, crc::NoTable> = crc::Crc::<u32, crc::NoTable>::new(&crc::CRC_32_ISO_HDLC);

/// The checksum of bytes that come piece by piece, the same as [`crc32`] of all of them.
#[cfg(not(feature = "std"))]
#[derive(Clone)]
pub struct Crc32(crc::Digest<'static, u32, crc::NoTable>);

#[cfg(not(feature = "std"))]
impl Default for Crc32 {
    fn default() -> Crc32 {
        Crc32(CRC.digest())
    }
}

#[cfg(not(feature = "std"))]
impl Crc32 {
    /// Of no bytes.
    pub fn new() -> Crc32 {
        Crc32::default()
    }

    /// Takes the next bytes.
    pub fn update(&mut self, bytes: &[u8]) {
        self.0.update(bytes);
    }

    /// The checksum.
    pub fn finish(self) -> u32 {
        self.0.finalize()
    }
}
