//! Puts the model on the screen as the view wants it: header, trends, three lists, keys.
//!
//! Colour repeats what the words say; without colour the same words stand there in bold.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Paragraph, RenderDirection, Sparkline};

use super::model::{Link, Model, Point};
use super::pane::{CELLS, SESSIONS, TROUBLED, VIEWERS, percent};
use super::table::{self, Pieces};
use super::view::{Pane, View};
use super::{LogLines, overlay};
use crate::ui::listing::status::{is_missing, uplink_sentence};
use crate::ui::listing::steering;
use crate::ui::listing::viewers::alarm_sentence;
use crate::ui::losses;
use crate::ui::out::Mark;
use crate::ui::units::{clock, short_count, short_rate, short_us};

/// How meanings look.
#[derive(Clone, Copy, Debug)]
pub struct Theme {
    /// Whether colour may be used.
    pub colour: bool,
}

impl Theme {
    /// The look of a mark.
    pub fn style(self, mark: Mark) -> Style {
        let (colour, modifier) = match mark {
            Mark::Plain => (None, Modifier::empty()),
            Mark::Heading => (None, Modifier::BOLD),
            Mark::Good => (Some(Color::Green), Modifier::empty()),
            Mark::Warn => (Some(Color::Yellow), Modifier::empty()),
            Mark::Bad => (Some(Color::Red), Modifier::BOLD),
        };
        let style = Style::new().add_modifier(modifier);
        match colour.filter(|_| self.colour) {
            Some(colour) => style.fg(colour),
            None => style,
        }
    }

    /// What must not be overlooked: a bar across the screen.
    fn alarm(self) -> Style {
        let style = Style::new().add_modifier(Modifier::BOLD);
        if self.colour {
            style.fg(Color::White).bg(Color::Red)
        } else {
            style.add_modifier(Modifier::REVERSED)
        }
    }

    /// A pane's title.
    pub fn title(self, focused: bool) -> Style {
        let style = Style::new().add_modifier(Modifier::BOLD);
        if focused {
            style.add_modifier(Modifier::REVERSED)
        } else {
            style
        }
    }
}

