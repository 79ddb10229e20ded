//! A peer that asks and does not take what it is answered: its window is that of the protocol, and stays shut.

use tokio::net::TcpStream;
use tokio::task::JoinHandle;

/// As long as it is there, it keeps its connection.
pub(crate) struct Idler {
    _client: h2::client::SendRequest<bytes::Bytes>,
    _answers: Vec<h2::client::ResponseFuture>,
    _requests: Vec<h2::SendStream<bytes::Bytes>>,
    connection: JoinHandle<()>,
}

impl Idler {
    /// Calls the method at `path` once with each message.
    pub(crate) async fn ask(address: &str, path: &str, messages: &[Vec<u8>]) -> Self {
        Self::call(address, path, messages, true).await
    }

    /// Opens a stream of the method at `path` with each message, as if more were to come.
    #[allow(dead_code, reason = "not every test has streams of requests")]
    pub(crate) async fn open(address: &str, path: &str, messages: &[Vec<u8>]) -> Self {
        Self::call(address, path, messages, false).await
    }

    async fn call(address: &str, path: &str, messages: &[Vec<u8>], is_all: bool) -> Self {
        let stream = TcpStream::connect(address).await.expect("it connects");
        let (mut client, connection) = h2::client::handshake(stream).await.expect("it speaks HTTP/2");
        let connection = tokio::spawn(async move { drop(connection.await) });
        let (mut answers, mut requests) = (Vec::new(), Vec::new());
        for message in messages {
            let request = http::Request::post(format!("http://{address}{path}"))
                .header("content-type", "application/grpc")
                .header("te", "trailers")
                .body(())
                .expect("it is a request");
            client = client.ready().await.expect("it may ask");
            let (answer, mut body) = client.send_request(request, false).expect("it is sent");
            let mut framed = vec![0];
            framed.extend(u32::try_from(message.len()).expect("it is short").to_be_bytes());
            framed.extend(message);
            body.send_data(framed.into(), is_all).expect("it is sent");
            answers.push(answer);
            requests.push(body);
        }
        Self {
            _client: client,
            _answers: answers,
            _requests: requests,
            connection,
        }
    }

    pub(crate) fn leave(self) {
        self.connection.abort();
    }
}
