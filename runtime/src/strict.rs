//! The documents of others, turned into our types in one pass, with the place of what is wrong or unknown.
//!
//! The deserializer here stands round that of `serde_json` and adds what neither it nor serde's derived code does:
//!
//! - An error has its JSON pointer. Where a value stands is a list of parents on the stack, and becomes text only for
//!   an error or a warning, so that a good document pays for no path.
//! - A property that no type knows is noted with its pointer; so is a capability, and both are passed over.
//! - A list is not taken for an object. Derived code also reads the members of a structure from a list in their order,
//!   and `"user": [0, 0]` would be a user who was never spelled out.
//!
//! Whatever reads a `Spec` or a `Process` does it with [`from_str`]. The derived code of these types is large and
//! exists once for each kind of deserializer: a wrapper for each of the first two things, and a plain one beside them,
//! made the binary 0.67 MB larger.
//!
//! It is for types that own what they hold, whose enumerations are plain names and whose keys are strings, as all are
//! in the specification. Others are refused in reading, not misread.

use std::borrow::Cow;
use std::cell::{OnceCell, RefCell};
use std::fmt;
use std::marker::PhantomData;

use oci_spec::runtime::Capability;
use serde::Deserialize;
use serde::de::{self, DeserializeOwned, DeserializeSeed, Deserializer, IntoDeserializer, Visitor, value};

/// Reads a document that is the whole of `text`. The answer also has what nobody knows, as words with pointers.
///
/// # Errors
/// The first thing that is wrong, as `line:column: pointer: reason`.
pub fn from_str<T: DeserializeOwned>(text: &str) -> Result<(T, Vec<String>), String> {
    let notes = Notes::default();
    let mut json = serde_json::Deserializer::from_str(text);
    let read = T::deserialize(Strict { json: &mut json, place: &Place::Root(&notes) });
    let value = read.map_err(|error| refusal(&error, notes.wrong.get().map_or("/", String::as_str)))?;
    json.end().map_err(|error| format!("{}:{}: something follows the document", error.line(), error.column()))?;
    Ok((value, notes.unknown.into_inner()))
}

fn refusal(error: &serde_json::Error, pointer: &str) -> String {
    let reason = error.to_string();
    // serde_json puts the place behind the reason; ours stands before it.
    let reason = reason.rsplit_once(" at line ").map_or(reason.as_str(), |(reason, _)| reason);
    // The column is that of the last letter that was taken. A list or an object that is not wanted was only looked at,
    // and begins one after it.
    let looked_at = ["invalid type: sequence", "invalid type: map"].iter().any(|text| reason.starts_with(text));
    format!("{}:{}: {pointer}: {reason}", error.line(), error.column() + usize::from(looked_at))
}

/// What is to be told of a document, as pointers.
#[derive(Default)]
struct Notes {
    /// The place of the error: the innermost, which is the first to be noted while the error makes its way out.
    wrong: OnceCell<String>,
    unknown: RefCell<Vec<String>>,
}

/// Where a value stands: each value knows its parent, and the root knows where notes are taken.
enum Place<'a> {
    Root(&'a Notes),
    Key(&'a Place<'a>, &'a str),
    Item(&'a Place<'a>, usize),
}

impl Place<'_> {
    fn notes(&self) -> &Notes {
        match self {
            Self::Root(notes) => notes,
            Self::Key(parent, _) | Self::Item(parent, _) => parent.notes(),
        }
    }

    /// Whether this is a set of capabilities. The specification wants a warning for one that nobody knows, such as one of
    /// a kernel that is newer than our types, and not an error.
    fn holds_capabilities(&self) -> bool {
        matches!(self, Self::Key(Self::Key(_, "capabilities"), _))
    }

    /// The JSON pointer (RFC 6901).
    fn pointer(&self) -> String {
        match self {
            Self::Root(_) => String::new(),
            Self::Key(parent, key) => parent.pointer() + "/" + &key.replace('~', "~0").replace('/', "~1"),
            Self::Item(parent, index) => format!("{}/{index}", parent.pointer()),
        }
    }
}

/// Words that oci-spec 0.10 spells otherwise than the specification does: those of the specification, and its own.
const SPELLED: [(&str, &str); 4] = [
    ("SCHED_FLAG_RESET_ON_FORK", "SCHED_RESET_ON_FORK"),
    ("SCHED_FLAG_DL_OVERRUN", "SCHED_FLAG_D_L_OVERRUN"),
    ("enableCMT", "enableCmt"),
    ("enableMBM", "enableMbm"),
];

