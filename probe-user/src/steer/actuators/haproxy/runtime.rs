//! A few commands of HAProxy's runtime socket. One connection each: that is how HAProxy ends an
//! answer.

use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, bail};
use tokio::io::{AsyncReadExt as _, AsyncWriteExt as _};
use tokio::net::UnixStream;
use tokio::time::timeout;

const PATIENCE: Duration = Duration::from_secs(2);
/// `show info` has 3 kB.
const MAX_ANSWER_BYTES: u64 = 64 << 10;

/// A server's weight, and the one that HAProxy's configuration gives it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Weight {
    pub(super) now: u32,
    pub(super) initial: u32,
}

async fn ask(socket: &Path, command: &str) -> Result<String> {
    let at = || format!("HAProxy's runtime socket {}", socket.display());
    let asked = async {
        let mut stream = UnixStream::connect(socket).await?;
        stream.write_all(format!("{command}\n").as_bytes()).await?;
        let mut answer = String::new();
        stream
            .take(MAX_ANSWER_BYTES)
            .read_to_string(&mut answer)
            .await?;
        Ok::<_, std::io::Error>(answer)
    };
    let answer = timeout(PATIENCE, asked).await;
    let answer = answer.with_context(|| format!("{} does not answer {command:?}", at()))?;
    answer.with_context(|| format!("cannot ask {}", at()))
}

/// Which process answers: another one after a reload or a restart.
pub(super) async fn pid(socket: &Path) -> Result<u32> {
    let answer = ask(socket, "show info").await?;
    let pid = answer.lines().find_map(|line| line.strip_prefix("Pid: "));
    let pid = pid.and_then(|pid| pid.trim().parse().ok());
    pid.with_context(|| format!("HAProxy does not say its process id: {}", first(&answer)))
}

/// `get weight`.
pub(super) async fn weight(socket: &Path, server: &str) -> Result<Weight> {
    let answer = ask(socket, &format!("get weight {server}")).await?;
    parse(&answer)
        .with_context(|| format!("HAProxy has no weight for {server}: {}", first(&answer)))
}

/// `set server ... weight`.
pub(super) async fn set_weight(socket: &Path, server: &str, weight: u32) -> Result<()> {
    let answer = ask(socket, &format!("set server {server} weight {weight}")).await?;
    if !answer.trim().is_empty() {
        bail!(
            "HAProxy does not give {server} the weight {weight}: {}",
            first(&answer)
        );
    }
    Ok(())
}

fn first(answer: &str) -> &str {
    let line = answer.lines().find(|line| !line.trim().is_empty());
    line.unwrap_or("it says nothing").trim()
}

/// `35 (initial 100)`.
fn parse(answer: &str) -> Option<Weight> {
    let (now, rest) = answer.trim().split_once(' ')?;
    let initial = rest.strip_prefix("(initial ")?.strip_suffix(')')?;
    Some(Weight {
        now: now.parse().ok()?,
        initial: initial.parse().ok()?,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_weight_is_read_and_an_error_is_none() {
        let weight = parse("35 (initial 100)\n\n");
        assert_eq!(
            weight,
            Some(Weight {
                now: 35,
                initial: 100
            })
        );
        for odd in [
            "",
            "No such server.\n",
            "35",
            "35 (initial )",
            "x (initial 1)",
        ] {
            assert_eq!(parse(odd), None, "{odd:?}");
        }
    }
}
