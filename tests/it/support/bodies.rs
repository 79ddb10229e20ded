//! Bodies of requests.

use serde_json::{Value, json};

/// A plain playlist of so many items.
pub(crate) fn playlist(title: &str, items: usize) -> Value {
    let items: Vec<_> = (0..items)
        .map(|number| {
            json!({
                "title": format!("Work {number}"),
                "source": format!("https://example.com/works/{number}.html"),
                "duration": 60 + number,
                "license": "open",
            })
        })
        .collect();
    json!({ "dpVersion": "1.1.0", "title": title, "items": items })
}

/// A channel over these URLs.
pub(crate) fn channel(title: &str, urls: &[String]) -> Value {
    json!({ "title": title, "playlists": urls })
}
