//! Windows over channels-last images of up to three spatial axes: as rows of a matrix (im2col), and depthwise
//! convolution, both with gradients.

use candle_core::{CpuStorage, CustomOp1, CustomOp2, Layout, Result, Shape, Tensor};

use super::kernels::f32s;

/// How windows lie in images. Missing spatial axes are in front, with size 1.
#[derive(Clone, Copy, Debug)]
pub(super) struct Windows {
    pub(super) images: usize,
    pub(super) channels: usize,
    pub(super) size: [usize; 3],
    pub(super) out: [usize; 3],
    pub(super) kernel: [usize; 3],
    pub(super) stride: [usize; 3],
    pub(super) dilation: [usize; 3],
    pub(super) pad: [usize; 3],
}

impl Windows {
    /// Windows in all.
    pub(super) fn rows(&self) -> usize {
        self.images * self.out.iter().product::<usize>()
    }

    /// Pixels per window.
    pub(super) fn taps(&self) -> usize {
        self.kernel.iter().product()
    }

    /// Whether every window is one pixel and the next window the next pixel.
    pub(super) fn is_pixels(&self) -> bool {
        self.kernel == [1; 3] && self.stride == [1; 3] && self.size == self.out
    }

    /// Calls with (window, pixel in the window, pixel of the images) for every pair that isn't padding.
    pub(super) fn each(&self, mut see: impl FnMut(usize, usize, usize)) {
        let place = |axis: usize, out: usize, tap: usize| {
            let at = out * self.stride[axis] + tap * self.dilation[axis];
            at.checked_sub(self.pad[axis]).filter(|at| *at < self.size[axis])
        };
        let [d, h, w] = self.size;
        let mut row = 0;
        for image in 0..self.images {
            for z in 0..self.out[0] {
                for y in 0..self.out[1] {
                    for x in 0..self.out[2] {
                        let mut tap = 0;
                        for kz in 0..self.kernel[0] {
                            let pz = place(0, z, kz);
                            for ky in 0..self.kernel[1] {
                                let py = place(1, y, ky);
                                for kx in 0..self.kernel[2] {
                                    if let (Some(pz), Some(py), Some(px)) =
                                        (pz, py, place(2, x, kx))
                                    {
                                        see(row, tap, ((image * d + pz) * h + py) * w + px);
                                    }
                                    tap += 1;
                                }
                            }
                        }
                        row += 1;
                    }
                }
            }
        }
    }

    /// How many pixels of each window aren't padding.
    pub(super) fn counts(&self) -> Vec<f32> {
        let mut counts = vec![0.0; self.rows()];
        self.each(|row, _, _| counts[row] += 1.0);
        counts
    }

    /// The pixels of every window, `[windows, taps, channels]`; padding holds `fill`.
    pub(super) fn gather(self, x: &Tensor, fill: f32) -> Result<Tensor> {
        x.contiguous()?.apply_op1(Gather { windows: self, fill })
    }

    /// Depthwise convolution: x has as many channels as `weights` `[taps, channels]`; `[windows, channels]`.
    pub(super) fn depthwise(self, x: &Tensor, weights: &Tensor) -> Result<Tensor> {
        x.contiguous()?.apply_op2(&weights.contiguous()?, Depthwise(self))
    }
}

struct Gather {
    windows: Windows,
    fill: f32,
}

impl CustomOp1 for Gather {
    fn name(&self) -> &'static str {
        "gather-windows"
    }

    fn cpu_fwd(&self, x: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let x = f32s(x, layout)?;
        let Windows { channels: c, .. } = self.windows;
        let (rows, taps) = (self.windows.rows(), self.windows.taps());
        let mut y = vec![self.fill; rows * taps * c];
        self.windows.each(|row, tap, pixel| {
            let to = (row * taps + tap) * c;
            y[to..to + c].copy_from_slice(&x[pixel * c..pixel * c + c]);
        });
        Ok((CpuStorage::F32(y), Shape::from((rows, taps, c))))
    }

    fn bwd(&self, x: &Tensor, _: &Tensor, grad: &Tensor) -> Result<Option<Tensor>> {
        let sums = grad.contiguous()?.apply_op1_no_bwd(&Scatter(self.windows))?;
        Ok(Some(sums.reshape(x.shape())?))
    }
}

