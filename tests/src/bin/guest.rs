//! The first process of the guests that `cargo xtask kernels` starts: tries weir on their kernel.

use std::process::ExitCode;

fn main() -> ExitCode {
    match weir_tests::guest::run() {
        Ok(()) => ExitCode::SUCCESS,
        // On a guest's console; the kernel then stops for want of a first process.
        Err(error) => {
            eprintln!("guest: {error:#}");
            ExitCode::FAILURE
        }
    }
}
