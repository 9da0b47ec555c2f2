//! depthwise_i8
