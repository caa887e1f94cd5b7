//! The delivery tracker, driven as the kernel programs drive it.

mod exchanges;
mod histories;
mod left_out;
mod looks;
mod marks;
mod wire;
