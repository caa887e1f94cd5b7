//! An agent's program, instruction by instruction.

use super::{FLAGS_GONE, Manner, STATE_CB};

/// `struct bpf_insn`
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(C)]
pub(super) struct Insn {
    code: u8,
    registers: u8,
    offset: i16,
    immediate: i32,
}

/// The program; registers by number, `r6` the context.
pub(super) fn instructions(counts: i32, port: u16, flags: u32, manner: Manner) -> Vec<Insn> {
    // Of `struct bpf_sock_ops`.
    const OP: i16 = 0;
    const LOCAL_PORT: i16 = 68;
    const CB_FLAGS: i16 = 84;
    const PASSIVE_ESTABLISHED_CB: i32 = 5;
    const CB_FLAGS_SET: i32 = 59;
    let flags = flags.cast_signed();
    let mut ask = vec![value(MOV, 2, flags)];
    if manner == Manner::Adds {
        ask.extend([load(3, 6, CB_FLAGS), register(OR, 2, 3)]);
    }
    ask.extend([register(MOVE, 1, 6), value(CALL, 0, CB_FLAGS_SET)]);
    let gone = [vec![value(MOV, 2, FLAGS_GONE.cast_signed())], count(counts)].concat();
    let missed = [
        vec![load(2, 6, CB_FLAGS), value(AND, 2, flags)],
        vec![jump(JUMP_EQUAL, 2, flags, &gone)],
        gone,
    ]
    .concat();
    let look = [
        vec![jump(JUMP_UNEQUAL, 2, STATE_CB.cast_signed(), &missed)],
        missed,
    ]
    .concat();
    ask.push(jump(JUMP, 0, 0, &look));
    let counted = [
        vec![load(2, 6, OP)],
        count(counts),
        vec![load(2, 6, OP)],
        vec![jump(JUMP_UNEQUAL, 2, PASSIVE_ESTABLISHED_CB, &ask)],
        ask,
        look,
    ]
    .concat();
    [
        vec![register(MOVE, 6, 1), load(2, 6, LOCAL_PORT)],
        vec![jump(JUMP_UNEQUAL, 2, i32::from(port), &counted)],
        counted,
        vec![value(MOV, 0, 1), value(EXIT, 0, 0)],
    ]
    .concat()
}

/// `counts[r2] += 1`
fn count(counts: i32) -> Vec<Insn> {
    const MAP_FD: u8 = 1;
    const MAP_LOOKUP: i32 = 1;
    let add = vec![value(MOV, 1, 1), insn(ATOMIC_ADD_U64, 0, 1, 0, 0)];
    [
        vec![
            insn(STORE_U32, 10, 2, -4, 0),
            insn(LOAD_IMMEDIATE_U64, 1, MAP_FD, 0, counts),
            insn(0, 0, 0, 0, 0),
            register(MOVE, 2, 10),
            value(ADD, 2, -4),
            value(CALL, 0, MAP_LOOKUP),
            jump(JUMP_EQUAL, 0, 0, &add),
        ],
        add,
    ]
    .concat()
}

// Documentation/bpf/standardization/instruction-set.rst
const MOV: u8 = 0xb7;
const MOVE: u8 = 0xbf;
const ADD: u8 = 0x07;
const AND: u8 = 0x57;
const OR: u8 = 0x4f;
const CALL: u8 = 0x85;
const EXIT: u8 = 0x95;
const JUMP: u8 = 0x05;
const JUMP_EQUAL: u8 = 0x15;
const JUMP_UNEQUAL: u8 = 0x55;
const LOAD_U32: u8 = 0x61;
const LOAD_IMMEDIATE_U64: u8 = 0x18;
const STORE_U32: u8 = 0x63;
const ATOMIC_ADD_U64: u8 = 0xdb;

fn load(to: u8, from: u8, offset: i16) -> Insn {
    insn(LOAD_U32, to, from, offset, 0)
}

fn register(code: u8, to: u8, from: u8) -> Insn {
    insn(code, to, from, 0, 0)
}

fn value(code: u8, to: u8, value: i32) -> Insn {
    insn(code, to, 0, 0, value)
}

/// A jump over what comes next.
fn jump(code: u8, register: u8, value: i32, over: &[Insn]) -> Insn {
    let distance = i16::try_from(over.len()).expect("a short program");
    insn(code, register, 0, distance, value)
}

fn insn(code: u8, to: u8, from: u8, offset: i16, immediate: i32) -> Insn {
    Insn {
        code,
        registers: to | from << 4,
        offset,
        immediate,
    }
}
