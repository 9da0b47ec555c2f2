//! `whit monitor` on logs that the device's own writer made: what it prints and writes, and what it says to bad input.

mod common;

use std::io::{BufRead, BufReader, Read, Write};
use std::net::TcpStream;
use std::process::{Output, Stdio};

use common::{Folder, command, example, fail, json, npy_f32, succeed, text, whit};
use serde_json::Value;
use whit::metrics::counters::{Cursor, Event, Group, Head, Worst, encode};
use whit::metrics::histogram;
use whit::metrics::record::{
    Alarm, FRAME_FRONT, Header, Kind, LOG_MAGIC, LOG_VERSION, MAX_PAYLOAD, Sample, seal,
};

fn header(device: u64) -> Header {
    Header {
        magic: LOG_MAGIC,
        version: LOG_VERSION,
        model: 0xABCD_0000_1234,
        device,
        classes: 3,
        features: 5,
        bins: 8,
        tensors: 1,
        scores: 2,
        labels: 1,
        sample_bytes: 6,
        sample_dtype: 4,
        window_runs: 64,
        deadline_us: 2000,
        value_scale: 1.0,
        ..Header::default()
    }
}

fn counts(header: &Header, kind: Kind, head: Head, get: &dyn Fn(Group, usize) -> u64) -> Vec<u8> {
    let shape = header.shape().expect("a shape");
    let groups = if kind == Kind::Window { Group::OF_WINDOWS } else { Group::OF_PERIODS };
    let mut out = [0; MAX_PAYLOAD + 9];
    let payload = &mut out[FRAME_FRONT..FRAME_FRONT + MAX_PAYLOAD];
    let (bytes, next) =
        encode(&head, &shape, groups, get, Cursor::default(), payload).expect("room");
    assert_eq!(next, None);
    seal(&mut out, kind, header.tag(), bytes).expect("room").to_vec()
}

/// Ten hours of a device, an hour a period, 100 runs each: the inputs drift from the seventh on.
fn log(device: u64) -> Vec<u8> {
    let header = header(device);
    let mut out = [0; 256];
    let mut log = header.encode(&mut out).expect("room").to_vec();
    for sequence in 0..10u32 {
        let drifted = u64::from(sequence >= 6);
        let start_s = 1_700_000_000 + 3600 * sequence;
        let latency = histogram::bucket(1000 + 100 * sequence);
        let get = |group, index: usize| match (group, index) {
            (Group::Events, i) if i == Event::Runs as usize => 100,
            (Group::Events, i) if i == Event::Errors as usize => u64::from(sequence == 3),
            (Group::Events, i) if i == Event::Windows as usize => 1,
            (Group::Events, i) if i == Event::InputDrifts as usize => drifted,
            (Group::Events, i) if i == Event::Labels as usize => 10,
            (Group::Latency, i) if i == latency => 100,
            (Group::Classes, class) => [50, 30, 20][class],
            (Group::Confidence, 13) => 100,
            (Group::Entropy, 1) => 100,
            (Group::Confusion, 0) => 9,
            (Group::Confusion, 5) => 1,
            (Group::Scored, 29) => 9,
            (Group::Scored, 13) => 1,
            (Group::Drifted, 2) => drifted,
            (Group::Windowed, 0) => 1,
            (Group::Windowed, 1) => 64,
            (Group::Features, i) if i % 8 == (3 + 4 * drifted * u64::from(i / 8 == 2)) as usize => {
                64
            }
            _ => 0,
        };
        let head = Head {
            sequence,
            periods: 1,
            start_s,
            duration_s: 3600,
            latency_max_us: 1000 + 100 * sequence,
            worst: Some(Worst { js_q16: 3000 + 40_000 * drifted as u32, feature: 2 }),
            ..Head::default()
        };
        log.extend(counts(&header, Kind::Period, head, &get));
        let window = Head { periods: 0, worst: None, ..head };
        log.extend(counts(&header, Kind::Window, window, &get));
        if drifted == 1 {
            let alarm = Alarm {
                sequence,
                start_s,
                run: 64,
                source: 1,
                what: 2,
                index: 2,
                value: 43_000,
                threshold: 9000,
                p_value: 400,
                ..Alarm::default()
            };
            log.extend(alarm.encode(header.tag(), &mut out).expect("room"));
        }
        let input: Vec<u8> = (0..6).map(|byte| byte * sequence as u8).collect();
        for (offset, piece) in [(0, &input[..4]), (4, &input[4..])] {
            let sample = Sample {
                sequence,
                start_s,
                run_id: 100 * sequence + 7,
                class: 1,
                confidence: 32_768 / 2 - sequence as u16,
                total_bytes: 6,
                offset,
            };
            log.extend(sample.encode(header.tag(), piece, &mut out).expect("room"));
        }
    }
    log
}

