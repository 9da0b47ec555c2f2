use super::*;

/// Writes a file field by field.
#[derive(Clone, Default)]
pub(crate) struct Writer {
    pub(crate) bytes: Vec<u8>,
}

impl Writer {
    pub(crate) fn new(version: u32, tensors: u64, entries: u64) -> Writer {
        Writer { bytes: b"GGUF".to_vec() }.u32(version).u64(tensors).u64(entries)
    }

    pub(crate) fn raw(mut self, bytes: &[u8]) -> Writer {
        self.bytes.extend_from_slice(bytes);
        self
    }

    pub(crate) fn u32(self, value: u32) -> Writer {
        self.raw(&value.to_le_bytes())
    }

    pub(crate) fn u64(self, value: u64) -> Writer {
        self.raw(&value.to_le_bytes())
    }

    pub(crate) fn text(self, text: &str) -> Writer {
        self.u64(text.len() as u64).raw(text.as_bytes())
    }

    /// A metadata entry with a value that is there as bytes.
    pub(crate) fn entry(self, key: &str, kind: u32, value: &[u8]) -> Writer {
        self.text(key).u32(kind).raw(value)
    }

    pub(crate) fn text_entry(self, key: &str, text: &str) -> Writer {
        self.text(key).u32(TEXT).text(text)
    }

    pub(crate) fn texts_entry(self, key: &str, texts: &[&str]) -> Writer {
        let writer = self.text(key).u32(ARRAY).u32(TEXT).u64(texts.len() as u64);
        texts.iter().fold(writer, |writer, text| writer.text(text))
    }

    pub(crate) fn tensor(self, name: &str, dims: &[u64], dtype: u32, offset: u64) -> Writer {
        let writer = self.text(name).u32(dims.len() as u32);
        dims.iter().fold(writer, |writer, dim| writer.u64(*dim)).u32(dtype).u64(offset)
    }

    /// Zeros up to a multiple of `alignment`, then data.
    pub(crate) fn data(mut self, alignment: usize, data: &[u8]) -> Writer {
        self.bytes.resize(self.bytes.len().next_multiple_of(alignment), 0);
        self.raw(data)
    }
}

/// A file with a value of every type and two tensors.
fn whole(version: u32) -> Vec<u8> {
    let nested = Writer::default().u32(ARRAY).u64(2).u32(0).u64(2).raw(&[1, 2]).u32(TEXT).u64(1);
    Writer::new(version, 2, 15)
        .text_entry("general.architecture", "llama")
        .entry("u8", 0, &[200])
        .entry("i8", 1, &[0xff])
        .entry("u16", 2, &[1, 2])
        .entry("i16", 3, &(-2i16).to_le_bytes())
        .entry("general.alignment", 4, &64u32.to_le_bytes())
        .entry("i32", 5, &(-3i32).to_le_bytes())
        .entry("f32", 6, &1.5f32.to_le_bytes())
        .entry("bool", 7, &[1])
        .entry("u64", 10, &u64::MAX.to_le_bytes())
        .entry("i64", 11, &i64::MIN.to_le_bytes())
        .entry("f64", 12, &2.5f64.to_le_bytes())
        .texts_entry("texts", &["", "ä"])
        .entry("numbers", ARRAY, &Writer::default().u32(6).u64(1).raw(&0.5f32.to_le_bytes()).bytes)
        .entry("nested", ARRAY, &nested.text("x").bytes)
        .tensor("a", &[2, 3], 0, 64)
        .tensor("b", &[32], 2, 0)
        .data(64, &[7; 64 + 24])
        .bytes
}

