//! `whit verify`: structure, checksums, and golden vectors on every instruction set present, or on a
//! device.

use std::process::ExitCode;

use anyhow::Result;
use clap::Args;
use serde_json::json;
use whit::format::{Field, Section};
use whit::{DType, Isa, Model};

use super::inspect::golden_cases;
use super::{ModelPath, On, print_json, print_text};
use crate::program::{self, Backend};
use crate::report::{self, Align};
use crate::whit_file::{self, Settings};

#[derive(Args)]
pub(crate) struct Verify {
    #[command(flatten)]
    path: ModelPath,
    #[command(flatten)]
    on: On,
    /// Print one JSON object instead of text
    #[arg(long)]
    json: bool,
}

/// What replaying the golden vectors on one instruction set gave.
struct Replay {
    /// The instruction set, or the backend.
    on: &'static str,
    cases: u32,
    outputs: u32,
    /// Elements of integer outputs that differ at all.
    differing: u64,
    /// Largest difference of float outputs, relative to the largest expected magnitude.
    largest_relative: f32,
    failed: u32,
}

impl Verify {
    pub(crate) fn run(self) -> Result<ExitCode> {
        let file = whit_file::open(&self.path.model)?;
        let model = whit_file::model(&file, &self.path.model)?;
        let checksums = model.verify_checksums();
        let signed = !model.section(Section::Signature).is_empty();
        let mut replays = Vec::new();
        if checksums.is_ok() {
            let On { backend, cuda_device: device } = self.on;
            let settings = |isa| Settings { backend, device, ..Settings::from(isa) };
            match backend {
                Backend::Cpu => {
                    for isa in Isa::available() {
                        replays.push(replay(&model, isa.name(), settings(Some(isa)))?);
                    }
                }
                Backend::Cuda => replays.push(replay(&model, backend.name(), settings(None))?),
            }
        }
        let ok = checksums.is_ok() && replays.iter().all(|replay| replay.failed == 0);
        if self.json {
            let golden: Vec<_> = replays
                .iter()
                .map(|r| {
                    json!({
                        "isa": r.on, "cases": r.cases, "outputs": r.outputs,
                        "differing_integers": r.differing,
                        "largest_relative_difference": f64::from(r.largest_relative),
                        "failed": r.failed,
                    })
                })
                .collect();
            print_json(&json!({
                "ok": ok,
                "structure": "ok",
                "checksums": checksums.map_or_else(|e| e.to_string(), |()| "ok".to_owned()),
                "signature": if signed { "present, not checked by this version" } else { "none" },
                "golden": golden,
            }))?;
        } else {
            let checksum_text = checksums.map_or_else(|e| e.to_string(), |()| "ok".to_owned());
            let signature = if signed { "present, not checked by this version" } else { "none" };
            let fields = [
                ("structure", "ok".to_owned()),
                ("checksums", checksum_text),
                ("signature", signature.to_owned()),
            ];
            print_text(&report::fields(&fields))?;
            let rows: Vec<Vec<String>> = replays
                .iter()
                .map(|r| {
                    vec![
                        r.on.to_owned(),
                        r.cases.to_string(),
                        r.differing.to_string(),
                        format!("{:.1e}", r.largest_relative),
                        if r.failed == 0 {
                            "ok".to_owned()
                        } else {
                            format!("{} outputs differ", r.failed)
                        },
                    ]
                })
                .collect();
            if replays.iter().any(|r| r.cases > 0) {
                let right = Align::Right;
                let header = [
                    ("golden vectors on", Align::Left),
                    ("vectors", right),
                    ("integers off", right),
                    ("float error", right),
                    ("", Align::Left),
                ];
                print_text(&format!("\n{}", report::table(&header, &rows)))?;
            } else if !replays.is_empty() {
                print_text("\nthe file has no golden vectors")?;
            }
        }
        if !ok {
            eprintln!("error: {} does not verify", self.path.model.display());
        }
        Ok(if ok { ExitCode::SUCCESS } else { ExitCode::from(1) })
    }
}

/// Elements of a float type as f32.
fn reals(bytes: &[u8], dtype: DType) -> Vec<f32> {
    match dtype {
        DType::F16 => {
            bytes.chunks_exact(2).map(|b| half::f16::from_le_bytes([b[0], b[1]]).to_f32()).collect()
        }
        DType::BF16 => bytes
            .chunks_exact(2)
            .map(|b| half::bf16::from_le_bytes([b[0], b[1]]).to_f32())
            .collect(),
        _ => bytes.chunks_exact(4).map(|b| f32::from_le_bytes([b[0], b[1], b[2], b[3]])).collect(),
    }
}

/// Feeds every golden input and compares every golden output.
fn replay(model: &Model<'_>, on: &'static str, settings: Settings) -> Result<Replay> {
    let mut program = program::prepare(*model, settings)?;
    let session = program.prepared();
    let mut result =
        Replay { on, cases: 0, outputs: 0, differing: 0, largest_relative: 0.0, failed: 0 };
    let cases = golden_cases(model);
    for case in 0..cases {
        session.reset_state();
        let of_role = |role: u32| {
            model.golden().filter(move |record| record.case == case && record.role == role)
        };
        for record in of_role(2) {
            let symbol = model.symbols().nth(record.index as usize);
            let name = symbol.map_or("", |symbol| model.text(symbol.name));
            session.set_dimension(name, u32::read(model.golden_bytes(&record)))?;
        }
        for record in of_role(0) {
            session.set_input_bytes(record.index as usize, model.golden_bytes(&record))?;
        }
        session.run().map_err(|e| whit_file::named(model, e))?;
        result.cases += 1;
        let compared = result.outputs;
        for record in of_role(1) {
            let slot = session.output_slot(record.index as usize)?;
            let (got, expected) =
                (session.output_bytes(record.index as usize)?, model.golden_bytes(&record));
            result.outputs += 1;
            let matches = got.len() == expected.len()
                && if slot.dtype().is_float() {
                    let (got, expected) = (reals(got, slot.dtype()), reals(expected, slot.dtype()));
                    let range = expected.iter().fold(f32::MIN_POSITIVE, |m, v| m.max(v.abs()));
                    let worst = got
                        .iter()
                        .zip(&expected)
                        .map(|(a, b)| {
                            if a == b || (a.is_nan() && b.is_nan()) {
                                0.0
                            } else {
                                (a - b).abs() / range
                            }
                        })
                        .fold(0.0f32, |m, v| if v > m || v.is_nan() { v } else { m });
                    result.largest_relative = result.largest_relative.max(worst);
                    worst <= record.tolerance
                } else {
                    let size = slot.dtype().size();
                    let differing =
                        got.chunks(size).zip(expected.chunks(size)).filter(|(a, b)| a != b).count()
                            as u64;
                    result.differing += differing;
                    differing == 0
                };
            result.failed += u32::from(!matches);
        }
        // A vector without expected outputs proves nothing.
        result.failed += u32::from(result.outputs == compared);
    }
    Ok(result)
}
