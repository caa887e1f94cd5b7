//! What collectors say to each other, over NATS' own subjects: short, at once, and kept by nobody.
//!
//! `PREFIX.alive` is heard by all, `PREFIX.to.ID` by one. What is asked names a subject for its answer,
//! and answers come in pieces that the server takes; where nobody listens, the server says so at once.

use std::collections::hash_map::Entry;
use std::collections::{HashMap, VecDeque};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use async_nats::{Client, Message, StatusCode};
use bytes::Bytes;
use prost::Message as _;
use tokio::sync::{mpsc, oneshot};
use weir_proto::v1;
use weir_proto::v1::ask::What;
use weir_proto::v1::word;
use zstd::bulk::{Compressor, Decompressor};

/// Who is asked has so long to answer.
const PATIENCE: Duration = Duration::from_secs(2);
/// What an answer may unpack to: ten thousand hosts take some ten megabytes.
const MAX_ANSWER_BYTES: usize = 256 << 20;
/// Pieces of an answer.
const MAX_PIECES: u32 = 4096;
/// A piece is no larger, and no more than half of what the server takes.
const PIECE_BYTES: usize = 256 << 10;
/// Words on their way out; of more, what was said to who asked elsewhere is lost, and counted.
const WAITING: usize = 1024;
/// Of what hosts said elsewhere, so much may have come by half.
const MAX_PARCELS: usize = 64;
const LEVEL: i32 = 1;

/// Why somebody does not answer.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(in crate::collect) enum Error {
    /// The server says that nobody listens there.
    #[error("it is gone")]
    Gone,
    /// Nothing came.
    #[error("it has not answered within {PATIENCE:?}")]
    Silent,
    /// There is no way to it.
    #[error("the NATS server cannot be reached")]
    Unreachable,
    /// What came is no answer.
    #[error("its answer cannot be read: {0}")]
    Unreadable(String),
}

/// A word on its way out.
#[derive(Debug)]
struct Out {
    subject: String,
    reply: Option<String>,
    payload: Bytes,
}

/// What comes in pieces, of which some have come.
#[derive(Debug, Default)]
struct Pieces(Vec<Option<Bytes>>);

impl Pieces {
    /// Adds one. Says whether that was the last that was missing.
    fn add(&mut self, told: v1::Told) -> bool {
        if told.pieces == 0 || told.pieces > MAX_PIECES || told.piece >= told.pieces {
            return false;
        }
        self.0.resize(told.pieces as usize, None);
        self.0[told.piece as usize] = Some(told.bytes);
        self.0.iter().all(Option::is_some)
    }

    fn unpack<T: prost::Message + Default>(self) -> Result<T, Error> {
        let unreadable = |err: &dyn std::fmt::Display| Error::Unreadable(err.to_string());
        let packed: Vec<u8> = self.0.into_iter().flatten().flatten().collect();
        // The length stands in it; it is not believed beyond the bound.
        let bytes = Decompressor::upper_bound(&packed).unwrap_or(0);
        let bytes = bytes.min(MAX_ANSWER_BYTES);
        let mut unpacker = Decompressor::new().map_err(|err| unreadable(&err))?;
        let bytes = unpacker.decompress(&packed, bytes);
        let bytes = bytes.map_err(|err| unreadable(&err))?;
        T::decode(Bytes::from(bytes)).map_err(|err| unreadable(&err))
    }
}

/// A question whose answer has not come, or not all of it.
#[derive(Debug)]
struct Pending {
    of: String,
    pieces: Pieces,
    done: oneshot::Sender<Result<v1::Answer, Error>>,
}

/// What hosts said elsewhere and has come by half; by whose it is, the oldest first.
type Parcels = VecDeque<((String, u64), Pieces)>;

#[derive(Debug)]
struct Inner {
    client: Client,
    prefix: String,
    own: String,
    out: mpsc::Sender<Out>,
    pending: Mutex<HashMap<u64, Pending>>,
    parcels: Mutex<Parcels>,
    asks: AtomicU64,
}

/// Says and asks; clones are the same.
#[derive(Clone, Debug)]
pub(in crate::collect) struct Words {
    inner: Arc<Inner>,
}

