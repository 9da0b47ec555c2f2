//! What in a fleet's figures deserves a look, in words for those who look after the devices.

use whit::metrics::counters::{Event, Group};

use super::statistics::{self, Share};
use super::summary::Summary;
use super::text::interval_text;
use crate::report;

/// Drifted windows that are put down to false alarms when the model doesn't say how many there are.
const FALSE_ALARMS: f64 = 0.05;
/// A share of elements at a limit from which on a range no longer fits.
const SATURATED: f64 = 0.01;
/// A gap between confidence and accuracy that decisions by threshold feel.
const MISCALIBRATED: f64 = 0.1;

/// How much it matters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Weight {
    /// Results are missing or wrong.
    Bad,
    /// The field is not what the model was made for, or may not be.
    Warn,
    /// Good to know.
    Note,
}

impl Weight {
    pub(crate) fn name(self) -> &'static str {
        match self {
            Weight::Bad => "bad",
            Weight::Warn => "warn",
            Weight::Note => "note",
        }
    }
}

/// One of them.
#[derive(Clone, Debug)]
pub(crate) struct Finding {
    pub(crate) weight: Weight,
    pub(crate) title: String,
    /// What it means and what to do.
    pub(crate) text: String,
}

/// All of them, the weightiest first.
pub(crate) fn findings(summary: &Summary<'_>) -> Vec<Finding> {
    let totals = &summary.fleet.totals;
    let count = |event| totals.event(event);
    let mut found = Vec::new();
    let mut say = |weight, title: String, text: &str| {
        found.push(Finding { weight, title, text: text.to_owned() });
    };
    if let Some(share) = summary.of_runs(Event::Errors).filter(|share| share.hits > 0) {
        say(
            Weight::Bad,
            format!("{} runs failed, {}", share.hits, interval_text(share)),
            "Each gave no result. Look for the devices with errors in the table of devices, and at their own log for what the runtime said.",
        );
    }
    if let Some(share) = summary.of_runs(Event::DeadlineMisses).filter(|share| share.hits > 0) {
        say(
            if share.value > 0.01 { Weight::Bad } else { Weight::Warn },
            format!("{} runs missed the deadline, {}", share.hits, interval_text(share)),
            "Their results came late. Whether something else takes the processor shows in the plot of latencies: single high values point to interruptions, a raised median to a slower clock or a longer input.",
        );
    }
    if count(Event::OutputsNotFinite) > 0 {
        say(
            Weight::Bad,
            format!("{} runs gave NaN or infinity", count(Event::OutputsNotFinite)),
            "Such outputs mean nothing. Most often an input was already NaN or far outside of what the model was trained on.",
        );
    }
    if count(Event::OutputsWrong) > 0 {
        say(
            Weight::Bad,
            format!("{} runs gave outputs of another shape", count(Event::OutputsWrong)),
            "The monitor was set up for another model than the one that ran.",
        );
    }
    if count(Event::InputsNotFinite) > 0 {
        say(
            Weight::Warn,
            format!("{} values of inputs were NaN or infinite", count(Event::InputsNotFinite)),
            "A sensor gave no reading, or a step before the model divided by zero. These values are in no histogram.",
        );
    }
    if count(Event::Unrecorded) > 0 {
        say(
            Weight::Warn,
            format!("{} runs are in no other figure", count(Event::Unrecorded)),
            "A period holds 65,535 runs. Close periods more often.",
        );
    }
    if count(Event::ClockFaults) > 0 {
        say(
            Weight::Warn,
            format!("the clock went backwards {} times", count(Event::ClockFaults)),
            "Times of those periods are unsure. The clock was set, or a device lost its battery.",
        );
    }
    if count(Event::SinkFailures) > 0 {
        say(
            Weight::Warn,
            format!("the log refused {} records", count(Event::SinkFailures)),
            "The flash or the file could not be written. Counts of a refused period went into the next one; its alarms and samples are lost.",
        );
    }
    if count(Event::CountsDropped) > 0 {
        say(
            Weight::Warn,
            format!("the log had no room for {} records of counts", count(Event::CountsDropped)),
            "Old counts were lost: a summary of them didn't fit a block of flash. Give the log larger blocks, or the monitor fewer features.",
        );
    }
    drift(summary, &mut say);
    for tensor in &summary.saturation {
        let name = summary.tensor(tensor.tensor);
        let both = tensor.low.saturating_add(tensor.high);
        let elements = summary.elements(tensor.tensor);
        let runs = count(Event::Runs).max(1);
        let per_run = both as f64 / runs as f64;
        let share = elements.map(|elements| per_run / elements as f64);
        let before = summary.saturated_before(tensor.tensor);
        let usual = before.unwrap_or(0.0);
        let more = usual + SATURATED.max(0.1 * usual);
        if share.is_some_and(|share| share >= more) || (share.is_none() && per_run >= 1.0) {
            let mut of =
                share.map_or(String::new(), |share| format!(", {} of all", report::percent(share)));
            if let Some(before) = before {
                of += &format!(" (calibration data: {})", report::percent(before));
            }
            say(
                if before.is_some() { Weight::Warn } else { Weight::Note },
                format!(
                    "{name}: {} values a run are at the limits of its numbers{of}",
                    report::significant(per_run)
                ),
                "Larger values were cut off there. If it is more than on the calibration data, which --model names, the field has larger values than that: calibrate with data from the field.",
            );
        }
    }
    if let Some(scored) = &summary.scored {
        let gap = scored.overconfidence;
        if gap.low > MISCALIBRATED || gap.high < -MISCALIBRATED {
            let (title, text) = if gap.value > 0.0 {
                (
                    "too sure",
                    "Thresholds on the confidence let through more mistakes than they seem to.",
                )
            } else {
                (
                    "less sure than it may be",
                    "Thresholds on the confidence turn away more than they need to.",
                )
            };
            say(
                Weight::Warn,
                format!(
                    "the model is {title}: its scores are off by {:.2} in the mean",
                    gap.value.abs()
                ),
                text,
            );
        }
    }
    let strangers = count(Event::LabelsUnknown).saturating_add(count(Event::LabelsInvalid));
    if strangers > 0 {
        say(
            Weight::Note,
            format!("{strangers} labels were of no use"),
            "They came for runs that the device no longer remembers, or were no class or number. Send labels sooner, or let the monitor remember more runs.",
        );
    }
    if count(Event::LabelsDuplicate) > 0 {
        say(
            Weight::Note,
            format!("{} labels came twice", count(Event::LabelsDuplicate)),
            "Only the first label of a run counts.",
        );
    }
    if summary.fleet.sample_records > 0 {
        say(
            Weight::Note,
            format!("{} inputs were kept for labelling", count(Event::Samples)),
            "The model was least sure of them: labelled, they teach it most. `whit monitor samples` writes them to a file.",
        );
    }
    found.sort_by_key(|finding| finding.weight);
    found
}

