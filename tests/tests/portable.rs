//! Socket callbacks and packets alone, with no more privilege than they need, beside the programs
//! that measure the same sessions exactly.

use std::time::Duration;

use anyhow::Result;
use weir_tests::lab::client;
use weir_tests::lab::link::Lab;
use weir_tests::lab::nginx::{CLEAR, Nginx};
use weir_tests::lab::process::wait_for;
use weir_tests::watched::{DISTANT, PATIENCE, Watched, binary, settings, v4, v6};
use weir_tests::weir::Daemon;

#[test]
fn without_the_privilege_to_trace_the_same_deliveries_are_told() -> Result<()> {
    let watched = Watched::new(Lab::with_relay(DISTANT, 1)?, &settings())?;
    let _nginx = Nginx::start(&watched.lab)?;
    let mut portable = Daemon::start_unprivileged(
        &binary(),
        &watched.lab.dir().join("portable"),
        &settings(),
        &watched.lab.server,
        &["bpf", "net_admin"],
        &["--backend", "portable"],
    )?;
    assert_eq!(portable.status()?.backend, "portable");
    let follower = portable.follow()?;

    let paths = ["/f/30000", "/f/2000", "/f/300000"];
    let client = &watched.lab.client;
    let seen = [v4(CLEAR), v6(CLEAR)]
        .into_iter()
        .map(|server| {
            let visit = move || client::keep_alive(server, &paths, Duration::ZERO);
            Ok((server, client.run(visit)?.port))
        })
        .collect::<Result<Vec<_>>>()?;
    for (server, port) in seen {
        let (session, exactly) = watched.deliveries(server, port)?;
        let mut told = Vec::new();
        wait_for(
            "the same deliveries from socket callbacks",
            PATIENCE,
            || {
                told = follower.seen(|delivery| {
                    delivery.session == session.session && delivery.phase != "late"
                });
                Ok(told.len() >= exactly.len())
            },
        )?;
        told.sort_by_key(|delivery| delivery.index);
        assert_eq!(told.len(), exactly.len());
        for (told, exact) in told.iter().zip(&exactly) {
            assert_eq!(told.acked_bytes, exact.acked_bytes);
            assert_eq!(told.request_bytes, exact.request_bytes);
            assert_eq!(told.phase, exact.phase);
        }
    }
    follower.finish()?;
    portable.stop()?;
    Ok(())
}
