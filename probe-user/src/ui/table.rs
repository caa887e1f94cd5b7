//! Rows as an aligned table or as one JSON object per line, printed as they come.
//!
//! The first rows set the column widths; a later, wider value pushes its line out rather than
//! losing characters. What the columns are is the listings' matter.

use std::io::{self, Write};

use serde::Serialize;

use super::out::{Mark, Style};

/// How rows are printed.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, clap::ValueEnum)]
pub enum Format {
    /// Aligned columns under one header line.
    #[default]
    Table,
    /// One JSON object per line, with the field names of weir.proto.
    Json,
}

/// So many rows are held back to measure the columns.
const MEASURED_ROWS: usize = 256;

/// One value of one row.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Value {
    text: String,
    mark: Mark,
}

impl Value {
    /// Text, and how it is meant.
    pub fn new(text: impl Into<String>, mark: Mark) -> Self {
        Self {
            text: text.into(),
            mark,
        }
    }

    /// A count; marked when it is not zero.
    pub fn count(count: u64, unless_zero: Mark) -> Self {
        let mark = if count == 0 { Mark::Plain } else { unless_zero };
        Self::new(count.to_string(), mark)
    }
}

impl<T: ToString> From<T> for Value {
    fn from(text: T) -> Self {
        Self::new(text.to_string(), Mark::Plain)
    }
}

/// A column: its title (with the unit) and how to take its value from a row.
#[derive(Debug)]
pub struct Column<T> {
    title: &'static str,
    right: bool,
    value: fn(&T) -> Value,
}

impl<T> Column<T> {
    /// A column of words.
    pub const fn left(title: &'static str, value: fn(&T) -> Value) -> Self {
        Self {
            title,
            right: false,
            value,
        }
    }

    /// A column of numbers.
    pub const fn right(title: &'static str, value: fn(&T) -> Value) -> Self {
        Self {
            title,
            right: true,
            value,
        }
    }
}

/// Prints rows in the format asked for.
#[derive(Debug)]
pub struct Printer<'a, T, W: Write> {
    columns: &'a [Column<T>],
    format: Format,
    style: Style,
    to: W,
    held: Vec<Vec<Value>>,
    widths: Option<Vec<usize>>,
}

impl<'a, T: Serialize, W: Write> Printer<'a, T, W> {
    /// A printer on `to`; nothing is written before the first [`flush`](Self::flush).
    pub fn new(columns: &'a [Column<T>], format: Format, style: Style, to: W) -> Self {
        Self {
            columns,
            format,
            style,
            to,
            held: Vec::new(),
            widths: None,
        }
    }

    /// Where it prints; rows that are held back are dropped.
    pub fn into_inner(self) -> W {
        self.to
    }

    /// Whether rows wait for a [`flush`](Self::flush).
    pub fn holds_rows(&self) -> bool {
        !self.held.is_empty()
    }

    /// Takes one row. Once the columns are measured, a row is written and flushed at once.
    pub fn push(&mut self, row: &T) -> io::Result<()> {
        if self.format == Format::Json {
            serde_json::to_writer(&mut self.to, row)?;
            self.to.write_all(b"\n")?;
            return self.to.flush();
        }
        let values: Vec<Value> = self
            .columns
            .iter()
            .map(|column| (column.value)(row))
            .collect();
        if let Some(widths) = &self.widths {
            write_line(&mut self.to, self.style, self.columns, widths, &values)?;
            return self.to.flush();
        }
        self.held.push(values);
        if self.held.len() >= MEASURED_ROWS {
            self.flush()?;
        }
        Ok(())
    }

    /// Writes what is held back, the header first (once, and also above no rows).
    pub fn flush(&mut self) -> io::Result<()> {
        if self.format == Format::Table {
            let measured = self.widths.is_some();
            let widths = self.widths.get_or_insert_with(|| {
                let width = |(index, column): (usize, &Column<T>)| {
                    let values = self.held.iter().map(|row| row[index].text.chars().count());
                    values.max().unwrap_or(0).max(column.title.len())
                };
                self.columns.iter().enumerate().map(width).collect()
            });
            if !measured {
                let titles: Vec<Value> = self
                    .columns
                    .iter()
                    .map(|column| Value::new(column.title, Mark::Heading))
                    .collect();
                write_line(&mut self.to, self.style, self.columns, widths, &titles)?;
            }
            for row in self.held.drain(..) {
                write_line(&mut self.to, self.style, self.columns, widths, &row)?;
            }
        }
        self.to.flush()
    }
}

