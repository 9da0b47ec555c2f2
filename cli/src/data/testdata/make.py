"""Writes the .npz files that the reader is tested with: numpy is the oracle."""
import numpy as np

x = np.arange(6).reshape(2, 3)
arrays = {
    "f16": np.array([[1.5], [-0.25]], np.float16),
    "f32": (x / 4).astype(np.float32),
    "f64": (x / 4).astype(np.float64),
    "fortran": np.asfortranarray(np.arange(24, dtype=np.int16).reshape(2, 3, 4)),
    "big_endian": x.astype(">i4"),
    "i8": (x - 3).astype(np.int8),
    "u8": (x + 250).astype(np.uint8),
    "i16": (x * -1000).astype(np.int16),
    "u16": (x + 65530).astype(np.uint16),
    "i64": (x.astype(np.int64) << 40),
    "u32": (x + 4294967290).astype(np.uint32),
    "bool": x % 2 == 1,
    "vector": np.array([1, 2], np.uint8),
    "labels": np.array([1, 0]),
}
np.savez("numpy.npz", **arrays)
np.savez_compressed("numpy_compressed.npz", **arrays)
