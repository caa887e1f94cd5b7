//! What the gate can be asked, and the way to it: orders, consent, rehearsals, how it stands, and
//! what the centre says of the pool.

use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use weir_proto::v1;

use crate::steer::forecast::Forecast;
use crate::steer::overrides::roles::Reach;
use crate::steer::overrides::{Auth, Held, Order, Refusal};
use crate::steer::policy::input::Pool;

/// Questions that wait for the gate; who comes when there is no more room is told so.
pub const WAITING: usize = 64;
/// Whoever asks how it stands waits no longer.
const PATIENCE: Duration = Duration::from_secs(2);

/// Why nothing came of an order.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Denial {
    /// Who asks may not.
    #[error("{0}")]
    Unauthorised(String),
    /// It says nothing that can be done, or comes at the wrong time.
    #[error("{0}")]
    Refused(String),
    /// The book of orders does not take it.
    #[error("{0}")]
    Book(Refusal),
    /// It could not be written down, so nothing was done.
    #[error("{0}")]
    Unwritten(String),
    #[error("the gate has more to answer than it can; try again")]
    Busy,
    #[error("this daemon has no gate")]
    NoGate,
}

/// What came of an order.
#[derive(Clone, Debug, PartialEq)]
pub struct Taken {
    pub id: String,
    /// Why it waits for a second person; none: it is in force.
    pub waits: Option<String>,
    /// What it ended.
    pub released: Vec<Held>,
    /// What the gates are told now.
    pub generation: u64,
}

/// What came of something that the centre wants.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Outcome {
    /// It is in force, now or since it was heard first.
    Done,
    Refused,
    /// It could not be written down.
    Failed,
    /// It does not follow what was heard here before.
    Elsewhere,
    /// Not now; it may be said again.
    Busy,
}

/// What the centre is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ToCentre {
    pub outcome: Outcome,
    /// Why it was not done.
    pub why: String,
    /// Of the latest order of that level, and its hash.
    pub generation: u64,
    pub hash: Option<String>,
}

/// What the gate can be asked.
#[derive(Debug)]
pub enum Ask {
    /// Takes an order whose author is who it says: the kernel or a certificate vouches for it.
    Order {
        order: Box<Order>,
        reach: Reach,
        reply: oneshot::Sender<Result<Taken, Denial>>,
    },
    /// What would come of it.
    Rehearse {
        order: Box<Order>,
        reach: Reach,
        ahead_s: u32,
        reply: oneshot::Sender<Result<Forecast, Denial>>,
    },
    /// A second person agrees.
    Approve {
        id: String,
        by: Auth,
        reply: oneshot::Sender<Result<Taken, Denial>>,
    },
    /// How it stands.
    Status(oneshot::Sender<v1::Steering>),
    /// The centre gives an order, for which a certificate vouches.
    Central {
        order: Box<Order>,
        reach: Reach,
        reply: oneshot::Sender<ToCentre>,
    },
    /// What the centre says of the pool, and what a balance between regions wants of this host: an
    /// order, for which its author must have the right here too. Answered if there is one.
    Pool {
        pool: Pool,
        region: Option<Box<Order>>,
        reply: oneshot::Sender<ToCentre>,
    },
    /// The centre has said something that is none of these, and why.
    Unusable { why: String },
    /// Somebody called who may not even look.
    Stranger { uid: u32 },
}

/// The way to the gate.
#[derive(Clone, Debug)]
pub struct Orders(mpsc::Sender<Ask>);

impl Orders {
    /// A way, and where it ends.
    pub fn new() -> (Self, mpsc::Receiver<Ask>) {
        let (to, asked) = mpsc::channel(WAITING);
        (Self(to), asked)
    }

    /// Gives an order. `reach` is farther than its scope where the centre gives it to many hosts.
    ///
    /// # Errors
    /// Nothing came of it.
    pub async fn submit(&self, order: Order, reach: Reach) -> Result<Taken, Denial> {
        let order = Box::new(order);
        self.ask(|reply| Ask::Order {
            order,
            reach,
            reply,
        })
        .await?
    }

    /// Plays it without giving it.
    ///
    /// # Errors
    /// It would be refused.
    pub async fn rehearse(
        &self,
        order: Order,
        reach: Reach,
        ahead_s: u32,
    ) -> Result<Forecast, Denial> {
        let order = Box::new(order);
        self.ask(|reply| Ask::Rehearse {
            order,
            reach,
            ahead_s,
            reply,
        })
        .await?
    }

    /// Agrees to an order that waits for a second person.
    ///
    /// # Errors
    /// It does not wait, or this one may not.
    pub async fn approve(&self, id: String, by: Auth) -> Result<Taken, Denial> {
        self.ask(|reply| Ask::Approve { id, by, reply }).await?
    }

    /// How it stands; none: it does not say so in time.
    pub async fn status(&self) -> Option<v1::Steering> {
        tokio::time::timeout(PATIENCE, self.ask(Ask::Status))
            .await
            .ok()?
            .ok()
    }

    /// Gives an order of the centre's.
    ///
    /// # Errors
    /// There was no room, or there is no gate.
    pub async fn central(&self, order: Order, reach: Reach) -> Result<ToCentre, Denial> {
        let order = Box::new(order);
        self.ask(|reply| Ask::Central {
            order,
            reach,
            reply,
        })
        .await
    }

    /// What the centre says of the pool. Said again when there is no room: the newest holds.
    ///
    /// # Errors
    /// There was no room, or there is no gate.
    pub async fn pool(&self, pool: Pool, region: Option<Order>) -> Result<ToCentre, Denial> {
        let region = region.map(Box::new);
        self.ask(|reply| Ask::Pool {
            pool,
            region,
            reply,
        })
        .await
    }

    /// The centre has said what cannot be used; whoever looks at the journal is to know.
    pub fn unusable(&self, why: String) {
        // With no room for it, it is in the log alone.
        let _ = self.0.try_send(Ask::Unusable { why });
    }

    /// A user has called who may not even look, whatever was wanted.
    pub fn stranger(&self, uid: u32) {
        // With no room for it, it is in the log alone.
        let _ = self.0.try_send(Ask::Stranger { uid });
    }

    async fn ask<T>(&self, ask: impl FnOnce(oneshot::Sender<T>) -> Ask) -> Result<T, Denial> {
        let (reply, answer) = oneshot::channel();
        self.0.try_send(ask(reply)).map_err(|err| match err {
            mpsc::error::TrySendError::Full(_) => Denial::Busy,
            mpsc::error::TrySendError::Closed(_) => Denial::NoGate,
        })?;
        answer.await.map_err(|_| Denial::NoGate)
    }
}
