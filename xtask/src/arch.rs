//! The architectures that weir is built for: what each is called by whom.

use std::env::consts::ARCH;

use clap::ValueEnum;

/// An architecture, as Rust calls it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, ValueEnum)]
pub(crate) enum Arch {
    /// amd64
    #[value(name = "x86_64")]
    X86_64,
    /// arm64
    #[value(name = "aarch64")]
    Aarch64,
}

impl Arch {
    /// Rust's name.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64",
            Self::Aarch64 => "aarch64",
        }
    }

    /// Whether this host is of it.
    pub(crate) fn is_host(self) -> bool {
        self.name() == ARCH
    }

    /// What rustc builds for.
    pub(crate) fn target(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-unknown-linux-gnu",
            Self::Aarch64 => "aarch64-unknown-linux-gnu",
        }
    }

    /// Debian's name.
    pub(crate) fn debian(self) -> &'static str {
        match self {
            Self::X86_64 => "amd64",
            Self::Aarch64 => "arm64",
        }
    }

    /// GNU's name: how its libraries' directory is called, and its tools begin.
    pub(crate) fn gnu(self) -> &'static str {
        match self {
            Self::X86_64 => "x86_64-linux-gnu",
            Self::Aarch64 => "aarch64-linux-gnu",
        }
    }

    /// A program of the binutils or the compiler for it.
    pub(crate) fn tool(self, name: &str) -> String {
        if self.is_host() {
            return name.to_owned();
        }
        format!("{}-{name}", self.gnu())
    }
}
