//! Converts trained models to `.whit`.
#![forbid(unsafe_code)]