fn spelled(word: &str) -> &str {
    SPELLED.iter().find(|(specified, _)| *specified == word).map_or(word, |(_, ours)| ours)
}

/// The names of the members of a structure, or of the variants of an enumeration.
type Names = &'static [&'static str];

/// A deserializer that knows its place. Those of the values within are made by [`Inside`], [`Map`] and [`List`].
struct Strict<'a, D> {
    json: D,
    place: &'a Place<'a>,
}

/// These are passed on as they are, since they have no values within. `deserialize_any` may have some, but takes
/// whatever stands there, so that there is nothing to hold it to; only a part for Windows asks for it.
macro_rules! pass_on {
    ($($method:ident)*) => {$(
        fn $method<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
            self.json.$method(visitor)
        }
    )*};
}

/// These have other values within, whose deserializers are to be of this kind too.
macro_rules! go_inside {
    ($($method:ident($($name:ident: $type:ty),*))*) => {$(
        fn $method<V: Visitor<'de>>(self, $($name: $type,)* visitor: V) -> Result<V::Value, D::Error> {
            self.json.$method($($name,)* Inside { visitor, place: self.place })
        }
    )*};
}

impl<'de, D: Deserializer<'de>> Deserializer<'de> for Strict<'_, D> {
    type Error = D::Error;

    pass_on! {
        deserialize_any deserialize_bool deserialize_i8 deserialize_i16 deserialize_i32 deserialize_i64 deserialize_i128
        deserialize_u8 deserialize_u16 deserialize_u32 deserialize_u64 deserialize_u128 deserialize_f32 deserialize_f64
        deserialize_char deserialize_str deserialize_string deserialize_bytes deserialize_byte_buf deserialize_unit
        deserialize_identifier
    }

    go_inside! {
        deserialize_option()
        deserialize_newtype_struct(name: &'static str)
        deserialize_seq()
        deserialize_tuple(len: usize)
        deserialize_tuple_struct(name: &'static str, len: usize)
        deserialize_map()
    }

    fn deserialize_unit_struct<V: Visitor<'de>>(self, name: &'static str, visitor: V) -> Result<V::Value, D::Error> {
        self.json.deserialize_unit_struct(name, visitor)
    }

    /// As a map: `deserialize_struct` of serde_json takes a list too.
    fn deserialize_struct<V: Visitor<'de>>(self, _: &'static str, _: Names, visitor: V) -> Result<V::Value, D::Error> {
        self.deserialize_map(visitor)
    }

    /// As a string: `deserialize_enum` of serde_json also takes `{"pid": null}` for `"pid"`.
    fn deserialize_enum<V: Visitor<'de>>(self, _: &'static str, _: Names, visitor: V) -> Result<V::Value, D::Error> {
        self.json.deserialize_str(Name(visitor))
    }

    /// This is how derived code passes over the value of a key that it does not know.
    fn deserialize_ignored_any<V: Visitor<'de>>(self, visitor: V) -> Result<V::Value, D::Error> {
        self.place.notes().unknown.borrow_mut().push(format!("property {}", self.place.pointer()));
        self.json.deserialize_ignored_any(visitor)
    }
}

/// Gives the visitor of a value deserializers that know their places for the values within.
struct Inside<'a, V> {
    visitor: V,
    place: &'a Place<'a>,
}

impl<'de, V: Visitor<'de>> Visitor<'de> for Inside<'_, V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.visitor.expecting(f)
    }

    fn visit_none<E: de::Error>(self) -> Result<V::Value, E> {
        self.visitor.visit_none()
    }

    // An option and a new type are in our types only: in the document, what is within stands at the same place.
    fn visit_some<D: Deserializer<'de>>(self, json: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_some(Strict { json, place: self.place })
    }

    fn visit_newtype_struct<D: Deserializer<'de>>(self, json: D) -> Result<V::Value, D::Error> {
        self.visitor.visit_newtype_struct(Strict { json, place: self.place })
    }

    fn visit_seq<A: de::SeqAccess<'de>>(self, items: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_seq(List { items, place: self.place, index: 0 })
    }

    fn visit_map<A: de::MapAccess<'de>>(self, entries: A) -> Result<V::Value, A::Error> {
        self.visitor.visit_map(Map { entries, place: self.place, key: Key(Cow::Borrowed("")) })
    }
}

/// The items of a list; `index` is that of the next.
struct List<'a, A> {
    items: A,
    place: &'a Place<'a>,
    index: usize,
}

impl<'de, A: de::SeqAccess<'de>> de::SeqAccess<'de> for List<'_, A> {
    type Error = A::Error;

