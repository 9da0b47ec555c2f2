//! The monitor: counts what a model's runs do, tests for drift, and closes periods into records.

use super::baseline::{Baseline, BaselineError};
use super::config::{Config, Sizes};
use super::counters::{
    CONFIDENCE_BINS, ENTROPY_BINS, Event, Group, SUMS, Shape, Sum, Windowed, Worst,
};
use super::detect::Change;
use super::drift::{Statistic, benjamini_hochberg, level, p_value};
use super::histogram;
use super::labels::{LabelError, Pending};
use super::math::log2_q16;
use super::plan::{Detectors, Log, Memory, MonitorError, Plan, lay_out, plan};
use super::record::{Alarm, Header, Scores, Signal, Source};
use super::reservoir::Reservoir;
use super::scores::{ONE_Q15, Scored, Scorer, Unscored, confidence_bin, entropy_bin};
use crate::{DType, Model};

mod close;

/// Runs that a period counts, so that every count fits 16 bits.
pub const PERIOD_RUNS: u32 = 65_535;
/// The number of a run that has none, as it is beyond [`PERIOD_RUNS`]: no label meets it.
pub const NO_RUN: u32 = u32::MAX;
/// Those behind are a log's.
const KEPT_EVENTS: usize = Event::SamplesDropped as usize;
/// Alarms of a period that are written; further ones are counted.
const PERIOD_ALARMS: usize = 3;
/// Alarms until the period is closed.
#[derive(Default)]
struct Alarms {
    kept: [Alarm; PERIOD_ALARMS],
    count: usize,
}

/// Watches a model's runs. See the [module](super) for an example.
pub struct Monitor<'m> {
    config: Config,
    baseline: Option<Baseline<'m>>,
    scorer: Scorer,
    header: Header,
    shape: Shape,
    tag: u16,
    header_written: bool,
    sequence: u32,
    start_s: u32,
    next_run: u32,
    events: [u32; KEPT_EVENTS],
    sums: [u64; SUMS],
    latency_max_us: u32,
    worst: Option<Worst>,
    window_runs: u16,
    /// The window's counts are kept for the log: no more tests in this period.
    window_kept: bool,
    detectors: Detectors,
    alarms: Alarms,
    memory: Memory<'m>,
    pending: Pending<'m>,
    reservoir: Reservoir<'m>,
}

impl<'m> Monitor<'m> {
    /// Bytes of memory that a monitor of this model wants, besides itself: `size_of::<Monitor>()`.
    ///
    /// # Errors
    /// As [`Monitor::new`].
    pub fn memory_bytes(model: &Model<'_>, config: &Config) -> Result<usize, MonitorError> {
        Ok(plan(model, config)?.sizes.bytes())
    }

