//! Orders from the live view: the few that are given in a hurry. Each asks for its reason, and panic
//! for a second look.

use std::path::PathBuf;

use crossterm::event::KeyCode;
use weir_proto::v1::OrderRequest;

use crate::query::client::{self, Peer};
use crate::ui::units;

/// What must be typed before all automation is turned off.
const CONFIRMATION: &str = "yes";
/// Of a reason; the daemon has its own bound.
const MAX_REASON_BYTES: usize = 400;
/// From the live view, an order goes back so slowly when it ends.
const RAMP_S: u32 = 10;

/// What can be ordered here.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verb {
    Hold,
    Release,
    Panic,
}

impl Verb {
    /// By its key.
    pub fn of(key: char) -> Option<Self> {
        match key {
            'H' => Some(Self::Hold),
            'R' => Some(Self::Release),
            'P' => Some(Self::Panic),
            _ => None,
        }
    }

    fn as_str(self) -> &'static str {
        match self {
            Self::Hold => "hold",
            Self::Release => "release",
            Self::Panic => "panic",
        }
    }

    fn question(self) -> &'static str {
        match self {
            Self::Hold => "HOLD: automation stays where it is, for 30 min. Why? ",
            Self::Release => "RELEASE: take back all orders up to your level. Why? ",
            Self::Panic => "PANIC: all automation off, all neutral, for 30 min. Why? ",
        }
    }
}

/// An order that is being typed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Typing {
    verb: Verb,
    reason: String,
    /// Of panic: what was typed to confirm it.
    confirmation: Option<String>,
}

/// What a key made of it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Typed {
    /// It goes on.
    On(Typing),
    /// It was left.
    Left,
    /// It is to be given.
    Given(Wish),
}

/// An order to be given.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Wish {
    pub verb: Verb,
    pub reason: String,
}

impl Typing {
    pub fn new(verb: Verb) -> Self {
        Self {
            verb,
            reason: String::new(),
            confirmation: None,
        }
    }

    /// What is asked, and what was typed so far.
    pub fn shown(&self) -> (String, String) {
        match &self.confirmation {
            None => (self.verb.question().to_owned(), self.reason.clone()),
            Some(typed) => (
                format!(
                    "PANIC, because: {}. Type {CONFIRMATION} to confirm: ",
                    self.reason
                ),
                typed.clone(),
            ),
        }
    }

    /// Takes a key.
    pub fn key(mut self, code: KeyCode) -> Typed {
        let text = self.confirmation.as_mut().unwrap_or(&mut self.reason);
        match code {
            KeyCode::Char(c) if text.len() + c.len_utf8() <= MAX_REASON_BYTES => text.push(c),
            KeyCode::Backspace => {
                text.pop();
            }
            KeyCode::Esc => return Typed::Left,
            KeyCode::Enter => return self.entered(),
            _ => {}
        }
        Typed::On(self)
    }

    fn entered(mut self) -> Typed {
        if self.reason.trim().is_empty() {
            return Typed::On(self);
        }
        match (self.verb, self.confirmation.as_deref()) {
            (Verb::Panic, None) => {
                self.confirmation = Some(String::new());
                Typed::On(self)
            }
            (Verb::Panic, Some(typed)) if typed != CONFIRMATION => Typed::Left,
            _ => Typed::Given(Wish {
                verb: self.verb,
                reason: self.reason.trim().to_owned(),
            }),
        }
    }
}

/// Gives the order to the daemon; what came of it, in a line, and whether it was taken.
pub(super) async fn give(socket: PathBuf, wish: Wish) -> (String, bool) {
    let verb = wish.verb.as_str();
    let request = OrderRequest {
        scope: "host".to_owned(),
        verb: verb.to_owned(),
        reason: wish.reason,
        ramp_s: RAMP_S,
        created_unix_ns: units::now_unix_ns(),
        ..OrderRequest::default()
    };
    let peer = Peer::Daemon(socket.clone());
    let answer = async {
        let mut daemon = client::local(&socket).await?;
        let answer = daemon.order(request).await;
        answer.map_err(|status| peer.error(&status))
    };
    match answer.await {
        Ok(answer) => {
            let answer = answer.into_inner();
            let text = format!("{verb} is taken: {}", answer.id);
            (text, true)
        }
        Err(error) => {
            let text = error.to_string();
            let line = text.lines().next().unwrap_or_default();
            (format!("{verb} is NOT taken: {line}"), false)
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn typed(verb: Verb, keys: &str) -> Typed {
        let mut typing = Typing::new(verb);
        for c in keys.chars() {
            let code = match c {
                '\n' => KeyCode::Enter,
                '\x1b' => KeyCode::Esc,
                '\x08' => KeyCode::Backspace,
                c => KeyCode::Char(c),
            };
            match typing.key(code) {
                Typed::On(next) => typing = next,
                over => return over,
            }
        }
        Typed::On(typing)
    }

    #[test]
    fn a_hold_needs_a_reason_and_a_panic_a_second_look() {
        let wish = |verb, reason: &str| {
            Typed::Given(Wish {
                verb,
                reason: reason.to_owned(),
            })
        };
        assert!(matches!(typed(Verb::Hold, "\n \n"), Typed::On(_)));
        assert_eq!(typed(Verb::Hold, "gox\x08al\n"), wish(Verb::Hold, "goal"));
        assert_eq!(typed(Verb::Hold, "goal\x1b"), Typed::Left);
        assert!(matches!(typed(Verb::Panic, "fire\n"), Typed::On(_)));
        assert_eq!(typed(Verb::Panic, "fire\n\n"), Typed::Left);
        assert_eq!(typed(Verb::Panic, "fire\nno\n"), Typed::Left);
        assert_eq!(typed(Verb::Panic, "fire\nyes\n"), wish(Verb::Panic, "fire"));
    }

    #[test]
    fn what_is_typed_is_bounded() {
        let Typed::On(typing) = typed(Verb::Hold, &"x".repeat(1000)) else {
            panic!("it ended by itself");
        };
        assert_eq!(typing.shown().1.len(), MAX_REASON_BYTES);
    }
}
