//! Finds what compiles and links the kernel programs, and builds them with it.
//!
//! One file for two users: `xtask` and, by `#[path]`, the build script of `probe-user`; so it
//! needs nothing but std. Installing what is missing is left to `xtask/src/setup`.

use std::{
    env, fmt, fs, io,
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

/// The binary target of `probe-ebpf`, and the name of the object that it becomes, in
/// `<target_dir>/<target>/bpf`.
pub(crate) const OBJECT: &str = "weir-ebpf";
/// Likewise: the bench's programs, which are no part of weir.
pub(crate) const BENCH_OBJECT: &str = "weir-ebpf-bench";
/// The features of `probe-ebpf` that make an object each of its programs, and what the objects are
/// called once they are told apart.
pub(crate) const VARIANTS: [(&str, &str); 4] = [
    ("programs", "weir-ebpf"),
    ("keyed", "weir-ebpf-keyed"),
    ("portable", "weir-ebpf-portable"),
    ("gate", "weir-ebpf-gate"),
];
/// Forces a route: a [`Route::name`].
pub(crate) const ROUTE_ENV: &str = "WEIR_BPF_ROUTE";

/// Where a compiler for the BPF target comes from.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Route {
    /// A distribution's compiler that comes with `core` compiled for BPF.
    Distro {
        /// Debian: `/usr/bin/rustc` of `rustc-web`.
        rustc: PathBuf,
    },
    /// A rustup nightly with `rust-src`: cargo compiles `core` (`-Z build-std`).
    Nightly {
        /// The toolchain's directory under `$RUSTUP_HOME/toolchains`.
        dir: PathBuf,
    },
}

impl Route {
    /// The two values that [`ROUTE_ENV`] takes.
    pub(crate) const NAMES: [&'static str; 2] = ["distro", "nightly"];

    /// The route's name: one of [`Route::NAMES`].
    pub(crate) fn name(&self) -> &'static str {
        match self {
            Self::Distro { .. } => Self::NAMES[0],
            Self::Nightly { .. } => Self::NAMES[1],
        }
    }

    /// The compiler.
    pub(crate) fn rustc(&self) -> PathBuf {
        match self {
            Self::Distro { rustc } => rustc.clone(),
            Self::Nightly { dir } => dir.join("bin/rustc"),
        }
    }

    /// The major version of the LLVM whose bitcode it writes; the linker's must not be older.
    pub(crate) fn llvm_major(&self) -> Option<u32> {
        let output = Command::new(self.rustc()).arg("-vV").output().ok()?;
        let text = String::from_utf8_lossy(&output.stdout).into_owned();
        let version = text.lines().find_map(|l| l.strip_prefix("LLVM version:"))?;
        version.trim().split('.').next()?.parse().ok()
    }

    /// Finds the routes that are installed here, best first.
    pub(crate) fn installed() -> Vec<Self> {
        let mut routes = Vec::new();
        let rustc = PathBuf::from("/usr/bin/rustc");
        if distro_has_bpf_core(&rustc) {
            routes.push(Self::Distro { rustc });
        }
        if let Some(dir) = nightly_with_source() {
            routes.push(Self::Nightly { dir });
        }
        if let Some(forced) = env::var_os(ROUTE_ENV) {
            routes.retain(|r| forced == r.name());
        }
        routes
    }
}

impl fmt::Display for Route {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Distro { rustc } => {
                write!(f, "{} with core precompiled for BPF", rustc.display())
            }
            Self::Nightly { dir } => write!(f, "{} with rust-src", dir.display()),
        }
    }
}

/// A part of the toolchain that is not there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Missing {
    /// Neither route.
    Compiler,
    /// `bpf-linker`.
    Linker,
}

impl fmt::Display for Missing {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Compiler => f.write_str(
                "no Rust compiler for the BPF target: neither a distribution's /usr/bin/rustc \
                 with core precompiled for BPF (Debian: rustc-web and libstd-rust-web-dev-bpf) \
                 nor a rustup nightly with the component rust-src",
            )?,
            Self::Linker => f.write_str("bpf-linker is neither in PATH nor in cargo's bin")?,
        }
        if let Some(forced) = env::var_os(ROUTE_ENV) {
            write!(f, " ({ROUTE_ENV}={} is set)", forced.display())?;
        }
        f.write_str("; `cargo xtask setup` installs it")
    }
}

impl std::error::Error for Missing {}

/// A compiler and a linker for the BPF target.
#[derive(Clone, Debug)]
pub(crate) struct Toolchain {
    /// The compiler.
    pub(crate) route: Route,
    /// `bpf-linker`, by its full path.
    pub(crate) linker: PathBuf,
}

impl Toolchain {
    /// Finds a whole toolchain, or says which part is missing.
    pub(crate) fn detect() -> Result<Self, Missing> {
        let route = Route::installed()
            .into_iter()
            .next()
            .ok_or(Missing::Compiler)?;
        let linker = linker().ok_or(Missing::Linker)?;
        Ok(Self { route, linker })
    }

    /// The cargo for this compiler: the nightly's own; else `host`, which serves any compiler.
    pub(crate) fn cargo(&self, host: &Path) -> PathBuf {
        match &self.route {
            Route::Distro { .. } => host.to_owned(),
            Route::Nightly { dir } => dir.join("bin/cargo"),
        }
    }