/// A trend: its title, what it shows of a point, how that is written, and how it is meant.
type Trend = (&'static str, fn(&Point) -> u64, fn(u64) -> String, Mark);

/// Least height of the terminal on which trends are drawn.
const TRENDS_FROM: u16 = 20;

/// Draws everything. `view` learns how far its panes can be scrolled.
pub fn draw(frame: &mut Frame<'_>, live: &Model, view: &mut View, theme: Theme, log: &LogLines) {
    let area = frame.area();
    let frozen = view.frozen.take();
    let model = frozen.as_deref().unwrap_or(live);
    let header = header(model, live, view, frozen.is_some(), theme);
    let trends = match area.height {
        TRENDS_FROM..=39 => 3,
        40.. => 6,
        _ => 0,
    };
    let header_height = u16::try_from(header.len()).unwrap_or(u16::MAX);
    let [top, middle, lists, bottom] = Layout::vertical([
        Constraint::Length(header_height),
        Constraint::Length(trends),
        Constraint::Fill(1),
        Constraint::Length(1),
    ])
    .areas(area);
    frame.render_widget(Paragraph::new(header), top);
    if trends > 0 {
        draw_trends(frame, middle, model, theme);
    }
    draw_lists(frame, lists, model, view, theme);
    frame.render_widget(Paragraph::new(keys(view, area.width)), bottom);
    if view.help {
        overlay::help(frame, theme);
    } else if view.log {
        overlay::log(frame, log, theme);
    }
    view.frozen = frozen;
}

fn header(
    model: &Model,
    live: &Model,
    view: &View,
    paused: bool,
    theme: Theme,
) -> Vec<Line<'static>> {
    let span = |text: String, mark| Span::styled(text, theme.style(mark));
    let gap = || Span::raw("  ");
    let mut lines = Vec::new();
    match live.link() {
        Link::Live => {}
        Link::Connecting => lines.push(Line::styled(
            " connecting to the daemon ",
            theme.style(Mark::Warn),
        )),
        Link::Gone(why) => {
            let since = live.latest().map_or(String::new(), |latest| {
                format!(" (numbers are from {} UTC)", clock(latest.unix_ns))
            });
            let text = format!(" DAEMON GONE, retrying{since}: {why} ");
            lines.push(Line::styled(text, theme.alarm()));
        }
    }
    let Some(latest) = model.latest() else {
        return lines;
    };
    let status = latest.status.clone().unwrap_or_default();
    let uptime_us = latest.unix_ns.saturating_sub(status.started_unix_ns) / 1_000;
    let mut first = vec![
        span(format!("weir {}", status.host), Mark::Heading),
        gap(),
        Span::raw(format!("{} backend", status.backend().word())),
        gap(),
        Span::raw(format!("up {}", short_us(uptime_us))),
        gap(),
        Span::raw(format!("{} UTC", clock(latest.unix_ns))),
        gap(),
        Span::raw(format!("window {}s", view.window_s())),
    ];
    if paused {
        first.extend([gap(), Span::styled(" PAUSED ", theme.title(true))]);
    }
    if !view.filter.text.is_empty() {
        first.extend([
            gap(),
            span(format!("filter: {}", view.filter.text), Mark::Warn),
        ]);
    }
    lines.push(Line::from(first));
    lines.push(totals(model, view, theme));

    let (uplink, mark) = uplink_sentence(&status);
    let lost = status.losses.unwrap_or_default();
    let missing = status
        .probes
        .iter()
        .filter(|probe| is_missing(probe))
        .count();
    let mut third = vec![Span::raw("uplink "), span(uplink, mark)];
    if losses::total(&lost) == 0 {
        third.splice(0..0, [span("nothing lost".to_owned(), Mark::Good), gap()]);
    }
    if missing > 0 {
        let text = format!("DEGRADED: {missing} probes missing (weir doctor)");
        third.splice(0..0, [span(text, Mark::Bad), gap()]);
    }
    lines.push(Line::from(third));
    if let Some(own) = &latest.steering {
        let (text, mark) = steering::sentence(own);
        lines.push(Line::from(vec![Span::raw("gate "), span(text, mark)]));
    }
    if let Some((text, is_taken)) = &view.told {
        let mark = if *is_taken { Mark::Good } else { Mark::Bad };
        lines.push(Line::styled(text.clone(), theme.style(mark)));
    }
    if !status.off.is_empty() {
        lines.push(Line::styled(
            format!(" OFF: {} ", status.off),
            theme.alarm(),
        ));
    }
    for alarm in &latest.alarms {
        lines.push(Line::styled(
            format!(" ALARM {} ", alarm_sentence(alarm)),
            theme.alarm(),
        ));
    }
    if losses::total(&lost) > 0 {
        let text = format!(" {} (since the daemon's start) ", losses::sentence(&lost));
        lines.push(Line::styled(text, theme.alarm()));
    }
    lines
}

fn totals(model: &Model, view: &View, theme: Theme) -> Line<'static> {
    let totals = model.totals(view.window_s());
    let rates = totals.rates.as_ref();
    let number = |number: Option<f64>| number.map_or("-".to_owned(), short_rate);
    let (retransmit, mark) = percent(rates.and_then(super::model::Rates::retransmit_ratio));
    let mut spans = vec![
        Span::raw(format!("open {}", short_count(totals.sessions_open))),
        Span::raw(format!(
            "  deliveries {}/s",
            number(rates.map(super::model::Rates::deliveries_per_s))
        )),
        Span::raw(format!(
            "  {} Mbit/s",
            number(rates.map(|rates| rates.bits_per_s() / 1e6))
        )),
        Span::raw("  retransmitted "),
        Span::styled(retransmit, theme.style(mark)),
        Span::raw("  "),
    ];
    spans.push(if totals.open_late == 0 {
        Span::styled("none late now", theme.style(Mark::Good))
    } else {
        let text = format!("LATE NOW {}", short_count(totals.open_late));
        Span::styled(text, theme.style(Mark::Bad))
    });
    let viewers = totals.viewers;
    if viewers.active > 0 {
        spans.push(Span::raw(format!(
            "  viewers {}",
            short_count(viewers.active)
        )));
        for (count, what, mark) in [
            (viewers.stalled, "STALLED", Mark::Bad),
            (viewers.at_risk, "at risk", Mark::Warn),
        ] {
            if count > 0 {
                let text = format!("  {} {what}", short_count(count));
                spans.push(Span::styled(text, theme.style(mark)));
            }
        }
    }
    Line::from(spans)
}

