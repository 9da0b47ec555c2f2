//! Checkpoints of PyTorch, written operation by operation as `torch.save` writes them: tensors by strides, and nothing run.

use std::io::{Cursor, Write};

use whit::DType;
use zip::write::SimpleFileOptions;
use zip::{CompressionMethod, ZipWriter};

use super::Random;
use crate::import::transformers::pytorch::Checkpoint;
use crate::import::transformers::weights::Weights;

/// Type, key and elements.
type Storage<'s> = (&'s str, &'s str, i64);

/// A view of a storage: offset, shape, strides.
type View<'s> = (i64, &'s [i64], &'s [i64]);

/// A pickle under construction.
#[derive(Default)]
struct Pickle(Vec<u8>);

impl Pickle {
    /// An empty state dictionary, whose items follow.
    fn new() -> Pickle {
        let pickle = Pickle(vec![0x80, 2]);
        pickle.global("collections", "OrderedDict").raw(b")Rq\x00(")
    }

    fn raw(mut self, bytes: &[u8]) -> Pickle {
        self.0.extend(bytes);
        self
    }

    fn global(self, module: &str, name: &str) -> Pickle {
        self.raw(format!("c{module}\n{name}\n").as_bytes())
    }

    fn text(self, text: &str) -> Pickle {
        self.raw(b"X").raw(&(text.len() as u32).to_le_bytes()).raw(text.as_bytes())
    }

    fn number(self, number: i64) -> Pickle {
        self.raw(b"\x8a\x08").raw(&number.to_le_bytes())
    }

    fn numbers(self, numbers: &[i64]) -> Pickle {
        numbers.iter().fold(self.raw(b"("), |pickle, number| pickle.number(*number)).raw(b"t")
    }

    /// A tensor of the storage `key` with so many elements.
    fn tensor(self, storage: Storage<'_>, offset: i64, shape: &[i64], strides: &[i64]) -> Pickle {
        let (kind, key, elements) = storage;
        let pickle = self.global("torch._utils", "_rebuild_tensor_v2").raw(b"((").text("storage");
        let pickle = pickle.global("torch", kind).text(key).text("cpu").number(elements).raw(b"tQ");
        let pickle = pickle.number(offset).numbers(shape).numbers(strides).raw(b"\x89");
        pickle.global("collections", "OrderedDict").raw(b")RtR")
    }

    /// The items end, and the dictionary has an attribute.
    fn end(self) -> Vec<u8> {
        self.raw(b"u}").text("_metadata").global("collections", "OrderedDict").raw(b")Rsb.").0
    }
}

fn archive(pickle: &[u8], storages: &[(&str, &[u8])], method: CompressionMethod) -> Vec<u8> {
    let mut writer = ZipWriter::new(Cursor::new(Vec::new()));
    let options = SimpleFileOptions::default().compression_method(method);
    let mut add = |name: &str, bytes: &[u8]| {
        writer.start_file(format!("archive/{name}"), options).unwrap();
        writer.write_all(bytes).unwrap();
    };
    add("data.pkl", pickle);
    add("byteorder", b"little");
    storages.iter().for_each(|(key, bytes)| add(&format!("data/{key}"), bytes));
    writer.finish().unwrap().into_inner()
}

fn stored(pickle: &[u8], storages: &[(&str, &[u8])]) -> Vec<u8> {
    archive(pickle, storages, CompressionMethod::Stored)
}

fn open(bytes: &[u8]) -> Result<Checkpoint, String> {
    Checkpoint::read("pytorch_model.bin", bytes.to_vec().into())
}

fn floats(values: &[f32]) -> Vec<u8> {
    values.iter().flat_map(|value| value.to_le_bytes()).collect()
}

const STORAGE: Storage<'_> = ("FloatStorage", "0", 12);

fn twelve() -> Vec<u8> {
    floats(&[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0, 8.0, 9.0, 10.0, 11.0])
}

