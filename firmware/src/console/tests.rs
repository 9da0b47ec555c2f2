//! The device on its serial port: its commands, the benchmark's, and garbage.

use std::vec::Vec;

use whit::Options;

use super::*;
use crate::fixtures::{ELEMENTS, classifier};
use crate::testing::{FakeClock, FakeFlash, FakeSerial};
use crate::{Decision, Log, NoWatchdog, Policy, Score, SensorFault};

const SLOT: u32 = 8192;
const MEMORY_BYTES: usize = 4096;

type Flash = FakeFlash<4, 1024>;
type Bench<'b> =
    Device<Flash, Flash, 2, FakeSerial, FakeClock, NoWatchdog, Log<Flash, 8>, Benchmark<'b>, 160>;

fn device<'b>(flash: &Flash, serial: &FakeSerial, buffer: &'b mut [u8]) -> Bench<'b> {
    let ranges = [0..SLOT, SLOT..2 * SLOT];
    let slots = Slots::new(flash.clone(), flash.clone(), ranges, Policy::default()).unwrap();
    let log = Log::new(flash.clone(), 2 * SLOT..2 * SLOT + 2048, 100).unwrap();
    let input = BenchmarkInput::Raw;
    let commands = Benchmark::new("kws01", "whit", input, BenchmarkResults::Output, buffer);
    let clock = FakeClock::at(1000);
    clock.advance_each_reading(10);
    let options = Options::default();
    Device::new(slots, serial.clone(), clock, NoWatchdog, log, commands, options)
}

fn flash() -> Flash {
    Flash::new(2 * SLOT as usize + 2048)
}

/// A device, its memory and a session on it; each text sent gives the answer without the last line.
struct Rig<'b> {
    device: Bench<'b>,
    serial: FakeSerial,
    memory: Vec<u8>,
}

impl<'b> Rig<'b> {
    fn new(flash: &Flash, buffer: &'b mut [u8]) -> Self {
        let serial = FakeSerial::new();
        let device = device(flash, &serial, buffer);
        Rig { device, serial, memory: vec![0; MEMORY_BYTES] }
    }

    /// Sends text, polls until it is used up, and restarts when told to.
    fn send(&mut self, bytes: impl AsRef<[u8]>) -> String {
        self.serial.send(bytes);
        let mut answers = String::new();
        'start: loop {
            let mut session = self.device.boot(&mut self.memory);
            // What a start says is the same each time, and another test's matter.
            let _ = self.serial.received();
            while self.serial.unread() > 0 {
                let action = self.device.poll(session.as_mut(), 0);
                answers += &self.serial.received();
                if action == Action::Restart {
                    continue 'start;
                }
            }
            return answers;
        }
    }

    fn upload(&mut self, file: &[u8], version: u32) {
        let mut lines = format!("update begin {} {version} {:x}\n", file.len(), crc32(file));
        for (number, chunk) in file.chunks(64).enumerate() {
            lines += &put(64 * number, chunk);
        }
        let answers = self.send(lines + "update end\n");
        assert!(!answers.contains("\ne-[") && answers.contains("m-done"), "{answers}");
    }
}

fn put(offset: usize, chunk: &[u8]) -> String {
    let digits: String = chunk.iter().map(|byte| format!("{byte:02X}")).collect();
    format!("update put {offset} {digits} {:08x}\n", crc32(chunk))
}

