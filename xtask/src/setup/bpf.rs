//! The compiler and the linker for the kernel programs: which of the two routes this machine can
//! take, and taking it. What they are is in `toolchain.rs`.

use std::{
    env, fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow, bail};

use super::{Item, apt};
use crate::{
    process::{cargo, run, typed, workspace},
    toolchain::{ROUTE_ENV, Route, find_program, home_of, linker},
};

/// Debian's compiler with `core` for BPF.
const DISTRO_COMPILER: [&str; 2] = ["rustc-web", "libstd-rust-web-dev-bpf"];
/// The linker's version that is known to work, and the least that is accepted.
const LINKER_VERSION: &str = "0.13.0";
/// Where its own builds are; they carry their LLVM in them.
const LINKER_RELEASES: &str = "https://github.com/aya-rs/bpf-linker/releases/latest/download";

pub(super) fn survey() -> Vec<Item> {
    let route = Route::installed().into_iter().next();
    let remedy = "Debian's rustc-web with libstd-rust-web-dev-bpf where apt has it, else a rustup \
                  nightly with rust-src";
    let compiler = Item {
        name: "BPF compiler".to_owned(),
        found: route.map(|route| route.to_string()),
        remedy: remedy.to_owned(),
    };
    let linker = Item {
        name: "bpf-linker".to_owned(),
        found: linker()
            .filter(|path| recent(path))
            .map(|path| path.display().to_string()),
        remedy: format!("bpf-linker {LINKER_VERSION}, for the compiler's LLVM, by cargo install"),
    };
    vec![compiler, linker]
}

/// Installs what is missing of the two.
pub(super) fn install(reinstall_linker: bool) -> Result<()> {
    let route = match Route::installed().into_iter().next() {
        Some(route) => route,
        None => install_compiler()?,
    };
    if reinstall_linker || !linker().is_some_and(|path| recent(&path)) {
        install_linker(&route)?;
    }
    Ok(())
}

fn recent(linker: &Path) -> bool {
    let version = |text: &str| {
        let mut parts = text.trim().split('.').map(|part| part.parse::<u32>().ok());
        Some((parts.next()??, parts.next()??))
    };
    Command::new(linker)
        .arg("--version")
        .output()
        .ok()
        .and_then(|output| {
            let text = String::from_utf8_lossy(&output.stdout).into_owned();
            version(text.split_whitespace().last()?)
        })
        .is_some_and(|found| Some(found) >= version(LINKER_VERSION))
}

fn install_compiler() -> Result<Route> {
    let forced = env::var(ROUTE_ENV).ok();
    if let Some(name) = forced
        .as_deref()
        .filter(|name| !Route::NAMES.contains(name))
    {
        bail!(
            "{ROUTE_ENV}={name} names no route; use one of {}",
            Route::NAMES.join(", ")
        );
    }
    let allowed = |name: &str| forced.as_deref().is_none_or(|forced| forced == name);
    let mut failures = Vec::new();
    if allowed("distro") && distro_offers()? {
        eprintln!("setup: BPF compiler: Debian has one with core for BPF");
        apt::get(&DISTRO_COMPILER, &mut failures)?;
    } else if allowed("nightly")
        && let Some(rustup) = find_program("rustup")
    {
        eprintln!("setup: BPF compiler: rustup's nightly with rust-src");
        let mut command = Command::new(rustup);
        command.args(["toolchain", "install", "nightly", "--profile", "minimal"]);
        command.args(["--component", "rust-src"]);
        run(&mut command)?;
    } else {
        failures.push("neither does apt have rustc-web, nor is there a rustup".to_owned());
    }
    Route::installed()
        .into_iter()
        .next()
        .ok_or_else(|| anyhow!("no BPF compiler: {}", failures.join("; ")))
}

/// Whether apt has the compiler, and would remove nothing for it (it conflicts with Debian's own
/// `rustc` and `rustup`, though not with a rustup from elsewhere).
fn distro_offers() -> Result<bool> {
    if find_program("apt-get").is_none() {
        return Ok(false);
    }
    let known = || {
        DISTRO_COMPILER
            .iter()
            .all(|package| apt::is_available(package))
    };
    Ok((known() || (apt::update()? && known())) && apt::fits(&DISTRO_COMPILER))
}

fn install_linker(route: &Route) -> Result<()> {
    let llvm = route.llvm_major().ok_or_else(|| {
        anyhow!(
            "{} does not say its LLVM's version",
            route.rustc().display()
        )
    })?;
    let development = format!("llvm-{llvm}-dev");
    let tools = PathBuf::from(format!("/usr/lib/llvm-{llvm}/bin"));
    if !tools.join("llvm-config").is_file()
        && find_program("apt-get").is_some()
        && apt::is_available(&development)
    {
        // A failure shows itself below, where llvm-config is looked for again.
        apt::get(&[&development], &mut Vec::new())?;
    }
    if tools.join("llvm-config").is_file() {
        let path = env::var_os("PATH").unwrap_or_default();
        let path = env::join_paths([tools].into_iter().chain(env::split_paths(&path)))
            .context("PATH cannot be extended")?;
        let mut command = cargo();
        command
            .args([
                "install",
                "bpf-linker",
                "--version",
                LINKER_VERSION,
                "--locked",
                "--force",
            ])
            .args([
                "--no-default-features",
                "--features",
                &format!("llvm-{llvm}"),
            ])
            .env("PATH", path);
        eprintln!("setup: {}", typed(&command));
        return run(&mut command);
    }
    eprintln!("setup: there is no {development}, so bpf-linker's own build is fetched");
    download_linker()
}

fn download_linker() -> Result<()> {
    let bin = home_of("CARGO_HOME", ".cargo")
        .ok_or_else(|| anyhow!("neither CARGO_HOME nor HOME is set"))?
        .join("bin");
    let scratch = workspace().join("target/setup");
    fs::create_dir_all(&scratch).with_context(|| format!("cannot make {}", scratch.display()))?;
    let archive = scratch.join("bpf-linker.tar.zst");
    let url = format!(
        "{LINKER_RELEASES}/bpf-linker-{}-unknown-linux-musl.tar.zst",
        env::consts::ARCH
    );
    if ["curl", "zstd"]
        .iter()
        .any(|name| find_program(name).is_none())
    {
        let mut failures = Vec::new();
        apt::get(&["ca-certificates", "curl", "zstd"], &mut failures)?;
    }
    let mut fetch = Command::new("curl");
    fetch.args([
        "--fail",
        "--location",
        "--silent",
        "--show-error",
        "--output",
    ]);
    fetch.arg(&archive).arg(&url);
    eprintln!("setup: {}", typed(&fetch));
    run(&mut fetch).with_context(|| format!("cannot fetch {url}"))?;
    fs::create_dir_all(&bin).with_context(|| format!("cannot make {}", bin.display()))?;
    let mut unpack = Command::new("tar");
    unpack.args(["--extract", "--zstd", "--file"]).arg(&archive);
    unpack.arg("--directory").arg(&bin).arg("bpf-linker");
    run(&mut unpack)
}
