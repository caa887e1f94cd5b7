//! What the operator has chosen to see: focus, order, filter, pause. Keys change it; drawing
//! reads it.

use crossterm::event::{KeyCode, KeyEvent, KeyEventKind, KeyModifiers};
use ipnet::IpNet;
use weir_proto::v1::{Delivery, Filter, Viewer};

use super::model::{CellRow, Model, WINDOWS_S};
use super::order::{Typed, Typing, Verb, Wish};
use super::pane::{self, Column, Key, SessionRow};
use crate::ui::listing::sessions::open_us;
use crate::ui::units;

/// The lists.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Pane {
    /// Aggregates.
    Cells,
    /// Worst viewers.
    Viewers,
    /// Worst sessions.
    Sessions,
    /// Late and troubled deliveries.
    Troubled,
}

impl Pane {
    /// In the order in which they are drawn.
    pub const ALL: [Self; Self::COUNT] =
        [Self::Cells, Self::Viewers, Self::Sessions, Self::Troubled];
    /// How many there are.
    pub const COUNT: usize = 4;
}

/// How one pane is ordered and how far it is scrolled.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct PaneState {
    /// Index among the pane's orders; see [`orders`].
    order: usize,
    /// The other way round.
    pub reverse: bool,
    /// Rows scrolled over.
    pub scroll: usize,
}

/// What a key asks of the surroundings.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// Nothing but to draw again.
    Draw,
    /// Give an order.
    Give(Wish),
    /// Ask the daemon anew: the ports and prefixes have changed.
    Refilter,
    /// End.
    Quit,
}

/// See the module.
#[derive(Clone, Debug)]
pub struct View {
    /// The pane that keys act on.
    pub focus: Pane,
    panes: [PaneState; Pane::COUNT],
    /// Only the focused pane is shown.
    pub zoom: bool,
    /// Index into [`WINDOWS_S`].
    window: usize,
    /// The help is shown.
    pub help: bool,
    /// The log is shown.
    pub log: bool,
    /// What is shown while paused.
    pub frozen: Option<Box<Model>>,
    /// Rows must match this.
    pub filter: TextFilter,
    /// The filter being typed.
    pub typing: Option<String>,
    /// The order being typed.
    pub ordering: Option<Typing>,
    /// What came of the latest order, and whether it was taken; until the next key.
    pub told: Option<(String, bool)>,
    /// Filters from the command line.
    base: Filter,
}

/// A filter as typed: words that a row must contain, `:443` for a port, `192.0.2.0/24` for a
/// client prefix.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TextFilter {
    /// As typed.
    pub text: String,
    words: Vec<String>,
    ports: Vec<u32>,
    prefixes: Vec<IpNet>,
}

impl TextFilter {
    /// Understands what was typed; what is neither port nor prefix is a word.
    pub fn parse(text: &str) -> Self {
        let mut filter = Self {
            text: text.trim().to_owned(),
            ..Self::default()
        };
        for term in text.split_whitespace() {
            let port = term
                .strip_prefix(':')
                .and_then(|port| port.parse::<u16>().ok());
            if let Some(port) = port {
                filter.ports.push(port.into());
            } else if let Ok(prefix) = term.parse::<IpNet>() {
                filter.prefixes.push(prefix.trunc());
            } else {
                filter.words.push(term.to_lowercase());
            }
        }
        filter
    }

    fn matches(&self, texts: &[String]) -> bool {
        self.words
            .iter()
            .all(|word| texts.iter().any(|text| text.to_lowercase().contains(word)))
    }
}

