//! What decoders like Llama have in common: tokens in, logits of chosen rows out, keys and values kept in states.

use std::collections::HashMap;

use whit::DType;
use whit::format::Q8_GROUP;

use super::blocks::{Block, Blocks};
use super::config::Config;
use super::decoder_inputs::{self, DecoderInputs, Room};
use super::rope::{Layers, Rope};
use crate::dim::Dim;
use crate::error::ImportError;
use crate::graph::{
    CachedAttention, Clamp, CrossAttention, Heads, MatMul, NormKind, Op, Rotary, State, UnaryKind,
    ValueId,
};
use crate::import::KvCache;
use crate::tensor::Tensor;

/// Parameters by what they are for; in those of a layer, the layer's prefix is left out.
pub(super) struct Names {
    pub(super) embedding: &'static str,
    /// Learned positions, if it has them.
    pub(super) positions: Option<&'static str>,
    pub(super) layers: &'static str,
    pub(super) attention_norm: &'static str,
    /// Queries, keys and values, or one module for all.
    pub(super) qkv: &'static [&'static str],
    pub(super) q_norm: &'static str,
    pub(super) k_norm: &'static str,
    pub(super) output: &'static str,
    /// Behind attention, before the residual.
    pub(super) attention_post_norm: Option<&'static str>,
    pub(super) mlp_norm: &'static str,
    /// Gate and up, one module for both, or up alone in a network without gates.
    pub(super) up: &'static [&'static str],
    pub(super) down: &'static str,
    pub(super) mlp_post_norm: Option<&'static str>,
    pub(super) norm: &'static str,
    pub(super) head: &'static str,
}

/// Names of Llama and most that came after it.
pub(super) const LLAMA_NAMES: Names = Names {
    embedding: "model.embed_tokens",
    positions: None,
    layers: "model.layers",
    attention_norm: "input_layernorm",
    qkv: &["self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"],
    q_norm: "self_attn.q_norm",
    k_norm: "self_attn.k_norm",
    output: "self_attn.o_proj",
    attention_post_norm: None,
    mlp_norm: "post_attention_layernorm",
    up: &["mlp.gate_proj", "mlp.up_proj"],
    down: "mlp.down_proj",
    mlp_post_norm: None,
    norm: "model.norm",
    head: "lm_head",
};

/// All layers turn by the same angles.
pub(super) const ONE_ROPE: &[(Layers, f32)] = &[(Layers::All, 10000.0)];

/// What differs between layers.
#[derive(Clone, Copy, Default)]
pub(super) struct LayerKind {
    /// Positions that a query sees.
    pub(super) window: Option<usize>,
    /// Which of the model's angles turn its queries and keys.
    pub(super) rope: Option<usize>,
}

/// What a decoder beside an encoder attends to, behind its attention to itself.
pub(super) struct Cross {
    /// The encoder's rows, `[0 or 1, positions, width]`.
    pub(super) encoded: ValueId,
    pub(super) norm: &'static str,
    pub(super) q: &'static str,
    pub(super) kv: [&'static str; 2],
    pub(super) output: &'static str,
    /// Heads of each layer whose weights become outputs.
    pub(super) alignment: Vec<Vec<i32>>,
}

/// Attention that changes states.
struct OverStates<'s> {
    name: &'static str,
    op: Op,
    /// What it reads before the states.
    read: [ValueId; 2],
    /// Names, types, and numbers for each head and each position.
    states: &'s [(&'static str, DType, usize)],
    room: Room,
    /// Read behind the states: the sequence of each token, where there are several, or heads whose weights are wanted.
    last: Option<ValueId>,
    /// The shape of these weights.
    weights: Option<Vec<Dim>>,
}

/// A decoder, as its configuration describes it.
pub(super) struct Decoder {
    pub(super) names: Names,
    pub(super) vocab: usize,
    pub(super) width: usize,
    pub(super) inner: usize,
    pub(super) layers: Vec<LayerKind>,
    pub(super) heads: Heads,
    /// Positions that the model was made for.
    pub(super) positions: usize,
    pub(super) ropes: Vec<Rope>,
    pub(super) norm: NormKind,
    /// Added to the scales of norms.
    pub(super) norm_offset: f32,
    pub(super) epsilon: f32,
    pub(super) embedding_scale: f32,
    /// Of attention's scores.
    pub(super) scale: f32,
    pub(super) softcap: f32,
    /// Of the logits.
    pub(super) final_softcap: f32,
    pub(super) activation: UnaryKind,
    /// Weights of linear layers are stored `[inputs, outputs]`.
    pub(super) is_transposed: bool,
    pub(super) cross: Option<Cross>,
}

