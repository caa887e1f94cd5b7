//! What a viewer's model is told. Plain values, so that it depends on no room that makes them:
//! deliveries by their kernel times, objects and claims as labels give them.

/// What an object carries of the picture and the sound.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Media {
    /// Both, or nobody said.
    #[default]
    Muxed,
    /// Only the picture.
    Video,
    /// Only the sound.
    Audio,
}

/// What sort of object it is.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Class {
    /// A playlist or a DASH manifest: never fills the buffer.
    Manifest,
    /// An initialisation segment.
    Init,
    /// A media segment.
    #[default]
    Segment,
    /// A part of a segment (low-latency HLS, chunked DASH fetched part by part).
    Part,
    /// A key, an image, a font: nothing to a playback buffer.
    Other,
}

/// How much is known of who and what; the evidence tiers of `docs/metrics.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Tier {
    /// The kernel's numbers alone: what an object is was inferred.
    #[default]
    Kernel,
    /// Joined to the server's log or a tag.
    Joined,
    /// And the player declares its own state (CMCD).
    Declared,
}

/// Which request: a session and its number there.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct RequestId {
    /// Tells the sessions of one viewer apart.
    pub session: u32,
    /// Rises with each request of the session.
    pub number: u32,
}

/// An object, as a label or an inference has it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Object {
    /// What sort.
    pub class: Class,
    /// What it carries.
    pub media: Media,
    /// Media time in it; 0: not known, and then it cannot fill the buffer.
    pub duration_us: u32,
    /// Of the rendition; 0: not known.
    pub bitrate_bps: u64,
    /// Which rendition; 0: not known.
    pub rung: u32,
    /// Which segment of the rendition, rising by one; parts carry that of their segment.
    pub number: Option<u64>,
    /// The stream is live.
    pub is_live: bool,
    /// Only this range of its bytes was asked for.
    pub range: Option<Range>,
}

/// A range of bytes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Range {
    /// The first.
    pub first: u64,
    /// The last; `u64::MAX`: to the end.
    pub last: u64,
}

/// What the player said of itself with a request (CMCD); it holds at the time of the request.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Claim {
    /// Media ahead of the playhead, of the requested object's kind (`bl`).
    pub ahead_ms: Option<u32>,
    /// The buffer ran dry since the request before (`bs`).
    pub starved: bool,
    /// Playback has not begun, or waits for data (`su`); none where it was not said.
    pub starting: Option<bool>,
    /// Playback rate in percent (`pr`); none: 100.
    pub rate_percent: Option<u16>,
    /// Request to first frame, as the player measured it (`msd`).
    pub startup_ms: Option<u32>,
    /// The player says that it failed (`sta=f`).
    pub failed: bool,
}

/// A request that is being answered: from a progress or late record, or, with all but its first
/// three fields zero, from an earlier delivery's end that the request brought about.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct UnderWay {
    /// Which.
    pub id: RequestId,
    /// When it arrived.
    pub t_request_ns: u64,
    /// When this was so.
    pub t_ns: u64,
    /// The session asks for one thing at a time (HTTP/1.1): what it asked for before is over.
    pub is_sole: bool,
    /// Bytes of the answer acknowledged so far.
    pub acked_bytes: u64,
    /// Bytes of the answer written so far.
    pub written_bytes: u64,
    /// The answer's size, where it is known ahead (a tag); 0: not known.
    pub expected_bytes: u64,
    /// The kernel's latest delivery-rate sample, where the path limited it; 0: none.
    pub delivery_rate_bytes_per_s: u64,
    /// What is sent now is limited by the application.
    pub is_app_limited: bool,
    /// Smoothed round-trip time.
    pub srtt_us: u32,
}

/// A label was joined to a request, which may still be under way: its last byte was written, or
/// (`is_written` false) a tag announced it.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Labelled {
    /// Which.
    pub id: RequestId,
    /// When the request arrived.
    pub t_request_ns: u64,
    /// What it is.
    pub object: Object,
    /// The answer's status; 0: not known.
    pub status: u16,
    /// The server has written all of it.
    pub is_written: bool,
    /// The answer's size; 0: not known.
    pub expected_bytes: u64,
    /// What the player said.
    pub claim: Option<Claim>,
}

/// How a delivery ended.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum End {
    /// Every byte was acknowledged.
    #[default]
    Complete,
    /// The client cut it off, by FIN or RST.
    ClientAbort,
    /// The server, or the kernel's patience, cut it off.
    OtherAbort,
    /// Nothing was ever written.
    Unanswered,
}

/// A delivery is over, or is known to be complete before its record says so. Telling the same
/// `id` again is harmless.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Finished {
    /// Which.
    pub id: RequestId,
    /// When the request arrived.
    pub t_request_ns: u64,
    /// The server's first write; 0: none.
    pub t_first_write_ns: u64,
    /// Latest acknowledgement of new bytes; of the last byte, if complete. 0: none.
    pub t_last_acked_ns: u64,
    /// When it was over, at the latest: the record's time.
    pub t_ns: u64,
    /// Bytes acknowledged.
    pub acked_bytes: u64,
    /// Smoothed round-trip time.
    pub srtt_us: u32,
    /// Least round-trip time, of which the acknowledgement's way back is a share: queues stand on
    /// the way to the client. 0: not known, and the smoothed one is taken.
    pub min_rtt_us: u32,
    /// Retransmission timeouts hit it.
    pub had_timeouts: bool,
    /// How it ended.
    pub end: End,
    /// The answer's status; 0: not known.
    pub status: u16,
    /// What it was; none: nobody said and nothing could be inferred.
    pub object: Option<Object>,
    /// The object was inferred, not labelled.
    pub is_inferred: bool,
}

/// A session of the viewer is over.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct SessionOver {
    /// Which: [`RequestId::session`].
    pub session: u32,
    /// When.
    pub t_ns: u64,
    /// The client closed or reset it.
    pub by_client: bool,
    /// No other session of this viewer is open.
    pub is_last: bool,
}