/// What has come.
#[derive(Debug)]
pub(super) enum Heard {
    /// Somebody asks; the answer goes there.
    Ask {
        from: String,
        ask: Box<v1::Ask>,
        reply: String,
    },
    /// A host has said something to who asked here.
    Said(Box<v1::Said>),
    /// This collector is gone.
    Gone(String),
}

impl Words {
    /// Of the process `own`. What is returned beside it must be run for as long as there is somebody to
    /// speak.
    pub(in crate::collect) fn new(
        client: Client,
        prefix: &str,
        own: &str,
    ) -> (Self, impl Future<Output = ()> + use<>) {
        let (out, mut from) = mpsc::channel::<Out>(WAITING);
        let words = Self {
            inner: Arc::new(Inner {
                client: client.clone(),
                prefix: prefix.to_owned(),
                own: own.to_owned(),
                out,
                pending: Mutex::default(),
                parcels: Mutex::default(),
                asks: AtomicU64::new(0),
            }),
        };
        let send = async move {
            while let Some(out) = from.recv().await {
                let sent = match out.reply {
                    Some(reply) => {
                        client
                            .publish_with_reply(out.subject, reply, out.payload)
                            .await
                    }
                    None => client.publish(out.subject, out.payload).await,
                };
                if let Err(err) = sent {
                    tracing::debug!("a word to another collector was not sent: {err}");
                }
            }
        };
        (words, send)
    }

    /// The subject by which one is spoken to.
    fn to(&self, id: &str) -> String {
        format!("{}.to.{id}", self.inner.prefix)
    }

    /// What this one hears.
    pub(super) fn own_subjects(&self) -> [String; 3] {
        let own = self.to(&self.inner.own);
        let all = format!("{own}.>");
        [format!("{}.alive", self.inner.prefix), own, all]
    }

    fn pending(&self) -> MutexGuard<'_, HashMap<u64, Pending>> {
        let pending = &self.inner.pending;
        pending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn word(&self, word: word::Word) -> Bytes {
        let from = self.inner.own.clone();
        let word = Some(word);
        v1::Word { from, word }.encode_to_vec().into()
    }

    /// Says to all that this one lives.
    pub(super) fn announce(&self, alive: &v1::Alive) {
        let out = Out {
            subject: format!("{}.alive", self.inner.prefix),
            reply: None,
            payload: alive.encode_to_vec().into(),
        };
        let _ = self.inner.out.try_send(out);
    }

    /// Asks the server whether another is there; if not, that is heard.
    pub(super) fn ping(&self, id: &str) {
        let reply = format!("{}.ping-{id}", self.to(&self.inner.own));
        let out = Out {
            subject: self.to(id),
            reply: Some(reply),
            payload: self.word(word::Word::Ping(true)),
        };
        let _ = self.inner.out.try_send(out);
    }

    /// Passes on what a host said to who asked at another collector. False: there was no room.
    pub(in crate::collect) fn said(&self, to: &str, said: &v1::Said) -> bool {
        let id = self.inner.asks.fetch_add(1, Ordering::Relaxed) + 1;
        let mut outs = self.pieces(&self.to(to), id, true, said).into_iter();
        outs.len() > 0 && outs.all(|out| self.inner.out.try_send(out).is_ok())
    }

    /// What is said in pieces that the server takes; none, if it takes too many.
    fn pieces(
        &self,
        subject: &str,
        id: u64,
        is_said: bool,
        what: &impl prost::Message,
    ) -> Vec<Out> {
        let bytes = what.encode_to_vec();
        let packed = Compressor::new(LEVEL).and_then(|mut packer| packer.compress(&bytes));
        let packed = Bytes::from(packed.unwrap_or_default());
        let most = (self.inner.client.max_payload() / 2).clamp(256, PIECE_BYTES);
        let pieces = u32::try_from(packed.len().div_ceil(most)).unwrap_or(u32::MAX);
        if pieces > MAX_PIECES {
            tracing::warn!("{} bytes are too much for the NATS server", packed.len());
            return Vec::new();
        }
        (0..pieces)
            .map(|piece| {
                let from = piece as usize * most;
                let told = v1::Told {
                    id,
                    piece,
                    pieces,
                    bytes: packed.slice(from..packed.len().min(from + most)),
                    is_said,
                };
                Out {
                    subject: subject.to_owned(),
                    reply: None,
                    payload: self.word(word::Word::Told(told)),
                }
            })
            .collect()
    }

