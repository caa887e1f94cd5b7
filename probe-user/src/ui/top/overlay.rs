//! What lies over the lists: the keys' help and the log.

use ratatui::Frame;
use ratatui::layout::{Constraint, Flex, Layout, Rect};
use ratatui::text::Line;
use ratatui::widgets::{Block, Clear, Paragraph};

use super::LogLines;
use super::draw::Theme;
use crate::ui::out::Mark;

const HELP: &str = "\
q           quit (in `weir run`: ends the daemon too)
p, space    pause and go on
Tab         next pane (Shift-Tab: the one before)
s           next order of the pane; S: the other way round
/           filter: words that a line must contain,
            :443 a port, 192.0.2.0/24 a client prefix
Esc         no filter, no zoom
Enter, z    the focused pane alone, and back
w           window for rates and percentiles: 5, 1, 30 s
arrows, PgUp, PgDn, Home, End   scroll
l           the log (in `weir run`)
H, R, P     orders to this host's gate: hold, release, panic;
            each asks for its reason

late, abort deliveries that were, in the window
now         deliveries open and past their deadline now
p50, p99    delivery latency: request to last byte acknowledged
think, first, tail   request to first write; request to first
            byte acknowledged; last write to last acknowledged
retr        segments retransmitted of those sent
f/rto/tlp   retransmitted fast, on timeout, as tail probe";

fn centred(area: Rect, width: u16, height: u16) -> Rect {
    let [area] = Layout::vertical([Constraint::Max(height)])
        .flex(Flex::Center)
        .areas(area);
    let [area] = Layout::horizontal([Constraint::Max(width)])
        .flex(Flex::Center)
        .areas(area);
    area
}

/// What the keys and columns mean.
pub(super) fn help(frame: &mut Frame<'_>, theme: Theme) {
    let height = u16::try_from(HELP.lines().count() + 2).unwrap_or(u16::MAX);
    let area = centred(frame.area(), 68, height);
    let block = Block::bordered()
        .title(" Keys and columns ")
        .title_style(theme.style(Mark::Heading));
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(HELP).block(block), area);
}

/// The latest lines of the daemon's log.
pub(super) fn log(frame: &mut Frame<'_>, log: &LogLines, theme: Theme) {
    let screen = frame.area();
    let area = centred(
        screen,
        screen.width.saturating_sub(4),
        screen.height.saturating_sub(4),
    );
    let block = Block::bordered()
        .title(" Log, latest last ")
        .title_style(theme.style(Mark::Heading));
    let room = usize::from(area.height.saturating_sub(2));
    let mut lines: Vec<Line<'_>> = log.latest(room).into_iter().map(Line::from).collect();
    if lines.is_empty() {
        lines.push(Line::from(
            "Nothing. Only `weir run` has a log to show; a service's is in its journal.",
        ));
    }
    frame.render_widget(Clear, area);
    frame.render_widget(Paragraph::new(lines).block(block), area);
}