#[test]
fn every_value_type_and_tensors() {
    for version in [2, 3] {
        let bytes = whole(version);
        let file = File::open(&bytes).expect("a file");
        let integers = [
            ("u8", 200),
            ("i8", -1),
            ("u16", 0x201),
            ("i16", -2),
            ("general.alignment", 64),
            ("i32", -3),
            ("u64", u64::MAX.into()),
            ("i64", i64::MIN.into()),
        ];
        let metadata = file.metadata();
        for (key, expected) in integers {
            assert_eq!(metadata.get(key), Some(&Value::Integer(expected)), "{key}");
        }
        assert_eq!(metadata.float("f32"), Ok(Some(1.5)));
        assert_eq!(metadata.float("f64"), Ok(Some(2.5)));
        assert_eq!(metadata.truth("bool"), Ok(Some(true)));
        assert_eq!(metadata.text("general.architecture"), Ok(Some("llama")));
        assert_eq!(metadata.texts("texts"), Ok(Some(&["", "ä"][..])));
        let numbers = metadata.numbers("numbers").expect("numbers").expect("is there");
        assert_eq!(numbers.iter().collect::<Vec<_>>(), [Value::Float(0.5)]);
        let Some(Value::Array(Array::Arrays(nested))) = metadata.get("nested") else {
            panic!("not nested")
        };
        assert!(matches!(&nested[..], [Array::Numbers(_), Array::Texts(texts)] if texts == &["x"]));

        let [a, b] = file.tensors() else { panic!("not two tensors") };
        assert_eq!((a.name, &a.shape[..], a.dtype.name), ("a", &[3, 2][..], "F32"));
        assert_eq!((b.name, &b.shape[..], b.dtype.name), ("b", &[32][..], "Q4_0"));
        assert_eq!((file.data(a), file.data(b)), (&[7u8; 24][..], &[7u8; 18][..]));
    }
}

#[test]
fn values_of_another_type_are_refused() {
    let bytes = whole(3);
    let file = File::open(&bytes).expect("a file");
    let metadata = file.metadata();
    let wrong = |error| matches!(error, GgufError::KeyType { .. });
    assert!(wrong(metadata.text("u8").expect_err("not a text")));
    assert!(wrong(metadata.unsigned("i8").expect_err("negative")));
    assert!(wrong(metadata.float("bool").expect_err("not a number")));
    assert!(wrong(metadata.truth("u8").expect_err("not a truth value")));
    assert!(wrong(metadata.texts("numbers").expect_err("not texts")));
    assert!(wrong(metadata.numbers("texts").expect_err("not numbers")));
    assert_eq!(metadata.texts("absent"), Ok(None));
    assert!(metadata.required::<u64>("absent", None).is_err());
}

