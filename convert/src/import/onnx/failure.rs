//! Why one node wasn't imported.

/// What an operator's importer returns instead of values.
#[derive(Debug)]
pub(crate) enum Failure {
    /// The model is right, but this can't be expressed; the import goes on to find the others.
    Unsupported {
        /// What exactly.
        reason: String,
        /// What to do about it; may be empty.
        remedy: String,
    },
    /// The model is wrong.
    Invalid(String),
}

/// See [`Failure::Unsupported`].
pub(crate) fn unsupported(reason: impl Into<String>, remedy: impl Into<String>) -> Failure {
    Failure::Unsupported { reason: reason.into(), remedy: remedy.into() }
}

/// See [`Failure::Invalid`].
pub(crate) fn invalid(problem: impl Into<String>) -> Failure {
    Failure::Invalid(problem.into())
}

/// The remedy for whatever needs a dimension to be known.
pub(crate) const FIX_THE_DIM: &str = "fix the dimension with --dim NAME=N";
