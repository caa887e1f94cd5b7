//! `weir replay --top` and `--serve`: a recording in a daemon's place.

use std::io::{self, IsTerminal};

use anyhow::{Context as _, Result, bail};
use tokio::sync::oneshot;
use tokio_util::sync::CancellationToken;
use weir_proto::v1::Filter;

use super::Replay;
use super::live::ended;
use crate::daemon::playback::play;
use crate::recording::chain::Chain;
use crate::replay::{Options, Speed};
use crate::ui::out::colour_wanted;
use crate::ui::top::{self, LogLines};

/// Time between the live view's looks.
const INTERVAL_MS: u32 = 1000;

/// `weir replay --top` or `--serve`.
pub async fn playback(args: &Replay) -> Result<()> {
    let chain = Chain::open(&args.files)?;
    let options = Options {
        speed: args.speed.unwrap_or(Speed::Times(1.0)),
        from: args.from,
        until: args.until,
    };
    let stop = CancellationToken::new();
    if let Some(socket) = &args.serve {
        let (told, until) = (stop.clone(), ended()?);
        tokio::spawn(async move {
            until.await;
            told.cancel();
        });
        let ready = || eprintln!("playing; ask it with --socket {}", socket.display());
        return play(chain, options, socket, stop, ready).await;
    }
    if !(io::stdout().is_terminal() && io::stdin().is_terminal()) {
        bail!("--top: the live view needs a terminal for input and output");
    }
    let directory = Directory::make()?;
    let socket = directory.0.join("weir.sock");
    let (ready_to, ready) = oneshot::channel();
    let playing = {
        let (socket, stop) = (socket.clone(), stop.clone());
        tokio::spawn(async move {
            let ready = || {
                // Nobody waits any more if the view was ended first.
                let _ = ready_to.send(());
            };
            play(chain, options, &socket, stop, ready).await
        })
    };
    if ready.await.is_err() {
        return playing.await.context("the playback failed")?;
    }
    let view = top::Options {
        socket,
        filter: Filter::default(),
        interval_ms: INTERVAL_MS,
        colour: colour_wanted(),
    };
    let shown = top::run(view, &LogLines::default(), ended()?).await;
    stop.cancel();
    playing.await.context("the playback failed")?.and(shown)
}

/// A directory for this process alone, which goes with it.
struct Directory(std::path::PathBuf);

impl Directory {
    fn make() -> Result<Self> {
        let template = std::env::temp_dir().join("weir-replay-XXXXXX");
        let made = nix::unistd::mkdtemp(&template);
        let path = made.with_context(|| format!("cannot make {}", template.display()))?;
        Ok(Self(path))
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // An empty directory in the temporary one harms nobody.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}
