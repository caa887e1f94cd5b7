//! Answers HAProxy's agent checks with a weight.
//!
//! What an answer does not mention stays as it was, and that nobody answers is no failure to HAProxy:
//! the last answer holds. So nothing but the weight is ever said (`drain`, `down` and `maint` would
//! strand the server; `ready` would end an operator's own drain), it is said again and again, and the
//! guard, which has the listening socket as well, says neutral when this process cannot.

use std::net::SocketAddr;
use std::os::fd::{AsFd as _, OwnedFd};
use std::sync::{Arc, Mutex, OnceLock, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use serde::{Deserialize, Serialize};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Semaphore;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep, timeout_at};

use crate::steer::Position;
use crate::steer::actuators::guard::{Guard, Guarded, Over, Plan};
use crate::steer::actuators::settings::{HaproxyAgent, Serves, percent};
use crate::steer::actuators::{Actuator, Lease, clock};

/// Checks answered at once; more are closed, which is no failure to HAProxy.
const CONNECTIONS: usize = 64;
/// For a check to take its answer.
const PATIENCE: Duration = Duration::from_secs(1);
/// Between two attempts to listen where somebody else does: the guard of a process that has ended.
const BETWEEN_BINDS: Duration = Duration::from_millis(200);
const NEUTRAL_PERCENT: u32 = 100;

/// What is answered, until when.
#[derive(Clone, Copy, Debug)]
struct Standing {
    percent: u32,
    until_boot_ns: u64,
}

#[derive(Debug, Default)]
struct Shared {
    standing: Mutex<Option<Standing>>,
    listener: OnceLock<TcpListener>,
}

impl Shared {
    /// Looked up for each answer, so that a lease ends also where nobody ends it.
    fn percent(&self) -> u32 {
        let standing = self.standing.lock().unwrap_or_else(PoisonError::into_inner);
        match *standing {
            Some(standing) if clock::boot_ns() < standing.until_boot_ns => standing.percent,
            _ => NEUTRAL_PERCENT,
        }
    }

    fn set(&self, standing: Option<Standing>) {
        *self.standing.lock().unwrap_or_else(PoisonError::into_inner) = standing;
    }
}

/// The actuator. It answers neutral from its beginning to its end, unless told otherwise.
#[derive(Debug)]
pub struct Agent {
    settings: HaproxyAgent,
    serves: Serves,
    guarded: Guarded,
    shared: Arc<Shared>,
    answering: JoinHandle<()>,
}

impl Drop for Agent {
    fn drop(&mut self) {
        self.answering.abort();
    }
}

impl Agent {
    /// To be called within a runtime. Where somebody else listens, it listens as soon as it can.
    pub fn open(settings: HaproxyAgent, name: &str, serves: Serves, guard: &Guard) -> Self {
        let shared = Arc::new(Shared::default());
        let (listen, own) = (settings.listen, Arc::clone(&shared));
        let answering = tokio::spawn(async move {
            let listener = listen_as_soon_as_possible(listen).await;
            let listener = own.listener.get_or_init(|| listener);
            answer(listener, || own.percent()).await;
        });
        Self {
            settings,
            serves,
            guarded: guard.of_gate(name),
            shared,
            answering,
        }
    }

    fn plan(&self) -> Plan {
        Plan::HaproxyAgent(Linger {
            for_ms: self.settings.linger_s * 1000,
        })
    }

    async fn listener(&self) -> Result<OwnedFd> {
        let end = Instant::now() + PATIENCE;
        loop {
            if let Some(listener) = self.shared.listener.get() {
                return Ok(listener.as_fd().try_clone_to_owned()?);
            }
            if Instant::now() > end {
                let at = self.settings.listen;
                bail!(
                    "cannot listen at {at}: another process does, or the address is none of this \
                     host's (`ss -tlnp` says who listens)"
                );
            }
            sleep(Duration::from_millis(10)).await;
        }
    }
}

impl Actuator for Agent {
    fn name(&self) -> &str {
        self.guarded.gate()
    }

    async fn acquire(&mut self, position: &Position, lease: Lease) -> Result<()> {
        let weight_permille = self.serves.weight_permille(position);
        let percent = percent(weight_permille, self.settings.all_or_nothing);
        let listener = self.listener().await?;
        if percent == NEUTRAL_PERCENT {
            return self.release().await;
        }
        let plan = self.plan();
        let fd = Some(listener.as_fd());
        self.guarded.hold(lease, plan, fd).await?;
        self.shared.set(Some(Standing {
            percent,
            until_boot_ns: lease.until_boot_ns,
        }));
        let confirmed = self.guarded.confirm().await;
        if confirmed.is_err() {
            self.shared.set(None);
        }
        confirmed
    }

    async fn renew(&mut self, lease: Lease) -> Result<()> {
        let standing = *self
            .shared
            .standing
            .lock()
            .unwrap_or_else(PoisonError::into_inner);
        let Some(standing) = standing else {
            return Ok(());
        };
        let listener = self.listener().await?;
        let plan = self.plan();
        let renewed = self
            .guarded
            .renew(lease, plan, Some(listener.as_fd()))
            .await;
        match &renewed {
            Ok(()) => self.shared.set(Some(Standing {
                until_boot_ns: lease.until_boot_ns,
                ..standing
            })),
            Err(err) if err.is::<Over>() => self.shared.set(None),
            Err(_) => {}
        }
        renewed
    }