#[test]
fn a_device_without_a_model_answers_and_takes_one() {
    let flash = flash();
    let mut buffer = [0; 64];
    let mut rig = Rig::new(&flash, &mut buffer);
    let conversation = [
        ("status\r\n", "m-status-[no model]\r\nm-counters-[inferences=0,"),
        ("slots\n", "m-slot-[0,empty]\r\nm-slot-[1,empty]\r\nm-ready"),
        ("selftest\n", "e-[No model]\r\nm-ready"),
        ("infer 1 0%", "e-[No model]\r\nm-ready"),
        ("results%", "e-[No model]\r\nm-ready"),
        ("confirm\n", "e-[No model runs from a slot]\r\nm-ready"),
        ("rollback\n", "e-[No model runs from a slot]\r\nm-ready"),
    ];
    for (command, answer) in conversation {
        let given = rig.send(command);
        assert!(given.starts_with(answer), "{command}: {given}");
    }
    let file = classifier(0, |_| ());
    rig.upload(&file, 5);
    let crc = crc32(&file);
    let slot = format!("version=5,sequence=1,bytes={},crc={crc:08x}]\r\n", file.len());
    // `send` starts the device, so it is good at once.
    assert!(rig.send("slots\n").starts_with(&format!("m-slot-[0,good,{slot}")));
    assert!(rig.send("status\n").starts_with("m-status-[model=0,version=5,"));
    assert_eq!(rig.send("selftest\n"), "m-selftest-[passed,cases=2,outputs=2]\r\nm-ready\r\n");
    // The same again is refused; another runs after a restart; back again.
    let same = format!("update begin {} 6 {crc:08x}\n", file.len());
    assert_eq!(rig.send(same), "e-[The version may not replace the running one]\r\nm-ready\r\n");
    rig.upload(&classifier(100, |_| ()), 6);
    assert!(rig.send("restart\nstatus\n").contains("m-status-[model=1,version=6,"));
    assert!(rig.send("rollback\nstatus\n").contains("m-status-[model=0,version=5,"));
    assert!(rig.send("rollback\n").starts_with("e-[It would take away the last good model]"));
}

#[test]
fn a_start_greets_as_the_benchmark_expects() {
    let (flash, mut buffer, serial) = (flash(), [0; 64], FakeSerial::new());
    let mut device = device(&flash, &serial, &mut buffer);
    assert!(device.boot(&mut []).is_none());
    // One reading for the event.
    let lines = "m-timestamp-mode-performance\r\nm-lap-us-1010\r\nm-init-done\r\nm-ready\r\n";
    assert_eq!(serial.received(), lines);
}

#[test]
fn the_benchmark_answers_as_its_runner_reads_it() {
    let flash = flash();
    let mut buffer = [0; 2 * ELEMENTS];
    let mut rig = Rig::new(&flash, &mut buffer);
    rig.upload(&classifier(0, |_| ()), 1);
    let [m, e] = ["m-", "e-"];
    // The input is -3 + 32 x: element 5 is 1, the others 0; softmax gives 1/(7 + e) = 26/256
    // and e/(7 + e) = 72/256.
    let results = "m-results-[0.102,0.102,0.102,0.102,0.102,0.281,0.102,0.102]";
    let cases: &[(&str, &[String])] = &[
        ("name", &[format!("{m}name-dut-[whit]")]),
        (
            "profile",
            &[
                format!("{m}profile-[ULPMark for tinyML Firmware V0.0.1]"),
                format!("{m}model-[kws01]"),
            ],
        ),
        ("db", &[format!("{e}[Command 'db' requires a subcommand]")]),
        ("db load", &[format!("{e}[Command 'db load' requires the # of bytes]")]),
        ("db load 0", &[format!("{e}[Command 'db load' must be >0 bytes]")]),
        ("db load -1", &[format!("{e}[Command 'db load' must be >0 bytes]")]),
        ("db load 17", &[format!("{e}[Supplied buffer size 17 exceeds maximum of 16]")]),
        ("db fd", &[format!("{e}[Command 'db load' must come first]")]),
        ("infer 1 0", &[format!("{e}[The input doesn't fit the model]")]),
        ("db load 8", &[format!("{m}[Expecting 8 bytes]")]),
        ("db fdf", &[format!("{e}[Insufficent number of hex digits]")]),
        ("db fdzz", &[format!("{e}[Invalid hex digit 'zz']")]),
        ("db fdfdFDfd", &[]),
        ("db fd1dfdfdaaaa", &[format!("{m}load-done")]),
        ("db 00", &[format!("{e}[Command 'db load' must come first]")]),
        ("db print", &[format!("{m}buffer-fd-fd-fd-fd-fd-1d-fd-fd")]),
        ("db print 2 4", &[format!("{m}buffer-fd-1d"), String::new()]),
        ("infer 0", &[format!("{e}[Inference iterations must be >0]")]),
        ("infer x", &[format!("{e}[Inference iterations must be >0]")]),
        ("infer 1 -1", &[format!("{e}[Inference warmup must be >=0]")]),
        ("unknown\u{1b}[2J", &[format!("{e}[Unknown command: unknown?[2J]")]),
        (
            "infer",
            &[
                format!("{m}warmup-start-10"),
                format!("{m}warmup-done"),
                format!("{m}infer-start-1"),
                format!("{m}lap-us-1310"),
                format!("{m}lap-us-1320"),
                format!("{m}infer-done"),
                results.to_owned(),
            ],
        ),
    ];
    for (command, lines) in cases {
        let given = rig.send(format!("{command}%"));
        let expected: String =
            lines.iter().map(|line| format!("{line}\r\n")).collect::<String>() + "m-ready\r\n";
        let masked = |text: &str| -> Vec<String> {
            text.lines()
                .map(|line| if line.starts_with("m-lap-us-") { "m-lap-us-" } else { line })
                .map(str::to_owned)
                .collect()
        };
        assert_eq!(masked(&given), masked(&expected), "{command}");
    }
    // Timestamps are readings of the clock around the runs.
    let laps = |text: String| -> Vec<u32> {
        text.lines().filter_map(|line| line.strip_prefix("m-lap-us-")?.parse().ok()).collect()
    };
    let times = laps(rig.send("infer 3 0%"));
    assert!(matches!(times[..], [start, end] if end == start + 10), "{times:?}");
    let times = laps(rig.send("timestamp%timestamp%"));
    assert!(matches!(times[..], [first, second] if second == first + 10), "{times:?}");
    // However many runs, the results are those of the input; the help names the commands.
    assert!(rig.send("infer 7 3%").contains(results));
    assert!(rig.send("help%").starts_with("ULPMark for tinyML Firmware V0.0.1\r\n\r\nname"));
}

