//! Finds what a chore needs, says what is missing, installs it, and says what could not be
//! installed. Looks only at files and at two programs' versions, so it is quick when all is there.

mod apt;
mod bpf;
mod players;
mod tools;

use anyhow::{Result, bail};
use clap::ValueEnum;

use crate::{arch::Arch, cross, emulator};

/// What is wanted of this machine.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Need {
    /// Building weir: a compiler and a linker for BPF
    Build,
    /// The tests on the kernel and the truth: servers, captures, other witnesses
    Test,
    /// The demo: a video ladder and a server for it
    Demo,
    /// Other kernels: an emulator, and what fetches and packs them
    Kernels,
    /// Building for arm64 on another architecture, and trying that in an emulator
    Arm64,
    /// The bench: a server to load, and what weir is compared with
    Bench,
    /// The truth of viewers: a browser, players in it, and a video ladder
    Qoe,
    /// Formatting, clippy and cargo-deny
    Lint,
}

/// Options of `cargo xtask setup`.
#[derive(Debug, clap::Args)]
pub(crate) struct Args {
    /// What to set up for; all, if not given
    #[arg(long = "for", value_name = "NEED", value_delimiter = ',')]
    needs: Vec<Need>,
    /// Only say what is there and what is missing; status 1 if something is
    #[arg(long)]
    check: bool,
    /// Install bpf-linker again, e.g. after the compiler has moved to a newer LLVM
    #[arg(long, conflicts_with = "check")]
    reinstall_linker: bool,
}

/// Something that is needed.
#[derive(Debug)]
pub(crate) struct Item {
    /// What it is called.
    pub(crate) name: String,
    /// Where or which it is, if it is there.
    pub(crate) found: Option<String>,
    /// How it would be installed, in words.
    pub(crate) remedy: String,
}

/// `cargo xtask setup`.
pub(crate) fn run(args: &Args) -> Result<()> {
    let mut needs = args.needs.clone();
    if needs.is_empty() {
        needs.extend(Need::value_variants());
        // Nothing to be crossed where it is at home.
        needs.retain(|need| *need != Need::Arm64 || !Arch::Aarch64.is_host());
    }
    let items = survey(&needs);
    for item in &items {
        match &item.found {
            Some(found) => eprintln!("found    {:<14} {found}", item.name),
            None => eprintln!(
                "missing  {:<14} would be installed: {}",
                item.name, item.remedy
            ),
        }
    }
    if args.check {
        return refuse_missing(&items, "missing");
    }
    install(&needs, &items, args.reinstall_linker)?;
    eprintln!("setup: all there");
    Ok(())
}

/// What other chores do first: nothing is said when all is there.
pub(crate) fn ensure(needs: &[Need]) -> Result<()> {
    let items = survey(needs);
    for item in items.iter().filter(|item| item.found.is_none()) {
        eprintln!("setup: {} is missing; {}", item.name, item.remedy);
    }
    install(needs, &items, false)
}

fn survey(needs: &[Need]) -> Vec<Item> {
    let mut items = Vec::new();
    if needs.contains(&Need::Build) {
        items.extend(bpf::survey());
    }
    items.extend(apt::survey(needs));
    items.extend(emulated(needs).map(|arch| Item {
        name: emulator::name(arch),
        found: emulator::found(arch).map(|path| path.display().to_string()),
        remedy: format!(
            "package {}, else unpacked under target/",
            emulator::package(arch)
        ),
    }));
    if needs.contains(&Need::Arm64) {
        items.push(Item {
            name: "arm64 std".to_owned(),
            found: cross::found(Arch::Aarch64),
            remedy: "Debian's libstd-rust-web-dev:arm64, unpacked under target/, else rustup's \
                     target"
                .to_owned(),
        });
    }
    if needs.contains(&Need::Qoe) {
        items.extend(players::survey());
    }
    if needs.contains(&Need::Lint) {
        items.extend(tools::survey());
    }
    items
}

fn install(needs: &[Need], items: &[Item], reinstall_linker: bool) -> Result<()> {
    if items.iter().all(|item| item.found.is_some()) && !reinstall_linker {
        return Ok(());
    }
    let mut failures = Vec::new();
    apt::install(needs, &mut failures)?;
    for arch in emulated(needs).filter(|arch| emulator::found(*arch).is_none()) {
        install_emulator(arch, &mut failures)?;
    }
    if needs.contains(&Need::Build)
        && let Err(error) = bpf::install(reinstall_linker)
    {
        failures.push(format!("{error:#}"));
    }
    // After the compiler that it is for.
    if needs.contains(&Need::Arm64)
        && cross::found(Arch::Aarch64).is_none()
        && let Err(error) = cross::install(Arch::Aarch64)
    {
        failures.push(format!("{error:#}"));
    }
    // After node, which apt may just have brought.
    if needs.contains(&Need::Qoe)
        && players::survey().iter().any(|item| item.found.is_none())
        && let Err(error) = players::install()
    {
        failures.push(format!("{error:#}"));
    }
    if needs.contains(&Need::Lint) {
        tools::install(&mut failures);
    }
    let left = survey(needs);
    if left.iter().any(|item| item.found.is_none()) {
        for failure in &failures {
            eprintln!("setup: {failure}");
        }
    }
    refuse_missing(&left, "could not be installed")
}

/// The architectures whose machines are wanted.
fn emulated(needs: &[Need]) -> impl Iterator<Item = Arch> {
    [(Need::Kernels, Arch::X86_64), (Need::Arm64, Arch::Aarch64)]
        .into_iter()
        .filter(|(need, _)| needs.contains(need))
        .map(|(_, arch)| arch)
}

fn install_emulator(arch: Arch, failures: &mut Vec<String>) -> Result<()> {
    let package = emulator::package(arch);
    if (apt::is_available(package) || apt::update()?) && apt::fits(&[package]) {
        apt::get(&[package], failures)?;
    }
    if emulator::found(arch).is_none()
        && let Err(error) = emulator::unpack(arch)
    {
        failures.push(format!("{error:#}"));
    }
    Ok(())
}

fn refuse_missing(items: &[Item], how: &str) -> Result<()> {
    let missing: Vec<_> = items
        .iter()
        .filter(|item| item.found.is_none())
        .map(|item| item.name.as_str())
        .collect();
    if missing.is_empty() {
        return Ok(());
    }
    bail!("{how}: {}", missing.join(", "))
}
