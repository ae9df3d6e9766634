//! Fields that are read whatever stands in them: one of another type than expected is no field.

use std::borrow::Cow;
use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};

/// A text, or what says the same: the name of a variant that holds more. Anything else is none.
#[derive(Default)]
pub(super) struct Word<'a>(pub(super) Option<Cow<'a, str>>);

/// A number; anything else is none.
#[derive(Default)]
pub(super) struct Number(pub(super) Option<u64>);

/// The texts of a list; anything else has none.
#[derive(Default)]
pub(super) struct Words<'a>(pub(super) Vec<Cow<'a, str>>);

/// A process in a jail.
#[derive(Default)]
pub(super) struct Process<'a> {
    pub(super) exe: Option<Cow<'a, str>>,
    pub(super) argv: Vec<Cow<'a, str>>,
}

/// Whatever stands there.
#[derive(Default)]
struct Loose<'a> {
    text: Option<Cow<'a, str>>,
    number: Option<u64>,
    items: Vec<Cow<'a, str>>,
    exe: Option<Cow<'a, str>>,
    argv: Vec<Cow<'a, str>>,
}

struct LooseVisitor;

impl<'de> Visitor<'de> for LooseVisitor {
    type Value = Loose<'de>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("anything")
    }

    fn visit_borrowed_str<E>(self, text: &'de str) -> Result<Loose<'de>, E> {
        Ok(Loose {
            text: Some(text.into()),
            ..Loose::default()
        })
    }

    fn visit_str<E>(self, text: &str) -> Result<Loose<'de>, E> {
        Ok(Loose {
            text: Some(text.to_owned().into()),
            ..Loose::default()
        })
    }

    fn visit_u64<E>(self, number: u64) -> Result<Loose<'de>, E> {
        Ok(Loose {
            number: Some(number),
            ..Loose::default()
        })
    }

    fn visit_i64<E>(self, _: i64) -> Result<Loose<'de>, E> {
        Ok(Loose::default())
    }

    fn visit_f64<E>(self, _: f64) -> Result<Loose<'de>, E> {
        Ok(Loose::default())
    }

    fn visit_bool<E>(self, _: bool) -> Result<Loose<'de>, E> {
        Ok(Loose::default())
    }

    fn visit_unit<E>(self) -> Result<Loose<'de>, E> {
        Ok(Loose::default())
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Loose<'de>, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = list.next_element::<Word<'de>>()? {
            items.extend(item.0);
        }
        Ok(Loose {
            items,
            ..Loose::default()
        })
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Loose<'de>, A::Error> {
        let mut found = Loose::default();
        while let Some(key) = map.next_key::<Word<'de>>()? {
            match key.0.as_deref() {
                Some("exe") => found.exe = map.next_value::<Word<'de>>()?.0,
                Some("argv") => found.argv = map.next_value::<Words<'de>>()?.0,
                _ => {
                    map.next_value::<IgnoredAny>()?;
                }
            }
            if found.text.is_none() {
                found.text = key.0;
            }
        }
        Ok(found)
    }
}

macro_rules! lenient {
    ([$($life:lifetime)?] $name:ty, $found:ident => $value:expr) => {
        impl<'de $(: $life, $life)?> Deserialize<'de> for $name {
            fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
                let $found = deserializer.deserialize_any(LooseVisitor)?;
                Ok($value)
            }
        }
    };
}

lenient!(['a] Word<'a>, found => Word(found.text));
lenient!([] Number, found => Number(found.number));
lenient!(['a] Words<'a>, found => Words(found.items));
lenient!(['a] Process<'a>, found => Process { exe: found.exe, argv: found.argv });
