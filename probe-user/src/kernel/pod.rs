//! Passing the layouts shared with the programs through aya's maps, which ask for a mark of their
//! own.

/// Lets a record's layout pass as a map's value.
#[derive(Clone, Copy, Debug)]
#[repr(transparent)]
pub(super) struct Pod<T>(pub(super) T);

// SAFETY: `T` is plain integers without padding (`bytemuck::Pod`), and so is a wrapper of it.
unsafe impl<T: bytemuck::Pod> aya::Pod for Pod<T> {}
