//! Names that lead to a refused address wherever they are resolved: for where the gate hands a name
//! to an upstream proxy and never sees its address.

use super::address::AddressClass;
use super::host::DomainName;

/// Names, and every name below them, with the class of what they lead to.
const NAMES: &[(&str, AddressClass)] = &[
    ("localhost", AddressClass::Loopback), // RFC 6761 section 6.3
    ("localhost.localdomain", AddressClass::Loopback), // hosts files of Red Hat
    ("localhost4", AddressClass::Loopback), // the same
    ("localhost6", AddressClass::Loopback), // the same
    ("ip6-localhost", AddressClass::Loopback), // hosts files of Debian
    ("ip6-loopback", AddressClass::Loopback), // the same
    ("host.docker.internal", AddressClass::Private), // Docker's host, from a proxy in a container
    ("gateway.docker.internal", AddressClass::Private), // the same
    ("host.containers.internal", AddressClass::Private), // Podman's
    ("kubernetes.default", AddressClass::Private), // the API of the proxy's cluster
    ("cluster.local", AddressClass::Private), // its services
    ("metadata", AddressClass::Metadata),  // GCE
    ("metadata.google.internal", AddressClass::Metadata), // GCE
    ("metadata.goog", AddressClass::Metadata), // GCE
    ("instance-data", AddressClass::Metadata), // EC2
    ("instance-data.ec2.internal", AddressClass::Metadata), // EC2
    ("metadata.azure.internal", AddressClass::Metadata), // Azure
    ("metadata.azure.com", AddressClass::Metadata), // Azure
    ("metadata.tencentyun.com", AddressClass::Metadata), // Tencent Cloud
    ("metadata.platformequinix.com", AddressClass::Metadata), // Equinix Metal
    ("metadata.packet.net", AddressClass::Metadata), // the same, before
    ("metadata.oraclecloud.com", AddressClass::Metadata), // Oracle Cloud
];

/// The class of address that a name leads to by what it is called, if it is one of those.
pub fn class_of_name(name: &DomainName) -> Option<AddressClass> {
    NAMES
        .iter()
        .find(|(known, _)| {
            name.as_str()
                .strip_suffix(known)
                .is_some_and(|rest| rest.is_empty() || rest.ends_with('.'))
        })
        .map(|(_, class)| *class)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_of_loopback_and_metadata_are_known_with_all_below_them_and_no_others() {
        let class = |name: &str| class_of_name(&DomainName::parse(name).unwrap());
        assert_eq!(class("LOCALHOST."), Some(AddressClass::Loopback));
        assert_eq!(class("a.localhost"), Some(AddressClass::Loopback));
        assert_eq!(
            class("metadata.google.internal"),
            Some(AddressClass::Metadata)
        );
        for other in ["notlocalhost", "localhost.test", "git.corp.internal", "a.b"] {
            assert_eq!(class(other), None, "{other}");
        }
    }
}
