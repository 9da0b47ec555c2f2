//! The corpus of shapes that kernels' suites replay before they go random, and the search that finds more.
//!
//! `shapes.txt` has one shape a line: a family, numbers by name (those that aren't there have their least value),
//! and the seed of its data. What a search finds is made as small as it still fails, and appended:
//!
//! ```sh
//! WHIT_SHAPES_SECONDS=60 WHIT_SHAPES_SEED=7 cargo test --release -p whit --lib search_shapes -- --ignored
//! ```

use std::fmt;
use std::io::Write;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::path::Path;
use std::string::{String, ToString};
use std::time::{Duration, Instant};
use std::vec::Vec;

use super::testing::{Case, Random};

/// Every family that has a suite, so that no line of the corpus can belong to none.
const FAMILIES: [&str; 12] = [
    "add_i8",
    "conv_f32",
    "conv_i16",
    "conv_i8",
    "depthwise_f32",
    "depthwise_i16",
    "depthwise_i8",
    "elementary",
    "grouped_f32",
    "matmul_f32",
    "pool",
    "softmax",
];

const CORPUS: &str = include_str!("shapes.txt");

/// Most multiply-adds, or elements, of a shape that a search draws: many small ones find more than a few large.
const MOST_WORK: usize = 1 << 19;

/// A number of a shape: its name, and values that it may take, the least first.
pub(super) type Field = (&'static str, &'static [usize]);

/// [`MOST_WORK`] of a replay in an interpreter.
const MOST_INTERPRETED_WORK: usize = 5000;

/// Kernels of one signature.
pub(super) struct Family {
    pub(super) name: &'static str,
    pub(super) fields: &'static [Field],
    /// How long a shape takes, about: multiply-adds or elements.
    pub(super) work: fn(&Shape<'_>) -> usize,
    /// Runs a shape on every instruction set, and panics where one differs.
    pub(super) check: fn(&Shape<'_>),
}

/// Numbers that a family's suite makes a case of.
#[derive(Clone)]
pub(super) struct Shape<'f> {
    family: &'f Family,
    /// One per field.
    values: Vec<usize>,
    /// Of the data.
    pub(super) seed: u64,
}

/// Around the widths of vectors, panels and blocks.
pub(super) const CHANNELS: &[usize] = &[
    1, 2, 3, 4, 5, 7, 8, 9, 12, 15, 16, 17, 20, 24, 28, 31, 32, 33, 40, 47, 48, 49, 63, 64, 65, 96,
    127, 128, 129, 257,
];
/// Lengths of vectors.
pub(super) const LENGTHS: &[usize] = &[
    0, 1, 2, 3, 4, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 63, 64, 65, 127, 128, 129, 255, 1000, 4099,
];
/// Rows and columns of images.
pub(super) const SIZES: &[usize] = &[1, 2, 3, 4, 5, 6, 7, 8, 9, 11, 13, 15, 16, 17, 25, 33, 50];
const KERNELS: &[usize] = &[1, 2, 3, 4, 5, 7];
pub(super) const STRIDES: &[usize] = &[1, 2, 3, 4];
pub(super) const PADS: &[usize] = &[0, 1, 2, 3, 6];
const GAPS: &[usize] = &[0, 1, 3, 5, 16, 61];
/// Elements that every slice starts behind an aligned address.
pub(super) const OFFSETS: &[usize] = &[0, 1, 2, 3, 5, 7];

/// What all convolutions have; channels are those of one group.
pub(super) const CONVOLUTION: &[Field] = &CONVOLUTION_FIELDS;
/// As [`CONVOLUTION`], with what the suites of float kernels vary.
pub(super) const F32_CONVOLUTION: &[Field] = &F32_FIELDS;
/// As [`F32_CONVOLUTION`], with the kind of weights in groups.
pub(super) const GROUPED_CONVOLUTION: &[Field] =
    &with::<21, 2, 23>(F32_FIELDS, [("bits", &[0, 1]), ("group", &[0, 1, 2])]);

const F32_FIELDS: [Field; 21] =
    with(CONVOLUTION_FIELDS, [("f16", &[0, 1]), ("residual", &[0, 1]), ("clamp", &[0, 1, 2])]);

const CONVOLUTION_FIELDS: [Field; 18] = [
    ("batch", &[1, 0, 2, 3]),
    ("in_h", SIZES),
    ("in_w", SIZES),
    ("in_c", CHANNELS),
    ("out_c", CHANNELS),
    ("kernel_h", KERNELS),
    ("kernel_w", KERNELS),
    ("stride_h", STRIDES),
    ("stride_w", STRIDES),
    ("dilation_h", &[1, 2, 3]),
    ("dilation_w", &[1, 2, 3]),
    ("pad_top", PADS),
    ("pad_left", PADS),
    ("pad_bottom", PADS),
    ("pad_right", PADS),
    ("groups", &[1, 2, 3, 4]),
    ("gap", GAPS),
    ("offset", OFFSETS),
];

const fn with<const N: usize, const M: usize, const L: usize>(
    first: [Field; N],
    then: [Field; M],
) -> [Field; L] {
    assert!(N + M == L);
    let mut all = [then[0]; L];
    let mut at = 0;
    while at < L {
        all[at] = if at < N { first[at] } else { then[at - N] };
        at += 1;
    }
    all
}

impl Shape<'_> {
    /// The number called `name`; 0 for those that the family doesn't have.
    pub(super) fn get(&self, name: &str) -> usize {
        let at = self.family.fields.iter().position(|field| field.0 == name);
        at.map_or(0, |at| self.values[at])
    }