fn drift(summary: &Summary<'_>, say: &mut dyn FnMut(Weight, String, &str)) {
    let totals = &summary.fleet.totals;
    let windows = totals.event(Event::Windows);
    let expected = summary.false_alarms.unwrap_or(FALSE_ALARMS);
    for (event, what, text) in [
        (
            Event::InputDrifts,
            "inputs",
            "The inputs are no longer distributed as in the data that the model was made for: a sensor changed, was moved or ages, or the surroundings are new. The table of features says which inputs.",
        ),
        (
            Event::ClassDrifts,
            "predicted classes",
            "The model answers with other classes than before. Either the world has changed or the model errs: look at the inputs, and get labels.",
        ),
        (
            Event::ConfidenceDrifts,
            "confidence",
            "The model is more or less sure than before, which often goes before mistakes.",
        ),
    ] {
        let Some(share) = Share::new(totals.event(event), windows).filter(|share| share.hits > 0)
        else {
            continue;
        };
        let title = format!(
            "{what} drifted in {} of {windows} windows, {}",
            share.hits,
            interval_text(share)
        );
        if share.low > expected {
            say(Weight::Warn, title, text);
        } else {
            say(
                Weight::Note,
                title,
                &format!(
                    "False alarms alone explain that: up to {} of windows raise one by chance.",
                    report::percent(expected)
                ),
            );
        }
    }
    let detectors: u64 = super::summary::ALARMS[3..]
        .iter()
        .map(|event| totals.event(*event))
        .fold(0, u64::saturating_add);
    if detectors > 0 {
        say(
            Weight::Warn,
            format!("change detectors raised {detectors} alarms"),
            "Something that is followed from run to run (confidence, entropy, latency, errors or the estimate) changed its level. The list of alarms says when and what.",
        );
    }
    let entropy = statistics::total(totals.group(Group::Entropy));
    if entropy > 0
        && let Some(top) = summary.classes().iter().max_by_key(|share| share.hits)
        && top.value > 0.99
        && summary.classes().len() > 1
        && top.of >= 1000
    {
        say(
            Weight::Note,
            format!("{} of the answers are one class", report::percent(top.value)),
            "That may be how the field is. It is also what a stuck sensor looks like.",
        );
    }
}
