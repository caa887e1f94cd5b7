//! A report as text, and in the handbook: the figures between two markers, and the plots.

use std::fmt::Write as _;
use std::fs;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, Result, bail};

use crate::plot;
use crate::report::{Aim, Bound, Report, Samples, Table, Unit};

/// Between these lines the document is written by the bench.
const BEGIN: &str = "<!-- written by `cargo xtask bench --document` -->";
const END: &str = "<!-- end of what the bench writes -->";

/// What to show, and where.
#[derive(Clone, Debug, clap::Args)]
pub(crate) struct Args {
    /// A report
    report: PathBuf,
    /// Write the figures into this document, between its markers
    #[arg(long, requires = "images")]
    document: Option<PathBuf>,
    /// Write the plots into this directory
    #[arg(long)]
    images: Option<PathBuf>,
}

/// Prints, and writes what it is asked to.
pub(crate) fn run(args: &Args) -> Result<()> {
    let report = Report::read(&args.report)?;
    print!("{}", text(&report));
    if let Some(images) = &args.images {
        for (name, svg) in plot::draw(&report)? {
            let path = images.join(name);
            fs::write(&path, svg).with_context(|| format!("cannot write {}", path.display()))?;
        }
    }
    if let Some(document) = &args.document {
        write_into(document, &markdown(&report))?;
    }
    Ok(())
}

fn text(report: &Report) -> String {
    let mut text = head(report);
    for table in &report.tables {
        let _ = write!(text, "\n{}\n{}", table.title, columns(&grid(table)));
    }
    let aims: Vec<_> = report.aims.iter().map(aim_cells).collect();
    if !aims.is_empty() {
        let _ = write!(text, "\nAims\n{}", columns(&aims));
    }
    text
}

fn head(report: &Report) -> String {
    let machine = &report.machine;
    format!(
        "weir {} on {}, {} processors, {:.0} GiB, Linux {}; {}, {:.0} minutes{}\n",
        report.commit,
        machine.cpu,
        machine.cpus,
        machine.memory_bytes as f64 / f64::from(1 << 30),
        machine.kernel,
        report.date,
        report.seconds / 60.0,
        if report.quick { " (quick)" } else { "" }
    )
}

/// Names of columns, then a line for each row.
fn grid(table: &Table) -> Vec<Vec<String>> {
    let mut names = vec![table.rows_are.clone()];
    names.extend(table.columns.iter().map(|column| column.name.clone()));
    let rows = table.rows.iter().map(|row| {
        let cells = row.cells.iter().zip(&table.columns);
        std::iter::once(row.name.clone())
            .chain(cells.map(|(samples, column)| spread(samples, column.unit)))
            .collect()
    });
    std::iter::once(names).chain(rows).collect()
}

fn aim_cells(aim: &Aim) -> Vec<String> {
    let bound = match aim.bound {
        Bound::AtMost => "at most",
        Bound::AtLeast => "at least",
    };
    vec![
        aim.what.clone(),
        format!("{bound} {}", value(aim.limit, aim.unit)),
        spread(&aim.measured, aim.unit),
        match aim.is_met() {
            Some(true) => "met",
            Some(false) => "missed",
            None => "not measured",
        }
        .to_owned(),
    ]
}