    /// Asks another.
    pub(in crate::collect) async fn ask(
        &self,
        of: &str,
        partitions: Vec<u32>,
        what: What,
    ) -> Result<v1::Answer, Error> {
        let id = self.inner.asks.fetch_add(1, Ordering::Relaxed) + 1;
        let (done, answer) = oneshot::channel();
        let pending = Pending {
            of: of.to_owned(),
            pieces: Pieces::default(),
            done,
        };
        self.pending().insert(id, pending);
        let ask = v1::Ask {
            id,
            partitions,
            what: Some(what),
        };
        let out = Out {
            subject: self.to(of),
            reply: Some(format!("{}.{id}", self.to(&self.inner.own))),
            payload: self.word(word::Word::Ask(ask)),
        };
        let asked = async {
            let sent = self.inner.out.send(out).await;
            sent.map_err(|_| Error::Unreachable)?;
            answer.await.unwrap_or(Err(Error::Silent))
        };
        let answered = tokio::time::timeout(PATIENCE, asked).await;
        self.pending().remove(&id);
        answered.unwrap_or(Err(Error::Silent))
    }

    /// Answers one that asked.
    pub(super) async fn answer(&self, reply: &str, id: u64, answer: &v1::Answer) {
        for out in self.pieces(reply, id, false, answer) {
            if self.inner.out.send(out).await.is_err() {
                return;
            }
        }
    }

    /// Takes a message of one of this one's own subjects.
    pub(super) fn hear(&self, message: &Message) -> Option<Heard> {
        if message.status == Some(StatusCode::NO_RESPONDERS) {
            return self.gone(&message.subject);
        }
        let word = match v1::Word::decode(message.payload.clone()) {
            Ok(word) => word,
            Err(err) => {
                tracing::debug!(subject = %message.subject, "not a collector's word: {err}");
                return None;
            }
        };
        match word.word? {
            word::Word::Ask(ask) => Some(Heard::Ask {
                from: word.from,
                ask: Box::new(ask),
                reply: message.reply.as_ref()?.to_string(),
            }),
            word::Word::Told(told) if told.is_said => {
                let said = self.take_said(word.from, told);
                said.map(|said| Heard::Said(Box::new(said)))
            }
            word::Word::Told(told) => {
                self.take(told);
                None
            }
            word::Word::Ping(_) => None,
        }
    }

    /// Nobody listens where something was said that this subject belongs to.
    fn gone(&self, subject: &str) -> Option<Heard> {
        let (_, what) = subject.rsplit_once('.')?;
        if let Some(id) = what.strip_prefix("ping-") {
            return Some(Heard::Gone(id.to_owned()));
        }
        let pending = self.pending().remove(&what.parse().ok()?)?;
        let _ = pending.done.send(Err(Error::Gone));
        Some(Heard::Gone(pending.of))
    }

    /// A piece of an answer.
    fn take(&self, told: v1::Told) {
        let mut all = self.pending();
        let Entry::Occupied(mut entry) = all.entry(told.id) else {
            // It came too late.
            return;
        };
        if entry.get_mut().pieces.add(told) {
            let pending = entry.remove();
            drop(all);
            let _ = pending.done.send(pending.pieces.unpack());
        }
    }

    /// A piece of what a host said elsewhere; gives the whole, if it is that.
    fn take_said(&self, from: String, told: v1::Told) -> Option<v1::Said> {
        let parcels = &self.inner.parcels;
        let mut parcels = parcels.lock().unwrap_or_else(PoisonError::into_inner);
        let key = (from, told.id);
        let known = parcels.iter().position(|(known, _)| *known == key);
        let at = known.unwrap_or_else(|| {
            if parcels.len() >= MAX_PARCELS {
                // The rest of it is lost.
                parcels.pop_front();
            }
            parcels.push_back((key, Pieces::default()));
            parcels.len() - 1
        });
        if !parcels[at].1.add(told) {
            return None;
        }
        let (_, pieces) = parcels.remove(at)?;
        drop(parcels);
        let said = pieces.unpack();
        said.inspect_err(|err| tracing::debug!("what was said elsewhere: {err}"))
            .ok()
    }
}
