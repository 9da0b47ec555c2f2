use std::io::Cursor;
use std::path::{Path, PathBuf};

use super::images::IMAGES;
use super::npy::{NpyError, read_npy, read_npz, write_npy, write_npz};
use super::*;

const NUMPY: &[u8] = include_bytes!("testdata/numpy.npz");
const NUMPY_COMPRESSED: &[u8] = include_bytes!("testdata/numpy_compressed.npz");

/// A folder of its own for a test, removed at the end.
struct Folder(PathBuf);

impl Folder {
    fn new(test: &str) -> Folder {
        let path = std::env::temp_dir().join(format!("whit-cli-{test}-{}", std::process::id()));
        let _ = std::fs::remove_dir_all(&path);
        std::fs::create_dir_all(&path).unwrap();
        Folder(path)
    }

    fn path(&self, name: &str) -> PathBuf {
        self.0.join(name)
    }
}

impl Drop for Folder {
    fn drop(&mut self) {
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn u8s(shape: &[usize], values: &[u8]) -> Array {
    Array { shape: shape.to_vec(), data: ArrayData::U8(values.to_vec()) }
}

/// Expected elements: testdata/make.py.
#[test]
fn reads_what_numpy_writes() {
    for bytes in [NUMPY, NUMPY_COMPRESSED] {
        let arrays = read_npz(Cursor::new(bytes)).unwrap();
        let quarters: Vec<f32> = (0..6).map(|i| i as f32 / 4.0).collect();
        let column_major = ArrayData::I16((0..24).collect());
        for (name, shape, data) in [
            ("f16", vec![2, 1], ArrayData::F32(vec![1.5, -0.25])),
            ("f32", vec![2, 3], ArrayData::F32(quarters.clone())),
            ("f64", vec![2, 3], ArrayData::F32(quarters)),
            ("fortran", vec![2, 3, 4], column_major),
            ("big_endian", vec![2, 3], ArrayData::I32((0..6).collect())),
            ("i8", vec![2, 3], ArrayData::I8((-3..3).collect())),
            ("u8", vec![2, 3], ArrayData::U8((250..=255).collect())),
            ("i16", vec![2, 3], ArrayData::I16((0..6).map(|i| i * -1000).collect())),
            ("u16", vec![2, 3], ArrayData::I32((65530..65536).collect())),
            ("i64", vec![2, 3], ArrayData::I64((0..6).map(|i| i << 40).collect())),
            ("u32", vec![2, 3], ArrayData::I64((4294967290..4294967296).collect())),
            ("bool", vec![2, 3], ArrayData::Bool((0..6).map(|i| i % 2 == 1).collect())),
            ("vector", vec![2], ArrayData::U8(vec![1, 2])),
            ("labels", vec![2], ArrayData::I64(vec![1, 0])),
        ] {
            assert_eq!(arrays[name], Array { shape, data }, "{name}");
        }
    }
}

#[test]
fn writes_what_it_reads() {
    let arrays = read_npz(Cursor::new(NUMPY)).unwrap();
    let mut file = Cursor::new(Vec::new());
    write_npz(&mut file, &arrays).unwrap();
    assert_eq!(read_npz(file).unwrap(), arrays);
    for array in
        [Array::from_f32([], vec![2.5]), Array::from_f32([3], vec![1.0; 3]), u8s(&[1, 2], &[7, 8])]
    {
        let mut bytes = Vec::new();
        write_npy(&mut bytes, &array).unwrap();
        let header_bytes = 10 + usize::from(u16::from_le_bytes([bytes[8], bytes[9]]));
        assert_eq!(header_bytes % 64, 0);
        assert_eq!(read_npy(&bytes[..], bytes.len() as u64).unwrap(), array);
    }
}

fn npy(header: &str, elements: &[u8]) -> Vec<u8> {
    let mut bytes = b"\x93NUMPY\x01\x00".to_vec();
    bytes.extend((header.len() as u16).to_le_bytes());
    bytes.extend(header.as_bytes());
    bytes.extend(elements);
    bytes
}

fn npy_of_shape(shape: &str) -> Vec<u8> {
    npy(&format!("{{'descr': '|u1', 'fortran_order': False, 'shape': {shape}, }}"), &[0; 6])
}

/// Memory follows the bytes that exist, so none of these may take any.
#[test]
fn hostile_arrays_are_refused() {
    let parens = "(".repeat(60_000);
    let axes = format!("({})", "1,".repeat(65));
    let huge_header = b"\x93NUMPY\x02\x00\xff\xff\xff\xff{'descr'".to_vec();
    for (bytes, error) in [
        (vec![], "not a .npy array: the magic bytes are missing"),
        (b"\x93NUMPZ\x01\x00\x00\x00".to_vec(), "not a .npy array: the magic bytes are missing"),
        (b"\x93NUMPY\x09\x01\x00\x00".to_vec(), "format version 9.1 is not known"),
        (b"\x93NUMPY\x01\x00\xff\x00{".to_vec(), "the header is damaged: the file ends in it"),
        (huge_header, "the header is damaged: it is longer than 64 KiB"),
        (npy(&parens, &[]), "the header is damaged: no dict"),
        (
            npy("{'descr': '|u1', 'shape': (6,)}", &[0; 6]),
            "the header is damaged: descr, fortran_order or shape is missing",
        ),
        (npy("{'descr': '|u1' 'shape': (6,)}", &[0; 6]), "the header is damaged: no `,`"),
        (npy("{'a': 1}", &[]), "the header is damaged: it has an unknown key"),
        (npy("{é", &[]), "the header is damaged: a string is missing"),
        (npy_of_shape("(-6,)"), "the header is damaged: the shape has an axis that is no size"),
        (npy_of_shape("(6"), "the header is damaged: the shape is no tuple"),
        (npy_of_shape(&axes), "the header is damaged: the shape has more than 64 axes"),
        (
            npy_of_shape("(4294967296, 4294967296, 4)"),
            "the header is damaged: the shape's product is too large",
        ),
        (
            npy_of_shape("(1099511627776,)"),
            "the header declares 1099511627776 bytes of elements, the file has 6",
        ),
        (npy_of_shape("(7,)"), "the header declares 7 bytes of elements, the file has 6"),
        (npy_of_shape("(5,)"), "the header declares 5 bytes of elements, the file has 6"),
        (
            npy(
                "{'descr': '<f4', 'fortran_order': False, 'shape': (4611686018427387904, 2), }",
                &[0; 6],
            ),
            "the header is damaged: the shape's product is too large",
        ),
        (
            npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,), }", &[0; 6]),
            "elements of type `|O` are not supported; save it as float32, float16, int8 to int64, uint8 or bool",
        ),
        (
            npy("{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }", &[0; 4]),
            "elements of type `a record with named fields` are not supported; save it as float32, float16, \
             int8 to int64, uint8 or bool",
        ),
        (
            npy("{'descr': '<u8', 'fortran_order': False, 'shape': (1,), }", &[255; 8]),
            "a value is above the largest int64",
        ),
    ] {
        assert_eq!(read_npy(&bytes[..], bytes.len() as u64).unwrap_err().to_string(), error);
    }
    // A source that ends before the size it was announced with.
    let short = npy_of_shape("(6,)");
    let read = read_npy(&short[..short.len() - 2], short.len() as u64);
    assert!(matches!(read, Err(NpyError::Length { declared: 6, actual: 0 })));
}

