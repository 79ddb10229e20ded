//! Who may call what: whoever knows the token that it needs.

use http::{HeaderMap, header};
use runtime::secret::{Secrets, bearer};

use super::methods::Scope;
use crate::error::Refusal;

/// The tokens that open the service; those that are not set are not needed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Access {
    /// Opens all but what the admin token is for.
    pub(crate) token: Option<Secrets>,
    /// Opens everything.
    pub(crate) admin_token: Option<Secrets>,
}

impl Access {
    /// Whether a call may come in. Whatever is wrong with a token, the answer is the same.
    pub(super) fn judge(&self, scope: Scope, headers: &HeaderMap) -> Result<(), Refusal> {
        let sent = sent(headers).unwrap_or_default();
        // Both are always compared.
        let is_caller = is_one(self.token.as_ref(), sent);
        let is_admin = is_one(self.admin_token.as_ref(), sent);
        let is_open = match scope {
            Scope::Open => true,
            Scope::Caller => self.token.is_none() || is_caller || is_admin,
            Scope::Admin if self.admin_token.is_some() => is_admin,
            Scope::Admin => self.token.is_none() || is_caller,
        };
        if is_open {
            Ok(())
        } else if is_caller {
            Err(Refusal::AdminOnly)
        } else {
            Err(Refusal::Unauthenticated)
        }
    }
}

fn is_one(secrets: Option<&Secrets>, sent: &[u8]) -> bool {
    secrets.is_some_and(|secrets| secrets.open_for(sent))
}

/// The token of a call that sends exactly one.
fn sent(headers: &HeaderMap) -> Option<&[u8]> {
    let mut values = headers.get_all(header::AUTHORIZATION).iter();
    let value = values.next()?;
    values.next().is_none().then(|| bearer(value.as_bytes()))?
}

#[cfg(test)]
mod tests {
    use super::*;

    #[track_caller]
    fn check(
        token: Option<&str>,
        admin_token: Option<&str>,
        scope: Scope,
        sent: &[&str],
        expected: Result<(), Refusal>,
    ) {
        let secrets = |text| Secrets::parse(text).expect("these are secrets");
        let access = Access {
            token: token.map(secrets),
            admin_token: admin_token.map(secrets),
        };
        let mut headers = HeaderMap::new();
        for value in sent {
            headers.append(header::AUTHORIZATION, value.parse().expect("it is a value"));
        }
        assert_eq!(
            access.judge(scope, &headers),
            expected,
            "{token:?} {admin_token:?} {scope:?} {sent:?}"
        );
    }

    #[test]
    fn each_token_opens_what_it_is_for() {
        const TOKEN: &str = "Bearer t";
        const ADMIN: &str = "Bearer a";
        let nobody = Err(Refusal::Unauthenticated);
        for scope in [Scope::Open, Scope::Caller, Scope::Admin] {
            check(None, None, scope, &[], Ok(()));
        }
        check(Some("t"), Some("a"), Scope::Open, &[], Ok(()));
        for (scope, by_token) in [(Scope::Caller, Ok(())), (Scope::Admin, Err(Refusal::AdminOnly))] {
            check(Some("t"), Some("a"), scope, &[TOKEN], by_token);
            check(Some("t"), Some("a"), scope, &[ADMIN], Ok(()));
        }
        for scope in [Scope::Caller, Scope::Admin] {
            check(Some("t"), None, scope, &[TOKEN], Ok(()));
            check(Some("t"), None, scope, &[ADMIN], nobody);
            for wrong in [
                &[][..],
                &["t"],
                &["Basic t"],
                &["Bearer "],
                &["Bearer T"],
                &[TOKEN, TOKEN],
                &["Bearer t t"],
            ] {
                check(Some("t"), None, scope, wrong, nobody);
                check(Some("t"), Some("a"), scope, wrong, nobody);
            }
        }
        check(None, Some("a"), Scope::Caller, &[], Ok(()));
        check(None, Some("a"), Scope::Admin, &[], nobody);
        check(None, Some("a"), Scope::Admin, &[ADMIN], Ok(()));
    }
}
