//! One viewer's playback buffer, played virtually from what the server delivered.
//!
//! Pure and lazy: between two events the buffer drains on its own, so that nothing is computed until
//! something is told or [`Viewer::wake_ns`] has come. What is told may be of the past. Sessions,
//! joining and counting in cells are the fold's.

pub mod input;
pub mod output;
pub mod thresholds;

pub use input::{
    Claim, Class, End, Finished, Labelled, Media, Object, RequestId, SessionOver, Tier, UnderWay,
};
pub use output::{Bounded, Cause, Change, Ending, Phase, Sums, View};
pub use thresholds::Thresholds;

/// One playback and what is known of its buffer.
#[derive(Clone, Debug)]
pub struct Viewer {}

#[allow(unused_variables)]
impl Viewer {
    /// A viewer whose first request, of whatever class, came at `t_request_ns`.
    pub fn new(t_request_ns: u64) -> Self {
        todo!()
    }

    /// A request is being answered.
    pub fn under_way(
        &mut self,
        told: &UnderWay,
        now_ns: u64,
        with: &Thresholds,
        out: &mut Vec<Change>,
    ) {
        todo!()
    }

    /// A label came.
    pub fn labelled(
        &mut self,
        told: &Labelled,
        now_ns: u64,
        with: &Thresholds,
        out: &mut Vec<Change>,
    ) {
        todo!()
    }

    /// A delivery is over.
    pub fn finished(
        &mut self,
        told: &Finished,
        now_ns: u64,
        with: &Thresholds,
        out: &mut Vec<Change>,
    ) {
        todo!()
    }

    /// A session is over.
    pub fn session_over(
        &mut self,
        told: &SessionOver,
        now_ns: u64,
        with: &Thresholds,
        out: &mut Vec<Change>,
    ) {
        todo!()
    }

    /// Lets time pass.
    pub fn advance(&mut self, now_ns: u64, with: &Thresholds, out: &mut Vec<Change>) {
        todo!()
    }

    /// When to call [`Self::advance`] next; `u64::MAX`: not before something is told.
    pub fn wake_ns(&self) -> u64 {
        todo!()
    }

    /// What is final. The same at any time until something is told or time passes.
    pub fn sums(&self) -> Sums {
        todo!()
    }

    /// What it is doing now.
    pub fn view(&self, now_ns: u64, with: &Thresholds) -> View {
        todo!()
    }

    /// Ends it from outside; what is not final becomes so.
    pub fn end(&mut self, now_ns: u64, how: Ending, with: &Thresholds, out: &mut Vec<Change>) {
        todo!()
    }

    /// Whether the viewing is over; it says nothing more then.
    pub fn is_ended(&self) -> bool {
        todo!()
    }
}