impl Decoder {
    /// What Llama's keys say. `turning` are the layers that have angles of their own, with the base that each has unless
    /// the configuration gives it one.
    pub(super) fn new(
        blocks: &Blocks<'_>,
        turning: &[(Layers, f32)],
    ) -> Result<Decoder, ImportError> {
        let config = blocks.config;
        let (width, heads) = (config.size("hidden_size")?, config.size("num_attention_heads")?);
        let kv_heads = config.size_or("num_key_value_heads", heads)?;
        let size = match config.optional_size("head_dim")? {
            Some(size) => size,
            None if width.is_multiple_of(heads) => width / heads,
            None => {
                let problem = format!("is {heads}, which {width} isn't a multiple of");
                return Err(config.wrong("num_attention_heads", problem));
            }
        };
        if !heads.is_multiple_of(kv_heads) {
            let problem = format!("is {kv_heads}, which {heads} isn't a multiple of");
            return Err(config.wrong("num_key_value_heads", problem));
        }
        let positions = config.size_or("max_position_embeddings", 2048)?;
        let room = [positions, decoder_inputs::context(positions, blocks.options.context)];
        let rope = |(layers, base): &(Layers, f32)| Rope::new(config, *layers, *base, size, room);
        let ropes = turning.iter().map(rope).collect::<Result<_, _>>()?;
        let layers = config.size("num_hidden_layers")?;
        // A list of layers must not be longer than any model's.
        if layers > 1 << 16 {
            return Err(config.wrong("num_hidden_layers", format!("is {layers}")));
        }
        Ok(Decoder {
            names: LLAMA_NAMES,
            vocab: config.size("vocab_size")?,
            width,
            inner: config.size("intermediate_size")?,
            layers: vec![LayerKind { window: None, rope: Some(0) }; layers],
            heads: Heads { heads, kv_heads, size },
            positions,
            ropes,
            norm: NormKind::Rms,
            norm_offset: 0.0,
            epsilon: config.float_or("rms_norm_eps", 1e-6)?,
            embedding_scale: 1.0,
            scale: 1.0 / (size as f32).sqrt(),
            softcap: 0.0,
            final_softcap: 0.0,
            activation: activation(config, &["hidden_act", "hidden_activation"], "silu")?,
            is_transposed: false,
            cross: None,
        })
    }

    /// Adds the model.
    pub(super) fn build(&self, blocks: &mut Blocks<'_>) -> Result<(), ImportError> {
        let room = Room::of(blocks, self.positions)?;
        let (inputs, _) = room.inputs(blocks, &[], &[])?;
        self.logits(blocks, inputs, room)
    }

    /// Adds everything behind the inputs.
    pub(super) fn logits(
        &self,
        blocks: &mut Blocks<'_>,
        inputs: DecoderInputs,
        room: Room,
    ) -> Result<(), ImportError> {
        let DecoderInputs { tokens, positions, rows, .. } = inputs;
        let table = (self.vocab, self.width);
        let mut x = blocks.embedding(tokens, self.names.embedding, table, self.embedding_scale)?;
        if let Some(name) = self.names.positions {
            let learned = blocks.embedding(positions, name, (self.positions, self.width), 1.0)?;
            x = blocks.at(name, |c| c.add(x, learned))?;
        }
        let mut tables = HashMap::new();
        for (at, kind) in self.layers.iter().enumerate() {
            let table = kind.rope.map(|rope| {
                *tables.entry(rope).or_insert_with(|| {
                    let tensor = self.ropes[rope].table(room.context);
                    blocks.builder.constant(format!("rotary/{rope}"), tensor)
                })
            });
            x = self.layer(blocks, x, inputs, at, *kind, table, room)?;
        }
        let x = blocks.at("rows", |c| c.main().gather(x, rows, 0))?;
        let x = self.normalized(blocks, x, self.names.norm)?;
        let embedding = format!("{}.weight", self.names.embedding);
        let table = blocks.table(&embedding, &[self.vocab, self.width])?;
        let weight = self.head(blocks, table)?;
        let mut logits = blocks.product(self.names.head, x, weight, None, self.vocab)?;
        if self.final_softcap > 0.0 {
            let cap = self.final_softcap;
            logits = blocks.at("logits", |c| {
                let bent = c.scaled(logits, 1.0 / cap)?;
                let bent = c.unary(UnaryKind::Tanh, bent)?;
                c.scaled(bent, cap)
            })?;
        }
        blocks.output("logits", logits);
        blocks.metadata("model.context", room.context);
        if room.sequences > 1 {
            blocks.metadata("model.sequences", room.sequences);
        }
        Ok(())
    }

