//! Posts the position to a URL, signed.
//!
//! Whoever listens may forget nothing of it when this process ends, so the guard posts neutral. A
//! notice may arrive twice (a retry whose first attempt was heard) and has a key by which to know; one
//! that was overtaken is known by its generation.

use std::io::Read as _;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, anyhow, bail};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::client::conn::http1;
use hyper::{Request, StatusCode, Uri, header};
use hyper_util::rt::TokioIo;
use prost::bytes::Bytes;
use ring::hmac;
use tokio::time::{sleep, timeout};

use super::clock;
use super::guard::{Guarded, Plan};
use super::notice::Notice;
use super::settings::Webhook as Settings;
use super::told::{Means, Undo};
use crate::steer::overrides::order::hex;
use crate::tls;

/// Of an answer; it is for the journal.
const MAX_ANSWER_BYTES: usize = 4096;
const MAX_SECRET_BYTES: u64 = 4096;
/// HMAC-SHA256 gains nothing by more than a block, and is worth little with much less than a digest.
const MIN_SECRET_BYTES: usize = 16;
const FIRST_PAUSE: Duration = Duration::from_millis(200);

/// Seconds since 1970, as it is signed.
const TIMESTAMP_HEADER: &str = "weir-timestamp";
/// `v1=` and the HMAC-SHA256 of timestamp, a full stop and body, in lower-case hexadecimal.
const SIGNATURE_HEADER: &str = "weir-signature";
const KEY_HEADER: &str = "idempotency-key";

impl Means for Settings {
    async fn tell(&self, notice: &Notice, _: Option<&mut Guarded>) -> Result<Option<String>> {
        post(self, notice).await.map(Some)
    }

    fn tells_renewals(&self) -> bool {
        self.tell_renewals
    }

    fn plan(end: Undo<Self>) -> Plan {
        Plan::Webhook(end)
    }
}

/// Why an attempt did not succeed.
enum Failed {
    /// Another attempt may.
    ForNow(anyhow::Error),
    /// None will.
    ForGood(anyhow::Error),
}

async fn post(settings: &Settings, notice: &Notice) -> Result<String> {
    let url: Uri = settings.url.parse().context("the webhook's url")?;
    let body = Bytes::from(serde_json::to_vec(notice)?);
    let secret = read_secret(&settings.secret_file)?;
    let limit = Duration::from_secs(settings.timeout_s.into());
    let mut pause = FIRST_PAUSE;
    for left in (0..settings.attempts).rev() {
        let request = request(&url, &body, &secret, &notice.key())?;
        let attempt = timeout(limit, attempt(settings, &url, request)).await;
        let late = |_| {
            Err(Failed::ForNow(anyhow!(
                "it did not answer within {limit:?}"
            )))
        };
        match attempt.unwrap_or_else(late) {
            Ok(said) => return Ok(said),
            Err(Failed::ForNow(_)) if left > 0 => {}
            Err(Failed::ForNow(err) | Failed::ForGood(err)) => {
                return Err(err.context(format!("{} has not taken it", settings.url)));
            }
        }
        // Spread, so that the hosts of a fleet do not all come back at once.
        let spread = pause.mul_f64(0.5 + fastrand::f64());
        sleep(spread).await;
        pause *= 2;
    }
    bail!("no attempt is allowed")
}

fn request(url: &Uri, body: &Bytes, secret: &[u8], key: &str) -> Result<Request<Full<Bytes>>> {
    let timestamp = (clock::unix_ns() / 1_000_000_000).to_string();
    let signature = sign(secret, &timestamp, body);
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let host = url.authority().context("the webhook's url names no host")?;
    Ok(Request::post(path)
        .header(header::HOST, host.as_str())
        .header(header::CONTENT_TYPE, "application/json")
        .header(
            header::USER_AGENT,
            concat!("weir/", env!("CARGO_PKG_VERSION")),
        )
        .header(KEY_HEADER, key)
        .header(TIMESTAMP_HEADER, &timestamp)
        .header(SIGNATURE_HEADER, format!("v1={signature}"))
        .body(Full::new(body.clone()))?)
}

/// What stands after `v1=`.
fn sign(secret: &[u8], timestamp: &str, body: &[u8]) -> String {
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret);
    let mut context = hmac::Context::with_key(&key);
    context.update(timestamp.as_bytes());
    context.update(b".");
    context.update(body);
    hex(context.sign().as_ref())
}

