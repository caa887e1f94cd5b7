//! Builds the kernel programs (`probe-ebpf`, for the BPF target) and leaves the objects in
//! `OUT_DIR` for the crate to embed. How a toolchain is found is in `xtask/src/toolchain.rs`.

use std::{
    env,
    error::Error,
    fs, io,
    path::{Path, PathBuf},
    process::ExitCode,
};

#[path = "../xtask/src/toolchain.rs"]
#[expect(dead_code, reason = "shared with xtask, which uses the rest")]
mod toolchain;

use toolchain::{Job, OBJECT, ROUTE_ENV, Toolchain, VARIANTS, bpf_target};

/// Names a directory of prebuilt objects to be embedded instead of building them; for packagers.
const OBJECTS_ENV: &str = "WEIR_BPF_OBJECTS";

fn main() -> ExitCode {
    match embed() {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("{error}");
            ExitCode::FAILURE
        }
    }
}

fn embed() -> Result<(), Box<dyn Error>> {
    let out_dir = PathBuf::from(variable("OUT_DIR")?);
    println!("cargo:rerun-if-env-changed={OBJECTS_ENV}");
    println!("cargo:rerun-if-env-changed={ROUTE_ENV}");
    if let Some(prebuilt) = env::var_os(OBJECTS_ENV) {
        for (_, name) in VARIANTS {
            let object = Path::new(&prebuilt).join(name);
            println!("cargo:rerun-if-changed={}", object.display());
            take(&object, &out_dir.join(name))?;
        }
        return Ok(());
    }
    build(&out_dir)
}

fn take(object: &Path, as_file: &Path) -> Result<(), String> {
    copy_if_different(object, as_file)
        .map_err(|error| format!("cannot take the BPF object {}: {error}", object.display()))
}

fn build(out_dir: &Path) -> Result<(), Box<dyn Error>> {
    let manifest_dir = PathBuf::from(variable("CARGO_MANIFEST_DIR")?);
    let workspace = manifest_dir
        .parent()
        .ok_or("probe-user stands in no workspace")?;
    for input in ["probe-ebpf", "Cargo.toml", "Cargo.lock"] {
        println!("cargo:rerun-if-changed={}", workspace.join(input).display());
    }
    let toolchain = Toolchain::detect()?;
    for tool in [&toolchain.route.rustc(), &toolchain.linker] {
        println!("cargo:rerun-if-changed={}", tool.display());
    }
    for (features, name) in VARIANTS {
        let job = Job {
            object: OBJECT,
            features,
            target: bpf_target(&variable("CARGO_CFG_TARGET_ENDIAN")?),
            target_arch: &variable("CARGO_CFG_TARGET_ARCH")?,
            target_dir: &out_dir.join("bpf"),
            extra_flags: &[],
        };
        let object = build_one(&toolchain, workspace, &job)?;
        take(&object, &out_dir.join(name))?;
    }
    Ok(())
}

/// Builds one of the objects; the next takes its place.
fn build_one(
    toolchain: &Toolchain,
    workspace: &Path,
    job: &Job<'_>,
) -> Result<PathBuf, Box<dyn Error>> {
    let cargo = toolchain.cargo(Path::new(&variable("CARGO")?));
    let status = toolchain
        .command(&cargo, "build", workspace, job)
        .status()
        .map_err(|error| format!("cannot start {}: {error}", cargo.display()))?;
    if !status.success() {
        return Err(format!(
            "the kernel programs did not build ({status}) with {} and {}; should the linker not \
             understand the compiler's bitcode, `cargo xtask setup --reinstall-linker` builds it \
             for the compiler's LLVM",
            toolchain.route,
            toolchain.linker.display()
        )
        .into());
    }
    Ok(job.target_dir.join(job.target).join("bpf").join(OBJECT))
}

fn variable(name: &str) -> Result<String, String> {
    env::var(name).map_err(|error| format!("{name}: {error}"))
}

/// Leaves an equal file alone, so that the crate which embeds it is not compiled again.
fn copy_if_different(from: &Path, to: &Path) -> io::Result<()> {
    let bytes = fs::read(from)?;
    if fs::read(to).is_ok_and(|old| old == bytes) {
        return Ok(());
    }
    fs::write(to, bytes)
}
