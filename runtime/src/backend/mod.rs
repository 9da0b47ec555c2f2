//! Backends: each prepares a whole program. The CPU's is [`Session`]; what all have in common is [`Prepared`].

#[cfg(any(feature = "cuda", feature = "cuda-emulation", all(test, feature = "std")))]
pub mod cuda;

use crate::error::SessionError;
use crate::memory::Slot;
use crate::model::Model;
use crate::session::Session;

/// A model prepared by a backend. Methods do what those of [`Session`] do.
pub trait Prepared<'m> {
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
        }
    };
}
#[cfg(any(feature = "cuda", feature = "cuda-emulation", all(test, feature = "std")))]
use forward_prepared;

forward_prepared!();
