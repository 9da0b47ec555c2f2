//! Models that the tests write themselves.