/// Every truncation and every changed byte of an archive gives an array or an error.
#[test]
fn damaged_archives_do_not_panic() {
    for length in (0..NUMPY.len()).step_by(7) {
        assert!(read_npz(Cursor::new(&NUMPY[..length])).is_err());
    }
    for at in 0..NUMPY_COMPRESSED.len() {
        let mut bytes = NUMPY_COMPRESSED.to_vec();
        bytes[at] ^= 0xff;
        let _ = read_npz(Cursor::new(bytes));
    }
}

#[test]
fn zip_bombs_are_refused() {
    use std::io::Write;
    // 4 MB of zeros in 4 KB behind a header that declares six elements.
    let mut file = Cursor::new(Vec::new());
    let mut archive = zip::ZipWriter::new(&mut file);
    archive.start_file("x.npy", zip::write::SimpleFileOptions::default()).unwrap();
    archive.write_all(&npy_of_shape("(6,)")).unwrap();
    archive.write_all(&vec![0; 4 << 20]).unwrap();
    archive.finish().unwrap();
    let error = read_npz(Cursor::new(file.get_ref())).unwrap_err();
    assert_eq!(
        error.to_string(),
        "array `x`: the header declares 6 bytes of elements, the file has 4194310"
    );
    // The same with the directory and the local header saying that it unpacks to 1 TB.
    let mut bytes = file.into_inner();
    let size = ((4u32 << 20) + npy_of_shape("(6,)").len() as u32).to_le_bytes();
    let mut replaced = 0;
    for at in 0..bytes.len() - 4 {
        if bytes[at..at + 4] == size {
            bytes[at..at + 4].copy_from_slice(&0xfff0_0000u32.to_le_bytes());
            replaced += 1;
        }
    }
    assert!(replaced > 0);
    assert!(read_npz(Cursor::new(bytes)).is_err());
}

