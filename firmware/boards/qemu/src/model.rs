//! The model in flash, where QEMU's loader (on a board: the programmer) put it.

use whit::format::{Field, HEADER_BYTES, Header};

unsafe extern "C" {
    static _model_start: [u8; HEADER_BYTES];
    static _model_end: u8;
}

/// The bytes of the `.whit` file in the region `MODEL` of the memory map; as many as its header
/// says, or all of the region if the header doesn't make sense, which `Model::open` then says.
pub fn bytes() -> &'static [u8] {
    // SAFETY: memory.x places both symbols at the ends of a region of readable memory of at least
    // HEADER_BYTES bytes, that nothing writes to after reset.
    let (header, start) = unsafe { (&_model_start, (&raw const _model_start).cast::<u8>()) };
    let region_bytes = (&raw const _model_end as usize) - start as usize;
    let file_bytes = usize::try_from(Header::read(header).file_bytes).unwrap_or(region_bytes);
    // SAFETY: as above, and the length ends at the region's end at the latest.
    unsafe { core::slice::from_raw_parts(start, file_bytes.min(region_bytes)) }
}
