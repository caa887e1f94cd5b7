//! The live view, run as it is but for the terminal, which a test can read.

use std::io;
use std::path::Path;

use crossterm::event::{Event, KeyCode, KeyEvent, KeyModifiers};
use futures::channel::mpsc;
use ratatui::Terminal;
use ratatui::backend::{Backend, ClearType, TestBackend, WindowSize};
use ratatui::buffer::Cell;
use ratatui::layout::{Position, Size};
use tokio::sync::{oneshot, watch};
use tokio::task::JoinHandle;
use weir::ui::top::{self, LogLines, Options};
use weir_proto::v1::{Filter, SessionState, Snapshot, Status};

use crate::fake_daemon::{Daemon, Script};

/// A terminal that publishes its text whenever it is drawn.
struct Screen {
    inner: TestBackend,
    shown: watch::Sender<String>,
}

impl Backend for Screen {
    type Error = <TestBackend as Backend>::Error;

    fn draw<'a, I>(&mut self, content: I) -> Result<(), Self::Error>
    where
        I: Iterator<Item = (u16, u16, &'a Cell)>,
    {
        self.inner.draw(content)
    }

    fn hide_cursor(&mut self) -> Result<(), Self::Error> {
        self.inner.hide_cursor()
    }

    fn show_cursor(&mut self) -> Result<(), Self::Error> {
        self.inner.show_cursor()
    }

    fn get_cursor_position(&mut self) -> Result<Position, Self::Error> {
        self.inner.get_cursor_position()
    }

    fn set_cursor_position<P: Into<Position>>(&mut self, position: P) -> Result<(), Self::Error> {
        self.inner.set_cursor_position(position)
    }

    fn clear(&mut self) -> Result<(), Self::Error> {
        self.inner.clear()
    }

    fn clear_region(&mut self, clear: ClearType) -> Result<(), Self::Error> {
        self.inner.clear_region(clear)
    }

    fn size(&self) -> Result<Size, Self::Error> {
        self.inner.size()
    }

    fn window_size(&mut self) -> Result<WindowSize, Self::Error> {
        self.inner.window_size()
    }

    fn flush(&mut self) -> Result<(), Self::Error> {
        self.shown.send_replace(self.inner.to_string());
        self.inner.flush()
    }
}

/// A running live view.
struct Live {
    shown: watch::Receiver<String>,
    keys: mpsc::UnboundedSender<io::Result<Event>>,
    stop: oneshot::Sender<()>,
    task: JoinHandle<anyhow::Result<()>>,
}

impl Live {
    fn start(socket: &Path) -> Self {
        let (shown_to, shown) = watch::channel(String::new());
        let (keys, events) = mpsc::unbounded();
        let (stop, stopped) = oneshot::channel::<()>();
        let options = Options {
            socket: socket.to_owned(),
            filter: Filter::default(),
            interval_ms: 100,
            colour: true,
        };
        let task = tokio::spawn(async move {
            let mut terminal = Terminal::new(Screen {
                inner: TestBackend::new(120, 30),
                shown: shown_to,
            })
            .unwrap();
            let stop = async {
                let _ = stopped.await;
            };
            top::run_on(&mut terminal, events, options, &LogLines::default(), stop).await
        });
        Self {
            shown,
            keys,
            stop,
            task,
        }
    }

    fn press(&self, text: &str) {
        for c in text.chars() {
            let code = if c == '\n' {
                KeyCode::Enter
            } else {
                KeyCode::Char(c)
            };
            let key = KeyEvent::new(code, KeyModifiers::NONE);
            self.keys.unbounded_send(Ok(Event::Key(key))).unwrap();
        }
    }

    async fn shows(&mut self, text: &str) {
        self.shown
            .wait_for(|shown| shown.contains(text))
            .await
            .unwrap();
    }
}

fn snapshot(host: &str) -> Snapshot {
    Snapshot {
        status: Some(Status {
            host: host.into(),
            ..Status::default()
        }),
        unix_ns: 1_700_000_000_000_000_000,
        ..Snapshot::default()
    }
}

async fn watched(daemon: &mut Daemon) -> Filter {
    let asked = daemon.asked.wait_for(Option::is_some).await.unwrap();
    asked.clone().unwrap().0
}

#[tokio::test]
async fn it_shows_what_the_daemon_says_and_ends_with_q() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), Script::default());
    let mut live = Live::start(&daemon.socket);
    live.shows("connecting to the daemon").await;
    watched(&mut daemon).await;
    daemon.snapshots.send(snapshot("edge-1")).unwrap();
    live.shows("weir edge-1").await;
    live.press("q");
    live.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn it_waits_for_a_daemon_that_is_gone_and_goes_on_with_the_next() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), Script::default());
    let mut live = Live::start(&daemon.socket);
    watched(&mut daemon).await;
    daemon.snapshots.send(snapshot("before")).unwrap();
    live.shows("weir before").await;
    drop(daemon);
    live.shows("DAEMON GONE, retrying").await;
    live.shows("weir before").await;

    let mut daemon = Daemon::start(dir.path(), Script::default());
    watched(&mut daemon).await;
    daemon.snapshots.send(snapshot("after")).unwrap();
    live.shows("weir after").await;
    assert!(!live.shown.borrow().contains("DAEMON GONE"));
    live.press("q");
    live.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn a_port_that_is_typed_is_asked_of_the_daemon() {
    let dir = tempfile::tempdir().unwrap();
    let mut daemon = Daemon::start(dir.path(), Script::default());
    let live = Live::start(&daemon.socket);
    let before = watched(&mut daemon).await;
    assert!(before.ports.is_empty());
    assert!(!before.states.contains(&(SessionState::Ended as i32)));
    live.press("/:8443\n");
    let narrowed = |asked: &Option<(Filter, u32, bool)>| {
        asked
            .as_ref()
            .is_some_and(|(filter, ..)| filter.ports == [8443])
    };
    daemon.asked.wait_for(narrowed).await.unwrap();
    live.press("q");
    live.task.await.unwrap().unwrap();
}

#[tokio::test]
async fn it_ends_when_it_is_told_to_and_when_the_terminal_is_gone() {
    let dir = tempfile::tempdir().unwrap();
    let socket = dir.path().join("nobody.sock");
    let mut live = Live::start(&socket);
    live.shows("DAEMON GONE, retrying").await;
    live.stop.send(()).unwrap();
    live.task.await.unwrap().unwrap();

    let live = Live::start(&socket);
    drop(live.keys);
    live.task.await.unwrap().unwrap();
}
