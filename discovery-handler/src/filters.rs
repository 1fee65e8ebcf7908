//! Which of the listed devices are taken, by regular expressions: `include` and `exclude` in the details. No I/O.

use std::{
    collections::BTreeMap,
    fmt,
    hash::{Hash, Hasher},
    sync::Arc,
};

use regex_automata::{
    Input,
    dfa::{
        Automaton, StartKind,
        dense::{self, DFA},
    },
    nfa::thompson,
    util::syntax,
};
use serde::{
    Deserialize, Deserializer,
    de::{Error, MapAccess, SeqAccess, Visitor, value::MapAccessDeserializer},
};

use akri_daemon::innermost;

use crate::formats::{Format, is_property_name};

/// The most expressions of one request. With the limit below they take at most 2 MiB (rule 17).
const MAX_PATTERNS: usize = 16;

/// The longest expression, in bytes.
const MAX_PATTERN_BYTES: usize = 1_024;

/// What an expression may take, in bytes. It is compiled as a whole, to a table of its states: whatever text it is used on, each byte
/// costs one look into that table. All pollers share a thread, and an expression that is slow would stop them.
const SIZE: usize = 128 * 1024;

/// What compiling it may take, in bytes.
const SCRATCH: usize = 4 * SIZE;

/// The devices that at least one `include` matches, or all where there is none, but for those that an `exclude` matches.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Filters {
    include: Vec<Filter>,
    exclude: Vec<Filter>,
}

/// All that is named has to match. A property that a device does not have matches nothing.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
struct Filter {
    id: Option<Pattern>,
    endpoint: Option<Pattern>,
    properties: Vec<(String, Pattern)>,
}

/// Matches anywhere in a text, unless it is anchored. Two are the same if they are written the same.
#[derive(Clone)]
struct Pattern {
    written: String,
    states: Arc<DFA<Vec<u32>>>,
}

impl Pattern {
    fn matches(&self, text: &str) -> bool {
        let earliest = Input::new(text).earliest(true);
        // It gives up at no byte, since none has been set for that.
        matches!(self.states.try_search_fwd(&earliest), Ok(Some(_)))
    }
}

impl fmt::Debug for Pattern {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.written.fmt(f)
    }
}

impl PartialEq for Pattern {
    fn eq(&self, other: &Self) -> bool {
        self.written == other.written
    }
}

impl Eq for Pattern {}

impl Hash for Pattern {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.written.hash(state);
    }
}

/// A list of filters as it stands in the details, or a single one without the list.
#[derive(Default)]
pub(crate) struct Written(Vec<WrittenFilter>);

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WrittenFilter {
    id: Option<String>,
    endpoint: Option<String>,
    #[serde(default)]
    properties: BTreeMap<String, String>,
}

impl<'de> Deserialize<'de> for Written {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct OneOrMany;
        impl<'de> Visitor<'de> for OneOrMany {
            type Value = Written;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a mapping of id, endpoint and properties")
            }

            // By itself Serde would repeat it.
            fn visit_str<E: Error>(self, _: &str) -> Result<Written, E> {
                Err(E::custom("a filter is not a mapping"))
            }

            fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Written, A::Error> {
                let filter = WrittenFilter::deserialize(MapAccessDeserializer::new(map))?;
                Ok(Written(vec![filter]))
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut list: A) -> Result<Written, A::Error> {
                let mut filters = Vec::new();
                while let Some(filter) = list.next_element()? {
                    filters.push(filter);
                }
                Ok(Written(filters))
            }
        }
        deserializer.deserialize_any(OneOrMany)
    }
}

