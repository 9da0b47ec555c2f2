//! What the suites of the integer kernels share: shapes, random data, and the epilogue's oracle.

use super::{ConvGeometry, EpilogueI8, ResidualData, ResidualI8};
use crate::isa::Isa;

/// Shape of a case, in the order (height, width) where there are two.
#[derive(Clone, Copy, Debug)]
pub(super) struct Case {
    pub(super) batch: usize,
    pub(super) input: (usize, usize, usize),
    pub(super) out_c: usize,
    pub(super) kernel: (usize, usize),
    pub(super) stride: (usize, usize),
    pub(super) dilation: (usize, usize),
    /// Top, left, bottom, right.
    pub(super) pad: (usize, usize, usize, usize),
    pub(super) groups: usize,
    /// Elements between rows of the output.
    pub(super) gap: usize,
    /// Elements that slices start behind where their memory does.
    pub(super) offset: usize,
}

pub(super) const UNIT: Case = Case {
    batch: 1,
    input: (1, 1, 1),
    out_c: 1,
    kernel: (1, 1),
    stride: (1, 1),
    dilation: (1, 1),
    pad: (0, 0, 0, 0),
    groups: 1,
    gap: 0,
    offset: 0,
};

impl Case {
    /// With any gap and offset.
    pub(super) fn somewhere(self, random: &mut Random) -> Case {
        Case { gap: random.pick(&[0, 0, 5]), offset: random.pick(&[0, 1, 3]), ..self }
    }

    pub(super) fn geometry(&self) -> ConvGeometry {
        let out = |len: usize, pad: usize, kernel: usize, dilation: usize, stride: usize| {
            (len + pad).checked_sub((kernel - 1) * dilation + 1).map_or(0, |last| last / stride + 1)
        };
        let (in_h, in_w, in_c) = self.input;
        let (top, left, bottom, right) = self.pad;
        ConvGeometry {
            batch: self.batch,
            in_h,
            in_w,
            in_c,
            out_h: out(in_h, top + bottom, self.kernel.0, self.dilation.0, self.stride.0),
            out_w: out(in_w, left + right, self.kernel.1, self.dilation.1, self.stride.1),
            out_c: self.out_c,
            kernel_h: self.kernel.0,
            kernel_w: self.kernel.1,
            stride_h: self.stride.0,
            stride_w: self.stride.1,
            pad_top: top,
            pad_left: left,
            dilation_h: self.dilation.0,
            dilation_w: self.dilation.1,
            groups: self.groups,
        }
    }
}

/// Whether the longest suites run fewer cases: tests for AArch64 most often run in an emulator, and take minutes there.
pub(super) const EMULATED: bool = cfg!(target_arch = "aarch64");

/// Instruction sets of this CPU with what `select` gives them, but for those that are given the kernel of the one before.
pub(super) fn distinct<K: Copy + PartialEq>(
    select: impl Fn(Isa) -> K,
) -> impl Iterator<Item = (Isa, K)> {
    let mut last = None;
    Isa::available()
        .map(move |isa| (isa, select(isa)))
        .filter(move |(_, kernel)| last.replace(*kernel) != Some(*kernel))
}

/// Xorshift: Marsaglia, "Xorshift RNGs", 2003.
pub(super) struct Random(pub(super) u64);

impl Random {
    pub(super) fn next(&mut self) -> u64 {
        self.0 ^= self.0 << 13;
        self.0 ^= self.0 >> 7;
        self.0 ^= self.0 << 17;
        self.0
    }

    pub(super) fn below(&mut self, bound: usize) -> usize {
        (self.next() >> 16) as usize % bound
    }

    pub(super) fn pick<T: Copy>(&mut self, values: &[T]) -> T {
        values[self.below(values.len())]
    }

    pub(super) fn i8s(&mut self, len: usize, fill: Fill) -> Vec<i8> {
        let one = |random: &mut Random| match fill {
            Fill::Any => random.next() as u8 as i8,
            Fill::Extremes => random.pick(&[-128, 127]),
            Fill::Lowest => -128,
        };
        (0..len).map(|_| one(self)).collect()
    }
}

/// A copy of what a kernel reads. If `offset` is 0, on Unix it lies at the end of readable memory, so that a kernel that reads on dies; else
/// it begins `offset` elements behind where its memory does, and ends where that ends.
pub(super) fn placed<T: Copy + Default>(values: &[T], offset: usize) -> Placed<T> {
    #[cfg(all(unix, feature = "std", not(miri)))]
    if offset == 0 {
        return Placed::AtEnd(guarded::AtEnd::new(values));
    }
    let before = core::iter::repeat_n(T::default(), offset);
    Placed::Somewhere(before.chain(values.iter().copied()).collect())
}

