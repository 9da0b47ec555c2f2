//! Files made to break the importer: every one is refused, none makes it panic.

use super::*;

/// A convolution with a bias, quantized.
fn conv() -> Model {
    one(
        "CONV_2D",
        (1, vec![(0, Field::Byte(0)), (1, Field::Int(1)), (2, Field::Int(1))]),
        vec![
            Tensor::new("x", I8, &[1, 4, 4, 1]).scaled(0.5, 0),
            Tensor::i8s("w", &[2, 1, 1, 1], &[2, 3]).per_channel(&[0.5, 0.25], 0),
            Tensor::i32s("b", &[2], &[1, 2]).per_channel(&[0.25, 0.125], 0),
        ],
        vec![Tensor::new("y", I8, &[1, 4, 4, 2]).scaled(0.5, 0)],
    )
}

type Change = fn(&mut Model);

#[test]
fn broken_models_are_refused() {
    let cases: [(&str, Change, &str); 24] = [
        ("version", |m| m.version = 2, "version 2"),
        ("no outputs", |m| m.outputs.clear(), "no outputs"),
        ("an output that nothing makes", |m| m.operators.clear(), "made by no operator"),
        ("an input that isn't there", |m| m.inputs[0] = 99, "tensor #99"),
        ("a negative input", |m| m.inputs[0] = -2, "tensor #-2"),
        ("an operand that isn't there", |m| m.operators[0].inputs[1] = 99, "tensor #99"),
        ("an operand left out", |m| m.operators[0].inputs[0] = -1, "is missing"),
        ("an operand that nothing makes", |m| m.operators[0].inputs[1] = 3, "which nothing makes"),
        ("an input twice", |m| m.inputs.push(0), "occurs twice"),
        ("made twice", |m| m.operators.push(m.operators[0].clone()), "there already"),
        ("over an input", |m| m.operators[0].outputs[0] = 0, "the model states"),
        ("operator code", |m| m.operators[0].code = 7, "operator code #7"),
        ("buffer", |m| m.tensors[1].buffer = Some(77), "buffer #77"),
        ("too few bytes", |m| m.tensors[1].shape[0] = 3, "2 bytes"),
        ("overflowing shape", |m| m.tensors[1].shape = vec![i32::MAX; 8], "2 bytes"),
        ("negative shape", |m| m.tensors[1].shape[0] = -2, "shape [-2"),
        ("huge input", |m| m.tensors[0].shape = vec![i32::MAX; 8], "shape"),
        ("many axes", |m| m.tensors[0].shape = vec![1; 200], "axes"),
        ("no channels", |m| m.tensors[0].shape[3] = 0, "size 0"),
        ("scale of 0", |m| m.tensors[0].scale[0] = 0.0, "not a positive number"),
        ("scale NaN", |m| m.tensors[3].scale[0] = f32::NAN, "not a positive number"),
        ("zero point", |m| m.tensors[3].zero_point[0] = 128, "zero point"),
        ("scales along another axis", |m| m.tensors[1].axis = 1, "2 scales along axis 1"),
        ("stride 0", |m| m.operators[0].options[1].1 = Field::Int(0), "stride"),
    ];
    for (name, change, part) in cases {
        let mut model = conv();
        change(&mut model);
        let error = import(&model, &ImportOptions::default()).expect_err(name).to_string();
        assert!(error.contains(part), "{name}: {error}");
    }
    assert!(import(&conv(), &ImportOptions::default()).is_ok());
}

/// A file cut anywhere is refused or, where only the end of what nobody reads is missing, imported.
#[test]
fn cut_files_never_panic() {
    let bytes = conv().to_bytes();
    for len in 0..bytes.len() {
        let cut = Bytes::copy_from_slice(&bytes[..len]);
        let result = import_tflite(cut, &ImportOptions::default());
        assert!(result.is_err(), "{len} of {} bytes were imported", bytes.len());
    }
}

/// Every byte changed to several others.
#[test]
fn changed_bytes_never_panic() {
    let bytes = conv().to_bytes();
    let (mut refused, mut imported) = (0, 0);
    for at in 0..bytes.len() {
        for change in [0x01, 0x80, 0x7f, 0xff] {
            let mut changed = bytes.clone();
            changed[at] ^= change;
            match import_tflite(Bytes::from(changed), &ImportOptions::default()) {
                Ok(_) => imported += 1,
                Err(_) => refused += 1,
            }
        }
    }
    // Weights and names may be anything.
    assert!(refused > 100 && imported > 100, "{refused} refused, {imported} imported");
}

/// Offsets that lead back: tables in themselves, and vectors that share one table many times.
#[test]
fn unfolding_is_bounded() {
    let bytes = conv().to_bytes();
    // Each word of the file as an offset to the root table's own beginning, or just before it.
    for at in (0..bytes.len() - 4).step_by(4) {
        for target in [0u32, 4, 8, bytes.len() as u32 / 2] {
            let mut changed = bytes.clone();
            let offset = target.wrapping_sub(at as u32);
            changed[at..at + 4].copy_from_slice(&offset.to_le_bytes());
            changed[4..8].copy_from_slice(b"TFL3");
            let _ = import_tflite(Bytes::from(changed), &ImportOptions::default());
        }
    }
}
