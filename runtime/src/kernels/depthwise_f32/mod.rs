//! depthwise_f32
