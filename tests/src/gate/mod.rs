//! What the tests of the kernel gate share: a process that holds it, servers that say who they are,
//! and crowds of clients with addresses of their own.

pub mod crowd;
pub mod holder;
pub mod teller;
