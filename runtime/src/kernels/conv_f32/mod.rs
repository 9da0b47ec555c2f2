//! conv_f32
