//! Debian's cloud kernels: which release a suite has, and its files.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow};

use super::Rung;
use crate::{
    arch::Arch,
    debian::{Archive, Source},
    process::run,
    toolchain::find_program,
};

/// A kernel's files.
#[derive(Clone, Debug)]
pub(super) struct Kernel {
    /// As `uname -r` says.
    pub(super) release: String,
    /// What is booted.
    pub(super) image: PathBuf,
    /// Where `lib/modules` is.
    pub(super) root: PathBuf,
}

/// Finds the kernel in `dir`, or downloads the newest of the rung's series into it.
pub(super) fn fetch(
    rung: &Rung,
    arch: Arch,
    mirror: &str,
    update: bool,
    dir: &Path,
) -> Result<Kernel> {
    if !update && let Some(kernel) = cached(dir)? {
        return Ok(kernel);
    }
    let source = Source::Suite {
        mirror,
        suite: rung.suite,
    };
    let archive = Archive::open(source, arch, &dir.join("apt"))?;
    let names = archive.names("linux-")?;
    let release = newest(&names, rung.series, arch)
        .ok_or_else(|| anyhow!("{} of {mirror} has no such cloud kernel", rung.suite))?;
    if let Some(kernel) = cached(dir)?.filter(|kernel| kernel.release == release) {
        return Ok(kernel);
    }
    // Newer packaging keeps the kernel and its modules apart, and the image is empty.
    let packages: Vec<_> = ["image", "binary", "modules"]
        .iter()
        .map(|part| format!("linux-{part}-{release}"))
        .filter(|package| names.contains(package))
        .collect();
    unpack(&archive, &packages, &release, dir)?;
    cached(dir)?.ok_or_else(|| anyhow!("the packages of {release} hold no kernel"))
}

/// The kernel that is unpacked in `dir`.
fn cached(dir: &Path) -> Result<Option<Kernel>> {
    let root = dir.join("root");
    let Ok(release) = fs::read_to_string(dir.join("release")) else {
        return Ok(None);
    };
    let image = [
        format!("boot/vmlinuz-{release}"),
        format!("lib/modules/{release}/vmlinuz"),
    ]
    .map(|path| root.join(path))
    .into_iter()
    .find(|path| path.is_file());
    let Some(image) = image else {
        return Ok(None);
    };
    let modules = root.join("lib/modules").join(&release);
    if !modules.join("modules.dep").is_file() {
        let depmod = find_program("depmod").ok_or_else(|| anyhow!("there is no depmod"))?;
        run(Command::new(depmod)
            .arg("--basedir")
            .arg(&root)
            .arg(&release))
        .context("listing what each module needs")?;
    }
    Ok(Some(Kernel {
        release,
        image,
        root,
    }))
}

fn unpack(archive: &Archive, packages: &[String], release: &str, dir: &Path) -> Result<()> {
    let root = dir.join("root");
    let mark = dir.join("release");
    // Without its mark, what an interruption leaves is no kernel.
    for old in [&mark, &root] {
        let _ = fs::remove_file(old);
        let _ = fs::remove_dir_all(old);
    }
    archive.unpack(packages, &root)?;
    if !root.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", root.join("lib"))?;
    }
    fs::write(&mark, release).with_context(|| format!("cannot write {}", mark.display()))
}

/// The newest release of a series among the names of packages.
fn newest(names: &[String], series: &str, arch: Arch) -> Option<String> {
    let flavour = format!("-cloud-{}", arch.debian());
    let of_series = |release: &&str| {
        let rest = release.strip_prefix(series);
        rest.is_some_and(|rest| series.is_empty() || rest.starts_with(['.', '-']))
    };
    names
        .iter()
        .filter_map(|name| name.strip_prefix("linux-image-"))
        .filter_map(|release| release.strip_suffix(&flavour))
        .filter(|release| version(release).len() > 2)
        .filter(of_series)
        .max_by_key(|release| version(release))
        .map(|release| format!("{release}{flavour}"))
}

/// The numbers of a release, for comparing; empty if it does not begin with one.
fn version(release: &str) -> Vec<u32> {
    if !release.starts_with(|c: char| c.is_ascii_digit()) {
        return Vec::new();
    }
    release
        .split(|c: char| !c.is_ascii_digit())
        .filter_map(|number| number.parse().ok())
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(releases: &[&str]) -> Vec<String> {
        releases
            .iter()
            .map(|release| format!("linux-image-{release}"))
            .collect()
    }

    #[test]
    fn releases_compare_by_their_numbers() {
        let names = names(&[
            "6.12.94+deb13-cloud-amd64",
            "6.12.107+deb13-cloud-amd64",
            "6.12.107+deb13-cloud-amd64-dbg",
            "6.12.107+deb13-amd64",
            "6.12.108+deb13-cloud-arm64",
        ]);
        let newest = newest(&names, "6.12", Arch::X86_64);
        assert_eq!(newest.as_deref(), Some("6.12.107+deb13-cloud-amd64"));
    }

    #[test]
    fn a_series_is_not_another_that_begins_alike() {
        let names = names(&["6.1.0-9-cloud-amd64", "6.12.1+deb13-cloud-amd64"]);
        let newest = newest(&names, "6.1", Arch::X86_64);
        assert_eq!(newest.as_deref(), Some("6.1.0-9-cloud-amd64"));
    }

    #[test]
    fn meta_packages_are_no_releases() {
        let names = names(&["cloud-amd64", "6.12-cloud-amd64", "7.3.4+deb13-cloud-amd64"]);
        assert_eq!(
            newest(&names, "", Arch::X86_64).as_deref(),
            Some("7.3.4+deb13-cloud-amd64")
        );
        assert_eq!(newest(&names, "6.12", Arch::X86_64), None);
    }
}
