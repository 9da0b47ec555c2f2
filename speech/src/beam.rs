//! Beam search: follows the texts that are most probable so far, and takes the best of those that ended (as section 4.5 of Radford et al.
//! 2022 and its code).

/// A text so far.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Beam {
    pub(crate) ids: Vec<i32>,
    /// Log probabilities of its tokens, its end's included if it ended.
    pub(crate) sum: f64,
}

/// The search.
pub(crate) struct Beams {
    size: usize,
    /// Texts that have to end before the search does.
    enough: usize,
    end: i32,
    live: Vec<Beam>,
    finished: Vec<Beam>,
}

impl Beams {
    /// Begins with no text. `end` is the token that ends one; the search is over when `patience` times `size` texts have ended (Kasai et
    /// al. 2022, "A Call for Clarity in Beam Search").
    pub(crate) fn new(size: usize, patience: f64, end: i32) -> Beams {
        let enough = (size as f64 * patience).round_ties_even().max(1.0) as usize;
        Beams { size, enough, end, live: vec![Beam::default()], finished: Vec::new() }
    }

    /// The texts that go on.
    pub(crate) fn live(&self) -> &[Beam] {
        &self.live
    }

    /// Whether enough texts have ended.
    pub(crate) fn is_over(&self) -> bool {
        self.finished.len() >= self.enough
    }

    /// Goes on with every text, given the log probabilities behind each. Returns which text each of the new ones goes on from.
    pub(crate) fn step(&mut self, log_probabilities: &[Vec<f32>]) -> Vec<usize> {
        let mut candidates = Vec::new();
        for (parent, (beam, row)) in self.live.iter().zip(log_probabilities).enumerate() {
            // One more than there are texts: one of them may be the end.
            let many = (self.size + 1).min(row.len());
            let mut order: Vec<usize> = (0..row.len()).collect();
            let better = |a: &usize, b: &usize| row[*b].total_cmp(&row[*a]).then(a.cmp(b));
            if many < order.len() {
                order.select_nth_unstable_by(many, better);
                order.truncate(many);
            }
            let possible = order.into_iter().filter(|id| row[*id] > f32::NEG_INFINITY);
            candidates
                .extend(possible.map(|id| (parent, id as i32, beam.sum + f64::from(row[id]))));
        }
        // The most probable first; of equals, that of the better text, then the smaller id.
        candidates.sort_by(|a, b| b.2.total_cmp(&a.2).then(a.0.cmp(&b.0)).then(a.1.cmp(&b.1)));
        let (mut live, mut parents) = (Vec::new(), Vec::new());
        for (parent, id, sum) in candidates {
            let ids = &self.live[parent].ids;
            if id == self.end {
                if !self.is_over() {
                    self.finished.push(Beam { ids: ids.clone(), sum });
                }
                continue;
            }
            live.push(Beam { ids: [ids, &[id][..]].concat(), sum });
            parents.push(parent);
            if live.len() == self.size {
                break;
            }
        }
        self.live = live;
        parents
    }

    /// The best text: of those that ended, and if they are fewer than were followed, of the best that didn't. Without a length penalty that
    /// whose tokens are the most probable in the mean; with α the sum of log probabilities is divided by ((5 + length) / 6)^α instead (Wu
    /// et al. 2016, section 7).
    pub(crate) fn best(mut self, length_penalty: Option<f64>) -> Beam {
        let missing = self.size.saturating_sub(self.finished.len());
        self.finished.extend(self.live.into_iter().take(missing));
        let score = |beam: &Beam| {
            let length = beam.ids.len() as f64;
            beam.sum / length_penalty.map_or(length.max(1.0), |a| ((5.0 + length) / 6.0).powf(a))
        };
        let best =
            self.finished.into_iter().reduce(|best, beam| match score(&beam) > score(&best) {
                true => beam,
                false => best,
            });
        best.unwrap_or_default()
    }
}

#[cfg(test)]
mod tests;
