//! Which playlist URLs are this feed's own. They are looked up, never fetched.

use std::net::SocketAddr;

use anyhow::{Context as _, bail};
use feed::id::Reference;
use url::{Host, Url};

/// What comes before the id or slug in the path of a playlist.
const PATHS: [&str; 2] = ["/api/v1/playlists/", "/playlists/"];

/// The hosts that this feed is reached under.
#[derive(Clone, Debug)]
pub(crate) struct Origins {
    own: Vec<Authority>,
}

/// What a playlist URL of a channel names.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Target {
    /// A playlist of this feed, if it exists.
    Own(Reference),
    /// It is at a playlist's place of this feed, but not what a playlist can be called.
    OwnNobody,
    /// Somebody else's, or no playlist's.
    Foreign,
}

/// A host, and which of its ports are meant.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Authority {
    host: Host<String>,
    port: Ports,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ports {
    Any,
    /// The default one of the URL's scheme.
    Default,
    Only(u16),
}

impl Origins {
    /// The origins of `PUBLIC_URL` and `SELF_HOSTED_DOMAINS`, and the address that is listened on.
    pub(crate) fn new(public_urls: &[String], domains: &[String], bound: SocketAddr) -> anyhow::Result<Self> {
        let mut own = vec![Authority {
            host: match bound {
                SocketAddr::V4(address) => Host::Ipv4(*address.ip()),
                SocketAddr::V6(address) => Host::Ipv6(*address.ip()),
            },
            port: Ports::Only(bound.port()),
        }];
        if bound.ip().is_loopback() || bound.ip().is_unspecified() {
            own.push(Authority {
                host: Host::Domain("localhost".to_owned()),
                port: Ports::Only(bound.port()),
            });
        }
        for public_url in entries(public_urls) {
            let url = Url::parse(public_url).with_context(|| format!("PUBLIC_URL {public_url:?} is not a URL"))?;
            let (true, Some(host)) = (matches!(url.scheme(), "http" | "https"), url.host()) else {
                bail!("PUBLIC_URL {public_url:?} is not an http or https URL");
            };
            own.push(Authority {
                host: host.to_owned(),
                port: url.port().map_or(Ports::Default, Ports::Only),
            });
        }
        for domain in entries(domains) {
            let authority = parse_authority(domain, Ports::Any);
            own.push(authority.with_context(|| format!("SELF_HOSTED_DOMAINS {domain:?} is not a host or host:port"))?);
        }
        Ok(Self { own })
    }

    /// What a URL names, for a request that was sent to `host` (`host` or `host:port`).
    pub(crate) fn target(&self, url: &str, host: Option<&str>) -> Target {
        let Ok(url) = Url::parse(url) else {
            return Target::Foreign;
        };
        let asked = host.and_then(|host| parse_authority(host, Ports::Default));
        if !self.own.iter().chain(&asked).any(|authority| authority.is_of(&url)) {
            return Target::Foreign;
        }
        let Some(name) = PATHS.iter().find_map(|prefix| url.path().strip_prefix(prefix)) else {
            return Target::Foreign;
        };
        let is_name = |byte: u8| byte.is_ascii_alphanumeric() || byte == b'-' || byte == b'_';
        if name.is_empty() || !name.bytes().all(is_name) {
            return Target::Foreign;
        }
        name.parse().map_or(Target::OwnNobody, Target::Own)
    }
}

impl Authority {
    fn is_of(&self, url: &Url) -> bool {
        let is_port = match self.port {
            Ports::Any => true,
            Ports::Default => url.port().is_none(),
            Ports::Only(port) => url.port_or_known_default() == Some(port),
        };
        is_port && url.host().is_some_and(|host| host.to_owned() == self.host)
    }
}

