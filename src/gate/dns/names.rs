//! Addresses that stand for names, within one session.
//!
//! IPv4 addresses are of 198.18.0.0/15, the block for benchmarks (RFC 2544): it is routed nowhere, is
//! nobody's private network, and `policy::AddressPolicy` refuses to dial it. IPv6 addresses are of its twin
//! 2001:2::/48 (RFC 5180), for the same reasons; an address of fc00::/7 could be one of the host's networks.
//! In the jail they lead to the gate like every address. Outside they are never used: the gate dials what
//! the name resolves to.
//!
//! A name keeps its address for the session, and no address is ever given to a second name: a program that
//! remembers one for longer than its TTL must not reach another host by it. So their number is bounded, and
//! when it is reached a new name gets none.

use std::cell::{Cell, RefCell};
use std::collections::HashMap;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::rc::Rc;

use crate::policy::{DomainName, Host};

use super::super::memory::{Memory, Note};

/// Names of one session. Must stay below the 130,816 addresses from [`FIRST_V4`] to the end of the block.
const MAX_NAMES: u32 = 65_536;

/// 198.18.1.0: what lies below in the block is for the jail's own device.
const FIRST_V4: u32 = u32::from_be_bytes([198, 18, 1, 0]);

/// 2001:2:0:1::
const FIRST_V6: u128 = 0x2001_0002_0000_0001 << 64;

/// The names that were asked for and may be allowed.
#[derive(Debug, Default)]
pub(in crate::gate) struct Names {
    by_name: RefCell<HashMap<DomainName, u32>>,
    in_order: RefCell<Vec<DomainName>>,
    ipv6: Cell<bool>,
    /// So that no address is ever given to a second name, whatever becomes of this gate.
    memory: Option<Rc<Memory>>,
}

impl Names {
    /// Those that an earlier gate of the session has named keep their addresses.
    pub(in crate::gate) fn new(memory: Rc<Memory>, known: &[DomainName]) -> Self {
        let names = Self::default();
        for name in known {
            names.add(name);
        }
        Self {
            memory: Some(memory),
            ..names
        }
    }

    /// Says that the jail has IPv6.
    pub(in crate::gate) fn with_ipv6(&self) {
        self.ipv6.set(true);
    }

    /// Whether the jail has IPv6.
    pub(super) fn has_ipv6(&self) -> bool {
        self.ipv6.get()
    }

    /// The address of a name, its own from now on. None: there are too many names.
    pub(super) fn address_of(&self, name: &DomainName, v6: bool) -> Option<IpAddr> {
        let known = self.by_name.borrow().get(name).copied();
        let number = match known {
            Some(number) => number,
            None => self.add(name)?,
        };
        Some(if v6 {
            IpAddr::V6(Ipv6Addr::from_bits(FIRST_V6 + u128::from(number)))
        } else {
            IpAddr::V4(Ipv4Addr::from_bits(FIRST_V4 + number))
        })
    }

    fn add(&self, name: &DomainName) -> Option<u32> {
        let mut in_order = self.in_order.borrow_mut();
        let number = u32::try_from(in_order.len()).ok()?;
        if number >= MAX_NAMES {
            return None;
        }
        if let Some(memory) = &self.memory {
            memory.keep(&Note::Name(name.clone()));
        }
        in_order.push(name.clone());
        self.by_name.borrow_mut().insert(name.clone(), number);
        Some(number)
    }

    /// The host that an address stands for: the name it was given to, else the address itself. One that was
    /// never given out stays an address, of a block that is not dialed.
    pub(in crate::gate) fn host(&self, host: Host) -> Host {
        let Host::Addr(address) = &host else {
            return host;
        };
        let number = match address.to_canonical() {
            IpAddr::V4(v4) => v4.to_bits().checked_sub(FIRST_V4).map(u128::from),
            IpAddr::V6(v6) => v6.to_bits().checked_sub(FIRST_V6),
        };
        let place = number.and_then(|number| usize::try_from(number).ok());
        let in_order = self.in_order.borrow();
        match place.and_then(|place| in_order.get(place)) {
            Some(name) => Host::Name(name.clone()),
            None => host,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn name(text: &str) -> DomainName {
        DomainName::parse(text).unwrap()
    }

    fn at(text: &str) -> Host {
        Host::parse(text).unwrap()
    }

    #[test]
    fn a_name_keeps_its_addresses_and_each_leads_back_to_it() {
        let names = Names::default();
        let a4 = names.address_of(&name("a.test"), false).unwrap();
        let b6 = names.address_of(&name("b.test"), true).unwrap();
        assert_eq!(a4.to_string(), "198.18.1.0");
        assert_eq!(b6.to_string(), "2001:2:0:1::1");
        assert_eq!(names.address_of(&name("a.test"), false), Some(a4));
        assert_eq!(names.host(Host::from(a4)), at("a.test"));
        assert_eq!(names.host(at("2001:2:0:1::")), at("a.test"));
        assert_eq!(names.host(at("::ffff:198.18.1.1")), at("b.test"));
        for never in [
            "198.18.0.1",
            "198.18.1.2",
            "2001:2:0:1::2",
            "2001:2::1",
            "192.0.2.1",
            "c.test",
        ] {
            assert_eq!(names.host(at(never)), at(never));
        }
    }

    #[test]
    fn a_session_that_has_named_too_many_hosts_gets_no_new_address_and_keeps_the_old() {
        let names = Names::default();
        for number in 0..MAX_NAMES {
            assert!(
                names
                    .address_of(&name(&format!("n{number}.test")), false)
                    .is_some()
            );
        }
        assert_eq!(names.address_of(&name("one-more.test"), false), None);
        let last = names
            .address_of(&name(&format!("n{}.test", MAX_NAMES - 1)), false)
            .unwrap();
        assert_eq!(last.to_string(), "198.19.0.255");
        let refused = crate::policy::AddressPolicy::default().check(last);
        assert_eq!(refused, Err(crate::policy::AddressClass::Reserved));
        assert!(
            crate::policy::AddressPolicy::default()
                .check("2001:2:0:1::1".parse().unwrap())
                .is_err()
        );
    }

    proptest! {
        #[test]
        fn no_address_stands_for_two_names(asked in prop::collection::vec(("[a-d]{1,2}", any::<bool>()), 0..60)) {
            let names = Names::default();
            let mut given: HashMap<IpAddr, String> = HashMap::new();
            for (label, v6) in asked {
                let address = names.address_of(&name(&format!("{label}.test")), v6).unwrap();
                prop_assert_eq!(given.entry(address).or_insert_with(|| label.clone()), &label);
                prop_assert_eq!(names.host(Host::from(address)), at(&format!("{label}.test")));
            }
        }
    }
}
