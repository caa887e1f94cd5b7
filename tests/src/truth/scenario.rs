//! One scenario: a server, a client's behaviour, a link; and its run in a lab of its own.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::ops::RangeInclusive;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context as _, Result, bail};

use super::witness::Protocol;
use crate::lab::client::{self, Abort, Connection, Curl, Seen};
use crate::lab::link::{Family, Lab};
use crate::lab::netns::join;
use crate::lab::nginx::Nginx;
use crate::lab::server::{BANNER, BlockingServer, Mode};
use crate::lab::shaper::Shape;

/// Port of the lab's own blocking server.
pub const BLOCKING: u16 = 9000;

/// Who answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Server {
    /// nginx, on one of its ports.
    Nginx(u16),
    /// The blocking server.
    Blocking(Mode),
}

/// What clients do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Traffic {
    /// Several requests on one connection, one after the other.
    KeepAlive,
    /// Several requests at once.
    Pipelined,
    /// One request, ended by the close, with (`/f/`) or without (`/s/`) a length.
    ToClose(&'static str),
    /// Broken off midway.
    Aborted(Abort),
    /// The client's FIN follows its request.
    HalfClosed,
    /// The server's greeting first.
    SpeaksFirst,
    /// curl, HTTP/1.1 in TLS.
    Tls,
    /// curl, HTTP/2, one request after the other.
    Http2,
    /// curl, HTTP/2, all at once.
    Http2Parallel,
}

/// A change of the link in the middle of the run.
#[derive(Clone, Copy, Debug)]
pub struct Cut {
    /// After the start.
    pub after: Duration,
    /// For so long.
    pub lasts: Duration,
    /// To this.
    pub shape: Shape,
}

/// Everything that makes a scenario.
#[derive(Clone, Debug)]
pub struct Scenario {
    /// E.g. `clear v4 keep-alive 1% 40ms cubic`.
    pub name: String,
    /// Who answers.
    pub server: Server,
    /// Over which protocol.
    pub family: Family,
    /// What clients do.
    pub traffic: Traffic,
    /// The link, both ways.
    pub shape: Shape,
    /// Its change.
    pub cut: Option<Cut>,
    /// The server's congestion control.
    pub congestion_control: &'static str,
    /// Connections in all.
    pub sessions: usize,
    /// Connections at the same time.
    pub concurrent: usize,
    /// Sizes asked for on each connection, in order.
    pub sizes: Vec<usize>,
    /// Of the losses.
    pub seed: u64,
}

impl Scenario {
    /// What its sessions speak.
    pub fn protocol(&self) -> Protocol {
        match self.traffic {
            Traffic::Tls => Protocol::Tls,
            Traffic::Http2 | Traffic::Http2Parallel => Protocol::Http2,
            _ => Protocol::Clear,
        }
    }

    /// Where clients connect to.
    pub fn address(&self) -> SocketAddr {
        let port = match self.server {
            Server::Nginx(port) => port,
            Server::Blocking(_) => BLOCKING,
        };
        SocketAddr::new(self.family.server(), port)
    }

    /// How many deliveries there can be, by what the clients ask for.
    pub fn expected(&self) -> RangeInclusive<usize> {
        let answers = self.sessions * self.sizes.len();
        match self.traffic {
            Traffic::KeepAlive | Traffic::Tls => answers..=answers,
            Traffic::ToClose(_) | Traffic::Aborted(_) | Traffic::HalfClosed => {
                self.sessions..=self.sessions
            }
            Traffic::SpeaksFirst => answers + self.sessions..=answers + self.sessions,
            // The preface is a busy period of its own if its answer is acknowledged before the
            // first request arrives.
            Traffic::Http2 => answers..=answers + self.sessions,
            // Answers share a busy period as the network has it.
            Traffic::Pipelined | Traffic::Http2Parallel => self.sessions..=answers + self.sessions,
        }
    }

    /// Starts the servers.
    ///
    /// # Errors
    /// One does not start.
    pub fn serve(&self, lab: &Lab) -> Result<Servers> {
        Ok(match self.server {
            Server::Nginx(_) => Servers::Nginx(Nginx::start(lab)?),
            Server::Blocking(mode) if self.family == Family::V4 => {
                Servers::Blocking(BlockingServer::v4(&lab.server, BLOCKING, mode)?)
            }
            Server::Blocking(mode) => {
                Servers::Blocking(BlockingServer::dual(&lab.server, BLOCKING, mode)?)
            }
        })
    }

