//! Debian's cloud kernels: which release a suite has, and its files. apt works in a directory of
//! its own, so that neither this host's sources nor its lists matter or change.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, anyhow};

use super::Rung;
use crate::{
    process::{output, run},
    toolchain::find_program,
};

/// With what the archive signs.
pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";
/// How the names of the images end.
const FLAVOUR: &str = "-cloud-amd64";

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
pub(super) fn fetch(rung: &Rung, mirror: &str, update: bool, dir: &Path) -> Result<Kernel> {
    if !update && let Some(kernel) = cached(dir)? {
        return Ok(kernel);
    }
    let apt = Apt::new(rung.suite, mirror, &dir.join("apt"))?;
    let names = apt.names()?;
    let release = newest(&names, rung.series)
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
    unpack(&apt.download(&packages)?, &release, dir)?;
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

fn unpack(packages: &[PathBuf], release: &str, dir: &Path) -> Result<()> {
    let root = dir.join("root");
    let mark = dir.join("release");
    // Without its mark, what an interruption leaves is no kernel.
    for old in [&mark, &root] {
        let _ = fs::remove_file(old);
        let _ = fs::remove_dir_all(old);
    }
    fs::create_dir_all(&root).with_context(|| format!("cannot make {}", root.display()))?;
    for package in packages {
        run(Command::new("dpkg-deb").arg("-x").arg(package).arg(&root))?;
        fs::remove_file(package)?;
    }
    if !root.join("lib").exists() {
        std::os::unix::fs::symlink("usr/lib", root.join("lib"))?;
    }
    fs::write(&mark, release).with_context(|| format!("cannot write {}", mark.display()))
}

/// apt, with one suite as its only source.
#[derive(Debug)]
struct Apt {
    options: Vec<String>,
    archives: PathBuf,
}

impl Apt {
    /// Fetches the suite's lists.
    fn new(suite: &str, mirror: &str, dir: &Path) -> Result<Self> {
        let (lists, archives) = (dir.join("lists"), dir.join("archives"));
        for made in [lists.join("partial"), archives.clone()] {
            fs::create_dir_all(&made).with_context(|| format!("cannot make {}", made.display()))?;
        }
        let source = dir.join("sources.list");
        fs::write(
            &source,
            format!("deb [signed-by={KEYRING} arch=amd64] {mirror} {suite} main\n"),
        )?;
        let options = [
            format!("Dir::Etc::SourceList={}", source.display()),
            "Dir::Etc::SourceParts=-".to_owned(),
            format!("Dir::State::Lists={}", lists.display()),
            format!("Dir::Cache={}", dir.display()),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            // Where root runs this, apt's own user could not write here.
            "APT::Sandbox::User=root".to_owned(),
        ];
        let apt = Self {
            options: options
                .into_iter()
                .flat_map(|option| ["-o".to_owned(), option])
                .collect(),
            archives,
        };
        let mut update = apt.command("apt-get");
        update.args(["update", "-qq", "-o", "APT::Update::Error-Mode=any"]);
        run(&mut update).with_context(|| format!("fetching the lists of {suite}"))?;
        Ok(apt)
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        command
    }

    /// Every package whose name begins with `linux-`.
    fn names(&self) -> Result<Vec<String>> {
        let names = output(self.command("apt-cache").args(["pkgnames", "linux-"]))?;
        Ok(String::from_utf8_lossy(&names)
            .lines()
            .map(str::to_owned)
            .collect())
    }

    fn download(&self, packages: &[String]) -> Result<Vec<PathBuf>> {
        run(self
            .command("apt-get")
            .current_dir(&self.archives)
            .args(["download", "-q"])
            .args(packages))?;
        let files = fs::read_dir(&self.archives)?.map(|entry| Ok(entry?.path()));
        let files: Result<Vec<_>> = files.collect();
        Ok(files?
            .into_iter()
            .filter(|path| path.extension().is_some_and(|end| end == "deb"))
            .collect())
    }
}

/// The newest release of a series among the names of packages.
fn newest(names: &[String], series: &str) -> Option<String> {
    let of_series = |release: &&str| {
        let rest = release.strip_prefix(series);
        rest.is_some_and(|rest| series.is_empty() || rest.starts_with(['.', '-']))
    };
    names
        .iter()
        .filter_map(|name| name.strip_prefix("linux-image-"))
        .filter(|release| release.ends_with(FLAVOUR) && version(release).len() > 2)
        .filter(of_series)
        .max_by_key(|release| version(release))
        .map(str::to_owned)
}

/// The numbers of a release, for comparing; empty if it does not begin with one.
fn version(release: &str) -> Vec<u32> {
    let release = release.trim_end_matches(FLAVOUR);
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
        ]);
        let newest = newest(&names, "6.12");
        assert_eq!(newest.as_deref(), Some("6.12.107+deb13-cloud-amd64"));
    }

    #[test]
    fn a_series_is_not_another_that_begins_alike() {
        let names = names(&["6.1.0-9-cloud-amd64", "6.12.1+deb13-cloud-amd64"]);
        let newest = newest(&names, "6.1");
        assert_eq!(newest.as_deref(), Some("6.1.0-9-cloud-amd64"));
    }

    #[test]
    fn meta_packages_are_no_releases() {
        let names = names(&["cloud-amd64", "6.12-cloud-amd64", "7.3.4+deb13-cloud-amd64"]);
        assert_eq!(
            newest(&names, "").as_deref(),
            Some("7.3.4+deb13-cloud-amd64")
        );
        assert_eq!(newest(&names, "6.12"), None);
    }
}