    /// A monitor that goes on where a log ends: [`Monitor::new`] with the log's next number, and its first period closed
    /// at once, empty but for the start that it counts.
    ///
    /// That is what keeps the numbers of runs apart when power fails: those of a start begin at 65,536 times its first
    /// period's number, and a period counts fewer runs. A start whose first period is in the log leaves the next start
    /// a higher number, whatever else of it was lost, so that a late label never meets another run. The numbers come again
    /// after 65,536 periods.
    ///
    /// # Errors
    /// As [`Monitor::new`] and [`Monitor::close_period`].
    pub fn start<L: Log>(
        model: &Model<'m>,
        config: &Config,
        memory: &'m mut [u8],
        log: &mut L,
        now_s: u32,
    ) -> Result<Monitor<'m>, MonitorError<L::Error>> {
        let begin = (log.next_sequence(), now_s);
        let mut monitor =
            Monitor::new(model, config, memory, begin).map_err(MonitorError::of_any_sink)?;
        monitor.close_period(now_s, log)?;
        Ok(monitor)
    }

    /// A monitor of a model in the caller's memory, [`Monitor::memory_bytes`] long. The period that begins has number
    /// `sequence`: 0, or what follows the last one in the log. The first run has number `sequence << 16`; see
    /// [`Monitor::start`] for what to do before it when there is a log from earlier starts.
    ///
    /// # Errors
    /// When the memory is too short, or baseline, configuration and model don't fit each other.
    pub fn new(
        model: &Model<'m>,
        config: &Config,
        memory: &'m mut [u8],
        (sequence, now_s): (u32, u32),
    ) -> Result<Monitor<'m>, MonitorError> {
        let Plan { baseline, scorer, header, sizes } = plan(model, config)?;
        let given = memory.len();
        let (memory, pending, reservoir) =
            lay_out(memory, &sizes).ok_or(MonitorError::Memory { needed: sizes.bytes(), given })?;
        let detectors = match &baseline {
            Some(baseline) if config.detectors => Detectors::of(baseline),
            _ => Detectors::default(),
        };
        let mut monitor = Monitor {
            config: Config { record_bytes: sizes.record_bytes, ..*config },
            baseline,
            scorer,
            header,
            shape: sizes.shape,
            tag: header.tag(),
            header_written: false,
            sequence,
            start_s: now_s,
            next_run: sequence << 16,
            events: [0; KEPT_EVENTS],
            sums: [0; SUMS],
            latency_max_us: 0,
            worst: None,
            window_runs: 0,
            window_kept: false,
            detectors,
            alarms: Alarms::default(),
            memory,
            pending,
            reservoir,
        };
        monitor.check_window(model)?;
        monitor.count(Event::Starts);
        Ok(monitor)
    }

    /// The baseline, when drift tests are on.
    fn tested(&self) -> Option<Baseline<'m>> {
        self.baseline.filter(|_| self.config.drift)
    }

    /// Refuses a baseline by which a count of a window could outgrow 16 bits.
    fn check_window(&mut self, model: &Model<'_>) -> Result<(), MonitorError> {
        let Some(baseline) = self.tested().filter(|baseline| baseline.header().features > 0) else {
            return Ok(());
        };
        let header = baseline.header();
        let other = MonitorError::Baseline(BaselineError::OtherModel);
        let input = model.input(header.input.into()).and_then(|tensor| model.tensor(tensor));
        let elements = input.map_or(0, |input| input.bytes / DType::I8.size() as u64);
        let elements =
            elements / DType::from_number(header.dtype).map_or(1, |dtype| dtype.size() as u64);
        let most = u64::from(u16::MAX) / u64::from(header.window_runs);
        let counts = &mut *self.memory.drifted;
        for element in (0..elements as usize).step_by(header.step as usize) {
            let count = counts.get_mut(baseline.feature_of(element)).ok_or(other)?;
            *count += 1;
            if u64::from(*count) > most {
                return Err(other);
            }
        }
        counts.fill(0);
        Ok(())
    }

    /// The header of the records.
    pub fn header(&self) -> &Header {
        &self.header
    }

    /// The number of the present period.
    pub fn sequence(&self) -> u32 {
        self.sequence
    }

    /// The number that the next run gets.
    pub fn next_run(&self) -> u32 {
        self.next_run
    }

    /// A counter of the present period, or of the present window.
    pub fn get(&self, group: Group, index: usize) -> u64 {
        let memory = &self.memory;
        let half = |counts: &[u16]| counts.get(index).map_or(0, |count| u64::from(*count));
        match group {
            Group::Events => self.events.get(index).map_or(0, |count| u64::from(*count)),
            Group::Latency => half(memory.latency),
            Group::Classes => half(memory.classes),
            Group::Confidence => half(memory.confidence),
            Group::Entropy => half(memory.entropy),
            Group::Saturation => memory.saturation.get(index).map_or(0, |count| u64::from(*count)),
            Group::Confusion => half(memory.confusion),
            Group::Scored => half(memory.scored),
            Group::Sums => self.sums.get(index).copied().unwrap_or(0),
            Group::Drifted => half(memory.drifted),
            Group::Windowed if index == Windowed::Windows as usize => {
                u64::from(self.window_runs > 0)
            }
            Group::Windowed if index == Windowed::Runs as usize => u64::from(self.window_runs),
            Group::Windowed => 0,
            Group::Features => half(memory.features),
            Group::WindowClasses => half(memory.window_classes),
            Group::WindowConfidence => half(memory.window_confidence),
        }
    }

    /// How often something happened in the present period.
    pub fn event(&self, event: Event) -> u32 {
        self.events.get(event as usize).copied().unwrap_or(0)
    }

    /// A quantile of the period's latencies: `latency_us((99, 100))` for p99. `None` without runs or without histogram.
    pub fn latency_us(&self, share: (u32, u32)) -> Option<u32> {
        histogram::quantile(&|bucket| self.get(Group::Latency, bucket), share, self.latency_max_us)
    }

    /// Accuracy of the period's predictions that their confidence promises, in 2⁻¹⁵: without labels, by the baseline's
    /// calibration table.
    pub fn estimated_accuracy(&self) -> Option<u32> {
        self.baseline?.estimated_accuracy(&|bin| self.get(Group::Confidence, bin))
    }

    fn count(&mut self, event: Event) {
        let count = &mut self.events[event as usize];
        *count = count.saturating_add(1);
    }

    /// Whether the period can't count more runs: it is time to close it.
    pub fn is_full(&self) -> bool {
        self.event(Event::Runs) + self.event(Event::Errors) >= PERIOD_RUNS
    }

    /// Looks at an input before a run; `index` counts the model's inputs.
    pub fn input(&mut self, index: usize, dtype: DType, bytes: &[u8]) {
        if self.is_full() {
            return;
        }
        self.saturation(index, dtype, bytes);
        let watched = self.tested().map_or(0, |baseline| usize::from(baseline.header().input));
        if index != watched {
            return;
        }
        self.reservoir.stage(bytes);
        let Some(baseline) = self.tested() else { return };
        if self.window_kept || self.window_runs >= baseline.header().window_runs {
            return;
        }
        let not_finite = baseline.count_input(bytes, self.memory.features);
        let count = &mut self.events[Event::InputsNotFinite as usize];
        *count = count.saturating_add(not_finite);
    }

    /// Counts elements at the limits of their type.
    fn saturation(&mut self, tensor: usize, dtype: DType, bytes: &[u8]) {
        let Some([low, high]) = self.memory.saturation.get_mut(2 * tensor..2 * tensor + 2) else {
            return;
        };
        let (at_low, at_high) = saturated(dtype, bytes);
        *low = low.saturating_add(at_low);
        *high = high.saturating_add(at_high);
    }

    /// Looks at an output after a run; `index` counts the model's outputs, `inputs` is the number of its inputs.
    pub fn output(&mut self, inputs: usize, index: usize, dtype: DType, bytes: &[u8]) {
        // Probabilities are at 0 and 1 without being cut off.
        let kinds = [Scores::Probabilities as u8, Scores::Probability as u8];
        let probability = index == 0 && kinds.contains(&self.header.scores);
        if !self.is_full() && !probability {
            self.saturation(inputs + index, dtype, bytes);
        }
    }

    /// A run failed; gives its number.
    pub fn failed(&mut self) -> u32 {
        if self.is_full() {
            self.count(Event::Unrecorded);
            return NO_RUN;
        }
        self.count(Event::Errors);
        self.next()
    }

    fn next(&mut self) -> u32 {
        let run = self.next_run;
        self.next_run = if run == NO_RUN - 1 { 0 } else { run + 1 };
        run
    }

    /// A run ended well, with these bytes in the first output; gives its number, [`NO_RUN`] when the period is full.
    pub fn ran(&mut self, latency_us: u32, output: &[u8]) -> u32 {
        if self.is_full() {
            self.count(Event::Unrecorded);
            return NO_RUN;
        }
        self.count(Event::Runs);
        if latency_us > self.config.deadline_us {
            self.count(Event::DeadlineMisses);
        }
        self.latency_max_us = self.latency_max_us.max(latency_us);
        bump(self.memory.latency, histogram::bucket(latency_us));
        let log_latency = log2_q16(u64::from(latency_us)) >> 6;
        self.detect(Signal::Latency, log_latency as i32);
        let run = self.next();
        match self.scorer.score(output) {
            Ok(scored) => self.scored(run, &scored),
            Err(Unscored::NotFinite) => self.count(Event::OutputsNotFinite),
            Err(Unscored::Wrong) => self.count(Event::OutputsWrong),
        }
        self.end_of_window();
        run
    }

    fn scored(&mut self, run: u32, scored: &Scored) {
        if self.header.scores == Scores::Value as u8 {
            self.detect(Signal::Value, scored.value);
            // Values are cut to ±2²², so that adding 2²³ makes them positive.
            self.wait(run, (scored.value + (1 << 23)) as u32);
            return;
        }
        if self.scorer.classes() == 0 {
            return;
        }
        let bin = confidence_bin(scored.confidence);
        bump(self.memory.classes, scored.class.into());
        bump(self.memory.confidence, bin);
        bump(self.memory.entropy, entropy_bin(scored.entropy));
        if self.config.drift && self.baseline.is_some() && !self.window_kept {
            bump(self.memory.window_classes, scored.class.into());
            bump(self.memory.window_confidence, bin);
        }
        self.reservoir.keep(run, scored.class, scored.confidence);
        self.wait(run, u32::from(scored.class) << 8 | confidence_bin(scored.event) as u32);
        self.detect(Signal::Confidence, scored.confidence.into());
        self.detect(Signal::Entropy, scored.entropy.into());
    }

    fn wait(&mut self, run: u32, prediction: u32) {
        if self.header.labels > 0 && self.pending.wait(run, prediction) {
            self.count(Event::LabelsMissed);
        }
    }

    fn detect(&mut self, signal: Signal, x: i32) {
        if let Some(sketch) = &mut self.memory.sketch
            && signal == self.config.sketch.0
        {
            sketch.add(x);
        }
        // A detector of each kind at most.
        let (mut found, mut count) = ([None; 5], 0);
        self.detectors.add(signal, x, &mut |source, change| {
            found[count] = Some((source, change));
            count += 1;
        });
        for (source, Change { value, threshold }) in found.into_iter().flatten() {
            self.count(match source {
                Source::PageHinkley => Event::PageHinkleyAlarms,
                Source::Cusum => Event::CusumAlarms,
                Source::Ewma => Event::EwmaAlarms,
                Source::Ddm => Event::DdmAlarms,
                _ => Event::AdwinAlarms,
            });
            self.raise(source, signal as u8, Alarm { value, threshold, ..Alarm::default() });
        }
    }

    fn raise(&mut self, source: Source, what: u8, alarm: Alarm) {
        let run = self.event(Event::Runs);
        let (sequence, start_s) = (self.sequence, self.start_s);
        match self.alarms.kept.get_mut(self.alarms.count) {
            Some(slot) => {
                *slot = Alarm { sequence, start_s, run, source: source as u8, what, ..alarm };
                self.alarms.count += 1;
            }
            None => self.count(Event::AlarmsDropped),
        }
    }

    /// Counts the run to the window, and tests the window when it is complete.
    fn end_of_window(&mut self) {
        let Some(baseline) = self.tested() else { return };
        if self.window_kept {
            return;
        }
        self.window_runs += 1;
        if self.window_runs < baseline.header().window_runs {
            return;
        }
        self.count(Event::Windows);
        let drifted = [self.test_features(&baseline), self.test_outputs(&baseline)].contains(&true);
        let every = u32::from(self.config.window_every);
        let wanted = every > 0 && self.sequence.is_multiple_of(every);
        if drifted || wanted {
            self.window_kept = true;
        } else {
            self.clear_window();
        }
    }

    fn clear_window(&mut self) {
        self.window_runs = 0;
        self.memory.features.fill(0);
        self.memory.window_classes.fill(0);
        self.memory.window_confidence.fill(0);
    }

    fn test_features(&mut self, baseline: &Baseline<'_>) -> bool {
        let (features, bins) = (usize::from(self.shape.features), usize::from(self.shape.bins));
        let statistic = self.config.statistic;
        let mut worst: Option<(usize, u32, usize)> = None;
        for feature in 0..features {
            let seen = |bin: usize| {
                self.memory.features.get(feature * bins + bin).map_or(0, |count| u32::from(*count))
            };
            let expected = |bin: usize| baseline.count(feature, bin);
            let value = statistic.of(bins, &seen, &expected);
            let mean = baseline.mean(feature, statistic);
            let level = level(value, mean, &|level| baseline.quantile(statistic, level));
            if let Some(slot) = self.memory.levels.get_mut(feature) {
                *slot = level as u8;
            }
            let js_q16 = match statistic {
                Statistic::JensenShannon => value,
                _ => Statistic::JensenShannon.of(bins, &seen, &expected),
            };
            self.worst = self.worst.max(Some(Worst { js_q16, feature: feature as u16 }));
            if worst.is_none_or(|(most, most_value, _)| (level, value) > (most, most_value)) {
                worst = Some((level, value, feature));
            }
        }
        let levels =
            |feature: usize| self.memory.levels.get(feature).map_or(0, |level| usize::from(*level));
        let from = benjamini_hochberg(&levels, features, baseline.header().discovery_q32);
        let (Some(from), Some((level, value, feature))) = (from, worst) else { return false };
        for feature in 0..features {
            if self.memory.levels.get(feature).is_some_and(|level| usize::from(*level) >= from) {
                bump(self.memory.drifted, feature);
            }
        }
        self.count(Event::InputDrifts);
        // What would have had the level that decided.
        let mean = baseline.mean(feature, statistic);
        let threshold = (baseline.quantile(statistic, from - 1) * mean.max(1)) >> 8;
        let alarm = Alarm {
            index: feature as u16,
            value: positive(value),
            threshold: positive(threshold),
            p_value: p_value(level),
            ..Alarm::default()
        };
        self.raise(Source::Feature, statistic as u8, alarm);
        true
    }

    fn test_outputs(&mut self, baseline: &Baseline<'_>) -> bool {
        let header = baseline.header();
        let classes = usize::from(self.shape.classes);
        if classes == 0 || classes != usize::from(header.classes) {
            return false;
        }
        let statistic = self.config.statistic;
        let seen =
            |counts: &[u16], index: usize| counts.get(index).map_or(0, |count| u32::from(*count));
        let of_classes =
            statistic.of(classes, &|class| seen(self.memory.window_classes, class), &|class| {
                baseline.class_count(class)
            });
        let of_confidence = statistic.of(
            CONFIDENCE_BINS,
            &|bin| seen(self.memory.window_confidence, bin),
            &|bin| seen(&header.confidence, bin),
        );
        let number = statistic as usize - 1;
        let mut any = false;
        for (source, event, value, thresholds) in [
            (Source::Classes, Event::ClassDrifts, of_classes, header.class_thresholds),
            (
                Source::Confidence,
                Event::ConfidenceDrifts,
                of_confidence,
                header.confidence_thresholds,
            ),
        ] {
            let threshold = thresholds[number];
            if value > threshold {
                any = true;
                self.count(event);
                let alarm = Alarm {
                    value: positive(value),
                    threshold: positive(threshold),
                    p_value: header.false_alarm_q32,
                    ..Alarm::default()
                };
                self.raise(source, statistic as u8, alarm);
            }
        }
        any
    }

    /// The true class of a run.
    ///
    /// # Errors
    /// When the run isn't known or has its label, or the label is no class: each is counted.
    pub fn label_class(&mut self, run: u32, class: u32) -> Result<(), LabelError> {
        if self.header.labels != 1 {
            return Err(LabelError::Off);
        }
        let classes = u32::from(self.shape.classes);
        let prediction = self.labelled(run, class < classes)?;
        let (predicted, bin) = (prediction >> 8, (prediction & 0xFF) as usize);
        bump(self.memory.confusion, (class * classes + predicted) as usize);
        let happened = if classes == 2 { class == 1 } else { class == predicted };
        bump(self.memory.scored, usize::from(happened) * CONFIDENCE_BINS + bin);
        self.detect(Signal::Error, if class == predicted { 0 } else { ONE_Q15 as i32 });
        Ok(())
    }

    /// The true value of a run of a [`Scores::Value`] model.
    ///
    /// # Errors
    /// When the run isn't known or has its label, or the label is NaN or infinite: each is counted.
    pub fn label_value(&mut self, run: u32, value: f32) -> Result<(), LabelError> {
        if self.header.labels != 2 {
            return Err(LabelError::Off);
        }
        let label = Scorer::label_units(value, self.header.value_scale);
        let prediction = self.labelled(run, label.is_some())?;
        let y = i64::from(label.unwrap_or(0));
        let e = i64::from(prediction) - (1 << 23) - y;
        for (sum, term) in [
            (Sum::Count, 1),
            (Sum::Absolute, e.abs()),
            (Sum::Squared, e * e),
            (Sum::Positive, y.max(0)),
            (Sum::Negative, (-y).max(0)),
            (Sum::LabelSquared, y * y),
            (Sum::ErrorPositive, e.max(0)),
            (Sum::ErrorNegative, (-e).max(0)),
        ] {
            // At most 65,535 terms below 2⁴⁶.
            self.sums[sum as usize] += term as u64;
        }
        Ok(())
    }

    fn labelled(&mut self, run: u32, valid: bool) -> Result<u32, LabelError> {
        let result = match valid {
            _ if self.event(Event::Labels) >= PERIOD_RUNS => Err(LabelError::Full),
            true => self.pending.take(run),
            false => Err(LabelError::Invalid),
        };
        match result {
            Ok(_) => self.count(Event::Labels),
            Err(LabelError::Duplicate) => self.count(Event::LabelsDuplicate),
            Err(LabelError::Invalid) => self.count(Event::LabelsInvalid),
            Err(_) => self.count(Event::LabelsUnknown),
        }
        result
    }
}