/// The columns that a pane can be ordered by: the first is the one it begins with.
fn orders<R>(columns: &'static [Column<R>], first: &str) -> Vec<&'static Column<R>> {
    let mut orders: Vec<_> = columns
        .iter()
        .filter(|column| column.key.is_some() || column.title == first)
        .collect();
    let at = orders.iter().position(|column| column.title == first);
    orders.rotate_left(at.unwrap_or(0));
    orders
}

impl View {
    /// A view that begins with the command line's filters.
    pub fn new(base: Filter) -> Self {
        Self {
            focus: Pane::Cells,
            panes: [PaneState::default(); Pane::COUNT],
            zoom: false,
            window: 0,
            help: false,
            log: false,
            frozen: None,
            filter: TextFilter::default(),
            typing: None,
            ordering: None,
            told: None,
            base,
        }
    }

    /// Seconds over which rates and percentiles are taken.
    pub fn window_s(&self) -> u64 {
        WINDOWS_S[self.window]
    }

    /// A pane's order and scroll.
    pub fn pane(&self, pane: Pane) -> &PaneState {
        &self.panes[pane as usize]
    }

    /// What to ask the daemon for: the command line's filters, narrowed by those typed.
    pub fn wire_filter(&self) -> Filter {
        let mut filter = self.base.clone();
        // Typed ones replace: both lists mean "any of these", so they cannot be joined.
        if !self.filter.ports.is_empty() {
            filter.ports.clone_from(&self.filter.ports);
        }
        if !self.filter.prefixes.is_empty() {
            filter.prefixes = self
                .filter
                .prefixes
                .iter()
                .map(ToString::to_string)
                .collect();
        }
        filter
    }

    /// The heading of the column that a pane is ordered by.
    pub fn order_title(&self, pane: Pane) -> &'static str {
        let order = self.pane(pane).order;
        match pane {
            Pane::Cells => Self::cell_orders()[order].title,
            Pane::Viewers | Pane::Sessions if order == 0 => "worst",
            Pane::Viewers => Self::viewer_orders()[order].title,
            Pane::Sessions => Self::session_orders()[order].title,
            Pane::Troubled => Self::troubled_orders()[order].title,
        }
    }

    fn cell_orders() -> Vec<&'static Column<CellRow>> {
        orders(pane::CELLS, "deliv/s")
    }

    fn viewer_orders() -> Vec<&'static Column<Viewer>> {
        orders(pane::VIEWERS, "state")
    }

    fn session_orders() -> Vec<&'static Column<SessionRow>> {
        orders(pane::SESSIONS, "state")
    }

    fn troubled_orders() -> Vec<&'static Column<Delivery>> {
        orders(pane::TROUBLED, "asked")
    }

    fn order_count(pane: Pane) -> usize {
        match pane {
            Pane::Cells => Self::cell_orders().len(),
            Pane::Viewers => Self::viewer_orders().len(),
            Pane::Sessions => Self::session_orders().len(),
            Pane::Troubled => Self::troubled_orders().len(),
        }
    }

    fn ordered<R>(&self, pane: Pane, column: &Column<R>, mut rows: Vec<R>) -> Vec<R> {
        if let Some(key) = column.key {
            rows.sort_by(|a, b| Key::order(&key(a), &key(b)));
        }
        if self.pane(pane).reverse {
            rows.reverse();
        }
        rows
    }

    /// The cells that match, in order.
    pub fn cells(&self, model: &Model) -> Vec<CellRow> {
        let mut rows = model.cells(self.window_s());
        rows.retain(|row| self.filter.matches(std::slice::from_ref(&row.path)));
        // Equal ones must not change places from one drawing to the next.
        rows.sort_by(|a, b| a.path.cmp(&b.path));
        let column = Self::cell_orders()[self.pane(Pane::Cells).order];
        self.ordered(Pane::Cells, column, rows)
    }

    /// The viewers that match, in order.
    pub fn viewers(&self, model: &Model) -> Vec<Viewer> {
        let Some(latest) = model.latest() else {
            return Vec::new();
        };
        let rows = latest.viewers.iter().filter(|viewer| {
            self.filter.matches(&[
                viewer.client_address.clone(),
                viewer.sid.clone(),
                units::cell_path(viewer.cell.as_ref()),
                viewer.state().word(),
                viewer.verdict.clone(),
            ])
        });
        let column = Self::viewer_orders()[self.pane(Pane::Viewers).order];
        self.ordered(Pane::Viewers, column, rows.cloned().collect())
    }

    /// The sessions that match, in order.
    pub fn sessions(&self, model: &Model) -> Vec<SessionRow> {
        let Some(latest) = model.latest() else {
            return Vec::new();
        };
        let rows = latest.sessions.iter().filter(|session| {
            self.filter.matches(&[
                units::client(session.endpoints.as_ref()),
                units::server(session.endpoints.as_ref()),
                units::cell_path(session.cell.as_ref()),
                session.state().word(),
            ])
        });
        let rows = rows
            .map(|session| SessionRow {
                session: session.clone(),
                open_us: open_us(session, latest.unix_ns),
            })
            .collect();
        let column = Self::session_orders()[self.pane(Pane::Sessions).order];
        self.ordered(Pane::Sessions, column, rows)
    }

    /// The troubled deliveries that match, in order.
    pub fn troubled(&self, model: &Model) -> Vec<Delivery> {
        let Some(latest) = model.latest() else {
            return Vec::new();
        };
        let rows = latest.troubled.iter().filter(|delivery| {
            self.filter.matches(&[
                units::client(delivery.endpoints.as_ref()),
                units::server(delivery.endpoints.as_ref()),
                units::cell_path(delivery.cell.as_ref()),
                delivery.phase().word(),
                delivery.ended().word(),
            ])
        });
        // Latest first also among those of the same time.
        let rows = rows.rev().cloned().collect();
        let column = Self::troubled_orders()[self.pane(Pane::Troubled).order];
        self.ordered(Pane::Troubled, column, rows)
    }

    /// Does what a key says.
    pub fn key(&mut self, key: KeyEvent, model: &Model) -> Action {
        if key.kind == KeyEventKind::Release {
            return Action::Draw;
        }
        let control = key.modifiers.contains(KeyModifiers::CONTROL);
        if control && key.code == KeyCode::Char('c') {
            return Action::Quit;
        }
        self.told = None;
        if let Some(typing) = self.ordering.take() {
            match typing.key(key.code) {
                Typed::On(typing) => self.ordering = Some(typing),
                Typed::Left => {}
                Typed::Given(wish) => return Action::Give(wish),
            }
            return Action::Draw;
        }
        if self.typing.is_some() {
            return self.typed(key.code);
        }
        if self.help || self.log {
            // Any key closes what lies over the lists; only q also ends.
            (self.help, self.log) = (false, false);
            return if key.code == KeyCode::Char('q') {
                Action::Quit
            } else {
                Action::Draw
            };
        }
        let focused = self.focus as usize;
        match key.code {
            KeyCode::Char('q') => return Action::Quit,
            KeyCode::Char('?' | 'h') | KeyCode::F(1) => self.help = true,
            KeyCode::Char('l') => self.log = true,
            KeyCode::Char(key @ ('H' | 'R' | 'P')) => {
                self.ordering = Verb::of(key).map(Typing::new);
            }
            KeyCode::Char('p' | ' ') => {
                self.frozen = match self.frozen.take() {
                    Some(_) => None,
                    None => Some(Box::new(model.clone())),
                };
            }
            KeyCode::Char('w') => self.window = (self.window + 1) % WINDOWS_S.len(),
            KeyCode::Char('s') => {
                let state = &mut self.panes[focused];
                state.order = (state.order + 1) % Self::order_count(self.focus);
                state.scroll = 0;
            }
            KeyCode::Char('S') => self.panes[focused].reverse ^= true,
            KeyCode::Char('/') => self.typing = Some(self.filter.text.clone()),
            KeyCode::Tab => self.focus = self.next_pane(model, 1),
            KeyCode::BackTab => self.focus = self.next_pane(model, Pane::COUNT - 1),
            KeyCode::Enter | KeyCode::Char('z') => self.zoom ^= true,
            KeyCode::Esc => {
                self.zoom = false;
                return self.set_filter("");
            }
            KeyCode::Down | KeyCode::Char('j') => self.scroll(1),
            KeyCode::Up | KeyCode::Char('k') => self.scroll(-1),
            KeyCode::PageDown => self.scroll(10),
            KeyCode::PageUp => self.scroll(-10),
            KeyCode::Home | KeyCode::Char('g') => self.panes[focused].scroll = 0,
            KeyCode::End | KeyCode::Char('G') => self.panes[focused].scroll = usize::MAX,
            _ => {}
        }
        Action::Draw
    }

    /// The pane so many steps on; that of viewers is not there where there are none.
    fn next_pane(&self, model: &Model, steps: usize) -> Pane {
        let on = |from: Pane| Pane::ALL[(from as usize + steps) % Pane::COUNT];
        let next = on(self.focus);
        let is_hidden = model
            .latest()
            .is_none_or(|latest| latest.viewers.is_empty());
        if next == Pane::Viewers && is_hidden {
            on(next)
        } else {
            next
        }
    }

    /// Keeps the scroll within `rows` of which `room` are seen; returns the first row to draw.
    pub fn clamp_scroll(&mut self, pane: Pane, rows: usize, room: usize) -> usize {
        let state = &mut self.panes[pane as usize];
        state.scroll = state.scroll.min(rows.saturating_sub(room));
        state.scroll
    }

    fn scroll(&mut self, by: isize) {
        let scroll = &mut self.panes[self.focus as usize].scroll;
        *scroll = scroll.saturating_add_signed(by);
    }

    fn typed(&mut self, code: KeyCode) -> Action {
        let Some(text) = &mut self.typing else {
            return Action::Draw;
        };
        match code {
            KeyCode::Char(c) => text.push(c),
            KeyCode::Backspace => {
                text.pop();
            }
            KeyCode::Enter => {
                let text = self.typing.take().unwrap_or_default();
                return self.set_filter(&text);
            }
            KeyCode::Esc => self.typing = None,
            _ => {}
        }
        Action::Draw
    }

    fn set_filter(&mut self, text: &str) -> Action {
        let before = self.wire_filter();
        self.filter = TextFilter::parse(text);
        for pane in &mut self.panes {
            pane.scroll = 0;
        }
        if self.wire_filter() == before {
            Action::Draw
        } else {
            Action::Refilter
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::fixture::{aborted_delivery, late_session, snapshot};
    use super::*;

    fn press(view: &mut View, model: &Model, keys: &str) -> Action {
        let mut action = Action::Draw;
        for c in keys.chars() {
            let code = match c {
                '\n' => KeyCode::Enter,
                '\t' => KeyCode::Tab,
                '\x1b' => KeyCode::Esc,
                c => KeyCode::Char(c),
            };
            action = view.key(KeyEvent::new(code, KeyModifiers::NONE), model);
        }
        action
    }

    fn model() -> Model {
        let mut snapshot = snapshot(100, &[1_000]);
        snapshot.sessions = vec![late_session(9, 100, 5), late_session(3, 100, 50)];
        snapshot.sessions[1].srtt_us = 1;
        snapshot.troubled = vec![aborted_delivery(1, 60), aborted_delivery(2, 90)];
        let mut model = Model::default();
        model.apply(snapshot);
        model
    }

    fn hosts(view: &View, model: &Model) -> Vec<u64> {
        let rows = view.sessions(model);
        rows.iter().map(|row| row.session.session).collect()
    }

    #[test]
    fn sessions_come_worst_first_as_sent_until_another_order_is_chosen() {
        let (mut view, model) = (View::new(Filter::default()), model());
        assert_eq!(hosts(&view, &model), [9, 3]);
        assert_eq!(view.order_title(Pane::Sessions), "worst");
        press(&mut view, &model, "\ts");
        assert_eq!(view.order_title(Pane::Sessions), "age");
        assert_eq!(hosts(&view, &model), [3, 9]);
        press(&mut view, &model, "S");
        assert_eq!(hosts(&view, &model), [9, 3]);
    }

    #[test]
    fn the_pane_of_viewers_is_passed_over_where_there_are_none() {
        let (mut view, model) = (View::new(Filter::default()), model());
        press(&mut view, &model, "\t");
        assert_eq!(view.focus, Pane::Sessions);
        assert_eq!(view.next_pane(&model, Pane::COUNT - 1), Pane::Cells);
    }

    #[test]
    fn every_order_of_every_pane_can_be_reached_and_comes_round() {
        let (mut view, mut model) = (View::new(Filter::default()), model());
        let mut snapshot = model.latest().cloned().unwrap();
        snapshot.viewers = vec![Viewer::default()];
        model.apply(snapshot);
        for pane in Pane::ALL {
            assert_eq!(view.focus, pane);
            let first = view.order_title(pane);
            let count = View::order_count(pane);
            assert!(count >= 4);
            for _ in 0..count {
                view.cells(&model);
                view.viewers(&model);
                view.sessions(&model);
                view.troubled(&model);
                press(&mut view, &model, "s");
            }
            assert_eq!(view.order_title(pane), first);
            press(&mut view, &model, "\t");
        }
    }

    #[test]
    fn the_latest_trouble_comes_first() {
        let view = View::new(Filter::default());
        let order: Vec<u64> = view
            .troubled(&model())
            .iter()
            .map(|row| row.session)
            .collect();
        assert_eq!(order, [2, 1]);
    }

    #[test]
    fn words_filter_here_and_ports_and_prefixes_are_asked_of_the_daemon() {
        let (mut view, model) = (View::new(Filter::default()), model());
        assert_eq!(press(&mut view, &model, "/100.3:\n"), Action::Draw);
        assert_eq!(hosts(&view, &model), [3]);
        assert_eq!(press(&mut view, &model, "\x1b"), Action::Draw);
        assert_eq!(hosts(&view, &model), [9, 3]);

        assert_eq!(
            press(&mut view, &model, "/:443 198.51.100.7/24\n"),
            Action::Refilter
        );
        let wire = view.wire_filter();
        assert_eq!(wire.ports, [443]);
        assert_eq!(wire.prefixes, ["198.51.100.0/24"]);
        assert_eq!(press(&mut view, &model, "\x1b"), Action::Refilter);
        assert_eq!(view.wire_filter(), Filter::default());
    }

    #[test]
    fn keys_are_letters_while_a_filter_is_typed_and_escape_leaves_the_old_one() {
        let (mut view, model) = (View::new(Filter::default()), model());
        assert_eq!(press(&mut view, &model, "/q"), Action::Draw);
        assert_eq!(view.typing.as_deref(), Some("q"));
        press(&mut view, &model, "\x1b");
        assert_eq!(
            (view.typing.as_deref(), view.filter.text.as_str()),
            (None, "")
        );
        assert_eq!(press(&mut view, &model, "q"), Action::Quit);
    }

    #[test]
    fn pause_keeps_what_was_seen() {
        let (mut view, mut model) = (View::new(Filter::default()), model());
        press(&mut view, &model, "p");
        model.apply(snapshot(101, &[]));
        assert_eq!(
            view.frozen.as_ref().unwrap().latest().unwrap().unix_ns,
            100_000_000_000
        );
        press(&mut view, &model, " ");
        assert!(view.frozen.is_none());
    }

    #[test]
    fn scrolling_stops_at_both_ends() {
        let (mut view, model) = (View::new(Filter::default()), model());
        press(&mut view, &model, "kG");
        assert_eq!(view.clamp_scroll(Pane::Cells, 30, 10), 20);
        press(&mut view, &model, "k");
        assert_eq!(view.clamp_scroll(Pane::Cells, 30, 10), 19);
        assert_eq!(view.clamp_scroll(Pane::Cells, 5, 10), 0);
    }
}
