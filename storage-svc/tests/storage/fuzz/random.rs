//! Messages of random fields. Names are mostly good and few, so that calls get past the first check and meet.

use std::collections::HashMap;

use bytes::Bytes;
use prost_reflect::{DynamicMessage, FieldDescriptor, Kind, MapKey, MessageDescriptor, Value};

/// Messages within messages.
const DEPTH_MAX: usize = 6;
/// Tokens and receipts that are kept for later requests, of each.
const SEEN_MAX: usize = 32;
/// More than a body or a value within an entry's row.
const LONG: usize = 300_000;

/// A string of choices. When it has run out everything is the first choice, so that what fails is shrunk well.
pub(super) struct Source<'choices>(&'choices [u8]);

impl<'choices> Source<'choices> {
    pub(super) fn new(choices: &'choices [u8]) -> Self {
        Self(choices)
    }

    fn byte(&mut self) -> u8 {
        let Some((first, rest)) = self.0.split_first() else {
            return 0;
        };
        self.0 = rest;
        *first
    }

    fn below(&mut self, count: usize) -> usize {
        usize::from(self.byte()) % count
    }

    fn one<'list, T>(&mut self, list: &'list [T]) -> &'list T {
        &list[self.below(list.len())]
    }

    /// Mostly one that is likely to be taken.
    fn number<T: Copy>(&mut self, good: &[T], odd: &[T]) -> T {
        let list = if self.below(8) < 7 { good } else { odd };
        *self.one(list)
    }

    /// At most so many.
    pub(super) fn bytes(&mut self, most: usize) -> Vec<u8> {
        let count = (usize::from(self.byte()) * 2).min(most);
        (0..count).map(|_| self.byte()).collect()
    }
}

/// What earlier answers gave, to be sent back.
#[derive(Default)]
pub(super) struct Seen {
    receipts: Vec<Bytes>,
    tokens: Vec<String>,
}

impl Seen {
    /// Keeps tokens and receipts of an answer.
    pub(super) fn note(&mut self, answer: &DynamicMessage) {
        for (field, value) in answer.fields() {
            match value {
                Value::Bytes(receipt) if field.name() == "receipt" => {
                    if self.receipts.len() >= SEEN_MAX {
                        self.receipts.remove(0);
                    }
                    self.receipts.push(receipt.clone());
                }
                Value::String(token) if field.name().ends_with("_token") && !token.is_empty() => {
                    if self.tokens.len() >= SEEN_MAX {
                        self.tokens.remove(0);
                    }
                    self.tokens.push(token.clone());
                }
                Value::Message(message) => self.note(message),
                Value::List(list) => list
                    .iter()
                    .filter_map(Value::as_message)
                    .for_each(|message| self.note(message)),
                _ => {}
            }
        }
    }
}

/// A message with some of its fields.
pub(super) fn message(
    descriptor: &MessageDescriptor,
    source: &mut Source<'_>,
    seen: &Seen,
    depth: usize,
) -> DynamicMessage {
    let mut message = DynamicMessage::new(descriptor.clone());
    if depth >= DEPTH_MAX {
        return message;
    }
    let chosen: Vec<FieldDescriptor> = descriptor
        .oneofs()
        .map(|oneof| {
            let fields: Vec<_> = oneof.fields().collect();
            source.one(&fields).clone()
        })
        .collect();
    for field in descriptor.fields() {
        let is_left_out = field.containing_oneof().is_some() && !chosen.contains(&field);
        if is_left_out || source.below(8) == 7 {
            continue;
        }
        let value = if field.is_map() {
            map(&field, source)
        } else if field.is_list() {
            let count = source.number(&[1, 2, 1, 3], &[0, 101]);
            // So many are all alike: choices run out.
            Value::List((0..count).map(|_| one(&field, source, seen, depth)).collect())
        } else {
            one(&field, source, seen, depth)
        };
        message.set_field(&field, value);
    }
    message
}

fn map(field: &FieldDescriptor, source: &mut Source<'_>) -> Value {
    let count = source.below(3);
    let entries = (0..count).map(|_| {
        let entry = (MapKey::String(text(source)), Value::String(text(source)));
        debug_assert!(field.is_map(), "maps here are of strings");
        entry
    });
    Value::Map(entries.collect::<HashMap<_, _>>())
}

fn one(field: &FieldDescriptor, source: &mut Source<'_>, seen: &Seen, depth: usize) -> Value {
    match field.kind() {
        Kind::Message(inner) => Value::Message(message(&inner, source, seen, depth + 1)),
        Kind::Enum(kind) => {
            let good: Vec<i32> = kind.values().map(|value| value.number()).collect();
            Value::EnumNumber(source.number(&good, &[-1, 99, i32::MAX]))
        }
        Kind::Bool => Value::Bool(source.below(2) == 1),
        Kind::Bytes => Value::Bytes(bytes(field.name(), source, seen)),
        Kind::String => Value::String(string(field.name(), source, seen)),
        Kind::Int32 => {
            let odd = [999_999_999, 1_000_000_000, -1, 1_000, 1_001, i32::MAX, i32::MIN];
            Value::I32(source.number(&[0, 1, 2], &odd))
        }
        Kind::Int64 => {
            let odd = [
                -1,
                86_400,
                1_700_000_000,
                253_402_300_799,
                253_402_300_800,
                i64::MAX,
                i64::MIN,
            ];
            Value::I64(source.number(&[1, 2, 0, 10], &odd))
        }
        Kind::Uint32 => Value::U32(source.number(&[1, 0, 2, 10], &[100, 101, 1_000, 1_001, u32::MAX])),
        Kind::Uint64 => {
            let odd = [1_000, i64::MAX.unsigned_abs(), 1 << 63, u64::MAX];
            Value::U64(source.number(&[1, 0, 2, 3, 7], &odd))
        }
        kind => panic!("the contract has no {kind:?}"),
    }
}

fn bytes(name: &str, source: &mut Source<'_>, seen: &Seen) -> Bytes {
    if name == "receipt" && !seen.receipts.is_empty() && source.below(4) < 3 {
        return source.one(&seen.receipts).clone();
    }
    if source.below(64) == 63 {
        return vec![source.byte(); LONG].into();
    }
    source.bytes(400).into()
}

fn string(name: &str, source: &mut Source<'_>, seen: &Seen) -> String {
    if source.below(16) == 15 {
        return text(source);
    }
    let known: &[&str] = match name {
        "namespace" | "target_namespace" => &["n", "m"],
        "queue" | "name" => &["q", "r"],
        "key" | "start" | "end" | "prefix" => &["a", "b", "", "a/", "a\u{10ffff}", "%"],
        "request_id" => &["", "", "", "once", "twice"],
        "ordering_key" | "dedup_id" => &["", "x", "y"],
        "paths" => &["lease", "backoff", "backoff.max", "paused", "max_depth", "nothing"],
        "text" if source.below(4) > 0 => &["a", "b"],
        _ => &[],
    };
    if name.ends_with("_token") {
        return match source.below(3) {
            0 => String::new(),
            1 if !seen.tokens.is_empty() => source.one(&seen.tokens).clone(),
            _ => text(source),
        };
    }
    match known {
        [] => text(source),
        known => (*source.one(known)).to_owned(),
    }
}

fn text(source: &mut Source<'_>) -> String {
    match source.below(8) {
        0 => String::new(),
        1 => "a\0b".to_owned(),
        2 => "\u{10ffff}".repeat(source.below(200)),
        3 => "k".repeat(usize::from(source.byte()) * 5),
        _ => String::from_utf8_lossy(&source.bytes(40)).into_owned(),
    }
}
