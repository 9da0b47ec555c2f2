//! Resident memory of this process, as Linux counts it.

use anyhow::{Context, Result};

/// Makes what is resident now the peak so far (`man 5 proc`, clear_refs), and returns it.
pub(crate) fn reset_peak() -> Result<u64> {
    std::fs::write("/proc/self/clear_refs", "5")
        .context("resetting the peak of resident memory")?;
    status("VmRSS:")
}

/// The peak since `reset_peak`.
pub(crate) fn peak() -> Result<u64> {
    status("VmHWM:")
}

fn status(key: &str) -> Result<u64> {
    let text = std::fs::read_to_string("/proc/self/status")?;
    let line = text
        .lines()
        .find_map(|line| line.strip_prefix(key))
        .with_context(|| format!("no {key}"))?;
    let kib: u64 = line.trim().trim_end_matches(" kB").parse()?;
    Ok(kib * 1024)
}