    fn next_element_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        loop {
            let place = Place::Item(self.place, self.index);
            self.index += 1;
            if !self.place.holds_capabilities() {
                return self.items.next_element_seed(At { seed, place: &place });
            }
            let word = self.items.next_element_seed(At { seed: PhantomData::<Key<'de>>, place: &place })?;
            let Some(Key(word)) = word else { return Ok(None) };
            let read: Result<_, value::Error> = Capability::deserialize((*word).into_deserializer());
            if read.is_ok() {
                return seed.deserialize((*word).into_deserializer()).map(Some);
            }
            place.notes().unknown.borrow_mut().push(format!("capability {word:?} at {}", place.pointer()));
        }
    }
}

/// The entries of an object; `key` is that of the value that comes next.
struct Map<'a, 'de, A> {
    entries: A,
    place: &'a Place<'a>,
    key: Key<'de>,
}

impl<'de, A: de::MapAccess<'de>> de::MapAccess<'de> for Map<'_, 'de, A> {
    type Error = A::Error;

    fn next_key_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<Option<S::Value>, A::Error> {
        let Some(key) = self.entries.next_key()? else { return Ok(None) };
        self.key = key;
        seed.deserialize(spelled(&self.key.0).into_deserializer()).map(Some)
    }

    fn next_value_seed<S: DeserializeSeed<'de>>(&mut self, seed: S) -> Result<S::Value, A::Error> {
        let place = Place::Key(self.place, &self.key.0);
        self.entries.next_value_seed(At { seed, place: &place })
    }
}

/// Reads a value at its place, and notes the place where that fails.
struct At<'a, S> {
    seed: S,
    place: &'a Place<'a>,
}

impl<'de, S: DeserializeSeed<'de>> DeserializeSeed<'de> for At<'_, S> {
    type Value = S::Value;

    fn deserialize<D: Deserializer<'de>>(self, json: D) -> Result<S::Value, D::Error> {
        self.seed.deserialize(Strict { json, place: self.place }).inspect_err(|_| {
            self.place.notes().wrong.get_or_init(|| self.place.pointer());
        })
    }
}

/// A key: a piece of the document itself, unless it has escapes. (A plain `Cow` would always be a copy.)
#[derive(Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

/// Gives the visitor of an enumeration a string as the name of a variant.
struct Name<V>(V);

impl<'de, V: Visitor<'de>> Visitor<'de> for Name<V> {
    type Value = V::Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.expecting(f)
    }

    fn visit_str<E: de::Error>(self, name: &str) -> Result<V::Value, E> {
        self.0.visit_enum(spelled(name).into_deserializer())
    }
}

#[cfg(test)]
mod tests {
    use super::from_str;
    use oci_spec::runtime::Spec;
    use serde::Deserialize;

    /// What [`Spec`] has nothing of, at least not in every version.
    #[derive(Debug, PartialEq, Deserialize)]
    struct Sample {
        id: Option<Id>,
        #[serde(default)]
        pair: (i64, f64),
        #[serde(default)]
        any: serde_json::Value,
    }

    #[derive(Debug, PartialEq, Deserialize)]
    struct Id(u64);

    fn wrong(text: &str) -> String {
        from_str::<Spec>(text).unwrap_err()
    }

