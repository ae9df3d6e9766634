//! What crosses process borders: length-capped frames on Unix sockets, with passed descriptors.
//!
//! Owns: the framing ([`frame`], [`inbox`]) and the messages of each border, one file a border: [`audit`]
//! (session and gate ↔ audit writer), [`gate`] (session ↔ gate), [`init`] (session ↔ init), [`detached`] (`run
//! --detach` ↔ session), [`session`] (another terminal ↔ session), [`sweep`] (session ↔ sweeper of
//! placeholders), [`transparent`] and [`reach`] (session ↔ helpers in the jail's network), [`witness`]
//! (session ↔ who knows the jail's processes ↔ gate), [`supply`] (starter → gate
//! and audit writer), [`control`] (anybody ↔ `portcullisd`), [`service`] (`portcullisd` ↔ session).
//! Trusts: nothing that it reads; a frame over the cap or with unknown fields ends the channel.
//! Never: decides anything.
#![forbid(unsafe_code)]

pub mod audit;
pub mod control;
pub mod detached;
pub mod frame;
pub mod gate;
pub mod inbox;
pub mod init;
pub mod reach;
pub mod service;
pub mod session;
pub mod supply;
pub mod sweep;
pub mod transparent;
pub mod witness;

pub use frame::{Channel, MAX_FRAME, WireError};
pub use inbox::Inbox;
