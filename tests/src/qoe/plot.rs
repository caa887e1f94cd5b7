//! The plot of one session: the player's buffer beside an estimated one, with the stalls of each,
//! and who is blamed.

use anyhow::{Result, anyhow};
use plotters::prelude::*;

use super::said::{Stall, ViewerSaid};
use super::stage::Played;

const SIZE: (u32, u32) = (960, 420);
const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
const TRUE: RGBColor = RGBColor(0x1f, 0x77, 0xb4);
const SAID: RGBColor = RGBColor(0xd6, 0x27, 0x28);
const OTHER: RGBColor = RGBColor(0x7f, 0x7f, 0x7f);

/// Draws a session as SVG. The first account is drawn with its buffer; of the others, the stalls.
///
/// # Errors
/// It cannot be drawn.
pub fn draw(played: &Played, accounts: &[(&str, &ViewerSaid)]) -> Result<String> {
    let mut svg = String::new();
    {
        let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
        paint(&area, played, accounts).map_err(|error| anyhow!("drawing the plot: {error}"))?;
    }
    Ok(svg)
}

fn paint(
    area: &DrawingArea<SVGBackend<'_>, plotters::coord::Shift>,
    played: &Played,
    accounts: &[(&str, &ViewerSaid)],
) -> Result<(), Box<dyn std::error::Error>> {
    let truth = &played.truth;
    let zero = truth.load_ms as f64 / 1000.0;
    let since = |unix_s: f64| unix_s - zero;
    let at_ns = |ns: u64| since(ns as f64 / 1e9);
    let since_ms = |ms: u64| since(ms as f64 / 1e3);
    let end = since_ms(truth.left_ms);
    let top = truth
        .buffer
        .iter()
        .map(|sample| sample.ahead_s)
        .fold(4.0, f64::max)
        * 1.1;
    // A lane below the axis for each who tells of stalls.
    let lane = top * 0.06;
    let lanes = accounts.len() as f64 + 1.0;
    area.fill(&WHITE)?;
    let mut chart = ChartBuilder::on(area)
        .caption(&played.session.name, ("sans-serif", 18, &INK))
        .margin(12)
        .x_label_area_size(40)
        .y_label_area_size(60)
        .build_cartesian_2d(0.0..end, -lane * lanes..top)?;
    chart
        .configure_mesh()
        .light_line_style(TRANSPARENT)
        .bold_line_style(INK.mix(0.12))
        .axis_style(INK)
        .label_style(("sans-serif", 13, &INK))
        .x_desc("s since the player was given its URL")
        .y_desc("s of media ahead")
        .y_label_formatter(&|value| {
            if *value < 0.0 {
                String::new()
            } else {
                format!("{value:.1}")
            }
        })
        .draw()?;
    let bar = |row, begin, end, colour| lane_bar(lane, row, (begin, end), colour);
    chart.draw_series(
        truth
            .stalls
            .iter()
            .map(|stall| bar(0.0, since_ms(stall.begin_ms), since_ms(stall.end_ms), TRUE)),
    )?;
    let buffer = truth
        .buffer
        .iter()
        .map(|sample| (since_ms(sample.t_ms), sample.ahead_s));
    chart
        .draw_series(LineSeries::new(buffer, TRUE.stroke_width(2)))?
        .label("the player's own: buffer, stalls")
        .legend(|(x, y)| PathElement::new([(x, y), (x + 18, y)], TRUE.stroke_width(2)));
    for (n, (name, said)) in accounts.iter().enumerate() {
        let colour = if n == 0 { SAID } else { OTHER };
        let row = n as f64 + 1.0;
        let stop = |stall: &Stall| {
            if stall.end_unix_ns == 0 {
                end
            } else {
                at_ns(stall.end_unix_ns).min(end)
            }
        };
        chart.draw_series(
            said.stalls
                .iter()
                .map(|stall| bar(row, at_ns(stall.begin_unix_ns), stop(stall), colour)),
        )?;
        chart.draw_series(said.stalls.iter().filter_map(|stall| {
            let words = format!("{:?}", stall.cause?);
            let at = (at_ns(stall.begin_unix_ns), -lane * (row + 0.15));
            Some(Text::new(
                words,
                at,
                ("sans-serif", 11).into_font().color(&INK),
            ))
        }))?;
        let points = if n == 0 {
            drained(said, &at_ns, end)
        } else {
            Vec::new()
        };
        chart
            .draw_series(LineSeries::new(points, colour.stroke_width(1)))?
            .label(if n == 0 {
                format!("{name}: buffer, stalls")
            } else {
                format!("{name}: stalls")
            })
            .legend(move |(x, y)| PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2)));
    }
    chart
        .configure_series_labels()
        .position(SeriesLabelPosition::UpperLeft)
        .background_style(WHITE.mix(0.8))
        .label_font(("sans-serif", 13, &INK))
        .draw()?;
    area.present()?;
    Ok(())
}

/// A stall in the `row`-th lane below the axis.
fn lane_bar(lane: f64, row: f64, span: (f64, f64), colour: RGBColor) -> Rectangle<(f64, f64)> {
    let (low, high) = (-lane * (row + 0.9), -lane * (row + 0.1));
    Rectangle::new([(span.0, low), (span.1, high)], colour.filled())
}

/// The estimated buffer between what is known of it: it drains in real time.
fn drained(said: &ViewerSaid, at_ns: &impl Fn(u64) -> f64, end: f64) -> Vec<(f64, f64)> {
    let mut points = Vec::new();
    let mut samples = said.buffer.iter().peekable();
    while let Some((t_ns, buffer_us)) = samples.next() {
        let (at, level) = (at_ns(*t_ns), *buffer_us as f64 / 1e6);
        let next = samples.peek().map_or(end, |(next_ns, _)| at_ns(*next_ns));
        let dry = at + level;
        points.push((at, level));
        if dry < next {
            points.extend([(dry, 0.0), (next, 0.0)]);
        } else {
            points.push((next, level - (next - at)));
        }
    }
    points
}