/// What [`placed`] makes.
pub(super) enum Placed<T: Copy> {
    Somewhere(Vec<T>),
    #[cfg(all(unix, feature = "std", not(miri)))]
    AtEnd(guarded::AtEnd<T>),
}

impl<T: Copy> core::ops::Deref for Placed<T> {
    type Target = [T];

    fn deref(&self) -> &[T] {
        match self {
            Placed::Somewhere(values) => values,
            #[cfg(all(unix, feature = "std", not(miri)))]
            Placed::AtEnd(values) => values.get(),
        }
    }
}

/// Memory with an end.
#[cfg(all(unix, feature = "std", not(miri)))]
mod guarded {
    use core::cell::RefCell;
    use core::marker::PhantomData;
    use core::sync::atomic::{AtomicUsize, Ordering};
    use core::{ptr, slice};

    use memmap2::{MmapMut, MmapOptions};

    /// At least a page of any system.
    const PAGE: usize = 1 << 16;

    thread_local! {
        /// Regions of 2ⁿ pages that nobody has at present: mapping takes longer than a kernel.
        static FREE: RefCell<[Vec<MmapMut>; 16]> = RefCell::default();
    }

    /// A file mapped for one page more than it has: touching that one is a bus error.
    fn region(log2_pages: usize) -> MmapMut {
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        if let Some(free) = FREE.with_borrow_mut(|free| free[log2_pages].pop()) {
            return free;
        }
        let number = COUNT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("whit-guard-{}-{number}", std::process::id()));
        let mut options = std::fs::File::options();
        let file = options.read(true).write(true).create_new(true).open(&path);
        let file = file.expect("a temporary file");
        std::fs::remove_file(&path).expect("its removal");
        let len = PAGE << log2_pages;
        file.set_len(len as u64).expect("its length");
        // SAFETY: nobody else has the file, which has no name.
        unsafe { MmapOptions::new().len(len + PAGE).map_copy(&file) }.expect("a mapping")
    }

    /// A copy at the end of a region.
    pub(in crate::kernels) struct AtEnd<T: Copy> {
        /// There until it is dropped.
        region: Option<MmapMut>,
        log2_pages: usize,
        len: usize,
        of: PhantomData<T>,
    }

    impl<T: Copy> AtEnd<T> {
        pub(super) fn new(values: &[T]) -> AtEnd<T> {
            let bytes = size_of_val(values);
            let log2_pages = bytes.div_ceil(PAGE).max(1).next_power_of_two().ilog2() as usize;
            let mut region = region(log2_pages);
            let start = (PAGE << log2_pages) - bytes;
            // SAFETY: the region has so many bytes in front of its last page, and they are the region's alone.
            unsafe {
                let to = region.as_mut_ptr().add(start);
                ptr::copy_nonoverlapping(values.as_ptr().cast::<u8>(), to, bytes);
            }
            AtEnd { region: Some(region), log2_pages, len: values.len(), of: PhantomData }
        }

        pub(super) fn get(&self) -> &[T] {
            let region = self.region.as_ref().expect("a region until the drop");
            let start = (PAGE << self.log2_pages) - self.len * size_of::<T>();
            // SAFETY: `new` wrote them there; pages and sizes are multiples of any alignment of these types.
            unsafe { slice::from_raw_parts(region.as_ptr().add(start).cast(), self.len) }
        }
    }

    impl<T: Copy> Drop for AtEnd<T> {
        fn drop(&mut self) {
            FREE.with_borrow_mut(|free| free[self.log2_pages].extend(self.region.take()));
        }
    }
}

/// Memory for `len` outputs behind `offset` elements, with some behind them, all of one value; and a look that only
/// the outputs changed.
pub(super) struct Output<T> {
    memory: Vec<T>,
    untouched: T,
    offset: usize,
    len: usize,
}

impl<T: Copy + PartialEq> Output<T> {
    /// More than any vector register.
    const BEHIND: usize = 64;

    pub(super) fn new(len: usize, offset: usize, untouched: T) -> Self {
        Output { memory: vec![untouched; offset + len + Self::BEHIND], untouched, offset, len }
    }

    pub(super) fn get(&mut self) -> &mut [T] {
        &mut self.memory[self.offset..][..self.len]
    }

