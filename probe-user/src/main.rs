//! The command line, and nothing else.

use std::io;
use std::process::ExitCode;

use anyhow::{Context, Result};
use clap::Parser;
use weir::cli::{self, Cli, Command, Outcome};
use weir::config::Config;
use weir::kernel;
use weir::ui::doctor;
use weir::ui::out::Style;

fn main() -> ExitCode {
    cli::conclude(perform(&Cli::parse().command))
}

fn perform(command: &Command) -> Result<Outcome> {
    let style = Style::of_stdout();
    // Not locked: the daemon and the live view share it with a panic's message.
    let to = io::stdout();
    if let Command::Doctor(args) = command {
        let config = match &args.config {
            Some(path) => Config::load(path)?,
            None => Config::default(),
        };
        config.check()?;
        let diagnosis = kernel::diagnose(config.backend, &config.kill_switch);
        doctor::write(&diagnosis, args.output.output, style, &mut to.lock())?;
        return Ok(Outcome::Examined(diagnosis.health()));
    }
    if let Command::Replay(args) = command
        && !(args.top || args.serve.is_some())
    {
        return cli::replay_at_terminal(args, style, to.lock());
    }
    match command {
        Command::GateGuard(args) => {
            cli::gate_guard(args)?;
            return Ok(Outcome::Done);
        }
        Command::Journal(args) => return cli::journal(args, style, to.lock(), io::stderr()),
        Command::Steer(args) if args.simulation().is_some() => {
            cli::simulate(args, style, to.lock())?;
            return Ok(Outcome::Done);
        }
        _ => {}
    }
    let mut runtime = tokio::runtime::Builder::new_multi_thread();
    // A collector takes what processors there are. A daemon leaves them to the server beside it, and
    // one thread is sooner with a hot event than two: between them an event goes by way of a wake-up
    // that waits for a processor of its own.
    if !matches!(command, Command::Collect(_) | Command::FleetSim(_)) {
        runtime.worker_threads(1);
    }
    let runtime = runtime
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let done = runtime.block_on(async {
        let done = match command {
            Command::Steer(args) => return cli::steer(args, style, to).await,
            Command::Run(args) => cli::run(args).await,
            Command::Collect(args) => cli::collect(args).await,
            Command::Top(args) => cli::top(args).await,
            Command::Sessions(args) => cli::sessions(args, style, to).await,
            Command::Deliveries(args) => cli::deliveries(args, style, to).await,
            Command::Viewers(args) => cli::viewers(args, style, to).await,
            Command::Cells(args) => cli::cells(args, style, to).await,
            Command::Hosts(args) => cli::hosts(args, style, to).await,
            Command::Watch(args) => cli::watch(args, to).await,
            Command::Ring(args) => cli::ring(args, to).await,
            Command::Status(args) => cli::status(args, style, to).await,
            Command::FleetSim(args) => cli::fleet_sim(args, style, to).await,
            Command::Record(args) => cli::record(args, to).await,
            Command::Replay(args) => cli::playback(args).await,
            Command::TryGate(args) => cli::try_gate(args, to).await,
            Command::HoldGate(args) => cli::hold_gate(args, io::stdin().lock(), to).await,
            Command::Doctor(_) | Command::Journal(_) | Command::GateGuard(_) => Ok(()),
        };
        done.map(|()| Outcome::Done)
    });
    // A thread that waits for the terminal's next key must not hold up the end.
    runtime.shutdown_background();
    done
}
