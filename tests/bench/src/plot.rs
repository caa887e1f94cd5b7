//! The plots of a report: cost against sessions, and against rate.

use anyhow::{Result, anyhow};
use plotters::coord::Shift;
use plotters::coord::ranged1d::ValueFormatter;
use plotters::coord::types::RangedCoordf64;
use plotters::prelude::*;

use crate::report::{Report, Samples};

const SIZE: (u32, u32) = (760, 380);
const INK: RGBColor = RGBColor(0x33, 0x33, 0x33);
const COLOURS: [RGBColor; 4] = [
    RGBColor(0x1f, 0x77, 0xb4),
    RGBColor(0xd6, 0x27, 0x28),
    RGBColor(0x2c, 0xa0, 0x2c),
    RGBColor(0x7f, 0x7f, 0x7f),
];

/// One line of a plot.
struct Line {
    name: String,
    points: Vec<(f64, f64)>,
}

/// What a plot shows.
struct Plot {
    title: &'static str,
    x: &'static str,
    y: &'static str,
    lines: Vec<Line>,
}

/// The plots that the report has figures for: file names and SVG.
pub(crate) fn draw(report: &Report) -> Result<Vec<(&'static str, String)>> {
    let mut drawn = Vec::new();
    for (name, plot) in [
        ("cost-sessions.svg", sessions(report)),
        ("cost-open-sessions.svg", open_sessions(report)),
        ("cost-rate.svg", rate(report)),
    ] {
        if let Some(plot) = plot {
            let mut svg = String::new();
            let area = SVGBackend::with_string(&mut svg, SIZE).into_drawing_area();
            plot.draw(&area)
                .map_err(|error| anyhow!("drawing {name}: {error}"))?;
            drop(area);
            drawn.push((name, svg));
        }
    }
    Ok(drawn)
}

fn median(samples: &Samples) -> f64 {
    samples.median().unwrap_or(f64::NAN)
}

/// A row's name as the number that it is.
fn number(name: &str) -> Option<f64> {
    name.replace(',', "").parse().ok()
}

/// Of the host, by how many sessions are open and quiet: the whole daemon with the kernel programs
/// that it runs, and of that the sweep.
fn open_sessions(report: &Report) -> Option<Plot> {
    /// Of a sweep that takes a millisecond four times a second, in percent.
    const PERCENT_PER_MS: f64 = 0.4;
    const SWEEP_CPU: usize = 4;
    const DAEMON_CPU: usize = 5;
    let table = report.table("adoption")?;
    let line = |name: &str, column: usize, scale: f64| Line {
        name: name.into(),
        points: table
            .rows
            .iter()
            .filter_map(|row| Some((number(&row.name)?, median(&row.cells[column]) * scale)))
            // There is no room for none on a scale of magnitudes.
            .filter(|(sessions, _)| *sessions > 0.0)
            .collect(),
    };
    Some(Plot {
        title: "Open sessions that are quiet",
        x: "sessions",
        y: "percent of a processor",
        lines: vec![
            line("daemon, its walks in the kernel included", DAEMON_CPU, 1.0),
            line("of that, the sweep", SWEEP_CPU, PERCENT_PER_MS),
        ],
    })
}

/// Of the fold, by how many sessions there are.
fn sessions(report: &Report) -> Option<Plot> {
    let table = report.table("user")?;
    let lines = [("random order", 0), ("in turn", 2), ("coming and going", 4)];
    Some(Plot {
        title: "One record in user space",
        x: "sessions",
        y: "ns of one processor",
        lines: lines
            .into_iter()
            .map(|(name, column)| Line {
                name: name.into(),
                points: table
                    .rows
                    .iter()
                    .filter_map(|row| Some((number(&row.name)?, median(&row.cells[column]))))
                    .collect(),
            })
            .collect(),
    })
}

/// What weir adds to a request, by the rate of requests.
fn rate(report: &Report) -> Option<Plot> {
    let table = report.table("rate")?;
    let lines = ["off", "weir"].into_iter().enumerate();
    Some(Plot {
        title: "nginx, small answers, a session for each",
        x: "requests/s",
        y: "processors",
        lines: lines
            .map(|(at, name)| Line {
                name: name.into(),
                points: table
                    .rows
                    .iter()
                    .map(|row| (median(&row.cells[2 * at]), median(&row.cells[2 * at + 1])))
                    .collect(),
            })
            .collect(),
    })
}

impl Plot {
    fn draw<D: DrawingBackend>(&self, area: &DrawingArea<D, Shift>) -> Result<()>
    where
        D::ErrorType: 'static,
    {
        let points = || {
            self.lines
                .iter()
                .flat_map(|line| line.points.iter().copied())
        };
        let largest = |of: fn((f64, f64)) -> f64| points().map(of).fold(1.0, f64::max);
        let smallest_x = points().map(|(x, _)| x).fold(f64::INFINITY, f64::min);
        let (x, y) = (largest(|(x, _)| x), largest(|(_, y)| y) * 1.15);
        area.fill(&WHITE)?;
        let mut builder = ChartBuilder::on(area);
        builder
            .caption(self.title, ("sans-serif", 18, &INK))
            .margin(12)
            .x_label_area_size(40)
            .y_label_area_size(60);
        // Sessions are told by their order of magnitude.
        if x / smallest_x >= 100.0 {
            let mut chart = builder.build_cartesian_2d((smallest_x..x).log_scale(), 0.0..y)?;
            self.lines(&mut chart)
        } else {
            let mut chart = builder.build_cartesian_2d(0.0..x * 1.05, 0.0..y)?;
            self.lines(&mut chart)
        }
    }

    fn lines<'a, D, X>(
        &self,
        chart: &mut ChartContext<'a, D, Cartesian2d<X, RangedCoordf64>>,
    ) -> Result<()>
    where
        D: DrawingBackend + 'a,
        D::ErrorType: 'static,
        X: Ranged<ValueType = f64> + ValueFormatter<f64>,
    {
        chart
            .configure_mesh()
            .light_line_style(TRANSPARENT)
            .bold_line_style(INK.mix(0.12))
            .axis_style(INK)
            .label_style(("sans-serif", 13, &INK))
            .x_desc(self.x)
            .y_desc(self.y)
            .x_label_formatter(&|value| format!("{value:.0}"))
            .draw()?;
        for (line, colour) in self.lines.iter().zip(COLOURS) {
            let points = line.points.iter().copied();
            chart
                .draw_series(LineSeries::new(points.clone(), colour.stroke_width(2)).point_size(3))?
                .label(&line.name)
                .legend(move |(x, y)| {
                    PathElement::new([(x, y), (x + 18, y)], colour.stroke_width(2))
                });
        }
        chart
            .configure_series_labels()
            .position(SeriesLabelPosition::UpperLeft)
            .background_style(WHITE.mix(0.8))
            .label_font(("sans-serif", 13, &INK))
            .draw()?;
        Ok(())
    }
}
