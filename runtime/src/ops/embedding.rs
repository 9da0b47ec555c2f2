//! Rows of a constant table as floats: what token ids become. The table may be packed as the weights of a layer are, so
//! that a model whose last layer has the same weights keeps them once.

use crate::dtype::DType;
use crate::error::StepErrorKind;
use crate::format::{EmbeddingAttributes, Layout, Op};
use crate::kernels::conv_f32::bf16::{PAIR, index as bf16_index};
use crate::kernels::conv_f32::grouped::{GroupedForm, GroupedWeights};
use crate::kernels::{ConvGeometry, FloatWeights, PANEL_N};
use crate::memory::{Context, typed, typed_mut};
use crate::ops::conv::{check_grouped, float_weights};
use crate::ops::shape::{expect_apart_but, expect_dense, product};
use crate::ops::{Operator, Step, expect_type, no_scratch};
use half::bf16;

/// f32 results; the table is f32, f16 or bf16, dense or in panels, or grouped. Ids are i32 or i64.
pub static EMBEDDING: Operator = Operator {
    op: Op::Embedding,
    dtype: Some(DType::F32),
    check,
    select: |_| run,
    scratch_bytes: no_scratch,
};

const TABLE: usize = 0;
const IDS: usize = 1;

/// The table as a layer with one row of input: K is the size, N the number of rows.
fn geometry(step: &Step<'_>) -> Result<ConvGeometry, StepErrorKind> {
    let table = step.input(TABLE)?;
    let (rows, size) = (table.dim(0), product(&table.dims()[1.min(table.rank())..]));
    let geometry = ConvGeometry::matmul(1, size, rows);
    if table.rank() < 2 || table.elements() == 0 {
        return Err(StepErrorKind::OperandShape(TABLE as u8));
    }
    if geometry.is_bounded() { Ok(geometry) } else { Err(StepErrorKind::TooLarge) }
}

fn check(step: &Step<'_>) -> Result<(), StepErrorKind> {
    step.expect_counts(2, 2)?;
    step.expect_attributes::<EmbeddingAttributes>()?;
    expect_apart_but(step, usize::MAX)?;
    let (table, ids, y) = (step.input(TABLE)?, step.input(IDS)?, step.output(0)?);
    let geometry = geometry(step)?;
    expect_dense(&ids, IDS as u8)?;
    expect_dense(&y, 2)?;
    if !matches!(ids.dtype, DType::I32 | DType::I64) {
        return Err(StepErrorKind::OperandType(IDS as u8));
    }
    expect_type(&y, DType::F32, 2)?;
    let dims = ids.dims().iter().copied().chain([geometry.in_c as u32]);
    if !dims.eq(y.dims().iter().copied()) {
        return Err(StepErrorKind::OperandShape(2));
    }
    if let Some(form) = GroupedForm::of(table.layout) {
        return check_grouped(step, TABLE, form, &geometry);
    }
    if !table.dtype.is_float() {
        return Err(StepErrorKind::OperandType(TABLE as u8));
    }
    let is_bf16 = table.dtype == DType::BF16;
    let elements = match table.layout {
        Layout::PanelFloat if is_bf16 && !geometry.in_c.is_multiple_of(PAIR) => {
            return Err(StepErrorKind::OperandShape(TABLE as u8));
        }
        Layout::Dense => table.elements(),
        Layout::PanelFloat => geometry.packed_float_len(),
        _ => return Err(StepErrorKind::OperandLayout(TABLE as u8)),
    };
    if table.bytes() / table.dtype.size() < elements {
        return Err(StepErrorKind::OperandShape(TABLE as u8));
    }
    Ok(())
}

