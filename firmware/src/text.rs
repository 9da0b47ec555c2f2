//! Numbers and text for a serial line without `core::fmt`, whose machinery is several kilobytes.
//!
//! Four short loops are all that the protocol needs; a crate for it would bring tables.

use embedded_io::Write;

/// Writes text to a port. A port that fails loses the rest of the line; there is nobody to tell.
pub struct Text<'w, W> {
    port: &'w mut W,
    alive: bool,
}

impl<'w, W: Write> Text<'w, W> {
    /// Starts writing.
    pub fn new(port: &'w mut W) -> Self {
        Text { port, alive: true }
    }

    /// Bytes as they are.
    pub fn bytes(&mut self, mut bytes: &[u8]) -> &mut Self {
        while self.alive && !bytes.is_empty() {
            match self.port.write(bytes) {
                Ok(count) if count > 0 => bytes = bytes.get(count..).unwrap_or_default(),
                _ => self.alive = false,
            }
        }
        self
    }

    /// Text as it is.
    pub fn text(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// Bytes from outside: what isn't printable ASCII becomes `?`, and forty are enough.
    pub fn printable(&mut self, bytes: &[u8]) -> &mut Self {
        for byte in bytes.iter().take(40) {
            self.bytes(&[if byte.is_ascii_graphic() { *byte } else { b'?' }]);
        }
        self
    }

    /// The end of a line.
    pub fn end(&mut self) -> &mut Self {
        self.text("\r\n")
    }

    /// A number in decimal.
    pub fn number(&mut self, number: u64) -> &mut Self {
        // Long division by halves of a word: most microcontrollers divide 32 bits at once and need a
        // kilobyte of code for 64.
        let mut limbs = [48, 32, 16, 0].map(|shift| (number >> shift) as u32 & 0xffff);
        let mut digits = [0; 20]; // u64::MAX has 20
        let mut first = digits.len();
        for (index, digit) in digits.iter_mut().enumerate().rev() {
            let mut rest = 0;
            for limb in &mut limbs {
                let part = rest << 16 | *limb;
                (*limb, rest) = (part / 10, part % 10);
            }
            *digit = b'0' + rest as u8;
            first = index;
            if limbs == [0; 4] {
                break;
            }
        }
        self.bytes(digits.get(first..).unwrap_or_default())
    }

    /// A signed number in decimal.
    pub fn signed(&mut self, number: i32) -> &mut Self {
        if number < 0 {
            self.text("-");
        }
        self.number(u64::from(number.unsigned_abs()))
    }

    /// A byte as two hexadecimal digits.
    pub fn hex_byte(&mut self, byte: u8) -> &mut Self {
        let digit = |nibble: u8| if nibble < 10 { b'0' + nibble } else { b'a' + nibble - 10 };
        self.bytes(&[digit(byte >> 4), digit(byte & 15)])
    }

    /// Eight hexadecimal digits.
    pub fn hex(&mut self, number: u32) -> &mut Self {
        for byte in number.to_be_bytes() {
            self.hex_byte(byte);
        }
        self
    }

    /// A real number with three decimals, exactly as C's `%0.3f` rounds it; `inf` from 2⁶⁴ on.
    pub fn milli(&mut self, value: f32) -> &mut Self {
        if value.is_nan() {
            return self.text("nan");
        }
        if value.is_sign_negative() {
            self.text("-");
        }
        // value = mantissa · 2^exponent
        let bits = value.to_bits();
        let field = (bits >> 23) & 0xff;
        let fraction = u64::from(bits & 0x7f_ffff);
        let (mantissa, exponent) = match field {
            0 => (fraction, -149),
            _ => (fraction | 0x80_0000, field as i32 - 150),
        };
        if exponent >= 0 {
            // 24 bits of mantissa: up to 40 places to the left fit.
            if exponent > 40 {
                return self.text("inf");
            }
            return self.number(mantissa << exponent).text(".000");
        }
        let shift = exponent.unsigned_abs();
        let (mut whole, mut thousandths) = (0, 0);
        if shift <= 40 {
            whole = mantissa >> shift;
            let part = (mantissa - (whole << shift)) * 1000; // 34 bits
            let down = part >> shift;
            let rest = part - (down << shift);
            let half = 1u64 << (shift - 1);
            let odd = down & 1 == 1;
            thousandths = down as u32 + u32::from(rest > half || (rest == half && odd));
        } // else below half a thousandth
        if thousandths == 1000 {
            (whole, thousandths) = (whole + 1, 0);
        }
        self.number(whole).text(".");
        for unit in [100, 10, 1] {
            self.bytes(&[b'0' + (thousandths / unit % 10) as u8]);
        }
        self
    }
}

/// Value of a hexadecimal digit.
pub(crate) fn hex_digit(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        b'A'..=b'F' => Some(digit - b'A' + 10),
        _ => None,
    }
}