fn save(path: &Path, arrays: &[(&str, Array)]) {
    let arrays = arrays.iter().map(|(n, a)| (n.to_string(), a.clone())).collect();
    write_npz(File::create(path).unwrap(), &arrays).unwrap();
}

#[test]
fn opens_archives_arrays_and_folders() {
    let folder = Folder::new("open");
    let (x, labels) = (u8s(&[2, 3], &[0, 1, 2, 3, 4, 5]), u8s(&[2], &[1, 0]));
    save(&folder.path("d.npz"), &[("x", x.clone()), ("labels", labels.clone())]);
    std::fs::create_dir(folder.path("arrays")).unwrap();
    write_npy_file(&folder.path("arrays/x.npy"), &x).unwrap();
    write_npy_file(&folder.path("arrays/labels.npy"), &labels).unwrap();
    for name in ["d.npz", "arrays"] {
        let data = Dataset::open(&folder.path(name), None).unwrap();
        assert_eq!((data.samples(), data.arrays["x"].in_memory()), (2, Some(&x)), "{name}");
        assert_eq!(data.class_labels(2).unwrap(), [1, 0]);
        assert_eq!(data.targets().unwrap(), [1.0, 0.0]);
        assert_eq!(data.arrays["x"].sample_f32(1).unwrap(), [3.0, 4.0, 5.0]);
        assert_eq!(data.labels.as_ref(), Some(&labels));
    }
    let data = Dataset::open(&folder.path("arrays/x.npy"), None).unwrap();
    assert_eq!((data.arrays["x"].in_memory(), data.labels.is_none()), (Some(&x), true));
    assert!(matches!(data.class_labels(2), Err(DataError::NoLabels(_))));
}

#[test]
fn refusals_name_the_file_and_the_remedy() {
    let folder = Folder::new("refuse");
    let open = |name: &str| Dataset::open(&folder.path(name), None).unwrap_err().to_string();
    let root = folder.0.display().to_string();
    std::fs::create_dir(folder.path("empty")).unwrap();
    std::fs::create_dir(folder.path("text")).unwrap();
    std::fs::write(folder.path("text/a.txt"), "hello").unwrap();
    std::fs::write(folder.path("bad.npz"), "hello").unwrap();
    std::fs::write(folder.path("bad.npy"), "hello").unwrap();
    let x = u8s(&[2, 3], &[0; 6]);
    save(&folder.path("only-labels.npz"), &[("labels", u8s(&[2], &[0, 1]))]);
    save(&folder.path("zero.npz"), &[("x", u8s(&[0, 3], &[]))]);
    save(&folder.path("uneven.npz"), &[("x", x.clone()), ("y", u8s(&[3], &[0; 3]))]);
    save(&folder.path("labels.npz"), &[("x", x), ("labels", u8s(&[3], &[0; 3]))]);
    for (name, error) in [
        ("none.npz", format!("{root}/none.npz: no such file or folder")),
        ("empty", format!("{root}/empty: no samples")),
        (
            "text",
            format!(
                "{root}/text: neither an .npz, a .npy, a folder of .npy files nor a folder of images by class"
            ),
        ),
        ("bad.npy", format!("{root}/bad.npy: not a .npy array: the magic bytes are missing")),
        ("only-labels.npz", format!("{root}/only-labels.npz: no samples")),
        ("zero.npz", format!("{root}/zero.npz: no samples")),
        ("uneven.npz", "array `y` has 3 samples, `x` has 2".to_owned()),
        ("labels.npz", "array `labels` has 3 samples, `x` has 2".to_owned()),
    ] {
        assert_eq!(open(name), error);
    }
    assert!(open("bad.npz").starts_with(&format!("{root}/bad.npz: not a .npz archive: ")));
}

#[test]
fn labels_are_checked() {
    let data = |labels: Array| {
        let n = labels.samples();
        let arrays =
            [("x".to_owned(), Array::from_f32([n], vec![0.0; n])), (LABELS.to_owned(), labels)];
        Dataset::new(Path::new("d.npz"), arrays.into()).unwrap()
    };
    let error = |labels| data(labels).class_labels(3).unwrap_err().to_string();
    assert_eq!(data(Array::from_f32([2, 1], vec![2.0, 0.0])).class_labels(3).unwrap(), [2, 0]);
    assert_eq!(
        error(u8s(&[2], &[0, 3])),
        "label 3 of sample 1 is no class index; the model has 3 classes, 0 to 2"
    );
    assert_eq!(
        error(Array::from_f32([1], vec![0.5])),
        "label 0.5 of sample 0 is no class index; the model has 3 classes, 0 to 2"
    );
    let negative = Array { shape: vec![1], data: ArrayData::I64(vec![-1]) };
    assert!(error(negative).starts_with("label -1 of sample 0"));
    assert_eq!(
        error(u8s(&[2, 2], &[0; 4])),
        "labels have shape [2, 2]; 2 class indices are wanted"
    );
}

