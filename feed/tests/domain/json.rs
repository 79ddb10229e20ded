use feed::json::{DEPTH_MAX, parse, to_text};
use proptest::prelude::*;
use serde_json::Value;

use crate::support::any_value;

#[track_caller]
fn prints(input: &str, expected: &str) {
    assert_eq!(to_text(&parse(input.as_bytes()).unwrap()), expected);
}

#[track_caller]
fn fails(input: &[u8], expected: &str) {
    assert_eq!(parse(input).unwrap_err().to_string(), expected);
}

#[test]
fn numbers_are_doubles_and_print_as_ecmascript_does() {
    prints("1.0", "1");
    prints("-0", "0");
    prints("-0.0", "0");
    prints("1E2", "100");
    prints("1e21", "1e+21");
    prints("1e20", "100000000000000000000");
    prints("1e-7", "1e-7");
    prints("0.000001", "0.000001");
    prints("12345678901234567890", "12345678901234567000");
    prints("-12345678901234567", "-12345678901234568");
    prints("9007199254740993", "9007199254740992");
    prints("333333333.33333329", "333333333.3333333");
    prints("5e-324", "5e-324");
    prints("1.7976931348623157e308", "1.7976931348623157e+308");
    prints("1e-400", "0");
}

#[test]
fn integers_put_in_by_a_caller_print_as_they_would_be_read_back() {
    assert_eq!(
        to_text(&Value::from(12_345_678_901_234_567_890_u64)),
        "12345678901234567000"
    );
    assert_eq!(to_text(&Value::from(-3)), "-3");
}

#[test]
fn order_white_space_and_escapes() {
    prints(" { \"b\" : [ 1 , { } ] , \"a\" : null }\n", r#"{"b":[1,{}],"a":null}"#);
    prints("\u{feff}[true,false]", "[true,false]");
    prints(r#""\u00e9\ud83c\udfa8\/\u007f\u2028""#, "\"é🎨/\u{7f}\u{2028}\"");
    prints(r#""\u0001\b\f\n\r\t\"\\""#, r#""\u0001\b\f\n\r\t\"\\""#);
}

#[test]
fn what_two_readers_could_take_differently_is_refused() {
    fails(
        br#"{"a":1,"b":{"c":1,"c":2}}"#,
        "duplicate key \"c\" at line 1 column 21",
    );
    fails(br#"{"a":1,"\u0061":2}"#, "duplicate key \"a\" at line 1 column 15");
    fails(b"{\"a\":\n1e999}", "number out of range at line 2 column 5");
    fails(br#""\ud800""#, "unexpected end of hex escape at line 1 column 8");
    fails(
        br#"{"\udc00":1}"#,
        "lone leading surrogate in hex escape at line 1 column 8",
    );
    fails(b"\"\xff\"", "invalid unicode code point at line 1 column 2");
    fails(b"1 2", "trailing characters at line 1 column 3");
    fails(b"", "EOF while parsing a value at line 1 column 0");
    fails(b"\xef\xbb\xbf\xef\xbb\xbf1", "expected value at line 1 column 1");
    fails(b"[NaN]", "expected value at line 1 column 2");
}

#[test]
fn an_error_names_the_place_and_repeats_little() {
    let error = parse(b"{\n  \"a\": trux\n}").unwrap_err();
    assert_eq!((error.line(), error.column()), (2, 11));
    let key = "k".repeat(100_000);
    let error = parse(format!(r#"{{"{key}":1,"{key}":2}}"#).as_bytes()).unwrap_err();
    assert!(error.to_string().len() < 200, "{error}");
}

#[test]
fn nesting_ends_at_its_limit() {
    let nested = |depth: usize| "[".repeat(depth) + &"]".repeat(depth);
    prints(&nested(DEPTH_MAX), &nested(DEPTH_MAX));
    assert!(parse(nested(DEPTH_MAX + 1).as_bytes()).is_err());
    assert!(parse("[".repeat(5_000_000).as_bytes()).is_err());
}

proptest! {
    #[test]
    fn text_reads_back_as_the_same_value_and_text(value in any_value()) {
        let text = to_text(&value);
        let again = parse(text.as_bytes()).unwrap();
        prop_assert_eq!(&to_text(&again), &text);
        // -0 prints as 0, so values are compared by a second reading.
        prop_assert_eq!(parse(to_text(&again).as_bytes()).unwrap(), again);
    }

    #[test]
    fn no_bytes_panic(bytes in prop::collection::vec(any::<u8>(), 0..64)) {
        let _ = parse(&bytes);
    }
}
