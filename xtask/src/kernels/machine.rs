//! One boot of a guest: emulated, so that it needs neither root nor a processor that can nest.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

use super::{cloud::Kernel, userland::WEIR};
use crate::{arch::Arch, emulator, process::run as run_to_end};

/// What a boot, all checks and the power-off may take; the slowest seen took a third, on a machine
/// that had other work.
const LIMIT_SECONDS: u32 = 1200;
/// Tells the guest where its findings go.
const REPORT_ENV: &str = "WEIR_REPORT";

/// Boots, and returns what the guest said on its second serial line. How the machine ended does
/// not matter: what it did not say is missing.
pub(super) fn run(arch: Arch, kernel: &Kernel, initramfs: &Path, dir: &Path) -> Result<String> {
    let (console, said) = (dir.join("console.log"), dir.join("said.jsonl"));
    for old in [&console, &said] {
        fs::write(old, "").with_context(|| format!("cannot write {}", old.display()))?;
    }
    let mut command = limited(&emulator::command(arch)?);
    command
        .args(["-m", "1024", "-nodefaults", "-nographic", "-no-reboot"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-chardev")
        .arg(format!("file,id=said,path={}", said.display()))
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs)
        .stdin(std::process::Stdio::null());
    // One plain processor: the emulator has been seen to break guests that had more of either.
    let (first_line, second_line) = match arch {
        Arch::X86_64 => {
            command.args(["-machine", "q35,accel=tcg", "-cpu", "qemu64"]);
            command.args(["-serial", "chardev:said"]);
            ("ttyS0", "ttyS1")
        }
        Arch::Aarch64 => {
            command.args(["-machine", "virt,accel=tcg", "-cpu", "cortex-a57"]);
            command.args(["-device", "pci-serial,chardev=said"]);
            ("ttyAMA0", "ttyS0")
        }
    };
    // The kernel hands what it does not know to the first process as its environment.
    command.arg("-append").arg(format!(
        "console={first_line} oops=panic panic=-1 quiet PATH=/usr/bin WEIR_BIN={WEIR} \
         {REPORT_ENV}=/dev/{second_line}"
    ));
    if let Err(error) = run_to_end(&mut command) {
        eprintln!("{error:#}; its console is in {}", console.display());
    }
    fs::read_to_string(&said).with_context(|| format!("cannot read {}", said.display()))
}

/// The same command, ended when it takes too long.
fn limited(command: &Command) -> Command {
    let mut limited = Command::new("timeout");
    limited
        .args(["--foreground", &LIMIT_SECONDS.to_string()])
        .arg(command.get_program())
        .args(command.get_args())
        .envs(
            command
                .get_envs()
                .filter_map(|(name, value)| Some((name, value?))),
        );
    limited
}
