//! What origins chose to speak in their first handshake, so that requests at once to a fresh origin wait
//! for one handshake where that gives them a session to share, and do not wait where it cannot.

use std::cell::RefCell;
use std::collections::{HashMap, HashSet};
use std::rc::Rc;

use tokio::sync::watch;

use super::pool::Key;

/// Origins remembered to speak only HTTP/1.1.
const REMEMBERED: usize = 256;

/// What is known, and who is finding out.
#[derive(Debug, Default)]
pub(super) struct Choices {
    /// Origins in their first handshake.
    asking: RefCell<HashMap<Key, watch::Receiver<()>>>,
    /// Origins that did not choose HTTP/2.
    http1_only: RefCell<HashSet<Key>>,
}

/// Who finds out what an origin speaks.
#[derive(Debug)]
pub(super) enum Turn {
    /// The caller, while it holds this.
    Mine(Asking),
    /// Another request; this resolves when it has, or has given up.
    Other(watch::Receiver<()>),
}

/// Asks an origin what it speaks; dropping it wakes whoever waits for that.
#[derive(Debug)]
pub(super) struct Asking {
    choices: Rc<Choices>,
    key: Key,
    _waiting: watch::Sender<()>,
}

impl Drop for Asking {
    fn drop(&mut self) {
        self.choices.asking.borrow_mut().remove(&self.key);
    }
}

impl Choices {
    /// Who finds out what this origin speaks; `None`: nobody needs to.
    pub(super) fn turn(self: &Rc<Self>, key: &Key) -> Option<Turn> {
        if !key.secure || self.http1_only.borrow().contains(key) {
            return None;
        }
        let mut asking = self.asking.borrow_mut();
        if let Some(waiting) = asking.get(key) {
            return Some(Turn::Other(waiting.clone()));
        }
        let (sender, receiver) = watch::channel(());
        asking.insert(key.clone(), receiver);
        Some(Turn::Mine(Asking {
            choices: Rc::clone(self),
            key: key.clone(),
            _waiting: sender,
        }))
    }

    /// The origin chose HTTP/1.1.
    pub(super) fn remember_http1(&self, key: &Key) {
        let mut known = self.http1_only.borrow_mut();
        if known.len() >= REMEMBERED {
            known.clear();
        }
        known.insert(key.clone());
    }

    /// The origin chose HTTP/2, whatever it did before.
    pub(super) fn forget(&self, key: &Key) {
        self.http1_only.borrow_mut().remove(key);
    }
}
