//! Reads a folder of images with one subfolder a class as one array [N, H, W, C] and labels.

use std::path::{Path, PathBuf};

use image::imageops::FilterType;

use super::array::{Array, ArrayData};
use super::{DataError, Dataset, sorted_entries};

const EXTENSIONS: [&str; 4] = ["png", "jpg", "jpeg", "bmp"];

/// The name of the array that images become.
pub(super) const IMAGES: &str = "images";

/// What images are made into before a model sees them.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct ImageSpec {
    /// Rows.
    pub(crate) height: usize,
    /// Columns.
    pub(crate) width: usize,
    /// 1 for gray (ITU-R BT.709 luma), 3 for RGB.
    pub(crate) channels: usize,
    /// `None` leaves pixels at 0..255.
    pub(crate) preprocess: Option<Preprocess>,
}

/// `(pixel × scale − mean[c]) / std[c]`, pixel in 0..255.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Preprocess {
    /// Factor applied first; 1/255 for models trained on 0..1.
    pub(crate) scale: f32,
    /// One value, or one per channel.
    pub(crate) mean: Vec<f32>,
    /// One value, or one per channel; none is 0.
    pub(crate) std: Vec<f32>,
}

/// Images of every subfolder of `folder`, classes in the order of the sorted subfolder names.
pub(super) fn read_folder(
    folder: &Path,
    spec: &ImageSpec,
    memory_bytes: u64,
) -> Result<Dataset, DataError> {
    if let Some(p) = &spec.preprocess {
        let fits = |values: &[f32]| values.len() == 1 || values.len() == spec.channels;
        if !fits(&p.mean) || !fits(&p.std) || p.std.contains(&0.0) {
            return Err(DataError::Preprocess { channels: spec.channels });
        }
    }
    if !matches!(spec.channels, 1 | 3) {
        return Err(DataError::ImageChannels { channels: spec.channels });
    }
    let (mut files, mut labels, mut class_names) = (Vec::new(), Vec::new(), Vec::new());
    for class in sorted_entries(folder)?.into_iter().filter(|p| p.is_dir()) {
        let index = class_names.len() as i64;
        class_names.push(class.file_name().unwrap_or_default().to_string_lossy().into_owned());
        for path in sorted_entries(&class)?.into_iter().filter(|p| is_image(p)) {
            files.push(path);
            labels.push(index);
        }
    }
    if labels.is_empty() {
        return Err(DataError::Empty { path: folder.to_owned() });
    }
    let images = ImageFiles { files, spec: spec.clone() };
    let bytes = images.shape().iter().fold(4u64, |bytes, axis| bytes.saturating_mul(*axis as u64));
    // Few images are decoded once, many when they are asked for.
    let images = if bytes <= memory_bytes { images.read_all()?.into() } else { images.into() };
    Ok(Dataset {
        path: folder.to_owned(),
        arrays: [(IMAGES.to_owned(), images)].into(),
        labels: Some(Array { shape: vec![labels.len()], data: ArrayData::I64(labels) }),
        class_names: Some(class_names),
    })
}

/// Images that are decoded one by one.
#[derive(Debug)]
pub(super) struct ImageFiles {
    files: Vec<PathBuf>,
    spec: ImageSpec,
}

impl ImageFiles {
    pub(super) fn shape(&self) -> Vec<usize> {
        vec![self.files.len(), self.spec.height, self.spec.width, self.spec.channels]
    }

    /// One image, as an array of one.
    pub(super) fn read(&self, sample: usize) -> Result<Array, DataError> {
        let mut values = Vec::new();
        read_image(&self.files[sample], &self.spec, &mut values)?;
        let shape = [&[1], &self.shape()[1..]].concat();
        Ok(Array::from_f32(shape, values))
    }

    fn read_all(&self) -> Result<Array, DataError> {
        let mut values = Vec::new();
        self.files.iter().try_for_each(|path| read_image(path, &self.spec, &mut values))?;
        Ok(Array::from_f32(self.shape(), values))
    }
}

pub(super) fn is_image(path: &Path) -> bool {
    let extension = path.extension().and_then(|e| e.to_str()).unwrap_or_default();
    path.is_file() && EXTENSIONS.iter().any(|e| extension.eq_ignore_ascii_case(e))
}

fn read_image(path: &PathBuf, spec: &ImageSpec, values: &mut Vec<f32>) -> Result<(), DataError> {
    let failed = |reason: String| DataError::Image { path: path.clone(), reason };
    // `ImageReader` limits what a hostile header can make it allocate (512 MiB).
    let image = image::ImageReader::open(path)
        .and_then(image::ImageReader::with_guessed_format)
        .map_err(|e| failed(e.to_string()))?
        .decode()
        .map_err(|e| failed(e.to_string()))?;
    let too_large = || failed(format!("cannot be resized to {}×{}", spec.height, spec.width));
    let (width, height) = (
        u32::try_from(spec.width).map_err(|_| too_large())?,
        u32::try_from(spec.height).map_err(|_| too_large())?,
    );
    let image = if (image.width(), image.height()) == (width, height) {
        image
    } else {
        image.resize_exact(width, height, FilterType::Triangle)
    };
    let pixels = if spec.channels == 1 {
        image.into_luma8().into_raw()
    } else {
        image.into_rgb8().into_raw()
    };
    match &spec.preprocess {
        None => values.extend(pixels.iter().map(|p| f32::from(*p))),
        Some(p) => values.extend(pixels.iter().enumerate().map(|(i, pixel)| {
            let channel = i % spec.channels;
            let of = |v: &[f32]| if v.len() == 1 { v[0] } else { v[channel] };
            (f32::from(*pixel) * p.scale - of(&p.mean)) / of(&p.std)
        })),
    }
    Ok(())
}