/// A decimal number: digits only, at least one, no more than fits.
pub(crate) fn parse_number(text: &[u8]) -> Option<u32> {
    let mut number = 0u32;
    for digit in text {
        let digit = digit.checked_sub(b'0').filter(|digit| *digit < 10)?;
        number = number.checked_mul(10)?.checked_add(u32::from(digit))?;
    }
    (!text.is_empty()).then_some(number)
}

/// A hexadecimal number of one to eight digits.
pub(crate) fn parse_hex(text: &[u8]) -> Option<u32> {
    if text.is_empty() || text.len() > 8 {
        return None;
    }
    text.iter().try_fold(0u32, |number, digit| Some(number << 4 | u32::from(hex_digit(*digit)?)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(write: impl FnOnce(&mut Text<'_, &mut [u8]>)) -> String {
        let mut buffer = [0; 64];
        let mut port: &mut [u8] = &mut buffer;
        write(&mut Text::new(&mut port));
        let left = port.len();
        String::from_utf8(buffer[..64 - left].to_vec()).unwrap()
    }

    #[test]
    fn numbers_read_as_the_standard_library_writes_them() {
        for number in [0, 7, 10, 4_294_967_295, 4_294_967_296, 1 << 63, u64::MAX] {
            assert_eq!(written(|text| _ = text.number(number)), number.to_string());
        }
        for number in [0, -1, i32::MIN, i32::MAX] {
            assert_eq!(written(|text| _ = text.signed(number)), number.to_string());
        }
        assert_eq!(written(|text| _ = text.hex(0xdead_0bef)), "dead0bef");
        let mut reals =
            vec![0.0, -0.0, 0.0625, 0.1875, 0.0005, 0.0015, 0.9995, 0.9999, 1e-40, 5e-4];
        reals.extend([1.0, 123.4567, -8.5, 1.6e7, 3.3e7, 1e12, 1.8e19, 2.5e-4, 7.0625]);
        // Every output of an i8 tensor in 1/256.
        reals.extend((-128..128).map(|q| (q + 128) as f32 * 0.00390625));
        reals.extend((0..5000u32).map(|i| f32::from_bits(0x3000_0000 + i * 0x2_0f35)));
        for real in reals {
            assert_eq!(written(|text| _ = text.milli(real)), format!("{real:.3}"), "{real:e}");
        }
        assert_eq!(written(|text| _ = text.milli(f32::NAN)), "nan");
        assert_eq!(written(|text| _ = text.milli(f32::NEG_INFINITY)), "-inf");
    }

    #[test]
    fn what_is_no_number_is_refused() {
        for text in ["", "-1", "+1", " 1", "1 ", "4294967296", "1e3", "0x1"] {
            assert_eq!(parse_number(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse_number(b"4294967295"), Some(u32::MAX));
        for text in ["", "123456789", "g", "-1"] {
            assert_eq!(parse_hex(text.as_bytes()), None, "{text}");
        }
        assert_eq!(parse_hex(b"FFffFFff"), Some(u32::MAX));
    }

    #[test]
    fn a_full_port_ends_the_line_without_a_panic() {
        let mut buffer = [0; 4];
        let mut port: &mut [u8] = &mut buffer;
        Text::new(&mut port).text("abc").number(1234).end();
        assert_eq!(&buffer[..3], b"abc");
    }
}
