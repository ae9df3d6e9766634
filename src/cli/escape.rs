//! The keys that detach: a key with Ctrl, then `d`. Everything else that is typed is the command's.

use std::str::FromStr;

/// What `--escape` says.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum EscapeKey {
    /// No key detaches.
    None,
    /// This control character does.
    Control(u8),
}

impl FromStr for EscapeKey {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let lower = text.to_ascii_lowercase();
        if lower == "none" {
            return Ok(Self::None);
        }
        let key = lower.strip_prefix("ctrl-").or(lower.strip_prefix('^'));
        match key.map(str::as_bytes) {
            Some([key @ (b'a'..=b'z' | b'\\' | b']' | b'^' | b'_')]) => {
                Ok(Self::Control(key & 0x1f))
            }
            _ => Err("use ctrl-] or another letter with ctrl, or none".to_owned()),
        }
    }
}

/// What was typed, as far as the key is concerned.
#[derive(Debug)]
pub(super) struct Escape {
    key: EscapeKey,
    /// The key was pressed last.
    pressed: bool,
}

impl Escape {
    pub(super) fn new(key: EscapeKey) -> Self {
        Self {
            key,
            pressed: false,
        }
    }

    /// Appends to `output` what is for the command; answers whether to detach. The key twice is the key
    /// once, the key and anything but `d` is both.
    pub(super) fn pass(&mut self, typed: &[u8], output: &mut Vec<u8>) -> bool {
        let EscapeKey::Control(key) = self.key else {
            output.extend_from_slice(typed);
            return false;
        };
        for byte in typed {
            match (std::mem::take(&mut self.pressed), *byte) {
                (true, b'd') => return true,
                (true, byte) if byte == key => output.push(key),
                (false, byte) if byte == key => self.pressed = true,
                (true, byte) => output.extend([key, byte]),
                (false, byte) => output.push(byte),
            }
        }
        false
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_key_reaches_the_command_but_the_two_that_detach() {
        let typed = |key: &str, pieces: &[&[u8]]| {
            let mut escape = Escape::new(key.parse().unwrap());
            let mut output = Vec::new();
            let detach = pieces.iter().any(|piece| escape.pass(piece, &mut output));
            (output, detach)
        };
        let all: Vec<u8> = (0..=255).collect();
        assert_eq!(typed("none", &[&all]), (all.clone(), false));
        assert_eq!(typed("ctrl-]", &[&all]), (all.clone(), false));
        assert_eq!(typed("ctrl-]", &[b"a\x1d", b"d"]), (b"a".to_vec(), true));
        assert_eq!(
            typed("^]", &[b"\x1d\x1dd\x1dx"]),
            (b"\x1dd\x1dx".to_vec(), false)
        );
        assert_eq!(typed("ctrl-p", &[b"\x10d"]), (Vec::new(), true));
        for wrong in ["", "]", "ctrl-", "ctrl-ab", "ctrl-1", "x"] {
            assert!(wrong.parse::<EscapeKey>().is_err(), "{wrong}");
        }
    }
}