    /// A command on the programs in `probe-ebpf`: a cargo and its `build`, or the like of it.
    ///
    /// It inherits nothing of a surrounding cargo's choices: no flags, no target directory, no
    /// compiler, no wrapper.
    pub(crate) fn command(
        &self,
        program: &Path,
        subcommand: &str,
        workspace: &Path,
        job: &Job<'_>,
    ) -> Command {
        let mut command = Command::new(program);
        for (name, _) in env::vars_os() {
            let steers = name.to_str().is_some_and(|name| {
                ["CARGO_BUILD_", "CARGO_PROFILE_", "CARGO_TARGET_"]
                    .iter()
                    .any(|prefix| name.starts_with(prefix))
            });
            if steers {
                command.env_remove(name);
            }
        }
        let mut flags = vec![
            format!("--cfg=bpf_target_arch=\"{}\"", job.target_arch),
            "-Cdebuginfo=2".to_owned(),
            "-Clink-arg=--btf".to_owned(),
            format!("-Clinker={}", self.linker.display()),
        ];
        flags.extend(job.extra_flags.iter().map(|&f| f.to_owned()));
        command
            .current_dir(workspace)
            .env_remove("RUSTFLAGS")
            .env_remove("RUSTUP_TOOLCHAIN")
            .env_remove("CARGO_INCREMENTAL")
            .env("CARGO_ENCODED_RUSTFLAGS", flags.join("\u{1f}"))
            // Empty, not absent: a wrapper may also be named in cargo's configuration.
            .env("RUSTC_WRAPPER", "")
            .env("RUSTC_WORKSPACE_WRAPPER", "")
            .env("RUSTC", self.route.rustc())
            .args([subcommand, "--package", "probe-ebpf", "--bin", job.object])
            .args(["--features", job.features, "--profile", "bpf", "--target"])
            .arg(job.target)
            .arg("--target-dir")
            .arg(job.target_dir)
            .stdin(Stdio::null());
        match &self.route {
            // aya-ebpf uses asm_experimental_arch, the only thing that stable refuses.
            Route::Distro { .. } => command.env("RUSTC_BOOTSTRAP", "1"),
            Route::Nightly { .. } => command.args(["-Z", "build-std=core"]),
        };
        command
    }
}

/// What is to be built, and where.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Job<'a> {
    /// [`OBJECT`] or [`BENCH_OBJECT`].
    pub(crate) object: &'a str,
    /// Of one of [`VARIANTS`]; the bench's object has those of the first.
    pub(crate) features: &'a str,
    /// One of [`bpf_target`]'s.
    pub(crate) target: &'a str,
    /// The host's architecture, as in `CARGO_CFG_TARGET_ARCH`.
    pub(crate) target_arch: &'a str,
    /// A target directory of its own: the surrounding cargo holds the lock of the other.
    pub(crate) target_dir: &'a Path,
    /// More flags for the compiler.
    pub(crate) extra_flags: &'a [&'a str],
}

/// The BPF target for a host of this byte order (`CARGO_CFG_TARGET_ENDIAN`).
pub(crate) fn bpf_target(endian: &str) -> &'static str {
    if endian == "big" {
        "bpfeb-unknown-none"
    } else {
        "bpfel-unknown-none"
    }
}

/// The BPF target for the host that this was compiled for.
pub(crate) fn host_bpf_target() -> &'static str {
    bpf_target(if cfg!(target_endian = "big") {
        "big"
    } else {
        "little"
    })
}

/// Finds `bpf-linker` in `PATH`, else where `cargo install` puts it.
pub(crate) fn linker() -> Option<PathBuf> {
    find_program("bpf-linker").or_else(|| {
        let path = home_of("CARGO_HOME", ".cargo")?.join("bin/bpf-linker");
        path.is_file().then_some(path)
    })
}

/// Finds a program in `PATH`, and where Debian keeps those of the administrator.
pub(crate) fn find_program(name: &str) -> Option<PathBuf> {
    let path = env::var_os("PATH").unwrap_or_default();
    env::split_paths(&path)
        .chain(["/usr/sbin", "/sbin"].map(PathBuf::from))
        .map(|dir| dir.join(name))
        .find(|path| path.is_file())
}

/// A tool's own directory: from its variable, else under the home directory.
pub(crate) fn home_of(variable: &str, below_home: &str) -> Option<PathBuf> {
    env::var_os(variable)
        .filter(|value| !value.is_empty())
        .map(PathBuf::from)
        .or_else(|| Some(PathBuf::from(env::var_os("HOME")?).join(below_home)))
}

fn distro_has_bpf_core(rustc: &Path) -> bool {
    let Ok(output) = Command::new(rustc).args(["--print", "sysroot"]).output() else {
        return false;
    };
    let sysroot = String::from_utf8_lossy(&output.stdout).trim().to_owned();
    let libraries = Path::new(&sysroot)
        .join("lib/rustlib")
        .join(host_bpf_target())
        .join("lib");
    file_names(&libraries).is_ok_and(|names| names.iter().any(|name| name.starts_with("libcore-")))
}

fn nightly_with_source() -> Option<PathBuf> {
    let toolchains = home_of("RUSTUP_HOME", ".rustup")?.join("toolchains");
    let mut names = file_names(&toolchains).ok()?;
    names.retain(|name| name.starts_with("nightly"));
    // `nightly-<host>` sorts after every dated `nightly-2026-..`, and is the one kept up to date.
    names.sort();
    names
        .into_iter()
        .rev()
        .map(|name| toolchains.join(name))
        .find(|dir| {
            dir.join("lib/rustlib/src/rust/library/core/Cargo.toml")
                .is_file()
        })
}

fn file_names(dir: &Path) -> io::Result<Vec<String>> {
    fs::read_dir(dir)?
        .map(|entry| Ok(entry?.file_name().to_string_lossy().into_owned()))
        .collect()
}
