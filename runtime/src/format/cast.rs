//! Bytes seen as slices of numbers, without copying.

#[cfg(target_endian = "big")]
compile_error!("constants lie in the file in little-endian order and are read in place");

use half::{bf16, f16};

mod sealed {
    pub trait Sealed {}
}

/// A number type whose every bit pattern is a value and that has no padding.
pub trait Element: sealed::Sealed + Copy + Default + Send + Sync + 'static {}

macro_rules! element {
    ($($ty:ty),*) => {$(
        impl sealed::Sealed for $ty {}
        impl Element for $ty {}
    )*};
}
element!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f16, bf16);

/// The bytes as elements; `None` when they are misaligned or not a whole number of elements.
#[inline]
pub fn cast<T: Element>(bytes: &[u8]) -> Option<&[T]> {
    if bytes.is_empty() {
        return Some(&[]);
    }
    if !bytes.as_ptr().cast::<T>().is_aligned() || !bytes.len().is_multiple_of(size_of::<T>()) {
        return None;
    }
    // SAFETY: the pointer is aligned for T and the length a whole number of Ts (checked above), the
    // memory stays borrowed, and every bit pattern is a valid T (`Element` is sealed to such types).
    Some(unsafe {
        core::slice::from_raw_parts(bytes.as_ptr().cast(), bytes.len() / size_of::<T>())
    })
}

/// The bytes as elements, writable; `None` when they are misaligned or not a whole number of elements.
#[inline]
pub fn cast_mut<T: Element>(bytes: &mut [u8]) -> Option<&mut [T]> {
    if bytes.is_empty() {
        return Some(&mut []);
    }
    if !bytes.as_ptr().cast::<T>().is_aligned() || !bytes.len().is_multiple_of(size_of::<T>()) {
        return None;
    }
    let len = bytes.len() / size_of::<T>();
    // SAFETY: as in `cast`; the borrow is exclusive and a T has no padding, so writing Ts leaves
    // initialised bytes.
    Some(unsafe { core::slice::from_raw_parts_mut(bytes.as_mut_ptr().cast(), len) })
}