#[test]
fn tensors_are_read_by_their_strides() {
    let cases: [(View<'_>, &[f32]); 7] = [
        ((0, &[2, 6], &[6, 1]), &[0., 1., 2., 3., 4., 5., 6., 7., 8., 9., 10., 11.]),
        ((4, &[2, 3], &[3, 1]), &[4., 5., 6., 7., 8., 9.]),
        // Transposed, every other, a diagonal.
        ((0, &[3, 4], &[1, 3]), &[0., 3., 6., 9., 1., 4., 7., 10., 2., 5., 8., 11.]),
        ((1, &[2, 2, 2], &[1, 6, 2]), &[1., 3., 7., 9., 2., 4., 8., 10.]),
        ((0, &[3], &[5]), &[0., 5., 10.]),
        // One element, whatever its stride.
        ((11, &[1, 1], &[i64::MAX, 7]), &[11.]),
        ((0, &[0, 3], &[3, 1]), &[]),
    ];
    for ((offset, shape, strides), expected) in cases {
        let plain = Pickle::new().text("x").tensor(STORAGE, offset, shape, strides);
        let parameter = Pickle::new().text("x").global("torch._utils", "_rebuild_parameter");
        let parameter = parameter.raw(b"(").tensor(STORAGE, offset, shape, strides);
        let parameter = parameter.raw(b"\x88").global("collections", "OrderedDict").raw(b")RtR");
        let inner = plain.0[2..].to_vec();
        let nested =
            Pickle(vec![0x80, 2]).raw(b"}(").text("epoch").raw(b"K\x07").text("state_dict");
        let nested = nested.raw(&inner).raw(b"uu.").0;
        for pickle in [plain.end(), parameter.end(), nested] {
            let checkpoint = open(&stored(&pickle, &[("0", &twelve())])).expect("a checkpoint");
            let shape: Vec<usize> = shape.iter().map(|dim| *dim as usize).collect();
            assert_eq!(checkpoint.shape("x"), Some(shape));
            let tensor = checkpoint.tensor("x").expect("a tensor").tensor;
            assert_eq!((tensor.dtype, tensor.to_f32().as_slice()), (DType::F32, expected));
            assert!(checkpoint.shape("y").is_none() && checkpoint.tensor("y").is_err());
        }
    }
}

#[test]
fn what_is_no_state_dictionary_is_refused() {
    let run = Pickle::new().global("os", "system").raw(b"(").text("true").raw(b"tR").end();
    let deep = [&[0x80, 2, b')'][..], &vec![0x85; 1_000_000], b"."].concat();
    let cases: [(Vec<u8>, &str); 9] = [
        (run, "names `os.system`"),
        (deep, "no dictionary of tensors"),
        (b"\x80\x02N.".to_vec(), "no dictionary of tensors"),
        (b"\x80\x02}.".to_vec(), "no dictionary of tensors"),
        (b"\x80\x02h\x05.".to_vec(), "a value that wasn't kept"),
        (b"\x80\x02R.".to_vec(), "a value is missing"),
        (b"\x80\x02}(K\x01".to_vec(), "it ends early"),
        (b"\x80\x02ios\nsystem\n.".to_vec(), "the operation 0x69"),
        (b"\x80\x01.".to_vec(), "protocol 1"),
    ];
    for (pickle, expected) in cases {
        let refused = open(&stored(&pickle, &[])).err().expect("an error");
        assert!(refused.contains(expected), "{expected}: {refused}");
    }
    let good = Pickle::new().text("x").tensor(STORAGE, 0, &[12], &[1]).end();
    let deflated = archive(&good, &[("0", &twelve())], CompressionMethod::Deflated);
    for (bytes, expected) in
        [(&b"\x80\x02\x8a\x0a"[..], "before 1.6"), (&deflated, "is compressed")]
    {
        let refused = open(bytes).err().expect("an error");
        assert!(refused.contains(expected), "{expected}: {refused}");
    }
}

#[test]
fn tensors_outside_of_their_storage_are_refused() {
    let cases: [(Storage<'_>, View<'_>, &str); 9] = [
        (STORAGE, (1, &[12], &[1]), "isn't inside"),
        (STORAGE, (0, &[2, 2], &[11, 1]), "isn't inside"),
        (STORAGE, (0, &[i64::MAX, i64::MAX], &[1, 1]), "isn't inside"),
        (STORAGE, (0, &[3, 3], &[i64::MAX, i64::MAX]), "isn't inside"),
        // Larger than what it repeats.
        (STORAGE, (0, &[1_000_000_000_000], &[0]), "isn't inside"),
        (STORAGE, (0, &[12], &[1, 1]), "isn't inside"),
        (("FloatStorage", "0", 13), (0, &[13], &[1]), "48 bytes for 13 elements"),
        (("FloatStorage", "7", 12), (0, &[12], &[1]), "storage `7` is missing"),
        (("LongStorage", "0", 6), (0, &[6], &[1]), "it is a LongStorage"),
    ];
    for (storage, (offset, shape, strides), expected) in cases {
        let pickle = Pickle::new().text("x").tensor(storage, offset, shape, strides).end();
        let checkpoint = open(&stored(&pickle, &[("0", &twelve())])).expect("a checkpoint");
        let refused = checkpoint.tensor("x").expect_err("an error").to_string();
        assert!(refused.contains("`x`") && refused.contains(expected), "{expected}: {refused}");
    }
    let negative = Pickle::new().text("x").tensor(STORAGE, -1, &[12], &[1]).end();
    let refused = open(&stored(&negative, &[])).err().expect("an error");
    assert!(refused.contains("sizes that aren't numbers from 0 on"), "{refused}");
}

#[test]
fn damaged_checkpoints_end_in_a_value_or_an_error() {
    let pickle = Pickle::new().text("x").tensor(STORAGE, 1, &[2, 3], &[1, 2]);
    let pickle = pickle.text("y").tensor(("BFloat16Storage", "1", 4), 0, &[4], &[1]).end();
    let whole = stored(&pickle, &[("0", &twelve()), ("1", &[0, 63, 0, 64, 0, 65, 0, 66])]);
    let mut random = Random(0x1234_5678_9abc_def1);
    let mut below = |limit: usize| {
        random.next();
        (random.0 >> 11) as usize % limit
    };
    let mut opened = 0;
    for case in 0..6000 {
        let mut damaged = if case % 2 == 0 { pickle.clone() } else { whole.clone() };
        for _ in 0..1 + below(4) {
            let at = below(damaged.len());
            damaged[at] = below(256) as u8;
        }
        if case % 7 == 0 {
            damaged.truncate(below(damaged.len()));
        }
        if case % 2 == 0 {
            damaged = stored(&damaged, &[("0", &twelve())]);
        }
        if let Ok(checkpoint) = open(&damaged) {
            opened += 1;
            for name in ["x", "y"] {
                let _ = checkpoint.tensor(name);
            }
        }
    }
    assert!(opened > 100, "{opened}");
}
