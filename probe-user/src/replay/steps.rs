//! A recording, taken in as far as its time is asked to go, and then a little further.

use std::time::Duration;

use super::{Error, Options, Player};
use crate::intake::{Intake, Told};
use crate::recording::chain::{Chain, Piece};
use crate::recording::{Said, entry};

/// A recording that is replayed step by step, by a clock of somebody else's.
#[derive(Debug)]
pub struct Steps {
    player: Player,
    begin_ns: u64,
    /// None: all of it is taken in.
    chain: Option<Chain>,
    block: Vec<u8>,
    /// Where in the block the next entry begins.
    at: usize,
}

impl Steps {
    /// At its beginning.
    ///
    /// # Errors
    /// It cannot be folded.
    pub fn new(chain: Chain) -> Result<Self, Error> {
        let header = chain.header();
        let begin_ns = header.begin_monotonic_ns;
        let player = Player::new(header, Options::default()).map_err(|why| Error::Header {
            path: chain.path().to_owned(),
            why,
        })?;
        Ok(Self {
            player,
            begin_ns,
            chain: Some(chain),
            block: Vec::new(),
            at: 0,
        })
    }

    /// Takes in what was said until so long after the beginning. Says whether there is more.
    ///
    /// # Errors
    /// It cannot be read, or is not understood.
    pub fn reach(&mut self, since_begin: Duration) -> Result<bool, Error> {
        let since_ns = u64::try_from(since_begin.as_nanos()).unwrap_or(u64::MAX);
        let until_ns = self.begin_ns.saturating_add(since_ns);
        loop {
            let Some(chain) = &mut self.chain else {
                return Ok(false);
            };
            if self.at < self.block.len() {
                let player = &mut self.player;
                let mut is_later = false;
                let next = entry::read_at(&self.block, self.at, &mut |said: Said<'_>| {
                    is_later = said.now_ns().is_some_and(|now_ns| now_ns > until_ns);
                    if !is_later {
                        player.take(&said, &mut |_: &Intake, _: Told<'_>| Ok(()));
                    }
                });
                let next = next.map_err(|bad| Error::Entry {
                    path: chain.path().to_owned(),
                    bad,
                })?;
                if is_later {
                    return Ok(true);
                }
                self.at = next;
                continue;
            }
            match chain.next_piece()? {
                Some(Piece::Block(block)) => (self.block, self.at) = (block, 0),
                Some(Piece::Part(header)) => self.player.part(&header),
                None => {
                    self.chain = None;
                    self.block = Vec::new();
                }
            }
        }
    }

    /// All that is known by now.
    pub fn intake(&self) -> &Intake {
        &self.player.intake
    }
}