#[test]
fn lies_are_refused() {
    let huge = u64::MAX;
    let one = |dims: &[u64], dtype, offset| {
        Writer::new(3, 1, 0).tensor("t", dims, dtype, offset).data(32, &[0; 64])
    };
    let two = |second: &str, offset| {
        let writer = Writer::new(3, 2, 0).tensor("t", &[16], 0, 0);
        writer.tensor(second, &[8], 0, offset).data(32, &[0; 96])
    };
    let entry = |kind: u32, value: &[u8]| Writer::new(3, 0, 1).entry("k", kind, value);
    let array = |kind: u32, count: u64| Writer::default().u32(kind).u64(count);
    let deep = (0..5).fold(Writer::default(), |writer, _| writer.u32(ARRAY).u64(1));
    let align = |value: u32| {
        Writer::new(3, 0, 1).entry("general.alignment", 4, &value.to_le_bytes()).data(32, &[])
    };
    let cases: Vec<(&str, Writer)> = vec![
        ("within the first four bytes", Writer::default()),
        ("begin with `GGUF`", Writer::default().raw(b"GGML").u32(3)),
        ("version 1;", Writer::new(1, 0, 0)),
        ("version 4;", Writer::new(4, 0, 0)),
        ("version 0;", Writer::new(0, 0, 0)),
        ("big-endian", Writer::new(3 << 24, 0, 0)),
        ("within the number of tensors", Writer::default().raw(b"GGUF").u32(3)),
        ("claims 18446744073709551615 tensors", Writer::new(3, huge, 0)),
        ("claims 18446744073709551615 metadata entries", Writer::new(3, 0, huge)),
        ("bytes for the key of metadata entry 0", Writer::new(3, 0, 1).u64(huge).raw(&[0; 40])),
        ("the key of metadata entry 0 isn't UTF-8", Writer::new(3, 0, 1).u64(1).raw(&[0xff; 40])),
        ("no value type 13", entry(13, &[0; 8])),
        ("no value type 13", entry(ARRAY, &array(13, 1).u64(0).bytes)),
        ("truth value is 2", entry(7, &[2])),
        ("truth value is 3", entry(ARRAY, &array(7, 2).raw(&[0, 3]).bytes)),
        ("within the value of metadata `k`", entry(12, &[0; 7])),
        ("elements of metadata `k`, and has room for 0", entry(ARRAY, &array(4, 1 << 61).bytes)),
        ("elements of metadata `k`", entry(ARRAY, &array(TEXT, 1 << 61).bytes)),
        ("elements of metadata `k`", entry(ARRAY, &array(ARRAY, 1 << 61).bytes)),
        ("bytes for element 0 of metadata `k`", entry(ARRAY, &array(TEXT, 1).u64(huge).bytes)),
        ("more than 4 deep", entry(ARRAY, &deep.u32(0).u64(0).bytes)),
        ("`k` is there twice", Writer::new(3, 0, 2).entry("k", 0, &[1]).entry("k", 0, &[1])),
        ("`general.alignment` is 0", align(0)),
        ("`general.alignment` is 48", align(48)),
        ("`general.alignment` is 2147483648", align(1 << 31)),
        ("one of 3 parts", Writer::new(3, 0, 1).entry("split.count", 2, &[3, 0])),
        ("has 0 dimensions", one(&[], 0, 0).raw(&[0; 8])),
        ("has 5 dimensions", one(&[1; 5], 0, 0)),
        ("no element type 4", one(&[32], 4, 0)),
        ("no element type 4294967295", one(&[32], u32::MAX, 0)),
        ("rows of 31 elements", one(&[31], 2, 0)),
        ("rows of 128 elements", one(&[128], 12, 0)),
        ("empty or too many bytes", one(&[0], 0, 0)),
        ("empty or too many bytes", one(&[1 << 32, 1 << 32], 0, 0)),
        ("empty or too many bytes", one(&[1 << 63, 2], 0, 0)),
        ("empty or too many bytes", one(&[32], 0, huge - 31)),
        ("no multiple of 32", one(&[1], 0, 4)),
        ("takes 68 bytes at byte 0 of the data, which has 64", one(&[17], 0, 0)),
        ("takes 4 bytes at byte 64 of the data", one(&[1], 0, 64)),
        ("`t` is there twice", two("t", 64)),
        ("`t` and `u` overlap", two("u", 32)),
        ("within the record of tensor `t`", Writer::new(3, 1, 0).text("t").u32(4).raw(&[0; 24])),
    ];
    for (expected, writer) in cases {
        let error = File::open(&writer.bytes).expect_err(expected).to_string();
        assert!(error.contains(expected), "`{error}` should contain `{expected}`");
    }
    assert!(File::open(&one(&[16], 0, 0).bytes).is_ok());
    assert!(File::open(&two("u", 64).bytes).is_ok());
}

/// Every prefix and thousands of damaged copies of a file: a file or an error, never a panic.
#[test]
fn mutations_never_panic() {
    let bytes = whole(3);
    for length in 0..bytes.len() {
        assert!(File::open(&bytes[..length]).is_err(), "{length} bytes");
    }
    const ROUNDS: usize = 100_000;
    // xorshift64: the same damage in every run.
    let mut state = 0x9e37_79b9_7f4a_7c15u64;
    let mut random = move |below: usize| {
        state ^= state << 13;
        state ^= state >> 7;
        state ^= state << 17;
        (state % below as u64) as usize
    };
    let mut opened = 0;
    for _ in 0..ROUNDS {
        let mut damaged = bytes.clone();
        for _ in 0..=random(3) {
            let at = random(damaged.len());
            match random(4) {
                0 => damaged[at] = [0, 1, 0x7f, 0x80, 0xff][random(5)],
                1 => damaged[at] ^= 1 << random(8),
                2 => damaged.truncate(at.max(1)),
                _ => {
                    let end = (at + 8).min(damaged.len());
                    damaged[at..end].fill(0xff);
                }
            }
        }
        if let Ok(file) = File::open(&damaged) {
            opened += 1;
            for tensor in file.tensors() {
                let elements: usize = tensor.shape.iter().product();
                let blocks = elements / tensor.dtype.block_elems;
                assert_eq!(file.data(tensor).len(), blocks * tensor.dtype.block_bytes);
            }
        }
    }
    assert!(opened > ROUNDS / 20, "{opened} of {ROUNDS} opened: the damage is too rough");
}
