//! Bytes sent as they are, as messages of a call or as its whole body.

use std::time::Duration;

use bytes::{Buf as _, BufMut as _, Bytes};
use http_body_util::{BodyExt as _, Full};
use tonic::body::Body;
use tonic::codec::{Codec, DecodeBuf, Decoder, EncodeBuf, Encoder};
use tonic::codegen::Service as _;
use tonic::service::Routes;
use tonic::{Request, Status};

/// Responses that are read of a call, at most.
const RESPONSES_MAX: usize = 32;

/// What came back.
#[derive(Default)]
pub(super) struct Answer {
    pub(super) responses: Vec<Bytes>,
    /// None: it went well, or not all was read.
    pub(super) status: Option<Status>,
}

/// Sends the bytes of messages.
pub(super) async fn send(routes: &Routes, path: &str, requests: Vec<Bytes>, patience: Duration) -> Answer {
    let mut grpc = tonic::client::Grpc::new(routes.clone());
    let mut request = Request::new(tokio_stream::iter(requests));
    request.set_timeout(patience);
    let path = path.parse().expect("it is a path");
    let mut answer = Answer::default();
    grpc.ready().await.expect("there is always room to ask");
    match grpc.streaming(request, path, Raw).await {
        Ok(response) => {
            let mut stream = response.into_inner();
            while answer.responses.len() < RESPONSES_MAX {
                match stream.message().await {
                    Ok(Some(response)) => answer.responses.push(response),
                    Ok(None) => break,
                    Err(status) => {
                        answer.status = Some(status);
                        break;
                    }
                }
            }
        }
        Err(status) => answer.status = Some(status),
    }
    answer
}

/// Sends bytes as a body.
pub(super) async fn send_frames(routes: &Routes, path: &str, body: Bytes, patience: Duration) -> Answer {
    let request = http::Request::post(path)
        .header("content-type", "application/grpc")
        .header("te", "trailers")
        .header("grpc-timeout", format!("{}m", patience.as_millis()))
        .body(Body::new(Full::new(body)))
        .expect("the request is good");
    let response = routes.clone().call(request).await.expect("routes answer");
    let (head, body) = response.into_parts();
    let collected = body.collect().await.expect("the body ends");
    let trailers = collected.trailers().unwrap_or(&head.headers);
    let status = Status::from_header_map(trailers).expect("every answer has a status");
    Answer {
        responses: Vec::new(),
        status: Some(status),
    }
}

#[derive(Clone, Copy, Debug)]
struct Raw;

impl Codec for Raw {
    type Encode = Bytes;
    type Decode = Bytes;
    type Encoder = Self;
    type Decoder = Self;

    fn encoder(&mut self) -> Self {
        Self
    }

    fn decoder(&mut self) -> Self {
        Self
    }
}

impl Encoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn encode(&mut self, item: Bytes, buffer: &mut EncodeBuf<'_>) -> Result<(), Status> {
        buffer.put(item);
        Ok(())
    }
}

impl Decoder for Raw {
    type Item = Bytes;
    type Error = Status;

    fn decode(&mut self, buffer: &mut DecodeBuf<'_>) -> Result<Option<Bytes>, Status> {
        Ok(Some(buffer.copy_to_bytes(buffer.remaining())))
    }
}
