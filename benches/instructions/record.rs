//! Recorded counts of instructions: a text file with one count a line.

use std::fmt::{self, Write};

/// A count may be larger than its record by so many percent: what a change elsewhere moves in the compiler's choices, and
/// more than a C library's `memcpy` makes from one machine to the next.
const MOST_PERCENT: u128 = 3;

const HEAD: &str = "\
# Instructions of one call, counted by callgrind. `.ci/instructions` compares them and `.ci/instructions --write` records them:
# whoever makes a kernel slower by more than 3 % changes its figure here in the same commit, and says why.
# Columns: instruction set, instructions, case. Models are examples/digits in float and int8, on one thread.
# Another compiler makes other code: on its own it can be the reason for a difference.
";

/// One figure.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Count {
    pub(crate) isa: String,
    pub(crate) name: String,
    pub(crate) instructions: u64,
}

/// Figures, and what compiled the code.
#[derive(Debug, PartialEq)]
pub(crate) struct Record {
    pub(crate) compiler: String,
    pub(crate) counts: Vec<Count>,
}

/// The total of a file of callgrind, if it isn't 0.
pub(crate) fn total(file: &str) -> Option<u64> {
    let line = file.lines().find_map(|line| line.strip_prefix("totals: "))?;
    line.split_whitespace().next()?.parse().ok().filter(|total| *total > 0)
}

impl Record {
    pub(crate) fn parse(text: &str) -> Result<Record, String> {
        let mut record = Record { compiler: String::new(), counts: vec![] };
        for line in text.lines() {
            if let Some(compiler) = line.strip_prefix("compiler ") {
                compiler.clone_into(&mut record.compiler);
            } else if !line.is_empty() && !line.starts_with('#') {
                let wrong = || format!("not an instruction set, a number and a name: {line}");
                let (isa, rest) = line.split_once(' ').ok_or_else(wrong)?;
                let (number, name) = rest.trim_start().split_once(' ').ok_or_else(wrong)?;
                let instructions = number.parse().map_err(|_| wrong())?;
                let (isa, name) = (isa.to_owned(), name.trim_start().to_owned());
                record.counts.push(Count { isa, name, instructions });
            }
        }
        Ok(record)
    }

    fn find(&self, like: &Count) -> Option<&Count> {
        self.counts.iter().find(|count| count.isa == like.isa && count.name == like.name)
    }

    /// A table of what is recorded and what is `now`, and whether that is allowed.
    pub(crate) fn compare(&self, now: &Record) -> (String, bool) {
        let (mut table, mut wrong, mut less) = (String::new(), vec![], vec![]);
        let mut row = |isa: &str, name: &str, recorded: &str, now: &str, change: &str| {
            let _ = writeln!(table, "{isa:7} {name:34} {recorded:>12} {now:>12} {change:>8}");
        };
        row("isa", "case", "recorded", "now", "change");
        let measured = |isa: &str| now.counts.iter().any(|count| count.isa == isa);
        for old in &self.counts {
            let Count { isa, name, instructions } = old;
            let before = instructions.to_string();
            let Some(new) = now.find(old) else {
                row(isa, name, &before, "-", "");
                if measured(isa) {
                    wrong.push(format!("{isa} {name} is recorded, but isn't measured any more"));
                }
                continue;
            };
            let percent = (new.instructions as f64 / (*instructions).max(1) as f64 - 1.0) * 100.0;
            row(isa, name, &before, &new.instructions.to_string(), &format!("{percent:+.2} %"));
            let (old, new) = (u128::from(*instructions), u128::from(new.instructions));
            if new * 100 > old * (100 + MOST_PERCENT) {
                // Another compiler can be the reason.
                let list = if self.compiler == now.compiler { &mut wrong } else { &mut less };
                list.push(format!("{isa} {name} takes {percent:.1} % more instructions"));
            } else if new * 100 < old * (100 - MOST_PERCENT) {
                less.push(format!("{isa} {name} takes {:.1} % less: record it", -percent));
            }
        }
        for new in now.counts.iter().filter(|new| self.find(new).is_none()) {
            row(&new.isa, &new.name, "-", &new.instructions.to_string(), "");
            wrong.push(format!("{} {} isn't recorded", new.isa, new.name));
        }
        for (at, old) in self.counts.iter().enumerate() {
            if !measured(&old.isa) && self.counts[..at].iter().all(|other| other.isa != old.isa) {
                less.push(format!("this CPU has no {}: its counts are not compared", old.isa));
            }
        }
        if self.compiler != now.compiler {
            less.push(format!("recorded with {}, this is {}", self.compiler, now.compiler));
        }
        if now.counts.is_empty() {
            wrong.push("nothing was measured".to_owned());
        }
        for line in &less {
            let _ = writeln!(table, "note: {line}");
        }
        for line in &wrong {
            let _ = writeln!(table, "error: {line}");
        }
        if !wrong.is_empty() {
            table.push_str("If that is intended: .ci/instructions --write, in the same commit.\n");
        }
        (table, wrong.is_empty())
    }
}

