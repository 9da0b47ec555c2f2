//! A driver that records what it is asked, and fails on demand.