fn draw_trends(frame: &mut Frame<'_>, area: Rect, model: &Model, theme: Theme) {
    let columns = Layout::horizontal([Constraint::Fill(1); 3])
        .spacing(1)
        .split(area);
    let trends: [Trend; 3] = [
        (
            "deliveries/s",
            |point| point.deliveries_per_10s,
            |value| short_rate(value as f64 / 10.0),
            Mark::Good,
        ),
        (
            "latency p99",
            |point| point.latency_p99_us,
            short_us,
            Mark::Warn,
        ),
        ("late now", |point| point.open_late, short_count, Mark::Bad),
    ];
    for ((title, of, text, mark), area) in trends.into_iter().zip(columns.iter()) {
        let [head, chart] =
            Layout::vertical([Constraint::Length(1), Constraint::Fill(1)]).areas(*area);
        // Latest first: the chart is filled from the right.
        let values: Vec<u64> = model.trend().iter().rev().map(of).collect();
        let seen = values.iter().take(usize::from(area.width));
        let most = seen.max().copied().unwrap_or(0);
        let now = values.first().copied().unwrap_or(0);
        let line = Line::from(vec![
            Span::styled(title, theme.style(Mark::Heading)),
            Span::raw(format!(" {}, most {}", text(now), text(most))),
        ]);
        frame.render_widget(Paragraph::new(line), head);
        let spark = Sparkline::default()
            .data(values)
            .max(most.max(1))
            .direction(RenderDirection::RightToLeft)
            .style(theme.style(mark));
        frame.render_widget(spark, chart);
    }
}

fn draw_lists(frame: &mut Frame<'_>, area: Rect, model: &Model, view: &mut View, theme: Theme) {
    let cells = view.cells(model);
    let viewers = view.viewers(model);
    let sessions = view.sessions(model);
    let troubled = view.troubled(model);
    let rows = [cells.len(), viewers.len(), sessions.len(), troubled.len()];
    let heights = if view.zoom {
        Pane::ALL.map(|pane| if pane == view.focus { area.height } else { 0 })
    } else {
        table::heights(area.height, rows, view.focus)
    };
    let areas: [Rect; Pane::COUNT] = Layout::vertical(heights.map(Constraint::Length)).areas(area);
    let pieces = |pane| Pieces { pane, theme };
    table::draw(
        frame,
        areas[0],
        "Cells",
        CELLS,
        &cells,
        view,
        pieces(Pane::Cells),
    );
    table::draw(
        frame,
        areas[1],
        "Viewers",
        VIEWERS,
        &viewers,
        view,
        pieces(Pane::Viewers),
    );
    table::draw(
        frame,
        areas[2],
        "Sessions",
        SESSIONS,
        &sessions,
        view,
        pieces(Pane::Sessions),
    );
    let title = "Late and troubled deliveries";
    table::draw(
        frame,
        areas[3],
        title,
        TROUBLED,
        &troubled,
        view,
        pieces(Pane::Troubled),
    );
}

fn keys(view: &View, width: u16) -> Line<'static> {
    let bold = Style::new().add_modifier(Modifier::BOLD);
    if let Some(typing) = &view.ordering {
        let (question, text) = typing.shown();
        return Line::from(vec![
            Span::styled(question, bold),
            Span::raw(text),
            Span::styled("_", bold),
            Span::raw("   Enter goes on, Esc leaves"),
        ]);
    }
    if let Some(text) = &view.typing {
        return Line::from(vec![
            Span::styled("filter: ", bold),
            Span::raw(text.clone()),
            Span::styled("_", bold),
            Span::raw("   words, :port, prefix/len   Enter sets, Esc leaves"),
        ]);
    }
    let all = [
        ("q", "quit"),
        ("?", "help"),
        ("p", "pause"),
        ("Tab", "pane"),
        ("s/S", "sort"),
        ("/", "filter"),
        ("Enter", "zoom"),
        ("w", "window"),
        ("arrows", "scroll"),
        ("H/R/P", "hold/release/panic"),
    ];
    let mut spans = Vec::new();
    let mut room = usize::from(width);
    for (key, what) in all {
        let need = key.len() + what.len() + 3;
        if need > room {
            break;
        }
        room -= need;
        spans.extend([Span::styled(key, bold), Span::raw(format!(" {what}  "))]);
    }
    Line::from(spans)
}

#[cfg(test)]
mod tests;