/// Read each time, so that it can be changed without a restart.
fn read_secret(path: &Path) -> Result<Vec<u8>> {
    let shown = path.display();
    let file = std::fs::File::open(path).with_context(|| format!("cannot read {shown}"))?;
    let mode = file.metadata()?.mode();
    if mode & 0o007 != 0 {
        bail!(
            "{shown} is open to every user of this host: `chmod o= {shown}`, and change the secret"
        );
    }
    let mut secret = Vec::new();
    file.take(MAX_SECRET_BYTES).read_to_end(&mut secret)?;
    let length = secret.trim_ascii_end().len();
    secret.truncate(length);
    if length < MIN_SECRET_BYTES {
        bail!(
            "{shown} has {length} bytes; a secret needs {MIN_SECRET_BYTES} (`openssl rand -hex 32`)"
        );
    }
    Ok(secret)
}

async fn attempt(
    settings: &Settings,
    url: &Uri,
    request: Request<Full<Bytes>>,
) -> Result<String, Failed> {
    let now = |err: anyhow::Error| Failed::ForNow(err);
    let config = match url.scheme_str() {
        Some("https") => {
            let config = tls::one_sided(settings.ca_file.as_deref());
            Some(config.map_err(|err| Failed::ForGood(err.into()))?)
        }
        _ => None,
    };
    let socket = tls::dial(url, config).await;
    let socket = socket.context("cannot connect").map_err(now)?;
    let (mut sender, connection) = http1::handshake(TokioIo::new(socket))
        .await
        .context("no HTTP is spoken there")
        .map_err(now)?;
    // Its end is heard through the sender as well. Dropped with this attempt, it is closed.
    let mut connection = std::pin::pin!(connection);
    let answered = async {
        let answer = sender.send_request(request).await?;
        let status = answer.status();
        let said = Limited::new(answer.into_body(), MAX_ANSWER_BYTES)
            .collect()
            .await;
        // A long answer is cut off, not an error: its status has been heard.
        let said = said
            .map(http_body_util::Collected::to_bytes)
            .unwrap_or_default();
        Ok::<_, hyper::Error>((status, String::from_utf8_lossy(&said).trim().to_owned()))
    };
    let mut answered = std::pin::pin!(answered);
    let answer = tokio::select! {
        answer = &mut answered => answer,
        _ = &mut connection => answered.await,
    };
    let (status, said) = answer.context("the connection broke").map_err(now)?;
    judge(status, said)
}

