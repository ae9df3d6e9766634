//! apt: the sites of every index that its sources name, in whatever format they are written.

use std::collections::BTreeSet;

use super::super::caller::Caller;
use super::{Site, ask::ask, site};

pub(super) fn sites(caller: &Caller) -> Result<BTreeSet<Site>, String> {
    let text = ask(caller, "apt-get", &["indextargets", "--format", "$(SITE)"])?;
    Ok(text.lines().filter_map(site).collect())
}
