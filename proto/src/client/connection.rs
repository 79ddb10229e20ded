//! How a client reaches the service: by a port, with or without TLS, by a socket in the file system, or in memory; and
//! what each of its calls carries beside the message.

use std::convert::Infallible;
use std::fmt;
use std::task::{Context, Poll};
use std::time::Duration;

use http::{HeaderValue, Request, Response, header};
use tonic::body::Body;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint, Identity};
use tower::util::BoxCloneSyncService;
use tower::{Service, ServiceExt as _};

use super::ClientError;
use crate::trace::{self, TRACEPARENT};

/// How long one attempt to connect may take.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(3);
/// An idle connection is probed this often, so that a dead peer is noticed.
const KEEP_ALIVE_INTERVAL: Duration = Duration::from_secs(30);
/// A probe not answered for this long closes the connection.
const KEEP_ALIVE_TIMEOUT: Duration = Duration::from_secs(10);
const TLS_SCHEME: &str = "https:";

pub(super) type Transport = BoxCloneSyncService<Request<Body>, Response<Body>, TransportError>;

/// What the connection said. A type of its own: futures over a bare boxed error cannot be proven `Send`.
#[derive(Debug, thiserror::Error)]
#[error("transport failed")]
pub(super) struct TransportError(#[source] tonic::transport::Error);

/// Where the service is, and who calls it.
#[derive(Clone, Default)]
pub struct Connection {
    /// `http://host:port`, `https://host:port` or `unix:/path`.
    pub address: String,
    /// Sent with every call.
    pub token: Option<String>,
    /// Who signs the service's certificate, PEM; none: whom the machine trusts. For `https` only.
    pub ca: Option<Vec<u8>>,
    /// Certificate chain and key to be shown to the service, PEM. For `https` only.
    pub identity: Option<(Vec<u8>, Vec<u8>)>,
}

impl fmt::Debug for Connection {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter
            .debug_struct("Connection")
            .field("address", &self.address)
            .finish_non_exhaustive()
    }
}

impl Connection {
    /// Without a token, by whom the machine trusts.
    #[must_use]
    pub fn to(address: impl Into<String>) -> Self {
        Self {
            address: address.into(),
            ..Self::default()
        }
    }

    /// Connects at the first call, and again whenever the connection is lost.
    pub(super) fn open(&self) -> Result<Transport, ClientError> {
        let is_tls = self.address.starts_with(TLS_SCHEME);
        if !is_tls && (self.ca.is_some() || self.identity.is_some()) {
            return Err(ClientError::Settings("certificates are for an https address"));
        }
        let bad_address = |source| ClientError::Address {
            address: self.address.clone(),
            source,
        };
        let mut endpoint = Endpoint::from_shared(self.address.clone())
            .map_err(bad_address)?
            .connect_timeout(CONNECT_TIMEOUT)
            .http2_keep_alive_interval(KEEP_ALIVE_INTERVAL)
            .keep_alive_timeout(KEEP_ALIVE_TIMEOUT)
            .keep_alive_while_idle(true)
            .http2_adaptive_window(true)
            .tcp_nodelay(true);
        if is_tls {
            endpoint = endpoint.tls_config(self.tls()).map_err(ClientError::Tls)?;
        }
        let carrier = Carrier {
            inner: endpoint.connect_lazy(),
            authorization: self.authorization()?,
        };
        Ok(BoxCloneSyncService::new(carrier.map_err(TransportError)))
    }

    fn tls(&self) -> ClientTlsConfig {
        let tls = match &self.ca {
            Some(ca) => ClientTlsConfig::new().ca_certificate(Certificate::from_pem(ca)),
            None => ClientTlsConfig::new().with_native_roots(),
        };
        match &self.identity {
            Some((certificate, key)) => tls.identity(Identity::from_pem(certificate, key)),
            None => tls,
        }
    }

    fn authorization(&self) -> Result<Option<HeaderValue>, ClientError> {
        let Some(token) = &self.token else { return Ok(None) };
        let value = HeaderValue::try_from(format!("Bearer {token}"));
        let mut value = value.map_err(|_| ClientError::Settings("the token does not fit into a header"))?;
        // Not to be logged, nor kept by the compression of headers.
        value.set_sensitive(true);
        Ok(Some(value))
    }
}

/// Services in this process: calls are passed in memory.
pub(super) fn in_memory(routes: tonic::service::Routes) -> Transport {
    let carrier = Carrier {
        inner: routes.prepare(),
        authorization: None,
    };
    BoxCloneSyncService::new(carrier.map_err(|never: Infallible| match never {}))
}

/// Adds to each call what it carries: the token, and the trace that it belongs to.
#[derive(Clone)]
struct Carrier<S> {
    inner: S,
    authorization: Option<HeaderValue>,
}

impl<S: Service<Request<Body>>> Service<Request<Body>> for Carrier<S> {
    type Response = S::Response;
    type Error = S::Error;
    type Future = S::Future;

    fn poll_ready(&mut self, context: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(context)
    }

    fn call(&mut self, mut request: Request<Body>) -> S::Future {
        let headers = request.headers_mut();
        if let Some(authorization) = &self.authorization {
            headers.insert(header::AUTHORIZATION, authorization.clone());
        }
        if let Some(trace) = trace::current()
            && let Ok(value) = HeaderValue::try_from(trace.to_string())
        {
            headers.insert(TRACEPARENT, value);
        }
        self.inner.call(request)
    }
}
