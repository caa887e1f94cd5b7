//! The backend, and its absence while the kill switch is on: a file whose being there takes weir
//! off the host.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use anyhow::Context as _;

use crate::config::Config;
use crate::kernel::{Backend, BackendKind, Filter, KernelCounts, Settings};

/// Between two attempts to measure again, if one has failed.
const RETRY_INTERVAL: Duration = Duration::from_secs(5);

/// Makes a backend that measures by some settings.
pub(super) type Make = Box<dyn Fn(&Settings) -> anyhow::Result<Box<dyn Backend>> + Send>;

/// A file that turns weir off by being there.
#[derive(Clone, Debug)]
pub(super) struct KillSwitch(PathBuf);

impl KillSwitch {
    pub(super) fn new(path: &Path) -> Self {
        Self(path.to_owned())
    }

    /// Whether the file is there. One that cannot be looked for is not: who may put it there can
    /// also see to that.
    pub(super) fn is_on(&self) -> bool {
        self.0.symlink_metadata().is_ok()
    }

    /// Why putting the file there would not be seen; none: it would be.
    pub(super) fn blind(&self) -> Option<String> {
        let is_missing = |err: &std::io::Error| err.kind() == std::io::ErrorKind::NotFound;
        let error = match self.0.symlink_metadata() {
            Err(err) if !is_missing(&err) => err,
            Err(_) => self.0.parent()?.metadata().err()?,
            Ok(_) => return None,
        };
        let path = self.0.display();
        Some(format!(
            "the kill switch {path} cannot be looked for, and takes weir off this host only once its \
             directory is there and may be entered: {error}"
        ))
    }

    /// What an operator reads while it is on.
    pub(super) fn sentence(&self) -> String {
        format!(
            "the kill switch {} is there; weir measures again once it is removed",
            self.0.display()
        )
    }
}

/// What is to be done about measuring.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Turn {
    /// Nothing.
    Stay,
    /// Take everything out of the kernel.
    Off,
    /// Measure again.
    On,
}

/// Measuring, or not.
pub(super) struct Measuring {
    make: Make,
    kind: BackendKind,
    backend: Option<Box<dyn Backend>>,
    settings: Settings,
    switch: KillSwitch,
    /// What backends that are gone have counted.
    before: KernelCounts,
    next_try: Instant,
}

impl Measuring {
    /// With a backend that measures as `config` says.
    pub(super) fn new(
        backend: Box<dyn Backend>,
        config: &Config,
        make: Make,
        switch: KillSwitch,
    ) -> Self {
        Self {
            make,
            kind: backend.kind(),
            backend: Some(backend),
            settings: config.kernel_settings(),
            switch,
            before: KernelCounts::default(),
            next_try: Instant::now(),
        }
    }

    /// None while weir is off.
    pub(super) fn backend(&mut self) -> Option<&mut (dyn Backend + 'static)> {
        self.backend.as_deref_mut()
    }

    /// What the kill switch asks for.
    pub(super) fn turn(&self) -> Turn {
        match (self.switch.is_on(), &self.backend) {
            (true, Some(_)) => Turn::Off,
            (false, None) if Instant::now() >= self.next_try => Turn::On,
            _ => Turn::Stay,
        }
    }

    /// The kill switch's sentence.
    pub(super) fn why_off(&self) -> String {
        self.switch.sentence()
    }

    /// Puts settings in force: at once, or when weir measures again.
    pub(super) fn apply(&mut self, settings: Settings) -> anyhow::Result<()> {
        if let Some(backend) = &mut self.backend {
            backend.apply(&settings)?;
        }
        self.settings = settings;
        Ok(())
    }

    /// All counts since the daemon's start; none if nothing was counted since they were last read.
    pub(super) fn counts(&mut self) -> anyhow::Result<Option<KernelCounts>> {
        match &mut self.backend {
            Some(backend) => Ok(Some(self.before.plus(&backend.counts()?))),
            None => Ok(None),
        }
    }

    /// Makes the backend say its last of every session: none is measured any more.
    pub(super) fn dismiss_sessions(&mut self) -> anyhow::Result<()> {
        let Some(backend) = &mut self.backend else {
            return Ok(());
        };
        let no_session = Settings {
            filter: Filter {
                // No session has this port.
                ports: vec![0],
                ..Filter::default()
            },
            ..self.settings.clone()
        };
        backend.apply(&no_session)?;
        backend.sweep()
    }

    /// Takes everything out of the kernel; `counted` was read last.
    pub(super) fn take_down(&mut self, counted: KernelCounts) {
        self.before = counted;
        self.backend = None;
    }

    /// Measures again, in the same way as before.
    pub(super) fn put_up(&mut self) -> anyhow::Result<()> {
        self.next_try = Instant::now() + RETRY_INTERVAL;
        let backend = (self.make)(&self.settings)?;
        anyhow::ensure!(
            backend.kind() == self.kind,
            "the {} backend works no more; restart weir to go on with the {} one",
            self.kind.as_str(),
            backend.kind().as_str()
        );
        self.backend = Some(backend);
        Ok(())
    }
}

/// Makes a backend and puts the settings in force.
pub(super) fn made(
    backend: anyhow::Result<Box<dyn Backend>>,
    settings: &Settings,
) -> anyhow::Result<Box<dyn Backend>> {
    let mut backend = backend?;
    backend
        .apply(settings)
        .context("cannot put the settings in force")?;
    Ok(backend)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kill_switch_without_a_directory_is_told_before_it_is_needed() {
        let directory = tempfile::tempdir().unwrap();
        let there = KillSwitch::new(&directory.path().join("weir.off"));
        assert_eq!(there.blind(), None);
        let nowhere = KillSwitch::new(&directory.path().join("none/weir.off"));
        assert!(nowhere.blind().unwrap().contains("none/weir.off"));
        std::fs::write(directory.path().join("weir.off"), "").unwrap();
        assert!(there.is_on());
        assert_eq!(there.blind(), None);
    }
}