impl fmt::Display for Record {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{HEAD}compiler {}", self.compiler)?;
        for Count { isa, name, instructions } in &self.counts {
            writeln!(f, "{isa:7} {instructions:>11} {name}")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn record(counts: &[(&str, &str, u64)]) -> Record {
        let counts = counts.iter().map(|(isa, name, instructions)| Count {
            isa: (*isa).into(),
            name: (*name).into(),
            instructions: *instructions,
        });
        Record { compiler: "rustc 1".into(), counts: counts.collect() }
    }

    #[test]
    fn what_is_written_is_read() {
        let written = record(&[("scalar", "conv/3x3 1-2", 7), ("avx2", "add", 12_345_678_901)]);
        assert_eq!(Record::parse(&written.to_string()), Ok(written));
        for wrong in ["scalar", "scalar 7", "scalar seven conv", "7 scalar conv"] {
            assert!(Record::parse(wrong).is_err(), "{wrong}");
        }
    }

    #[test]
    fn totals_are_found() {
        for (file, want) in [
            ("version: 1\nevents: Ir\nsummary: 5\ntotals: 1234\n", Some(1234)),
            ("totals: 12 34\n", Some(12)),
            ("totals: 0\n", None),
            ("version: 1\n", None),
        ] {
            assert_eq!(total(file), want, "{file}");
        }
    }

    #[test]
    fn growth_and_gaps_fail() {
        struct Case {
            now: &'static [(&'static str, &'static str, u64)],
            passes: bool,
            says: &'static str,
        }
        let recorded = record(&[("scalar", "a b", 1000), ("avx2", "a b", 500)]);
        let cases = [
            Case {
                now: &[("scalar", "a b", 1000), ("avx2", "a b", 500)],
                passes: true,
                says: "+0.00 %",
            },
            Case {
                now: &[("scalar", "a b", 1030), ("avx2", "a b", 500)],
                passes: true,
                says: "+3.00 %",
            },
            Case {
                now: &[("scalar", "a b", 1031), ("avx2", "a b", 500)],
                passes: false,
                says: "error: scalar a b takes 3.1 % more",
            },
            Case {
                now: &[("scalar", "a b", 900), ("avx2", "a b", 500)],
                passes: true,
                says: "note: scalar a b takes 10.0 % less",
            },
            Case {
                now: &[("scalar", "a b", 1000)],
                passes: true,
                says: "note: this CPU has no avx2",
            },
            Case {
                now: &[("scalar", "a b", 1000), ("avx2", "c", 1)],
                passes: false,
                says: "error: avx2 a b is recorded, but",
            },
            Case {
                now: &[("scalar", "a b", 1000), ("avx2", "a b", 500), ("avx2", "c", 1)],
                passes: false,
                says: "error: avx2 c isn't recorded",
            },
            Case { now: &[], passes: false, says: "error: nothing was measured" },
        ];
        for Case { now, passes, says } in cases {
            let (text, passed) = recorded.compare(&record(now));
            assert!(passed == passes && text.contains(says), "{says}: {text}");
        }
        let (text, passed) = recorded
            .compare(&Record { compiler: "rustc 2".into(), ..record(&[("scalar", "a b", 1000)]) });
        assert!(passed && text.contains("recorded with rustc 1, this is rustc 2"), "{text}");
        let (text, passed) = recorded
            .compare(&Record { compiler: "rustc 2".into(), ..record(&[("scalar", "a b", 2000)]) });
        assert!(passed && text.contains("note: scalar a b takes 100.0 % more"), "{text}");
    }
}
