//! Discover responses on the wire: gRPC messages, made from the lists a piece at a time.
//!
//! By way of generated `Device`s, or of tonic's encoder, each stream would hold whole messages of up to 4 MiB for its life.
//! A few of them are more than the 24 Mi that Akri's chart grants (rule 17), and an out-of-memory kill withdraws every
//! device (rule 1). This way a stream holds one piece, and the list that all equal streams share.

use std::{
    convert::Infallible,
    pin::Pin,
    sync::{Arc, Mutex, PoisonError},
    task::{Context, Poll, ready},
};

use akri_http_proto::v0::discovery_handler_server::DiscoveryHandlerServer;
use bytes::{BufMut, Bytes, BytesMut};
use futures_util::Stream;
use http_body::Frame;
use tonic::{
    Status,
    body::Body,
    codegen::{
        BoxFuture, Service,
        http::{HeaderMap, HeaderValue, Request, Response},
    },
};

use crate::{device_endpoint::MAX_ENDPOINT_BYTES, devices::DeviceList, discover::Discovery};

/// How much of a message is made at a time, in bytes; one device more at most.
const PIECE: usize = 64 * 1024;

/// What one stream sends, in its order.
pub type ListStream = Pin<Box<dyn Stream<Item = Arc<DeviceList>> + Send>>;

/// Carries the lists from the answer of [`Discovery`] to the body of the response.
#[derive(Clone)]
pub struct Answer(Arc<Mutex<Option<ListStream>>>);

impl Answer {
    /// To be put into the extensions of the response.
    pub fn new(lists: ListStream) -> Self {
        Self(Arc::new(Mutex::new(Some(lists))))
    }

    fn take(&self) -> Option<ListStream> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner).take()
    }
}

/// The generated service, with the bodies of its good answers made here.
#[derive(Clone)]
pub struct DiscoverService(pub DiscoveryHandlerServer<Discovery>);

impl Service<Request<Body>> for DiscoverService {
    type Response = Response<Body>;
    type Error = Infallible;
    type Future = BoxFuture<Self::Response, Self::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), Infallible>> {
        Service::<Request<Body>>::poll_ready(&mut self.0, cx)
    }

    fn call(&mut self, request: Request<Body>) -> Self::Future {
        let response = self.0.call(request);
        Box::pin(async {
            let mut response = response.await?;
            let answer = response.extensions_mut().remove::<Answer>();
            if let Some(lists) = answer.and_then(|answer| answer.take()) {
                *response.body_mut() = Body::new(ListBody {
                    lists: Some(lists),
                    sending: None,
                });
            }
            Ok(response)
        })
    }
}

struct ListBody {
    /// None once they have ended.
    lists: Option<ListStream>,
    /// The list that is on its way, and how much of it has gone.
    sending: Option<(Arc<DeviceList>, usize)>,
}

impl http_body::Body for ListBody {
    type Data = Bytes;
    type Error = Status;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        cx: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Status>>> {
        if let Some((list, gone)) = self.sending.take() {
            let (piece, gone) = piece(&list, gone, BytesMut::new());
            self.sending = gone.map(|gone| (list, gone));
            return Poll::Ready(Some(Ok(Frame::data(piece))));
        }
        let Some(lists) = &mut self.lists else {
            return Poll::Ready(None);
        };
        let frame = match ready!(lists.as_mut().poll_next(cx)) {
            Some(list) => {
                let mut prefix = BytesMut::new();
                // Not compressed, and the message's length, which is far below 4 GiB.
                prefix.put_u8(0);
                prefix.put_u32(list.encoded_len() as u32);
                let (piece, gone) = piece(&list, 0, prefix);
                self.sending = gone.map(|gone| (list, gone));
                Frame::data(piece)
            }
            None => {
                self.lists = None;
                let ok = HeaderValue::from_static("0");
                Frame::trailers(HeaderMap::from_iter([(Status::GRPC_STATUS, ok)]))
            }
        };
        Poll::Ready(Some(Ok(frame)))
    }
}

/// What goes next behind what is in `piece` already, and how much has gone then, if not all.
fn piece(list: &DeviceList, gone: usize, mut piece: BytesMut) -> (Bytes, Option<usize>) {
    let rest = list.encoded_len().min(PIECE + 3 * MAX_ENDPOINT_BYTES);
    piece.reserve(rest);
    let gone = list.encode_part(gone, PIECE, &mut piece);
    (piece.freeze(), gone)
}