#[test]
fn the_benchmark_takes_pixels_and_floats() {
    let flash = flash();
    let mut buffer = [0u8; 4 * ELEMENTS + 3];
    let skip = buffer.as_ptr().align_offset(4);
    let mut rig = Rig::new(&flash, &mut buffer[skip..]);
    rig.upload(&classifier(0, |_| ()), 1);
    let expected = rig.send("db load 8%db fdfdfdfdfd1dfdfd%infer 1 0%");
    let expected = expected.lines().find(|line| line.starts_with("m-results")).unwrap().to_owned();
    rig.device.commands.input = BenchmarkInput::Unsigned;
    // 0x7d is 0xfd and 128.
    assert!(rig.send("db load 8%db 7d7d7d7d7d9d7d7d%infer 1 0%").contains(&expected));
    rig.device.commands.input = BenchmarkInput::Float;
    let floats = |values: [f32; ELEMENTS]| -> String {
        values.iter().flat_map(|v| v.to_le_bytes()).map(|byte| format!("{byte:02x}")).collect()
    };
    let input = floats([0.0, 0.0, 0.0, 0.0, 0.0, 1.0, 0.0, 0.0]);
    assert!(rig.send(format!("db load 32%db {input}%infer 2 1%")).contains(&expected));
    // The error against the input itself: ((1 - 0.28125)² + 7 · 0.1015625²) / 8.
    rig.device.commands.results = BenchmarkResults::Error;
    assert!(rig.send("infer 1 0%").contains("m-results-[0.074]"));
}

