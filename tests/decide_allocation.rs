//! `decide` allocates nothing, whatever it answers: an allocator that counts says so.
#![expect(unsafe_code, reason = "a global allocator is an unsafe trait")]

use std::alloc::{GlobalAlloc, Layout, System};
use std::cell::Cell;

use portcullis::policy::profile::builtin;
use portcullis::policy::{EgressRequest, Profile, Ruleset, Transport, decide};

struct Counting;

thread_local! {
    static ALLOCATIONS: Cell<u64> = const { Cell::new(0) };
}

// SAFETY: every call goes to the system's allocator unchanged; the counter is const-initialised and
// never allocates.
unsafe impl GlobalAlloc for Counting {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ALLOCATIONS.set(ALLOCATIONS.get() + 1);
        // SAFETY: the caller keeps the contract of `alloc`, which is the same.
        unsafe { System.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the block came from `alloc` above, so from the system's.
        unsafe { System.dealloc(block, layout) }
    }
}

#[global_allocator]
static ALLOCATOR: Counting = Counting;

#[test]
fn a_decision_allocates_nothing() {
    let text = "[network]\ndefault='ask'\n[network.tls]\n'p.test'='inspect'\n'**.a.test'='inspect'\n\
        '*.v.a.test'='tunnel'\n'1.1.1.1'='inspect'\n[network.domains]\n'ask.test'='ask'\n\n'**.a.test'='allow'\n'x.a.test'='deny'\n'*'='allow'\n'1.1.1.1'='allow'\n\
        [[network.rules]]\nhost='q.test'\nports=[22]\nprotocol='tcp'\naction='ask'\n\
        [[network.rules]]\nhost='p.test'\nmethods=['PUT']\naction='ask'\n\
        [[network.rules]]\nhost='p.test'\nmethods=['GET']\npaths=['/a/*/c','/b/**']\naction='deny'";
    let profile = Profile::read("p", &mut |name| {
        Ok(if name == "p" {
            Some(text)
        } else {
            builtin(name)
        }
        .map(ToOwned::to_owned))
    });
    let rules = Ruleset::compile(&profile.unwrap().network);
    for ask in [
        "w.v.a.test",
        "x.a.test",
        "any.test:22",
        "1.1.1.1",
        "2.2.2.2",
        "localhost",
        "ask.test",
        "q.test:22",
        "q.test:23",
        "http://p.test/a/b/c",
        "http://p.test/%61",
    ] {
        let mut request = EgressRequest::parse(ask).unwrap();
        for transport in [request.transport, Transport::Socks5, Transport::Inspected] {
            request.transport = transport;
            let before = ALLOCATIONS.get();
            let decision = decide(&rules, &request);
            assert_eq!(ALLOCATIONS.get(), before, "{ask}: {decision:?}");
        }
    }
    // The twin: the counter counts.
    let before = ALLOCATIONS.get();
    drop(Box::new(1));
    assert_ne!(ALLOCATIONS.get(), before);
}
