//! Amounts as people write them in files and on command lines: `200M`, `30m`, `10000`.

/// Decimal digits alone: no sign, no space.
pub fn decimal(text: &str) -> Option<u64> {
    let digits = !text.is_empty() && text.bytes().all(|byte| byte.is_ascii_digit());
    if digits { text.parse().ok() } else { None }
}

/// Bytes, in powers of 1024.
pub fn size(text: &str) -> Option<u64> {
    let units = [
        ("K", 1 << 10),
        ("M", 1 << 20),
        ("G", 1 << 30),
        ("T", 1 << 40),
    ];
    let scaled = units
        .into_iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)));
    let (digits, unit) = scaled.unwrap_or((text, 1_u64));
    decimal(digits)?.checked_mul(unit)
}

/// A time with its unit.
pub fn milliseconds(text: &str) -> Option<u64> {
    // "ms" before "s", which it ends with.
    let units = [
        ("ms", 1),
        ("s", 1000),
        ("m", 60_000),
        ("h", 3_600_000),
        ("d", 86_400_000),
    ];
    let (digits, unit) = units
        .into_iter()
        .find_map(|(name, unit)| Some((text.strip_suffix(name)?, unit)))?;
    decimal(digits)?.checked_mul(unit)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn amounts_have_one_unit_or_none_and_no_sign() {
        assert_eq!(size("2K"), Some(2048));
        assert_eq!(size("512"), Some(512));
        assert_eq!(milliseconds("90s"), Some(90_000));
        assert_eq!(milliseconds("7ms"), Some(7));
        assert_eq!(milliseconds("2d"), Some(172_800_000));
        for bad in ["", "K", "-1", "+1", " 1", "1 K", "1k", "99999999999T"] {
            assert_eq!(size(bad), None, "{bad}");
        }
        for bad in ["", "s", "5", "1h30m", "-1s"] {
            assert_eq!(milliseconds(bad), None, "{bad}");
        }
    }
}