    /// The case of a shape with the fields of [`CONVOLUTION`].
    pub(super) fn convolution(&self) -> Case {
        let groups = self.get("groups");
        Case {
            batch: self.get("batch"),
            input: (self.get("in_h"), self.get("in_w"), self.get("in_c") * groups),
            out_c: self.get("out_c") * groups,
            kernel: (self.get("kernel_h"), self.get("kernel_w")),
            stride: (self.get("stride_h"), self.get("stride_w")),
            dilation: (self.get("dilation_h"), self.get("dilation_w")),
            pad: (
                self.get("pad_top"),
                self.get("pad_left"),
                self.get("pad_bottom"),
                self.get("pad_right"),
            ),
            groups,
            gap: self.get("gap"),
            offset: self.get("offset"),
        }
    }

    /// As [`Shape::convolution`], but `in_c` are the channels, each of which is a group.
    pub(super) fn depthwise(&self) -> Case {
        let channels = self.get("in_c");
        let case = self.convolution();
        Case {
            input: (case.input.0, case.input.1, channels),
            out_c: channels,
            groups: channels,
            ..case
        }
    }

    /// Multiply-adds of [`Shape::convolution`].
    pub(super) fn convolution_work(&self) -> usize {
        work(&self.convolution())
    }

    /// Multiply-adds of [`Shape::depthwise`].
    pub(super) fn depthwise_work(&self) -> usize {
        work(&self.depthwise())
    }
}

fn work(case: &Case) -> usize {
    let g = case.geometry();
    g.out_pixels() * g.out_c * g.k() + g.input_len()
}

impl fmt::Display for Shape<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}", self.family.name)?;
        for ((name, values), value) in self.family.fields.iter().zip(&self.values) {
            if *value != values[0] {
                write!(f, " {name}={value}")?;
            }
        }
        write!(f, " seed={}", self.seed)
    }
}

