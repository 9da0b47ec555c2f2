//! An encoder in f64, written from the papers' formulas token by token.

use super::Parameters;

type Rows = Vec<Vec<f64>>;

/// How an encoder's parameters are called and what sets it apart.
pub(super) struct Encoder {
    pub(super) prefix: &'static str,
    /// Modules of layer `{}`: query, key, value, attention output, its norm, up, down, norm.
    pub(super) modules: [&'static str; 8],
    /// Layers share the parameters of layer 0.
    pub(super) shared: bool,
    pub(super) layers: usize,
    pub(super) heads: usize,
    /// The number of the padding token, when positions are counted behind it.
    pub(super) padding: Option<usize>,
    /// The linear layer from embeddings to layers.
    pub(super) projection: Option<&'static str>,
    pub(super) activation: fn(f64) -> f64,
    pub(super) epsilon: f64,
}

pub(super) fn gelu(x: f64) -> f64 {
    0.5 * x * (1.0 + libm::erf(x / 2f64.sqrt()))
}

pub(super) fn gelu_tanh(x: f64) -> f64 {
    0.5 * x * (1.0 + ((2.0 / std::f64::consts::PI).sqrt() * (x + 0.044715 * x * x * x)).tanh())
}

impl Encoder {
    /// The last hidden state of one text; `segments` is empty for models without.
    pub(super) fn run(&self, p: &Parameters, ids: &[usize], segments: &[usize]) -> Rows {
        let of = |name: &str| &p[&format!("{}{name}", self.prefix)];
        let row = |name: &str, index: usize| -> Vec<f64> {
            let (shape, values) = of(name);
            let width = shape[1];
            values[index * width..(index + 1) * width].iter().map(|v| f64::from(*v)).collect()
        };
        let mut seen = 0;
        let mut x: Rows = Vec::new();
        for (at, id) in ids.iter().enumerate() {
            seen += usize::from(self.padding != Some(*id));
            let position = match self.padding {
                None => at,
                Some(padding) if *id == padding => padding,
                Some(padding) => padding + seen,
            };
            let mut sum = row("embeddings.word_embeddings.weight", *id);
            let position = row("embeddings.position_embeddings.weight", position);
            sum.iter_mut().zip(position).for_each(|(s, v)| *s += v);
            if let Some(segment) = segments.get(at) {
                let segment = row("embeddings.token_type_embeddings.weight", *segment);
                sum.iter_mut().zip(segment).for_each(|(s, v)| *s += v);
            }
            x.push(self.norm(p, "embeddings.LayerNorm", &sum));
        }
        if let Some(projection) = self.projection {
            x = x.iter().map(|row| self.linear(p, projection, row)).collect();
        }
        for layer in 0..self.layers {
            let layer = if self.shared { 0 } else { layer };
            let name = |at: usize| self.modules[at].replace("{}", &layer.to_string());
            let of_all = |at: usize| -> Rows {
                x.iter().map(|row| self.linear(p, &name(at), row)).collect()
            };
            let mixed = self.attention(p, &of_all(0), &of_all(1), &of_all(2));
            x = x
                .iter()
                .zip(mixed)
                .map(|(x, mixed)| {
                    let y = add(x, &self.linear(p, &name(3), &mixed));
                    let y = self.norm(p, &name(4), &y);
                    let up = self.linear(p, &name(5), &y);
                    let up: Vec<f64> = up.into_iter().map(self.activation).collect();
                    let z = add(&y, &self.linear(p, &name(6), &up));
                    self.norm(p, &name(7), &z)
                })
                .collect();
        }
        x
    }

    fn attention(&self, p: &Parameters, q: &Rows, k: &Rows, v: &Rows) -> Rows {
        let width = q[0].len();
        let size = width / self.heads;
        let bias = p.get(&format!("{}encoder.relative_attention_bias.weight", self.prefix));
        let mut all = vec![vec![0.0; width]; q.len()];
        for head in 0..self.heads {
            let range = head * size..(head + 1) * size;
            for (i, q) in q.iter().enumerate() {
                let score = |j: usize| {
                    let dot: f64 = range.clone().map(|c| q[c] * k[j][c]).sum();
                    let bias = bias.map_or(0.0, |(shape, values)| {
                        f64::from(values[bucket(i, j, shape[0]) * shape[1] + head])
                    });
                    dot / (size as f64).sqrt() + bias
                };
                let weights: Vec<f64> = (0..k.len()).map(|j| score(j).exp()).collect();
                let sum: f64 = weights.iter().sum();
                for c in range.clone() {
                    all[i][c] = weights.iter().zip(v).map(|(w, v)| w * v[c]).sum::<f64>() / sum;
                }
            }
        }
        all
    }

    fn linear(&self, p: &Parameters, module: &str, x: &[f64]) -> Vec<f64> {
        let (shape, weight) = &p[&format!("{}{module}.weight", self.prefix)];
        let (_, bias) = &p[&format!("{}{module}.bias", self.prefix)];
        let rows = weight.chunks(shape[1]).zip(bias);
        rows.map(|(row, bias)| {
            f64::from(*bias) + row.iter().zip(x).map(|(w, x)| f64::from(*w) * x).sum::<f64>()
        })
        .collect()
    }

    fn norm(&self, p: &Parameters, module: &str, x: &[f64]) -> Vec<f64> {
        let (_, scale) = &p[&format!("{}{module}.weight", self.prefix)];
        let (_, bias) = &p[&format!("{}{module}.bias", self.prefix)];
        let mean = x.iter().sum::<f64>() / x.len() as f64;
        let variance = x.iter().map(|x| (x - mean) * (x - mean)).sum::<f64>() / x.len() as f64;
        let by = (variance + self.epsilon).sqrt();
        let scaled = x.iter().zip(scale).zip(bias);
        scaled.map(|((x, s), b)| (x - mean) / by * f64::from(*s) + f64::from(*b)).collect()
    }
}

fn add(a: &[f64], b: &[f64]) -> Vec<f64> {
    a.iter().zip(b).map(|(a, b)| a + b).collect()
}

/// T5's buckets of distances, for those below a quarter of the buckets: one for each distance and direction.
fn bucket(query: usize, key: usize, buckets: usize) -> usize {
    let distance = query.abs_diff(key);
    assert!(distance < buckets / 4, "longer texts share buckets, which the script compares");
    if key > query { buckets / 2 + distance } else { distance }
}
