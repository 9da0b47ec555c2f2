//! Finds stop strings in a text that comes in parts.

/// Looks for strings at which a text ends, wherever its parts are cut. Text that could be the beginning of one is
/// withheld until it is clear.
#[derive(Clone, Debug, Default)]
pub struct StopStrings {
    stops: Vec<String>,
    /// The longest end of the text so far that a stop string begins with.
    held: String,
}

impl StopStrings {
    /// Empty strings stop nothing.
    pub fn new(stops: &[String]) -> StopStrings {
        let stops = stops.iter().filter(|stop| !stop.is_empty()).cloned().collect();
        StopStrings { stops, held: String::new() }
    }

    /// Takes the next part and appends what is certain to `text`. Returns the stop string that is complete
    /// first, the longest of several; the text then ends before it.
    pub fn push(&mut self, part: &str, text: &mut String) -> Option<&str> {
        self.held.push_str(part);
        let found = self.stops.iter().filter_map(|stop| Some((self.held.find(stop)?, stop)));
        let first = found.min_by_key(|(at, stop)| (at + stop.len(), *at));
        if let Some((at, stop)) = first {
            text.push_str(&self.held[..at]);
            self.held.clear();
            return Some(stop);
        }
        let begins = |at: &usize| self.stops.iter().any(|stop| stop.starts_with(&self.held[*at..]));
        let mut cuts = self.held.char_indices().map(|(at, _)| at);
        let keep = cuts.find(begins).unwrap_or(self.held.len());
        text.push_str(&self.held[..keep]);
        self.held.drain(..keep);
        None
    }

    /// Appends what was withheld: nothing more comes.
    pub fn finish(&mut self, text: &mut String) {
        text.push_str(&self.held);
        self.held.clear();
    }
}

#[cfg(test)]
mod tests {
    use super::StopStrings;

    #[test]
    fn wherever_parts_are_cut() {
        let cases: [(&[&str], &str, &str, Option<&str>); 9] = [
            (&[], "a text", "a text", None),
            (&[""], "a text", "a text", None),
            (&["\n\n"], "one\ntwo\n\nthree", "one\ntwo", Some("\n\n")),
            (&["aab"], "aaab", "a", Some("aab")),
            (&["abc", "b"], "xabc", "xa", Some("b")),
            (&["ab", "abc"], "xab", "x", Some("ab")),
            (&["END"], "the EN", "the EN", None),
            (&["é漢"], "aé漢b", "a", Some("é漢")),
            (&["xyz", "yq"], "xyq", "x", Some("yq")),
        ];
        for (stops, whole, expected, expected_stop) in cases {
            let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
            let chars: Vec<char> = whole.chars().collect();
            for size in 1..=chars.len() {
                let (mut finder, mut text) = (StopStrings::new(&stops), String::new());
                let mut stop = None;
                for part in chars.chunks(size) {
                    let part: String = part.iter().collect();
                    stop = finder.push(&part, &mut text).map(str::to_owned);
                    if stop.is_some() {
                        break;
                    }
                }
                finder.finish(&mut text);
                assert_eq!(
                    (&*text, stop.as_deref()),
                    (expected, expected_stop),
                    "{whole} by {size}"
                );
            }
        }
    }
}