#[test]
fn serial_garbage_is_answered_and_does_nothing() {
    let flash = flash();
    let mut buffer = [0; 64];
    let mut rig = Rig::new(&flash, &mut buffer);
    let (old, new) = (classifier(0, |_| ()), classifier(500, |_| ()));
    rig.upload(&old, 1);
    let status = rig.send("status\n");
    assert!(status.contains("version=1"));
    let too_long = "x".repeat(161);
    let wrong_crc = put(0, &new[..64]).replace("update put 0 57", "update put 0 58");
    let usage = "e-[Usage: update begin BYTES VERSION CRC | put OFFSET HEX CRC | end | abort]";
    let damaged = "e-[Line is too long or damaged]";
    let no_upload = "e-[No upload has begun]";
    let begin = format!("update begin {} 2 {:x}", new.len(), crc32(&new));
    // (what is sent, what is answered before the m-ready)
    let cases: Vec<(String, &str)> = vec![
        // Lengths of lines.
        (too_long.clone(), damaged),
        (format!("{too_long}{too_long}"), damaged),
        ("x".repeat(160), "e-[Unknown command: xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx]"),
        // Wrong order.
        ("update end".into(), no_upload),
        (put(0, &new[..64]).trim_end().into(), no_upload),
        ("update".into(), usage),
        ("update now".into(), usage),
        ("update begin".into(), usage),
        ("update begin 1 2".into(), usage),
        ("update begin 1 2 123456789".into(), usage),
        ("update begin 4294967296 2 0".into(), usage),
        ("update begin 4294967295 2 0".into(), "e-[The length doesn't fit a slot or a model]"),
        (format!("{begin} 1"), usage),
        (begin.clone(), "m-update-[slot=1,next=0]"),
        ("update end".into(), "e-[The file is incomplete; next=0]"),
        (put(64, &new[64..128]).trim_end().into(), "e-[Not the next chunk; next=0]"),
        (wrong_crc.trim_end().into(), "e-[Wrong CRC of the chunk]"),
        ("update put 0 5 0".into(), "e-[Not hexadecimal]"),
        ("update put 0 5g 0".into(), "e-[Not hexadecimal]"),
        ("update put 0".into(), usage),
        ("update put -1 00 d202ef8d".into(), usage),
        // And in the right one after all that.
        (put(0, &new[..64]).trim_end().into(), "m-update-[next=64]"),
        (put(0, &new[..64]).trim_end().into(), "m-update-[next=64]"),
        ("update abort".into(), "m-done"),
        ("update end".into(), no_upload),
    ];
    // Without restarts in between, which would drop the upload.
    let mut session = rig.device.boot(&mut rig.memory);
    let _ = rig.serial.received();
    for (line, answer) in cases {
        rig.serial.send(format!("{line}\n"));
        while rig.serial.unread() > 0 {
            assert_eq!(rig.device.poll(session.as_mut(), 0), Action::Continue);
        }
        assert_eq!(rig.serial.received(), format!("{answer}\r\nm-ready\r\n"), "{line}");
    }
    drop(session);
    // Empty lines say nothing, an empty command that it is there.
    assert_eq!(rig.send("\r\n\n\r\n"), "");
    assert_eq!(rig.send("%"), "m-ready\r\n");
    assert_eq!(rig.send("status\n"), status);

    // Noise: random bytes, and random bytes in real commands. `restart` and `rollback` may come of it,
    // another model not.
    let mut random = 0x1234_5678_9abc_def1u64;
    let mut next = |below: usize| {
        random ^= random << 13;
        random ^= random >> 7;
        random ^= random << 17;
        (random % below as u64) as usize
    };
    let commands = ["status", "slots", "selftest", "log", "help", "db load 8", "db 00", "results"];
    let mut answered = 0;
    for round in 0..3000 {
        let mut line = match round % 3 {
            0 => (0..next(300)).map(|_| next(256) as u8).collect(),
            1 => commands[next(commands.len())].as_bytes().to_vec(),
            _ => put(64 * next(40), &new[..1 + next(64)]).into_bytes(),
        };
        for _ in 0..next(4) {
            if !line.is_empty() {
                let place = next(line.len());
                line[place] = next(256) as u8;
            }
        }
        line.push(b'%');
        answered += usize::from(rig.send(line).contains("m-ready"));
    }
    assert_eq!(answered, 3000, "every terminated line is answered");
    assert!(rig.send("status\n").contains("m-status-[model=0,version=1,"));

    // An upload through noise: every second line is garbage, and the file arrives.
    let mut lines = format!("{begin}\n").into_bytes();
    for (number, chunk) in new.chunks(64).enumerate() {
        lines.extend((0..next(200)).map(|_| next(256) as u8).filter(|byte| *byte != b'r'));
        lines.push(b'\n');
        lines.extend(put(64 * number, chunk).bytes());
    }
    lines.extend(b"update end\nrestart\n");
    let answers = rig.send(lines);
    assert!(answers.contains("m-done"), "{answers}");
    assert!(rig.send("status\n").contains("m-status-[model=1,version=2,"));
}