fn monitor(arguments: &[&str]) -> Output {
    common::whit(&[&["monitor"], arguments].concat())
}

fn stdout(output: &Output) -> String {
    assert!(output.status.success(), "{}", String::from_utf8_lossy(&output.stderr));
    String::from_utf8(output.stdout.clone()).expect("text")
}

#[test]
fn reports_tell_what_happened() {
    let folder = Folder::new("report");
    let logs: Vec<String> =
        (1..=3).map(|device| folder.write(&format!("{device}.log"), &log(device))).collect();
    let text = stdout(&monitor(&["report", &folder.path("")]));
    for part in [
        "0000abcd00001234",
        "3 (1, 2, 3)",
        "2023-11-14 22:13 to 2023-11-15 08:13 (10.0 h), 30 periods",
        "3 of 3003",
        "! inputs drifted in 12 of 30 windows",
        "classes, 3000 runs",
        "accuracy",
        "90.0 % (86.1 to 92.9 %)",
        "feature  drifted windows",
        "Jensen-Shannon",
        "devices, most errors and late runs first",
    ] {
        assert!(text.contains(part), "{part}\n{text}");
    }
    let page = folder.path("page.html");
    let output = monitor(&["report", "--json", "--html", &page, &logs[0], &logs[1]]);
    let report: Value = serde_json::from_str(&stdout(&output)).expect("JSON");
    let fleet = &report["fleets"][0];
    assert_eq!(report["log"]["clean"], true);
    assert_eq!(fleet["events"]["runs"], 2000);
    assert_eq!(fleet["quality"]["accuracy"]["hits"], 180);
    assert_eq!(fleet["quality"]["confusion"][1][2], 20);
    assert_eq!(fleet["latency_us"]["max"], 1900);
    assert_eq!(fleet["drift"]["features"][0]["feature"], 2);
    assert_eq!(fleet["drift"]["features"][0]["drifted_windows"], 8);
    assert_eq!(fleet["alarms"].as_array().map(Vec::len), Some(8));
    assert_eq!(fleet["by_device"].as_array().map(Vec::len), Some(2));
    let page = std::fs::read_to_string(page).expect("the page");
    for part in [
        "What to look at",
        "Latency over time",
        "Features that drifted",
        "prefers-color-scheme:dark",
        "feature 2",
    ] {
        assert!(page.contains(part), "{part}");
    }
    // Self-contained: nothing is fetched.
    for part in ["src=", "href=", "@import", "url(", "<script"] {
        assert!(!page.contains(part), "{part}");
    }
    let one =
        monitor(&["report", "--json", "--device", "2", "--from", "1700018000", &folder.path("")]);
    let report: Value = serde_json::from_str(&stdout(&one)).expect("JSON");
    assert_eq!(report["fleets"][0]["events"]["runs"], 500);
}

#[test]
fn merged_logs_say_the_same() {
    let folder = Folder::new("merge");
    let a = folder.write("a.log", &log(1));
    let b = folder.write("b.log", &log(2));
    let merged = folder.path("merged");
    stdout(&monitor(&["merge", &a, &b, "-o", &merged]));
    let report = |logs: &[&str]| -> Value {
        let all: Vec<&str> = ["report", "--json"].iter().chain(logs).copied().collect();
        serde_json::from_str(&stdout(&monitor(&all))).expect("JSON")
    };
    let (expected, found) = (report(&[&a, &b]), report(&[&merged]));
    for part in [
        "events",
        "latency_us",
        "classes",
        "quality",
        "scores",
        "saturation",
        "alarms",
        "by_device",
        "periods",
        "sample_records",
    ] {
        assert_eq!(found["fleets"][0][part], expected["fleets"][0][part], "{part}");
    }
    // By the hour the timeline is the same, too.
    stdout(&monitor(&["merge", &a, &b, "-o", &merged, "--every", "3600"]));
    let found = report(&[&merged]);
    assert_eq!(found["fleets"][0]["drift"], expected["fleets"][0]["drift"]);
    // Onto one of its own logs, and a copy of it is no news.
    stdout(&monitor(&["merge", &a, &b, "-o", &a]));
    let found = report(&["--once", &a, &b]);
    assert_eq!(found["fleets"][0]["events"], expected["fleets"][0]["events"]);
    assert_eq!(found["log"]["repeated_periods"], 10);
}

