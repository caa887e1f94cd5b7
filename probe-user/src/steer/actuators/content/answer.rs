//! What a player is answered: always a manifest that it can use. No answer of weir's is one that
//! ends steering in a player (hls.js: 410, 429; dash.js: 404, 410).

use std::net::IpAddr;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::sync::{PoisonError, RwLock};

use bytes::Bytes;
use http_body_util::Full;
use hyper::header::{self, HeaderName};
use hyper::{HeaderMap, Method, Request, Response, StatusCode};
use serde::Serialize;

use super::choice::choose;
use super::held::{Held, Weight};
use super::manifest;
use super::request::{Asked, client};
use super::settings::ContentGate;
use crate::steer::actuators::clock::boot_ns;

const METHODS: &str = "GET, HEAD, OPTIONS";
/// How long a browser need not ask again whether it may ask.
const PREFLIGHT_S: &str = "600";

/// Everything that an answer is made of.
#[derive(Debug)]
pub(super) struct Steered {
    pub(super) settings: ContentGate,
    pub(super) held: RwLock<Held>,
    counters: Counters,
}

/// Cumulative, since the gate was started.
#[derive(Debug, Default)]
pub(super) struct Counters {
    told_here: AtomicU64,
    told_elsewhere: AtomicU64,
    lapsed: AtomicU64,
    newcomers: AtomicU64,
    pub(super) slow: AtomicU64,
    pub(super) turned_off: AtomicU64,
    pub(super) not_accepted: AtomicU64,
}

/// What a gate has answered since it was started.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize)]
pub struct Counts {
    /// Answers with this host first.
    pub told_here: u64,
    /// Answers with another first.
    pub told_elsewhere: u64,
    /// Of both, those that were neutral because a lease had ended that nobody renewed.
    pub lapsed: u64,
    /// Of both, those to players that were not told before who they are.
    pub newcomers: u64,
    /// Connections that were closed because their first request did not come to an end.
    pub slow: u64,
    /// Connections that were closed unheard because there were too many.
    pub turned_off: u64,
    /// Connections that could not be accepted: mostly for want of descriptors.
    pub not_accepted: u64,
}

impl Steered {
    pub(super) fn new(settings: ContentGate, held: Held) -> Self {
        Self {
            settings,
            held: RwLock::new(held),
            counters: Counters::default(),
        }
    }

    pub(super) fn counters(&self) -> &Counters {
        &self.counters
    }

    pub(super) fn counts(&self) -> Counts {
        let Counters {
            told_here,
            told_elsewhere,
            lapsed,
            newcomers,
            slow,
            turned_off,
            not_accepted,
        } = &self.counters;
        Counts {
            told_here: told_here.load(Relaxed),
            told_elsewhere: told_elsewhere.load(Relaxed),
            lapsed: lapsed.load(Relaxed),
            newcomers: newcomers.load(Relaxed),
            slow: slow.load(Relaxed),
            turned_off: turned_off.load(Relaxed),
            not_accepted: not_accepted.load(Relaxed),
        }
    }

    /// Answers a request of `peer`, whatever its path: the proxy in front knows which are for weir.
    pub(super) fn answer<B>(&self, request: &Request<B>, peer: IpAddr) -> Response<Full<Bytes>> {
        match *request.method() {
            Method::GET | Method::HEAD => {
                let query = request.uri().query().unwrap_or_default();
                let json = self.manifest(query, request.headers(), peer);
                let fields = [
                    (header::CONTENT_TYPE, "application/json"),
                    // It is this player's, and of this moment.
                    (header::CACHE_CONTROL, "no-store"),
                ];
                response(StatusCode::OK, &fields, json.into())
            }
            Method::OPTIONS => {
                let fields = [
                    (header::ACCESS_CONTROL_ALLOW_METHODS, METHODS),
                    (header::ACCESS_CONTROL_ALLOW_HEADERS, "*"),
                    (header::ACCESS_CONTROL_MAX_AGE, PREFLIGHT_S),
                ];
                response(StatusCode::NO_CONTENT, &fields, Bytes::new())
            }
            _ => {
                let fields = [(header::ALLOW, METHODS)];
                response(StatusCode::METHOD_NOT_ALLOWED, &fields, Bytes::new())
            }
        }
    }

    fn manifest(&self, query: &str, headers: &HeaderMap, peer: IpAddr) -> Vec<u8> {
        let asked = Asked::read(query);
        if asked.token.is_none() {
            self.counters.newcomers.fetch_add(1, Relaxed);
        }
        let token = asked.token.unwrap_or_else(|| fastrand::u64(..));
        let client = client(peer, headers, &self.settings.proxies);
        let Weight {
            permille,
            is_lapsed,
        } = {
            let held = self.held.read().unwrap_or_else(PoisonError::into_inner);
            held.weight(client, boot_ns())
        };
        if is_lapsed {
            self.counters.lapsed.fetch_add(1, Relaxed);
        }
        let choice = choose(&self.settings, token, permille);
        let told = if choice.stays {
            &self.counters.told_here
        } else {
            &self.counters.told_elsewhere
        };
        told.fetch_add(1, Relaxed);
        let ttl_s = manifest::jittered(self.settings.ttl_s);
        manifest::write(&self.settings, &choice, &asked.reload_uri(token), ttl_s)
    }
}

fn response(
    status: StatusCode,
    fields: &[(HeaderName, &'static str)],
    body: Bytes,
) -> Response<Full<Bytes>> {
    let mut response = Response::new(Full::new(body));
    *response.status_mut() = status;
    let headers = response.headers_mut();
    for (name, value) in fields {
        headers.insert(name, header::HeaderValue::from_static(value));
    }
    // Playlists and this may come from different hosts.
    let any = header::HeaderValue::from_static("*");
    headers.insert(header::ACCESS_CONTROL_ALLOW_ORIGIN, any);
    response
}