    async fn release(&mut self) -> Result<()> {
        self.shared.set(None);
        // It answers beside this process for a while, and after its end.
        self.guarded.restore().await
    }
}

async fn listen_as_soon_as_possible(at: SocketAddr) -> TcpListener {
    let mut is_told = false;
    loop {
        match TcpListener::bind(at).await {
            Ok(listener) => return listener,
            Err(err) if !is_told => {
                tracing::warn!("cannot listen at {at} for HAProxy's agent checks yet: {err}");
                is_told = true;
            }
            Err(_) => {}
        }
        sleep(BETWEEN_BINDS).await;
    }
}

/// Answers each check, until it is dropped.
async fn answer(listener: &TcpListener, percent: impl Fn() -> u32) {
    let places = Arc::new(Semaphore::new(CONNECTIONS));
    loop {
        let Ok((stream, _)) = listener.accept().await else {
            // No descriptors left, most likely: others have to go first.
            sleep(Duration::from_millis(100)).await;
            continue;
        };
        let Ok(place) = Arc::clone(&places).try_acquire_owned() else {
            continue;
        };
        let line = format!("up {}%\n", percent());
        tokio::spawn(async move {
            // Who does not take it in time keeps what it has.
            let _ = tell(stream, &line).await;
            drop(place);
        });
    }
}

async fn tell(mut stream: TcpStream, line: &str) -> std::io::Result<()> {
    let end = Instant::now() + PATIENCE;
    timeout_at(end, stream.write_all(line.as_bytes())).await??;
    timeout_at(end, stream.shutdown()).await??;
    // With `agent-send` it says something as well. Closed before that is read, the connection would be
    // reset, and the answer lost.
    let mut said = [0; 256];
    while timeout_at(end, stream.read(&mut said)).await?? > 0 {}
    Ok(())
}

/// What the guard does for an agent: it goes on answering, neutral, for a while.
#[derive(Clone, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub struct Linger {
    for_ms: u32,
}

impl Linger {
    pub(in crate::steer::actuators) async fn answer(&self, fd: Option<OwnedFd>) -> Result<()> {
        let fd = fd.context("the plan came without a listening socket")?;
        let listener = std::net::TcpListener::from(fd);
        listener.set_nonblocking(true)?;
        let listener = TcpListener::from_std(listener)?;
        let end = Instant::now() + Duration::from_millis(self.for_ms.into());
        // That time is up is how it ends.
        let _ = timeout_at(end, answer(&listener, || NEUTRAL_PERCENT)).await;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What a check hears that says something itself, as `agent-send` does.
    async fn asked(at: SocketAddr) -> String {
        let mut stream = TcpStream::connect(at).await.unwrap();
        stream.write_all(b"live/e1\n").await.unwrap();
        let mut said = String::new();
        stream.read_to_string(&mut said).await.unwrap();
        said
    }

    fn weight(permille: u16) -> Position {
        Position {
            generation: 1,
            decision: "d1".to_owned(),
            settings: vec![crate::steer::Setting {
                scope: crate::steer::Scope::Host,
                weight_permille: permille,
                cap_bps: None,
            }],
        }
    }

    fn settings(listen: SocketAddr) -> HaproxyAgent {
        HaproxyAgent {
            listen,
            linger_s: 1,
            all_or_nothing: false,
        }
    }

    async fn free_address() -> SocketAddr {
        let free = TcpListener::bind("127.0.0.1:0").await.unwrap();
        free.local_addr().unwrap()
    }

    fn lease(ms: u64) -> Lease {
        Lease {
            until_boot_ns: clock::boot_ns() + ms * 1_000_000,
        }
    }

    #[tokio::test]
    async fn only_the_weight_is_said_and_only_until_the_lease_ends() {
        let at = free_address().await;
        let guard = Guard::in_process();
        let mut agent = Agent::open(settings(at), "g", Serves::Host, &guard);
        agent.acquire(&weight(304), lease(60_000)).await.unwrap();
        assert_eq!(asked(at).await, "up 31%\n");
        agent.acquire(&weight(0), lease(60_000)).await.unwrap();
        assert_eq!(asked(at).await, "up 0%\n");
        agent.release().await.unwrap();
        assert_eq!(asked(at).await, "up 100%\n");

        agent.acquire(&weight(300), lease(60_000)).await.unwrap();
        assert_eq!(asked(at).await, "up 30%\n");
        let over = lease(50);
        agent.renew(over).await.unwrap();
        while clock::boot_ns() < over.until_boot_ns {
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(asked(at).await, "up 100%\n");
    }

    #[tokio::test]
    async fn it_listens_as_soon_as_another_process_lets_it() {
        let other = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let at = other.local_addr().unwrap();
        let mut agent = Agent::open(settings(at), "g", Serves::Host, &Guard::in_process());
        let refused = agent.acquire(&weight(300), lease(60_000)).await;
        let refused = refused.unwrap_err().to_string();
        assert!(
            refused.starts_with(&format!("cannot listen at {at}")),
            "{refused}"
        );
        drop(other);
        while agent.acquire(&weight(300), lease(60_000)).await.is_err() {
            sleep(Duration::from_millis(5)).await;
        }
        assert_eq!(asked(at).await, "up 30%\n");
    }
}
