//! conv_i8
