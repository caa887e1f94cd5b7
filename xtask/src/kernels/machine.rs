//! One boot of a guest: emulated, so that it needs neither root nor a processor that can nest.

use std::{fs, path::Path, process::Command};

use anyhow::{Context, Result};

use super::{debian::Kernel, image::WEIR};
use crate::process::run as run_to_end;

/// What a boot, all checks and the power-off may take; the slowest seen took a fifth.
const LIMIT_SECONDS: u32 = 240;

/// Boots, and returns what the guest said on its second serial line. How the machine ended does
/// not matter: what it did not say is missing.
pub(super) fn run(kernel: &Kernel, initramfs: &Path, dir: &Path) -> Result<String> {
    let (console, said) = (dir.join("console.log"), dir.join("said.jsonl"));
    for old in [&console, &said] {
        fs::write(old, "").with_context(|| format!("cannot write {}", old.display()))?;
    }
    let mut command = Command::new("timeout");
    command
        .args(["--foreground", &LIMIT_SECONDS.to_string()])
        .args(["qemu-system-x86_64", "-machine", "q35,accel=tcg"])
        // One plain processor: the emulator has been seen to break guests that had more of either.
        .args(["-cpu", "qemu64", "-m", "1024"])
        .args(["-nodefaults", "-nographic", "-no-reboot"])
        .arg("-serial")
        .arg(format!("file:{}", console.display()))
        .arg("-serial")
        .arg(format!("file:{}", said.display()))
        .arg("-kernel")
        .arg(&kernel.image)
        .arg("-initrd")
        .arg(initramfs)
        // The kernel hands what it does not know to the first process as its environment.
        .arg("-append")
        .arg(format!(
            "console=ttyS0 oops=panic panic=-1 quiet PATH=/usr/bin WEIR_BIN={WEIR}"
        ))
        .stdin(std::process::Stdio::null());
    if let Err(error) = run_to_end(&mut command) {
        eprintln!("{error:#}; its console is in {}", console.display());
    }
    fs::read_to_string(&said).with_context(|| format!("cannot read {}", said.display()))
}
