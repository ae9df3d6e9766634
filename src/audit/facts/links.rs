//! What ties records together: most speak of a connection that an earlier one decided, and are about what that one
//! was about.

use std::borrow::Cow;
use std::collections::HashMap;

use super::{About, Facts};

/// How many of a session's connections without an end on record are remembered at least.
const REMEMBERED: u64 = 1 << 15;

/// What ties a record to an earlier one of its session.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Link {
    /// The `egress.decided` of a connection.
    Conn(u64),
    /// The `approval.asked` of a question.
    Question(u64),
}

/// Where a record stands: the number of the segment within its session, and the byte.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Default)]
pub struct Place {
    /// The segment, from 1.
    pub segment: u32,
    /// Where in its plain text.
    pub offset: u64,
}

/// The records of one session that later ones go back to.
#[derive(Debug, Clone, Default)]
pub struct Links {
    known: HashMap<Link, Known>,
    taken: u64,
}

#[derive(Debug, Clone)]
struct Known {
    about: About<'static>,
    place: Place,
    order: u64,
}

impl Links {
    /// Completes the facts of the next record and answers where the one stands that it goes back to.
    pub fn follow(&mut self, facts: &mut Facts<'_>, place: Place) -> Option<Place> {
        if let Some(link) = facts.begins() {
            if facts.verdict.as_deref() == Some("deny") {
                // Nothing follows.
                self.known.remove(&link);
            } else {
                self.put(link, facts.about.clone(), place);
            }
            return None;
        }
        let link = facts.goes_back_to()?;
        let known = self.known.get(&link)?;
        facts.about.complete(&known.about);
        let place = known.place;
        if facts.event == "egress.closed" || facts.event == "approval.answered" {
            self.known.remove(&link);
        }
        Some(place)
    }

    /// Remembers a record that others go back to.
    pub fn put(&mut self, link: Link, about: About<'_>, place: Place) {
        let order = self.taken;
        self.taken += 1;
        let about = about.into_owned();
        let known = Known {
            about,
            place,
            order,
        };
        self.known.insert(link, known);
        if self.known.len() as u64 > 2 * REMEMBERED {
            let oldest = self.taken.saturating_sub(REMEMBERED);
            self.known.retain(|_, known| known.order >= oldest);
        }
    }

    /// Those that later records may go back to, and where they stand, oldest first.
    pub fn open(&self) -> Vec<(Link, Place)> {
        let open = self.known.iter();
        let mut open: Vec<_> = open
            .map(|(link, known)| (known.order, *link, known.place))
            .collect();
        open.sort_unstable();
        open.into_iter()
            .map(|(_, link, place)| (link, place))
            .collect()
    }
}

impl Facts<'_> {
    /// Whether later records go back to this one.
    pub fn begins(&self) -> Option<Link> {
        match &*self.event {
            "egress.decided" => self.conn.map(Link::Conn),
            "approval.asked" => self.question.map(Link::Question),
            _ => None,
        }
    }

    /// Which earlier record this one goes back to.
    pub fn goes_back_to(&self) -> Option<Link> {
        match &*self.event {
            "egress.decided" | "approval.asked" => None,
            _ => self
                .conn
                .map(Link::Conn)
                .or(self.question.map(Link::Question)),
        }
    }
}

impl<'a> About<'a> {
    /// Takes from an earlier record what this one leaves open.
    pub fn complete(&mut self, earlier: &About<'_>) {
        fn take(own: &mut Option<Cow<'_, str>>, earlier: Option<&Cow<'_, str>>) {
            if own.is_none() {
                *own = earlier.map(|text| text.clone().into_owned().into());
            }
        }
        // A port belongs to its host.
        if self.host.is_none() {
            self.port = earlier.port;
        }
        take(&mut self.host, earlier.host.as_ref());
        take(&mut self.method, earlier.method.as_ref());
        take(&mut self.path, earlier.path.as_ref());
        take(&mut self.rule, earlier.rule.as_ref());
        take(&mut self.exe, earlier.exe.as_ref());
        take(&mut self.thread, earlier.thread.as_ref());
    }

    fn into_owned(self) -> About<'static> {
        let own = |text: Option<Cow<'a, str>>| text.map(|text| text.into_owned().into());
        About {
            host: own(self.host),
            port: self.port,
            method: own(self.method),
            path: own(self.path),
            rule: own(self.rule),
            exe: own(self.exe),
            thread: own(self.thread),
        }
    }
}