/// `host` or `host:port`, read as the host of a URL is.
fn parse_authority(text: &str, without_port: Ports) -> Option<Authority> {
    if text.contains(['/', '?', '#', '@', '\\']) {
        return None;
    }
    // Of a scheme that knows no default port, so that `:80` and `:443` are kept.
    let has_port = Url::parse(&format!("x://{text}")).ok()?.port();
    let url = Url::parse(&format!("http://{text}")).ok()?;
    Some(Authority {
        host: url.host()?.to_owned(),
        port: has_port.map_or(without_port, Ports::Only),
    })
}

fn entries(texts: &[String]) -> impl Iterator<Item = &str> {
    texts.iter().map(|text| text.trim()).filter(|text| !text.is_empty())
}

#[cfg(test)]
mod tests {
    use super::*;

    const ID: &str = "385f79b6-a45f-4c1c-8080-e93a192adccc";

    fn origins() -> Origins {
        let public = [
            "https://feed.example.com".to_owned(),
            "https://other.example.com:8443/".to_owned(),
        ];
        let domains = [
            "art.example.com".to_owned(),
            " with-port.example.com:81 ".to_owned(),
            String::new(),
        ];
        Origins::new(&public, &domains, SocketAddr::from(([127, 0, 0, 1], 8787))).expect("origins")
    }

    #[track_caller]
    fn check(url: &str, host: Option<&str>, expected: &Target) {
        assert_eq!(origins().target(url, host), *expected, "{url} asked at {host:?}");
    }

    #[test]
    fn own_hosts_are_known_by_setting_by_address_and_by_the_request() {
        let own = Target::Own(ID.parse().expect("an id"));
        for origin in [
            "https://feed.example.com",
            "https://FEED.example.com:443",
            "http://feed.example.com",
            "https://other.example.com:8443",
            "http://art.example.com:1234",
            "http://with-port.example.com:81",
            "http://127.0.0.1:8787",
            "http://localhost:8787",
        ] {
            check(&format!("{origin}/api/v1/playlists/{ID}"), None, &own);
            check(&format!("{origin}/playlists/{ID}?x=1#y"), None, &own);
        }
        check(
            &format!("https://proxied.example/playlists/{ID}"),
            Some("proxied.example"),
            &own,
        );
        check(
            &format!("http://proxied.example:99/playlists/{ID}"),
            Some("proxied.example:99"),
            &own,
        );
        check(
            &format!("http://proxied.example/playlists/{ID}"),
            Some("proxied.example:80"),
            &own,
        );
        check(&format!("http://[::1]:99/playlists/{ID}"), Some("[::1]:99"), &own);
    }

    #[test]
    fn everything_else_is_foreign() {
        for origin in [
            "https://example.com",
            "https://feed.example.com:8443",
            "https://other.example.com",
            "http://with-port.example.com",
            "http://127.0.0.1",
            "http://127.0.0.1:8788",
            "https://feed.example.com.evil.example",
        ] {
            check(&format!("{origin}/api/v1/playlists/{ID}"), None, &Target::Foreign);
        }
        check(
            &format!("http://proxied.example:99/playlists/{ID}"),
            Some("proxied.example"),
            &Target::Foreign,
        );
        check(
            &format!("http://a.example/playlists/{ID}"),
            Some("not a host"),
            &Target::Foreign,
        );
        check("not a URL", None, &Target::Foreign);
    }

    #[test]
    fn a_path_names_one_playlist_and_nothing_more() {
        let slug = Target::Own("my-Slug-1234".parse().expect("a slug"));
        check("https://feed.example.com/playlists/my-Slug-1234", None, &slug);
        check(
            "https://feed.example.com/playlists/with_underscore",
            None,
            &Target::OwnNobody,
        );
        for path in [
            "",
            "/",
            "/playlists",
            "/playlists/",
            "/playlists/a-1234/",
            "/playlists/a-1234/b",
            "/api/v1/channels/a-1234",
            "/api/v2/playlists/a-1234",
            "//playlists/a-1234",
            "/playlists/%61-1234",
        ] {
            check(&format!("https://feed.example.com{path}"), None, &Target::Foreign);
        }
    }
}
