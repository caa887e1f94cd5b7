//! A program that does nothing, on each of the hooks that weir's programs stand on, by their names.

use aya_ebpf::{
    macros::{btf_tracepoint, fentry, sock_ops},
    programs::{BtfTracePointContext, FEntryContext, SockOpsContext},
};

macro_rules! empty {
    ($($name:ident = $hook:literal),* $(,)?) => {
        $(
            #[btf_tracepoint(function = $hook)]
            pub fn $name(_ctx: BtfTracePointContext) -> i32 {
                0
            }
        )*
    };
}

empty!(
    tcp_probe = "tcp_probe",
    inet_sock_set_state = "inet_sock_set_state",
    tcp_sendmsg_locked = "tcp_sendmsg_locked",
    sock_send_length = "sock_send_length",
    tcp_retransmit_skb = "tcp_retransmit_skb",
    tcp_retransmit_synack = "tcp_retransmit_synack",
    tcp_receive_reset = "tcp_receive_reset",
    tcp_send_reset = "tcp_send_reset",
);

#[fentry(function = "tcp_sendmsg_locked")]
pub fn sendmsg_entry(_ctx: FEntryContext) -> i32 {
    0
}

#[sock_ops]
pub fn sock_ops(_ctx: SockOpsContext) -> u32 {
    1
}
