//! JSON text to values and back, as JavaScript reads and prints it, with nothing lost that the wire contract needs.
//!
//! Key order is kept and every number is an IEEE double, because signatures depend on both. Text that two readers could
//! take differently (duplicate keys, lone surrogates, numbers out of range) is refused. This module knows nothing of
//! DP-1: what the members mean is decided elsewhere.

use std::fmt;
use std::io;

use serde::Serialize as _;
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde_json::map::Entry;
use serde_json::{Number, Value};

/// A JSON object that keeps the order of its members.
pub type Object = serde_json::Map<String, Value>;

/// The deepest nesting of arrays and objects that [`parse`] accepts. It is the limit `serde_json` itself stops at, so
/// no recursion over a parsed value, ours or a library's, can be driven deeper.
pub const DEPTH_MAX: usize = 127;

/// Characters of a duplicate key that an error repeats: the key is the sender's and may be as long as the text.
const KEY_CHARS_SHOWN_MAX: usize = 64;

const BYTE_ORDER_MARK: &[u8] = "\u{feff}".as_bytes();

/// Text that is not the JSON this feed accepts. `Display` says what is wrong and at which line and column.
#[derive(Debug, thiserror::Error)]
#[error("{0}")]
pub struct JsonError(serde_json::Error);

impl JsonError {
    /// The line of the offending place, from 1.
    #[must_use]
    pub fn line(&self) -> usize {
        self.0.line()
    }

    /// The column, in bytes, of the offending place.
    #[must_use]
    pub fn column(&self) -> usize {
        self.0.column()
    }
}

/// Reads one JSON value. A leading byte order mark is tolerated; duplicate keys, lone surrogates, invalid UTF-8, numbers
/// no double can hold, nesting past [`DEPTH_MAX`] and anything after the value are errors. Every number becomes a double.
pub fn parse(bytes: &[u8]) -> Result<Value, JsonError> {
    let bytes = bytes.strip_prefix(BYTE_ORDER_MARK).unwrap_or(bytes);
    let mut deserializer = serde_json::Deserializer::from_slice(bytes);
    let value = Strict.deserialize(&mut deserializer).map_err(JsonError)?;
    deserializer.end().map_err(JsonError)?;
    Ok(value)
}

/// Prints a value compactly, members in their order, numbers as ECMAScript prints them (`1`, `1e+21`, `0.000001`).
#[must_use]
pub fn to_text(value: &Value) -> String {
    let mut bytes = Vec::with_capacity(256);
    let mut serializer = serde_json::Serializer::with_formatter(&mut bytes, EcmaScript);
    value
        .serialize(&mut serializer)
        .expect("a value in memory serialises to memory");
    String::from_utf8(bytes).expect("serde_json writes UTF-8")
}

/// Text without the byte order mark a document of another server may begin with.
pub(crate) fn without_byte_order_mark(text: &str) -> &str {
    text.strip_prefix('\u{feff}').unwrap_or(text)
}

/// The first `chars_max` characters of text that a sender chose, for an error that repeats it.
pub(crate) fn shown(text: &str, chars_max: usize) -> String {
    match text.char_indices().nth(chars_max) {
        Some((end, _)) => format!("{}…", &text[..end]),
        None => text.to_owned(),
    }
}

struct Strict;

impl<'de> DeserializeSeed<'de> for Strict {
    type Value = Value;

    fn deserialize<D: serde::Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Strict {
    type Value = Value;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a JSON value")
    }

    fn visit_unit<E>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E>(self, value: bool) -> Result<Value, E> {
        Ok(Value::Bool(value))
    }

    // An integer rounds to the nearest double, as JavaScript reads it: 12345678901234567890 is 12345678901234567000.
    #[expect(clippy::cast_precision_loss, reason = "JavaScript rounds to the nearest double too")]
    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        self.visit_f64(value as f64)
    }

    #[expect(clippy::cast_precision_loss, reason = "JavaScript rounds to the nearest double too")]
    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.visit_f64(value as f64)
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        Number::from_f64(value)
            .map(Value::Number)
            .ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E>(self, value: &str) -> Result<Value, E> {
        Ok(Value::String(value.to_owned()))
    }

    fn visit_string<E>(self, value: String) -> Result<Value, E> {
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut elements = Vec::new();
        while let Some(element) = access.next_element_seed(Strict)? {
            elements.push(element);
        }
        Ok(Value::Array(elements))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        let mut object = Object::new();
        while let Some(key) = access.next_key::<String>()? {
            match object.entry(key) {
                Entry::Occupied(member) => {
                    let key = shown(member.key(), KEY_CHARS_SHOWN_MAX);
                    return Err(A::Error::custom(format_args!("duplicate key {key:?}")));
                }
                Entry::Vacant(member) => {
                    member.insert(access.next_value_seed(Strict)?);
                }
            }
        }
        Ok(Value::Object(object))
    }
}

/// Compact JSON with numbers as ECMAScript prints them. Integers a caller put into a value are printed as the doubles
/// they would be read back as.
struct EcmaScript;

impl serde_json::ser::Formatter for EcmaScript {
    fn write_f64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: f64) -> io::Result<()> {
        writer.write_all(ryu_js::Buffer::new().format_finite(value).as_bytes())
    }

    #[expect(clippy::cast_precision_loss, reason = "JavaScript rounds to the nearest double too")]
    fn write_u64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: u64) -> io::Result<()> {
        self.write_f64(writer, value as f64)
    }

    #[expect(clippy::cast_precision_loss, reason = "JavaScript rounds to the nearest double too")]
    fn write_i64<W: ?Sized + io::Write>(&mut self, writer: &mut W, value: i64) -> io::Result<()> {
        self.write_f64(writer, value as f64)
    }
}
