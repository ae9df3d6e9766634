//! Forwards records to other places while they are written, and anchors checkpoints there.
//!
//! Owns: its configuration ([`config`]), what is sent next ([`source`]), how far each sink has got ([`cursor`]), the
//! ways out ([`sink`]), the loop that puts them together ([`worker`]) and numbers of all this ([`metrics`], [`serve`]). Each sink has a thread, a reader and a
//! state of its own: one that is down holds up itself and nobody else. Logs are the queue: nothing is kept in memory
//! but one batch a sink, and no session ever waits for this. Delivery is at least once: after a failure everything
//! is sent again from the last place that is known to have arrived.
//!
//! Never: writes a log, is needed by a session, sends what the log does not hold.

pub mod address;
pub mod config;
pub mod cursor;
pub mod metrics;
pub mod serve;
pub mod sink;
pub mod source;
pub mod worker;