    /// The weights that make logits; those of the embedding when there are no others.
    fn head(&self, blocks: &mut Blocks<'_>, table: ValueId) -> Block {
        let head = format!("{}.weight", self.names.head);
        // It may stand beside the module that has all other parameters.
        let prefix = match blocks.has(&head) {
            true => None,
            false => Some(std::mem::take(&mut blocks.prefix)),
        };
        let is_tied = blocks.config.flag_or("tie_word_embeddings", true)?;
        let weight = match blocks.has(&head) || !is_tied {
            true => blocks.table(&head, &[self.vocab, self.width]),
            false => Ok(table),
        };
        if let Some(prefix) = prefix {
            blocks.prefix = prefix;
        }
        weight
    }

    #[allow(clippy::too_many_arguments, reason = "one call, above")]
    fn layer(
        &self,
        blocks: &mut Blocks<'_>,
        x: ValueId,
        inputs: DecoderInputs,
        at: usize,
        kind: LayerKind,
        table: Option<ValueId>,
        room: Room,
    ) -> Block {
        let (names, Heads { heads, kv_heads, size }) = (&self.names, self.heads);
        let of = |name: &str| format!("{}.{at}.{name}", names.layers);
        let h = self.normalized(blocks, x, &of(names.attention_norm))?;
        let widths = [heads * size, kv_heads * size, kv_heads * size];
        let mut qkv = self.linears(blocks, h, &of("qkv"), names.qkv, &widths, &of)?;
        let shape = blocks.shape(qkv);
        let (q_norm, k_norm) = (of(names.q_norm), of(names.k_norm));
        let normalized = blocks.has(&format!("{q_norm}.weight"));
        if let (Some(table), Some(rope)) = (table, kind.rope) {
            let mut operands = vec![qkv, inputs.positions, table];
            if normalized {
                for name in [&q_norm, &k_norm] {
                    operands.push(self.norm_scale(blocks, name, size)?);
                }
            }
            let op = Op::Rotary(Rotary {
                heads: self.heads,
                rotated: self.ropes[rope].rotated,
                interleaved: self.ropes[rope].interleaved,
                epsilon: self.epsilon,
            });
            let shape = shape.clone();
            qkv = blocks
                .at(&of("rotary"), |c| c.main().emit("", op, &operands, DType::F32, shape))?;
        } else if normalized {
            let problem = "normalised queries without rotary positions aren't supported".to_owned();
            return Err(ImportError::Tensor { name: q_norm, problem });
        }
        let op = Op::CachedAttention(CachedAttention {
            heads: self.heads,
            window: kind.window.filter(|window| *window < room.context),
            scale: self.scale,
            softcap: self.softcap,
        });
        let states = match blocks.options.kv_cache {
            KvCache::F16 => [("keys", DType::F16, size), ("values", DType::F16, size)].to_vec(),
            KvCache::F32 => [("keys", DType::F32, size), ("values", DType::F32, size)].to_vec(),
            KvCache::Q8 => {
                let groups = size.div_ceil(Q8_GROUP);
                let rows = [("keys", DType::I8, size), ("values", DType::I8, size)];
                let scales =
                    [("key_scales", DType::F16, groups), ("value_scales", DType::F16, groups)];
                [rows, scales].concat()
            }
        };
        let attention = OverStates {
            name: "attention",
            op,
            read: [qkv, inputs.positions],
            states: &states,
            room,
            last: inputs.sequences,
            weights: None,
        };
        let y = self.over_states(blocks, attention, &of)?[0];
        let output = of(names.output);
        let y = self.linear(blocks, y, &output, heads * size, self.width)?;
        let mut x = self.joined(blocks, x, y, &output, names.attention_post_norm.map(of))?;
        if let Some(cross) = &self.cross {
            x = self.cross_attention(blocks, x, at, cross, &of)?;
        }

        let h = self.normalized(blocks, x, &of(names.mlp_norm))?;
        let gated = names.up.len() == 2 || self.inner_of(blocks, &of(names.up[0])) == 2;
        let widths = [self.inner; 2];
        let widths = if gated { &widths[..] } else { &widths[..1] };
        let up = self.linears(blocks, h, &of("up"), names.up, widths, &of)?;
        let (kind, inner) = (self.activation, self.inner);
        let shape = vec![shape[0].clone(), Dim::from(inner)];
        let h = blocks.at(&of("activation"), |c| match gated {
            true => c.main().emit("", Op::Gated { kind }, &[up], DType::F32, shape),
            false => c.main().unary(kind, up),
        })?;
        let down = of(names.down);
        let y = self.linear(blocks, h, &down, inner, self.width)?;
        self.joined(blocks, x, y, &down, names.mlp_post_norm.map(of))
    }

