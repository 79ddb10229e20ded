use feed::page::{CURSOR_LENGTH, Cursor, CursorError, LimitError, Position, Sort, parse_limit};
use feed::time;
use proptest::prelude::*;
use uuid::Uuid;

#[test]
fn limits() {
    for (value, expected) in [
        (None, Ok(100)),
        (Some(""), Ok(100)),
        (Some("1"), Ok(1)),
        (Some("007"), Ok(7)),
        (Some("100"), Ok(100)),
        (Some("101"), Err(LimitError)),
        (Some("0"), Err(LimitError)),
        (Some("-1"), Err(LimitError)),
        (Some("+5"), Err(LimitError)),
        (Some(" 5"), Err(LimitError)),
        (Some("5abc"), Err(LimitError)),
        (Some("0x10"), Err(LimitError)),
        (Some("2.0"), Err(LimitError)),
        (Some("abc"), Err(LimitError)),
        (Some("99999999999999999999999"), Err(LimitError)),
    ] {
        assert_eq!(parse_limit(value), expected, "{value:?}");
    }
}

#[test]
fn sorts() {
    for (value, expected) in [
        (None, Sort::Ascending),
        (Some("asc"), Sort::Ascending),
        (Some("nonsense"), Sort::Ascending),
        (Some("desc"), Sort::Descending),
        (Some("DeSC"), Sort::Descending),
        (Some("desc "), Sort::Ascending),
    ] {
        assert_eq!(Sort::parse(value), expected, "{value:?}");
    }
}

#[test]
fn a_cursor_continues_its_own_list_only() {
    let cursor = Cursor {
        list: "playlists",
        sort: Sort::Ascending,
        filter: Some("x"),
    };
    let last = Position {
        created_ms: -5,
        id: Uuid::from_u128(7),
    };
    let text = cursor.encode(&last);
    assert_eq!(text.len(), CURSOR_LENGTH);
    assert_eq!(cursor.decode(&text), Ok(last));
    for other in [
        Cursor {
            list: "channels",
            ..cursor
        },
        Cursor {
            sort: Sort::Descending,
            ..cursor
        },
        Cursor { filter: None, ..cursor },
        Cursor {
            filter: Some(""),
            ..cursor
        },
        Cursor {
            filter: Some("y"),
            ..cursor
        },
    ] {
        assert_eq!(other.decode(&text), Err(CursorError::OtherList), "{other:?}");
    }
    let long = "A".repeat(1_000_000);
    for garbage in [
        "",
        "x",
        "playlist:created:asc:1795448620646:9817fb4b-",
        &text[1..],
        &"A".repeat(CURSOR_LENGTH),
        &long,
    ] {
        assert_eq!(cursor.decode(garbage), Err(CursorError::Malformed), "{garbage:.80}");
    }
    assert_eq!(cursor.decode(&text.replace('A', "é")), Err(CursorError::Malformed));
}

proptest! {
    #[test]
    fn cursors_round_trip(created_ms in any::<i64>(), id in any::<u128>(), list in any::<String>(), filter in any::<Option<String>>()) {
        let cursor = Cursor { list: &list, sort: Sort::Descending, filter: filter.as_deref() };
        let last = Position { created_ms, id: Uuid::from_u128(id) };
        prop_assert_eq!(cursor.decode(&cursor.encode(&last)), Ok(last));
    }

    #[test]
    fn no_text_panics(text in any::<String>(), exact in "[ -~]{44}") {
        let cursor = Cursor { list: "", sort: Sort::Ascending, filter: None };
        let _ = (cursor.decode(&text), cursor.decode(&exact), time::parse(&text));
    }

    #[test]
    fn instants_round_trip(ms in -62_135_596_800_000_i64..253_402_207_200_000) {
        prop_assert_eq!(time::parse(&time::to_text(ms)), Some(ms));
        prop_assert_eq!(time::to_text(ms).len(), 24);
        prop_assert_eq!(time::to_text_seconds(ms).len(), 20);
    }
}

#[test]
fn instants_as_text() {
    assert_eq!(time::to_text(0), "1970-01-01T00:00:00.000Z");
    assert_eq!(time::to_text(1_748_970_060_001), "2025-06-03T17:01:00.001Z");
    assert_eq!(time::to_text(-1), "1969-12-31T23:59:59.999Z");
    assert_eq!(time::to_text_seconds(1_748_970_060_999), "2025-06-03T17:01:00Z");
    assert_eq!(time::to_text_seconds(-1), "1969-12-31T23:59:59Z");
    // Whatever the clock says, there is a text.
    assert!(time::to_text(i64::MAX).starts_with("9999-"));
    assert!(time::to_text_seconds(i64::MIN).starts_with("-009999-"));
}

#[test]
fn text_as_instants() {
    for (text, expected) in [
        ("2025-06-03T17:01:00Z", Some(1_748_970_060_000)),
        ("2025-06-03T17:01:00.001999Z", Some(1_748_970_060_001)),
        ("2025-06-03T19:01:00+02:00", Some(1_748_970_060_000)),
        ("1969-12-31T23:59:59.9999Z", Some(-1)),
        ("2025-06-03T17:01:00", None),
        ("2025-02-30T00:00:00Z", None),
        ("yesterday", None),
        ("", None),
    ] {
        assert_eq!(time::parse(text), expected, "{text}");
    }
}
