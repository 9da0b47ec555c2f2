//! Finds the array that feeds each input of a model, and refuses shapes that would need reordering.

use super::{DataError, Dataset, Series};

/// The size of an axis: a constant, or any size within bounds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Extent {
    Fixed(usize),
    /// Inclusive bounds of a symbolic dimension.
    Between(usize, usize),
}

/// An input of a model, as the data has to fit it.
#[derive(Clone, Debug)]
pub(crate) struct InputSpec {
    /// Its name in the model.
    pub(crate) name: String,
    /// Its shape without the batch.
    pub(crate) sample_shape: Vec<Extent>,
}

/// The array that feeds one input.
#[derive(Debug)]
pub(crate) struct Binding<'d> {
    /// Name of the array in the data set.
    pub(crate) array_name: &'d str,
    /// The array; its samples have the input's elements in the input's order.
    pub(crate) array: &'d Series,
    /// Something to tell people: the array has another name than the input.
    pub(crate) note: Option<String>,
}

/// One binding per input, in the order of `inputs`.
///
/// An array feeds the input of its name. A model with a single input also takes the only array
/// beside `labels`, whatever its name. Shapes may differ by axes of size 1 and by merging or
/// splitting neighbouring axes, which moves no element.
pub(crate) fn bind<'d>(
    data: &'d Dataset,
    inputs: &[InputSpec],
) -> Result<Vec<Binding<'d>>, DataError> {
    let mut bindings = Vec::with_capacity(inputs.len());
    for input in inputs {
        let only = (inputs.len() == 1 && data.arrays.len() == 1)
            .then(|| data.arrays.iter().next())
            .flatten();
        let (array_name, array, note) = match (data.arrays.get_key_value(&input.name), only) {
            (Some((name, array)), _) => (name, array, None),
            (None, Some((name, array))) => {
                let note = format!("array `{name}` feeds the input `{}`", input.name);
                (name, array, Some(note))
            }
            (None, None) => {
                return Err(DataError::NoArray { name: input.name.clone(), have: data.listing() });
            }
        };
        if let Some(hint) = mismatch(array.sample_shape(), &input.sample_shape) {
            let hint = match hint {
                Mismatch::Other if same_shape(array.shape(), &input.sample_shape) => {
                    "; the first axis must count the samples: add one of size 1".to_owned()
                }
                Mismatch::Other => String::new(),
                Mismatch::ChannelsLast => format!(
                    "; the data is channels-last: convert the model with --input-layout {}=nhwc",
                    input.name
                ),
                Mismatch::ChannelsFirst => {
                    "; the data is channels-first: move its channel axis to the end".to_owned()
                }
            };
            return Err(DataError::Shape {
                input: input.name.clone(),
                wants: shape_text(&input.sample_shape),
                array: array_name.clone(),
                has: format!("{:?}", array.sample_shape()),
                hint,
            });
        }
        bindings.push(Binding { array_name, array, note });
    }
    Ok(bindings)
}

#[derive(Debug, PartialEq)]
enum Mismatch {
    ChannelsLast,
    ChannelsFirst,
    Other,
}

/// Why samples of shape `has` cannot feed an input of shape `wants`, if they cannot.
fn mismatch(has: &[usize], wants: &[Extent]) -> Option<Mismatch> {
    if same_shape(has, wants) || regroups(has, wants) {
        return None;
    }
    let mut rotated = has.to_vec();
    if has.len() >= 2 && has.len() == wants.len() {
        rotated.rotate_right(1);
        if same_shape(&rotated, wants) {
            return Some(Mismatch::ChannelsLast);
        }
        rotated.rotate_left(2);
        if same_shape(&rotated, wants) {
            return Some(Mismatch::ChannelsFirst);
        }
    }
    Some(Mismatch::Other)
}

fn fits(size: usize, extent: Extent) -> bool {
    match extent {
        Extent::Fixed(n) => size == n,
        Extent::Between(min, max) => (min..=max).contains(&size),
    }
}

/// Equal axis by axis.
fn same_shape(has: &[usize], wants: &[Extent]) -> bool {
    has.len() == wants.len() && has.iter().zip(wants).all(|(size, extent)| fits(*size, *extent))
}

/// Equal after removing axes of size 1 and merging or splitting neighbouring axes: each group is
/// one axis on one side and one or more on the other. Symbolic axes match one axis each.
fn regroups(has: &[usize], wants: &[Extent]) -> bool {
    let has: Vec<usize> = has.iter().copied().filter(|n| *n != 1).collect();
    let wants: Vec<Extent> = wants.iter().copied().filter(|e| *e != Extent::Fixed(1)).collect();
    let (mut h, mut w) = (0, 0);
    while h < has.len() && w < wants.len() {
        let Extent::Fixed(want) = wants[w] else {
            if !fits(has[h], wants[w]) {
                return false;
            }
            (h, w) = (h + 1, w + 1);
            continue;
        };
        let (mut left, mut right) = (has[h], want);
        let (first_h, first_w) = (h, w);
        (h, w) = (h + 1, w + 1);
        while left != right {
            if left < right && h < has.len() {
                left = left.saturating_mul(has[h]);
                h += 1;
            } else if right < left && w < wants.len() {
                let Extent::Fixed(n) = wants[w] else { return false };
                right = right.saturating_mul(n);
                w += 1;
            } else {
                return false;
            }
        }
        if h - first_h > 1 && w - first_w > 1 {
            return false; // [2, 3] and [3, 2] have the same size, not the same order
        }
    }
    h == has.len() && wants[w..].iter().all(|e| fits(1, *e))
}

