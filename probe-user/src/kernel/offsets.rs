//! Where the running kernel keeps the fields that the programs read, by its own BTF.

use std::path::Path;

use anyhow::{Context as _, Result, bail};
use btf::btf::{Btf, FlattenedType, StructMember, Type};
use probe_ebpf::field::{ABSENT, COUNT, SPECS, Spec};

/// Where a kernel keeps the description of its own types (Linux 5.2, `CONFIG_DEBUG_INFO_BTF`).
pub const VMLINUX: &str = "/sys/kernel/btf/vmlinux";

/// The value of the programs' global `OFFSETS`, in the order of [`probe_ebpf::field::Field`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Offsets(pub [u32; COUNT]);

impl Offsets {
    /// Reads the kernel's own description.
    pub fn of_running_kernel() -> Result<Self> {
        Self::of_file(Path::new(VMLINUX))
    }

    /// Reads a file in BTF's raw format.
    pub fn of_file(path: &Path) -> Result<Self> {
        let btf = Btf::from_file(path).with_context(|| format!("reading {}", path.display()))?;
        let mut offsets = [ABSENT; COUNT];
        for (offset, spec) in offsets.iter_mut().zip(SPECS) {
            if let Some(found) = find(&btf, spec) {
                *offset = found;
            }
        }
        Ok(Self(offsets))
    }

    /// The fields that this kernel lacks.
    pub fn absent(&self) -> impl Iterator<Item = &'static Spec> + '_ {
        self.0
            .iter()
            .zip(SPECS)
            .filter(|(offset, _)| **offset == ABSENT)
            .map(|(_, spec)| spec)
    }

    /// Refuses a kernel that lacks a field without which nothing can be measured.
    pub fn check(&self) -> Result<()> {
        let missing: Vec<String> = self
            .absent()
            .filter(|spec| spec.lost.is_empty())
            .map(|spec| format!("{}.{}", spec.root, spec.path))
            .collect();
        if !missing.is_empty() {
            bail!(
                "this kernel's BTF does not have {}, without which nothing can be measured",
                missing.join(", ")
            );
        }
        Ok(())
    }
}

/// Byte offset of a field; for `:mask` paths, the mask of its bits within their first byte
/// (all eight, if it is no bit field).
fn find(btf: &Btf, spec: &Spec) -> Option<u32> {
    let (path, wants_mask) = match spec.path.strip_suffix(":mask") {
        Some(path) => (path, true),
        None => (spec.path, false),
    };
    let mut bit_offset = 0;
    let mut bits = None;
    let mut current = structure(btf, spec.root)?;
    for step in path.split('.') {
        let (name, index) = match step.split_once('[') {
            Some((name, index)) => (name, index.strip_suffix(']')?.parse().ok()?),
            None => (step, 0),
        };
        let (offset, member) = member(btf, current, name)?;
        bit_offset += offset;
        bits = member.bits.filter(|bits| *bits != 0);
        current = btf.get_type_by_id(member.type_id).ok()?;
        if let (Type::Array(array), true) = (&current.base_type, step.contains('[')) {
            current = btf.get_type_by_id(array.elem_type_id).ok()?;
            bit_offset += current.bits * index;
        }
    }
    if wants_mask {
        let mask = match bits {
            Some(bits) => ((1u32 << bits) - 1) << (bit_offset % 8),
            None => 0xff,
        };
        return (mask <= 0xff).then_some(mask);
    }
    Some(bit_offset / 8)
}

/// A struct by name; functions, variables and pointers may bear the same one.
fn structure<'a>(btf: &'a Btf, name: &str) -> Option<&'a FlattenedType> {
    btf.get_types().iter().find(|candidate| {
        matches!(candidate.base_type, Type::Struct(_))
            && candidate.num_refs == 0
            && !candidate.is_function
            && candidate.name.as_deref() == Some(name)
    })
}

/// A member by name, looked for inside unnamed structs and unions too, and its offset in bits.
fn member<'a>(
    btf: &'a Btf,
    parent: &'a FlattenedType,
    name: &str,
) -> Option<(u32, &'a StructMember)> {
    let (Type::Struct(body) | Type::Union(body)) = &parent.base_type else {
        return None;
    };
    for candidate in &body.members {
        if candidate.name.as_deref() == Some(name) {
            return Some((candidate.offset, candidate));
        }
        if candidate.name.as_deref().unwrap_or("").is_empty() {
            let inner = btf.get_type_by_id(candidate.type_id).ok()?;
            if let Some((offset, found)) = member(btf, inner, name) {
                return Some((candidate.offset + offset, found));
            }
        }
    }
    None
}

#[cfg(test)]
mod tests {
    use probe_ebpf::field::Field;

    use super::*;

    #[test]
    fn the_running_kernel_has_every_field_that_nothing_can_do_without() {
        let offsets = Offsets::of_running_kernel().expect("BTF of the running kernel");
        offsets.check().expect("all required fields");
        let Offsets(values) = offsets;
        // struct sock_common begins with the remote address (Linux 3.2 and on).
        assert_eq!(values[Field::RemoteV4 as usize], 0);
        assert_eq!(values[Field::LocalV4 as usize], 4);
        assert_eq!(values[Field::CaStateMask as usize].count_ones(), 5);
    }
}