/// Lines of cells, each column as wide as its widest.
fn columns(grid: &[Vec<String>]) -> String {
    let width = |at: usize| {
        let cells = grid.iter().filter_map(|row| row.get(at));
        cells.map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let mut text = String::new();
    for row in grid {
        let mut line = String::new();
        for (at, cell) in row.iter().enumerate() {
            let _ = write!(line, "{cell:<width$}  ", width = width(at));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

fn markdown(report: &Report) -> String {
    let mut text = format!("\n{}", head(report));
    let rows = |text: &mut String, grid: &[Vec<String>]| {
        for (at, row) in grid.iter().enumerate() {
            let _ = writeln!(text, "| {} |", row.join(" | "));
            if at == 0 {
                let _ = writeln!(text, "|{}", " --- |".repeat(row.len()));
            }
        }
    };
    let names = ["aim", "limit", "measured", ""].map(str::to_owned).to_vec();
    let aims = std::iter::once(names).chain(report.aims.iter().map(aim_cells));
    text.push('\n');
    rows(&mut text, &aims.collect::<Vec<_>>());
    for table in &report.tables {
        let _ = write!(text, "\n### {}\n\n{}\n\n", table.title, table.note);
        rows(&mut text, &grid(table));
    }
    text
}

fn write_into(document: &Path, section: &str) -> Result<()> {
    let text = fs::read_to_string(document)
        .with_context(|| format!("cannot read {}", document.display()))?;
    let text = between(&text, section)
        .with_context(|| format!("{} has no place for the figures", document.display()))?;
    fs::write(document, text).with_context(|| format!("cannot write {}", document.display()))
}

/// The text with `section` between its markers.
fn between(text: &str, section: &str) -> Result<String> {
    let Some((before, rest)) = text.split_once(BEGIN) else {
        bail!("the line `{BEGIN}` is missing");
    };
    let Some((_, after)) = rest.split_once(END) else {
        bail!("the line `{END}` is missing");
    };
    Ok(format!("{before}{BEGIN}\n{section}\n{END}{after}"))
}

/// The median, and the quartiles if there are several samples.
fn spread(samples: &Samples, unit: Unit) -> String {
    let Some(median) = samples.median() else {
        return "-".to_owned();
    };
    let middle = value(median, unit);
    match (samples.quantile(0.25), samples.quantile(0.75)) {
        (Some(low), Some(high)) if samples.0.len() > 1 => {
            format!("{middle} ({} to {})", number(low, unit), number(high, unit))
        }
        _ => middle,
    }
}

fn value(value: f64, unit: Unit) -> String {
    let suffix = match unit {
        Unit::Count | Unit::Ratio => "",
        Unit::Nanoseconds => " ns",
        Unit::Microseconds => " us",
        Unit::Milliseconds => " ms",
        Unit::Seconds => " s",
        Unit::PerSecond => "/s",
        Unit::Bytes => " B",
        Unit::Mebibytes => " MiB",
        Unit::Percent => " %",
    };
    format!("{}{suffix}", number(value, unit))
}

/// With as many digits as say something.
fn number(value: f64, unit: Unit) -> String {
    match unit {
        Unit::Ratio => format!("{value:.3}"),
        Unit::PerSecond if value >= 1e6 => format!("{:.2} M", value / 1e6),
        _ if value.abs() >= 100.0 => format!("{value:.0}"),
        _ if value.abs() >= 10.0 => format!("{value:.1}"),
        _ => format!("{value:.2}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn figures_replace_what_stood_between_the_markers_and_nothing_else() {
        let old = format!("# Title\n{BEGIN}\nold\n{END}\nmore\n");
        let new = between(&old, "new").unwrap();
        assert_eq!(new, format!("# Title\n{BEGIN}\nnew\n{END}\nmore\n"));
        assert_eq!(between(&new, "new").unwrap(), new);
        assert!(between("no markers", "new").is_err());
        assert!(between(BEGIN, "new").is_err());
    }

    #[test]
    fn a_value_is_said_with_its_spread_if_it_has_one() {
        let samples = Samples(vec![1.0, 2.0, 3.0]);
        assert_eq!(
            spread(&samples, Unit::Microseconds),
            "2.00 us (1.50 to 2.50)"
        );
        assert_eq!(spread(&Samples(vec![0.5]), Unit::Ratio), "0.500");
        assert_eq!(spread(&Samples::default(), Unit::Ratio), "-");
        assert_eq!(value(3_210_000.0, Unit::PerSecond), "3.21 M/s");
    }
}
