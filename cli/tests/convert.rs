//! `whit convert`'s looks at a model: `--check`, `--dump-passes`, inputs with a fixed value.

mod common;

use common::{Folder, text, whit};
use serde_json::Value;
use whit_convert::import::onnx::proto::{
    GraphProto, ModelProto, NodeProto, ValueInfoProto, data_type,
};

impl Folder {
    /// Writes a model of these nodes over `x` and the i64 vector `shape`, with the output `y`.
    fn model(&self, nodes: Vec<NodeProto>, reads_shape: bool) -> String {
        let mut input = vec![ValueInfoProto::tensor("x", data_type::FLOAT, [2i64, 6])];
        if reads_shape {
            input.push(ValueInfoProto::tensor("shape", data_type::INT64, [2i64]));
        }
        let output = vec![ValueInfoProto::tensor("y", data_type::FLOAT, ["", ""])];
        let graph = GraphProto { node: nodes, input, output, ..GraphProto::default() };
        let path = self.path("model.onnx");
        std::fs::write(&path, ModelProto::new(17, graph).to_bytes()).expect("a file");
        path
    }
}

#[test]
fn check_lists_every_kind_of_unsupported_node_once() {
    let folder = Folder::new("check");
    let node = |op: &str, x: &str, y: &str, name: &str| NodeProto::new(op, &[x], &[y]).named(name);
    let model = folder.model(
        vec![
            node("Fourier", "x", "a", "first"),
            node("Fourier", "a", "b", "second"),
            node("Fourier", "x", "c", "third"),
            node("Wavelet", "c", "d", "fourth"),
            NodeProto::new("Sum", &["b", "d"], &["y"]),
        ],
        false,
    );
    let output = whit(&["convert", "--check", &model, "--json"]);
    assert_eq!(output.status.code(), Some(1));
    let found: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!(found["convertible"], false);
    let nodes = found["unsupported"].as_array().expect("a list");
    let told: Vec<(&str, u64, &str)> = nodes
        .iter()
        .map(|n| {
            let text = |key: &str| n[key].as_str().expect("text");
            (text("op_type"), n["count"].as_u64().expect("a count"), text("first_node"))
        })
        .collect();
    assert_eq!(told, [("Fourier", 3, "first"), ("Wavelet", 1, "fourth")]);
    assert!(nodes[0]["inputs"].as_str().expect("text").contains("f32 2×6"));

    let output = whit(&["convert", "--check", &model]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    for part in ["4 nodes are not supported", "`first` and 2 more", "`fourth`"] {
        assert!(said.contains(part), "`{part}` is not in {said}");
    }
    // Wrong usage: nothing is written, so there is nothing to name.
    assert_eq!(whit(&["convert", "--check", &model, "-o", "x.whit"]).status.code(), Some(2));
    assert_eq!(whit(&["convert", &model]).status.code(), Some(2));
}

#[test]
fn check_accepts_what_converts() {
    let folder = Folder::new("fine");
    let model = folder.model(vec![NodeProto::new("Relu", &["x"], &["y"])], false);
    let output = whit(&["convert", "--check", &model, "--json"]);
    assert!(output.status.success());
    let found: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
    assert_eq!((&found["convertible"], &found["nodes"]), (&true.into(), &1.into()));
}

#[test]
fn exact_tflite_is_for_tflite() {
    let folder = Folder::new("exact");
    let model = folder.model(vec![NodeProto::new("Relu", &["x"], &["y"])], false);
    let to = folder.path("model.whit");
    let output = whit(&["convert", &model, "-o", &to, "--exact-tflite"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains("--exact-tflite") && said.contains("isn't a TFLite model"), "{said}");
    assert!(!std::path::Path::new(&to).exists());
    assert!(whit(&["convert", &model, "-o", &to]).status.success());
}

#[test]
fn the_arena_shrinks_on_demand() {
    let folder = Folder::new("arena");
    let model = concat!(env!("CARGO_MANIFEST_DIR"), "/../examples/digits/digits.onnx");
    let to = folder.path("model.whit");
    let arena = |goal: &[&str]| {
        let output = whit(&[&["convert", model, "-o", &to], goal].concat());
        assert!(output.status.success(), "{}", text(&output.stderr));
        assert!(whit(&["verify", &to]).status.success());
        let output = whit(&["inspect", &to, "--json"]);
        let found: Value = serde_json::from_slice(&output.stdout).expect("one JSON object");
        found["arena_bytes"].as_u64().expect("a number")
    };
    let (whole, smallest) = (arena(&[]), arena(&["--max-arena", "smallest"]));
    assert!(smallest < whole, "{smallest} of {whole} bytes");
    assert_eq!(arena(&["--max-arena", &whole.to_string()]), whole);

    std::fs::remove_file(&to).expect("a file");
    let output = whit(&["convert", model, "-o", &to, "--max-arena", "100B"]);
    assert_eq!(output.status.code(), Some(1));
    let said = text(&output.stderr);
    assert!(said.contains(&format!("takes {smallest} bytes")) && said.contains("bands"), "{said}");
    assert!(!std::path::Path::new(&to).exists());
    assert_eq!(whit(&["convert", model, "-o", &to, "--max-arena", "2x"]).status.code(), Some(2));
}

#[test]
fn check_accepts_half_precision() {
    let folder = Folder::new("half");
    let tensor = |name: &str| ValueInfoProto::tensor(name, data_type::FLOAT16, [2i64, 6]);
    let graph = GraphProto {
        node: vec![NodeProto::new("Add", &["x", "x"], &["y"])],
        input: vec![tensor("x")],
        output: vec![tensor("y")],
        ..GraphProto::default()
    };
    let path = folder.path("half.onnx");
    std::fs::write(&path, ModelProto::new(17, graph).to_bytes()).expect("a file");
    for arguments in
        [vec!["convert", "--check", &path], vec!["convert", &path, "-o", &folder.path("half.whit")]]
    {
        let output = whit(&arguments);
        assert!(output.status.success(), "{arguments:?}: {}", text(&output.stderr));
    }
}

#[test]
fn every_pass_that_changes_the_graph_is_dumped() {
    let folder = Folder::new("dump");
    let node = |op: &str, x: &str, y: &str| NodeProto::new(op, &[x], &[y]);
    let model = folder.model(
        vec![node("Relu", "x", "a"), node("Identity", "a", "b"), node("Relu", "b", "y")],
        false,
    );
    let (dump, out) = (folder.path("dump"), folder.path("model.whit"));
    assert!(whit(&["convert", &model, "-o", &out, "--dump-passes", &dump]).status.success());
    let mut names: Vec<String> = std::fs::read_dir(&dump)
        .expect("a folder")
        .map(|entry| entry.expect("an entry").file_name().into_string().expect("UTF-8"))
        .collect();
    names.sort();
    assert_eq!(names[0], "000-import.onnx");
    assert!(names.len() > 1, "{names:?}");
    // What is written is ONNX: the tool reads it, and refuses its operators by name.
    let last = format!("{dump}/{}", names.last().expect("a file"));
    let output = whit(&["convert", "--check", &last]);
    assert!(text(&output.stderr).contains("whit::Unary"), "{}", text(&output.stderr));
}

#[test]
fn inputs_can_be_given_at_conversion() {
    let folder = Folder::new("value");
    let model = folder.model(vec![NodeProto::new("Reshape", &["x", "shape"], &["y"])], true);
    let out = folder.path("model.whit");
    let output = whit(&["convert", &model, "-o", &out]);
    assert_eq!(output.status.code(), Some(1), "the shape isn't known");

    // [4, 3] as int32, which is exact in the model's int64.
    let header = "{'descr': '<i4', 'fortran_order': False, 'shape': (2,), }";
    let mut npy = b"\x93NUMPY\x01\x00".to_vec();
    npy.extend((header.len() as u16 + 1).to_le_bytes());
    npy.extend(header.as_bytes());
    npy.push(b'\n');
    npy.extend([4, 0, 0, 0, 3, 0, 0, 0]);
    std::fs::write(folder.path("shape.npy"), npy).expect("a file");
    let value = format!("shape={}", folder.path("shape.npy"));
    let output = whit(&["convert", &model, "-o", &out, "--input-value", &value]);
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert!(text(&output.stderr).contains("note: input `shape` fixed to the value given"));
    let shown: Value =
        serde_json::from_slice(&whit(&["inspect", &out, "--json"]).stdout).expect("JSON");
    assert_eq!(shown["inputs"].as_array().expect("a list").len(), 1);

    for (value, part) in [
        ("nobody=1", "no such input"),
        ("shape=1.5", "isn't exact in the model's i64"),
        ("shape=7", "the value given has shape [], the model declares 2"),
        ("shape=missing.npy", "missing.npy"),
    ] {
        let output = whit(&["convert", &model, "-o", &out, "--input-value", value]);
        assert_eq!(output.status.code(), Some(1), "{value}");
        assert!(text(&output.stderr).contains(part), "{value}: {}", text(&output.stderr));
    }
}
