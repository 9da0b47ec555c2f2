//! Element types of less than a byte, and floating-point types of 8 bits or less: how ONNX stores
//! them, as the numbers of the wider type that holds them here.

use super::proto::data_type as t;

/// How a floating-point type spends its bits; its sign, if it has one, is the highest.
struct Float {
    mantissa_bits: u32,
    bias: i32,
    /// Whether the highest exponent is that of infinities and NaNs, as in IEEE 754.
    ieee: bool,
    /// Bits that are NaN besides those.
    nans: &'static [u8],
}

fn float(onnx: i32) -> Option<Float> {
    let float = |mantissa_bits, bias, ieee, nans| Float { mantissa_bits, bias, ieee, nans };
    Some(match onnx {
        t::FLOAT8E4M3FN => float(3, 7, false, &[0x7F, 0xFF]),
        t::FLOAT8E4M3FNUZ => float(3, 8, false, &[0x80]),
        t::FLOAT8E5M2 => float(2, 15, true, &[]),
        t::FLOAT8E5M2FNUZ => float(2, 16, false, &[0x80]),
        _ => return None,
    })
}

/// Bits of one element of a type of this module.
pub(crate) fn bits(onnx: i32) -> Option<usize> {
    match onnx {
        t::UINT2 | t::INT2 => Some(2),
        t::UINT4 | t::INT4 | t::FLOAT4E2M1 => Some(4),
        t::FLOAT8E8M0 => Some(8),
        _ => float(onnx).map(|_| 8),
    }
}

/// Smallest and largest number of an integer type of this module.
pub(crate) fn range(onnx: i32) -> Option<(i64, i64)> {
    match onnx {
        t::UINT2 => Some((0, 3)),
        t::INT2 => Some((-2, 1)),
        t::UINT4 => Some((0, 15)),
        t::INT4 => Some((-8, 7)),
        _ => None,
    }
}

/// Elements from their packed bytes, lowest bits first, as little-endian bytes of the type that
/// `dtype_of` gives: one byte for an integer, f32 for the others. `packed` holds `count` of them.
pub(crate) fn unpack(onnx: i32, packed: &[u8], count: usize) -> Vec<u8> {
    let bits = bits(onnx).unwrap_or(8);
    let per_byte = 8 / bits;
    let mask = (u16::MAX >> (16 - bits)) as u8;
    let elements = (0..count).map(|index| {
        let byte = packed.get(index / per_byte).copied().unwrap_or(0);
        byte >> (index % per_byte * bits) & mask
    });
    match range(onnx) {
        // The sign bit's weight is taken away twice: once as it is there, once as it should count.
        Some((low, _)) if low < 0 => {
            elements.map(|e| e.wrapping_sub((e & 1 << (bits - 1)) << 1)).collect()
        }
        Some(_) => elements.collect(),
        None => elements.flat_map(|e| real(onnx, e).to_le_bytes()).collect(),
    }
}

/// The number that the bits of a floating-point type stand for.
fn real(onnx: i32, bits: u8) -> f32 {
    match onnx {
        t::FLOAT8E8M0 if bits == 0xFF => f32::NAN,
        t::FLOAT8E8M0 => 2f64.powi(i32::from(bits) - 127) as f32,
        t::FLOAT4E2M1 => {
            let size = [0.0, 0.5, 1.0, 1.5, 2.0, 3.0, 4.0, 6.0][usize::from(bits & 7)];
            if bits & 8 == 0 { size } else { -size }
        }
        _ => match float(onnx) {
            Some(of) => of.real(bits),
            None => f32::NAN,
        },
    }
}

impl Float {
    fn real(&self, bits: u8) -> f32 {
        let mantissa = bits & ((1 << self.mantissa_bits) - 1);
        let exponent = (bits & 0x7F) >> self.mantissa_bits;
        let highest = 0x7F >> self.mantissa_bits;
        let size = match (exponent, mantissa) {
            _ if self.nans.contains(&bits) => f32::NAN,
            (e, 0) if self.ieee && e == highest => f32::INFINITY,
            (e, _) if self.ieee && e == highest => f32::NAN,
            // Subnormal numbers have the exponent of the smallest normal one, without its leading 1.
            (0, m) => f32::from(m) * 2f32.powi(1 - self.bias - self.mantissa_bits as i32),
            (e, m) => {
                let significand = f32::from(m) + f32::from(1u8 << self.mantissa_bits);
                significand * 2f32.powi(i32::from(e) - self.bias - self.mantissa_bits as i32)
            }
        };
        if bits & 0x80 == 0 { size } else { -size }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn floats_of_every_format() {
        // np.array(bits, uint8).view(ml_dtypes.…).astype(float32)
        let bits = [0x00u8, 0x01, 0x08, 0x38, 0x7E, 0x7F, 0x80, 0xBC, 0xFF];
        let n = f32::NAN;
        #[rustfmt::skip]
        let tables = [
            (t::FLOAT8E4M3FN, [0.0, 0.001953125, 0.015625, 1.0, 448.0, n, -0.0, -1.5, n]),
            (t::FLOAT8E4M3FNUZ, [0.0, 0.0009765625, 0.0078125, 0.5, 224.0, 240.0, n, -0.75, -240.0]),
            (t::FLOAT8E5M2, [0.0, 1.5258789e-05, 0.00012207031, 0.5, n, n, -0.0, -1.0, n]),
            (t::FLOAT8E5M2FNUZ, [0.0, 7.6293945e-06, 6.1035156e-05, 0.25, 49152.0, 57344.0, n, -0.5, -57344.0]),
        ];
        for (onnx, want) in tables {
            let bytes = unpack(onnx, &bits, bits.len());
            let got: Vec<f32> =
                bytes.chunks_exact(4).map(|b| f32::from_le_bytes(b.try_into().unwrap())).collect();
            for (got, want) in got.iter().zip(want) {
                let same = got.to_bits() == want.to_bits() || (got.is_nan() && want.is_nan());
                assert!(same, "{onnx}: {got} instead of {want}");
            }
        }
        assert_eq!(real(t::FLOAT8E5M2, 0xFC), f32::NEG_INFINITY);
        assert_eq!((real(t::FLOAT8E8M0, 127), real(t::FLOAT8E8M0, 0)), (1.0, 2f32.powi(-127)));
    }

    #[test]
    fn integers_are_packed_from_the_low_end() {
        assert_eq!(unpack(t::UINT4, &[0x21, 0xF3], 3), [1, 2, 3]);
        assert_eq!(unpack(t::INT4, &[0x78, 0x0F], 3), [-8i8 as u8, 7, 255]);
        assert_eq!(unpack(t::INT2, &[0b10_01_00_11, 0b11], 5), [255, 0, 1, 254, 255]);
        assert_eq!(unpack(t::UINT2, &[0b10_01_00_11], 4), [3, 0, 1, 2]);
    }
}
