//! Numbers in as few bytes as they need: seven bits a byte, the lowest first (LEB128), and for differences
//! the sign in the lowest bit (zigzag).

/// Appends a number.
pub(super) fn put(buffer: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        buffer.push(low(number) | 0x80);
        number >>= 7;
    }
    buffer.push(low(number));
}

/// Appends a difference.
pub(super) fn put_signed(buffer: &mut Vec<u8>, number: i64) {
    put(buffer, ((number << 1) ^ (number >> 63)).cast_unsigned());
}

/// Takes a number from the front. `None`: there is none, or it is too long.
pub(super) fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0_u64;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Takes a difference from the front.
pub(super) fn take_signed(bytes: &mut &[u8]) -> Option<i64> {
    let number = take(bytes)?;
    Some((number >> 1).cast_signed() ^ -(number & 1).cast_signed())
}

fn low(number: u64) -> u8 {
    (number & 0x7f) as u8
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_come_back() {
        let mut buffer = Vec::new();
        let numbers = [0, 1, 127, 128, 65_535, u64::MAX];
        let signed = [0, -1, 1, i64::MIN, i64::MAX];
        for number in numbers {
            put(&mut buffer, number);
        }
        for number in signed {
            put_signed(&mut buffer, number);
        }
        let mut rest = buffer.as_slice();
        assert_eq!(numbers.map(|_| take(&mut rest).unwrap()), numbers);
        assert_eq!(signed.map(|_| take_signed(&mut rest).unwrap()), signed);
        assert_eq!(take(&mut rest), None);
        assert_eq!(take(&mut [0xff; 10].as_slice()), None);
    }
}
