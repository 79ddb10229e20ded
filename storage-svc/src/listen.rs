//! The listening socket and who may come in by it: an address or a file, plain or with TLS, open or with tokens.

mod greeting;
mod socket_file;
mod tls;

use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};
use clap::builder::{OsStringValueParser, TypedValueParser};
use runtime::secret::{Secret, Secrets};
use tokio::net::{TcpListener, TcpStream, UnixListener, UnixStream};
use tokio_rustls::TlsAcceptor;

pub(crate) use self::greeting::Greeted;
use self::socket_file::SocketFile;
use crate::rpc::Access;

/// What precedes the path of a socket in `STORAGE_LISTEN`.
const UNIX: &str = "unix:";

/// Who may come in, the same in a process of its own and beside the others.
#[derive(Clone, Debug, Default, clap::Args)]
#[group(skip)]
pub struct ListenArgs {
    /// Open the gRPC port on an address that is not loopback, to whoever can reach it, without a token or client
    /// certificates.
    #[arg(long, env = "STORAGE_INSECURE")]
    pub storage_insecure: bool,
    /// Token that every call must carry (`authorization: Bearer`), health excepted; two, separated by a comma, while it
    /// is being changed.
    #[arg(long, env = "STORAGE_TOKEN", hide_env_values = true)]
    pub storage_token: Option<Secret>,
    /// Token of AdminService (but GetServerInfo), Purge, Redrive and DeleteQueue, which opens everything else too; two
    /// while it is being changed.
    #[arg(long, env = "STORAGE_ADMIN_TOKEN", hide_env_values = true)]
    pub storage_admin_token: Option<Secret>,
    /// File with the certificate chain of the gRPC port, PEM; with it the port speaks TLS only.
    #[arg(long, env = "STORAGE_TLS_CERT", value_parser = path())]
    pub storage_tls_cert: Option<PathBuf>,
    /// File with the private key of that certificate, PEM.
    #[arg(long, env = "STORAGE_TLS_KEY", value_parser = path())]
    pub storage_tls_key: Option<PathBuf>,
    /// File with the certificates that sign those of clients, PEM; with it every client must show one.
    #[arg(long, env = "STORAGE_TLS_CLIENT_CA", value_parser = path())]
    pub storage_tls_client_ca: Option<PathBuf>,
}

impl ListenArgs {
    fn access(&self) -> anyhow::Result<Access> {
        let secrets = |secret: &Option<Secret>, name| {
            let text = secret.as_ref().and_then(Secret::reveal);
            let secrets = text.map(Secrets::parse).transpose();
            secrets.with_context(|| format!("{name} cannot be used"))
        };
        Ok(Access {
            token: secrets(&self.storage_token, "STORAGE_TOKEN")?,
            admin_token: secrets(&self.storage_admin_token, "STORAGE_ADMIN_TOKEN")?,
        })
    }

    fn tls(&self) -> anyhow::Result<Option<TlsAcceptor>> {
        let client_ca = set(self.storage_tls_client_ca.as_deref());
        match (
            set(self.storage_tls_cert.as_deref()),
            set(self.storage_tls_key.as_deref()),
        ) {
            (Some(cert), Some(key)) => tls::acceptor(cert, key, client_ca).map(Some),
            (None, None) if client_ca.is_some() => {
                bail!("STORAGE_TLS_CLIENT_CA needs STORAGE_TLS_CERT and STORAGE_TLS_KEY")
            }
            (None, None) => Ok(None),
            _ => bail!("STORAGE_TLS_CERT and STORAGE_TLS_KEY need each other"),
        }
    }

    /// Whether everybody who can reach the socket can read and write what the store holds.
    fn lets_everybody_in(&self, access: &Access) -> bool {
        access.token.is_none() && set(self.storage_tls_client_ca.as_deref()).is_none()
    }
}

/// Takes an empty path too: a variable that is there but not set.
fn path() -> impl TypedValueParser<Value = PathBuf> {
    OsStringValueParser::new().map(PathBuf::from)
}

/// A path that is set; a variable that is there but empty sets none.
fn set(path: Option<&Path>) -> Option<&Path> {
    path.filter(|path| !path.as_os_str().is_empty())
}

/// A listening socket.
#[derive(Debug)]
pub struct Listener {
    socket: Socket,
    pub(crate) access: Access,
    name: String,
    /// Removed with it.
    _file: Option<SocketFile>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener, Option<Tls>),
    Unix(UnixListener),
}

/// Shakes hands.
#[derive(Clone)]
pub(crate) struct Tls(pub(crate) TlsAcceptor);

impl std::fmt::Debug for Tls {
    fn fmt(&self, formatter: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        formatter.write_str("Tls")
    }
}

/// Somebody who came.
pub(crate) enum Incoming {
    Tcp(TcpStream, Option<Tls>),
    Unix(UnixStream),
}

impl Listener {
    /// Where it listens, as `STORAGE_LISTEN` would say it.
    #[must_use]
    pub fn address(&self) -> &str {
        &self.name
    }

    pub(crate) async fn accept(&self) -> std::io::Result<Incoming> {
        match &self.socket {
            Socket::Tcp(listener, tls) => Ok(Incoming::Tcp(listener.accept().await?.0, tls.clone())),
            Socket::Unix(listener) => Ok(Incoming::Unix(listener.accept().await?.0)),
        }
    }
}

/// A port that is open to everybody, without TLS.
impl From<TcpListener> for Listener {
    fn from(listener: TcpListener) -> Self {
        let name = listener
            .local_addr()
            .map_or_else(|_| String::new(), |address| address.to_string());
        Self {
            socket: Socket::Tcp(listener, None),
            access: Access::default(),
            name,
            _file: None,
        }
    }
}

/// Opens the socket: `host:port`, or `unix:/path`. An address that others can reach is refused if it lets everybody in,
/// unless `STORAGE_INSECURE` says that it is meant.
pub async fn bind(address: &str, args: &ListenArgs) -> anyhow::Result<Listener> {
    let access = args.access()?;
    let tls = args.tls()?;
    if let Some(path) = address.strip_prefix(UNIX) {
        if tls.is_some() {
            bail!("STORAGE_TLS_CERT is for a port: {address} never leaves this machine");
        }
        let path = Path::new(path.strip_prefix("//").unwrap_or(path));
        let (listener, file) = SocketFile::bind(path)?;
        return Ok(Listener {
            name: format!("{UNIX}{}", path.display()),
            socket: Socket::Unix(listener),
            access,
            _file: Some(file),
        });
    }
    let found = tokio::net::lookup_host(address)
        .await
        .with_context(|| format!("STORAGE_LISTEN {address:?} is not an address such as 127.0.0.1:50051"))?;
    let found: Vec<SocketAddr> = found.collect();
    let is_open = !args.storage_insecure && args.lets_everybody_in(&access);
    if is_open && let Some(open) = found.iter().find(|address| !address.ip().is_loopback()) {
        bail!(
            "STORAGE_LISTEN {open} lets everybody in who can reach it: set STORAGE_TOKEN or STORAGE_TLS_CLIENT_CA, or \
             STORAGE_INSECURE=true if that is meant"
        );
    }
    let listener = TcpListener::bind(&*found)
        .await
        .with_context(|| format!("the storage port {address} cannot be opened"))?;
    Ok(Listener {
        name: listener.local_addr()?.to_string(),
        socket: Socket::Tcp(listener, tls.map(Tls)),
        access,
        _file: None,
    })
}
