//! `whit compare` and `whit convert --report` on the digits example, and on input that doesn't fit.

mod common;

use common::{Folder, example, fail, succeed, whit};
use serde_json::Value;

impl Folder {
    /// The digits model in some numbers.
    fn model(&self, scheme: &str) -> String {
        let path = self.path(&format!("{scheme}.whit"));
        let (model, data) = (example("digits.onnx"), example("digits-calib.npz"));
        succeed(&["convert", &model, "-o", &path, "--quantize", scheme, "--calibrate", &data]);
        path
    }
}

/// Every tag is closed in its order, nothing is fetched from anywhere, no script.
fn check_page(html: &str) {
    const VOID: [&str; 3] = ["meta", "br", "hr"];
    assert!(html.starts_with("<!DOCTYPE html>"));
    for word in
        ["http:", "https:", "url(", "@import", "<script", "<link", "<img", " src=", " href="]
    {
        assert!(!html.contains(word), "`{word}` in the page");
    }
    for word in ["NaN", "{{", "{%", "undefined", "&amp;lt;"] {
        assert!(!html.contains(word), "`{word}` in the page");
    }
    let body = html.split_once("</style>").expect("a style").1;
    let mut open: Vec<&str> = vec!["html", "head"];
    for part in body.split('<').skip(1) {
        let (tag, _) = part.split_once('>').unwrap_or_else(|| panic!("an open `<`: {part:.80}"));
        if let Some(name) = tag.strip_prefix('/') {
            assert_eq!(open.pop(), Some(name), "closed out of order");
        } else {
            assert_eq!(tag.matches('"').count() % 2, 0, "quotes of {tag}");
            let name = tag.split([' ', '\n', '/']).next().unwrap_or_default();
            if !tag.ends_with('/') && !VOID.contains(&name) {
                open.push(name);
            }
        }
    }
    assert_eq!(open, Vec::<&str>::new());
}

#[test]
fn layers_are_compared_in_text_json_and_html() {
    let folder = Folder::new("digits");
    let (model, data) = (example("digits.onnx"), example("digits-test.npz"));
    let calibration = example("digits-calib.npz");
    for scheme in ["int8", "int16", "w4", "f16"] {
        let file = folder.model(scheme);
        let common = ["compare", &model, &file, "--data", &data, "--samples", "40"];
        let page = folder.path("page.html");
        let arguments =
            [&common[..], &["--json", "--html", &page, "--calibrate", &calibration]].concat();
        let found: Value = serde_json::from_str(&succeed(&arguments)).expect("one JSON object");
        assert_eq!(found["samples"], 40);
        let layers = found["layers"].as_array().expect("layers");
        assert!(layers.len() >= 4, "{scheme}: {} layers", layers.len());
        for layer in layers {
            let own = layer["introduced_db"].as_f64();
            let total = layer["total_db"].as_f64();
            // What isn't a number is an infinite ratio: no error.
            assert!(own.is_none_or(|own| own > 0.0), "{layer:#}");
            assert!(total.is_none_or(|total| total > 0.0), "{layer:#}");
            assert!(!layer["causes"].as_array().expect("causes").is_empty(), "{layer:#}");
        }
        let output = found["output_snr_db"].as_f64().expect("outputs differ");
        let (least, most) = match scheme {
            "int8" => (20.0, 60.0),
            "int16" => (25.0, 100.0),
            "w4" => (5.0, 80.0),
            _ => (50.0, 120.0),
        };
        assert!((least..most).contains(&output), "{scheme}: {output} dB");
        // Quantized again the same way, the outputs are the same.
        let baseline = found["baseline_db"].as_f64().expect("remedies were tried");
        assert!((baseline - output).abs() < 1.0, "{scheme}: {baseline} {output}");
        check_page(&std::fs::read_to_string(&page).expect("a page"));
        let shown = succeed(&[&common[..], &["--all", "--remedies", "0"]].concat());
        assert!(
            shown.contains("cause") && shown.contains("layers compared on 40 samples"),
            "{shown}"
        );
        assert_eq!(succeed(&arguments), succeed(&arguments), "the same in every run");
    }
}

#[test]
fn a_float_file_takes_the_place_of_the_model() {
    let folder = Folder::new("float");
    let (float, file) = (folder.model("none"), folder.model("int8"));
    let data = example("digits-test.npz");
    let found = succeed(&["compare", &float, &file, "--data", &data, "--json", "--samples", "20"]);
    let found: Value = serde_json::from_str(&found).expect("one JSON object");
    assert!(found["output_snr_db"].as_f64().expect("outputs differ") > 15.0);
    assert!(found["notes"].as_array().expect("notes").iter().any(|note| {
        note.as_str().expect("text").contains("remedies are tried with the .onnx")
    }));
    assert_eq!(found["remedies"], Value::Array(Vec::new()));
}

#[test]
fn what_cannot_be_compared_is_refused() {
    let folder = Folder::new("bad");
    let (model, data) = (example("digits.onnx"), example("digits-test.npz"));
    let (float, int8) = (folder.model("none"), folder.model("int8"));
    fail(
        &["compare", &model, &float, "--data", &data],
        &["the file is float", "nothing to compare"],
    );
    fail(&["compare", &int8, &int8, "--data", &data], &["quantized itself"]);
    fail(&["compare", &model, &int8, "--data", "nowhere.npz"], &["nowhere.npz"]);
    fail(&["compare", "nowhere.onnx", &int8, "--data", &data], &["nowhere.onnx"]);
    fail(&["compare", &model, &model, "--data", &data], &["digits.onnx"]);
    assert_eq!(whit(&["compare", &model, &int8]).status.code(), Some(2), "no data");
}

#[test]
fn reports_are_pages_and_data() {
    let folder = Folder::new("report");
    let (model, data) = (example("digits.onnx"), example("digits-calib.npz"));
    let out = folder.path("out.whit");
    let convert = ["convert", &model, "-o", &out, "--calibrate", &data];
    for scheme in [
        &["--quantize", "int8"][..],
        &["--quantize", "auto", "--max-drop", "5%", "--time-limit", "5s"],
        &["--quantize", "none"],
    ] {
        let (page, json) = (folder.path("r.html"), folder.path("r.json"));
        let own = [&convert[..], scheme].concat();
        succeed(&[&own[..], &["--report", &page]].concat());
        check_page(&std::fs::read_to_string(&page).expect("a page"));
        succeed(&[&own[..], &["--report", &json]].concat());
        let found = std::fs::read_to_string(&json).expect("a file");
        let found: Value = serde_json::from_str(&found).expect("JSON");
        assert_eq!(found["comparison"].is_object(), scheme[1] != "none", "{scheme:?}");
        assert_eq!(found["front"].is_object(), scheme[1] == "auto", "{scheme:?}");
        assert!(found["float"]["arena_bytes"].as_u64().expect("a size") > 0);
    }
    std::fs::remove_file(&out).expect("a file");
    fail(
        &[&convert[..], &["--report", &folder.path("r.pdf")]].concat(),
        &["r.pdf", ".html or .json"],
    );
    assert!(!std::path::Path::new(&out).exists(), "nothing is left behind");
}
