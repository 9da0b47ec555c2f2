//! The `.whit` byte layout: header, section directory and fixed-size records.
//!
//! `FORMAT.md` is the normative text; the records here read and write themselves side by side, so
//! that the two directions cannot drift apart. All integers are little-endian. Nothing in this
//! module trusts a value: it only moves bytes. [`Model::open`](crate::Model::open) does the checking.

mod attributes;
#[allow(unsafe_code, reason = "bytes seen as slices of numbers")]
mod cast;
mod checksum;
mod error;
mod header;
mod op;
mod records;
#[cfg(feature = "std")]
mod writer;

pub use attributes::*;
pub use cast::{Element, cast, cast_mut};
pub use checksum::{Crc32, crc32};
pub use error::FormatError;
pub(crate) use header::directory_crc32;
pub use header::{
    HEADER_BYTES, Header, MAGIC, Section, SectionEntry, VERSION_MAJOR, VERSION_MINOR,
};
pub use op::{Op, OpBits};
pub use records::*;
#[cfg(feature = "std")]
pub use writer::FileBuilder;

/// Every section starts at a multiple of this: one cache line, one AVX-512 register.
pub const SECTION_ALIGN: usize = 64;

/// Axes of a tensor at most.
pub const MAX_RANK: usize = 8;

/// Operand index of an optional input that is absent.
pub const NO_OPERAND: u32 = u32::MAX;

/// A value of fixed size that reads and writes itself as little-endian bytes.
pub trait Field: Sized + Copy {
    /// Bytes that it takes.
    const SIZE: usize;
    /// Reads it from the first `SIZE` bytes; shorter input reads as if followed by zeros.
    fn read(bytes: &[u8]) -> Self;
    /// Writes it to the first `SIZE` bytes, which must be there.
    fn write(self, bytes: &mut [u8]);
}

macro_rules! number_field {
    ($($ty:ty),*) => {$(
        impl Field for $ty {
            const SIZE: usize = size_of::<$ty>();
            #[inline]
            fn read(bytes: &[u8]) -> Self {
                match bytes.first_chunk() {
                    Some(raw) => <$ty>::from_le_bytes(*raw),
                    None => <$ty>::from_le_bytes(padded(bytes)),
                }
            }
            #[inline]
            fn write(self, bytes: &mut [u8]) {
                bytes[..size_of::<$ty>()].copy_from_slice(&self.to_le_bytes());
            }
        }
    )*};
}
number_field!(u8, u16, u32, u64, i32, f32);

impl<T: Field + Default, const N: usize> Field for [T; N] {
    const SIZE: usize = T::SIZE * N;
    #[inline]
    fn read(bytes: &[u8]) -> Self {
        core::array::from_fn(|index| T::read(bytes.get(index * T::SIZE..).unwrap_or(&[])))
    }
    #[inline]
    fn write(self, bytes: &mut [u8]) {
        for (index, item) in self.into_iter().enumerate() {
            item.write(&mut bytes[index * T::SIZE..]);
        }
    }
}

/// The bytes followed by zeros.
#[cold]
#[inline(never)]
pub(crate) fn padded<const N: usize>(bytes: &[u8]) -> [u8; N] {
    let mut all = [0; N];
    copy_front(&mut all, bytes);
    all
}

/// Copies as many bytes as both have.
#[inline(never)]
fn copy_front(to: &mut [u8], from: &[u8]) {
    for (to, from) in to.iter_mut().zip(from) {
        *to = *from;
    }
}

/// Declares a record: a struct with its size in bytes, whose fields lie one after the other.
macro_rules! record {
    (
        $(#[$meta:meta])*
        pub struct $Name:ident: $size:literal {
            $( $(#[$field_meta:meta])* pub $field:ident: $ty:ty, )*
        }
    ) => {
        $(#[$meta])*
        #[derive(Clone, Copy, Debug, PartialEq, Default)]
        pub struct $Name {
            $( $(#[$field_meta])* pub $field: $ty, )*
        }

        const _: () = assert!($(<$ty as $crate::format::Field>::SIZE +)* 0 == $size);

        impl $crate::format::Field for $Name {
            const SIZE: usize = $size;
            #[inline]
            #[allow(unused_assignments, reason = "the offset after the last field is not read")]
            fn read(bytes: &[u8]) -> Self {
                let padded: [u8; $size];
                // With the length known, a field is one load without a check.
                let bytes: &[u8; $size] = match bytes.first_chunk() {
                    Some(bytes) => bytes,
                    None => {
                        padded = $crate::format::padded(bytes);
                        &padded
                    }
                };
                let mut at = 0;
                $(
                    let $field = <$ty as $crate::format::Field>::read(&bytes[at..]);
                    at += <$ty as $crate::format::Field>::SIZE;
                )*
                $Name { $($field),* }
            }
            #[inline]
            #[allow(unused_assignments, reason = "the offset after the last field is not read")]
            fn write(self, bytes: &mut [u8]) {
                let mut at = 0;
                $(
                    $crate::format::Field::write(self.$field, &mut bytes[at..]);
                    at += <$ty as $crate::format::Field>::SIZE;
                )*
            }
        }
    };
}
pub(crate) use record;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn records_read_back_what_they_wrote() {
        let step = StepRecord {
            name: Name { offset: 7, bytes: 9 },
            op: 3,
            variant: 4,
            flags: 0,
            attributes_offset: 64,
            attributes_bytes: 80,
            operands_start: 11,
            input_count: 2,
            output_count: 1,
            reserved: 0,
            macs: 1 << 40,
        };
        let mut bytes = [0u8; StepRecord::SIZE];
        step.write(&mut bytes);
        assert_eq!(StepRecord::read(&bytes), step);
        assert_eq!(bytes[..4], [7, 0, 0, 0]);
    }

    #[test]
    fn short_input_reads_as_zeros() {
        assert_eq!(u32::read(&[1, 2]), 0x0201);
        assert_eq!(<[u16; 2]>::read(&[1]), [1, 0]);
    }
}