fn shape_text(shape: &[Extent]) -> String {
    let axes: Vec<String> = shape
        .iter()
        .map(|e| match e {
            Extent::Fixed(n) => n.to_string(),
            Extent::Between(min, max) => format!("{min}..={max}"),
        })
        .collect();
    format!("[{}]", axes.join(", "))
}

#[cfg(test)]
mod tests {
    use super::super::Array;
    use super::*;
    use std::path::Path;

    fn fixed(shape: &[usize]) -> Vec<Extent> {
        shape.iter().map(|n| Extent::Fixed(*n)).collect()
    }

    #[test]
    fn shapes() {
        struct Case {
            has: &'static [usize],
            wants: Vec<Extent>,
            mismatch: Option<Mismatch>,
        }
        let case = |has, wants: &[usize], mismatch| Case { has, wants: fixed(wants), mismatch };
        let seq = |has, mismatch| Case {
            has,
            wants: vec![Extent::Between(1, 512), Extent::Fixed(8)],
            mismatch,
        };
        for c in [
            case(&[49, 10], &[49, 10], None),
            case(&[490], &[49, 10], None),
            case(&[49, 10], &[490], None),
            case(&[49, 10, 1], &[49, 10], None),
            case(&[49, 10], &[1, 49, 10], None),
            case(&[30, 1, 40], &[30, 40], None),
            case(&[8, 8, 1], &[1, 8, 8], None),
            case(&[2, 3, 4, 5], &[6, 20], None),
            case(&[2, 12], &[2, 3, 4], None),
            case(&[], &[1], None),
            case(&[], &[], None),
            case(&[96, 96, 3], &[3, 96, 96], Some(Mismatch::ChannelsLast)),
            case(&[3, 96, 96], &[96, 96, 3], Some(Mismatch::ChannelsFirst)),
            case(&[100, 4], &[4, 100], Some(Mismatch::ChannelsLast)),
            case(&[4, 6], &[6, 4], Some(Mismatch::ChannelsLast)),
            case(&[4, 6], &[3, 8], Some(Mismatch::Other)),
            case(&[49, 9], &[49, 10], Some(Mismatch::Other)),
            case(&[49], &[49, 10], Some(Mismatch::Other)),
            case(&[49, 10, 2], &[49, 10], Some(Mismatch::Other)),
            case(&[], &[10], Some(Mismatch::Other)),
            case(&[0, 10], &[10], Some(Mismatch::Other)),
            seq(&[77, 8], None),
            seq(&[1, 8], None),
            seq(&[77, 2, 4], None),
            seq(&[513, 8], Some(Mismatch::Other)),
            seq(&[616], Some(Mismatch::Other)),
        ] {
            assert_eq!(mismatch(c.has, &c.wants), c.mismatch, "{:?} for {:?}", c.has, c.wants);
        }
    }

    fn dataset(arrays: &[(&str, &[usize])]) -> Dataset {
        let arrays = arrays.iter().map(|(name, shape)| {
            (name.to_string(), Array::from_f32(*shape, vec![0.0; shape.iter().product()]))
        });
        Dataset::new(Path::new("d.npz"), arrays.collect()).unwrap()
    }

    #[test]
    fn names() {
        let input = |name: &str, shape: &[usize]| InputSpec {
            name: name.into(),
            sample_shape: fixed(shape),
        };
        let one = dataset(&[("input_1", &[2, 49, 10])]);
        let bound = bind(&one, &[input("input_1", &[490])]).unwrap();
        assert_eq!((bound[0].array_name, bound[0].note.as_deref()), ("input_1", None));
        let bound = bind(&one, &[input("x", &[490])]).unwrap();
        assert_eq!(bound[0].note.as_deref(), Some("array `input_1` feeds the input `x`"));

        let two = dataset(&[("a", &[2, 3]), ("b", &[2, 4])]);
        let bound = bind(&two, &[input("b", &[4]), input("a", &[3])]).unwrap();
        assert_eq!((bound[0].array_name, bound[1].array_name), ("b", "a"));
        for inputs in [vec![input("x", &[3])], vec![input("a", &[3]), input("x", &[3])]] {
            assert_eq!(
                bind(&two, &inputs).unwrap_err().to_string(),
                "no array named `x`; the data has `a` float32 [2, 3], `b` float32 [2, 4]"
            );
        }
    }

    #[test]
    fn shape_errors_say_what_to_do() {
        let input = InputSpec { name: "image".into(), sample_shape: fixed(&[3, 96, 96]) };
        assert_eq!(
            bind(&dataset(&[("image", &[2, 96, 96, 3])]), std::slice::from_ref(&input))
                .unwrap_err()
                .to_string(),
            "input `image` takes samples of shape [3, 96, 96], array `image` has [96, 96, 3]; \
             the data is channels-last: convert the model with --input-layout image=nhwc"
        );
        assert_eq!(
            bind(&dataset(&[("image", &[3, 96, 96])]), &[input]).unwrap_err().to_string(),
            "input `image` takes samples of shape [3, 96, 96], array `image` has [96, 96]; \
             the first axis must count the samples: add one of size 1"
        );
    }
}
