//! The report of a conversion or a comparison: one HTML page that needs nothing else, and the same data as JSON.

pub(crate) mod charts;
mod convert;

use std::collections::BTreeMap;

use anyhow::{Context, Result};
use serde_json::{Map, Value, json};
use whit_convert::quantize::diagnose::{Comparison, Layer};

pub(crate) use convert::{ConvertReport, check_path};

use crate::report;

const PAGE: &str = include_str!("page.html");
const STYLE: &str = include_str!("style.css");

/// What the page has beside a comparison.
#[derive(Default)]
pub(crate) struct Page {
    pub(crate) title: String,
    pub(crate) subtitle: String,
    /// Value and label of the numbers at the top.
    pub(crate) tiles: Vec<(String, String)>,
    /// Sentences.
    pub(crate) summary: Vec<String>,
    pub(crate) notes: Vec<String>,
    /// How the range of a layer's output was chosen, by name, where methods differ.
    pub(crate) methods: BTreeMap<String, String>,
    /// Sections that only some pages have, by the name that the template calls them.
    pub(crate) sections: Map<String, Value>,
}

/// The page as HTML.
pub(crate) fn render(page: &Page, comparison: Option<&Comparison>) -> Result<String> {
    let mut context = page.sections.clone();
    let mut put = |key: &str, value: Value| {
        context.insert(key.to_owned(), value);
    };
    put("title", json!(page.title));
    put("subtitle", json!(page.subtitle));
    let tiles = page.tiles.iter().map(|(value, label)| json!({ "value": value, "label": label }));
    put("tiles", tiles.collect());
    put("summary", json!(page.summary));
    put("notes", json!(page.notes));
    put("footer", json!(concat!("whit ", env!("CARGO_PKG_VERSION"))));
    if let Some(comparison) = comparison {
        put("samples", json!(comparison.samples));
        let layers = comparison.layers.iter().map(|own| layer(own, page.methods.get(&own.name)));
        put("layers", layers.collect());
        put("methods", json!(!page.methods.is_empty()));
        put("bars", json!(charts::snr_bars(&bars(comparison))));
        put("weights", comparison.layers.iter().filter_map(weights).collect());
        put("baseline", json!(comparison.baseline_db.map_or(String::new(), decibels)));
        put("remedies", comparison.remedies.iter().map(remedy).collect());
    }
    render_page(PAGE, Value::Object(context))
}

/// A page of this template with the common style.
pub(crate) fn render_page(template: &str, context: Value) -> Result<String> {
    let mut environment = minijinja::Environment::new();
    // The extension turns escaping on, here alone.
    environment.add_template("style.css", STYLE).context("the report's style")?;
    environment.add_template("page.html", template).context("the report's template")?;
    let template = environment.get_template("page.html").context("the report's template")?;
    template.render(context).context("the report's template")
}

fn decibels(db: f64) -> String {
    if db.is_finite() { format!("{db:.1}") } else { "exact".to_owned() }
}

fn bars(comparison: &Comparison) -> Vec<charts::Bar<'_>> {
    let tip = |layer: &Layer| {
        let causes: Vec<&str> = layer.causes.iter().map(|cause| cause.text.as_str()).collect();
        format!(
            "{}: total {} dB, own {} dB\n{}",
            layer.name,
            decibels(layer.total_db),
            decibels(layer.introduced_db),
            causes.join("\n")
        )
    };
    comparison
        .layers
        .iter()
        .map(|layer| charts::Bar {
            name: &layer.name,
            total_db: layer.total_db,
            introduced_db: layer.introduced_db,
            tip: tip(layer),
        })
        .collect()
}

fn layer(layer: &Layer, method: Option<&String>) -> Value {
    let part = |share: f64| format!("{:.0}", 100.0 * share);
    let causes: Vec<Value> = layer
        .causes
        .iter()
        .map(|cause| json!({ "name": cause.kind.name(), "text": cause.text }))
        .collect();
    let grid = match layer.levels {
        Some([used, of]) => format!(
            "{} · {used} of {of} levels · step {:.3e} · zero {}",
            layer.dtype, layer.scale, layer.zero_point
        ),
        None if layer.scale > 0.0 => format!("{} · step {:.3e}", layer.dtype, layer.scale),
        None => layer.dtype.clone(),
    };
    let own = layer.introduced_db.is_finite();
    json!({
        "name": layer.name,
        "op": layer.op,
        "dtype": layer.dtype,
        "total": decibels(layer.total_db),
        "inherited": decibels(layer.inherited_db),
        "own": decibels(layer.introduced_db),
        "parts": if own {
            format!("{} / {} / {} %", part(layer.clipping_share), part(layer.rounding_share), part(layer.weights_share))
        } else {
            report::UNDEFINED.to_owned()
        },
        "output": layer.output_db.map_or(report::UNDEFINED.to_owned(), decibels),
        "share": report::percent(layer.output_share),
        "causes": causes,
        "method": method.map_or(report::UNDEFINED, String::as_str),
        "grid": grid,
        "activations": charts::histogram(
            &layer.histogram,
            layer.seen,
            layer.representable,
            &format!("Values of {}", layer.name),
        ),
    })
}

fn weights(layer: &Layer) -> Option<Value> {
    let facts = layer.weights.as_ref()?;
    let mut text = format!(
        "{} channels of {} weights, {} bits · largest over mean square {:.1} · channel maxima spread {:.1}×",
        facts.channels, facts.taps, facts.bits, facts.crest, facts.spread
    );
    if !facts.dead.is_empty() {
        text.push_str(&format!(" · {} channels all 0", facts.dead.len()));
    }
    if facts.widened > 0 {
        text.push_str(&format!(" · {} steps widened for the bias", facts.widened));
    }
    let title = format!("Weights of {}", layer.name);
    let plot = charts::histogram(&facts.histogram, [-1.0, 1.0], Some([-1.0, 1.0]), &title);
    Some(json!({ "name": layer.name, "text": text, "plot": plot }))
}

fn remedy(remedy: &whit_convert::quantize::diagnose::Remedy) -> Value {
    json!({
        "gain": format!("{:+.1}", remedy.gain_db),
        "class": if remedy.gain_db > 0.0 { "good" } else { "bad" },
        "output": decibels(remedy.output_db),
        "constants": report::signed_bytes(remedy.constant_bytes),
        "arena": report::signed_bytes(remedy.arena_bytes),
        "options": remedy.options,
    })
}