fn write_line<T>(
    to: &mut impl Write,
    style: Style,
    columns: &[Column<T>],
    widths: &[usize],
    values: &[Value],
) -> io::Result<()> {
    let mut room = style.width.unwrap_or(usize::MAX);
    let last = columns.len() - 1;
    for (index, (column, value)) in columns.iter().zip(values).enumerate() {
        let gap = if index == 0 { "" } else { "  " };
        let padding = " ".repeat(widths[index].saturating_sub(value.text.chars().count()));
        let (before, after) = match (column.right, index == last) {
            (true, _) => (padding.as_str(), ""),
            (false, false) => ("", padding.as_str()),
            (false, true) => ("", ""),
        };
        for (mark, piece) in [
            (Mark::Plain, gap),
            (Mark::Plain, before),
            (value.mark, value.text.as_str()),
            (Mark::Plain, after),
        ] {
            let clipped: String = piece.chars().take(room).collect();
            room -= clipped.chars().count();
            if !clipped.is_empty() {
                mark.write(to, style, &clipped)?;
            }
        }
    }
    to.write_all(b"\n")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[derive(Serialize)]
    struct Row {
        name: &'static str,
        size_bytes: u64,
    }

    const COLUMNS: [Column<Row>; 2] = [
        Column::left("name", |row: &Row| row.name.into()),
        Column::right("size_bytes", |row: &Row| row.size_bytes.into()),
    ];

    fn printed(format: Format, style: Style, rows: &[Row]) -> String {
        let mut to = Vec::new();
        let mut printer = Printer::new(&COLUMNS, format, style, &mut to);
        for row in rows {
            printer.push(row).unwrap();
        }
        printer.flush().unwrap();
        String::from_utf8(to).unwrap()
    }

    const ROWS: [Row; 2] = [
        Row {
            name: "segment",
            size_bytes: 1,
        },
        Row {
            name: "x",
            size_bytes: 12_345_678_901,
        },
    ];

    #[test]
    fn a_table_is_aligned_without_trailing_blanks() {
        let text = printed(Format::Table, Style::default(), &ROWS);
        let want = concat!(
            "name      size_bytes\n",
            "segment            1\n",
            "x        12345678901\n",
        );
        assert_eq!(text, want);
    }

    #[test]
    fn json_is_one_object_per_line_with_the_fields_names() {
        let text = printed(Format::Json, Style::default(), &ROWS);
        assert_eq!(
            text,
            "{\"name\":\"segment\",\"size_bytes\":1}\n{\"name\":\"x\",\"size_bytes\":12345678901}\n"
        );
    }

    #[test]
    fn no_rows_are_a_header_as_a_table_and_nothing_as_json() {
        assert_eq!(
            printed(Format::Table, Style::default(), &[]),
            "name  size_bytes\n"
        );
        assert_eq!(printed(Format::Json, Style::default(), &[]), "");
    }

    #[test]
    fn the_header_comes_once_also_when_rows_come_late() {
        let mut to = Vec::new();
        let mut printer = Printer::new(&COLUMNS, Format::Table, Style::default(), &mut to);
        printer.push(&ROWS[0]).unwrap();
        printer.flush().unwrap();
        printer.push(&ROWS[1]).unwrap();
        printer.flush().unwrap();
        let text = String::from_utf8(to).unwrap();
        assert_eq!(text.matches("size_bytes").count(), 1, "{text}");
        assert!(text.ends_with("12345678901\n"), "{text}");
    }

    #[test]
    fn lines_are_clipped_on_a_terminal_only() {
        let narrow = Style {
            colour: false,
            width: Some(9),
        };
        for line in printed(Format::Table, narrow, &ROWS).lines() {
            assert!(line.chars().count() <= 9, "{line}");
        }
        assert!(printed(Format::Table, Style::default(), &ROWS).contains("12345678901"));
    }

    #[test]
    fn a_reader_that_went_away_is_an_error_of_that_kind() {
        let (reader, writer) = io::pipe().unwrap();
        drop(reader);
        let mut printer = Printer::new(&COLUMNS, Format::Json, Style::default(), writer);
        let error = printer.push(&ROWS[0]).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::BrokenPipe);
    }
}
