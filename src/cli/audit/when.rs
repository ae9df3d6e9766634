//! Points in time, as people write them.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{Span, Timestamp, Zoned};

/// Reads one, seen from now and in the time zone of now.
pub(super) fn parse(text: &str, now: &Zoned) -> Result<Timestamp, String> {
    let text = text.trim();
    let at = match text {
        "now" => Some(now.timestamp()),
        "today" => midnight(now.date(), now.time_zone()),
        "yesterday" => now
            .date()
            .yesterday()
            .ok()
            .and_then(|day| midnight(day, now.time_zone())),
        _ => ago(text, now)
            .or_else(|| text.parse::<Timestamp>().ok())
            .or_else(|| {
                // What has a time of day would be read as well, without it.
                let day = (!text.contains(['T', 't', ' ', ':'])).then_some(text)?;
                midnight(day.parse::<Date>().ok()?, now.time_zone())
            })
            .or_else(|| {
                let local = text.parse::<DateTime>().ok()?;
                Some(local.to_zoned(now.time_zone().clone()).ok()?.timestamp())
            }),
    };
    at.ok_or_else(|| {
        format!(
            "{:?} is no time; write 2h, 3d, yesterday, 2026-11-23 or 2026-11-23T10:00:00Z",
            super::escape(text)
        )
    })
}

/// When a day begins, which is not everywhere and always at 0 o'clock.
fn midnight(day: Date, zone: &TimeZone) -> Option<Timestamp> {
    Some(day.to_zoned(zone.clone()).ok()?.timestamp())
}

/// `90s`, `15m`, `2h`, `3d`, `1w` before now; days are those of the clock on the wall.
fn ago(text: &str, now: &Zoned) -> Option<Timestamp> {
    let unit = text.chars().last()?;
    let count: i64 = text.strip_suffix(unit)?.parse().ok().filter(|n| *n >= 0)?;
    let none = Span::new();
    let span = match unit {
        's' => none.try_seconds(count),
        'm' => none.try_minutes(count),
        'h' => none.try_hours(count),
        'd' => none.try_days(count),
        'w' => none.try_weeks(count),
        _ => return None,
    };
    let at = now.checked_sub(span.ok()?).ok()?.timestamp();
    // Whole milliseconds: records are looked up by those.
    at.round(jiff::Unit::Millisecond).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let now: Zoned = "2026-03-29T12:00:00.5+02:00[Europe/Berlin]"
            .parse()
            .unwrap();
        let cases = [
            ("2h", "2026-03-29T08:00:00.5Z"),
            ("90s", "2026-03-29T09:58:30.5Z"),
            ("0m", "2026-03-29T10:00:00.5Z"),
            // The clock went forward that night.
            ("1d", "2026-03-28T11:00:00.5Z"),
            ("1w", "2026-03-22T11:00:00.5Z"),
            ("now", "2026-03-29T10:00:00.5Z"),
            ("today", "2026-03-28T23:00:00Z"),
            ("yesterday", "2026-03-27T23:00:00Z"),
            ("2026-03-29", "2026-03-28T23:00:00Z"),
            ("2026-03-30", "2026-03-29T22:00:00Z"),
            ("2026-03-29T10:00", "2026-03-29T08:00:00Z"),
            ("2026-03-29T10:00:00Z", "2026-03-29T10:00:00Z"),
            ("2026-03-29T10:00:00+05:00", "2026-03-29T05:00:00Z"),
        ];
        for (text, expected) in cases {
            assert_eq!(parse(text, &now), Ok(expected.parse().unwrap()), "{text}");
        }
        for odd in [
            "",
            "h",
            "-2h",
            "2y",
            "soon",
            "2026-13-01",
            "99999999999999w",
            "2026-03-29T",
        ] {
            assert!(parse(odd, &now).is_err(), "{odd}");
        }
    }
}
