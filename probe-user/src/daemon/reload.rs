//! A reload: the configuration is read again, and what can change is put in force, all of it or
//! nothing.

use std::path::PathBuf;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::sync::{mpsc, oneshot, watch};

use super::core::Reload;
use super::labelling;
use super::recorder::Recorder;
use super::steering::NewRules;
use crate::config::Config;
use crate::intake;
use crate::labels::inlet::Inlet;
use crate::query::access::{Access, Socket};

/// Reads the configuration again, and puts in force what can be.
pub(super) struct Reloader<'a> {
    pub(super) config: Config,
    pub(super) config_path: Option<PathBuf>,
    pub(super) overrides: Box<dyn Fn(&mut Config) + Send + Sync>,
    pub(super) generation: u64,
    /// Why the latest reload was refused.
    pub(super) error: watch::Sender<String>,
    pub(super) core: mpsc::Sender<Reload>,
    pub(super) access: watch::Sender<Arc<Access>>,
    pub(super) steering: mpsc::Sender<NewRules>,
    pub(super) socket: &'a Socket,
    pub(super) recorder: Option<&'a Recorder>,
    pub(super) inlet: Option<&'a Inlet>,
}

impl Reloader<'_> {
    /// Reads it again; the log hears how it went.
    pub(super) async fn reload(&mut self) {
        match self.try_reload().await {
            Ok(kept) => {
                if !kept.is_empty() {
                    tracing::warn!(
                        keys = kept.join(", "),
                        "changed in the configuration, but in force only after a restart"
                    );
                }
                tracing::info!(generation = self.generation, "configuration reloaded");
                self.error.send_replace(String::new());
            }
            Err(err) => {
                tracing::error!("the old configuration stays in force: {err:#}");
                self.error.send_replace(format!("{err:#}"));
            }
        }
    }

    async fn try_reload(&mut self) -> anyhow::Result<Vec<&'static str>> {
        let path = self
            .config_path
            .clone()
            .context("weir was started without a configuration file, so there is none to reload")?;
        let load = tokio::task::spawn_blocking(move || Config::load(&path));
        let mut new = load.await.context("reading the configuration failed")??;
        (self.overrides)(&mut new);
        new.check()?;
        let mut next = self.config.clone();
        let kept = next.reload(new);
        let access = Access::new(&next.query)?;
        let rules = NewRules::of(&next.steer)?;
        let geo = labelling::geo(&next).await?;
        self.socket.reopen(&access)?;
        let (reply, applied) = oneshot::channel();
        let reload = Reload {
            settings: next.kernel_settings(),
            budget_core_permille: next.budget_core_permille,
            geo,
            recorded: Arc::new(intake::settings_of(&next, self.generation + 1)),
            reply,
        };
        self.core.send(reload).await.context("the core has ended")?;
        applied
            .await
            .context("the core has ended")?
            .context("the kernel programs did not take the settings")?;
        if let Some(inlet) = self.inlet {
            inlet.reload(&next.labels, &next.rules)?;
        }
        if self.steering.send(rules).await.is_err() {
            tracing::error!("nothing is steered any longer, whatever [steer] says; restart weir");
        }
        self.generation += 1;
        if let Some(recorder) = self.recorder {
            recorder.reload(&next.recording);
        }
        self.config = next;
        self.access.send_replace(Arc::new(access));
        Ok(kept)
    }
}