#[test]
fn exports_are_what_other_tools_read() {
    let folder = Folder::new("export");
    let log = folder.write("a.log", &log(7));
    let rows = |arguments: &[&str]| -> Vec<Vec<String>> {
        let all: Vec<&str> =
            ["export", &log].iter().copied().chain(arguments.iter().copied()).collect();
        let text = stdout(&monitor(&all));
        text.lines().map(|line| line.trim_end().split(',').map(str::to_owned).collect()).collect()
    };
    let periods = rows(&["--csv"]);
    assert_eq!(periods.len(), 11);
    let column = |rows: &[Vec<String>], name: &str| -> Vec<String> {
        let at = rows[0].iter().position(|column| column == name).expect("a column");
        rows[1..].iter().map(|row| row[at].clone()).collect()
    };
    assert!(periods.iter().all(|row| row.len() == periods[0].len()));
    assert_eq!(column(&periods, "runs"), vec!["100"; 10]);
    assert_eq!(column(&periods, "complete"), vec!["1"; 10]);
    assert_eq!(column(&periods, "accuracy"), vec!["0.9"; 10]);
    assert_eq!(column(&periods, "latency_max_us")[9], "1900");
    assert_eq!(column(&rows(&["--csv", "--every", "36000"]), "runs").len(), 2);
    let every = rows(&["--csv", "--table", "counts"]);
    let total: u64 = every[1..]
        .iter()
        .filter(|row| row[4] == "period" && row[5] == "classes" && row[6] == "0")
        .map(|row| row[7].parse::<u64>().expect("a count"))
        .sum();
    assert_eq!(total, 500);
    assert_eq!(column(&rows(&["--csv", "--table", "alarms"]), "source"), vec!["feature"; 4]);

    let text = stdout(&monitor(&["export", &log, "--prometheus"]));
    for line in [
        "# TYPE whit_runs_total counter",
        "whit_runs_total{model=\"0000abcd00001234\",device=\"7\"} 1000",
        "whit_class_runs_total{model=\"0000abcd00001234\",device=\"7\",class=\"2\"} 200",
        "whit_alarms_total{model=\"0000abcd00001234\",device=\"7\",source=\"inputs\"} 4",
        "whit_latency_seconds_bucket{model=\"0000abcd00001234\",device=\"7\",le=\"+Inf\"} 1000",
        "whit_latency_seconds_count{model=\"0000abcd00001234\",device=\"7\"} 1000",
        "whit_accuracy{model=\"0000abcd00001234\",device=\"7\"} 0.9",
        "whit_log_damaged_bytes 0",
    ] {
        assert!(text.lines().any(|found| found == line), "{line}\n{text}");
    }
    // Every line is a comment or `name{labels} number`, every family stands together, buckets never fall.
    let (mut family, mut seen, mut below) = (String::new(), Vec::new(), 0.0);
    for line in text.lines() {
        if let Some(rest) = line.strip_prefix("# TYPE ") {
            family = rest.split(' ').next().expect("a name").to_owned();
            assert!(!seen.contains(&family), "{family} twice");
            seen.push(family.clone());
            continue;
        }
        if line.starts_with('#') {
            continue;
        }
        assert!(line.starts_with(&family), "{line}");
        let (name, value) = line.rsplit_once(' ').expect("a value");
        let value: f64 = value.parse().expect("a number");
        if name.contains("_bucket{") {
            assert!(value >= below, "{line}");
            below = if name.contains("+Inf") { 0.0 } else { value };
        }
    }
    let data: Value =
        serde_json::from_str(&stdout(&monitor(&["export", &log, "--otlp-json"]))).expect("JSON");
    let metrics =
        data["resourceMetrics"][0]["scopeMetrics"][0]["metrics"].as_array().expect("metrics");
    let metric =
        |name: &str| metrics.iter().find(|metric| metric["name"] == name).expect("a metric");
    assert_eq!(metric("whit_runs")["sum"]["dataPoints"][0]["asInt"], "1000");
    assert_eq!(
        metric("whit_runs")["sum"]["dataPoints"][0]["startTimeUnixNano"],
        "1700000000000000000"
    );
    let latency = &metric("whit_latency_seconds")["histogram"]["dataPoints"][0];
    let lengths =
        ["bucketCounts", "explicitBounds"].map(|key| latency[key].as_array().map_or(0, Vec::len));
    assert_eq!((lengths[0], latency["count"].as_str()), (lengths[1] + 1, Some("1000")));
}

