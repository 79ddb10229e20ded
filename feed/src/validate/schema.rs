//! What each object of a body may hold, in the order in which problems are reported and kept members printed.
//!
//! An object is a table of its members; each member names the function that checks its value. Objects whose unknown
//! members are dropped are projected onto their table, the others are kept as they came.

use serde_json::Value;

use super::report::{Path, Report, repeated};
use super::text::{self, DpVersion};
use crate::json::Object;

/// Most items of a playlist.
pub const ITEMS_MAX: usize = 1024;
/// Most playlists of a channel.
pub const PLAYLISTS_MAX: usize = 1024;

const DP_VERSION_MAX: usize = 16;
const TITLE_MAX: usize = 256;
const SUMMARY_MAX: usize = 4096;
const CURATOR_MAX: usize = 128;
const ENTITY_NAME_MAX: usize = 128;
const URI_MAX: usize = 1024;
const PARAM_MAX: usize = 1024;
const SEED_MAX: usize = 130;
const HASH_MAX: usize = 66;
const PHASH_MAX: usize = 18;
const ASSETS_MAX: usize = 1024;
const DEPENDENCIES_MAX: usize = 1024;
const ADDRESS_MAX: usize = 48;
const TOKEN_ID_MAX: usize = 128;
const SERIES_ID_TEXT_MAX: usize = 128;
const SERIES_ID_NUMBER_MAX: f64 = 4_294_967_295.0;

const LICENSES: &[&str] = &["open", "token", "subscription"];
const SCALINGS: &[&str] = &["fit", "fill", "stretch", "auto"];
const PROVENANCES: &[&str] = &["onChain", "seriesRegistry", "offChainURI"];
const CHAINS: &[&str] = &["evm", "tezos", "bitmark", "other"];
const STANDARDS: &[&str] = &["erc721", "erc1155", "fa2", "other"];

/// Where a playlist without works is reported.
pub(super) const WORKS_PATH: &str = "items.dynamicQueries";
pub(super) const WORKS_MISSING: &str = "Playlist must have either items or dynamicQueries (or both)";
pub(super) const WORKS_EMPTIED: &str = "If items or dynamicQueries are provided, at least one must be non-empty";

