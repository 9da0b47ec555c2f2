//! Why one node wasn't imported.

use crate::error::ImportError;

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

impl Failure {
    /// What is wrong, without the remedy.
    pub(crate) fn text(self) -> String {
        match self {
            Failure::Unsupported { reason, .. } | Failure::Invalid(reason) => reason,
        }
    }
}

/// Why a node that holds others wasn't imported: itself, or one of them in a way that ends the import.
#[derive(Debug)]
pub(crate) enum Stop {
    /// This node.
    Node(Failure),
    /// The model.
    Import(ImportError),
}

impl From<Failure> for Stop {
    fn from(failure: Failure) -> Stop {
        Stop::Node(failure)
    }
}

impl From<ImportError> for Stop {
    fn from(error: ImportError) -> Stop {
        Stop::Import(error)
    }
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
