//! What each command takes, by family; its text is what `--help` prints.

mod centre;
mod daemon;
mod listings;
mod recording;
mod steer;

pub use centre::*;
pub use daemon::*;
pub use listings::*;
pub use recording::*;
pub use steer::*;
