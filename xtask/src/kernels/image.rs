//! The guest's file system in memory: its programs, each with its libraries, and the modules that
//! they need.

use std::{
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, anyhow, bail};

use super::{cloud::Kernel, userland::Userland};
use crate::process::{output, run};

/// What the lab's link is made of, and what weir's polled backend asks.
const MODULES: [&str; 3] = ["veth", "sch_netem", "tcp_diag"];

/// Packs it; returns the archive.
pub(super) fn build(kernel: &Kernel, dir: &Path, userland: &Userland) -> Result<PathBuf> {
    let tree = dir.join("tree");
    let _ = fs::remove_dir_all(&tree);
    for (from, to) in &userland.programs {
        // Debug information would only have to be loaded.
        run(userland.strip().arg("-o").arg(place(&tree, to)?).arg(from))?;
    }
    for (from, to) in userland.libraries()? {
        let to = place(&tree, &to)?;
        fs::copy(&from, &to).with_context(|| format!("copying {}", from.display()))?;
    }
    for (at, module) in modules(kernel)?.iter().enumerate() {
        copy_module(module, at, &tree)?;
    }
    archive(&tree, &dir.join("initramfs"))
}

/// Where a file of the guest is in the tree; its directory is made.
fn place(tree: &Path, inside: &Path) -> Result<PathBuf> {
    let path = tree.join(inside.strip_prefix("/").unwrap_or(inside));
    if let Some(parent) = path.parent() {
        fs::create_dir_all(parent).with_context(|| format!("cannot make {}", parent.display()))?;
    }
    Ok(path)
}

/// The files of [`MODULES`] and of what they need, in the order in which they go in.
fn modules(kernel: &Kernel) -> Result<Vec<PathBuf>> {
    let dir = kernel.root.join("lib/modules").join(&kernel.release);
    let list = dir.join("modules.dep");
    let list = fs::read_to_string(&list).with_context(|| format!("reading {}", list.display()))?;
    let mut files = Vec::new();
    for module in MODULES {
        let chain = chain(&list, module)
            .ok_or_else(|| anyhow!("{} has no module {module}", kernel.release))?;
        for file in chain {
            let file = dir.join(file);
            if !files.contains(&file) {
                files.push(file);
            }
        }
    }
    Ok(files)
}

/// A module and what it needs, last what is needed by none: a line of modules.dep, backwards.
fn chain<'a>(list: &'a str, module: &str) -> Option<Vec<&'a str>> {
    let line = list.lines().find_map(|line| {
        let (file, needs) = line.split_once(':')?;
        let name = file.rsplit('/').next()?;
        (name.split('.').next()? == module).then_some((file, needs))
    });
    let (file, needs) = line?;
    let mut chain: Vec<_> = needs.split_whitespace().rev().collect();
    chain.push(file);
    Some(chain)
}

fn copy_module(module: &Path, at: usize, tree: &Path) -> Result<()> {
    let to = place(tree, Path::new(&format!("/modules/{at:02}.ko")))?;
    let compressed = module.extension().is_some_and(|end| end == "xz");
    let bytes = if compressed {
        output(
            Command::new("xz")
                .arg("--decompress")
                .arg("--stdout")
                .arg(module),
        )?
    } else {
        fs::read(module).with_context(|| format!("reading {}", module.display()))?
    };
    fs::write(&to, bytes).with_context(|| format!("writing {}", to.display()))
}

fn archive(tree: &Path, to: &Path) -> Result<PathBuf> {
    // The first process needs it for its messages before it can mount anything.
    place(tree, Path::new("/dev/console"))?;
    let file = fs::File::create(to).with_context(|| format!("cannot make {}", to.display()))?;
    let mut cpio = Command::new("cpio")
        .args([
            "--create",
            "--format=newc",
            "--null",
            "--quiet",
            "--owner=0:0",
        ])
        .current_dir(tree)
        .stdin(Stdio::piped())
        .stdout(file)
        .spawn()
        .context("cannot start cpio")?;
    let names = output(
        Command::new("find")
            .args([".", "-print0"])
            .current_dir(tree),
    )?;
    cpio.stdin
        .take()
        .context("no pipe to cpio")?
        .write_all(&names)
        .context("telling cpio what to pack")?;
    let status = cpio.wait()?;
    if !status.success() {
        bail!("cpio failed: {status}");
    }
    Ok(to.to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_goes_in_first() {
        let list = "kernel/a/sch_netem.ko.xz: kernel/b/one.ko.xz kernel/b/two.ko.xz\n\
                    kernel/b/two.ko.xz:\n";
        let want = [
            "kernel/b/two.ko.xz",
            "kernel/b/one.ko.xz",
            "kernel/a/sch_netem.ko.xz",
        ];
        assert_eq!(chain(list, "sch_netem").expect("it is there"), want);
        assert_eq!(chain(list, "netem"), None);
    }
}