impl Filters {
    /// What `include` and `exclude` say.
    ///
    /// # Errors
    /// What can never work, and where it stands.
    pub(crate) fn new(
        include: Option<Written>,
        exclude: Option<Written>,
        format: Format,
    ) -> Result<Self, String> {
        let mut patterns = 0;
        let mut read = |word: &str, written: Option<Written>| -> Result<Vec<Filter>, String> {
            let Some(Written(written)) = written else {
                return Ok(Vec::new());
            };
            if written.is_empty() {
                return Err(format!("{word} is an empty list"));
            }
            let filters = written.into_iter().zip(1..).map(|(filter, number)| {
                patterns += filter.patterns();
                let within = |why| format!("{word}, entry {number}{why}");
                filter.compile(format).map_err(within)
            });
            filters.collect()
        };
        let filters = Self {
            include: read("include", include)?,
            exclude: read("exclude", exclude)?,
        };
        match patterns {
            0..=MAX_PATTERNS => Ok(filters),
            _ => Err(format!(
                "include and exclude have more than {MAX_PATTERNS} expressions"
            )),
        }
    }

    /// Whether all devices are taken.
    pub fn is_empty(&self) -> bool {
        self.include.is_empty() && self.exclude.is_empty()
    }

    /// Whether this device is taken.
    pub fn take(&self, id: &str, endpoint: &str, properties: &BTreeMap<String, String>) -> bool {
        let matches = |filter: &Filter| filter.matches(id, endpoint, properties);
        (self.include.is_empty() || self.include.iter().any(matches))
            && !self.exclude.iter().any(matches)
    }
}

impl Filter {
    fn matches(&self, id: &str, endpoint: &str, properties: &BTreeMap<String, String>) -> bool {
        let has = |(name, pattern): &(String, Pattern)| {
            (properties.get(name)).is_some_and(|value| pattern.matches(value))
        };
        (self.id.as_ref()).is_none_or(|pattern| pattern.matches(id))
            && (self.endpoint.as_ref()).is_none_or(|pattern| pattern.matches(endpoint))
            && self.properties.iter().all(has)
    }
}

impl WrittenFilter {
    fn patterns(&self) -> usize {
        usize::from(self.id.is_some())
            + usize::from(self.endpoint.is_some())
            + self.properties.len()
    }

    fn compile(self, format: Format) -> Result<Filter, String> {
        if self.patterns() == 0 {
            return Err(" has no id, endpoint or properties".into());
        }
        if format == Format::Lines && !self.properties.is_empty() {
            return Err(", properties: devices of the format lines have none".into());
        }
        let pattern = |word: &str, text: Option<String>| match text {
            Some(text) => (compile(&text).map(Some)).map_err(|why| format!(", {word} {why}")),
            None => Ok(None),
        };
        let mut properties = Vec::new();
        for (name, text) in self.properties {
            // What is no name no device has, and then an `include` would let nothing through.
            if !is_property_name(&name) {
                return Err(", properties: a name is not letters, digits and _".into());
            }
            let compiled = compile(&text).map_err(|why| format!(", property {name} {why}"))?;
            properties.push((name, compiled));
        }
        Ok(Filter {
            id: pattern("id", self.id)?,
            endpoint: pattern("endpoint", self.endpoint)?,
            properties,
        })
    }
}

/// Bytes and ASCII classes: with Unicode's, `\w` alone would be larger than all that is allowed here.
fn compile(text: &str) -> Result<Pattern, String> {
    if text.len() > MAX_PATTERN_BYTES {
        return Err(format!("is longer than {MAX_PATTERN_BYTES} bytes"));
    }
    let config = dense::Config::new()
        .start_kind(StartKind::Unanchored)
        .dfa_size_limit(Some(SIZE))
        .determinize_size_limit(Some(SCRATCH));
    let built = DFA::builder()
        .configure(config)
        .syntax(syntax::Config::new().unicode(false).utf8(false))
        .thompson(
            thompson::Config::new()
                .utf8(false)
                .nfa_size_limit(Some(SCRATCH)),
        )
        .build(text);
    match built {
        Ok(states) => Ok(Pattern {
            written: text.to_owned(),
            states: Arc::new(states),
        }),
        Err(error) => {
            let innermost = innermost(&error).to_string();
            // Before the last line stands the expression.
            let why = innermost.lines().last().unwrap_or_default().trim();
            Err(match why.strip_prefix("error: ") {
                Some(why) => format!("is not a regular expression: {why}"),
                None => "is a regular expression that would need too much memory".into(),
            })
        }
    }
}

#[cfg(test)]
mod tests;
