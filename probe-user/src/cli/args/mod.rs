//! What each command takes, by family; its text is what `--help` prints.

mod centre;
mod daemon;
mod listings;
mod recording;
mod steer;
mod steer_centre;

pub use centre::*;
pub use daemon::*;
pub use listings::*;
pub use recording::*;
pub use steer::*;
pub use steer_centre::*;
