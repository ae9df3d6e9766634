//! The end of sockets on which others may have sent descriptors that nobody has taken. Their last close(2) is
//! ours then, and can take as long as their owner likes (SO_LINGER, socket(7)): a thread that does nothing else
//! waits for it. It ends with that, at the latest with us: an exit lingers for nobody.

use std::thread::Builder;

/// A page or two are enough.
const STACK: usize = 64 << 10;

/// Closes it, and waits for nothing.
pub(super) fn close(socket: impl Send + 'static) {
    let closes = move || drop(socket);
    // Where there is no room for a thread it is closed here.
    Builder::new().stack_size(STACK).spawn(closes).ok();
}