#[test]
fn kept_inputs_come_back() {
    let folder = Folder::new("samples");
    let log = folder.write("a.log", &log(7));
    let npz = folder.path("samples.npz");
    let said = stdout(&monitor(&["samples", &log, "-o", &npz, "--limit", "3"]));
    assert!(said.contains("3 inputs as `input`, the least certain first"), "{said}");
    let mut archive =
        zip::ZipArchive::new(std::fs::File::open(&npz).expect("a file")).expect("an archive");
    let mut array = |name: &str| {
        let mut bytes = Vec::new();
        archive.by_name(name).expect(name).read_to_end(&mut bytes).expect("bytes");
        bytes
    };
    let input = array("input.npy");
    assert!(
        String::from_utf8_lossy(&input).contains("'|i1', 'fortran_order': False, 'shape': (3, 6)")
    );
    // Of the periods 9, 8 and 7, whose confidence is lowest.
    let expected: Vec<u8> =
        [9u8, 8, 7].iter().flat_map(|s| (0..6).map(move |byte| byte * s)).collect();
    assert_eq!(input[input.len() - 18..], expected);
    let ids = array("run_id.npy");
    let expected: Vec<u8> = [907i64, 807, 707].iter().flat_map(|id| id.to_le_bytes()).collect();
    assert_eq!(ids[ids.len() - 24..], expected);
}

