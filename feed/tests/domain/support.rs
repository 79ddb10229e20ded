//! What the tests share: a fixed key, a seeded source of ids, shorthand for JSON, and arbitrary JSON values.

use feed::document::Stamp;
use feed::json::Object;
use feed::sign::Signer;
use proptest::prelude::*;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use serde_json::Value;

/// RFC 8032, test 1.
pub(crate) const SEED: &str = "9d61b19deffd5a60ba844af492ec2cc44449c5697b326919703bac031cae7f60";
pub(crate) const NOW_MS: i64 = 1_748_970_060_000;

pub(crate) struct Feed {
    pub(crate) signer: Signer,
    pub(crate) rng: StdRng,
    pub(crate) now_ms: i64,
}

impl Feed {
    pub(crate) fn new() -> Self {
        Self {
            signer: Signer::from_hex(SEED).unwrap(),
            rng: StdRng::seed_from_u64(1),
            now_ms: NOW_MS,
        }
    }

    pub(crate) fn stamp(&mut self) -> Stamp<'_> {
        Stamp {
            now_ms: self.now_ms,
            signer: &self.signer,
            rng: &mut self.rng,
        }
    }
}

#[track_caller]
pub(crate) fn value(text: &str) -> Value {
    feed::json::parse(text.as_bytes()).unwrap()
}

#[track_caller]
pub(crate) fn object(text: &str) -> Object {
    match value(text) {
        Value::Object(object) => object,
        other => panic!("not an object: {other}"),
    }
}

pub(crate) fn keys(text: &str) -> Vec<String> {
    object(text).keys().cloned().collect()
}

/// Any JSON value, as the strict parser makes them.
pub(crate) fn any_value() -> impl Strategy<Value = Value> {
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<f64>().prop_filter_map("finite", |number| number.is_finite().then(|| Value::from(number))),
        any::<i32>().prop_map(|number| Value::from(f64::from(number))),
        any::<String>().prop_map(Value::from),
    ];
    leaf.prop_recursive(4, 48, 6, |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..6).prop_map(Value::from),
            any_object_of(inner).prop_map(Value::Object),
        ]
    })
}

pub(crate) fn any_object() -> impl Strategy<Value = Object> {
    any_object_of(any_value())
}

fn any_object_of(value: impl Strategy<Value = Value>) -> impl Strategy<Value = Object> {
    prop::collection::vec((any::<String>(), value), 0..6).prop_map(|members| members.into_iter().collect())
}
