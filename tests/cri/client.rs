//! A client of gRPC over a socket of the host, for calls of one question and one answer. Source: gRPC over HTTP2, of the
//! gRPC project.

use std::path::Path;
use std::time::Duration;

use h2::client::SendRequest;
use prost::Message;
use prost::bytes::{Buf, BufMut, Bytes, BytesMut};
use tokio::runtime::Runtime;

const LIMIT: Duration = Duration::from_secs(60);

/// A connection to a server.
pub(crate) struct Client {
    runtime: Runtime,
    requests: SendRequest<Bytes>,
}

impl Client {
    /// Connects to the server on this socket.
    pub(crate) fn connect(socket: &Path) -> Client {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
        let requests = runtime.block_on(async {
            let stream = tokio::net::UnixStream::connect(socket).await.unwrap();
            let (requests, connection) = h2::client::handshake(stream).await.unwrap();
            tokio::spawn(connection);
            requests
        });
        Client { runtime, requests }
    }

    /// Calls a method, such as `Version`, of the service of containers; the error is the server's sentence.
    pub(crate) fn call<A: Message + Default>(&self, method: &str, question: &impl Message) -> Result<A, String> {
        // Not compressed, the length, and then the message itself.
        let mut body = BytesMut::new();
        body.put_u8(0);
        body.put_u32(u32::try_from(question.encoded_len()).unwrap());
        question.encode(&mut body).unwrap();
        let answer = self.runtime.block_on(async {
            let ask = self.ask(method, body.freeze());
            tokio::time::timeout(LIMIT, ask).await.map_err(|_| format!("{method} hangs"))?
        })?;
        Ok(A::decode(answer).unwrap())
    }

    async fn ask(&self, method: &str, body: Bytes) -> Result<Bytes, String> {
        let broken = |error: h2::Error| format!("{method}: {error}");
        let request = http::Request::post(format!("http://localhost/runtime.v1.RuntimeService/{method}"))
            .header("content-type", "application/grpc")
            .header("te", "trailers")
            .body(())
            .unwrap();
        let mut requests = self.requests.clone().ready().await.map_err(broken)?;
        let (response, mut stream) = requests.send_request(request, false).map_err(broken)?;
        stream.send_data(body, true).map_err(broken)?;
        let (head, mut body) = response.await.map_err(broken)?.into_parts();
        let mut answer = BytesMut::new();
        while let Some(part) = body.data().await {
            let part = part.map_err(broken)?;
            body.flow_control().release_capacity(part.len()).map_err(broken)?;
            answer.extend_from_slice(&part);
        }
        // Where there is nothing to answer but an error, the trailers come as the head.
        let trailers = body.trailers().await.map_err(broken)?.unwrap_or(head.headers);
        let text = |name: &str| trailers.get(name).and_then(|value| value.to_str().ok()).unwrap_or_default();
        if text("grpc-status") != "0" {
            return Err(format!("{method}: {}", text("grpc-message")));
        }
        answer.advance(5.min(answer.len()));
        Ok(answer.freeze())
    }
}