#[test]
fn bad_input_is_told() {
    let folder = Folder::new("bad");
    let good = folder.write("good.log", &log(1));
    let whole = log(1);
    let empty = folder.write("empty.log", b"");
    let text = folder.write("text.log", b"no records here, only words");
    let cut = folder.write("cut.log", &whole[..whole.len() - 3]);
    let mut flipped = whole.clone();
    flipped[400] ^= 16;
    let flipped = folder.write("flipped.log", &flipped);
    let mut newer = [0; 256];
    let newer =
        Header { version: LOG_VERSION + 1, ..header(1) }.encode(&mut newer).expect("room").to_vec();
    let newer = folder.write("newer.log", &newer);
    let mut other = [0; 256];
    let other = Header { model: 99, ..header(1) }.encode(&mut other).expect("room").to_vec();
    let other_header = Header { model: 99, ..header(1) };
    let head = Head { periods: 1, ..Head::default() };
    let record = counts(&other_header, Kind::Period, head, &|group, index| {
        u64::from((group, index) == (Group::Events, 0))
    });
    let other = folder.write("other.log", &[other, record].concat());
    let example = example("digits.onnx");
    std::fs::create_dir(folder.path("nothing")).expect("a folder");
    let nothing = folder.path("nothing");
    let missing = folder.path("missing.log");
    struct Case<'c> {
        arguments: Vec<&'c str>,
        /// Exit status.
        status: i32,
        /// Part of what is said.
        says: &'c str,
    }
    let case = |arguments: &[&'static str], log: &str, status: i32, says: &'static str| {
        (arguments.to_vec(), log.to_owned(), status, says)
    };
    let cases = [
        case(&["report"], &missing, 1, "no such file or folder"),
        case(&["report"], &nothing, 1, "the folder has no files"),
        case(&["report"], &empty, 1, "no records of a monitor (0 bytes)"),
        case(&["report"], &text, 1, "no records of a monitor (27 bytes)"),
        case(&["report"], &newer, 1, "version 2, this build reads 1"),
        case(&["report"], &cut, 0, "1 log ends within a record"),
        case(&["report"], &flipped, 0, "damage in 1 place of a log"),
        case(&["report", "--device", "8"], &good, 1, "records were not asked for"),
        case(&["report", "--model-id", "xyz"], &good, 2, "16 hexadecimal digits"),
        case(&["report"], "", 2, "LOG"),
        case(&["export"], &good, 2, "--csv"),
        case(&["export", "--csv", "--prometheus"], &good, 2, "cannot be used with"),
        case(&["export", "--parquet"], &good, 2, "--output"),
        case(&["export", "--csv", "--every", "0"], &good, 2, "0"),
        case(
            &["export", "--csv", "--every", "5", "--table", "alarms"],
            &good,
            1,
            "--table periods",
        ),
        case(&["merge", "-o", "/nonexistent/out.log"], &good, 1, "/nonexistent/out.log"),
        case(&["samples", "-o", "/nonexistent/out.npz"], &good, 1, "/nonexistent/out.npz"),
        case(&["samples", "-o", "/nonexistent/out.npz"], &other, 1, "no inputs kept for labelling"),
        case(&["serve", "--listen", "nowhere"], &good, 1, "--listen nowhere"),
        case(&["serve"], &missing, 1, "no such file or folder"),
    ];
    for (arguments, log, status, says) in &cases {
        let mut arguments = arguments.clone();
        if !log.is_empty() {
            arguments.push(log);
        }
        let case = Case { arguments, status: *status, says };
        let output = monitor(&case.arguments);
        let said = [&output.stdout[..], &output.stderr[..]].concat();
        let said = String::from_utf8_lossy(&said);
        assert_eq!(output.status.code(), Some(case.status), "{:?}\n{said}", case.arguments);
        assert!(said.contains(case.says), "{:?}\n{said}", case.arguments);
    }
    // A log of another model than the file, or two models at once.
    let whit_file = folder.path("digits.whit");
    succeed(&["convert", &example, "-o", &whit_file]);
    let output = monitor(&["report", "--model", &whit_file, &good]);
    assert_eq!(output.status.code(), Some(1));
    assert!(String::from_utf8_lossy(&output.stderr).contains("the logs are of 0000abcd00001234"));
    let said = stdout(&monitor(&["report", &good, &other]));
    assert!(said.contains("The logs are of 2 models in 2 configurations"), "{said}");
    assert!(
        monitor(&["samples", "--model", &whit_file, "-o", &folder.path("s.npz"), &good])
            .status
            .code()
            == Some(1)
    );
}

#[test]
fn the_endpoint_answers_with_what_the_logs_say_now() {
    let folder = Folder::new("serve");
    let path = folder.write("a.log", &log(7));
    let mut server = command(&["monitor", "serve", &path, "--listen", "127.0.0.1:0"])
        .stdout(Stdio::piped())
        .spawn()
        .expect("whit");
    let mut line = String::new();
    BufReader::new(server.stdout.take().expect("a pipe")).read_line(&mut line).expect("a line");
    let address = line
        .strip_prefix("http://")
        .and_then(|rest| rest.split('/').next())
        .expect("an address")
        .to_owned();
    let ask = |method: &str, what: &str, host: &str| -> (String, String) {
        let mut stream = TcpStream::connect(&address).expect("a connection");
        write!(stream, "{method} {what} HTTP/1.0\r\nHost: {host}\r\nConnection: close\r\n\r\n")
            .expect("a request");
        let mut answer = String::new();
        stream.read_to_string(&mut answer).expect("an answer");
        let (head, body) = answer.split_once("\r\n\r\n").expect("a head");
        (head.lines().next().unwrap_or("").to_owned(), body.to_owned())
    };
    let result = std::panic::catch_unwind(|| {
        let (status, body) = ask("GET", "/", &address);
        assert!(status.contains("200") && body.contains("What to look at"), "{status}");
        let (status, body) = ask("GET", "/metrics", "localhost");
        assert!(status.contains("200") && body.contains("device=\"7\"} 1000"), "{status}");
        let (status, body) = ask("GET", "/report.json?x", &address);
        assert!(status.contains("200") && body.contains("\"runs\":1000"), "{status} {body}");
        for (method, what, host, expected) in [
            ("GET", "/secret", &*address, "404"),
            ("POST", "/", &*address, "405"),
            ("GET", "/", "evil.example:80", "403"),
        ] {
            let (status, _) = ask(method, what, host);
            assert!(status.contains(expected), "{method} {what}: {status}");
        }
        // More of the log, then none at all.
        folder.write("a.log", &[log(7), log(8)].concat());
        assert!(ask("GET", "/metrics", &address).1.contains("device=\"8\"} 1000"));
        std::fs::remove_file(&path).expect("the log");
        assert!(ask("GET", "/metrics", &address).0.contains("500"));
        folder.write("a.log", &log(7));
        assert!(ask("GET", "/metrics", &address).0.contains("200"));
    });
    let _ = server.kill();
    let _ = server.wait();
    result.expect("answers");
}

