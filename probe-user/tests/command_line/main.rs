//! The command line and the live view, against a daemon that says known things.

mod fake_daemon;
mod listings;
mod live;