    /// Attention to what an encoder made, with its residual.
    fn cross_attention(
        &self,
        blocks: &mut Blocks<'_>,
        x: ValueId,
        layer: usize,
        cross: &Cross,
        of: &dyn Fn(&str) -> String,
    ) -> Block {
        let Heads { heads, kv_heads, size } = self.heads;
        let (h, kv) = (self.normalized(blocks, x, &of(cross.norm))?, cross.kv.map(of));
        let q = self.linear(blocks, h, &of(cross.q), self.width, heads * size)?;
        let modules: Vec<(&str, usize)> =
            kv.iter().map(|module| (module.as_str(), kv_heads * size)).collect();
        let new = blocks.linears(cross.encoded, &of("encoder_kv"), &modules, self.width)?;
        let positions = blocks.shape(new)[1].as_const().expect("an encoder's rows are fixed");
        let op = Op::CrossAttention(CrossAttention { heads: self.heads, scale: self.scale });
        let states = [("encoder_keys", DType::F16, size), ("encoder_values", DType::F16, size)];
        let heads_chosen = &cross.alignment[layer];
        let chosen = (!heads_chosen.is_empty()).then(|| {
            let heads = Tensor::from_i32([heads_chosen.len()], heads_chosen);
            blocks.builder.constant(of("alignment_heads"), heads)
        });
        let room = Room { sequences: 1, context: positions as usize };
        let weights = chosen.map(|_| {
            let tokens = blocks.shape(x)[0].clone();
            vec![tokens, Dim::from(heads_chosen.len()), Dim::from(room.context)]
        });
        let attention = OverStates {
            name: "encoder_attention",
            op,
            read: [q, new],
            states: &states,
            room,
            last: chosen,
            weights,
        };
        let made = self.over_states(blocks, attention, of)?;
        if let [_, _, _, weights] = made[..] {
            blocks.output(&format!("alignment.{layer}"), weights);
        }
        let y = made[0];
        let output = of(cross.output);
        let y = self.linear(blocks, y, &output, heads * size, self.width)?;
        self.joined(blocks, x, y, &output, None)
    }

    /// Adds an attention with its states; its results.
    fn over_states(
        &self,
        blocks: &mut Blocks<'_>,
        attention: OverStates<'_>,
        of: &dyn Fn(&str) -> String,
    ) -> Result<Vec<ValueId>, ImportError> {
        let OverStates { name, op, read, states, room, last, weights } = attention;
        let Heads { heads, kv_heads, size } = self.heads;
        let y = vec![blocks.shape(read[0])[0].clone(), Dim::from(heads * size)];
        let mut results = vec![(DType::F32, y)];
        let mut inputs = read.map(Some).to_vec();
        for (name, dtype, width) in states {
            let shape = [room.sequences, kv_heads, room.context, *width].map(Dim::from).to_vec();
            let read = blocks.builder.graph.add_value(of(name), *dtype, shape.clone());
            inputs.push(Some(read));
            results.push((*dtype, shape));
        }
        let reads = inputs[2..].to_vec();
        inputs.extend(last.map(Some));
        results.extend(weights.map(|shape| (DType::F32, shape)));
        let made = blocks.at(&of(name), |c| c.b.emit_several(c.node, "", op, &inputs, &results))?;
        let reads = reads.into_iter().flatten();
        for ((read, (name, ..)), next) in reads.zip(states).zip(&made[1..]) {
            let state = State { name: of(name), read, next: *next, initial: None };
            blocks.builder.graph.states.push(state);
        }
        Ok(made)
    }

