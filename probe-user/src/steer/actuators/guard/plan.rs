//! How a gate is made neutral: what the guard is told before the gate is turned.

use std::os::fd::OwnedFd;
use std::time::Duration;

use anyhow::Result;
use serde::{Deserialize, Serialize};

use crate::steer::actuators::haproxy::{agent, socket};
use crate::steer::actuators::notice::Cause;
use crate::steer::actuators::settings::{File, Hook, Webhook};
use crate::steer::actuators::told::Undo;

/// What cannot be reached at once is tried again, less and less often, for so long.
const FOR: Duration = Duration::from_secs(30);
const FIRST_PAUSE: Duration = Duration::from_millis(100);

/// All that is needed to make one gate neutral.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Plan {
    /// Neutral is answered at the listening socket that came with the plan.
    HaproxyAgent(agent::Linger),
    HaproxySocket(socket::Before),
    Hook(Undo<Hook>),
    Webhook(Undo<Webhook>),
    File(Undo<File>),
}

impl Plan {
    /// Makes the gate neutral, with as many attempts as there is time for.
    pub(super) async fn restore(&self, cause: Cause, fd: Option<OwnedFd>) -> Result<()> {
        if let Self::HaproxyAgent(linger) = self {
            return linger.answer(fd).await;
        }
        let end = tokio::time::Instant::now() + FOR;
        let mut pause = FIRST_PAUSE;
        loop {
            let Err(err) = self.attempt(cause).await else {
                return Ok(());
            };
            if tokio::time::Instant::now() + pause > end {
                return Err(err);
            }
            tokio::time::sleep(pause).await;
            pause *= 2;
        }
    }

    async fn attempt(&self, cause: Cause) -> Result<()> {
        match self {
            Self::HaproxyAgent(_) => Ok(()),
            Self::HaproxySocket(before) => before.restore().await,
            Self::Hook(undo) => undo.tell(cause).await,
            Self::Webhook(undo) => undo.tell(cause).await,
            Self::File(undo) => undo.tell(cause).await,
        }
    }

    /// Whether the gate can be turned while it is being made neutral: the guard only has to stop.
    pub(super) fn can_be_stopped(&self) -> bool {
        matches!(self, Self::HaproxyAgent(_))
    }
}