#[test]
fn finds_the_first_value_that_is_not_finite() {
    let x = Array::from_f32([3, 2], vec![0.0, 1.0, 2.0, f32::INFINITY, f32::NAN, 0.0]);
    let arrays = [("a".to_owned(), u8s(&[3], &[0; 3])), ("x".to_owned(), x)];
    let mut data = Dataset::new(Path::new("d.npz"), arrays.into()).unwrap();
    let found = data.first_non_finite().unwrap();
    assert_eq!((found.array.as_str(), found.sample, found.value), ("x", 1, f32::INFINITY));
    data.arrays.remove("x");
    assert_eq!(data.first_non_finite(), None);
}

#[test]
fn images_by_class() {
    let folder = Folder::new("images");
    for class in ["b", "a", "c-empty"] {
        std::fs::create_dir(folder.path(class)).unwrap();
    }
    let rgb = |w, h, f: fn(u32, u32) -> [u8; 3]| {
        image::RgbImage::from_fn(w, h, |x, y| image::Rgb(f(x, y)))
    };
    rgb(2, 2, |x, y| [10 * x as u8, 100 * y as u8, 7]).save(folder.path("a/1.png")).unwrap();
    rgb(4, 4, |_, _| [200, 100, 50]).save(folder.path("b/1.bmp")).unwrap();
    rgb(8, 8, |_, _| [120, 120, 120]).save(folder.path("b/2.JPG")).unwrap();
    std::fs::write(folder.path("b/notes.txt"), "not an image").unwrap();

    let mut spec = ImageSpec { height: 2, width: 2, channels: 3, preprocess: None };
    let data = Dataset::open(&folder.0, Some(&spec)).unwrap();
    assert_eq!(data.class_labels(3).unwrap(), [0, 1, 1]);
    assert_eq!(data.class_names.as_deref().unwrap(), ["a", "b", "c-empty"]);
    let images = &data.arrays[IMAGES];
    assert_eq!(images.shape(), [3, 2, 2, 3]);
    assert_eq!(
        images.sample_f32(0).unwrap(),
        [0., 0., 7., 10., 0., 7., 0., 100., 7., 10., 100., 7.]
    );
    assert_eq!(
        images.sample_f32(1).unwrap(),
        [200.0, 100.0, 50.0].repeat(4),
        "an even colour stays when resized"
    );
    assert!(
        images.sample_f32(2).unwrap().iter().all(|p| (p - 120.0).abs() <= 2.0),
        "JPEG is lossy"
    );

    spec.preprocess = Some(Preprocess { scale: 0.5, mean: vec![1.0, 2.0, 3.0], std: vec![2.0] });
    let data = Dataset::open(&folder.0, Some(&spec)).unwrap();
    assert_eq!(data.arrays[IMAGES].sample_f32(1).unwrap()[..3], [49.5, 24.0, 11.0]);

    (spec.channels, spec.preprocess) = (1, None);
    let data = Dataset::open(&folder.0, Some(&spec)).unwrap();
    assert_eq!(data.arrays[IMAGES].shape(), [3, 2, 2, 1]);
    // BT.709: 0.2126 · 200 + 0.7152 · 100 + 0.0722 · 50 = 117.65, truncated or rounded.
    let luma = data.arrays[IMAGES].sample_f32(1).unwrap()[0];
    assert!((117.0..=118.0).contains(&luma), "{luma}");

    let lazy = Dataset::open_within(&folder.0, Some(&spec), 0).unwrap();
    assert!(lazy.arrays[IMAGES].in_memory().is_none());
    assert_eq!(lazy.arrays[IMAGES].shape(), [3, 2, 2, 1]);
    for sample in [2, 0, 1] {
        let of = |data: &Dataset| data.arrays[IMAGES].sample_f32(sample).unwrap();
        assert_eq!(of(&lazy), of(&data));
    }

    spec.channels = 4;
    assert_eq!(
        Dataset::open(&folder.0, Some(&spec)).unwrap_err().to_string(),
        "images have 1 or 3 channels; the model takes 4"
    );
    assert!(matches!(Dataset::open(&folder.0, None), Err(DataError::NotAnImageModel(_))));
    std::fs::write(folder.path("a/broken.png"), "no image").unwrap();
    spec.channels = 3;
    let error = Dataset::open(&folder.0, Some(&spec)).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}/a/broken.png: ", folder.0.display())), "{error}");
    let lazy = Dataset::open_within(&folder.0, Some(&spec), 0).unwrap();
    let error = lazy.arrays[IMAGES].sample_f32(1).unwrap_err().to_string();
    assert!(error.starts_with(&format!("{}/a/broken.png: ", folder.0.display())), "{error}");
}