#[test]
fn a_port_that_loses_bytes_spoils_the_line_not_the_device() {
    /// Fails every seventh read.
    struct Noisy(FakeSerial, u32);
    #[derive(Debug)]
    struct Overrun;
    impl core::fmt::Display for Overrun {
        fn fmt(&self, f: &mut core::fmt::Formatter<'_>) -> core::fmt::Result {
            f.write_str("overrun")
        }
    }
    impl core::error::Error for Overrun {}
    impl embedded_io::Error for Overrun {
        fn kind(&self) -> embedded_io::ErrorKind {
            embedded_io::ErrorKind::Other
        }
    }
    impl embedded_io::ErrorType for Noisy {
        type Error = Overrun;
    }
    impl Read for Noisy {
        fn read(&mut self, bytes: &mut [u8]) -> Result<usize, Overrun> {
            self.1 += 1;
            let Ok(count) = self.0.read(bytes);
            if self.1.is_multiple_of(7) { Err(Overrun) } else { Ok(count) }
        }
    }
    impl ReadReady for Noisy {
        fn read_ready(&mut self) -> Result<bool, Overrun> {
            Ok(self.0.unread() > 0)
        }
    }
    impl Write for Noisy {
        fn write(&mut self, bytes: &[u8]) -> Result<usize, Overrun> {
            let Ok(count) = self.0.write(bytes);
            Ok(count)
        }
        fn flush(&mut self) -> Result<(), Overrun> {
            Err(Overrun)
        }
    }
    let (flash, serial) = (flash(), FakeSerial::new());
    let slots =
        Slots::new(flash.clone(), flash, [0..SLOT, SLOT..2 * SLOT], Policy::default()).unwrap();
    let port = Noisy(serial.clone(), 0);
    let clock = FakeClock::default();
    let mut device = Device::<_, _, 2, _, _, _, _, _, 32>::new(
        slots,
        port,
        clock,
        NoWatchdog,
        (),
        (),
        Options::default(),
    );
    // Bytes 1 to 6 and a terminator that is lost with byte 7; then 8 to 13, of which none is lost.
    for (text, answer) in [
        ("abcdef%", ""),
        ("x%", "e-[Line is too long or damaged]"),
        ("yyy%", "e-[Unknown command: yyy]"),
    ] {
        serial.send(text);
        while serial.unread() > 0 {
            assert_eq!(device.poll(None, 0), Action::Continue);
        }
        let ready = if answer.is_empty() { "" } else { "\r\nm-ready\r\n" };
        assert_eq!(serial.received(), format!("{answer}{ready}"), "{text}");
    }
}

#[test]
fn the_log_is_read_out_with_what_happened() {
    let flash = flash();
    let mut buffer = [0; 64];
    let mut rig = Rig::new(&flash, &mut buffer);
    let decision = Decision { class: 3, score: Score::from_real(-0.5), fired: true };
    let events = [
        Event::Inference { latency_us: 5, missed: true, decision },
        Event::Inference {
            latency_us: 7,
            missed: false,
            decision: Decision { fired: false, ..decision },
        },
        Event::Sensor(SensorFault::Timeout),
        Event::Skipped,
    ];
    for (number, event) in events.iter().enumerate() {
        rig.device.environment.record.record(number as u32, event);
    }
    // Without a session there is time to write one of them; the start writes the rest.
    assert_eq!(flash.operations(), 0);
    assert_eq!(rig.device.poll(None, 0), Action::Continue);
    assert!(flash.operations() > 0);
    let lines = rig.send("log\nstatus\n");
    let expected = "m-log-[us=0,fired,detail=0,class=3,value=-32768]\r\n\
                    m-log-[us=2,sensor-timeout,detail=0,class=0,value=0]\r\n\
                    m-log-[us=1000,no-model,detail=0,class=0,value=0]\r\nm-ready\r\n";
    assert!(lines.starts_with(expected), "{lines}");
    let counters = "inferences=2,missed=1,failed=0,skipped=1,fired=1,sensor-errors=0,\
                    sensor-timeouts=1,last-us=7,min-us=5,max-us=7,sum-us=12]";
    assert!(lines.contains(counters), "{lines}");
}
