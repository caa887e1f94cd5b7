//! `weir top`: the live view. Model (what is known), view (what is chosen), draw (how it looks),
//! feed (where it comes from); this file runs them against each other.

pub mod draw;
mod feed;
#[cfg(test)]
pub(crate) mod fixture;
mod log;
pub mod model;
pub mod order;
mod overlay;
pub mod pane;
mod table;
pub mod view;

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::Context;
use crossterm::event::{Event, EventStream};
use futures::{Stream, StreamExt};
use ratatui::Terminal;
use ratatui::backend::Backend;
use tokio::sync::{mpsc, watch};
use weir_proto::v1::{Filter, SessionState, WatchRequest};

use self::draw::Theme;
use self::feed::News;
pub use self::log::LogLines;
use self::model::Model;
use self::view::{Action, View};

/// Sessions asked for in each snapshot: more than any terminal shows without scrolling.
const SESSIONS: u32 = 200;
/// Of the sessions, those that can still be helped; the ended ones show in the list of troubled
/// deliveries.
const STATES: [SessionState; 3] = [
    SessionState::Late,
    SessionState::Delivering,
    SessionState::Idle,
];
/// Without any news the screen is drawn again so often.
const IDLE_REDRAW: Duration = Duration::from_secs(1);

/// What to watch and how.
#[derive(Clone, Debug)]
pub struct Options {
    /// The daemon's socket.
    pub socket: PathBuf,
    /// Which sessions and cells.
    pub filter: Filter,
    /// Time between snapshots.
    pub interval_ms: u32,
    /// Whether colour may be used.
    pub colour: bool,
}

/// Shows the live view on this process's terminal until q is pressed or `stop` is done. The
/// terminal is put back also on errors and panics.
pub async fn run(
    options: Options,
    log: &LogLines,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()> {
    let mut terminal = ratatui::try_init()
        .context("cannot set up the terminal for the live view (is standard output one?)")?;
    let _restore = Restore;
    run_on(&mut terminal, EventStream::new(), options, log, stop).await
}

/// Puts the terminal back when it goes out of scope.
struct Restore;

impl Drop for Restore {
    fn drop(&mut self) {
        // Nothing is left to tell the failure to: the terminal is gone.
        let _ = ratatui::try_restore();
    }
}

/// The same on any terminal with any source of keys, which the caller sets up and puts back.
pub async fn run_on<B>(
    terminal: &mut Terminal<B>,
    mut events: impl Stream<Item = io::Result<Event>> + Unpin,
    options: Options,
    log: &LogLines,
    stop: impl Future<Output = ()>,
) -> anyhow::Result<()>
where
    B: Backend,
    B::Error: Send + Sync + 'static,
{
    let theme = Theme {
        colour: options.colour,
    };
    let mut view = View::new(options.filter);
    let mut model = Model::default();
    let request = |view: &View| WatchRequest {
        interval_ms: options.interval_ms,
        filter: Some(Filter {
            states: STATES.map(i32::from).to_vec(),
            ..view.wire_filter()
        }),
        sessions: SESSIONS,
    };
    let (ask, asked) = watch::channel(request(&view));
    // Two: a slow terminal holds the daemon's stream back instead of piling up snapshots.
    let (tell, mut news) = mpsc::channel(2);
    let socket = options.socket.clone();
    let feed = tokio::spawn(feed::feed(options.socket, asked, tell));
    // One: an order is typed by a human, and the next one while this is given is not taken.
    let (answer_to, mut answers) = mpsc::channel(1);
    tokio::pin!(stop);
    loop {
        terminal
            .draw(|frame| draw::draw(frame, &model, &mut view, theme, log))
            .context("cannot draw on the terminal")?;
        tokio::select! {
            () = &mut stop => break,
            event = events.next() => match event {
                Some(Ok(Event::Key(key))) => match view.key(key, &model) {
                    Action::Draw => {}
                    Action::Quit => break,
                    Action::Give(wish) => {
                        let (socket, answer_to) = (socket.clone(), answer_to.clone());
                        tokio::spawn(async move {
                            // Fails only if the view has ended.
                            let _ = answer_to.send(order::give(socket, wish).await).await;
                        });
                    }
                    Action::Refilter => {
                        model.restart();
                        // The feed is there as long as `news` is.
                        let _ = ask.send(request(&view));
                    }
                },
                // A resize, a paste, a click: draw again.
                Some(Ok(_)) => {}
                Some(Err(error)) => return Err(error).context("cannot read keys from the terminal"),
                // The terminal is gone.
                None => break,
            },
            Some(told) = answers.recv() => view.told = Some(told),
            item = news.recv() => match item {
                Some(News::Snapshot(snapshot)) => model.apply(*snapshot),
                Some(News::Gone(why)) => model.lost(why),
                // The feed ends only with this loop, or by a panic, which is told here.
                None => return feed.await.context("the live view's feed failed"),
            },
            () = tokio::time::sleep(IDLE_REDRAW) => {}
        }
    }
    Ok(())
}