impl Family {
    fn parse(&self, line: &str) -> Result<Shape<'_>, String> {
        let values = self.fields.iter().map(|field| field.1[0]).collect();
        let mut shape = Shape { family: self, values, seed: 1 };
        for word in line.split_whitespace().skip(1) {
            let (name, value) = word.split_once('=').ok_or_else(|| std::format!("{word}: no ="))?;
            let number = value.parse::<u64>().map_err(|error| std::format!("{word}: {error}"))?;
            match self.fields.iter().position(|field| field.0 == name) {
                Some(at) => shape.values[at] = number as usize,
                None if name == "seed" => shape.seed = number,
                None => return Err(std::format!("{word}: {} has no such number", self.name)),
            }
        }
        Ok(shape)
    }

    fn draw(&self, random: &mut Random) -> Shape<'_> {
        let mut shape = Shape { family: self, values: Vec::new(), seed: 1 + random.next() % 1000 };
        // Half of the numbers are the least: shapes that fail differ from the simplest in a few.
        for (_, values) in self.fields {
            let least = random.below(2) == 0;
            shape.values.push(if least { values[0] } else { random.pick(values) });
        }
        shape
    }

    fn fails(&self, shape: &Shape<'_>) -> bool {
        catch_unwind(AssertUnwindSafe(|| (self.check)(shape))).is_err()
    }

    /// A shape that fails and that no smaller value of any one number makes fail.
    fn minimize<'f>(&self, mut shape: Shape<'f>) -> Shape<'f> {
        loop {
            let before = shape.values.clone();
            for (at, (_, values)) in self.fields.iter().enumerate() {
                let now = shape.values[at];
                let smaller = values.iter().copied().take_while(|value| *value != now);
                for value in smaller.chain((now > values[0]).then(|| now.saturating_sub(1))) {
                    let mut other = shape.clone();
                    other.values[at] = value;
                    if self.fails(&other) {
                        shape = other;
                        break;
                    }
                }
            }
            if shape.values == before {
                return shape;
            }
        }
    }

    /// Runs the family's shapes of the corpus.
    pub(super) fn replay(&self) {
        let own = |line: &&str| line.split_whitespace().next() == Some(self.name);
        let mut count = 0;
        for line in CORPUS.lines().filter(own) {
            let shape = self.parse(line).unwrap_or_else(|error| panic!("shapes.txt: {error}"));
            count += 1;
            if cfg!(miri) && (self.work)(&shape) > MOST_INTERPRETED_WORK {
                continue;
            }
            println!("{line}");
            (self.check)(&shape);
        }
        assert!(count > 0, "shapes.txt has none of {}", self.name);
    }

    /// Draws shapes for `WHIT_SHAPES_SECONDS` and appends what fails to the corpus.
    pub(super) fn search(&self) {
        let number = |name: &str, default: u64| {
            std::env::var(name).map_or(default, |value| value.parse().expect(name))
        };
        let time = Duration::from_secs(number("WHIT_SHAPES_SECONDS", 10));
        // Families differ, seeds of 0 don't work.
        let mixed = self.name.bytes().fold(number("WHIT_SHAPES_SEED", 1), |seed, byte| {
            (seed ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3)
        });
        let mut random = Random(mixed | 1);
        let (begin, mut tried) = (Instant::now(), 0);
        while begin.elapsed() < time {
            let shape = self.draw(&mut random);
            if (self.work)(&shape) > MOST_WORK {
                continue;
            }
            tried += 1;
            if self.fails(&shape) {
                let least = self.minimize(shape);
                let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("src/kernels/shapes.txt");
                let mut file =
                    std::fs::OpenOptions::new().append(true).open(&path).expect("the corpus");
                file.write_all((least.to_string() + "\n").as_bytes()).expect("the corpus");
                panic!("after {tried} shapes, appended to {}: {least}", path.display());
            }
        }
        println!("{}: {tried} shapes, none fails", self.name);
    }
}

#[test]
fn every_line_has_a_family() {
    for line in CORPUS.lines().filter(|line| !line.starts_with('#') && !line.is_empty()) {
        let family = line.split_whitespace().next().unwrap_or_default();
        assert!(FAMILIES.contains(&family), "shapes.txt: {line}");
    }
}

/// A kernel that fails from 5 channels and a padding of 2 on: the search ends at exactly these.
#[test]
fn what_fails_is_made_small() {
    let family = Family {
        name: "made up",
        fields: CONVOLUTION,
        work: |shape| shape.get("in_c"),
        check: |shape| assert!(shape.get("in_c") < 5 || shape.get("pad_left") < 2),
    };
    let large = family.parse("- in_h=7 in_c=64 pad_left=6 groups=4 gap=5 seed=9").unwrap();
    let least = family.minimize(large);
    assert_eq!(least.to_string(), "made up in_c=5 pad_left=2 seed=9");
    let again = family.parse("- in_c=5 pad_left=2 seed=9").unwrap();
    assert!(again.values == least.values && again.seed == least.seed);
    for wrong in ["- in_c", "- in_c=-1", "- height=3", "- seed=x"] {
        assert!(family.parse(wrong).is_err(), "{wrong}");
    }
}