#[test]
fn recorded_logs_say_what_eval_says() {
    let folder = Folder::new("record");
    let (onnx, data) = (example("digits.onnx"), example("digits-test.npz"));
    let (model, log) = (folder.path("digits.whit"), folder.path("digits.log"));
    let calib = example("digits-calib.npz");
    succeed(&[
        "convert",
        &onnx,
        "-o",
        &model,
        "--quantize",
        "int8",
        "--calibrate",
        &calib,
        "--monitor",
        "default",
    ]);
    let arguments = ["monitor", "record", &model, "--data", &data, "-o", &log];
    let more =
        ["--device", "5", "--interval", "60", "--label-delay", "40", "--sketch", "confidence"];
    let said = json(&[&arguments[..], &more].concat());
    let eval = json(&["eval", &model, "--data", &data, "--resamples", "0"]);
    let report = json(&["monitor", "report", &log, "--model", &model]);
    let [fleet] = &report["fleets"].as_array().expect("fleets")[..] else { panic!("{report}") };
    let runs = said["runs"].as_u64().expect("a number");
    assert_eq!(fleet["events"]["runs"], runs);
    assert_eq!(fleet["events"]["labels"], runs, "late ones, too");
    assert_eq!(fleet["periods"], runs.div_ceil(100) + 1, "the start, too");
    assert_eq!(fleet["devices"], serde_json::json!([5]));
    let span = fleet["end_s"].as_u64().expect("s") - fleet["start_s"].as_u64().expect("s");
    assert_eq!(span, 60 * runs);
    assert_eq!(fleet["quality"]["accuracy"]["value"], eval["accuracy"]);
    assert_eq!(fleet["quality"]["confusion"], eval["confusion"]);
    let quantiles = &fleet["quantiles"][0];
    assert_eq!(
        (&quantiles["signal"], quantiles["count"].as_u64()),
        (&"confidence".into(), Some(runs))
    );

    // Another start goes on with the log.
    succeed(&arguments);
    let report = json(&["monitor", "report", &log]);
    let events: Vec<u64> = (report["fleets"].as_array().expect("fleets").iter())
        .map(|fleet| fleet["events"]["starts"].as_u64().expect("a number"))
        .collect();
    assert_eq!(events, [2], "of two devices");
    fail(&["monitor", "record", &model, "--data", &data, "-o", &onnx], &["digits.onnx"]);
    let inputs = folder.write("x/x.npy", &npy_f32(&[2, 64], &[1.0; 128]));
    let unlabelled = inputs.trim_end_matches("/x.npy");
    let quiet = folder.path("quiet.log");
    succeed(&["monitor", "record", &model, "--data", unlabelled, "-o", &quiet]);
    let report = json(&["monitor", "report", &quiet]);
    assert_eq!(report["fleets"][0]["events"]["labels"], 0);
    let plain = folder.path("plain.whit");
    succeed(&["convert", &onnx, "-o", &plain]);
    let output = whit(&["monitor", "record", &plain, "--data", &data, "-o", &folder.path("p.log")]);
    assert!(output.status.success() && text(&output.stderr).contains("--scores"), "{output:?}");
}
