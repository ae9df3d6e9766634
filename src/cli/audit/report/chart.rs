//! Drawings as SVG, of numbers alone: no text of a record goes into one.

use std::fmt::{self, Write};

use super::super::phrase;
use super::series::{Piece, Series};

const WIDTH: f64 = 900.0;
const HEIGHT: f64 = 150.0;
/// Room for the scale on the left, and below for the times.
const LEFT: f64 = 62.0;
const BELOW: f64 = 22.0;
const ABOVE: f64 = 12.0;

/// One of the two sorts of what is stacked.
struct Layer {
    class: &'static str,
    value: fn(&Piece) -> u64,
}

/// Requests over time: let through, and on top of them those that were not.
pub(super) fn requests(series: &Series) -> Result<String, fmt::Error> {
    let layers = [
        Layer {
            class: "allowed",
            value: |piece| piece.allowed,
        },
        Layer {
            class: "denied",
            value: |piece| piece.denied,
        },
    ];
    chart(series, &layers, "Requests over time", |count| {
        count.to_string()
    })
}

/// Bytes over time: down, and on top of them up.
pub(super) fn bytes(series: &Series) -> Result<String, fmt::Error> {
    let layers = [
        Layer {
            class: "down",
            value: |piece| piece.down,
        },
        Layer {
            class: "up",
            value: |piece| piece.up,
        },
    ];
    chart(series, &layers, "Bytes over time", phrase::bytes)
}

fn chart(
    series: &Series,
    layers: &[Layer],
    title: &str,
    unit: fn(u64) -> String,
) -> Result<String, fmt::Error> {
    let sum = |piece: &Piece| {
        let values = layers.iter().map(|layer| (layer.value)(piece));
        values.fold(0_u64, u64::saturating_add)
    };
    let highest = series.pieces.iter().map(sum).max().unwrap_or_default();
    let mut svg = String::new();
    let total = HEIGHT + ABOVE + BELOW;
    write!(
        svg,
        "<svg class=\"chart\" viewBox=\"0 0 {WIDTH} {total}\" role=\"img\" aria-label=\"{title}\"><title>{title}</title>"
    )?;
    let base = ABOVE + HEIGHT;
    for (share, value) in [(0.0, 0), (0.5, highest / 2), (1.0, highest)] {
        if share > 0.0 && value == 0 {
            continue;
        }
        let y = base - HEIGHT * share;
        write!(
            svg,
            "<line class=\"grid\" x1=\"{LEFT}\" x2=\"{WIDTH}\" y1=\"{y}\" y2=\"{y}\"/>\
             <text x=\"{x}\" y=\"{text_y}\" text-anchor=\"end\">{value}</text>",
            x = LEFT - 8.0,
            text_y = y + 4.0,
            value = unit(value)
        )?;
    }
    let count = number(series.pieces.len().max(30) as u64);
    let step = (WIDTH - LEFT) / count;
    for (at, piece) in series.pieces.iter().enumerate() {
        let mut y = base;
        for layer in layers {
            let value = (layer.value)(piece);
            if value == 0 {
                continue;
            }
            // What is there is seen.
            let height = (HEIGHT * number(value) / number(highest)).max(1.5);
            y -= height;
            write!(
                svg,
                "<rect class=\"{}\" x=\"{:.2}\" y=\"{y:.2}\" width=\"{:.2}\" height=\"{height:.2}\"/>",
                layer.class,
                LEFT + step * number(at as u64),
                (step - 1.0).max(0.5)
            )?;
        }
    }
    if let Some((start, end)) = series.span() {
        let (y, whole) = (base + 16.0, WIDTH - LEFT);
        let end_x = LEFT + whole * number(series.pieces.len() as u64) / count;
        write!(
            svg,
            "<text x=\"{LEFT}\" y=\"{y}\">{start}</text>\
             <text x=\"{end_x:.1}\" y=\"{y}\" text-anchor=\"{anchor}\">{end}</text>",
            start = start.strftime("%Y-%m-%d %H:%M:%S"),
            end = end.strftime("%H:%M:%S"),
            anchor = if end_x > LEFT + 320.0 { "end" } else { "start" },
        )?;
    }
    svg.push_str("</svg>");
    Ok(svg)
}

/// Two shares of the largest sum in a table, side by side.
pub(super) fn bar(
    (first, second): (u64, u64),
    largest: u64,
    classes: [&str; 2],
) -> Result<String, fmt::Error> {
    const LONGEST: f64 = 120.0;
    let share = |value: u64| {
        if value == 0 {
            0.0
        } else {
            (LONGEST * number(value) / number(largest.max(1))).max(1.0)
        }
    };
    let (one, two) = (share(first), share(second));
    let [a, b] = classes;
    let mut svg = String::new();
    write!(
        svg,
        "<svg class=\"bar\" viewBox=\"0 0 {LONGEST} 10\" aria-hidden=\"true\">\
         <rect class=\"{a}\" x=\"0\" y=\"1\" width=\"{one:.1}\" height=\"8\"/>\
         <rect class=\"{b}\" x=\"{one:.1}\" y=\"1\" width=\"{two:.1}\" height=\"8\"/></svg>"
    )?;
    Ok(svg)
}

#[expect(clippy::cast_precision_loss, reason = "a drawing")]
fn number(value: u64) -> f64 {
    value as f64
}
