//! What is on its way in, before it is a message: how much memory it may take, and how long.
//!
//! A gRPC message says at its beginning how long it is, and what has come of it is held until it is
//! whole. Who begins many and ends none would hold as much as he likes, for as long as he likes. So
//! a large message waits until there is room for it, in its guest's share and in that of all; small
//! ones, as hot lanes have them, never wait.

use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, ready};
use std::time::Duration;

use http_body::{Frame, SizeHint};
use tokio::sync::OwnedSemaphorePermit;
use tokio::time::{Sleep, sleep};
use tokio_util::sync::PollSemaphore;
use tonic::Status;
use tonic::body::Body;
use tonic::codegen::{Bytes, http};

use super::MAX_MESSAGE_BYTES;
use super::door::Guest;
use super::refusals::{Reason, Refusals};
use super::shares::{Shares, UNIT_BYTES};

/// Up to so many bytes a message waits for no room.
const SMALL_BYTES: usize = 16 << 10;
/// A message that was begun is finished within this time, and that which its length takes.
const TIMEOUT: Duration = Duration::from_secs(20);
/// At this rate.
const LEAST_BYTES_PER_S: usize = 64 << 10;
/// A flag, and the length (`Length-Prefixed-Message` of gRPC over HTTP/2).
const HEAD_BYTES: usize = 5;

/// How long the messages of a call may be; known better once it is known whose they are.
#[derive(Clone, Debug)]
pub(super) struct Most(Arc<AtomicUsize>);

impl Most {
    pub(super) fn set(&self, bytes: usize) {
        self.0.store(bytes, Ordering::Relaxed);
    }
}

/// Puts a request's messages under their bounds.
pub(super) fn bounded(
    request: http::Request<Body>,
    shares: &Shares,
    refusals: &Arc<Refusals>,
) -> http::Request<Body> {
    let Some(guest) = request.extensions().get::<Guest>().cloned() else {
        return request;
    };
    let most = Most(Arc::new(AtomicUsize::new(MAX_MESSAGE_BYTES)));
    let (mut parts, inner) = request.into_parts();
    parts.extensions.insert(most.clone());
    let bounded = Bounded {
        inner,
        own: PollSemaphore::new(Arc::clone(&guest.share.units)),
        all: PollSemaphore::new(Arc::clone(&shares.units)),
        guest,
        refusals: Arc::clone(refusals),
        most,
        at: At::default(),
        refused: None,
        chunk: None,
        wanted: None,
        own_permit: None,
        all_permit: None,
        deadline: None,
    };
    http::Request::from_parts(parts, Body::new(bounded))
}

/// Where in the stream of messages it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct At {
    /// Bytes that came of the message's head, and the length that they tell.
    head: usize,
    length: usize,
    /// Bytes that are missing of the message.
    missing: usize,
}

impl At {
    /// Goes on by a chunk. Says the length of the message that it ends within, if that has begun in
    /// it; fails with one that is longer than `most`.
    fn pass(&mut self, mut chunk: &[u8], most: usize) -> Result<Option<usize>, usize> {
        let mut begun = None;
        while !chunk.is_empty() {
            if self.missing > 0 {
                let some = self.missing.min(chunk.len());
                self.missing -= some;
                chunk = &chunk[some..];
                if self.missing == 0 {
                    begun = None;
                }
                continue;
            }
            let byte = chunk[0];
            chunk = &chunk[1..];
            if self.head > 0 {
                self.length = self.length << 8 | usize::from(byte);
            }
            self.head += 1;
            if self.head == HEAD_BYTES {
                if self.length > most {
                    return Err(self.length);
                }
                self.missing = self.length;
                begun = (self.length > 0).then_some(self.length);
                self.head = 0;
                self.length = 0;
            }
        }
        Ok(begun)
    }

    fn is_within(self) -> bool {
        self.missing > 0 || self.head > 0
    }
}

/// A body whose messages are bounded.
struct Bounded {
    inner: Body,
    guest: Guest,
    refusals: Arc<Refusals>,
    most: Most,
    at: At,
    /// It ends with this.
    refused: Option<Status>,
    /// Waits for room.
    chunk: Option<Bytes>,
    /// Units that it needs.
    wanted: Option<u32>,
    own: PollSemaphore,
    all: PollSemaphore,
    own_permit: Option<OwnedSemaphorePermit>,
    all_permit: Option<OwnedSemaphorePermit>,
    /// Of the message that was begun.
    deadline: Option<Pin<Box<Sleep>>>,
}

impl Bounded {
    fn release(&mut self) {
        self.own_permit = None;
        self.all_permit = None;
        self.deadline = None;
    }

