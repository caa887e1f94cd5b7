//! Where listings go: a terminal, a pipe or a file, and what each of them wants.

use std::io::{self, IsTerminal, Write};

/// How to print.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Style {
    /// Colour may be used (it never says anything that the text does not).
    pub colour: bool,
    /// Clip lines to so many columns; never when the reader is a program.
    pub width: Option<usize>,
}

impl Style {
    /// What standard output wants: plain and unclipped unless it is a terminal; no colour if
    /// `NO_COLOR` is set (<https://no-color.org>).
    pub fn of_stdout() -> Self {
        if !io::stdout().is_terminal() {
            return Self::default();
        }
        Self {
            colour: colour_wanted(),
            width: crossterm::terminal::size()
                .ok()
                .map(|(columns, _)| usize::from(columns))
                .filter(|columns| *columns > 0),
        }
    }
}

/// Whether the environment leaves colour on.
pub fn colour_wanted() -> bool {
    std::env::var_os("NO_COLOR").is_none_or(|value| value.is_empty())
        && std::env::var_os("TERM").is_none_or(|term| term != "dumb")
}

/// How a piece of text is meant; the text itself says the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Mark {
    /// Nothing to say.
    #[default]
    Plain,
    /// A heading.
    Heading,
    /// As it should be.
    Good,
    /// Worth a look.
    Warn,
    /// Wrong.
    Bad,
}

impl Mark {
    /// The SGR parameters, if any.
    fn sgr(self) -> Option<&'static str> {
        match self {
            Self::Plain => None,
            Self::Heading => Some("1"),
            Self::Good => Some("32"),
            Self::Warn => Some("33"),
            Self::Bad => Some("1;31"),
        }
    }

    /// Writes `text`, coloured if `style` allows. Control characters, which could come from
    /// another host and would drive the terminal, are replaced.
    pub fn write(self, to: &mut dyn Write, style: Style, text: &str) -> io::Result<()> {
        let sgr = self.sgr().filter(|_| style.colour);
        if let Some(sgr) = sgr {
            write!(to, "\x1b[{sgr}m")?;
        }
        if text.contains(char::is_control) {
            to.write_all(text.replace(char::is_control, "?").as_bytes())?;
        } else {
            to.write_all(text.as_bytes())?;
        }
        if sgr.is_some() {
            to.write_all(b"\x1b[0m")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn written(mark: Mark, colour: bool, text: &str) -> String {
        let mut to = Vec::new();
        let style = Style {
            colour,
            width: None,
        };
        mark.write(&mut to, style, text).unwrap();
        String::from_utf8(to).unwrap()
    }

    #[test]
    fn colour_appears_only_where_it_is_allowed() {
        assert_eq!(written(Mark::Bad, false, "late"), "late");
        assert_eq!(written(Mark::Bad, true, "late"), "\x1b[1;31mlate\x1b[0m");
        assert_eq!(written(Mark::Plain, true, "idle"), "idle");
    }

    #[test]
    fn another_hosts_name_cannot_drive_the_terminal() {
        assert_eq!(written(Mark::Plain, false, "a\x1b[2Jb\n"), "a?[2Jb?");
    }
}
