//! What runs in a guest beside the kernel: weir, the guest program, and a few tools with their
//! libraries. For a guest of this host's architecture they are the host's own; for another they
//! are Debian's, unpacked.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow, bail};

use crate::{
    arch::Arch,
    cross,
    debian::{Archive, Source},
    process::output,
    toolchain::find_program,
};

/// What the lab runs in the guest.
const TOOLS: [&str; 3] = ["ip", "tc", "bpftool"];
/// Where Debian has them.
const PACKAGES: [&str; 2] = ["iproute2", "bpftool"];
/// Where the guest finds weir.
pub(super) const WEIR: &str = "/usr/bin/weir";

/// All programs of the guests of one architecture.
#[derive(Clone, Debug)]
pub(super) struct Userland {
    arch: Arch,
    /// What is here, and where the guest has it.
    pub(super) programs: Vec<(PathBuf, PathBuf)>,
    /// Unpacked packages; none for this host's architecture.
    root: Option<PathBuf>,
}

impl Userland {
    /// Builds weir and the guest program for `arch`, and finds or fetches the tools.
    pub(super) fn prepare(arch: Arch, update: bool, dir: &Path) -> Result<Self> {
        let weir = cross::build(arch, "release", &["--package", "weir"])?.join("weir");
        let guest = cross::build(
            arch,
            "debug",
            &["--package", "weir-tests", "--bin", "guest"],
        )?
        .join("guest");
        let root = if arch.is_host() {
            None
        } else {
            Some(unpacked(arch, update, dir)?)
        };
        let mut programs = vec![(guest, PathBuf::from("/init")), (weir, PathBuf::from(WEIR))];
        for tool in TOOLS {
            let path = match &root {
                None => find_program(tool),
                Some(root) => ["usr/sbin", "usr/bin", "sbin", "bin"]
                    .map(|dir| root.join(dir).join(tool))
                    .into_iter()
                    .find(|path| lies_in(root, path)),
            };
            let path = path.ok_or_else(|| anyhow!("there is no {tool} for {}", arch.name()))?;
            programs.push((path, Path::new("/usr/bin").join(tool)));
        }
        Ok(Self {
            arch,
            programs,
            root,
        })
    }

    /// The libraries of all programs: what is here, and where the guest has it.
    pub(super) fn libraries(&self) -> Result<BTreeSet<(PathBuf, PathBuf)>> {
        let mut libraries = BTreeSet::new();
        for (program, _) in &self.programs {
            match &self.root {
                None => libraries.extend(
                    loaded_here(program)?
                        .into_iter()
                        .map(|path| (path.clone(), path)),
                ),
                Some(root) => needed_elsewhere(program, root, self.arch, &mut libraries)
                    .with_context(|| program.display().to_string())?,
            }
        }
        Ok(libraries)
    }

    /// Takes debug information out of programs.
    pub(super) fn strip(&self) -> Command {
        Command::new(self.arch.tool("strip"))
    }
}

/// Debian's tools and their libraries.
fn unpacked(arch: Arch, update: bool, dir: &Path) -> Result<PathBuf> {
    let root = dir.join(format!("userland-{}", arch.name()));
    let mark = root.join("complete");
    if update || !mark.is_file() {
        let _ = fs::remove_dir_all(&root);
        let archive = Archive::open(Source::Host, arch, &root.with_extension("apt"))?;
        archive.unpack_whole(&PACKAGES, &root)?;
        fs::write(&mark, "").with_context(|| format!("cannot write {}", mark.display()))?;
    }
    Ok(root)
}

/// The files that this host's loader would map for a program, itself included.
fn loaded_here(program: &Path) -> Result<Vec<PathBuf>> {
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

/// The same for a program that cannot run here: what it and its libraries say they need.
fn needed_elsewhere(
    program: &Path,
    root: &Path,
    arch: Arch,
    found: &mut BTreeSet<(PathBuf, PathBuf)>,
) -> Result<()> {
    let text = output(
        Command::new("readelf")
            .args(["--wide", "--dynamic", "--program-headers"])
            .arg(program),
    )?;
    let (loader, names) = parse_readelf(&String::from_utf8_lossy(&text));
    let inside = Path::new("/lib").join(arch.gnu());
    let wanted = names.into_iter().map(|name| inside.join(name));
    for to in loader.map(PathBuf::from).into_iter().chain(wanted) {
        let name = to.file_name().unwrap_or_default();
        let from = ["lib", "usr/lib"]
            .map(|lib| root.join(lib).join(arch.gnu()).join(name))
            .into_iter()
            .find(|path| lies_in(root, path))
            .ok_or_else(|| anyhow!("{} is in no package", name.to_string_lossy()))?;
        if found.insert((from.clone(), to)) {
            needed_elsewhere(&from, root, arch, found)?;
        }
    }
    Ok(())
}

/// Whether it is a file of the packages: their absolute links lead to this host's.
fn lies_in(root: &Path, path: &Path) -> bool {
    let inside = |path: PathBuf| root.canonicalize().is_ok_and(|root| path.starts_with(root));
    path.is_file() && path.canonicalize().is_ok_and(inside)
}

/// The loader that a program asks for, and the libraries that it names.
fn parse_readelf(text: &str) -> (Option<String>, Vec<String>) {
    let bracketed = |line: &str, label: &str| {
        let (_, rest) = line.split_once(label)?;
        Some(
            rest.trim()
                .split(']')
                .next()?
                .trim_start_matches('[')
                .to_owned(),
        )
    };
    let loader = text
        .lines()
        .find_map(|line| bracketed(line, "Requesting program interpreter:"));
    let names = text
        .lines()
        .filter_map(|line| bracketed(line, "Shared library:"))
        .collect();
    (loader, names)
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
    fn a_foreign_programs_needs_are_read_from_its_headers() {
        let text = "      [Requesting program interpreter: /lib/ld-linux-aarch64.so.1]\n \
                    0x0000000000000001 (NEEDED)             Shared library: [libelf.so.1]\n \
                    0x0000000000000001 (NEEDED)             Shared library: [libc.so.6]\n \
                    0x000000000000001d (RUNPATH)            Library runpath: [/opt]\n";
        let (loader, names) = parse_readelf(text);
        assert_eq!(loader.as_deref(), Some("/lib/ld-linux-aarch64.so.1"));
        assert_eq!(names, ["libelf.so.1", "libc.so.6"]);
    }
}
