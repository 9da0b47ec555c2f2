//! How a window's tokens are chosen: one after the other, or by following several texts.

use whit_text::{Decoder, Sampler, Sampling, TextError};

use super::Transcriber;
use crate::beam::Beams;
use crate::error::SpeechError;
use crate::rules::log_sum_exp;
use crate::transcript::{Request, Transcript};

/// A window whose tokens before the text are computed.
pub(super) struct Begun {
    /// Those tokens.
    pub(super) at: usize,
    /// Tokens of the text at most.
    pub(super) most: usize,
    /// Behind the last token.
    pub(super) logits: Vec<f32>,
    pub(super) with_timestamps: bool,
}

impl Transcriber<'_> {
    /// Chooses token after token; and the sum of their log probabilities.
    pub(super) fn draw(
        &mut self,
        begun: Begun,
        sampling: Sampling,
        transcript: &mut Transcript,
    ) -> Result<(Vec<i32>, f64), SpeechError> {
        let Begun { at, most, mut logits, with_timestamps } = begun;
        let mut sampler = Sampler::new(sampling, logits.len())?;
        let (mut ids, mut sum) = (Vec::new(), 0.0);
        loop {
            self.tokens.apply(&mut logits, &ids, with_timestamps);
            let id = sampler.sample(&logits, None)?;
            sum += f64::from(logits[id as usize]) - log_sum_exp(&logits);
            transcript.written += 1;
            if id == self.tokens.end {
                return Ok((ids, sum));
            }
            ids.push(id);
            if ids.len() >= most {
                return Ok((ids, sum));
            }
            let found = self.remember(&[id], at + ids.len() - 1, &[0])?;
            logits.copy_from_slice(found);
        }
    }

    /// Follows as many texts as the request says, each in a sequence; what is computed is in the first one. The best text, and the sum of its log
    /// probabilities.
    pub(super) fn search(
        &mut self,
        begun: Begun,
        request: &Request,
        transcript: &mut Transcript,
    ) -> Result<(Vec<i32>, f64), SpeechError> {
        let Begun { at, most, logits, with_timestamps } = begun;
        let mut beams = Beams::new(request.beam_size, request.patience, self.tokens.end);
        let mut rows = vec![logits];
        // The sequence of each text.
        let mut places = vec![0];
        for written in 0..most {
            for (row, beam) in rows.iter_mut().zip(beams.live()) {
                self.tokens.apply(row, &beam.ids, with_timestamps);
                let sum = log_sum_exp(row) as f32;
                row.iter_mut().for_each(|logit| *logit -= sum);
            }
            let parents = beams.step(&rows);
            transcript.written += parents.len();
            if beams.is_over() || parents.is_empty() || written + 1 == most {
                break;
            }
            places = self.place(&parents, &places, at + written)?;
            let sequences: Vec<i32> = places.iter().map(|place| *place as i32).collect();
            let ids: Vec<i32> = beams.live().iter().map(|beam| beam.ids[written]).collect();
            let positions = vec![(at + written) as i32; ids.len()];
            let all: Vec<i32> = (0..ids.len() as i32).collect();
            let found = self.decoder.forward_in(&sequences, &ids, &positions, &all)?;
            rows = found.chunks_exact(found.len() / ids.len()).map(<[f32]>::to_vec).collect();
        }
        let best = beams.best(request.length_penalty);
        Ok((best.ids, best.sum))
    }

    /// Gives each text a sequence that holds what the text goes on from, `positions` of them: the first that goes on from another one stays in
    /// its place, the others get copies.
    fn place(
        &mut self,
        parents: &[usize],
        before: &[usize],
        positions: usize,
    ) -> Result<Vec<usize>, SpeechError> {
        let is_kept = |place: &usize| parents.iter().any(|parent| before[*parent] == *place);
        let mut free = (0..self.decoder.sequences()).filter(|place| !is_kept(place));
        let mut places = Vec::with_capacity(parents.len());
        for parent in parents {
            let own = before[*parent];
            if !places.contains(&own) {
                places.push(own);
                continue;
            }
            let place = free.next().ok_or(TextError::NoToken)?;
            let session = self.decoder.session_mut();
            session.copy_sequence(own, place, positions as u32)?;
            places.push(place);
        }
        Ok(places)
    }
}