    /// Runs the clients to their end; returns what they saw.
    ///
    /// # Errors
    /// An answer is missing or wrong: the scenario itself failed, whatever weir says.
    pub fn run(&self, lab: &Lab) -> Result<Vec<Seen>> {
        let queue: VecDeque<usize> = (0..self.sessions).collect();
        let queue = Arc::new(Mutex::new(queue));
        let mut threads = Vec::new();
        for worker in 0..self.concurrent {
            let (queue, scenario) = (Arc::clone(&queue), self.clone());
            let next = move || {
                queue
                    .lock()
                    .unwrap_or_else(PoisonError::into_inner)
                    .pop_front()
            };
            if let Some(options) = self.curl_options() {
                let (dir, netns) = (lab.dir().to_owned(), &lab.client);
                let copy = netns.try_clone()?;
                threads.push(std::thread::spawn(move || {
                    let mut seen = Vec::new();
                    while next().is_some() {
                        let curl = Curl {
                            urls: scenario.urls(),
                            options,
                            keylog: &dir.join("keys"),
                        };
                        let log = dir.join(format!("curl-{worker}.log"));
                        seen.extend(client::curl(&copy, &curl, &log)?);
                    }
                    Ok(seen)
                }));
            } else {
                threads.push(lab.client.spawn("lab-client", move || {
                    let mut seen = Vec::new();
                    while let Some(n) = next() {
                        seen.push(
                            scenario
                                .session(n)
                                .with_context(|| format!("session {n}"))?,
                        );
                    }
                    Ok(seen)
                })?);
            }
        }
        if let Some(cut) = self.cut {
            std::thread::sleep(cut.after);
            lab.shape(cut.shape);
            std::thread::sleep(cut.lasts);
            lab.shape(self.shape);
        }
        let mut seen = Vec::new();
        for thread in threads {
            seen.extend(join(thread)?);
        }
        self.check(&seen)?;
        Ok(seen)
    }

    fn curl_options(&self) -> Option<&'static [&'static str]> {
        match self.traffic {
            Traffic::Tls => Some(&["--http1.1"]),
            Traffic::Http2 => Some(&["--http2"]),
            Traffic::Http2Parallel => Some(&[
                "--http2",
                "--parallel",
                "--parallel-max",
                "8",
                "--no-progress-meter",
            ]),
            _ => None,
        }
    }

    fn urls(&self) -> Vec<String> {
        let address = self.address();
        self.sizes
            .iter()
            .map(|size| format!("https://{address}/f/{size}"))
            .collect()
    }

    fn session(&self, n: usize) -> Result<Seen> {
        let paths: Vec<String> = self.sizes.iter().map(|size| format!("/f/{size}")).collect();
        let paths: Vec<&str> = paths.iter().map(String::as_str).collect();
        let size = self.sizes[n % self.sizes.len()];
        let address = self.address();
        match self.traffic {
            Traffic::KeepAlive => client::keep_alive(address, &paths, Duration::from_millis(5)),
            Traffic::Pipelined => client::pipelined(address, &paths),
            Traffic::ToClose(prefix) => client::until_close(address, &format!("{prefix}{size}")),
            Traffic::Aborted(how) => {
                // Midway, and not always at the same place.
                let bytes = size / 16 + size / 16 * (n % 3);
                client::aborted(address, &format!("/f/{size}"), bytes, how)
            }
            Traffic::HalfClosed => client::half_closed(address, &format!("/f/{size}")),
            Traffic::SpeaksFirst => {
                let mut connection = Connection::open(address)?;
                let banner = connection.read_exactly(BANNER.len())?;
                if banner != BANNER {
                    bail!("the server greets with {banner:?}");
                }
                let mut bodies = Vec::new();
                for path in paths {
                    // The greeting's acknowledgement and the request must be two events.
                    std::thread::sleep(Duration::from_millis(5));
                    connection.ask(&[path], "1.1")?;
                    bodies.push(connection.answer()?);
                }
                Ok(Seen {
                    port: connection.port()?,
                    bodies,
                })
            }
            Traffic::Tls | Traffic::Http2 | Traffic::Http2Parallel => {
                bail!("TLS sessions are curl's")
            }
        }
    }

    /// The clients' own truth: every body came whole.
    fn check(&self, seen: &[Seen]) -> Result<()> {
        let got: u64 = seen.iter().flat_map(|session| &session.bodies).sum();
        let sizes: u64 = self.sizes.iter().map(|size| *size as u64).sum();
        let want = match self.traffic {
            Traffic::Aborted(_) => 0,
            Traffic::ToClose(_) | Traffic::HalfClosed => (0..self.sessions)
                .map(|n| self.sizes[n % self.sizes.len()] as u64)
                .sum(),
            _ => sizes * self.sessions as u64,
        };
        if got != want {
            bail!("the clients got {got} bytes of {want}");
        }
        Ok(())
    }
}

/// Running servers, held until the scenario is over.
#[derive(Debug)]
pub enum Servers {
    /// nginx
    Nginx(Nginx),
    /// The blocking server
    Blocking(BlockingServer),
}