fn judge(status: StatusCode, said: String) -> Result<String, Failed> {
    if status.is_success() {
        return Ok(said);
    }
    if status.is_redirection() {
        let err = anyhow!("it says {status}; redirections are not followed: give its address");
        return Err(Failed::ForGood(err));
    }
    let err = anyhow!("it says {status}: {said}");
    if status.is_server_error()
        || status == StatusCode::TOO_MANY_REQUESTS
        || status == StatusCode::REQUEST_TIMEOUT
    {
        return Err(Failed::ForNow(err));
    }
    Err(Failed::ForGood(err))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;
    use std::path::PathBuf;
    use std::sync::{Arc, Mutex};

    use axum::Router;
    use axum::body::Body;
    use axum::extract::Request;
    use axum::response::{IntoResponse as _, Response};
    use axum::routing::any;

    use super::*;
    use crate::steer::actuators::notice::Cause;

    const SECRET: &[u8] = b"0123456789abcdef";

    /// A receiver, what it heard, and what it answers with, first to last.
    struct Receiver {
        url: String,
        heard: Arc<Mutex<Vec<(header::HeaderMap, Bytes)>>>,
        directory: tempfile::TempDir,
    }

    impl Receiver {
        async fn start(answers: Vec<fn() -> Response>) -> Self {
            let heard: Arc<Mutex<Vec<_>>> = Arc::default();
            let own = Arc::clone(&heard);
            let answer = move |request: Request| {
                let (own, answers) = (Arc::clone(&own), answers.clone());
                async move {
                    let (parts, body) = request.into_parts();
                    let body = axum::body::to_bytes(body, 1 << 20).await.unwrap();
                    let mut heard = own.lock().unwrap();
                    heard.push((parts.headers, body));
                    answers[(heard.len() - 1).min(answers.len() - 1)]()
                }
            };
            let router = Router::new().route("/weir", any(answer));
            let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
            let url = format!("http://{}/weir", listener.local_addr().unwrap());
            tokio::spawn(async { axum::serve(listener, router).await });
            let directory = tempfile::tempdir().unwrap();
            let receiver = Self {
                url,
                heard,
                directory,
            };
            std::fs::write(receiver.secret(), [SECRET, b"\n"].concat()).unwrap();
            receiver.protect(0o600);
            receiver
        }

        fn secret(&self) -> PathBuf {
            self.directory.path().join("secret")
        }

        fn protect(&self, mode: u32) {
            let mode = std::fs::Permissions::from_mode(mode);
            std::fs::set_permissions(self.secret(), mode).unwrap();
        }

        async fn post(&self, attempts: u32) -> Result<String> {
            let settings = Settings {
                url: self.url.clone(),
                secret_file: self.secret(),
                ca_file: None,
                timeout_s: 5,
                attempts,
                tell_renewals: false,
            };
            let notice = Notice::neutral("balancer", 7, "d1", Cause::Released);
            settings
                .tell(&notice, None)
                .await
                .map(Option::unwrap_or_default)
        }

        fn heard(&self) -> Vec<(header::HeaderMap, Bytes)> {
            self.heard.lock().unwrap().clone()
        }
    }

    #[test]
    fn a_signature_is_the_hmac_of_timestamp_and_body() {
        // As Python's hmac module has it.
        let expected = "9eb18f493f8ec135d9eb2dad817c369bb4e9cbfa818657897a7437c1cd8c3a23";
        assert_eq!(sign(SECRET, "1700000000", br#"{"a":1}"#), expected);
    }

    #[tokio::test]
    async fn what_fails_for_now_is_tried_again_with_the_same_key_and_signed_anew() {
        let busy = || StatusCode::SERVICE_UNAVAILABLE.into_response();
        let receiver = Receiver::start(vec![busy, || "taken".into_response()]).await;
        assert_eq!(receiver.post(3).await.unwrap(), "taken");
        let heard = receiver.heard();
        let [first, second] = &*heard else {
            panic!("{heard:?}");
        };
        assert_eq!(
            (&first.1, &first.0[KEY_HEADER]),
            (&second.1, &second.0[KEY_HEADER])
        );
        for (headers, body) in &heard {
            let timestamp = headers[TIMESTAMP_HEADER].to_str().unwrap();
            let signature = format!("v1={}", sign(SECRET, timestamp, body));
            assert_eq!(headers[SIGNATURE_HEADER], signature);
            assert_eq!(headers[header::CONTENT_TYPE], "application/json");
        }
        let notice: Notice = serde_json::from_slice(&first.1).unwrap();
        assert!(notice.is_neutral && notice.generation == 7);
    }

    #[tokio::test]
    async fn attempts_are_bounded_and_the_last_answer_is_the_error() {
        let busy = || (StatusCode::BAD_GATEWAY, "no").into_response();
        let receiver = Receiver::start(vec![busy]).await;
        let failed = format!("{:#}", receiver.post(2).await.unwrap_err());
        assert!(failed.ends_with("it says 502 Bad Gateway: no"), "{failed}");
        assert_eq!(receiver.heard().len(), 2);
    }

    #[tokio::test]
    async fn neither_a_refusal_nor_a_redirection_is_tried_again_or_followed() {
        let moved = || axum::response::Redirect::temporary("/weir").into_response();
        for answer in [moved as fn() -> Response, || {
            StatusCode::FORBIDDEN.into_response()
        }] {
            let receiver = Receiver::start(vec![answer]).await;
            receiver.post(5).await.unwrap_err();
            assert_eq!(receiver.heard().len(), 1);
        }
    }

    #[tokio::test]
    async fn an_answer_without_end_is_success_and_not_kept() {
        let endless = || {
            let part = || Ok::<_, std::io::Error>(Bytes::from_static(&[b'x'; 1024]));
            Body::from_stream(futures::stream::repeat_with(part)).into_response()
        };
        let receiver = Receiver::start(vec![endless]).await;
        assert!(receiver.post(1).await.unwrap().len() <= MAX_ANSWER_BYTES);
    }

    #[tokio::test]
    async fn a_secret_that_all_may_read_or_that_can_be_guessed_is_refused() {
        let receiver = Receiver::start(vec![|| "taken".into_response()]).await;
        receiver.protect(0o644);
        let refused = receiver.post(1).await.unwrap_err().to_string();
        assert!(refused.contains("open to every user"), "{refused}");
        std::fs::write(receiver.secret(), "short\n").unwrap();
        receiver.protect(0o600);
        let refused = receiver.post(1).await.unwrap_err().to_string();
        assert!(refused.contains("has 5 bytes"), "{refused}");
        assert!(receiver.heard().is_empty());
    }
}
