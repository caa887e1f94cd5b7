//! The delivery tracker, driven as the kernel programs drive it.

mod exchanges;
mod histories;
mod looks;
mod wire;