/// Samples read one at a time are those of an array in memory, in any order, wherever they come from.
#[test]
fn samples_are_read_from_files() {
    let folder = Folder::new("stream");
    let mut floats: Vec<f32> = (0..7 * 5).map(|i| i as f32 / 4.0).collect();
    floats[33] = f32::NAN;
    let arrays = BTreeMap::from([
        ("a".to_owned(), Array::from_f32([7, 5], floats)),
        ("b".to_owned(), Array { shape: vec![7, 2, 1], data: ArrayData::I64((-7..7).collect()) }),
        ("c".to_owned(), u8s(&[7], &[3, 1, 4, 1, 5, 9, 2])),
        (LABELS.to_owned(), u8s(&[7], &[0, 1, 2, 3, 4, 5, 6])),
    ]);
    write_npz(File::create(folder.path("compressed.npz")).unwrap(), &arrays).unwrap();
    let mut stored = zip::ZipWriter::new(File::create(folder.path("stored.npz")).unwrap());
    std::fs::create_dir(folder.path("folder")).unwrap();
    for (name, array) in &arrays {
        let options = zip::write::SimpleFileOptions::default()
            .compression_method(zip::CompressionMethod::Stored);
        stored.start_file(format!("{name}.npy"), options).unwrap();
        write_npy(&mut stored, array).unwrap();
        write_npy_file(&folder.path(&format!("folder/{name}.npy")), array).unwrap();
    }
    stored.finish().unwrap();
    for name in ["compressed.npz", "stored.npz", "folder"] {
        let mut data = Dataset::open_within(&folder.path(name), None, 6).unwrap();
        assert_eq!((data.samples(), data.labels.as_ref()), (7, arrays.get(LABELS)), "{name}");
        for (array, expected) in arrays.iter().filter(|(array, _)| *array != LABELS) {
            let series = &data.arrays[array];
            assert!(series.in_memory().is_none(), "{name}: {array}");
            assert_eq!(series.shape(), expected.shape);
            assert_eq!(series.type_name(), expected.data.type_name());
            for sample in [6, 0, 3, 2, 5, 1, 4] {
                let bits =
                    |values: Vec<f32>| values.iter().map(|v| v.to_bits()).collect::<Vec<_>>();
                assert_eq!(
                    bits(series.sample_f32(sample).unwrap()),
                    bits(expected.sample_f32(sample))
                );
                assert_eq!(series.sample_i64(sample).unwrap(), expected.sample_i64(sample));
            }
        }
        data.truncate(2);
        assert_eq!((data.samples(), data.labels.as_ref().map(Array::samples)), (2, Some(2)));
    }
    // A file that shrinks meanwhile, and one that is shorter than it says.
    let path = folder.path("folder/a.npy");
    let bytes = std::fs::read(&path).unwrap();
    let data = Dataset::open_within(&path, None, 6).unwrap();
    std::fs::write(&path, &bytes[..bytes.len() - 4]).unwrap();
    let error = data.arrays["a"].sample_f32(6).unwrap_err().to_string();
    assert!(error.contains("sample 6") && error.contains("shorter"), "{error}");
    let error = Dataset::open_within(&path, None, 6).unwrap_err().to_string();
    assert!(
        error.contains("the header declares 140 bytes of elements, the file has 136"),
        "{error}"
    );
}

/// The reference models' data sets, where the shared folder is there.
#[test]
fn opens_real_data() {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../shared/models/mlperf-tiny/kws");
    let Ok(data) = Dataset::open(&folder.join("eval.npz"), None) else {
        println!("skipped: {} is not there", folder.display());
        return;
    };
    let wants = vec![Extent::Fixed(1), Extent::Fixed(49), Extent::Fixed(10)];
    let input = InputSpec { name: "input_1".to_owned(), sample_shape: wants };
    assert_eq!(bind(&data, &[input]).unwrap()[0].array.shape(), [400, 49, 10]);
    assert_eq!((data.class_labels(12).unwrap().len(), data.first_non_finite()), (400, None));
}
