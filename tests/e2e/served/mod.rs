//! Codex for an ordinary user of a host with the service: `portcullisd`, its gate and its audit writer are other
//! users there, and the session is in a namespace that root owns.

mod deaths;
mod scene;
mod screen;
mod secrets;
mod work;