/// How many elements are at the lower and the upper limit of their type: of floats none.
pub fn saturated(dtype: DType, bytes: &[u8]) -> (u32, u32) {
    match dtype {
        DType::I8 => at_limits(bytes, 0x80),
        DType::U8 => at_limits(bytes, 0),
        DType::I16 => bytes.chunks_exact(2).fold((0, 0), |(low, high), b| {
            (low + u32::from(b == [0, 0x80]), high + u32::from(b == [0xFF, 0x7F]))
        }),
        _ => (0, 0),
    }
}

/// How many bytes are at the lower and the upper limit of their type: `sign` makes these 0 and 255.
fn at_limits(bytes: &[u8], sign: u8) -> (u32, u32) {
    let (words, rest) = bytes.as_chunks::<4>();
    let (mut low, mut high) = (0, 0);
    let mut look = |bytes: &[u8]| {
        for byte in bytes {
            low += u32::from(byte ^ sign == 0);
            high += u32::from(byte ^ sign == 0xFF);
        }
    };
    // Four bytes at a time, as few are at a limit. A word has a byte of 0 exactly when this is not 0 (Warren, "Hacker's
    // delight", 6-1).
    let zero = |word: u32| word.wrapping_sub(0x0101_0101) & !word & 0x8080_8080;
    for word in words {
        let signed = u32::from_le_bytes(*word) ^ (u32::from(sign) * 0x0101_0101);
        if zero(signed) | zero(!signed) != 0 {
            look(word);
        }
    }
    look(rest);
    (low, high)
}