    #[test]
    fn a_list_in_the_place_of_an_object_is_refused_where_it_begins() {
        for (text, refusal) in [
            ("[]", "1:1: /: invalid type: sequence, expected struct Spec"),
            (r#"{"process":{"user":[0,0]}}"#, "1:20: /process/user: invalid type: sequence, expected struct User"),
            ("{\"root\":\n  [ ]}", "2:3: /root: invalid type: sequence, expected struct Root"),
            (
                r#"{"linux":{"netDevices":{"a~/b":[]}}}"#,
                "1:32: /linux/netDevices/a~0~1b: invalid type: sequence, expected struct LinuxNetDevice",
            ),
            (
                r#"{"hooks":{"prestart":[{"path":"/x"},["/x"]]}}"#,
                "1:37: /hooks/prestart/1: invalid type: sequence, expected struct Hook",
            ),
        ] {
            assert_eq!(wrong(text), refusal);
        }
        // And the other way round.
        assert_eq!(wrong(r#"{"mounts":{}}"#), "1:11: /mounts: invalid type: map, expected a sequence");
    }

    #[test]
    fn an_enumeration_is_a_string() {
        let of = |value: &str| wrong(&format!(r#"{{"linux":{{"namespaces":[{{"type":{value}}}]}}}}"#));
        let unknown = "1:38: /linux/namespaces/0/type: unknown variant `nope`, expected one of `mount`, ";
        assert!(of(r#""nope""#).starts_with(unknown), "{}", of(r#""nope""#));
        let other = "/linux/namespaces/0/type: invalid type: map, expected enum LinuxNamespaceType";
        assert_eq!(of(r#"{"pid":null}"#), format!("1:33: {other}"));
    }

    #[test]
    fn what_is_missing_double_or_cut_off_has_the_place_of_its_object() {
        assert_eq!(wrong(r#"{"mounts":[{}]}"#), "1:13: /mounts/0: missing field `destination`");
        assert_eq!(wrong(r#"{"root":{"path":"a","path":"b"}}"#), "1:26: /root: duplicate field `path`");
        assert_eq!(wrong(r#"{"root":{"path":"a""#), "1:19: /root: EOF while parsing an object");
        assert_eq!(wrong(r#"{"root":null} 1"#), "1:15: something follows the document");
    }

    #[test]
    fn depth_has_an_end() {
        let deep = |depth| format!(r#"{{"id":1,"any":{}1{}}}"#, "[".repeat(depth), "]".repeat(depth));
        assert!(from_str::<Sample>(&deep(100)).is_ok());
        assert!(from_str::<Sample>(&deep(1000)).unwrap_err().ends_with("/any: recursion limit exceeded"));
    }

    #[test]
    fn every_kind_of_value_arrives() {
        let text = r#"{"id":18446744073709551615,"pair":[-9223372036854775808,0.5],"\u0061ny":{"a":["\u00e4",null]}}"#;
        assert_eq!(from_str::<Sample>(text).unwrap().0, serde_json::from_str(text).unwrap());
        assert_eq!(from_str::<Sample>(r#"{"id":null}"#).unwrap().0.id, None);
        assert_eq!(
            from_str::<Sample>(r#"{"id":1,"pair":[1,"x"]}"#).unwrap_err(),
            "1:21: /pair/1: invalid type: string \"x\", expected f64"
        );
    }

    #[test]
    #[allow(deprecated)]
    fn a_word_that_our_types_spell_otherwise_is_the_one_of_the_specification() {
        let flags = r#"["SCHED_FLAG_RESET_ON_FORK","SCHED_FLAG_DL_OVERRUN"]"#;
        let text = format!(
            r#"{{"process":{{"cwd":"/","user":{{"uid":0,"gid":0}},"scheduler":{{"policy":"SCHED_RR","flags":{flags}}}}},
               "linux":{{"intelRdt":{{"enableCMT":true,"enableMBM":true}}}}}}"#
        );
        let (spec, unknown) = from_str::<Spec>(&text).unwrap();
        assert_eq!(unknown, [""; 0]);
        let process = spec.process().as_ref().unwrap();
        assert_eq!(process.scheduler().as_ref().unwrap().flags().as_ref().unwrap().len(), 2);
        let rdt = spec.linux().as_ref().unwrap().intel_rdt().as_ref().unwrap();
        assert_eq!((rdt.enable_cmt(), rdt.enable_mbm()), (&Some(true), &Some(true)));
    }

    #[test]
    fn what_nobody_knows_is_noted_and_passed_over() {
        let text = r#"{"a/b":[{"c":[]}],"mounts":[{"destination":""},{"destination":"","x":1}],"hooks":{"\u0079":2}}"#;
        assert_eq!(from_str::<Spec>(text).unwrap().1, ["property /a~1b", "property /mounts/1/x", "property /hooks/y"]);
    }

    #[test]
    fn a_capability_that_nobody_knows_is_noted_and_passed_over() {
        let of = |list: &str| {
            let process = format!(r#"{{"cwd":"/","user":{{"uid":0,"gid":0}},"capabilities":{{"bounding":{list}}}}}"#);
            from_str::<Spec>(&format!(r#"{{"process":{process}}}"#))
        };
        let (spec, unknown) = of(r#"["CAP_NEW","CAP_CHOWN","X","CAP_KILL","Y"]"#).unwrap();
        let set = spec.process().as_ref().unwrap().capabilities().as_ref().unwrap().bounding().clone().unwrap();
        assert_eq!(set.len(), 2);
        let at = |word: &str, index| format!("capability {word:?} at /process/capabilities/bounding/{index}");
        assert_eq!(unknown, [at("CAP_NEW", 0), at("X", 2), at("Y", 4)]);
        assert!(of("[7]").unwrap_err().contains(": /process/capabilities/bounding/0: invalid type: integer"));
    }
}
