//! Times as people write them.

use jiff::civil::{Date, DateTime};
use jiff::tz::TimeZone;
use jiff::{SignedDuration, Timestamp};

/// A date or a time of this machine's zone, RFC 3339, or how long ago: `90s`, `15m`, `2h`, `7d`, `2w`.
pub(super) fn parse(text: &str) -> Result<Timestamp, String> {
    if let Some(ago) = ago(text) {
        let then = Timestamp::now().checked_sub(ago);
        return then.map_err(|error| error.to_string());
    }
    if let Ok(time) = text.parse::<Timestamp>() {
        return Ok(time);
    }
    let local = match text.parse::<Date>() {
        Ok(date) if text.len() == "2026-01-31".len() => Ok(date.at(0, 0, 0, 0)),
        _ => text.parse::<DateTime>(),
    };
    local
        .and_then(|local| local.to_zoned(TimeZone::system()))
        .map(|zoned| zoned.timestamp())
        .map_err(|_| {
            "not a time; write 2026-01-31, 2026-01-31T08:00, 2026-01-31T08:00:00Z, or how long ago as 2h or 7d"
                .to_owned()
        })
}

fn ago(text: &str) -> Option<SignedDuration> {
    let unit = text.chars().last()?;
    let number: i64 = text.strip_suffix(unit)?.parse().ok()?;
    let seconds = match unit {
        's' => 1,
        'm' => 60,
        'h' => 3600,
        'd' => 86_400,
        'w' => 604_800,
        _ => return None,
    };
    (number >= 0).then_some(())?;
    Some(SignedDuration::from_secs(number.checked_mul(seconds)?))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_are_read_as_people_write_them() {
        let utc: Timestamp = "2026-01-31T08:00:00Z".parse().unwrap();
        assert_eq!(parse("2026-01-31T08:00:00Z").unwrap(), utc);
        assert_eq!(parse("2026-01-31T09:00:00+01:00").unwrap(), utc);
        let zone = TimeZone::system();
        let local = |text: &str| text.parse::<DateTime>().unwrap().to_zoned(zone.clone());
        let expected = local("2026-01-31T08:00").unwrap().timestamp();
        assert_eq!(parse("2026-01-31T08:00").unwrap(), expected);
        let midnight = local("2026-01-31T00:00").unwrap().timestamp();
        assert_eq!(parse("2026-01-31").unwrap(), midnight);
        let two_hours = Timestamp::now().duration_since(parse("2h").unwrap());
        assert!((7200..7300).contains(&two_hours.as_secs()));
        for bad in ["", "yesterday", "-2h", "2y", "2026-13-01"] {
            assert!(parse(bad).is_err(), "{bad}");
        }
    }
}
