//! The forms strings must have, exactly as the feed API's JavaScript patterns have them.

/// `\s` of JavaScript: Unicode white space with U+FEFF and without U+0085.
fn is_space(character: char) -> bool {
    character == '\u{feff}' || (character != '\u{85}' && character.is_whitespace())
}

/// `^[a-zA-Z][a-zA-Z0-9+.-]*:[^\s]*$`
pub(super) fn is_uri(text: &str) -> bool {
    text.split_once(':').is_some_and(|(scheme, rest)| {
        scheme.starts_with(|first: char| first.is_ascii_alphabetic())
            && scheme
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"+.-".contains(&byte))
            && !rest.contains(is_space)
    })
}

/// `^http[s]?:\/\/[^\s]+$`
pub(super) fn is_http_url(text: &str) -> bool {
    let rest = text.strip_prefix("http://").or_else(|| text.strip_prefix("https://"));
    rest.is_some_and(|rest| !rest.is_empty() && !rest.contains(is_space))
}

/// `^[0-9]+(\.[0-9]+)?(px|%|vw|vh)$`
pub(super) fn is_css_length(text: &str) -> bool {
    let number = ["px", "%", "vw", "vh"].iter().find_map(|unit| text.strip_suffix(unit));
    let digits = |part: &str| !part.is_empty() && part.bytes().all(|byte| byte.is_ascii_digit());
    number.is_some_and(|number| match number.split_once('.') {
        Some((whole, fraction)) => digits(whole) && digits(fraction),
        None => digits(number),
    })
}

/// `^(#([0-9a-fA-F]{6}|[0-9a-fA-F]{3})|transparent)$`
pub(super) fn is_background(text: &str) -> bool {
    text == "transparent"
        || text
            .strip_prefix('#')
            .is_some_and(|digits| matches!(digits.len(), 3 | 6) && is_hex_digits(digits))
}

/// `^0x[a-fA-F0-9]+$`
pub(super) fn is_prefixed_hex(text: &str) -> bool {
    text.strip_prefix("0x")
        .is_some_and(|digits| !digits.is_empty() && is_hex_digits(digits))
}

/// `^did:key:z[1-9A-HJ-NP-Za-km-z]+$`
pub(super) fn is_did_key(text: &str) -> bool {
    let base58 = |byte: u8| byte.is_ascii_alphanumeric() && !b"0OIl".contains(&byte);
    text.strip_prefix("did:key:z")
        .is_some_and(|rest| !rest.is_empty() && rest.bytes().all(base58))
}

fn is_hex_digits(text: &str) -> bool {
    text.bytes().all(|byte| byte.is_ascii_hexdigit())
}

/// How a `dpVersion` stands to the lowest that is accepted, 1.0.0.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum DpVersion {
    Accepted,
    BelowMinimum,
    NotSemver,
}

/// The largest component that JavaScript's semver accepts: 2^53 - 1.
const COMPONENT_MAX: u64 = (1 << 53) - 1;

/// Judges a version by semver's rules. White space around it and a lower-case `v` before it do not count.
pub(super) fn dp_version(text: &str) -> DpVersion {
    let text = text.trim_matches(is_space);
    let Ok(version) = semver::Version::parse(text.strip_prefix('v').unwrap_or(text)) else {
        return DpVersion::NotSemver;
    };
    if [version.major, version.minor, version.patch]
        .into_iter()
        .any(|component| component > COMPONENT_MAX)
    {
        return DpVersion::NotSemver;
    }
    let core = (version.major, version.minor, version.patch);
    // A pre-release of 1.0.0 comes before it.
    if core < (1, 0, 0) || (core == (1, 0, 0) && !version.pre.is_empty()) {
        DpVersion::BelowMinimum
    } else {
        DpVersion::Accepted
    }
}

/// The length as JavaScript counts it: in UTF-16 units.
pub(super) fn length(text: &str) -> usize {
    text.encode_utf16().count()
}
