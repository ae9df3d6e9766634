//! Numbers that a seed makes the same again (SplitMix64, Steele and others 2014).

/// A generator.
#[derive(Debug)]
pub(crate) struct Random(u64);

impl Random {
    pub(crate) fn new(seed: u64) -> Self {
        Self(seed)
    }

    /// A seed for [`Random::new`], printed: that of `PORTCULLIS_KILLS_SEED`, else one of the moment.
    pub(crate) fn seed() -> u64 {
        let seed = std::env::var("PORTCULLIS_KILLS_SEED").map_or_else(
            |_| {
                let now = std::time::SystemTime::UNIX_EPOCH.elapsed().unwrap();
                u64::from(now.subsec_nanos())
            },
            |seed| seed.parse().unwrap(),
        );
        eprintln!("PORTCULLIS_KILLS_SEED={seed}");
        seed
    }

    fn next(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut mixed = self.0;
        mixed = (mixed ^ (mixed >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        mixed = (mixed ^ (mixed >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        mixed ^ (mixed >> 31)
    }

    /// Below this number, which is not 0.
    pub(crate) fn below(&mut self, end: u64) -> u64 {
        self.next() % end
    }

    /// True so many times in a hundred.
    pub(crate) fn percent(&mut self, chance: u64) -> bool {
        self.below(100) < chance
    }

    /// One of these.
    pub(crate) fn one<'a, T>(&mut self, of: &'a [T]) -> &'a T {
        let place = self.below(of.len() as u64);
        &of[usize::try_from(place).unwrap()]
    }
}