struct Scatter(Windows);

impl CustomOp1 for Scatter {
    fn name(&self) -> &'static str {
        "scatter-windows"
    }

    fn cpu_fwd(&self, grad: &CpuStorage, layout: &Layout) -> Result<(CpuStorage, Shape)> {
        let grad = f32s(grad, layout)?;
        let (c, taps) = (self.0.channels, self.0.taps());
        let mut sums = vec![0.0; self.0.images * self.0.size.iter().product::<usize>() * c];
        self.0.each(|row, tap, pixel| {
            let from = &grad[(row * taps + tap) * c..][..c];
            let sum = &mut sums[pixel * c..pixel * c + c];
            sum.iter_mut().zip(from).for_each(|(sum, grad)| *sum += grad);
        });
        let len = sums.len();
        Ok((CpuStorage::F32(sums), Shape::from(len)))
    }
}

struct Depthwise(Windows);

/// Which operand of a depthwise convolution a gradient is of.
enum Gradient {
    Input(Windows),
    Weights(Windows),
}

impl CustomOp2 for Depthwise {
    fn name(&self) -> &'static str {
        "depthwise"
    }

    fn cpu_fwd(
        &self,
        x: &CpuStorage,
        x_layout: &Layout,
        w: &CpuStorage,
        w_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (x, w, c) = (f32s(x, x_layout)?, f32s(w, w_layout)?, self.0.channels);
        let mut y = vec![0.0; self.0.rows() * c];
        self.0.each(|row, tap, pixel| {
            let y = &mut y[row * c..row * c + c];
            let (x, w) = (&x[pixel * c..pixel * c + c], &w[tap * c..tap * c + c]);
            y.iter_mut().zip(x).zip(w).for_each(|((y, x), w)| *y += x * w);
        });
        Ok((CpuStorage::F32(y), Shape::from((self.0.rows(), c))))
    }

    fn bwd(
        &self,
        x: &Tensor,
        w: &Tensor,
        _: &Tensor,
        grad: &Tensor,
    ) -> Result<(Option<Tensor>, Option<Tensor>)> {
        let grad = grad.contiguous()?;
        let of_x = x
            .track_op()
            .then(|| grad.apply_op2_no_bwd(w, &Gradient::Input(self.0))?.reshape(x.shape()));
        let of_w = w.track_op().then(|| grad.apply_op2_no_bwd(x, &Gradient::Weights(self.0)));
        Ok((of_x.transpose()?, of_w.transpose()?))
    }
}

impl CustomOp2 for Gradient {
    fn name(&self) -> &'static str {
        "depthwise-gradient"
    }

    fn cpu_fwd(
        &self,
        grad: &CpuStorage,
        grad_layout: &Layout,
        other: &CpuStorage,
        other_layout: &Layout,
    ) -> Result<(CpuStorage, Shape)> {
        let (grad, other) = (f32s(grad, grad_layout)?, f32s(other, other_layout)?);
        let (Gradient::Input(windows) | Gradient::Weights(windows)) = self;
        let c = windows.channels;
        let of_input = matches!(self, Gradient::Input(_));
        let pixels = windows.images * windows.size.iter().product::<usize>();
        let rows = if of_input { pixels } else { windows.taps() };
        let mut sums = vec![0.0; rows * c];
        windows.each(|row, tap, pixel| {
            let (to, from) = if of_input { (pixel, tap) } else { (tap, pixel) };
            let sum = &mut sums[to * c..to * c + c];
            let (grad, other) = (&grad[row * c..row * c + c], &other[from * c..from * c + c]);
            sum.iter_mut()
                .zip(grad)
                .zip(other)
                .for_each(|((sum, grad), other)| *sum += grad * other);
        });
        Ok((CpuStorage::F32(sums), Shape::from((rows, c))))
    }
}
