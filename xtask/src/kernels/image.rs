//! The guest's file system in memory: the guest program, weir, a few of this host's tools, each
//! with its libraries, and the modules that the lab's link needs.

use std::{
    collections::BTreeSet,
    fs,
    io::Write as _,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use anyhow::{Context, Result, anyhow, bail};

use super::debian::Kernel;
use crate::{
    process::{output, run},
    toolchain::find_program,
};

/// What the lab runs in the guest.
const TOOLS: [&str; 3] = ["ip", "tc", "bpftool"];
/// What the lab's link is made of.
const MODULES: [&str; 2] = ["veth", "sch_netem"];
/// Where the guest finds weir.
pub(super) const WEIR: &str = "/usr/bin/weir";

/// Packs it; returns the archive.
pub(super) fn build(kernel: &Kernel, dir: &Path, guest: &Path, weir: &Path) -> Result<PathBuf> {
    let tree = dir.join("tree");
    let _ = fs::remove_dir_all(&tree);
    let mut programs = vec![
        (guest.to_owned(), PathBuf::from("/init")),
        (weir.to_owned(), WEIR.into()),
    ];
    for tool in TOOLS {
        let path = find_program(tool).ok_or_else(|| anyhow!("there is no {tool}"))?;
        programs.push((path, Path::new("/usr/bin").join(tool)));
    }
    let mut libraries = BTreeSet::new();
    for (from, to) in &programs {
        libraries.extend(libraries_of(from)?);
        // Debug information would only have to be loaded.
        run(Command::new("strip")
            .arg("-o")
            .arg(place(&tree, to)?)
            .arg(from))?;
    }
    for library in &libraries {
        let to = place(&tree, library)?;
        fs::copy(library, &to).with_context(|| format!("copying {}", library.display()))?;
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

/// The files that the loader would map for a program, itself included.
fn libraries_of(program: &Path) -> Result<Vec<PathBuf>> {
    let text = output(Command::new("ldd").arg(program))?;
    parse_ldd(&String::from_utf8_lossy(&text)).with_context(|| program.display().to_string())
}

fn parse_ldd(text: &str) -> Result<Vec<PathBuf>> {
    let mut paths = Vec::new();
    for line in text.lines() {
        if line.contains("not found") {
            bail!("a library is missing: {}", line.trim());
        }
        // `name => path (address)`, `path (address)`; the kernel's own has no path.
        paths.extend(
            line.split_whitespace()
                .find(|word| word.starts_with('/'))
                .map(PathBuf::from),
        );
    }
    Ok(paths)
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
    fn libraries_are_what_ldd_gives_a_path_for() {
        let text = "\tlinux-vdso.so.1 (0x7ffc)\n\tlibm.so.6 => /lib/libm.so.6 (0x7f)\n\
                    \t/lib64/ld-linux-x86-64.so.2 (0x7f)\n";
        let paths = parse_ldd(text).expect("nothing is missing");
        let want = ["/lib/libm.so.6", "/lib64/ld-linux-x86-64.so.2"].map(PathBuf::from);
        assert_eq!(paths, want);
        assert!(parse_ldd("\tlibz.so.1 => not found\n").is_err());
    }

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
