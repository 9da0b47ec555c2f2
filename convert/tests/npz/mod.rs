//! Reads the arrays of an .npz file: <https://numpy.org/doc/stable/reference/generated/numpy.lib.format.html>

use std::collections::BTreeMap;
use std::io::Read;
use std::path::Path;

/// An array, C order.
pub(crate) struct Array {
    pub(crate) shape: Vec<usize>,
    values: Values,
}

enum Values {
    F32(Vec<f32>),
    I64(Vec<i64>),
    I8(Vec<i8>),
    /// A type that these tests don't read.
    Other,
}

impl Array {
    /// Its elements; panics when it has another type.
    pub(crate) fn f32s(&self) -> &[f32] {
        match &self.values {
            Values::F32(values) => values,
            _ => panic!("not an f32 array"),
        }
    }

    /// See [`Array::f32s`].
    pub(crate) fn i64s(&self) -> &[i64] {
        match &self.values {
            Values::I64(values) => values,
            _ => panic!("not an i64 array"),
        }
    }

    /// See [`Array::f32s`].
    pub(crate) fn i8s(&self) -> &[i8] {
        match &self.values {
            Values::I8(values) => values,
            _ => panic!("not an i8 array"),
        }
    }

    fn parse(bytes: &[u8]) -> Array {
        assert_eq!(&bytes[..8], b"\x93NUMPY\x01\x00");
        let header_end = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        let header = std::str::from_utf8(&bytes[10..header_end]).expect("text");
        assert!(header.contains("'fortran_order': False"), "{header}");
        let after = |key: &str, until: char| {
            let (_, rest) = header.split_once(key).expect("a key");
            rest.split_once(until).expect("a value").0
        };
        let shape =
            after("'shape': (", ')').split(',').map(str::trim).filter(|size| !size.is_empty());
        let shape: Vec<usize> = shape.map(|size| size.parse().expect("a size")).collect();
        let data = &bytes[header_end..];
        let values = match after("'descr': '", '\'') {
            "<f4" => {
                Values::F32(data.as_chunks().0.iter().map(|b| f32::from_le_bytes(*b)).collect())
            }
            "<i8" => {
                Values::I64(data.as_chunks().0.iter().map(|b| i64::from_le_bytes(*b)).collect())
            }
            "|i1" => Values::I8(data.iter().map(|b| *b as i8).collect()),
            _ => Values::Other,
        };
        Array { shape, values }
    }
}

/// Arrays by name.
pub(crate) struct Npz {
    pub(crate) arrays: BTreeMap<String, Array>,
}

impl Npz {
    /// Reads all arrays; panics when the file isn't as expected.
    pub(crate) fn open(path: &Path) -> Npz {
        let file = std::fs::File::open(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut archive =
            zip::ZipArchive::new(file).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
        let mut arrays = BTreeMap::new();
        for index in 0..archive.len() {
            let mut entry = archive.by_index(index).expect("an entry");
            let mut bytes = Vec::new();
            entry.read_to_end(&mut bytes).expect("its bytes");
            arrays.insert(
                entry.name().expect("UTF-8").trim_end_matches(".npy").to_owned(),
                Array::parse(&bytes),
            );
        }
        Npz { arrays }
    }
}
