//! What stands on the screen.

use std::io::Write;

use crossterm::event::{KeyCode, KeyEvent, KeyModifiers};
use ratatui::Terminal;
use ratatui::backend::TestBackend;
use ratatui::buffer::Buffer;
use weir_proto::v1::{Filter, RingLoss, Verdict};

use super::super::fixture::{aborted_delivery, late_session, snapshot};
use super::*;

/// A model with two snapshots, one late session and one aborted delivery.
fn model() -> Model {
    let mut model = Model::default();
    model.apply(snapshot(100, &[]));
    let mut now = snapshot(101, &[40_000; 20]);
    now.cells[0].deliveries_open_late = 1;
    now.sessions = vec![late_session(9, 101, 6)];
    now.troubled = vec![aborted_delivery(7, 95)];
    model.apply(now);
    model
}

fn view() -> View {
    View::new(Filter::default())
}

fn press(view: &mut View, model: &Model, code: KeyCode) {
    view.key(KeyEvent::new(code, KeyModifiers::NONE), model);
}

fn buffer(
    model: &Model,
    view: &mut View,
    size: (u16, u16),
    colour: bool,
    log: &LogLines,
) -> Buffer {
    let mut terminal = Terminal::new(TestBackend::new(size.0, size.1)).unwrap();
    let theme = Theme { colour };
    terminal
        .draw(|frame| draw(frame, model, view, theme, log))
        .unwrap();
    terminal.backend().buffer().clone()
}

fn lines(model: &Model, view: &mut View, size: (u16, u16)) -> Vec<String> {
    let buffer = buffer(model, view, size, true, &LogLines::default());
    let width = usize::from(size.0);
    let symbols: Vec<&str> = buffer
        .content()
        .iter()
        .map(ratatui::buffer::Cell::symbol)
        .collect();
    symbols.chunks(width).map(<[&str]>::concat).collect()
}

fn assert_shows(lines: &[String], wanted: &[&str]) {
    for want in wanted {
        assert!(
            lines.iter().any(|line| line.contains(want)),
            "{want:?} is not in\n{}",
            lines.join("\n")
        );
    }
}

#[test]
fn eighty_by_twenty_four_shows_every_part() {
    let lines = lines(&model(), &mut view(), (80, 24));
    assert_shows(
        &lines,
        &[
            "weir edge-1",
            "exact backend",
            "deliveries 20.0/s  160 Mbit/s  retransmitted 1.00%  LATE NOW 1",
            "nothing lost",
            "no collector configured",
            "deliveries/s 20.0",
            "latency p99 4",
            " Cells: 1-1 of 1, by deliv/s",
            "hls/-/cable/tcp4",
            " Sessions: 1-1 of 1, by worst",
            "198.51.100.9:40000",
            "LATE",
            "500k/2.00MB",
            " Late and troubled deliveries: 1-1 of 1, by asked",
            "198.51.100.7:40000",
            "aborted",
            "11/2/1",
            "q quit",
        ],
    );
}

#[test]
fn a_wide_terminal_also_shows_what_is_otherwise_left_out() {
    let lines = lines(&model(), &mut view(), (200, 60));
    assert_shows(
        &lines,
        &["first byte p99", "ended by", "client_rst", "42ms/40ms"],
    );
}

#[test]
fn no_size_is_too_small_to_draw() {
    for size in [(1, 1), (10, 3), (20, 5), (40, 10), (79, 19), (500, 2)] {
        lines(&model(), &mut view(), size);
    }
}

#[test]
fn a_loss_takes_a_line_of_its_own_and_is_loud_without_colour_too() {
    let mut model = model();
    let mut now = model.latest().unwrap().clone();
    now.unix_ns += 1_000_000_000;
    now.status.as_mut().unwrap().losses.as_mut().unwrap().hot = Some(RingLoss {
        seen: 20,
        exported: 8,
        ring_full: 12,
        drained: 8,
    });
    model.apply(now);
    let shown = lines(&model, &mut view(), (80, 24));
    assert_shows(&shown, &["LOST: hot ring full 12"]);
    assert!(!shown.iter().any(|line| line.contains("nothing lost")));
    let row = shown
        .iter()
        .position(|line| line.contains("LOST:"))
        .unwrap();
    let at = (5, u16::try_from(row).unwrap());
    let coloured = buffer(&model, &mut view(), (80, 24), true, &LogLines::default());
    assert_eq!(coloured[at].bg, Color::Red);
    let plain = buffer(&model, &mut view(), (80, 24), false, &LogLines::default());
    assert!(plain[at].modifier.contains(Modifier::REVERSED));
}

