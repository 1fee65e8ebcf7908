//! JSON that is taken apart as it is read, so that no more of it is held than one element, and that is bounded. Serde's words
//! for what does not fit repeat the value, which may be secret: here they do not.

use std::{collections::BTreeMap, fmt, marker::PhantomData};

use akri_daemon::one_line;
use anyhow::anyhow;
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use super::properties::{MAX_NAME, MAX_PROPERTIES, MAX_VALUE, name_shown};

/// The most texts of one array; a list has no more devices.
const MAX_TEXTS: usize = 100_000;

/// Reads an array, and hands each element on with its number. `word` is what an element is called.
pub(super) fn each<'de, T: Deserialize<'de>>(
    body: &'de [u8],
    word: &'static str,
    take: impl FnMut(u32, T) -> anyhow::Result<()>,
) -> anyhow::Result<()> {
    let mut json = serde_json::Deserializer::from_slice(body);
    let elements = Elements {
        word,
        take,
        element: PhantomData,
    };
    let read = json.deserialize_seq(elements).and_then(|()| json.end());
    read.map_err(|error| anyhow!("{}", one_line(&without_value(&error.to_string()))))
}

struct Elements<T, F> {
    word: &'static str,
    take: F,
    element: PhantomData<T>,
}

impl<'de, T, F> Visitor<'de> for Elements<T, F>
where
    T: Deserialize<'de>,
    F: FnMut(u32, T) -> anyhow::Result<()>,
{
    type Value = ();

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "an array with an object for each {}", self.word)
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut array: A) -> Result<(), A::Error> {
        for number in 1.. {
            let element = array.next_element();
            match element.map_err(|error| within(format_args!("{} {number}", self.word), error))? {
                Some(element) => (self.take)(number, element).map_err(Error::custom)?,
                None => break,
            }
        }
        Ok(())
    }
}

/// An object, where Serde by itself would take an array of the fields too.
pub(super) struct Object<T>(pub T);

impl<'de, T: Deserialize<'de>> Deserialize<'de> for Object<T> {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Fields<T>(PhantomData<T>);
        impl<'de, T: Deserialize<'de>> Visitor<'de> for Fields<T> {
            type Value = Object<T>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Object<T>, A::Error> {
                T::deserialize(MapAccessDeserializer::new(map)).map(Object)
            }
        }
        deserializer.deserialize_map(Fields(PhantomData))
    }
}

/// An array of targets.
pub(super) struct Targets(pub Vec<String>);

impl<'de> Deserialize<'de> for Targets {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Texts;
        impl<'de> Visitor<'de> for Texts {
            type Value = Targets;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an array of targets")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut array: A) -> Result<Targets, A::Error> {
                let mut texts = Vec::new();
                for number in 1.. {
                    let text = array.next_element();
                    match text.map_err(|error| within(format_args!("target {number}"), error))? {
                        Some(_) if number > MAX_TEXTS => {
                            return Err(Error::custom(format_args!(
                                "more than {MAX_TEXTS} targets"
                            )));
                        }
                        Some(text) => texts.push(text),
                        None => break,
                    }
                }
                Ok(Targets(texts))
            }
        }
        deserializer.deserialize_seq(Texts)
    }
}

/// An object of texts, each name once: labels or properties.
#[derive(Default)]
pub(super) struct Texts(pub BTreeMap<String, String>);

impl<'de> Deserialize<'de> for Texts {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Entries;
        impl<'de> Visitor<'de> for Entries {
            type Value = Texts;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of strings")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Texts, A::Error> {
                let mut texts = BTreeMap::new();
                while let Some(name) = map.next_key::<String>()? {
                    let shown = format!("\"{}\"", name_shown(&name));
                    let value: String =
                        (map.next_value()).map_err(|error| within(&shown, error))?;
                    let fault = match () {
                        () if name.is_empty() => "is no name".into(),
                        () if name.len() > MAX_NAME => format!("is longer than {MAX_NAME} bytes"),
                        () if value.len() > MAX_VALUE => {
                            format!("has a value of more than {MAX_VALUE} bytes")
                        }
                        () if value.contains('\0') => "has a value with a NUL".into(),
                        () if texts.len() == MAX_PROPERTIES => {
                            format!("is one more than {MAX_PROPERTIES}")
                        }
                        () if texts.insert(name, value).is_some() => "is there twice".into(),
                        () => continue,
                    };
                    return Err(Error::custom(format_args!("{shown} {fault}")));
                }
                Ok(Texts(texts))
            }
        }
        deserializer.deserialize_map(Entries)
    }
}

/// A field that may be missing, and is not null where it is there.
pub(super) fn some<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Option<String>, D::Error> {
    String::deserialize(deserializer).map(Some)
}

/// What is wrong, behind its place.
fn within<E: Error>(place: impl fmt::Display, error: E) -> E {
    E::custom(format_args!(
        "{place}, {}",
        without_value(&error.to_string())
    ))
}

/// `invalid type: string "hunter2", expected an object` without the value.
fn without_value(error: &str) -> String {
    let found = (error.strip_prefix("invalid type: ")).and_then(|error| {
        let (found, expected) = error.rsplit_once(", expected ")?;
        let kind = found.split(['`', '"', ',']).next()?.trim_end();
        Some((kind, expected))
    });
    let Some((kind, expected)) = found else {
        return error.to_owned();
    };
    let kind = match kind {
        "map" => "an object",
        "sequence" => "an array",
        "null" => "null",
        "string" => "a string",
        "boolean" => "true or false",
        _ => "a number",
    };
    let (expected, place) = match expected.split_once(" at line ") {
        Some((expected, place)) => (expected, format!(" at line {place}")),
        None => (expected, String::new()),
    };
    format!("expected {expected}, found {kind}{place}")
}