    /// Takes note of what has come.
    fn take(&mut self, chunk: Bytes) {
        let most = self.most.0.load(Ordering::Relaxed);
        let begun = self.at.pass(&chunk, most).unwrap_or_else(|length| {
            // What came before it, e.g. a hello, is passed on.
            let why = format!("a message of {length} bytes is longer than {most} bytes");
            self.refused = Some(Status::out_of_range(why));
            None
        });
        if let Some(length) = begun {
            self.release();
            if length > SMALL_BYTES {
                self.wanted = u32::try_from(length.div_ceil(UNIT_BYTES)).ok();
            }
        }
        // Of the next message, the head has begun.
        if (1..=chunk.len()).contains(&self.at.head) {
            self.release();
        }
        self.chunk = Some(chunk);
    }

    /// Waits for room. What is held in the own share while others' room is waited for is held by
    /// nobody else.
    fn poll_room(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        let Some(units) = self.wanted else {
            return Poll::Ready(());
        };
        if self.own_permit.is_none() {
            self.own_permit = ready!(self.own.poll_acquire_many(cx, units));
        }
        self.all_permit = ready!(self.all.poll_acquire_many(cx, units));
        self.wanted = None;
        Poll::Ready(())
    }

    /// From when there is room: who waits for it is not late.
    fn begin_deadline(&mut self) {
        if self.at.is_within() && self.deadline.is_none() {
            let seconds = (self.at.missing / LEAST_BYTES_PER_S) as u64;
            let time = TIMEOUT + Duration::from_secs(seconds);
            self.deadline = Some(Box::pin(sleep(time)));
        }
    }

    fn late(&mut self, cx: &mut Context<'_>) -> Option<Status> {
        let deadline = self.deadline.as_mut()?;
        if deadline.as_mut().poll(cx).is_pending() {
            return None;
        }
        self.release();
        let missing = self.at.missing;
        let why = format!("a message was begun and not finished in time; {missing} bytes lack");
        self.refusals
            .count(Reason::Silent, &self.guest.address, &why);
        Some(Status::deadline_exceeded(why))
    }
}

impl http_body::Body for Bounded {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        let this = self.get_mut();
        loop {
            if this.chunk.is_some() {
                ready!(this.poll_room(cx));
                this.begin_deadline();
                let chunk = this.chunk.take().unwrap_or_default();
                return Poll::Ready(Some(Ok(Frame::data(chunk))));
            }
            if let Some(status) = this.refused.take() {
                return Poll::Ready(Some(Err(status)));
            }
            if !this.at.is_within() {
                // What was whole has been taken over.
                this.release();
            }
            let Poll::Ready(came) = Pin::new(&mut this.inner).poll_frame(cx) else {
                return match this.late(cx) {
                    Some(status) => Poll::Ready(Some(Err(status))),
                    None => Poll::Pending,
                };
            };
            match came {
                Some(Ok(frame)) => match frame.into_data() {
                    Ok(chunk) => this.take(chunk),
                    Err(other) => return Poll::Ready(Some(Ok(other))),
                },
                Some(Err(status)) => return Poll::Ready(Some(Err(status))),
                None => return Poll::Ready(None),
            }
        }
    }

    fn is_end_stream(&self) -> bool {
        self.chunk.is_none() && self.inner.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.inner.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    proptest! {
        /// However a stream of messages is cut into pieces.
        #[test]
        fn it_is_known_within_which_message_a_stream_stands(
            lengths in proptest::collection::vec(0_usize..400, 1..20),
            pieces in proptest::collection::vec(1_usize..300, 1..100),
        ) {
            let mut stream = Vec::new();
            let mut ends = Vec::new();
            for length in &lengths {
                stream.push(0);
                stream.extend(u32::try_from(*length).unwrap().to_be_bytes());
                stream.extend(vec![7; *length]);
                ends.push(stream.len());
            }
            let mut at = At::default();
            let (mut from, mut pieces) = (0, pieces.into_iter().cycle());
            while from < stream.len() {
                let to = (from + pieces.next().unwrap()).min(stream.len());
                let begun = at.pass(&stream[from..to], 400).unwrap();
                prop_assert_eq!(at.is_within(), !ends.contains(&to));
                let place = ends.iter().filter(|end| **end <= to).count();
                let begin = if place == 0 { 0 } else { ends[place - 1] };
                let has_begun = at.missing > 0 && from < begin + HEAD_BYTES;
                prop_assert_eq!(begun, has_begun.then(|| lengths[place]));
                from = to;
            }
        }
    }

    #[test]
    fn one_that_is_longer_than_it_may_be_is_known_by_its_head() {
        let mut at = At::default();
        assert_eq!(at.pass(&[0, 0, 0, 4], 1024), Ok(None));
        assert_eq!(at.pass(&[1], 1024), Err(1025));
        assert_eq!(At::default().pass(&[0, 0, 0, 4, 0], 1024), Ok(Some(1024)));
    }
}
