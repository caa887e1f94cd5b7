//! The programs, by what they are hooked to.

mod arrivals;
mod life;
mod walks;
mod writes;
