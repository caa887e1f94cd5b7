//! Debian's packages, fetched and unpacked but not installed: apt works in a directory of its own,
//! so that neither this host's lists nor what is installed here matters or changes.

use std::{
    fs,
    path::{Path, PathBuf},
    process::Command,
};

use anyhow::{Context, Result, bail};

use crate::{
    arch::Arch,
    process::{output, run},
    toolchain::find_program,
};

/// With what the archive signs.
pub(crate) const KEYRING: &str = "/usr/share/keyrings/debian-archive-keyring.gpg";

/// Where packages come from.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Source<'a> {
    /// What this host installs from.
    Host,
    /// One suite of a mirror.
    Suite { mirror: &'a str, suite: &'a str },
}

/// apt, for packages of one architecture.
#[derive(Debug)]
pub(crate) struct Archive {
    options: Vec<String>,
    archives: PathBuf,
}

impl Archive {
    /// Fetches the source's lists. `dir` keeps them.
    pub(crate) fn open(source: Source<'_>, arch: Arch, dir: &Path) -> Result<Self> {
        if find_program("apt-get").is_none() {
            bail!("there is no apt-get to fetch Debian's packages with");
        }
        let (lists, archives) = (dir.join("lists"), dir.join("archives"));
        for made in [lists.join("partial"), archives.join("partial")] {
            fs::create_dir_all(&made).with_context(|| format!("cannot make {}", made.display()))?;
        }
        // Nothing counts as installed, so that what a package depends on is fetched with it.
        let status = dir.join("status");
        fs::write(&status, "").with_context(|| format!("cannot write {}", status.display()))?;
        let arch = arch.debian();
        let mut options = vec![
            format!("APT::Architecture={arch}"),
            format!("APT::Architectures={arch}"),
            format!("Dir::State::Lists={}", lists.display()),
            format!("Dir::State::Status={}", status.display()),
            format!("Dir::Cache={}", dir.display()),
            "Acquire::Languages=none".to_owned(),
            "Acquire::IndexTargets::deb::DEP-11::DefaultEnabled=false".to_owned(),
            // Where root runs this, apt's own user could not write here.
            "APT::Sandbox::User=root".to_owned(),
        ];
        let from = match source {
            Source::Host => "this host's sources".to_owned(),
            Source::Suite { mirror, suite } => {
                let list = dir.join("sources.list");
                let line = format!("deb [signed-by={KEYRING} arch={arch}] {mirror} {suite} main\n");
                fs::write(&list, line)
                    .with_context(|| format!("cannot write {}", list.display()))?;
                options.push(format!("Dir::Etc::SourceList={}", list.display()));
                options.push("Dir::Etc::SourceParts=-".to_owned());
                options.push("APT::Update::Error-Mode=any".to_owned());
                format!("{suite} at {mirror}")
            }
        };
        let archive = Self {
            options: options
                .into_iter()
                .flat_map(|option| ["-o".to_owned(), option])
                .collect(),
            archives,
        };
        run(archive.command("apt-get").args(["update", "-qq"]))
            .with_context(|| format!("fetching apt's lists of {from}; can it be reached?"))?;
        Ok(archive)
    }

    /// Every package whose name begins so.
    pub(crate) fn names(&self, prefix: &str) -> Result<Vec<String>> {
        let names = output(self.command("apt-cache").args(["pkgnames", prefix]))?;
        Ok(String::from_utf8_lossy(&names)
            .lines()
            .map(str::to_owned)
            .collect())
    }

    /// Unpacks these packages, and nothing that they depend on, into `root`.
    pub(crate) fn unpack(&self, packages: &[String], root: &Path) -> Result<()> {
        let mut command = self.command("apt-get");
        command
            .current_dir(&self.archives)
            .args(["download", "-q"])
            .args(packages);
        self.fetch_into(&mut command, root)
    }

    /// Unpacks these packages and all that they depend on into `root`.
    pub(crate) fn unpack_whole(&self, packages: &[&str], root: &Path) -> Result<()> {
        let mut command = self.command("apt-get");
        command
            .args([
                "install",
                "-qq",
                "-y",
                "--download-only",
                "--no-install-recommends",
            ])
            .args(packages);
        self.fetch_into(&mut command, root)
    }

    fn fetch_into(&self, command: &mut Command, root: &Path) -> Result<()> {
        fs::create_dir_all(root).with_context(|| format!("cannot make {}", root.display()))?;
        run(command)?;
        for entry in fs::read_dir(&self.archives)? {
            let package = entry?.path();
            if package.extension().is_some_and(|end| end == "deb") {
                run(Command::new("dpkg-deb").arg("-x").arg(&package).arg(root))?;
                fs::remove_file(package)?;
            }
        }
        Ok(())
    }

    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(program);
        command.args(&self.options);
        command
    }
}
