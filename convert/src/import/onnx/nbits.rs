//! `MatMulNBits`: a product with weights of 4 or 8 bits that are quantized in blocks, as language
//! models are stored.
//!
//! Weights `[N, blocks, bytes of a block]` are packed from the low end; each block along K has a
//! scale and perhaps a zero point, which is 2^(bits − 1) otherwise. The weights become f32 here.

use whit::DType;

use super::builder::{Builder, Outcome};
use super::failure::{Failure, invalid, unsupported};
use super::node::OnnxNode;
use crate::dim::Dim;
use crate::graph::{BinaryKind, ValueId};
use crate::tensor::Tensor;

pub(super) const CONTRIB: &[(&str, super::Importer)] = &[("MatMulNBits", matmul_n_bits)];

struct Packed {
    columns: usize,
    depth: usize,
    bits: usize,
    block: usize,
}

fn size(node: &OnnxNode<'_>, name: &str) -> Result<usize, Failure> {
    let value = node.attributes.optional_int(name)?;
    let value = value.and_then(|v| usize::try_from(v).ok()).filter(|v| (1..=1 << 31).contains(v));
    value.ok_or_else(|| invalid(format!("attribute `{name}` is missing or not positive")))
}

fn matmul_n_bits(b: &mut Builder, node: &OnnxNode<'_>) -> Outcome {
    node.at_most(6)?;
    let packed = Packed {
        columns: size(node, "N")?,
        depth: size(node, "K")?,
        bits: size(node, "bits")?,
        block: size(node, "block_size")?,
    };
    // What it may be computed in; f32 here.
    node.attributes.ignore("accuracy_level");
    if !matches!(packed.bits, 4 | 8) {
        return Err(unsupported(format!("weights of {} bits", packed.bits), "use 4 or 8 bits"));
    }
    if !packed.block.is_power_of_two() || packed.block < 16 {
        return Err(invalid(format!("block_size {}", packed.block)));
    }
    if node.input(4).is_some() {
        return Err(unsupported(
            "weights whose blocks are reordered (g_idx)",
            "quantize without reordering by activation",
        ));
    }
    let x = node.required(0, "A")?;
    let dtype = b.dtype(x);
    if !dtype.is_float() {
        return Err(invalid(format!("an operand of type {dtype}")));
    }
    let weights = packed.weights(b, node)?;
    let x = b.cast(node, "f32", x, DType::F32)?;
    let product = super::importer("", "MatMul").ok_or_else(|| unsupported("MatMul", ""))?;
    let inner = OnnxNode {
        name: node.name.clone(),
        inputs: vec![Some(x), Some(weights)],
        outputs: node.outputs,
        attributes: node.attributes.clone(),
        opset: node.opset,
    };
    let values = product(b, &inner)?;
    let mut y = values.first().copied().ok_or_else(|| invalid("it has no result"))?;
    if let Some(bias) = node.input(5) {
        let bias = b.cast(node, "bias/f32", bias, DType::F32)?;
        if b.shape(bias) != [Dim::from(packed.columns)] {
            return Err(invalid("the bias is not one number per column"));
        }
        y = b.binary(node, "bias", BinaryKind::Add, y, bias)?;
    }
    Ok(vec![b.cast(node, "cast", y, dtype)?])
}

fn constant(
    b: &mut Builder,
    node: &OnnxNode<'_>,
    index: usize,
    what: &str,
) -> Result<std::sync::Arc<Tensor>, Failure> {
    let id = node.required(index, what)?;
    b.tensor(id).ok_or_else(|| {
        unsupported(format!("{what} are computed at run time"), "make them an initializer")
    })
}

impl Packed {
    /// The weights as `[K, N]`.
    fn weights(&self, b: &mut Builder, node: &OnnxNode<'_>) -> Result<ValueId, Failure> {
        let blocks = self.depth.div_ceil(self.block);
        let per_byte = 8 / self.bits;
        let block_bytes = self.block / per_byte;
        let bytes = constant(b, node, 1, "its weights")?;
        let expected = self.columns.checked_mul(blocks).and_then(|n| n.checked_mul(block_bytes));
        if bytes.dtype != DType::U8 || Some(bytes.len()) != expected {
            return Err(invalid(format!(
                "{} weights of {} for {} columns of {blocks} blocks",
                bytes.len(),
                bytes.dtype,
                self.columns
            )));
        }
        // At most 8 times the bytes that are there.
        b.charge(bytes.len().saturating_mul(12))?;
        let scales = constant(b, node, 2, "its scales")?;
        if !scales.dtype.is_float() || scales.len() != self.columns * blocks {
            return Err(invalid(format!("{} scales", scales.len())));
        }
        let scales = scales.to_f32();
        let zeros = match node.input(3) {
            None => None,
            Some(_) => {
                let zeros = constant(b, node, 3, "its zero points")?;
                let row_bytes = (blocks * self.bits).div_ceil(8);
                Some(match (zeros.dtype, zeros.len()) {
                    (DType::U8, len) if len == self.columns * row_bytes => {
                        let byte = |at: usize| zeros.data[at];
                        (0..self.columns * blocks)
                            .map(|at| {
                                let (column, block) = (at / blocks, at % blocks);
                                let byte = byte(column * row_bytes + block / per_byte);
                                f32::from(self.element(byte, block % per_byte))
                            })
                            .collect::<Vec<f32>>()
                    }
                    (dtype, len) if dtype.is_float() && len == scales.len() => zeros.to_f32(),
                    (dtype, len) => {
                        return Err(invalid(format!("{len} zero points of type {dtype}")));
                    }
                })
            }
        };
        let middle = f32::from(1u8 << (self.bits - 1));
        let mut weights = vec![0f32; self.depth * self.columns];
        for column in 0..self.columns {
            for k in 0..self.depth {
                let block = column * blocks + k / self.block;
                let at = k % self.block;
                let byte = bytes.data[block * block_bytes + at / per_byte];
                let zero = zeros.as_ref().map_or(middle, |zeros| zeros[block]);
                weights[k * self.columns + column] =
                    (f32::from(self.element(byte, at % per_byte)) - zero) * scales[block];
            }
        }
        let tensor = Tensor::from_f32([self.depth, self.columns], &weights);
        Ok(b.constant(format!("{}/weights", node.name), tensor))
    }

    /// One of the elements in a byte.
    fn element(&self, byte: u8, index: usize) -> u8 {
        match self.bits {
            4 => byte >> (4 * index) & 15,
            _ => byte,
        }
    }
}