    /// The outputs, if nothing beside them changed.
    pub(super) fn written(mut self) -> Vec<T> {
        let beside =
            self.memory[..self.offset].iter().chain(&self.memory[self.offset + self.len..]);
        assert!(beside.into_iter().all(|x| *x == self.untouched), "written beside the output");
        self.memory.drain(..self.offset);
        self.memory.truncate(self.len);
        self.memory
    }
}

/// What activations and weights are made of. 16-bit sums that saturate show in the last two.
#[derive(Clone, Copy, Debug)]
pub(super) enum Fill {
    Any,
    Extremes,
    Lowest,
}

/// What is in an output before: gaps between rows must keep it.
pub(super) const UNTOUCHED: i8 = 85;

/// The owner of an [`EpilogueI8`].
pub(super) struct Epilogue {
    pub(super) scale: Placed<f32>,
    /// Elements before the scales and the residual.
    offset: usize,
    zero_point: i32,
    min: i32,
    max: i32,
    pub(super) residual: Option<(Placed<i8>, ResidualI8<'static>)>,
}

impl Epilogue {
    /// For `channels` channels of accumulators that are sums of `k` products.
    pub(super) fn new(
        channels: usize,
        k: usize,
        outputs: usize,
        fill: Fill,
        with_residual: bool,
        random: &mut Random,
    ) -> Self {
        // Accumulators of random products grow with √K, of extremes with K.
        let spread = match fill {
            Fill::Any => 5000.0 * (k as f32).sqrt().max(1.0),
            _ => 16384.0 * k.max(1) as f32,
        };
        let factor = |random: &mut Random| 0.5 + random.below(1000) as f32 / 1000.0;
        let residual = with_residual.then(|| {
            let residual = ResidualI8 {
                data: ResidualData::InOutput,
                scale_conv: factor(random),
                scale_data: factor(random),
                zero_point: random.pick(&[-128, -3, 0, 127]),
                out_zero_point: random.pick(&[-128, 5, 127]),
                min: random.pick(&[-128, -20]),
                max: random.pick(&[60, 127]),
            };
            (placed(&random.i8s(outputs, Fill::Any), 0), residual)
        });
        let scale: Vec<f32> = (0..channels).map(|_| 60.0 / spread * factor(random)).collect();
        Epilogue {
            scale: placed(&scale, 0),
            zero_point: random.pick(&[-128, -7, 0, 127]),
            min: random.pick(&[-128, -30]),
            max: random.pick(&[50, 127]),
            offset: 0,
            residual,
        }
    }

    /// With the arrays `offset` elements behind where their memory begins.
    pub(super) fn placed(mut self, offset: usize) -> Self {
        self.scale = placed(&self.scale, offset);
        if let Some((data, _)) = &mut self.residual {
            *data = placed(data, offset);
        }
        Epilogue { offset, ..self }
    }

    /// With the residual apart from the output.
    pub(super) fn get(&self) -> EpilogueI8<'_> {
        EpilogueI8 {
            scale: &self.scale[self.offset..],
            fixed_point: &[],
            zero_point: self.zero_point,
            min: self.min,
            max: self.max,
            residual: self.residual.as_ref().map(|(data, r)| ResidualI8 {
                data: ResidualData::Apart(&data[self.offset..]),
                ..*r
            }),
        }
    }

    /// With the residual in the output, to which it is copied. Without one, as [`Self::get`].
    pub(super) fn get_in_place(
        &self,
        channels: usize,
        output: &mut [i8],
        output_stride: usize,
    ) -> EpilogueI8<'_> {
        let Some((data, residual)) = &self.residual else { return self.get() };
        for (row, to) in
            data[self.offset..].chunks_exact(channels).zip(output.chunks_mut(output_stride))
        {
            to[..channels].copy_from_slice(row);
        }
        EpilogueI8 { residual: Some(*residual), ..self.get() }
    }

    /// Straight from the formula of [`EpilogueI8`], clamping integers.
    pub(super) fn oracle(&self, acc: i32, channel: usize, index: usize) -> i8 {
        let q = (acc as f32 * self.scale[self.offset + channel]).round_ties_even() as i32;
        let q = q.clamp(self.min - self.zero_point, self.max - self.zero_point);
        let y = match &self.residual {
            None => q + self.zero_point,
            Some((data, r)) => {
                let x = (i32::from(data[self.offset + index]) - r.zero_point) as f32 * r.scale_data;
                let sum = (q as f32 * r.scale_conv + x).round_ties_even() as i32;
                (sum + r.out_zero_point).clamp(r.min, r.max)
            }
        };
        y as i8
    }
}
