//! Bits of a record's body, most significant first, with exponential-Golomb codes.

/// Values that a record can hold lie below this, so that no sum of an order and a value overflows.
pub const VALUE_LIMIT: u64 = 1 << 62;

/// Orders of the codes: 4 bits of a body.
pub const MAX_ORDER: u32 = 15;

/// Writes bits into a buffer.
pub struct BitWriter<'b> {
    out: &'b mut [u8],
    bit: usize,
}

impl<'b> BitWriter<'b> {
    /// Writes from the front of `out`.
    pub fn new(out: &'b mut [u8]) -> BitWriter<'b> {
        BitWriter { out, bit: 0 }
    }

    /// Bits written.
    pub fn position(&self) -> usize {
        self.bit
    }

    /// Bits that still fit.
    pub fn room(&self) -> usize {
        self.out.len() * 8 - self.bit
    }

    /// The lowest `count` bits of `value`, at most 64; `None` when they don't fit.
    pub fn bits(&mut self, value: u64, count: u32) -> Option<()> {
        if count as usize > self.room() {
            return None;
        }
        for shift in (0..count).rev() {
            let byte = self.out.get_mut(self.bit / 8)?;
            let mask = 0x80 >> (self.bit % 8);
            if value >> shift & 1 == 1 {
                *byte |= mask
            } else {
                *byte &= !mask
            }
            self.bit += 1;
        }
        Some(())
    }

    /// `value` in the exponential-Golomb code of this order; `None` when it doesn't fit or is too large.
    pub fn golomb(&mut self, value: u64, order: u32) -> Option<()> {
        if value >= VALUE_LIMIT {
            return None;
        }
        let shifted = value + (1 << order);
        let width = 64 - shifted.leading_zeros();
        self.bits(0, width - 1 - order)?;
        self.bits(shifted, width)
    }

    /// Fills the last byte with zeros and gives the number of bytes.
    pub fn finish(mut self) -> usize {
        let open = self.bit.next_multiple_of(8) - self.bit;
        // The byte is there, since its first bit is written.
        let _ = self.bits(0, open as u32);
        self.bit / 8
    }
}

/// Bits that [`BitWriter::golomb`] writes.
pub fn golomb_bits(value: u64, order: u32) -> usize {
    let width = 64 - value.saturating_add(1 << order).leading_zeros();
    (2 * width - 1 - order) as usize
}

/// Reads bits of a body that may hold anything.
pub struct BitReader<'b> {
    bytes: &'b [u8],
    bit: usize,
}

impl<'b> BitReader<'b> {
    /// Reads from the front.
    pub fn new(bytes: &'b [u8]) -> BitReader<'b> {
        BitReader { bytes, bit: 0 }
    }

    /// The next `count` bits, at most 64; `None` at the end.
    pub fn bits(&mut self, count: u32) -> Option<u64> {
        let mut value = 0;
        for _ in 0..count {
            let byte = self.bytes.get(self.bit / 8)?;
            value = value << 1 | u64::from(byte >> (7 - self.bit % 8) & 1);
            self.bit += 1;
        }
        Some(value)
    }

    /// The next value in the exponential-Golomb code of this order; `None` at the end, and for values that are
    /// too large.
    pub fn golomb(&mut self, order: u32) -> Option<u64> {
        let mut zeros = 0;
        while self.bits(1)? == 0 {
            zeros += 1;
            if zeros + order > 62 {
                return None;
            }
        }
        let low = self.bits(zeros + order)?;
        let value = (1 << (zeros + order) | low) - (1 << order);
        (value < VALUE_LIMIT).then_some(value)
    }

    /// Whether only the zeros that fill the last byte are left.
    pub fn is_finished(mut self) -> bool {
        let left = self.bytes.len() * 8 - self.bit;
        left < 8 && self.bits(left as u32) == Some(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn codes_are_those_of_the_literature() {
        // Table 9-2 of ITU-T H.264 for order 0; order 2 by hand: value + 4, preceded by width − 3 zeros.
        let cases: [(u64, u32, &str); 8] = [
            (0, 0, "1"),
            (1, 0, "010"),
            (2, 0, "011"),
            (3, 0, "00100"),
            (8, 0, "0001001"),
            (0, 2, "100"),
            (3, 2, "111"),
            (4, 2, "01000"),
        ];
        for (value, order, expected) in cases {
            let mut out = [0xFF; 8];
            let mut writer = BitWriter::new(&mut out);
            writer.golomb(value, order).expect("room");
            let bits = writer.position();
            assert_eq!(bits, expected.len(), "{value} order {order}");
            assert_eq!(golomb_bits(value, order), bits);
            let text: String = (0..bits)
                .map(|at| if out[at / 8] << (at % 8) & 0x80 != 0 { '1' } else { '0' })
                .collect();
            assert_eq!(text, expected, "{value} order {order}");
        }
    }

    #[test]
    fn values_read_back() {
        for order in [0, 1, 7, MAX_ORDER] {
            for value in [0, 1, 2, 127, 65_535, 1 << 40, VALUE_LIMIT - 1] {
                let mut out = [0; 20];
                let mut writer = BitWriter::new(&mut out);
                writer.bits(5, 3).expect("room");
                writer.golomb(value, order).expect("room");
                let bytes = writer.finish();
                let mut reader = BitReader::new(&out[..bytes]);
                assert_eq!(reader.bits(3), Some(5));
                assert_eq!(reader.golomb(order), Some(value), "order {order}");
                assert!(reader.is_finished());
            }
            assert_eq!(BitWriter::new(&mut [0; 20]).golomb(VALUE_LIMIT, order), None);
        }
        assert_eq!(BitReader::new(&[0; 30]).golomb(0), None);
        assert!(!BitReader::new(&[1]).is_finished());
        assert!(!BitReader::new(&[0]).is_finished());
        assert_eq!(BitWriter::new(&mut [0]).bits(0, 9), None);
    }
}