/// Adds one to a counter that is there: a period's runs, labels and windows fit 16 bits.
fn bump(counts: &mut [u16], index: usize) {
    if let Some(count) = counts.get_mut(index) {
        *count = count.saturating_add(1);
    }
}

fn positive(value: u32) -> i32 {
    value.min(i32::MAX as u32) as i32
}

/// The default configuration of a model with 10 classes and 64 inputs of one byte, a feature each.
const SMALL_MODEL: Sizes = Sizes {
    shape: Shape {
        classes: 10,
        features: 64,
        bins: 8,
        tensors: 2,
        class_labels: true,
        value_labels: false,
    },
    latency: Config::DEFAULT.latency,
    labels: Config::DEFAULT.labels,
    samples: Config::DEFAULT.samples,
    sample_bytes: Config::DEFAULT.sample_bytes,
    sketch_items: Config::DEFAULT.sketch.1,
    record_bytes: Config::DEFAULT.record_bytes,
};
const _: () = assert!(SMALL_MODEL.bytes() + size_of::<Monitor<'_>>() <= 4096);

const _: () =
    assert!(ENTROPY_BINS <= 16 && CONFIDENCE_BINS <= 256, "a bin of an event takes 8 bits");

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn bytes_at_limits_are_counted_one_by_one() {
        let mut random = crate::metrics::counters::tests::Random(23);
        for length in (0..40).chain([490]) {
            for extremes in [0, 2, 10] {
                let bytes: Vec<u8> = (0..length)
                    .map(|_| match random.below(10) {
                        draw if draw < extremes => [0x80, 0x7F, 0, 0xFF][random.below(4) as usize],
                        _ => random.below(256) as u8,
                    })
                    .collect();
                let count = |limit: u8| bytes.iter().filter(|byte| **byte == limit).count() as u32;
                assert_eq!(at_limits(&bytes, 0x80), (count(0x80), count(0x7F)));
                assert_eq!(at_limits(&bytes, 0), (count(0), count(0xFF)));
            }
        }
    }
}
