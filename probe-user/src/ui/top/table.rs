//! Draws one pane: a title line, the columns for which there is room, and the rows from the
//! scroll on.

use ratatui::Frame;
use ratatui::layout::Rect;
use ratatui::text::{Line, Span};
use ratatui::widgets::Paragraph;

use super::draw::Theme;
use super::pane::Column;
use super::view::{Pane, View};
use crate::ui::out::Mark;

/// What a pane is drawn with.
#[derive(Clone, Copy, Debug)]
pub(super) struct Pieces {
    /// Which one.
    pub(super) pane: Pane,
    /// How meanings look.
    pub(super) theme: Theme,
}

/// Draws `rows` into `area`.
pub(super) fn draw<R>(
    frame: &mut Frame<'_>,
    area: Rect,
    name: &str,
    columns: &'static [Column<R>],
    rows: &[R],
    view: &mut View,
    pieces: Pieces,
) {
    if area.height == 0 {
        return;
    }
    let Pieces { pane, theme } = pieces;
    let room = usize::from(area.height.saturating_sub(HEAD));
    let first = view.clamp_scroll(pane, rows.len(), room);
    let last = (first + room).min(rows.len());
    let arrow = if view.pane(pane).reverse {
        " reversed"
    } else {
        ""
    };
    let span = match rows.len() {
        0 => "none".to_owned(),
        all => format!("{}-{last} of {all}", (first + 1).min(last)),
    };
    let title = format!(" {name}: {span}, by {}{arrow} ", view.order_title(pane));
    let title = Span::styled(title, theme.title(view.focus == pane));

    let shown = fitting(columns, area.width);
    let widths = widths(&shown, area.width);
    let heading = shown.iter().zip(&widths).map(|(column, width)| {
        let text = fit(column.title, *width, column.right);
        Span::styled(text, theme.style(Mark::Heading))
    });
    let mut lines = vec![Line::from(title), joined(heading)];
    lines.extend(rows[first..last].iter().map(|row| {
        joined(shown.iter().zip(&widths).map(|(column, width)| {
            let (text, mark) = (column.text)(row);
            Span::styled(fit(&text, *width, column.right), theme.style(mark))
        }))
    }));
    frame.render_widget(Paragraph::new(lines), area);
}

/// Lines of a pane that are no rows: its title and the headings.
const HEAD: u16 = 2;

/// Shares `total` lines among the panes: each gets its head and one row, then what it needs for
/// its rows, the focused one twice as fast; what nobody needs goes to the last.
pub(super) fn heights(total: u16, rows: [usize; Pane::COUNT], focus: Pane) -> [u16; Pane::COUNT] {
    let mut left = total;
    let mut heights = [0; Pane::COUNT];
    let mut wanted = rows.map(|rows| {
        u16::try_from(rows.max(1))
            .unwrap_or(u16::MAX)
            .saturating_add(HEAD)
    });
    if rows[Pane::Viewers as usize] == 0 {
        wanted[Pane::Viewers as usize] = 0;
    }
    for (height, wanted) in heights.iter_mut().zip(wanted) {
        *height = left.min(HEAD + 1).min(wanted);
        left -= *height;
    }
    while left > 0 {
        let before = left;
        for pane in Pane::ALL {
            let share = if pane == focus { 2 } else { 1 };
            let index = pane as usize;
            let more = left
                .min(share)
                .min(wanted[index].saturating_sub(heights[index]));
            heights[index] += more;
            left -= more;
        }
        if left == before {
            heights[Pane::COUNT - 1] += left;
            break;
        }
    }
    heights
}

/// Puts a blank between columns.
fn joined<'a>(spans: impl Iterator<Item = Span<'a>>) -> Line<'a> {
    let mut line = Vec::new();
    for span in spans {
        if !line.is_empty() {
            line.push(Span::raw(" "));
        }
        line.push(span);
    }
    Line::from(line)
}

/// The columns that find room, in their order; those of higher rank give way first.
fn fitting<R>(columns: &'static [Column<R>], width: u16) -> Vec<&'static Column<R>> {
    let most = columns.iter().map(|column| column.rank).max().unwrap_or(0);
    for rank in (0..=most).rev() {
        let shown: Vec<_> = columns
            .iter()
            .filter(|column| column.rank <= rank)
            .collect();
        if needed(&shown) <= width || rank == 0 {
            return shown;
        }
    }
    Vec::new()
}

fn needed<R>(columns: &[&Column<R>]) -> u16 {
    let gaps = columns.len().saturating_sub(1);
    let widths: u16 = columns.iter().map(|column| column.width).sum();
    widths.saturating_add(u16::try_from(gaps).unwrap_or(u16::MAX))
}

/// The widths, the first column taking what is left over, up to what any name needs.
fn widths<R>(columns: &[&Column<R>], width: u16) -> Vec<usize> {
    const WIDEST_FIRST: u16 = 60;
    let left = width.saturating_sub(needed(columns));
    columns
        .iter()
        .enumerate()
        .map(|(index, column)| {
            let more = if index == 0 { left } else { 0 };
            usize::from((column.width + more).min(WIDEST_FIRST.max(column.width)))
        })
        .collect()
}

/// Exactly `width` characters: padded, or cut with an ellipsis. Control characters are replaced.
fn fit(text: &str, width: usize, right: bool) -> String {
    let text: String = text
        .chars()
        .map(|c| if c.is_control() { '?' } else { c })
        .collect();
    let length = text.chars().count();
    if length > width {
        let mut cut: String = text.chars().take(width.saturating_sub(1)).collect();
        if width > 0 {
            cut.push('…');
        }
        return cut;
    }
    if right {
        format!("{text:>width$}")
    } else {
        format!("{text:<width$}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::pane::{CELLS, SESSIONS, TROUBLED, VIEWERS};
    use super::*;

    #[test]
    fn what_is_cut_shows_that_it_was() {
        assert_eq!(fit("abcdef", 4, false), "abc…");
        assert_eq!(fit("ab", 4, true), "  ab");
        assert_eq!(fit("a\x1bb", 3, false), "a?b");
    }

    #[test]
    fn room_goes_where_rows_are_and_none_is_lost() {
        assert_eq!(heights(30, [1, 0, 4, 0], Pane::Cells), [3, 0, 6, 21]);
        assert_eq!(heights(30, [100, 0, 100, 0], Pane::Cells), [17, 0, 10, 3]);
        assert_eq!(
            heights(30, [100, 0, 100, 100], Pane::Sessions),
            [9, 0, 13, 8]
        );
        for total in 0..60 {
            let sum: u16 = heights(total, [3, 9, 50, 7], Pane::Troubled).iter().sum();
            assert_eq!(sum, total);
        }
    }

    #[test]
    fn eighty_columns_hold_what_matters_and_two_hundred_hold_all() {
        assert!(needed(&fitting(CELLS, 80)) <= 80);
        assert!(needed(&fitting(SESSIONS, 80)) <= 80);
        assert!(needed(&fitting(VIEWERS, 80)) <= 80);
        assert!(needed(&fitting(TROUBLED, 80)) <= 80);
        assert_eq!(fitting(CELLS, 200).len(), CELLS.len());
        assert_eq!(fitting(SESSIONS, 200).len(), SESSIONS.len());
        assert_eq!(fitting(VIEWERS, 200).len(), VIEWERS.len());
        assert_eq!(fitting(TROUBLED, 200).len(), TROUBLED.len());
    }
}