/// Checks a value at a path.
pub(super) type Check = fn(&Value, &Path<'_>, &mut Report);

/// A member that an object may have.
pub(super) struct Member {
    pub(super) name: &'static str,
    required: bool,
    check: Check,
    /// Whether its value is stripped of members that its table does not name.
    projection: Projection,
}

#[derive(Clone, Copy)]
enum Projection {
    Whole,
    Object(&'static [Member]),
    EachElement(&'static [Member]),
}

const fn required(name: &'static str, check: Check) -> Member {
    Member {
        name,
        required: true,
        check,
        projection: Projection::Whole,
    }
}

const fn optional(name: &'static str, check: Check) -> Member {
    Member {
        name,
        required: false,
        check,
        projection: Projection::Whole,
    }
}

impl Member {
    const fn projected(self, projection: Projection) -> Self {
        Self { projection, ..self }
    }
}

pub(super) const PLAYLIST: &[Member] = &[
    required("dpVersion", dp_version),
    required("title", title),
    optional("curators", entities),
    optional("summary", summary),
    optional("coverImage", uri),
    optional("defaults", defaults).projected(Projection::Object(DEFAULTS)),
    required("items", items).projected(Projection::EachElement(ITEM)),
    optional("dynamicQueries", dynamic_queries),
];

pub(super) const CHANNEL: &[Member] = &[
    required("title", title),
    optional("curator", |value, at, report| string(value, at, report, CURATOR_MAX)),
    optional("curators", entities),
    optional("publisher", entity),
    optional("summary", summary),
    optional("coverImage", uri),
    required("playlists", playlists),
];

const DEFAULTS: &[Member] = &[
    optional("display", display),
    optional("license", license),
    optional("duration", duration),
];

const ITEM: &[Member] = &[
    optional("title", title),
    required("source", uri),
    required("duration", duration),
    required("license", license),
    optional("ref", uri),
    optional("override", |value, at, report| {
        object(value, at, report, &[]);
    }),
    optional("display", display),
    optional("repro", repro),
    optional("provenance", provenance),
];

const DISPLAY: &[Member] = &[
    optional("scaling", |value, at, report| one_of(value, at, report, SCALINGS)),
    optional("margin", margin),
    optional("background", |value, at, report| {
        string_like(value, at, report, text::is_background);
    }),
    optional("autoplay", boolean),
    optional("loop", boolean),
    optional("interaction", |value, at, report| {
        object(value, at, report, INTERACTION);
    }),
];

const INTERACTION: &[Member] = &[
    optional("keyboard", |value, at, report| {
        array(value, at, report, 0..=usize::MAX, |key, at, report| {
            as_string(key, at, report);
        });
    }),
    optional("mouse", |value, at, report| object(value, at, report, MOUSE)),
];

const MOUSE: &[Member] = &[
    optional("click", boolean),
    optional("scroll", boolean),
    optional("drag", boolean),
    optional("hover", boolean),
];

const REPRO: &[Member] = &[
    required("engineVersion", |value, at, report| {
        record(value, at, report, |version, at, report| {
            as_string(version, at, report);
        });
    }),
    optional("seed", |value, at, report| hex(value, at, report, SEED_MAX)),
    required("assetsSHA256", |value, at, report| {
        array(value, at, report, 0..=ASSETS_MAX, hash);
    }),
    required("frameHash", |value, at, report| object(value, at, report, FRAME_HASH)),
];

const FRAME_HASH: &[Member] = &[
    required("sha256", hash),
    optional("phash", |value, at, report| hex(value, at, report, PHASH_MAX)),
];

const PROVENANCE: &[Member] = &[
    required("type", |value, at, report| one_of(value, at, report, PROVENANCES)),
    optional("contract", |value, at, report| object(value, at, report, CONTRACT)),
    optional("dependencies", |value, at, report| {
        array(value, at, report, 0..=DEPENDENCIES_MAX, |dependency, at, report| {
            object(dependency, at, report, DEPENDENCY);
        });
    }),
];

const CONTRACT: &[Member] = &[
    required("chain", chain),
    optional("standard", standard),
    optional("address", |value, at, report| string(value, at, report, ADDRESS_MAX)),
    optional("seriesId", series_id),
    optional("tokenId", |value, at, report| string(value, at, report, TOKEN_ID_MAX)),
    optional("uri", uri),
    optional("metaHash", hash),
];

const DEPENDENCY: &[Member] = &[
    required("chain", chain),
    optional("standard", standard),
    required("uri", uri),
];

const ENTITY: &[Member] = &[
    required("name", |value, at, report| string(value, at, report, ENTITY_NAME_MAX)),
    optional("key", |value, at, report| {
        string_like(value, at, report, text::is_did_key);
    }),
    optional("url", uri),
];

const DYNAMIC_QUERY: &[Member] = &[
    required("endpoint", uri),
    required("params", |value, at, report| {
        record(value, at, report, |param, at, report| {
            string(param, at, report, PARAM_MAX);
        });
    }),
];

/// Checks a whole body.
pub(super) fn check(check: Check, body: &Value, report: &mut Report) {
    check(body, &Path::ROOT, report);
}

pub(super) fn playlist(value: &Value, at: &Path<'_>, report: &mut Report) {
    object(value, at, report, PLAYLIST);
}

pub(super) fn channel(value: &Value, at: &Path<'_>, report: &mut Report) {
    object(value, at, report, CHANNEL);
}

pub(super) fn playlist_patch(value: &Value, at: &Path<'_>, report: &mut Report) {
    patch(value, at, report, PLAYLIST);
}

pub(super) fn channel_patch(value: &Value, at: &Path<'_>, report: &mut Report) {
    patch(value, at, report, CHANNEL);
}

/// Whether a well-formed playlist has something to play.
pub(super) fn has_works(body: &Value) -> bool {
    let is_filled = |name| {
        body.get(name)
            .and_then(Value::as_array)
            .is_some_and(|works| !works.is_empty())
    };
    is_filled("items") || is_filled("dynamicQueries")
}

/// Whether a well-formed patch says what there is to play. Taking the queries away says nothing of the items.
pub(super) fn sends_works(body: &Value) -> bool {
    ["items", "dynamicQueries"]
        .iter()
        .any(|name| body.get(*name).is_some_and(|works| !works.is_null()))
}

/// The members a table names, in its order, stripped in turn where the table says so.
pub(super) fn projected(members: &[Member], mut object: Object) -> Object {
    let mut kept = Object::new();
    for member in members {
        if let Some((name, mut value)) = object.remove_entry(member.name) {
            match member.projection {
                Projection::Whole => {}
                Projection::Object(members) => project(members, &mut value),
                Projection::EachElement(members) => {
                    value
                        .as_array_mut()
                        .into_iter()
                        .flatten()
                        .for_each(|element| project(members, element));
                }
            }
            kept.insert(name, value);
        }
    }
    kept
}

fn project(members: &[Member], value: &mut Value) {
    if let Value::Object(object) = value {
        *object = projected(members, std::mem::take(object));
    }
}

fn dp_version(value: &Value, at: &Path<'_>, report: &mut Report) {
    let Some(version) = as_string(value, at, report) else {
        return;
    };
    at_most(version, at, report, DP_VERSION_MAX);
    match text::dp_version(version) {
        DpVersion::Accepted => {}
        DpVersion::NotSemver => {
            report.problem(
                at,
                format_args!("Invalid semantic version format: {}", repeated(version)),
            );
        }
        DpVersion::BelowMinimum => {
            let version = repeated(version);
            report.problem(
                at,
                format_args!("dpVersion {version} is below minimum required version 1.0.0"),
            );
        }
    }
}

fn title(value: &Value, at: &Path<'_>, report: &mut Report) {
    string(value, at, report, TITLE_MAX);
}

fn summary(value: &Value, at: &Path<'_>, report: &mut Report) {
    string(value, at, report, SUMMARY_MAX);
}

fn defaults(value: &Value, at: &Path<'_>, report: &mut Report) {
    object(value, at, report, DEFAULTS);
}

fn items(value: &Value, at: &Path<'_>, report: &mut Report) {
    array(value, at, report, 0..=ITEMS_MAX, |item, at, report| {
        object(item, at, report, ITEM);
    });
}

fn entities(value: &Value, at: &Path<'_>, report: &mut Report) {
    array(value, at, report, 0..=usize::MAX, entity);
}

fn entity(value: &Value, at: &Path<'_>, report: &mut Report) {
    object(value, at, report, ENTITY);
}

fn dynamic_queries(value: &Value, at: &Path<'_>, report: &mut Report) {
    array(value, at, report, 0..=usize::MAX, |query, at, report| {
        object(query, at, report, DYNAMIC_QUERY);
    });
}

fn playlists(value: &Value, at: &Path<'_>, report: &mut Report) {
    array(value, at, report, 1..=PLAYLISTS_MAX, |url, at, report| {
        if let Some(url) = string_like(url, at, report, text::is_http_url) {
            at_most(url, at, report, URI_MAX);
        }
    });
}

fn display(value: &Value, at: &Path<'_>, report: &mut Report) {
    object(value, at, report, DISPLAY);
}

fn repro(value: &Value, at: &Path<'_>, report: &mut Report) {
    object(value, at, report, REPRO);
}

fn provenance(value: &Value, at: &Path<'_>, report: &mut Report) {
    let malformed_before = report.malformed_count();
    object(value, at, report, PROVENANCE);
    if report.malformed_count() > malformed_before {
        return;
    }
    let contract = value.get("contract");
    let member = |name| contract.and_then(|contract| contract.get(name));
    let is_filled = |name| {
        member(name)
            .and_then(Value::as_str)
            .is_some_and(|text| !text.is_empty())
    };
    let contract_at = at.child("contract");
    let kind = value.get("type").and_then(Value::as_str).unwrap_or_default();
    if matches!(kind, "onChain" | "seriesRegistry") {
        if contract.is_none() {
            report.problem(
                &contract_at,
                "contract is required when provenance on chain or in series registry",
            );
        }
        if !is_filled("address") {
            let text = "contract.address is required for onChain or seriesRegistry provenance";
            report.problem(&contract_at.child("address"), text);
        }
    }
    if kind == "onChain" && !is_filled("tokenId") {
        let text = "contract.tokenId is required when provenance type is onChain";
        report.problem(&contract_at.child("tokenId"), text);
    }
    if kind == "seriesRegistry" && member("seriesId").is_none() {
        let text = "contract.seriesId is required when provenance type is seriesRegistry";
        report.problem(&contract_at.child("seriesId"), text);
    }
    if kind == "offChainURI" && contract.is_some() {
        report.problem(&contract_at, "contract is not allowed when provenance is off chain URI");
    }
}

fn license(value: &Value, at: &Path<'_>, report: &mut Report) {
    one_of(value, at, report, LICENSES);
}

fn chain(value: &Value, at: &Path<'_>, report: &mut Report) {
    one_of(value, at, report, CHAINS);
}

fn standard(value: &Value, at: &Path<'_>, report: &mut Report) {
    one_of(value, at, report, STANDARDS);
}

fn duration(value: &Value, at: &Path<'_>, report: &mut Report) {
    match value.as_f64() {
        Some(duration) => at_least(duration, 1, at, report),
        None => wrong_type(value, at, report, "number"),
    }
}

fn margin(value: &Value, at: &Path<'_>, report: &mut Report) {
    match value {
        Value::Number(_) => at_least(value.as_f64().unwrap_or_default(), 0, at, report),
        Value::String(text) if text::is_css_length(text) => {}
        Value::String(_) => report.problem(at, "Invalid"),
        _ => report.malformed(at, "Invalid"),
    }
}

fn series_id(value: &Value, at: &Path<'_>, report: &mut Report) {
    match value {
        Value::Number(_) => {
            let number = value.as_f64().unwrap_or_default();
            at_least(number, 0, at, report);
            if number > SERIES_ID_NUMBER_MAX {
                let text = format_args!("Number must be less than or equal to {SERIES_ID_NUMBER_MAX}");
                report.problem(at, text);
            }
        }
        Value::String(text) => at_most(text, at, report, SERIES_ID_TEXT_MAX),
        _ => report.malformed(at, "Invalid"),
    }
}

fn hash(value: &Value, at: &Path<'_>, report: &mut Report) {
    hex(value, at, report, HASH_MAX);
}

fn hex(value: &Value, at: &Path<'_>, report: &mut Report, length_max: usize) {
    if let Some(text) = string_like(value, at, report, text::is_prefixed_hex) {
        at_most(text, at, report, length_max);
    }
}

fn uri(value: &Value, at: &Path<'_>, report: &mut Report) {
    if let Some(text) = string_like(value, at, report, text::is_uri) {
        at_most(text, at, report, URI_MAX);
    }
}

fn string(value: &Value, at: &Path<'_>, report: &mut Report, length_max: usize) {
    if let Some(text) = as_string(value, at, report) {
        at_most(text, at, report, length_max);
    }
}

fn string_like<'v>(
    value: &'v Value,
    at: &Path<'_>,
    report: &mut Report,
    has_form: fn(&str) -> bool,
) -> Option<&'v str> {
    let text = as_string(value, at, report)?;
    if !has_form(text) {
        report.problem(at, "Invalid");
    }
    Some(text)
}

fn as_string<'v>(value: &'v Value, at: &Path<'_>, report: &mut Report) -> Option<&'v str> {
    let text = value.as_str();
    if text.is_none() {
        wrong_type(value, at, report, "string");
    }
    text
}

fn boolean(value: &Value, at: &Path<'_>, report: &mut Report) {
    if !value.is_boolean() {
        wrong_type(value, at, report, "boolean");
    }
}

fn one_of(value: &Value, at: &Path<'_>, report: &mut Report, choices: &[&str]) {
    let expected = || {
        choices
            .iter()
            .map(|choice| format!("'{choice}'"))
            .collect::<Vec<_>>()
            .join(" | ")
    };
    match value {
        Value::String(text) if choices.contains(&text.as_str()) => {}
        Value::String(text) => {
            let (expected, received) = (expected(), repeated(text));
            report.malformed(
                at,
                format_args!("Invalid enum value. Expected {expected}, received '{received}'"),
            );
        }
        _ => wrong_type(value, at, report, &expected()),
    }
}

fn at_most(text: &str, at: &Path<'_>, report: &mut Report, length_max: usize) {
    if text::length(text) > length_max {
        report.problem(
            at,
            format_args!("String must contain at most {length_max} character(s)"),
        );
    }
}

fn at_least(number: f64, min: u32, at: &Path<'_>, report: &mut Report) {
    if number < f64::from(min) {
        report.problem(at, format_args!("Number must be greater than or equal to {min}"));
    }
}

fn array(value: &Value, at: &Path<'_>, report: &mut Report, size: std::ops::RangeInclusive<usize>, check: Check) {
    let Value::Array(elements) = value else {
        return wrong_type(value, at, report, "array");
    };
    if elements.len() > *size.end() {
        report.problem(at, format_args!("Array must contain at most {} element(s)", size.end()));
    }
    if elements.len() < *size.start() {
        report.problem(
            at,
            format_args!("Array must contain at least {} element(s)", size.start()),
        );
    }
    for (position, element) in elements.iter().enumerate() {
        check(element, &at.element(position), report);
    }
}

fn record(value: &Value, at: &Path<'_>, report: &mut Report, check: Check) {
    let Value::Object(object) = value else {
        return wrong_type(value, at, report, "object");
    };
    for (name, value) in object {
        check(value, &at.child(name), report);
    }
}

fn object(value: &Value, at: &Path<'_>, report: &mut Report, members: &[Member]) {
    let Value::Object(object) = value else {
        return wrong_type(value, at, report, "object");
    };
    for member in members {
        match object.get(member.name) {
            Some(value) => (member.check)(value, &at.child(member.name), report),
            None if member.required => report.malformed(&at.child(member.name), "Required"),
            None => {}
        }
    }
}

/// An object that needs no member, and where `null` takes away those that an object need not have.
fn patch(value: &Value, at: &Path<'_>, report: &mut Report, members: &[Member]) {
    for member in members {
        match value.get(member.name) {
            Some(Value::Null) if !member.required => {}
            Some(value) => (member.check)(value, &at.child(member.name), report),
            None => {}
        }
    }
}

fn wrong_type(value: &Value, at: &Path<'_>, report: &mut Report, expected: &str) {
    let received = match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(_) => "number",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    };
    report.malformed(at, format_args!("Expected {expected}, received {received}"));
}