    /// How many times the inner width a module has outputs.
    fn inner_of(&self, blocks: &Blocks<'_>, name: &str) -> usize {
        let outputs = blocks.shape_of(&format!("{name}.weight")).map_or(0, |shape| shape[0]);
        outputs / self.inner
    }

    /// Modules that read the same, or one module that has all of their outputs.
    fn linears(
        &self,
        blocks: &mut Blocks<'_>,
        x: ValueId,
        name: &str,
        modules: &[&str],
        widths: &[usize],
        of: &dyn Fn(&str) -> String,
    ) -> Block {
        if let [module] = modules {
            return self.linear(blocks, x, &of(module), self.width, widths.iter().sum());
        }
        let modules: Vec<String> = modules.iter().map(|module| of(module)).collect();
        let pairs: Vec<(&str, usize)> =
            modules.iter().map(String::as_str).zip(widths.iter().copied()).collect();
        blocks.linears(x, name, &pairs, self.width)
    }

    fn linear(
        &self,
        blocks: &mut Blocks<'_>,
        x: ValueId,
        name: &str,
        inputs: usize,
        outputs: usize,
    ) -> Block {
        if !self.is_transposed {
            return blocks.linear(x, name, inputs, outputs);
        }
        let weight = blocks.parameter(&format!("{name}.weight"), &[inputs, outputs])?;
        let bias = blocks.parameter(&format!("{name}.bias"), &[outputs])?;
        let op = Op::MatMul(MatMul {
            transpose_a: false,
            transpose_b: false,
            clamp: Clamp::NONE,
            inner_quant: None,
        });
        let mut shape = blocks.shape(x);
        shape[1] = Dim::from(outputs);
        blocks.at(name, |c| c.main().emit("", op, &[x, weight, bias], DType::F32, shape))
    }

    /// A branch, perhaps normalised, added to what it branched off.
    fn joined(
        &self,
        blocks: &mut Blocks<'_>,
        x: ValueId,
        y: ValueId,
        name: &str,
        norm: Option<String>,
    ) -> Block {
        let y = match norm {
            Some(norm) => self.normalized(blocks, y, &norm)?,
            None => y,
        };
        blocks.at(&format!("{name}/residual"), |c| c.main().add(x, y))
    }

    /// The scale of a norm.
    fn norm_scale(&self, blocks: &mut Blocks<'_>, name: &str, size: usize) -> Block {
        let name = format!("{name}.weight");
        if self.norm_offset == 0.0 {
            return blocks.parameter(&name, &[size]);
        }
        let scale = blocks.stored(&name, &[size])?.tensor.to_f32();
        let scale: Vec<f32> = scale.into_iter().map(|scale| scale + self.norm_offset).collect();
        Ok(blocks.builder.constant(name, Tensor::from_f32([size], &scale)))
    }

    fn normalized(&self, blocks: &mut Blocks<'_>, x: ValueId, name: &str) -> Block {
        let scale = self.norm_scale(blocks, name, self.width)?;
        let bias = format!("{name}.bias");
        let bias = match blocks.has(&bias) {
            true => Some(blocks.parameter(&bias, &[self.width])?),
            false => None,
        };
        let op = Op::Normalize { kind: self.norm, axis: 1, epsilon: self.epsilon };
        let operands: Vec<ValueId> = [x, scale].into_iter().chain(bias).collect();
        let shape = blocks.shape(x);
        blocks.at(name, |c| c.main().emit("", op, &operands, DType::F32, shape))
    }
}

/// The function that the first of these keys names.
pub(super) fn activation(
    config: &Config,
    keys: &[&str],
    default: &str,
) -> Result<UnaryKind, ImportError> {
    let key = keys.iter().rev().find(|key| config.get(key).is_some()).unwrap_or(&keys[0]);
    super::blocks::activation_kind(config, key, config.text_or(key, default)?)
}
