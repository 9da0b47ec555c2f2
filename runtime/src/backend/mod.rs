//! Backends: each prepares a whole program. The CPU's is [`Session`]; what all have in common is [`Prepared`].

#[cfg(any(feature = "cuda", feature = "cuda-emulation", all(test, feature = "std")))]
pub mod cuda;

use core::ops::{ControlFlow, Range};

use crate::error::SessionError;
use crate::format::{Element, cast, cast_mut};
use crate::memory::Slot;
use crate::model::Model;
use crate::session::Session;

/// A model prepared by a backend. Methods do what those of [`Session`] do.
pub trait Prepared<'m>: Send {
    /// The model.
    fn model(&self) -> &Model<'m>;
    /// Gives a symbolic dimension its value for the runs to come.
    ///
    /// # Errors
    /// As [`Session::set_dimension`].
    fn set_dimension(&mut self, name: &str, value: u32) -> Result<(), SessionError>;
    /// The present value of symbol number `index`.
    fn dimension(&self, index: usize) -> Option<u32>;
    /// Sets every state tensor to its initial value.
    fn reset_state(&mut self);
    /// Type, shape and quantization of an input.
    fn input_slot(&self, index: usize) -> Result<Slot, SessionError>;
    /// Type, shape and quantization of an output.
    fn output_slot(&self, index: usize) -> Result<Slot, SessionError>;
    /// Type, shape and quantization of tensor number `tensor` of the model.
    fn slot(&self, tensor: usize) -> Option<Slot>;
    /// An input's bytes, to fill in place before each run.
    fn input_bytes_mut(&mut self, index: usize) -> Result<&mut [u8], SessionError>;
    /// Copies bytes in, which must be the input's elements in its own type.
    fn set_input_bytes(&mut self, index: usize, bytes: &[u8]) -> Result<(), SessionError>;
    /// Copies real numbers in, quantized if the input is.
    fn set_input_f32(&mut self, index: usize, values: &[f32]) -> Result<(), SessionError>;
    /// What the input was last given; a run may have written over it.
    fn input_bytes(&self, index: usize) -> Result<&[u8], SessionError>;
    /// Runs every step once.
    ///
    /// # Errors
    /// For what depends on the data, and when a device fails.
    fn run(&mut self) -> Result<(), SessionError>;
    /// An output's bytes after a run.
    fn output_bytes(&self, index: usize) -> Result<&[u8], SessionError>;
    /// Gives a range of the states' bytes to `take`, piece by piece, until it breaks.
    ///
    /// # Errors
    /// [`SessionError::Unknown`] for a range that ends behind the states, and when a device fails.
    fn read_state(
        &self,
        range: Range<usize>,
        take: &mut dyn FnMut(&[u8]) -> ControlFlow<()>,
    ) -> Result<(), SessionError>;
    /// Lets `fill` write a range of the states' bytes, piece by piece, until it breaks. What a piece holds before is not what the states hold.
    ///
    /// # Errors
    /// As [`Prepared::read_state`].
    fn write_state(
        &mut self,
        range: Range<usize>,
        fill: &mut dyn FnMut(&mut [u8]) -> ControlFlow<()>,
    ) -> Result<(), SessionError>;
    /// Copies a range of the states' bytes to another place in them. Ranges that overlap are the same one.
    ///
    /// # Errors
    /// As [`Prepared::read_state`].
    fn copy_state(&mut self, from: Range<usize>, to: usize) -> Result<(), SessionError>;
}

impl<'m> dyn Prepared<'m> + '_ {
    /// An input's elements, to fill in place before each run.
    ///
    /// # Errors
    /// As [`Session::input_mut`].
    pub fn input_mut<T: Element>(&mut self, index: usize) -> Result<&mut [T], SessionError> {
        let expected = self.input_slot(index)?.dtype;
        let wrong = SessionError::InputType { input: index as u32, expected };
        if size_of::<T>() != expected.size() {
            return Err(wrong);
        }
        cast_mut(self.input_bytes_mut(index)?).ok_or(wrong)
    }

    /// An output's elements after a run.
    ///
    /// # Errors
    /// As [`Session::output`].
    pub fn output<T: Element>(&self, index: usize) -> Result<&[T], SessionError> {
        if size_of::<T>() != self.output_slot(index)?.dtype.size() {
            return Err(SessionError::Unknown);
        }
        cast(self.output_bytes(index)?).ok_or(SessionError::Unknown)
    }
}

/// Implements [`Prepared`] for the `Session` in scope, by its methods of the same names.
macro_rules! forward_prepared {
    () => {
        impl<'m> Prepared<'m> for Session<'m> {
            fn model(&self) -> &Model<'m> {
                Session::model(self)
            }

            fn set_dimension(&mut self, name: &str, value: u32) -> Result<(), SessionError> {
                Session::set_dimension(self, name, value)
            }

            fn dimension(&self, index: usize) -> Option<u32> {
                Session::dimension(self, index)
            }

            fn reset_state(&mut self) {
                Session::reset_state(self);
            }

            fn input_slot(&self, index: usize) -> Result<Slot, SessionError> {
                Session::input_slot(self, index)
            }

            fn output_slot(&self, index: usize) -> Result<Slot, SessionError> {
                Session::output_slot(self, index)
            }

            fn slot(&self, tensor: usize) -> Option<Slot> {
                Session::slot(self, tensor)
            }

            fn input_bytes_mut(&mut self, index: usize) -> Result<&mut [u8], SessionError> {
                Session::input_bytes_mut(self, index)
            }

            fn set_input_bytes(&mut self, index: usize, bytes: &[u8]) -> Result<(), SessionError> {
                Session::set_input_bytes(self, index, bytes)
            }

            fn set_input_f32(&mut self, index: usize, values: &[f32]) -> Result<(), SessionError> {
                Session::set_input_f32(self, index, values)
            }

            fn input_bytes(&self, index: usize) -> Result<&[u8], SessionError> {
                Session::input_bytes(self, index)
            }

            fn run(&mut self) -> Result<(), SessionError> {
                Session::run(self)
            }

            fn output_bytes(&self, index: usize) -> Result<&[u8], SessionError> {
                Session::output_bytes(self, index)
            }

            fn read_state(
                &self,
                range: core::ops::Range<usize>,
                take: &mut dyn FnMut(&[u8]) -> core::ops::ControlFlow<()>,
            ) -> Result<(), SessionError> {
                Session::read_state(self, range, take)
            }

            fn write_state(
                &mut self,
                range: core::ops::Range<usize>,
                fill: &mut dyn FnMut(&mut [u8]) -> core::ops::ControlFlow<()>,
            ) -> Result<(), SessionError> {
                Session::write_state(self, range, fill)
            }

            fn copy_state(
                &mut self,
                from: core::ops::Range<usize>,
                to: usize,
            ) -> Result<(), SessionError> {
                Session::copy_state(self, from, to)
            }
        }
    };
}
#[cfg(any(feature = "cuda", feature = "cuda-emulation", all(test, feature = "std")))]
use forward_prepared;

forward_prepared!();