/// The elements of a table.
enum Table<'v> {
    Grouped(GroupedWeights<'v>),
    /// Where the elements of a row lie: between its first and the next, and how many lie before it.
    Float(FloatWeights<'v>, Layout),
    Bf16(&'v [bf16], Layout),
}

impl Table<'_> {
    /// Writes row `row` as floats.
    fn read(&self, row: usize, to: &mut [f32]) {
        let size = to.len();
        match self {
            Table::Grouped(weights) => weights.read(row, to),
            Table::Bf16(weights, layout) => to.iter_mut().enumerate().for_each(|(i, y)| {
                *y = match layout {
                    Layout::Dense => weights[row * size + i],
                    _ => weights[bf16_index(row, i, size)],
                }
                .to_f32();
            }),
            Table::Float(weights, layout) => {
                let (first, step) = match layout {
                    Layout::Dense => (row * size, 1),
                    _ => (row / PANEL_N * size * PANEL_N + row % PANEL_N, PANEL_N),
                };
                match weights {
                    FloatWeights::F32(w) => to
                        .iter_mut()
                        .zip(w[first..].iter().step_by(step))
                        .for_each(|(y, w)| *y = *w),
                    FloatWeights::F16(w) => to
                        .iter_mut()
                        .zip(w[first..].iter().step_by(step))
                        .for_each(|(y, w)| *y = w.to_f32()),
                }
            }
        }
    }
}

fn run(context: &mut Context<'_>) -> Result<(), StepErrorKind> {
    let step = context.step;
    let EmbeddingAttributes { scale, .. } = step.attributes();
    let (table, ids) = (step.input(TABLE)?, step.input(IDS)?);
    let geometry = geometry(&step)?;
    let group_size = step.input_group_size(TABLE);
    let operands = context.operands([TABLE, IDS])?;
    let [table_bytes, id_bytes] = operands.inputs;
    let (narrow, wide): (&[i32], &[i64]) = match ids.dtype {
        DType::I32 => (typed(id_bytes, IDS as u8)?, &[]),
        _ => (&[], typed(id_bytes, IDS as u8)?),
    };
    let elements = match GroupedForm::of(table.layout) {
        Some(form) => {
            let planes = form.planes(&geometry, group_size, table_bytes);
            Table::Grouped(planes.ok_or(StepErrorKind::OperandShape(TABLE as u8))?)
        }
        None if table.dtype == DType::BF16 => {
            Table::Bf16(typed(table_bytes, TABLE as u8)?, table.layout)
        }
        None => Table::Float(float_weights(table_bytes, table.dtype)?, table.layout),
    };
    let y: &mut [f32] = typed_mut(operands.output, 2)?;
    let ids = narrow.iter().map(|id| i64::from(*id)).chain(wide.iter().copied());
    for (y, id) in y.chunks_exact_mut(geometry.in_c).zip(ids) {
        let row = usize::try_from(id).ok().filter(|row| *row < geometry.out_c);
        elements.read(row.ok_or(StepErrorKind::IndexOutOfRange)?, y);
        if scale != 1.0 {
            y.iter_mut().for_each(|y| *y *= scale);
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::kernels::conv_f32::grouped::{FACTOR_INPUTS, Scales, pack_weights};
    use crate::ops::testing::{Case, Random, Tensor, shape, tensor};
    use half::{bf16, f16};

    const ROWS: usize = 21;
    const SIZE: usize = 70;

    fn case(scale: f32, table: Tensor, ids: Tensor) -> Case {
        let mut dims = ids.dims.clone();
        dims.push(SIZE as u32);
        let attributes = EmbeddingAttributes { scale, reserved: 0 };
        let y = shape(DType::F32, &dims);
        Case::new(Op::Embedding, Some(DType::F32), attributes, &[table, ids], y)
    }

    /// A table in every layout, behind its numbers: of small integers, in groups of all integers that weights can be.
    fn tables() -> Vec<(Vec<f32>, Tensor)> {
        let q: Vec<i8> = (0..ROWS * SIZE).map(|i| ((i * 29) % 15) as i8 - 7).collect();
        let values: Vec<f32> = q.iter().map(|q| f32::from(*q) * 0.5).collect();
        let halves: Vec<f16> = values.iter().map(|v| f16::from_f32(*v)).collect();
        let dims = [ROWS as u32, SIZE as u32];
        let geometry = ConvGeometry::matmul(1, SIZE, ROWS);
        let mut panels = vec![0.0f32; geometry.packed_float_len()];
        crate::kernels::conv_f32::pack_weights(&geometry, &values, &mut panels);
        let panels = tensor(&[panels.len() as u32], &panels);
        let panels = Tensor { dims: dims.to_vec(), ..panels.packed(Layout::PanelFloat) };
        let bf16s: Vec<bf16> = values.iter().map(|v| bf16::from_f32(*v)).collect();
        let mut pairs = vec![bf16::ZERO; geometry.packed_float_len()];
        crate::kernels::conv_f32::bf16::pack_weights(&geometry, &bf16s, &mut pairs);
        let pairs = tensor(&[pairs.len() as u32], &pairs);
        let pairs = Tensor { dims: dims.to_vec(), ..pairs.packed(Layout::PanelFloat) };
        let grouped = |form: GroupedForm| {
            let integers: Vec<i8> = form.integers().collect();
            let q: Vec<i8> = (0..ROWS * SIZE).map(|i| integers[i * 29 % integers.len()]).collect();
            let factors = vec![0.5; ROWS * SIZE.div_ceil(FACTOR_INPUTS)];
            let (scale, min) = (vec![0.5; ROWS * SIZE.div_ceil(32)], vec![-3.5; q.len()]);
            let scale = Scales { values: &scale, factors: &factors };
            let (min, least) = match form.has_mins {
                true => (Scales { values: &min[..scale.values.len()], ..scale }, -3.5),
                false => (Scales::default(), 0.0),
            };
            let values = q.iter().map(|q| f32::from(*q) * 0.5 + least).collect();
            let bytes = pack_weights(&geometry, form, 32, &q, scale, min);
            let of = shape(form.dtype(), &dims);
            let layout = form.layout().expect("a layout");
            (values, Tensor { bytes, group_size: 32, ..of.packed(layout) })
        };
        let floats = [
            tensor(&dims, &values).constant(),
            tensor(&dims, &halves).constant(),
            tensor(&dims, &bf16s).constant(),
            panels,
            pairs,
        ];
        let floats = floats.into_iter().map(|table| (values.clone(), table));
        floats.chain(GroupedForm::all().map(grouped)).collect()
    }

    #[test]
    fn rows_of_every_layout() {
        for (values, table) in tables() {
            let ids = [0i64, 20, 15, 16, 0, 7];
            let got = case(2.0, table.clone(), tensor(&[2, 3], &ids)).run::<f32>();
            let row = |id: &i64| values[*id as usize * SIZE..][..SIZE].iter().map(|v| v * 2.0);
            assert_eq!(got, ids.iter().flat_map(row).collect::<Vec<f32>>(), "{:?}", table.layout);
            assert_eq!(
                case(1.0, table, tensor(&[1], &[3i32])).run::<f32>(),
                &values[3 * SIZE..][..SIZE]
            );
        }
    }

    #[test]
    fn ids_out_of_range_and_hostile_steps_are_refused() {
        let mut random = Random(3);
        let table = || tensor(&[ROWS as u32, SIZE as u32], &[0.0f32; ROWS * SIZE]).constant();
        for id in [-1i32, ROWS as i32, i32::MAX, i32::MIN] {
            assert!(case(1.0, table(), tensor(&[1], &[id])).run_bytes().is_err(), "{id}");
        }
        let short = |tensor: Tensor| Tensor { bytes: tensor.bytes[..64].to_vec(), ..tensor };
        for (_, table) in tables().into_iter().filter(|(_, table)| table.layout != Layout::Dense) {
            assert!(case(1.0, short(table.clone()), tensor(&[1], &[0i32])).run_bytes().is_err());
            let grouped = Tensor { group_size: 3, ..table.clone() };
            let result = case(1.0, grouped, tensor(&[1], &[0i32])).run_bytes();
            assert_eq!(result.is_ok(), table.layout == Layout::PanelFloat);
        }
        let ids = random.f32s(1);
        assert!(case(1.0, table(), tensor(&[1], &ids)).run_bytes().is_err());
        let narrow = Tensor { dims: vec![ROWS as u32 * SIZE as u32], ..table() };
        assert!(case(1.0, narrow, tensor(&[1], &[0i32])).run_bytes().is_err());
    }
}
