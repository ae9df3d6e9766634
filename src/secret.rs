//! Values that nobody may read by accident: never printed, wiped when dropped.
//!
//! Owns: the type that a credential's value lives in, its form on the wire, and a buffer that leaves
//! no copy behind when it grows. Never: prints a value, compares one, copies one without being asked.
//! What cannot be wiped from here: what the kernel buffers, and what a library copies for itself.

use std::fmt;
use std::io::{self, Write};

use zeroize::{Zeroize, Zeroizing};

/// A value that prints as `[secret]` and is overwritten with zeros when it is dropped.
pub struct Secret<T: Zeroize>(T);

impl<T: Zeroize> Secret<T> {
    /// From here on it is a secret.
    pub fn new(value: T) -> Self {
        Self(value)
    }

    /// The value, for the one place that needs it.
    pub fn expose(&self) -> &T {
        &self.0
    }
}

impl<T: Zeroize> Drop for Secret<T> {
    fn drop(&mut self) {
        self.0.zeroize();
    }
}

impl<T: Zeroize> fmt::Debug for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

impl<T: Zeroize> fmt::Display for Secret<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("[secret]")
    }
}

/// The form on the wire, for `#[serde(with = "secret::wire")]` and nothing else: hex digits. No JSON
/// escape stands in them, so that a reader takes the value straight out of the frame and keeps no copy.
pub mod wire {
    use std::fmt;

    use data_encoding::HEXLOWER;
    use serde::de::{Deserializer, Error, Visitor};
    use serde::ser::Serializer;
    use zeroize::{Zeroize, Zeroizing};

    use super::Secret;

    /// Writes the value.
    pub fn serialize<S: Serializer>(
        secret: &Secret<String>,
        serializer: S,
    ) -> Result<S::Ok, S::Error> {
        let digits = Zeroizing::new(HEXLOWER.encode(secret.expose().as_bytes()));
        serializer.serialize_str(&digits)
    }

    /// Reads the value. An error says nothing of it.
    pub fn deserialize<'de, D: Deserializer<'de>>(
        deserializer: D,
    ) -> Result<Secret<String>, D::Error> {
        deserializer.deserialize_str(Digits)
    }

    struct Digits;

    impl Visitor<'_> for Digits {
        type Value = Secret<String>;

        fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
            f.write_str("a secret in hex digits")
        }

        fn visit_str<E: Error>(self, digits: &str) -> Result<Self::Value, E> {
            let broken = || E::custom("not a secret in hex digits");
            let bytes = HEXLOWER.decode(digits.as_bytes()).map_err(|_| broken())?;
            match String::from_utf8(bytes) {
                Ok(text) => Ok(Secret::new(text)),
                Err(error) => {
                    error.into_bytes().zeroize();
                    Err(broken())
                }
            }
        }
    }
}

/// Bytes that are wiped when dropped, and whenever they move because they grow.
#[derive(Default)]
pub struct WipedBytes(Zeroizing<Vec<u8>>);

impl WipedBytes {
    /// The bytes so far.
    pub fn as_slice(&self) -> &[u8] {
        &self.0
    }

    /// The bytes so far.
    pub fn as_mut_slice(&mut self) -> &mut [u8] {
        &mut self.0
    }
}

impl fmt::Debug for WipedBytes {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "[{} secret bytes]", self.0.len())
    }
}

impl Write for WipedBytes {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let needed = self.0.len().saturating_add(bytes.len());
        if needed > self.0.capacity() {
            // Vec would move the bytes itself and leave the old ones where they were.
            let capacity = needed.max(self.0.capacity().saturating_mul(2));
            let mut grown = Zeroizing::new(Vec::with_capacity(capacity));
            grown.extend_from_slice(&self.0);
            self.0 = grown;
        }
        self.0.extend_from_slice(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use serde::{Deserialize, Serialize};

    use super::*;

    #[derive(Debug, Serialize, Deserialize)]
    struct Carrier {
        #[serde(with = "wire")]
        value: Secret<String>,
    }

    #[test]
    fn nothing_prints_a_secret() {
        let carrier = Carrier {
            value: Secret::new("hunter2".to_owned()),
        };
        assert_eq!(format!("{carrier:?}"), "Carrier { value: [secret] }");
        assert_eq!(carrier.value.to_string(), "[secret]");
    }

    #[test]
    fn the_wire_form_has_no_escapes_and_reads_back() {
        let odd = "a\"b\\c\u{1}é".to_owned();
        let carrier = Carrier {
            value: Secret::new(odd.clone()),
        };
        let text = serde_json::to_string(&carrier).unwrap();
        assert!(!text.contains('\\') && !text.contains(&odd), "{text}");
        let back: Carrier = serde_json::from_str(&text).unwrap();
        assert_eq!(*back.value.expose(), odd);
        for wrong in [r#"{"value":"zz"}"#, r#"{"value":"ff"}"#, r#"{"value":1}"#] {
            let error = serde_json::from_str::<Carrier>(wrong).unwrap_err();
            assert!(error.to_string().contains("hex digits"), "{error}");
        }
    }

    #[test]
    fn bytes_that_grow_are_the_same_bytes() {
        let mut bytes = WipedBytes::default();
        for n in 0..100_u8 {
            bytes.write_all(&[n; 37]).unwrap();
        }
        let expected: Vec<u8> = (0..100_u8).flat_map(|n| [n; 37]).collect();
        assert_eq!(bytes.as_slice(), expected);
        assert_eq!(format!("{bytes:?}"), "[3700 secret bytes]");
    }

    #[test]
    fn a_dropped_secret_leaves_zeros() {
        // Wiping in place is seen through a type that says when it happened.
        #[derive(Debug)]
        struct Told(std::rc::Rc<std::cell::Cell<bool>>);
        impl Zeroize for Told {
            fn zeroize(&mut self) {
                self.0.set(true);
            }
        }
        let wiped = std::rc::Rc::new(std::cell::Cell::new(false));
        drop(Secret::new(Told(std::rc::Rc::clone(&wiped))));
        assert!(wiped.get());
    }
}