#[test]
fn nothing_is_coloured_if_colour_is_not_wanted() {
    let plain = buffer(
        &model(),
        &mut view(),
        (200, 60),
        false,
        &LogLines::default(),
    );
    for cell in plain.content() {
        assert_eq!((cell.fg, cell.bg), (Color::Reset, Color::Reset), "{cell:?}");
    }
}

#[test]
fn a_daemon_that_is_gone_is_said_above_its_last_numbers() {
    let mut model = model();
    model.lost("no weir daemon at /run/weir/weir.sock".into());
    let lines = lines(&model, &mut view(), (100, 24));
    assert!(
        lines[0].contains("DAEMON GONE, retrying (numbers are from 00:01:41 UTC)"),
        "{}",
        lines[0]
    );
    assert_shows(&lines, &["/run/weir/weir.sock", "hls/-/cable/tcp4"]);
}

#[test]
fn missing_probes_are_in_the_header() {
    let mut model = model();
    let mut now = model.latest().unwrap().clone();
    let mut probe = weir_proto::v1::Probe::default();
    probe.set_verdict(Verdict::Broken);
    now.status.as_mut().unwrap().probes = vec![probe];
    model.apply(now);
    assert_shows(
        &lines(&model, &mut view(), (80, 24)),
        &["DEGRADED: 1 probes missing"],
    );
}

#[test]
fn before_the_first_snapshot_it_says_that_it_connects() {
    let lines = lines(&Model::default(), &mut view(), (80, 24));
    assert_shows(&lines, &["connecting to the daemon", "Cells: none"]);
}

#[test]
fn a_paused_view_shows_what_was_and_still_says_when_the_daemon_goes() {
    let (mut model, mut view) = (model(), view());
    press(&mut view, &model, KeyCode::Char('p'));
    model.apply(snapshot(200, &[]));
    model.lost("reset".into());
    let lines = lines(&model, &mut view, (100, 24));
    assert_shows(
        &lines,
        &["PAUSED", "00:01:41 UTC", "LATE NOW 1", "DAEMON GONE"],
    );
    assert!(view.frozen.is_some());
}

#[test]
fn zoom_gives_the_focused_pane_the_room_of_all() {
    let (model, mut view) = (model(), view());
    press(&mut view, &model, KeyCode::Tab);
    press(&mut view, &model, KeyCode::Enter);
    let lines = lines(&model, &mut view, (80, 24));
    assert_shows(&lines, &["Sessions: 1-1 of 1"]);
    assert!(
        !lines.iter().any(|line| line.contains("Cells:")),
        "{lines:?}"
    );
}

#[test]
fn scrolling_shows_later_rows() {
    let mut model = Model::default();
    let mut now = snapshot(100, &[]);
    now.sessions = (1..=50).map(|host| late_session(host, 100, 6)).collect();
    model.apply(now);
    let mut view = view();
    press(&mut view, &model, KeyCode::Tab);
    assert_shows(&lines(&model, &mut view, (80, 24)), &["198.51.100.1:"]);
    press(&mut view, &model, KeyCode::End);
    let lines = lines(&model, &mut view, (80, 24));
    assert_shows(&lines, &["198.51.100.50:", "50 of 50"]);
    assert!(!lines.iter().any(|line| line.contains("198.51.100.1:")));
}

#[test]
fn help_and_log_lie_over_the_lists() {
    let (model, mut view) = (model(), view());
    press(&mut view, &model, KeyCode::Char('?'));
    assert_shows(
        &lines(&model, &mut view, (80, 24)),
        &["Keys and columns", "f/rto/tlp"],
    );
    press(&mut view, &model, KeyCode::Esc);
    press(&mut view, &model, KeyCode::Char('l'));
    let mut log = LogLines::default();
    log.write_all(b"WARN uplink lost\n").unwrap();
    let buffer = buffer(&model, &mut view, (80, 24), true, &log);
    let text: String = buffer
        .content()
        .iter()
        .map(ratatui::buffer::Cell::symbol)
        .collect();
    assert!(text.contains("WARN uplink lost"), "{text}");
}

#[test]
fn the_filter_being_typed_stands_where_the_keys_were() {
    let (model, mut view) = (model(), view());
    for code in [KeyCode::Char('/'), KeyCode::Char('c'), KeyCode::Char('a')] {
        press(&mut view, &model, code);
    }
    assert_shows(&lines(&model, &mut view, (80, 24)), &["filter: ca_"]);
    press(&mut view, &model, KeyCode::Enter);
    assert_shows(
        &lines(&model, &mut view, (80, 24)),
        &["filter: ca ", "hls/-/cable/tcp4"],
    );
}
