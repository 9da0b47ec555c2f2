//! What the benches time and `.ci/instructions` counts: calls of every kernel family, on shapes of real models.

pub mod calls;
